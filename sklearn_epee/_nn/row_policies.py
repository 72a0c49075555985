"""Exit rule for batches in which every sample has its own exit policy."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import Decision, DynamicRule, Exits, ExitState, float32_threshold


class RowPolicyRule:
    """Apply a `DynamicRule` with a separate policy for each sample.

    Samples, or the words of sentences, are identified by slots (indices in `out`), which are
    reused.

    Parameters
    ----------
    rule : DynamicRule
        Its policy has the largest tau and the smallest patience of all samples.
    out : Exits
        Arrays to which the rule writes predictions, with one entry per slot.

    Attributes
    ----------
    out : Exits
        Arrays with the predictions, by slot.
    last_layer, rates_key
        As in `ExitRule`.
    """

    def __init__(self, rule: DynamicRule, out: Exits) -> None:
        self.out = out
        self._rule = rule
        self.last_layer = rule.last_layer
        # Exit rates under a mixture of policies are recorded separately.
        self.rates_key: Hashable | None = None
        if rule.rates_key is not None:
            self.rates_key = ("of rows", rule.rates_key)
        self._thresholds = np.zeros(len(out.exit_layer), np.float32)
        self._patience = np.zeros(len(out.exit_layer), np.int64)

    def make_room(self, n: int) -> None:
        """Extend the arrays to at least n slots."""
        has = len(self._patience)
        if n > has:
            n = max(n, 2 * has)
            self.out = self.out.extended(n)
            self._rule = self._rule.recording_to(self.out)
            self._thresholds = np.resize(self._thresholds, n)
            self._patience = np.resize(self._patience, n)

    def set_policy(self, numbers: int | NDArray[np.intp], tau: float, patience: int) -> None:
        """Set the policy of some slots."""
        self._thresholds[numbers] = float32_threshold(tau)
        self._patience[numbers] = patience

    def reads(self, layer: int) -> bool:
        """Return whether the predictions of a layer's head are needed."""
        return self._rule.reads(layer)

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        return self._rule.may_exit(layer)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of the samples that exit at a layer; see `ExitRule`."""
        numbers = self._rule.recorded(rows)
        of_rows = self._thresholds[numbers], self._patience[numbers]
        limits = (torch.from_numpy(limit).to(proba.device) for limit in of_rows)
        return self._rule.with_limits(*limits).decide(layer, proba, rows, state)
