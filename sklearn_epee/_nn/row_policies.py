"""Exit rule for batches in which every sample has its own exit policy."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import Decision, DynamicRule, Exits, ExitState, float32_threshold


class RowPolicyRule:
    """Samples exit by policies of their own; all else is that of one `DynamicRule`.

    What is predicted, samples or the words of sentences, is known by numbers that are used again.

    Parameters
    ----------
    rule : DynamicRule
        Its policy is the one under which samples exit first: its tau is the largest that a sample
        has, its patience the least.
    out : Exits
        Where the rule records predictions, with a place for every number.

    Attributes
    ----------
    out : Exits
        Where predictions are recorded, by number.
    last_layer, rates_key
        Those of `ExitRule`.
    """

    def __init__(self, rule: DynamicRule, out: Exits) -> None:
        self.out = out
        self._rule = rule
        self.last_layer = rule.last_layer
        # What samples do under a mixture of policies is to be learned apart.
        self.rates_key: Hashable | None = None
        if rule.rates_key is not None:
            self.rates_key = ("of rows", rule.rates_key)
        self._thresholds = np.zeros(len(out.exit_layer), np.float32)
        self._patience = np.zeros(len(out.exit_layer), np.int64)

    def make_room(self, n: int) -> None:
        """Have a place for every number below n."""
        has = len(self._patience)
        if n > has:
            n = max(n, 2 * has)
            self.out = self.out.extended(n)
            self._rule = self._rule.recording_to(self.out)
            self._thresholds = np.resize(self._thresholds, n)
            self._patience = np.resize(self._patience, n)

    def set_policy(self, numbers: int | NDArray[np.intp], tau: float, patience: int) -> None:
        """Let what has these numbers next exit by a policy."""
        self._thresholds[numbers] = float32_threshold(tau)
        self._patience[numbers] = patience

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
        numbers = self._rule.recorded(rows)
        of_rows = self._thresholds[numbers], self._patience[numbers]
        limits = (torch.from_numpy(limit).to(proba.device) for limit in of_rows)
        return self._rule.with_limits(*limits).decide(layer, proba, rows, state)
