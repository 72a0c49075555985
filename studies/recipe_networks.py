"""What a training can do differently: networks and callbacks that recipes of the study are made of.

The package has none of them; each takes one hook of it. What is measured with them, and what of it
pays, is in ``docs/training_recipes.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sklearn_epee import EPEEClassifier
from sklearn_epee._nn.batch_layout import BatchLayout
from sklearn_epee._nn.network import MultiExitNetwork

Learned = list[tuple[Iterator[tuple[str, nn.Parameter]], float]]


class RecipeClassifier(EPEEClassifier):
    """A text classifier whose network is of another class.

    Attributes
    ----------
    network_class : type of MultiExitNetwork
        Set after construction; a clone does not have it.
    """

    network_class: type[MultiExitNetwork] = MultiExitNetwork

    def _with_heads(self, backbone: Any, n_classes: Any, pooling: str) -> MultiExitNetwork:
        dropout = self._head_dropout()
        return self.network_class(backbone, n_classes, pooling, dropout, head=self.head)


# --------------------------------------------------------------------------- rates and gradients


def layer_of(name: str, n_layers: int) -> int:
    """Return the layer that a parameter of a text backbone belongs to.

    Parameters
    ----------
    name : str
        Such as ``"encoder.layer.0.output.dense.weight"``.
    n_layers : int

    Returns
    -------
    int
        From 1 to `n_layers`; 0 for the embeddings, `n_layers` for what follows the last layer.
    """
    if found := re.search(r"(?:^|\.)(?:layer|layers|h|block)\.(\d+)\.", name):
        return int(found[1]) + 1
    return 0 if "embed" in name else n_layers


class DecayedRatesNetwork(MultiExitNetwork):
    """A network whose layers learn the slower the lower they lie.

    The rate of layer m of M is that of the backbone times ``decay ** (M - m)``; embeddings are
    layer 0.

    References
    ----------
    Howard and Ruder, "Universal language model fine-tuning for text classification", arXiv
    1801.06146; as a power of the layer in Clark et al., "ELECTRA", arXiv 2003.10555.
    """

    decay: ClassVar[float] = 0.8

    def learned(self, learning_rate: float, head_learning_rate: float) -> Learned:
        """Return the named parameters of every layer and of the heads, with their rates."""
        n_layers = self.n_layers
        parts: Learned = []
        named = list(self.backbone.named_parameters())
        for layer in range(n_layers + 1):
            own = [pair for pair in named if layer_of(pair[0], n_layers) == layer]
            parts.append((iter(own), learning_rate * self.decay ** (n_layers - layer)))
        return [*parts, (self.heads.named_parameters(), head_learning_rate)]


class EquilibriumNetwork(MultiExitNetwork):
    """A network in which every layer gets the mean of the gradients of the exits above it.

    With M - m + 1 exits at or above layer m, what comes from its own exit is divided by their
    number, and what comes from above is scaled by the share of the others.

    References
    ----------
    Li et al., "Improved techniques for training adaptive deep networks", arXiv 1908.06294.
    """

    def layers_read(self, batch: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor, BatchLayout]]:
        """Yield layer, what its head reads of it and the layout; backwards in equilibrium."""
        hidden, layout = self.embed(batch)
        for layer in range(1, self.n_layers + 1):
            below, hidden = hidden, self._run_layer(layer, hidden, layout.mask)
            n_exits = self.n_layers - layer + 1
            read = with_scaled_gradient(hidden, 1 / n_exits)
            yield layer, self.pooled(layer, read, below, layout), layout
            hidden = with_scaled_gradient(hidden, 1 - 1 / n_exits)


def with_scaled_gradient(hidden: Tensor, scale: float) -> Tensor:
    """Return the same values, through which gradients go back multiplied by a number."""
    passed = hidden.view_as(hidden)
    if passed.requires_grad:
        passed.register_hook(lambda gradient: gradient * scale)
    return passed


# ---------------------------------------------------------------------------- low-rank adapters


class LowRankUpdate(nn.Module):
    """A weight plus a learned product of two thin matrices, which begins as zero.

    Parameters
    ----------
    weight : Tensor of shape (out_features, in_features)
    rank : int
    scale : float
        Of the product.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self.scale = scale
        self.thin = nn.Parameter(torch.randn(rank, n_in) / n_in**0.5)
        self.tall = nn.Parameter(torch.zeros(n_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the layer computes with."""
        return weight + self.scale * (self.tall @ self.thin)


class LowRankNetwork(MultiExitNetwork):
    """A network whose backbone learns low-rank updates of its layers' linear maps, and no more.

    `merge` makes a usual network of it again.

    References
    ----------
    Hu et al., "LoRA: low-rank adaptation of large language models", arXiv 2106.09685.
    """

    rank: ClassVar[int] = 16
    scale: ClassVar[float] = 2.0
    rate_factor: ClassVar[float] = 8.0

    def split(self) -> None:
        """Put an update on every linear map of the backbone, and let nothing else of it learn."""
        maps = [module for module in self.backbone.modules() if isinstance(module, nn.Linear)]
        self.backbone.requires_grad_(False)
        for module in maps:
            update = LowRankUpdate(module.weight, self.rank, self.scale)
            parametrize.register_parametrization(module, "weight", update)

    def merge(self) -> None:
        """Add the updates to the weights."""
        for module in list(self.backbone.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        self.backbone.requires_grad_(True)

    def learned(self, learning_rate: float, head_learning_rate: float) -> Learned:
        """Return the named parameters; updates learn faster than whole weights."""
        return super().learned(self.rate_factor * learning_rate, head_learning_rate)


class LowRankClassifier(RecipeClassifier):
    """A classifier that learns low-rank updates and predicts with merged weights."""

    def _with_heads(self, backbone: Any, n_classes: Any, pooling: str) -> MultiExitNetwork:
        dropout = self._head_dropout()
        network = LowRankNetwork(backbone, n_classes, pooling, dropout, head=self.head)
        network.split()
        return network


class MergeAtEnd(Callback):
    """Merge the low-rank updates of a `LowRankNetwork` once it is trained."""

    def on_train_end(self, net: Any, **_: Any) -> None:
        """Merge."""
        net.module_.merge()


# ------------------------------------------------------------------------------- other teachers


class TeacherTemperature(Callback):
    """Let the exits of a distilled training learn from the last one at another temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def on_train_begin(self, net: Any, **_: Any) -> None:
        """Set it."""
        net.criterion_.temperature = self.temperature


class LastExitForAWhile(Callback):
    """Train the last exit alone for a share of the steps, without a schedule of its own.

    Parameters
    ----------
    share : float
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def on_train_begin(self, net: Any, X: Any = None, **_: Any) -> None:
        """Count the steps."""
        plan = net.plan
        n_steps = plan.max_epochs * -(-len(X) // plan.batch_size)
        self.n_steps_ = int(self.share * n_steps)

    def on_batch_begin(self, net: Any, training: bool = False, **_: Any) -> None:
        """Choose which exits run."""
        if training:
            net.module_.last_exit_only = net.n_steps_ < self.n_steps_
