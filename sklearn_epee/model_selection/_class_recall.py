"""Recall of each class under a chosen policy, and a warning if a class loses much recall."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from sklearn_epee._exits.class_scores import class_means
from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee.exceptions import ClassRecallWarning

from ._staging import Validation

# A class loses much recall if it loses this much more than all samples together, or this share of
# its own recall.
_MUCH = 0.1
_MUCH_OF_ALL = 0.5
# Significance level of the sign test, which compares the number of samples of a class that only
# full depth predicts correctly with the number of those that only the policy does.
_LEVEL = 0.05
_MAX_NAMED = 5


@dataclass(frozen=True)
class ClassReport:
    """Recall and exit layers of every class of every task, or of every label.

    With several labels, each pair of a sample and one of its labels counts as a sample of this
    label; the recall of all samples together is that over all pairs.

    Attributes
    ----------
    task : ndarray of int
    labels : list
    n_samples : ndarray of int
        Number of samples with a weight above 0.
    full_depth_recall, recall : ndarray of float
    mean_exit_layer : ndarray of float
    p_value : ndarray of float
        P-value of the exact sign test that the class loses no recall, on the samples for which
        either only full depth or only the policy is correct.
    excess : ndarray of float
        Loss of recall minus the loss of accuracy over all samples of the task.
    are_labels : bool
        Whether samples may have several of the labels.
    layers : list of str or None
        For labels of spans, names of the layers of spans, which `task` indexes. Then samples are
        spans, and the sign test compares sentences.
    """

    task: Integers
    labels: list[Any]
    n_samples: Integers
    full_depth_recall: Floats
    recall: Floats
    mean_exit_layer: Floats
    p_value: Floats
    excess: Floats
    are_labels: bool = field(default=False, kw_only=True)
    layers: list[str] | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls, validation: Validation, tau: float, patience: int, weights: Floats | None = None
    ) -> ClassReport:
        """Compare a policy with full depth on these samples."""
        staged, each = validation.staged, validation.tasks.each
        exits = staged.exit_layers(tau, patience)
        if validation.tasks.multilabel:
            return cls._of_labels(validation, exits, weights)
        at_exit = staged.predictions[np.arange(len(exits)), exits - 1]
        rows = [
            _figures(
                validation.codes[:, task],
                staged.predictions[:, -1, task] == validation.codes[:, task],
                at_exit[:, task] == validation.codes[:, task],
                exits=exits,
                n_classes=len(classes),
                weights=weights,
            )
            for task, classes in enumerate(each)
        ]
        return cls(
            np.repeat(np.arange(len(each)), [len(classes) for classes in each]),
            [label for classes in each for label in classes.tolist()],
            *(np.concatenate(column) for column in zip(*rows, strict=True)),
        )

    @classmethod
    def _of_labels(
        cls, validation: Validation, exits: Integers, weights: Floats | None
    ) -> ClassReport:
        staged, labels = validation.staged, validation.classes.tolist()
        sample, label = np.nonzero(validation.codes == 1)
        figures = _figures(
            label,
            staged.predictions[sample, -1, label] == 1,
            staged.predictions[sample, exits[sample] - 1, label] == 1,
            exits=exits[sample],
            n_classes=len(labels),
            weights=None if weights is None else weights[sample],
        )
        report = cls(np.zeros(len(labels), dtype=np.int64), labels, *figures)
        return replace(report, are_labels=True)

    def table(self) -> dict[str, NDArray[Any]]:
        """Return the report as columns; "task", or "layer", only if there are several."""
        labels = np.array(self.labels)
        if labels.tolist() != self.labels:  # labels of several types
            labels = np.array(self.labels, dtype=object)
        task = {"task": self.task} if self.task.any() else {}
        if self.layers is not None:
            task = {"layer": np.array(self.layers)[self.task]} if any(self.layers) else {}
        return {
            **task,
            "class": labels,
            "n_samples": self.n_samples,
            "full_depth_recall": self.full_depth_recall,
            "recall": self.recall,
            "mean_exit_layer": self.mean_exit_layer,
            "p_value": self.p_value,
        }

    @property
    def loses_much(self) -> NDArray[np.bool_]:
        """Which classes lose much recall, with a significant sign test."""
        lost = self.full_depth_recall - self.recall
        half = (lost >= _MUCH_OF_ALL * self.full_depth_recall) & (self.excess > 0)
        return ((self.excess > _MUCH) | half) & (self.p_value < _LEVEL)

    def warn(self, policy: str, stacklevel: int) -> None:
        """Warn of classes that lose much recall, the worst first.

        Parameters
        ----------
        policy : str
            Description of the policy.
        stacklevel : int
            As in :func:`warnings.warn`, counted from the caller.
        """
        rows = np.flatnonzero(self.loses_much)
        if not len(rows):
            return
        order = np.argsort(self.recall[rows] - self.full_depth_recall[rows], kind="stable")
        named = "; ".join(self._described(row) for row in rows[order[:_MAX_NAMED]])
        kind, scores = "classes", ", 'balanced_accuracy' or positive_f1_scorer(negative_class)"
        if self.are_labels:
            kind, scores = "labels", " or 'balanced_accuracy'"
        if self.layers is not None:
            kind, scores = "labels of spans", ""
        more = f"; and {len(rows) - _MAX_NAMED} more" if len(rows) > _MAX_NAMED else ""
        warnings.warn(
            f"The chosen policy ({policy}) loses much of the recall of {len(rows)} of "
            f"{len(self.labels)} {kind} against full depth, on the samples it was chosen on: "
            f"{named}{more}. class_report_ has the figures of all {kind}. A score by which each "
            f"of them counts ('f1_macro'{scores} as scoring) or a smaller max_accuracy_drop keeps "
            "more of it.",
            ClassRecallWarning,
            stacklevel=stacklevel + 1,
        )

    def _described(self, row: int) -> str:
        where, unit = f"task {self.task[row]}, " if self.task.any() else "", "samples"
        if self.layers is not None:
            layer, unit = self.layers[self.task[row]], "spans"
            where = f"{layer} " if layer else ""
        return (
            f"{where}{self.labels[row]!r} from {self.full_depth_recall[row]:.3f} to "
            f"{self.recall[row]:.3f} ({self.n_samples[row]} {unit})"
        )


def _figures(
    codes: Integers,
    right_at_full_depth: NDArray[np.bool_],
    right: NDArray[np.bool_],
    *,
    exits: Integers,
    n_classes: int,
    weights: Floats | None,
) -> tuple[NDArray[Any], ...]:
    """Return the columns of a report, from `n_samples` on, for the classes of one task."""
    full_depth = class_means(right_at_full_depth, codes, n_classes, weights)
    recall = class_means(right, codes, n_classes, weights)
    counts = np.ones(len(codes), dtype=bool) if weights is None else weights > 0
    lost, gained = (
        np.bincount(codes[rows & counts], minlength=n_classes)
        for rows in (right_at_full_depth & ~right, right & ~right_at_full_depth)
    )
    p_value = binom.sf(lost - 1, lost + gained, 0.5)
    differences = right_at_full_depth.astype(np.float64) - right
    has_weight = len(codes) if weights is None else weights.any()  # no sample may have a label
    everywhere = max(float(np.average(differences, weights=weights)), 0.0) if has_weight else 0.0
    return (
        np.bincount(codes[counts], minlength=n_classes),
        full_depth,
        recall,
        class_means(exits, codes, n_classes, weights),
        p_value,
        full_depth - recall - everywhere,
    )
