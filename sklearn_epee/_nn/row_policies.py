"""The exit rule of a batch whose samples have an exit policy each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import Decision, ExitPolicy, Exits, ExitState, float32_threshold
from .joint_exit_rules import dynamic_rule


class RowPolicyRule:
    """Samples exit by policies of their own; all else is that of one `DynamicRule`.

    Samples are known by their slots, numbers below `capacity` that are used again.

    Parameters
    ----------
    widest : ExitPolicy
        The policy under which samples exit first: its tau is the largest that a sample has, its
        patience the least.
    n_layers : int
        Number of layers M.
    n_columns : int
        Number of classes K, of all tasks together.
    counts : sequence of int
        Classes of every task.
    capacity : int
        Number of slots.

    Attributes
    ----------
    out : Exits
        Where predictions are recorded, by slot.
    last_layer, rates_key
        Those of `ExitRule`.
    """

    def __init__(
        self,
        widest: ExitPolicy,
        n_layers: int,
        n_columns: int,
        counts: Sequence[int],
        capacity: int,
    ) -> None:
        self.out = Exits.empty(capacity, n_columns, len(counts))
        self._rule = dynamic_rule(widest, n_layers, self.out, counts)
        self.last_layer = n_layers
        # What samples do under a mixture of policies is to be learned apart.
        self.rates_key: Hashable | None = ("of rows", self._rule.rates_key)
        self._thresholds = np.zeros(capacity, np.float32)
        self._patience = np.full(capacity, n_layers, np.int64)

    def set_policy(self, slot: int, tau: float, patience: int) -> None:
        """Let the next sample of a slot exit by a policy."""
        self._thresholds[slot] = float32_threshold(tau)
        self._patience[slot] = patience

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
        return self._rule.reads(layer)

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        return self._rule.may_exit(layer)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of the samples that exit at a layer; see `ExitRule`."""
        of_rows = self._thresholds[rows], self._patience[rows]
        limits = (torch.from_numpy(limit).to(proba.device) for limit in of_rows)
        return self._rule.with_limits(*limits).decide(layer, proba, rows, state)
