"""The exit rule for several tasks at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .exit_rules import DynamicRule, ExitPolicy, Exits, ExitState, either, normalized_entropy
from .tasks import split_tasks, task_predictions


def dynamic_rule(
    policy: ExitPolicy, n_layers: int, out: Exits, counts: Sequence[int]
) -> DynamicRule:
    """Return the rule for one task or for several.

    Parameters
    ----------
    policy, n_layers, out
        Those of `DynamicRule`.
    counts : sequence of int
        Classes of every task.

    Returns
    -------
    DynamicRule
    """
    if len(counts) == 1:
        return DynamicRule(policy, n_layers, out)
    return JointRule(policy, n_layers, out, counts)


class JointRule(DynamicRule):
    """Samples exit by the entropies and patience counters of several tasks.

    Probabilities of the tasks lie side by side, (n, sum of K_t); predictions, counters and
    entropies have one column per task. The policy's `joint_exit` says how they become one
    decision, as in `sklearn_epee.policy`.

    Parameters
    ----------
    policy, n_layers, out
        Those of `DynamicRule`.
    counts : sequence of int
        Classes of every task.
    """

    def __init__(
        self, policy: ExitPolicy, n_layers: int, out: Exits, counts: Sequence[int]
    ) -> None:
        super().__init__(policy, n_layers, out)
        self._counts = tuple(counts)

    def _label(self, proba: Tensor) -> Tensor:
        return task_predictions(proba, self._counts)

    def _entropy(self, proba: Tensor) -> Tensor:
        parts = split_tasks(proba, self._counts)
        return torch.stack([normalized_entropy(part) for part in parts], dim=1)

    def _predicted_proba(self, proba: Tensor, state: ExitState | None) -> Tensor:
        total = None if state is None else state.total
        if total is None:
            return proba
        parts = zip(split_tasks(proba, self._counts), split_tasks(total, self._counts), strict=True)
        return torch.cat([self._combined(own, part) for own, part in parts], dim=1)

    def _exits(self, layer: int, entropy: Tensor, state: ExitState | None) -> Tensor:
        if self._policy.joint_exit == "mean":
            agreed = self._agreed(layer, state)
            # The joint prediction has held as long as every part of it.
            together = None if agreed is None else agreed.all(dim=1)
            return either(together, self._sure(entropy.mean(dim=1)))
        each = super()._exits(layer, entropy, state)
        return each.all(dim=1) if self._policy.joint_exit == "all" else each.any(dim=1)
