"""Two backbones in sequence, with exits after every layer of both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .backbones import not_finite
from .flops import head_work, layer_flops
from .network import MultiExitNetwork, RebuiltModule
from .pairs import FIRST, PRESENT, SECOND, inputs_of_tower
from .tasks import task_predictions

# Probability with which a context is left out in training, as if the first input were missing.
CONTEXT_DROPOUT = 0.1
# Prefixes of the names of the towers' weights.
_PREFIXES = ("first.", "second.")


def _of_both(name: str) -> Any:
    """Return a property that reads and writes an attribute of both towers."""

    def read(self: TwoTowerNetwork) -> Any:
        return getattr(self.second, name)

    def write(self: TwoTowerNetwork, value: Any) -> None:
        for tower in self.towers:
            setattr(tower, name, value)

    return property(read, write)


class TwoTowerNetwork(RebuiltModule):
    """Two towers in sequence; the heads of the second also read the last state of the first.

    A tower is a backbone with a head after every layer. The heads of the second tower have an
    additional input, the context: the pooled state of the last layer that the first tower ran, or a
    learned vector if the first input of a sample is missing. Exits are numbered through both
    towers: 1 to M1, M1 + 1 to M1 + M2.

    Parameters
    ----------
    first, second : MultiExitNetwork
        The second one has the context size `first.n_features`, and the same number of classes.
    hand_over_after : int or None, default=None
        A sample that did not exit moves to the second tower once this number of consecutive exits
        of the first predict the same classes (in all tasks); None: after the last one. The input of
        the second tower's heads depends on it, so it is part of the network, not of the exit
        policy.
    context_dropout : float, default=0.1
        Probability with which a context is replaced by the learned vector in training, so that this
        vector is trained without missing inputs, and the second tower does not only rely on the
        first.

    Attributes
    ----------
    first, second : MultiExitNetwork
    n_classes, class_counts
        The same for both towers.

    Notes
    -----
    With an early hand-over, the first tower stops when its predictions are stable, even if they are
    not certain. This saves layers of the first tower, but loses what they would have contributed.
    It is useful if the first tower is not much cheaper than the second.
    """

    gradient_checkpointing = _of_both("gradient_checkpointing")
    last_exit_only = _of_both("last_exit_only")
    detached_heads = _of_both("detached_heads")

    def __init__(
        self,
        first: MultiExitNetwork,
        second: MultiExitNetwork,
        hand_over_after: int | None = None,
        context_dropout: float = CONTEXT_DROPOUT,
    ) -> None:
        super().__init__()
        if second.context_size != first.n_features or second.class_counts != first.class_counts:
            raise ValueError(
                f"The second tower has the context size {second.context_size} and the classes "
                f"{second.class_counts}; expected {first.n_features} and {first.class_counts}, "
                "those of the first tower."
            )
        self.first = first
        self.second = second
        self.hand_over_after = hand_over_after
        self.context_dropout = context_dropout
        self.n_classes = first.n_classes
        self.class_counts = first.class_counts
        self.n_columns = first.n_columns
        # The states of different backbones have different scales.
        self.context_norm = nn.LayerNorm(first.n_features, dtype=torch.float32)
        self.no_context = nn.Parameter(torch.zeros(first.n_features, dtype=torch.float32))

    @property
    def towers(self) -> tuple[MultiExitNetwork, MultiExitNetwork]:
        """The first tower and the second."""
        return self.first, self.second

    @property
    def n_first_layers(self) -> int:
        """Number of layers M1 of the first tower."""
        return self.first.n_layers

    @property
    def n_layers(self) -> int:
        """Number of layers of both towers, M1 + M2."""
        return self.first.n_layers + self.second.n_layers

    @property
    def pooling(self) -> tuple[str, str]:
        """The pooling of the heads of each tower."""
        return self.first.pooling, self.second.pooling

    @property
    def head(self) -> str:
        """The kind of the heads of both towers."""
        return self.second.head

    @property
    def hands_over_early(self) -> bool:
        """Whether samples can be handed over before the last layer of the first tower."""
        return self.hand_over_after is not None and self.hand_over_after < self.first.n_layers

    def contexts(self, states: Tensor) -> Tensor:
        """Return the contexts for the second tower from states of the first, (n, c) float32."""
        return self.context_norm(states.float())

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the logits of all exits, (n, M1 + M2, K) float32, with gradients.

        Exits that a sample does not have get no gradients: without the first input, their logits
        are 0; without the second, they repeat those of the last exit of the first tower. If only
        the last exit is trained, (n, 1, K) are the logits of the last exit that each sample has.
        """
        firsts, seconds = (present.nonzero().squeeze(1) for present in batch[PRESENT].unbind(1))
        n = len(batch[PRESENT])
        contexts = self.no_context.expand(n, -1)
        only_last = self.training and self.last_exit_only
        early = contexts.new_zeros(n, 1 if only_last else self.first.n_layers, self.n_columns)
        if len(firsts):
            logits, states = self._run_first(inputs_of_tower(batch, FIRST, firsts))
            early = early.index_copy(0, firsts, logits)
            contexts = contexts.index_copy(0, firsts, self.contexts(states))
        late = early[:, -1:]
        if not only_last:
            late = late.detach().expand(-1, self.second.n_layers, -1)
        if len(seconds):
            context = self._some_left_out(contexts)[seconds]
            logits = self.second(**inputs_of_tower(batch, SECOND, seconds), context=context)
            late = late.index_copy(0, seconds, logits)
        return late if only_last else torch.cat([early, late], dim=1)

    def _run_first(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of the first tower's exits, and the last state of each sample."""
        every_logits, states = [], []
        for layer, pooled, layout in self.first.layers_read(batch):
            every_logits.append(self.first.classify(layer, pooled, layout))
            states.append(state_of(pooled))
        logits = torch.stack(every_logits, dim=1)
        if not self.hands_over_early or len(states) == 1:
            return logits, states[-1]
        ends = hand_over_layers(logits, self.class_counts, self.hand_over_after or 0) - 1
        return logits, torch.stack(states, dim=1)[torch.arange(len(ends)), ends]

    def _some_left_out(self, contexts: Tensor) -> Tensor:
        if not (self.training and self.context_dropout):
            return contexts
        kept = torch.rand(len(contexts), 1, device=contexts.device) >= self.context_dropout
        return torch.where(kept, contexts, self.no_context)

    def learned(
        self, learning_rate: float | tuple[float, float], head_learning_rate: float
    ) -> list[tuple[Iterator[tuple[str, nn.Parameter]], float]]:
        """Return the named parameters of backbones and heads, each with its learning rate.

        `learning_rate` is one number for both backbones, or a pair.
        """
        rates = learning_rate if isinstance(learning_rate, tuple) else (learning_rate,) * 2
        parts = []
        for tower, rate in zip(self.towers, rates, strict=True):
            parts += tower.learned(rate, head_learning_rate)
        between = [*self.context_norm.named_parameters(), ("no_context", self.no_context)]
        return [*parts, (iter(between), head_learning_rate)]

    def map_logits(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """Map the logits z of every exit to ``matrix @ z + shift``, by changing the heads' weights.

        Parameters
        ----------
        matrix : ndarray of shape (M1 + M2, K, K)
        shift : ndarray of shape (M1 + M2, K)
        """
        border = self.first.n_layers
        self.first.map_logits(matrix[:border], shift[:border])
        self.second.map_logits(matrix[border:], shift[border:])

    def exit_costs(
        self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
    ) -> NDArray[np.float64]:
        """Return the cost of each exit for a sample with both inputs, as a share of full depth.

        Parameters
        ----------
        first, second : dict of str to Tensor
            Inputs of each backbone for a sample of typical size.

        Returns
        -------
        ndarray of shape (M1 + M2,), float64
            Floating point operations up to and including each exit, with embeddings and all heads
            up to it; the last value is 1.
        """
        parts = []
        for tower, batch in zip(self.towers, (first, second), strict=True):
            embedding, *layers = layer_flops(tower.adapter, batch).tolist()
            heads = [head_work(head) for head in tower.heads]
            steps = np.add(layers, heads)
            steps[0] += embedding
            parts.append(steps)
        total = np.concatenate(parts).cumsum()
        costs: NDArray[np.float64] = total / total[-1]
        return costs

    def to_inference_copy(self, device: torch.device, dtype: torch.dtype) -> TwoTowerNetwork:
        """Return a copy in evaluation mode on a device, with the backbones in ``dtype``.

        Everything else stays in float32. Parts that need no change are shared with this network.
        """
        own = {name: part for name, part in self.state_dict().items() if not _in_a_tower(name)}
        if spoilt := not_finite(own):
            raise ValueError(
                "This network cannot predict: weights are NaN or infinite in "
                f"{', '.join(sorted(spoilt))}. Fit it again, or set finite weights."
            )
        first, second = (tower.to_inference_copy(device, dtype) for tower in self.towers)
        placed = self.no_context.device == device and not self.training
        if placed and (first, second) == self.towers:
            return self
        copy = TwoTowerNetwork(first, second, self.hand_over_after, self.context_dropout)
        copy.load_state_dict(own, strict=False)
        return copy.to(device).eval()

    def recipe(self) -> dict[str, Any]:
        """Return everything that `assemble_network` needs to rebuild it, except the weights."""
        return {
            "network": type(self),
            "towers": [tower.recipe() for tower in self.towers],
            "hand_over_after": self.hand_over_after,
            "context_dropout": self.context_dropout,
        }

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any], names: Collection[str]) -> TwoTowerNetwork:
        """Return a network without weights, to be loaded later.

        Parameters
        ----------
        recipe : dict
        names : collection of str
            Names of the weights that will be loaded.
        """
        towers = [
            _tower_from(part, prefix, names)
            for part, prefix in zip(recipe["towers"], _PREFIXES, strict=True)
        ]
        with torch.device("meta"):
            return cls(towers[0], towers[1], recipe["hand_over_after"], recipe["context_dropout"])


def join_towers(
    first: MultiExitNetwork, second: MultiExitNetwork, context_dropout: float
) -> TwoTowerNetwork:
    """Join two networks to one; the second gets new heads with the context of the first.

    Parameters
    ----------
    first, second : MultiExitNetwork
        In the order in which they run.
    context_dropout : float
    """
    with_context = MultiExitNetwork(
        second.backbone,
        second.n_classes,
        second.pooling,
        second.dropout,
        has_dense=True,
        context_size=first.n_features,
        head=second.head,
    )
    return TwoTowerNetwork(first, with_context, context_dropout=context_dropout)


def _tower_from(recipe: dict[str, Any], prefix: str, names: Collection[str]) -> MultiExitNetwork:
    kind: type[MultiExitNetwork] = recipe.get("network", MultiExitNetwork)
    own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return kind.from_recipe(recipe, own)


def _in_a_tower(name: str) -> bool:
    return name.startswith(_PREFIXES)


def state_of(pooled: Tensor) -> Tensor:
    """Return the state that is handed over, (n, c) float32, from the pooled state of a layer.

    If each task pools separately, (n, T, c), it is the mean over the tasks.
    """
    pooled = pooled.float()
    return pooled.mean(dim=1) if pooled.ndim == 3 else pooled


def hand_over_layers(logits: Tensor, counts: tuple[int, ...], after: int) -> Tensor:
    """Return the layer of the first tower at which samples are handed over if they do not exit.

    Parameters
    ----------
    logits : Tensor of shape (n, M1, K)
        Logits or probabilities of the first tower's exits.
    counts : tuple of int
        Number of classes of every task.
    after : int
        Number of consecutive exits that have to predict the same classes in all tasks.

    Returns
    -------
    Tensor of shape (n,), int64
        From 1 to M1; M1 if the exits never agree long enough.
    """
    predictions = task_predictions(logits, counts)
    n, n_layers = predictions.shape[:2]
    agreeing = torch.ones(n, dtype=torch.long, device=logits.device)
    ends = torch.full_like(agreeing, n_layers)
    for layer in range(1, n_layers + 1):
        if layer > 1:
            same = (predictions[:, layer - 1] == predictions[:, layer - 2]).all(dim=-1)
            agreeing = (agreeing + 1).masked_fill(~same, 1)
        ends = torch.where((agreeing >= after) & (ends == n_layers), layer, ends)
    return ends
