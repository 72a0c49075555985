"""Exit rules for several tasks, and for several labels per sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .exit_rules import (
    DynamicRule,
    ExitPolicy,
    Exits,
    ExitState,
    either,
    float32_floor,
    normalized_entropy,
)
from .tasks import as_pairs, split_tasks, task_entropies, task_predictions


def dynamic_rule(
    policy: ExitPolicy, n_layers: int, out: Exits, counts: Sequence[int]
) -> DynamicRule:
    """Return the exit rule for one task, several tasks or several labels.

    Parameters
    ----------
    policy, n_layers, out
        As in `DynamicRule`.
    counts : sequence of int
        Number of classes of each task.

    Returns
    -------
    DynamicRule
    """
    if policy.label_thresholds is not None:
        return LabelRule(policy, n_layers, out)
    if len(counts) == 1:
        return DynamicRule(policy, n_layers, out)
    return JointRule(policy, n_layers, out, counts)


class JointRule(DynamicRule):
    """Exit rule by the entropies and patience counters of several tasks.

    Probabilities of the tasks are concatenated, (n, sum of K_t); predictions, counters and
    entropies have one column per task. They are combined into one decision by the `joint_exit` of
    the policy, as in `sklearn_epee.policy`.

    Parameters
    ----------
    policy, n_layers, out
        As in `DynamicRule`.
    counts : sequence of int
        Number of classes of each task.
    """

    def __init__(
        self, policy: ExitPolicy, n_layers: int, out: Exits, counts: Sequence[int]
    ) -> None:
        super().__init__(policy, n_layers, out)
        self._counts = tuple(counts)

    def _label(self, proba: Tensor) -> Tensor:
        return task_predictions(proba, self._counts)

    def _entropy(self, proba: Tensor) -> Tensor:
        return task_entropies(proba, self._counts)

    def _predicted_proba(self, proba: Tensor, state: ExitState | None) -> Tensor:
        total = None if state is None else state.total
        if total is None:
            return proba
        parts = zip(split_tasks(proba, self._counts), split_tasks(total, self._counts), strict=True)
        return torch.cat([self._combined(own, part) for own, part in parts], dim=1)

    def _exits(self, layer: int, entropy: Tensor, state: ExitState | None) -> Tensor:
        if self._policy.joint_exit == "mean":
            agreed = self._agreed(layer, state)
            # The joint prediction is unchanged as long as that of every task is.
            together = None if agreed is None else agreed.all(dim=1)
            return either(together, self._sure(entropy.mean(dim=1)))
        each = super()._exits(layer, entropy, state)
        return each.all(dim=1) if self._policy.joint_exit == "all" else each.any(dim=1)


class LabelRule(DynamicRule):
    """Exit rule for several labels per sample.

    Probabilities have two columns per label, (n, 2 K): that a sample does not have the label, and
    that it does. Entropies have one column per label and are combined by the `joint_exit` of the
    policy. The patience counts layers that predict the same set of labels.

    Parameters
    ----------
    policy, n_layers, out
        As in `DynamicRule`; the policy has `label_thresholds`.
    """

    def __init__(self, policy: ExitPolicy, n_layers: int, out: Exits) -> None:
        super().__init__(policy, n_layers, out)
        limits = policy.label_thresholds
        self._limits = torch.from_numpy(float32_floor(np.asarray(limits)))

    def _label(self, proba: Tensor) -> Tensor:
        if self._limits.device != proba.device:
            self._limits = self._limits.to(proba.device)
        return proba[:, 1::2] > self._limits

    def _changed(self, predicted: Tensor, before: Tensor) -> Tensor:
        return (predicted != before).any(dim=1)

    def _entropy(self, proba: Tensor) -> Tensor:
        entropy = normalized_entropy(as_pairs(proba))
        # For a single label the shape is that of a single task, (n,).
        return entropy[:, 0] if entropy.shape[1] == 1 else entropy

    def _predicted_proba(self, proba: Tensor, state: ExitState | None) -> Tensor:
        total = None if state is None else state.total
        if total is None:
            return proba
        return self._combined(as_pairs(proba), as_pairs(total)).flatten(-2)

    def _exits(self, layer: int, entropy: Tensor, state: ExitState | None) -> Tensor:
        each = entropy.view(len(entropy), -1)
        joint_exit = self._policy.joint_exit
        if joint_exit == "mean":
            joint = each.mean(1)
        else:
            joint = each.amax(1) if joint_exit == "all" else each.amin(1)
        return either(self._agreed(layer, state), self._sure(joint))
