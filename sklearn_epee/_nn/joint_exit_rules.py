"""The rule by which samples leave with several tasks at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import DynamicRule, ExitPolicy, Exits, ExitState, normalized_entropy
from .tasks import split_tasks, task_predictions


def dynamic_rule(
    policy: ExitPolicy,
    n_layers: int,
    out: Exits,
    schedule: NDArray[np.int64] | None,
    counts: Sequence[int],
) -> DynamicRule:
    """Give the rule for one task or for several.

    Parameters
    ----------
    policy, n_layers, out, schedule
        Those of `DynamicRule`.
    counts : sequence of int
        Classes of every task.

    Returns
    -------
    DynamicRule
    """
    if len(counts) == 1:
        return DynamicRule(policy, n_layers, out, schedule)
    return JointRule(policy, n_layers, out, schedule, counts)


class JointRule(DynamicRule):
    """Samples leave by the entropies and patience counters of several tasks.

    Probabilities of the tasks lie side by side, (n, sum of K_t); predictions, counters and
    entropies have one column a task. `sklearn_epee._exits.rule` says how they become one decision.

    Parameters
    ----------
    policy, n_layers, out, schedule
        Those of `DynamicRule`.
    counts : sequence of int
        Classes of every task.
    """

    def __init__(
        self,
        policy: ExitPolicy,
        n_layers: int,
        out: Exits,
        schedule: NDArray[np.int64] | None,
        counts: Sequence[int],
    ) -> None:
        super().__init__(policy, n_layers, out, schedule)
        self._counts = tuple(counts)

    def _predict(self, proba: Tensor) -> Tensor:
        return task_predictions(proba, self._counts)

    def _entropy(self, proba: Tensor) -> Tensor:
        parts = split_tasks(proba, self._counts)
        return torch.stack([normalized_entropy(part) for part in parts], dim=1)

    def _answer(self, proba: Tensor, state: ExitState | None) -> Tensor:
        total = None if state is None else state.total
        if total is None:
            return proba
        parts = zip(split_tasks(proba, self._counts), split_tasks(total, self._counts), strict=True)
        return torch.cat([self._combine(own, part) for own, part in parts], dim=1)

    def _leave(self, layer: int, proba: Tensor, state: ExitState | None) -> Tensor | None:
        policy = self._policy
        settled = self._settled(layer, state)
        if policy.joint_exit == "mean":
            # The joint prediction has held as long as every part of it.
            leave = None if settled is None else settled.all(dim=1)
            if policy.tau > 0:
                sure = self._entropy(proba).mean(dim=1) < self._threshold
                leave = sure if leave is None else leave | sure
            return leave
        leave = settled
        if policy.tau > 0:
            sure = self._entropy(proba) < self._threshold
            leave = sure if leave is None else leave | sure
        if leave is None:
            return None
        return leave.all(dim=1) if policy.joint_exit == "all" else leave.any(dim=1)
