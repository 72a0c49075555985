"""The multi-exit module: a transformer backbone with a classifier head after every layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .backbones import BackboneAdapter, PaperHeads, adapter_for, empty_backbone, not_finite
from .batch_layout import CONTEXT, ENTITY_POSITIONS, WINDOWS, BatchLayout, backbone_inputs
from .heads import ExitHead, LabelHead, label_heads, make_head
from .pooling import check_pooling, last_real_positions, mean_over_samples
from .tasks import Classes, TaskHeads, class_counts

# Alignment of torch's tensors in bytes.
_ALIGNMENT = 64
# The dense layer of a head, of one task or of several.
_DENSE = re.compile(r"heads\.(?:\w+\.)*dense\.weight$")
Pool = Callable[[Tensor], Tensor]
Head = Callable[[Tensor], Tensor]
Read = Callable[[Tensor, Tensor, BatchLayout], Tensor]
Embed = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
# Data type, shape and bytes of a weight.
RawWeight = tuple[str, tuple[int, ...], NDArray[np.uint8]]


class RebuiltModule(nn.Module):
    """A module that is copied and pickled as a recipe (constructor arguments) and weights."""

    def recipe(self) -> dict[str, Any]:
        """Return everything that `assemble_network` needs to rebuild the module, except weights."""
        raise NotImplementedError

    def __reduce__(
        self,
    ) -> tuple[Callable[..., RebuiltModule], tuple[dict[str, Any], dict[str, RawWeight]]]:
        # Configuration and raw weights instead of module objects: they can be loaded with another
        # version of transformers and without the training device, and each weight is stored once.
        weights = {name: _to_bytes(part) for name, part in self.state_dict().items()}
        return _unpickle_network, (self.recipe(), weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> RebuiltModule:
        copy = rebuild_network(self.recipe(), self.state_dict())
        memo[id(self)] = copy
        return copy.train(self.training)


class MultiExitNetwork(RebuiltModule):
    """A backbone of M layers and M exit heads.

    Parameters
    ----------
    backbone : PreTrainedModel
        Base model of a known family, without heads.
    n_classes : int, tuple of int or LabelCount
        Number of classes K; a tuple for several tasks, whose logits are concatenated; or the number
        of labels, each a task with the classes 0 and 1.
    pooling : {"cls", "mean", "cls+mean", "last", "attention", "entity"}
        How the hidden states (n, t, d) are pooled for a head.
    dropout : float
        Dropout probability of the heads.
    has_dense : bool or None, default=None
        Whether heads start with a dense layer + tanh; None: if the family does not end in a norm.
    context_size : int, default=0
        Width of the additional input of the heads: the `context` of a batch's layout.
    head : {"linear", "bottleneck", "attention"}, default="linear"
        The `kind` of the heads. With "attention", heads that read all positions of a layer read its
        own; the others read those of the layer below.

    Attributes
    ----------
    backbone : PreTrainedModel
    heads : nn.ModuleList of ExitHead, of TaskHeads or of LabelHead
    n_features : int
        Width of the pooled state of a layer.
    adapter : BackboneAdapter
        Runs the backbone layer by layer.
    gradient_checkpointing : bool
        Whether `forward` only keeps the input of each layer; set during training.
    last_exit_only : bool
        Whether `forward` in training mode only runs the last head, (n, 1, K); set during training.
    detached_heads : bool
        Whether the backbone only learns from the last head; set during training.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        n_classes: Classes,
        pooling: str,
        dropout: float,
        has_dense: bool | None = None,
        *,
        context_size: int = 0,
        head: str = "linear",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_classes = n_classes
        self.class_counts = class_counts(n_classes)
        self.pooling = pooling
        self.dropout = dropout
        self.context_size = context_size
        self.head = head
        self.gradient_checkpointing = False
        self.last_exit_only = False
        self.detached_heads = False
        self._adapter = adapter_for(backbone)
        check_pooling(pooling, self._adapter)
        width = self._adapter.hidden_size
        # Pre-norm families end in a LayerNorm; heads of the others get a dense layer + tanh.
        if has_dense is None:
            has_dense = self._adapter.kind == "text" and not self._adapter.causal
        dense = width if has_dense else None
        self.n_features = 2 * width if pooling in ("cls+mean", "entity") else width
        self.heads = nn.ModuleList(self._make_head(dense) for _ in range(self.n_layers))
        self._initialize_heads()

    def _make_head(self, dense: int | None) -> nn.Module:
        attends = self.pooling == "attention"
        options: Any = {
            "context_size": self.context_size,
            "kind": self.head,
            "hidden_size": self._adapter.hidden_size,
        }
        return make_head(self.n_classes, self.n_features, dense, self.dropout, attends, **options)

    def _initialize_heads(self) -> None:
        scale = getattr(self.backbone.config, "initializer_range", None) or 0.02
        for module in self.heads.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=scale)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def adapter(self) -> BackboneAdapter:
        """The adapter of this network's own backbone."""
        return self._adapter

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self._adapter.n_layers

    @property
    def n_columns(self) -> int:
        """Number of logits of an exit: the classes of all tasks."""
        return sum(self.class_counts)

    @property
    def n_rows_read(self) -> int:
        """Number of rows of a layer that its head reads; 0 if it reads all of them."""
        if self.pooling in ("mean", "attention"):
            return 0
        return 2 if self.pooling == "entity" else 1

    def embed(
        self, batch: Mapping[str, Tensor], embed: Embed | None = None
    ) -> tuple[Tensor, BatchLayout]:
        """Return the input of the first layer for a batch, and the layout of the batch.

        Parameters
        ----------
        batch : dict of str to Tensor
            Inputs of the backbone; with pooling ``"entity"`` also ``"entity_positions"``, (n, 2).
        embed : callable, default=None
            Embeds the batch; None: `embed` of the adapter.

        Returns
        -------
        hidden : Tensor of shape (n, t, d)
        layout : BatchLayout
        """
        hidden, mask = (embed or self._adapter.embed)(backbone_inputs(batch))
        windows = batch[WINDOWS].cpu().numpy() if WINDOWS in batch else None
        read = self._positions_read(batch, mask)
        return hidden, BatchLayout(mask, read, windows, batch.get(CONTEXT))

    def _positions_read(self, batch: Mapping[str, Tensor], mask: Tensor) -> Tensor | None:
        """Return the positions that the heads read of each sample, (n, r); None for all."""
        if not self.n_rows_read:
            return None
        if self.pooling == "entity":
            return batch[ENTITY_POSITIONS]
        if self.pooling == "last":
            return last_real_positions(mask).unsqueeze(1)
        return torch.zeros((len(mask), 1), dtype=torch.long, device=mask.device)

    def exit_logits(
        self,
        layer: int,
        hidden: Tensor,
        below: Tensor,
        layout: BatchLayout,
        pool: Pool | None = None,
    ) -> Tensor:
        """Return the logits of one exit.

        Parameters
        ----------
        layer : int
            Layer, counted from 1.
        hidden : Tensor of shape (n, t, d)
            Output of the layer.
        below : Tensor of shape (n, t, d)
            Output of the layer below; only used with pooling ``"cls+mean"`` and by heads with
            attention.
        layout : BatchLayout
        pool : callable, default=None
            Prepares hidden states for a head; None: `pool` of the adapter.

        Returns
        -------
        Tensor of shape (n, K), float32
        """
        return self.classify(layer, self.pooled(layer, hidden, below, layout, pool), layout)

    def pooled(  # noqa: PLR0917
        self,
        layer: int,
        hidden: Tensor,
        below: Tensor,
        layout: BatchLayout,
        pool: Pool | None = None,
        read: Read | None = None,
    ) -> Tensor:
        """Return the pooled state of a layer for its head.

        Parameters
        ----------
        layer, hidden, below, layout, pool
            As in `exit_logits`.
        read : callable, default=None
            Equivalent replacement of the head's `read_positions`; None: the method itself.

        Returns
        -------
        Tensor of shape (n, n_features) or, if each task pools separately, (n, T, n_features)
        """
        if self.n_rows_read:
            return self.pooled_rows(layer, layout.rows_read(hidden), below, layout, pool, read)
        ready = (pool or self._adapter.pool)(hidden)
        if self.pooling == "attention":
            head = cast("ExitHead | TaskHeads | LabelHead", self.heads[layer - 1])
            pooled = head.attend(ready, layout)
        else:
            pooled = mean_over_samples(ready, layout)
        return self._with_positions_read(layer, pooled, ready, layout, read)

    def pooled_rows(  # noqa: PLR0917
        self,
        layer: int,
        rows: Tensor,
        below: Tensor,
        layout: BatchLayout,
        pool: Pool | None = None,
        read: Read | None = None,
    ) -> Tensor:
        """Return the pooled state for a head, given only the positions that it reads.

        Parameters
        ----------
        layer : int
            Layer, counted from 1.
        rows : Tensor of shape (n, r, d)
            Output of the layer at these positions.
        below : Tensor of shape (n, t, d)
            Output of the layer below; only used with pooling ``"cls+mean"`` and by heads with
            attention.
        layout : BatchLayout
        pool : callable, default=None
            Prepares hidden states for a head; None: `pool` of the adapter.
        read : callable, default=None
            See `pooled`.

        Returns
        -------
        Tensor of shape (n, n_features)
        """
        pool = pool or self._adapter.pool
        pooled = layout.averaged(pool(rows).flatten(1))
        if self.pooling != "cls+mean" and self.head != "attention":
            return pooled
        ready = pool(below)
        if self.pooling == "cls+mean":
            pooled = torch.cat([pooled, mean_over_samples(ready, layout).to(pooled)], dim=1)
        return self._with_positions_read(layer, pooled, ready, layout, read)

    def _with_positions_read(
        self,
        layer: int,
        pooled: Tensor,
        ready: Tensor,
        layout: BatchLayout,
        read: Read | None,
    ) -> Tensor:
        """Return the pooled state after the attention of the layer's head, if it has one."""
        if self.head != "attention":
            return pooled
        head = cast("ExitHead | TaskHeads | LabelHead", self.heads[layer - 1])
        with without_autocast(pooled.device.type):
            return (read or head.read_positions)(pooled, ready, layout)

    def classify(
        self, layer: int, pooled: Tensor, layout: BatchLayout, head: Head | None = None
    ) -> Tensor:
        """Return the logits of one exit, (n, K) float32, from the pooled state of its layer.

        Parameters
        ----------
        layer : int
            Layer, counted from 1.
        pooled : Tensor
            As `pooled` returns it.
        layout : BatchLayout
        head : callable, default=None
            Equivalent replacement of the layer's head; None: the head itself.
        """
        if layout.context is not None:
            pooled = pooled.float()
            context = layout.context if pooled.ndim == 2 else layout.context.unsqueeze(1)
            pooled = torch.cat([pooled, context.expand(*pooled.shape[:-1], -1)], dim=-1)
        return self._classify(layer, pooled, head)

    def _classify(self, layer: int, pooled: Tensor, head: Head | None = None) -> Tensor:
        with without_autocast(pooled.device.type):
            return (head or self.heads[layer - 1])(pooled.float())

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the logits of all exits, (n, M, K) float32, with gradients."""
        logits = [self.classify(*read) for read in self.layers_read(batch)]
        return torch.stack(logits, dim=1)

    def layers_read(self, batch: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor, BatchLayout]]:
        """Yield number, pooled state and layout of every layer, with gradients, for training.

        Parameters
        ----------
        batch : dict of str to Tensor
            As `embed` takes it.

        Yields
        ------
        tuple
            Arguments of `classify`, for every layer whose head runs.
        """
        hidden, layout = self.embed(batch)
        first = self.n_layers if self.last_exit_only and self.training else 1
        for layer in range(1, self.n_layers + 1):
            below, hidden = hidden, self._run_layer(layer, hidden, layout.mask)
            if layer >= first:
                pool = self._pool_for_training(layer)
                yield layer, self.pooled(layer, hidden, below, layout, pool), layout

    def _pool_for_training(self, layer: int) -> Pool:
        if self.detached_heads and layer < self.n_layers:
            # Detached after the pooling, which may include a norm of the backbone.
            return lambda hidden: self._adapter.pool(hidden).detach()
        return self._adapter.pool

    def _run_layer(self, layer: int, hidden: Tensor, mask: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return self._adapter.layer(layer, hidden, mask)
        # Only the input of the layer is kept; the backward pass runs the layer again, with the same
        # dropout.
        above: Tensor = checkpoint(self._adapter.layer, layer, hidden, mask, use_reentrant=False)
        return above

    @torch.no_grad()
    def set_heads(self, heads: PaperHeads, order: NDArray[np.intp]) -> None:
        """Copy the weights of other heads, of one task, to the heads of this network.

        Parameters
        ----------
        heads : PaperHeads
            With a pooler if the heads of this network have a dense layer; each gets a copy of it.
        order : ndarray of shape (K,)
            Indices of their classes, in the order of this network's classes.
        """
        rows = torch.from_numpy(order)
        for head, weight, bias in zip(self.heads, heads.weights, heads.biases, strict=True):
            head.get_parameter("out.weight").copy_(weight[rows])
            head.get_parameter("out.bias").copy_(bias[rows])
            if heads.pooler is not None:
                for name, part in zip(("weight", "bias"), heads.pooler, strict=True):
                    head.get_parameter(f"dense.{name}").copy_(part)

    @torch.no_grad()
    def map_logits(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """Map the logits z of every exit to ``matrix @ z + shift``, by changing the heads' weights.

        Parameters
        ----------
        matrix : ndarray of shape (M, K, K)
            With several labels, z has one logit per label.
        shift : ndarray of shape (M, K)
        """
        if len(self.class_counts) > 1 and not label_heads(self):
            raise ValueError("The logits of several tasks cannot be mapped together.")
        device = next(self.heads.parameters()).device
        matrices, shifts = (torch.as_tensor(part, device=device) for part in (matrix, shift))
        heads = [head.head if isinstance(head, LabelHead) else head for head in self.heads]
        for head, linear, constant in zip(heads, matrices, shifts, strict=True):
            weight, bias = (head.get_parameter(f"out.{name}") for name in ("weight", "bias"))
            weight.copy_(linear @ weight.double())
            bias.copy_(linear @ bias.double() + constant)

    def to_inference_copy(self, device: torch.device, dtype: torch.dtype) -> MultiExitNetwork:
        """Return a copy in evaluation mode on a device, with the backbone in ``dtype``.

        Heads stay in float32. If nothing has to be changed, the network itself is returned.
        """
        weight = next(self.parameters())
        self._check_finite()
        if weight.device == device and weight.dtype == dtype and not self.training:
            return self
        copy = rebuild_network(self.recipe(), self.state_dict()).to(device)
        # Through the base class: transformers wraps the method and hides its signature.
        exact = {name: part for name, part in copy.backbone.named_buffers() if "inv_freq" in name}
        nn.Module.to(copy.backbone, dtype=dtype)
        for name, part in exact.items():
            # Keep the frequencies of rotary positions in float32: rounding them would give wrong
            # angles at high positions.
            module, _, buffer = name.rpartition(".")
            setattr(copy.backbone.get_submodule(module), buffer, part)
        return copy.eval()

    def learned(
        self, learning_rate: float, head_learning_rate: float
    ) -> list[tuple[Iterator[tuple[str, nn.Parameter]], float]]:
        """Return the named parameters of backbone and heads, each with its learning rate."""
        return [
            (self.backbone.named_parameters(), learning_rate),
            (self.heads.named_parameters(), head_learning_rate),
        ]

    def _check_finite(self) -> None:
        if spoilt := not_finite(self.state_dict()):
            raise ValueError(
                "This network cannot predict: weights are NaN or infinite in "
                f"{', '.join(sorted(spoilt)[:4])}{' and others' if len(spoilt) > 4 else ''}. "
                "Fit it again, or set finite weights."
            )

    def recipe(self) -> dict[str, Any]:
        """Return everything that `assemble_network` needs to rebuild it, except the weights."""
        config = self.backbone.config.to_dict()
        # The folder of the checkpoint is not part of the network.
        config.pop("_name_or_path", None)
        recipe = {
            "config": config,
            "n_classes": self.n_classes,
            "pooling": self.pooling,
            "dropout": self.dropout,
            "context_size": self.context_size,
            "head": self.head,
        }
        # Subclasses are rebuilt by their own `from_recipe`.
        return recipe if type(self) is MultiExitNetwork else recipe | {"network": type(self)}

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any], names: Collection[str]) -> MultiExitNetwork:
        """Return a network without weights, to be loaded later.

        Parameters
        ----------
        recipe : dict
        names : collection of str
            Names of the weights that will be loaded.
        """
        backbone = empty_backbone(config_from_dict(recipe["config"]))
        # On the meta device, heads are not initialized, which would change the caller's random
        # state.
        with torch.device("meta"):
            has_dense = any(_DENSE.match(name) for name in names)
            return cls(
                backbone,
                recipe["n_classes"],
                recipe["pooling"],
                recipe["dropout"],
                has_dense,
                # Older recipes have no "head", and token classification heads have no context.
                **{name: recipe[name] for name in ("context_size", "head") if recipe.get(name)},
            )


def rebuild_network(recipe: dict[str, Any], weights: dict[str, Tensor]) -> MultiExitNetwork:
    """Return a network made from its recipe and copies of weights, in evaluation mode."""
    return assemble_network(recipe, {name: part.clone() for name, part in weights.items()})


def assemble_network(recipe: dict[str, Any], weights: dict[str, Tensor]) -> MultiExitNetwork:
    """Create a network that uses given tensors as its weights.

    Parameters
    ----------
    recipe : dict
        As `MultiExitNetwork.recipe` returns it.
    weights : dict of str to Tensor
        A state dict.

    Returns
    -------
    MultiExitNetwork
        In evaluation mode, on the device of the weights.
    """
    cls: type[MultiExitNetwork] = recipe.get("network", MultiExitNetwork)
    network = cls.from_recipe(recipe, weights)
    network.load_state_dict(weights, assign=True)
    # Buffers that are not in the state dict are on the CPU.
    return network.to(next(iter(weights.values())).device).eval()


def _to_bytes(weight: Tensor) -> RawWeight:
    """Return a weight as data type, shape and bytes, which pickle writes without a copy."""
    content = raw_bytes(weight.detach().cpu().contiguous())
    return str(weight.dtype).removeprefix("torch."), tuple(weight.shape), content


def _from_bytes(dtype: str, shape: tuple[int, ...], content: NDArray[np.uint8]) -> Tensor:
    # joblib maps files into the memory read-only, also for its own workers, of which torch warns;
    # and the order of summation in a product can depend on the alignment of its weights.
    if content.flags.writeable and content.ctypes.data % _ALIGNMENT == 0:
        raw = torch.from_numpy(content)
    else:
        raw = torch.empty(content.size, dtype=torch.uint8)
        np.copyto(raw_bytes(raw), content)
    return raw.view(getattr(torch, dtype)).view(shape)


def aligned_copy(weight: Tensor) -> Tensor:
    """Return a copy of a CPU tensor with the alignment of torch's own tensors.

    The copy is made by NumPy: torch would start its thread pool, for which a process that is forked
    later would wait forever.
    """
    copy = torch.empty(weight.shape, dtype=weight.dtype)
    np.copyto(raw_bytes(copy), raw_bytes(weight))
    return copy


def raw_bytes(weight: Tensor) -> NDArray[np.uint8]:
    """Return the bytes of a contiguous CPU tensor, without a copy."""
    flat: NDArray[np.uint8] = weight.detach().reshape(-1).view(torch.uint8).numpy()
    return flat


def _unpickle_network(recipe: dict[str, Any], weights: dict[str, RawWeight]) -> MultiExitNetwork:
    return assemble_network(recipe, {name: _from_bytes(*part) for name, part in weights.items()})


def config_from_dict(values: dict[str, Any]) -> PretrainedConfig:
    """Return a transformers configuration from its dictionary."""
    return CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))


def parameter_groups(
    network: MultiExitNetwork, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return parameter groups for AdamW: separate learning rates, no decay of biases and norms."""
    groups = []
    for parameters, rate in network.learned(learning_rate, head_learning_rate):
        decayed, plain = _split_by_decay(parameters)
        groups.append({"params": decayed, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": plain, "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _split_by_decay(
    parameters: Iterator[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in parameters:
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    return decayed, plain


def without_autocast(device_type: str) -> Any:
    """Return a context in which operations keep the data types of their inputs."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
