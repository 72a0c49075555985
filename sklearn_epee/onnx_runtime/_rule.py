"""The exit rule: same exits and predictions as `sklearn_epee.policy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Exited", "Rule", "RuleState"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Exited:
    """Samples or words that exit at the same layer of a batch.

    Attributes
    ----------
    rows : ndarray of shape (n,)
        Their indices.
    layer : int
        Exit layer, counted from 1.
    proba : list of ndarray of shape (n, K)
        Probabilities of every task.
    entropy : ndarray of shape (n, T)
    """

    rows: NDArray[np.intp]
    layer: int
    proba: list[Floats]
    entropy: Floats


@dataclass(frozen=True)
class Rule:
    """An exit policy over the heads of a network."""

    counts: tuple[int, ...]
    tau: float
    patience: int
    exit_ensemble: str | None
    exit_weights: tuple[float, ...]
    joint_exit: str
    label_thresholds: tuple[float, ...] | None
    token_exit: str
    min_exit_layer: int = 1

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the rule of a document that `export_onnx` wrote."""
        policy = document["policy"]
        limits = policy["label_thresholds"]
        return cls(
            tuple(document["counts"]),
            policy["tau"],
            policy["patience"],
            policy["exit_ensemble"],
            tuple(policy["exit_weights"]),
            policy["joint_exit"],
            None if limits is None else tuple(limits),
            policy.get("token_exit", "sentence"),
            policy.get("min_exit_layer", 1),  # exports of earlier versions have none
        )

    def probabilities(self, logits: Floats) -> list[Floats]:
        """Return the probabilities of every task, each (n, K)."""
        return [_softmax(part) for part in np.split(logits, np.cumsum(self.counts)[:-1], axis=1)]

    def entropies(self, proba: list[Floats]) -> Floats:
        """Return the normalized entropy of every task, (n, T)."""
        return np.stack([_entropy(part) for part in proba], axis=1)

    def predictions(self, proba: list[Floats]) -> NDArray[Any]:
        """Return the predicted class of every task, (n, T)."""
        if self.label_thresholds is None:
            return np.stack([part.argmax(axis=1) for part in proba], axis=1)
        # In float64, because NumPy would round the thresholds to float32 for the comparison.
        above = [
            p[:, 1].astype(np.float64) > limit
            for p, limit in zip(proba, self.label_thresholds, strict=True)
        ]
        return np.stack(above, axis=1)

    def exits(
        self, layer: int, entropies: NDArray[Any], agreeing: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which samples exit at a layer, (n,), from entropies and agreeing exits, (n, T)."""
        if layer < self.min_exit_layer:
            return np.zeros(len(entropies), bool)
        entropies = entropies.astype(np.float64)
        if self.label_thresholds is not None:
            name = {"all": "max", "any": "min", "mean": "mean"}[self.joint_exit]
            joint: NDArray[np.float64] = getattr(entropies, name)(axis=1)
            return (joint < self.tau) | (agreeing[:, 0] >= self.patience)
        if self.joint_exit == "mean":
            mean: NDArray[np.float64] = entropies.mean(axis=1)
            return (mean < self.tau) | (agreeing.min(axis=1) >= self.patience)
        each = (entropies < self.tau) | (agreeing >= self.patience)
        joined: NDArray[np.bool_] = getattr(each, self.joint_exit)(axis=1)
        return joined

    def sentences_exit(
        self,
        layer: int,
        entropies: NDArray[Any],
        agreeing: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return which sentences exit at a layer, (n,); `counts` are their numbers of words."""
        if layer < self.min_exit_layer:
            return np.zeros(len(counts), bool)
        starts = np.cumsum(counts) - counts
        if self.joint_exit != "mean":
            each = self.exits(layer, entropies, agreeing)
            together = np.logical_and if self.joint_exit == "all" else np.logical_or
            exits: NDArray[np.bool_] = together.reduceat(each, starts)
            return exits
        totals = np.add.reduceat(entropies.astype(np.float64).sum(axis=1), starts)
        agreed = np.minimum.reduceat(agreeing.min(axis=1), starts) >= self.patience
        sure: NDArray[np.bool_] = totals / (counts * entropies.shape[1]) < self.tau
        return sure | agreed

    def weight(self, layer: int) -> float:
        """Return the weight of an exit in the ensemble of all exits that a sample reached."""
        return self.exit_weights[layer - 1] if self.exit_ensemble == "weighted" else 1.0


class RuleState:
    """State of the rule for samples that have not exited: last predictions, sums over exits.

    Parameters
    ----------
    rule : Rule
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._predicted: NDArray[Any] | None = None
        self.agreeing = np.empty((0, 0), np.int64)
        self._totals: list[Floats] = []

    def update(self, layer: int, proba: list[Floats]) -> None:
        """Update the state with the probabilities of the next layer."""
        predicted = self._rule.predictions(proba)
        weight = np.float32(self._rule.weight(layer))
        if self._predicted is None:
            self.agreeing = np.ones(predicted.shape, np.int64)
            self._totals = [weight * part for part in proba]
        else:
            same = predicted == self._predicted
            if self._rule.label_thresholds is not None:
                same = np.broadcast_to(same.all(axis=1, keepdims=True), same.shape)
            self.agreeing = np.where(same, self.agreeing + 1, 1)
            pairs = zip(self._totals, proba, strict=True)
            self._totals = [total + weight * part for total, part in pairs]
        self._predicted = predicted

    def combined(self, proba: list[Floats]) -> list[Floats]:
        """Return the probabilities of samples that exit here."""
        if self._rule.exit_ensemble is None:
            return proba
        pairs = zip(proba, self._totals, strict=True)
        return [_normalized(own, total) for own, total in pairs]

    def take(self, rows: NDArray[np.intp]) -> RuleState:
        """Return the state of some samples."""
        some = RuleState(self._rule)
        if self._predicted is not None:
            some._predicted = self._predicted[rows]
            some.agreeing = self.agreeing[rows]
            some._totals = [total[rows] for total in self._totals]
        return some

    @classmethod
    def join(cls, rule: Rule, parts: list[RuleState]) -> RuleState:
        """Return the states of several batches as one."""
        joined = cls(rule)
        predicted = [part._predicted for part in parts if part._predicted is not None]
        if predicted:
            joined._predicted = np.concatenate(predicted)
            joined.agreeing = np.concatenate([part.agreeing for part in parts])
            totals = zip(*(part._totals for part in parts), strict=True)
            joined._totals = [np.concatenate(task) for task in totals]
        return joined


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    proba: Floats = powers / powers.sum(axis=1, keepdims=True)
    return proba


def _entropy(proba: Floats) -> Floats:
    n_classes = proba.shape[1]
    if n_classes == 1:
        return np.zeros(len(proba), np.float32)
    information = -proba * np.log(np.where(proba > 0, proba, 1))
    entropy: Floats = np.clip(information.sum(axis=1) / np.float32(np.log(n_classes)), 0, 1)
    return entropy


def _normalized(own: Floats, total: Floats) -> Floats:
    """Normalize sums of probabilities; if all weights were 0, return those of the exit itself."""
    sums = total.sum(axis=1, keepdims=True)
    combined: Floats = np.where(sums > 0, total / np.where(sums > 0, sums, 1), own)
    return combined
