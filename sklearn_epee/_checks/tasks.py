"""Validate, encode and decode labels and probabilities of one or several tasks.

Internally, the classes of all tasks are concatenated along the last axis of one array; for the
caller, several tasks are lists with one entry per task, as in scikit-learn's forests. Several
labels per sample are internally tasks with the classes 0 and 1; the caller sees one column per
label.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from .arrow import without_arrow_table
from .labels import check_labels
from .multilabel import LabelCount, check_label_targets, frame_columns, labels_above

Array = NDArray[Any]


@dataclass(frozen=True)
class Tasks:
    """The classes of one task, or of several; or several labels per sample.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,), or list of such arrays
        Classes of one or several tasks; the labels if `multilabel`.
    multilabel : bool, default=False
        Whether a sample can have several labels. Each is then a task with the classes 0 and 1.
    """

    classes: Array | list[Array]
    multilabel: bool = False

    @property
    def several(self) -> bool:
        """Whether labels have a column for each task or label."""
        return self.multilabel or isinstance(self.classes, list)

    @property
    def each(self) -> list[Array]:
        """List with the classes of every task."""
        if self.multilabel:
            return [np.arange(2)] * len(self.classes)
        return self.classes if isinstance(self.classes, list) else [self.classes]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of classes of every task."""
        return tuple(len(classes) for classes in self.each)

    @property
    def n_classes(self) -> int | tuple[int, ...] | LabelCount:
        """Number of outputs of the network: classes, classes of several tasks, or labels."""
        if self.multilabel:
            return LabelCount(len(self.classes))
        return self.counts if isinstance(self.classes, list) else self.counts[0]

    @property
    def n_columns(self) -> int:
        """Number of classes of all tasks together."""
        return sum(self.counts)

    def proba(self, packed: NDArray[np.float32]) -> Any:
        """Return probabilities in the caller's form, from (..., n_columns)."""
        if self.multilabel:
            return np.ascontiguousarray(packed[..., 1::2])
        return split_columns(packed, self.counts) if isinstance(self.classes, list) else packed

    def entropies(self, packed: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return entropies in the caller's form: labels always have columns, even a single one."""
        return packed.reshape(len(packed), -1) if self.multilabel else packed

    def labels(
        self, packed: NDArray[np.float32], thresholds: NDArray[np.float64] | None = None
    ) -> Array:
        """Return the predicted labels, (n,) or (n, n_tasks), from (n, n_columns).

        The most probable class of each task; for several labels, an indicator of those whose
        probability is above the threshold, 0.5 by default.
        """
        if self.multilabel:
            return labels_above(packed[..., 1::2], thresholds)
        parts = split_columns(packed, self.counts)
        predicted = [
            classes[part.argmax(axis=1)] for classes, part in zip(self.each, parts, strict=True)
        ]
        return as_columns(predicted) if isinstance(self.classes, list) else predicted[0]

    def decode(self, codes: NDArray[np.integer]) -> Array:
        """Return labels, (n,) or (n, n_tasks), from class indices."""
        if self.multilabel:
            return codes
        if not isinstance(self.classes, list):
            return self.classes[codes]
        columns = [classes[column] for classes, column in zip(self.classes, codes.T, strict=True)]
        return as_columns(columns)

    def codes(self, y: Any) -> NDArray[np.intp]:
        """Return the class indices of labels, the inverse of `decode`.

        With several labels per sample, which can also be lists, -1 for unknown labels.
        """
        if self.multilabel:
            return check_label_targets(y, _length(y), np.asarray(self.classes)).codes
        pairs = zip(self.each, task_columns(y), strict=True)
        columns = [np.searchsorted(classes, labels) for classes, labels in pairs]
        return np.stack(columns, axis=1) if isinstance(self.classes, list) else columns[0]

    def check_known(self, y: Any) -> None:
        """Raise if there are labels that the fitted estimator cannot predict."""
        if self.multilabel:
            self.codes(y)
            return
        columns = task_columns(y)
        if len(columns) != len(self.each):
            raise ValueError(
                f"y holds {len(columns)} task(s), but the fitted estimator knows {len(self.each)}."
            )
        for task, (classes, labels) in enumerate(zip(self.each, columns, strict=True)):
            unknown = np.setdiff1d(labels, classes)
            if len(unknown):
                where = f" of task {task}" if len(columns) > 1 else ""
                raise ValueError(
                    f"y holds the labels {unknown.tolist()}{where}, which the fitted estimator "
                    f"does not know; its classes are {classes.tolist()}."
                )

    def same_as(self, other: Any) -> bool:
        """Return whether other `Tasks`, or their classes, are equal to these."""
        others = other if isinstance(other, Tasks) else Tasks(other)
        if self.multilabel or others.multilabel:
            alike = self.multilabel and others.multilabel
            return alike and np.array_equal(self.classes, others.classes)
        return (
            isinstance(others.classes, list) == isinstance(self.classes, list)
            and len(others.each) == len(self.each)
            and all(np.array_equal(a, b) for a, b in zip(self.each, others.each, strict=True))
        )

    def __str__(self) -> str:
        if self.multilabel:
            return f"{np.asarray(self.classes).tolist()}, of which a sample may have any"
        shown = [classes.tolist() for classes in self.each]
        return str(shown if isinstance(self.classes, list) else shown[0])


def _length(y: Any) -> int:
    return int(y.shape[0]) if hasattr(y, "shape") else len(y)


def split_columns(packed: Array, counts: Sequence[int]) -> list[Array]:
    """Split the last axis, with the classes of all tasks, into one array per task."""
    ends = list(itertools.accumulate(counts))
    return [packed[..., end - count : end] for end, count in zip(ends, counts, strict=True)]


def as_columns(parts: Sequence[Array]) -> Array:
    """Return the labels of tasks as columns, of type object if their types differ."""
    kinds = {"n" if part.dtype.kind in "iuf" else part.dtype.kind for part in parts}
    dtype = np.result_type(*parts) if len(kinds) == 1 else np.dtype(object)
    columns = np.empty((len(parts[0]), len(parts)), dtype)
    for column, part in enumerate(parts):
        # `tolist` gives Python objects instead of NumPy scalars.
        columns[:, column] = part.tolist() if dtype.kind == "O" else part
    return columns


def has_tasks(y: Any) -> bool:
    """Return whether y contains the labels of two or more tasks, one per column."""
    return len(_shape(y)) == 2 and _shape(y)[1] > 1


def _shape(y: Any) -> tuple[int, ...]:
    shape = getattr(y, "shape", None)
    if isinstance(shape, tuple):
        return shape
    if isinstance(y, (list, tuple)) and len(y) and isinstance(y[0], (list, tuple, np.ndarray)):
        return (len(y), len(y[0]))
    return (0,)


def check_any_labels(y: ArrayLike, n_samples: int, name: str) -> Array | list[Array]:
    """Convert y to one array of labels, or to a list with one array per task.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_tasks)
        A single column is a single task.
    n_samples : int
    name : str
        Name of the estimator, for messages.

    Returns
    -------
    ndarray of shape (n_samples,), or list of such arrays

    Raises
    ------
    TypeError, ValueError
        If labels are missing, of several types within a task, not classes, or their number is not
        that of the samples.
    """
    if issparse(y):
        raise TypeError(f"{name} does not accept a sparse y; pass an array, such as y.toarray().")
    y = without_arrow_table(y)
    if not has_tasks(y):
        return check_labels(y, n_samples, name)
    checked = []
    for task, column in enumerate(_columns(y)):
        try:
            checked.append(check_labels(column, n_samples, name))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"In task {task}, y[:, {task}]: {error}") from error
    return checked


def as_target(labels: Array | list[Array]) -> Array:
    """Return the labels of `check_any_labels` as one array."""
    return as_columns(labels) if isinstance(labels, list) else labels


def task_columns(y: Any) -> list[Array]:
    """Return the labels of every task, each with its own type."""
    y = without_arrow_table(y)
    return _columns(y) if has_tasks(y) else [np.asarray(y)]


def _columns(y: Any) -> list[Array]:
    """Return the columns of y, each with its own type."""
    if hasattr(y, "columns"):  # a data frame
        given = frame_columns(y)
        return [_natural(part.tolist()) if part.dtype == "O" else part for part in given]
    if isinstance(y, np.ndarray) and y.dtype != object:
        return list(y.T)
    lengths = {len(row) for row in y}
    if len(lengths) > 1:
        raise ValueError(
            "y must hold one label per task for every sample; got rows of the lengths "
            f"{sorted(lengths)}."
        )
    return [_natural(list(column)) for column in zip(*y, strict=True)]


def _natural(labels: list[Any]) -> Array:
    """Return an array of the labels of one column, which had a common type with other columns."""
    kinds = (str, (Number, np.bool_))
    alike = any(all(isinstance(label, kind) for label in labels) for kind in kinds)
    return np.array(labels) if alike else np.array(labels, dtype=object)


def task_codes(y: Array) -> NDArray[np.int64]:
    """Return the class indices of every task, (n_samples, n_tasks)."""
    columns = [np.unique(labels, return_inverse=True)[1].reshape(-1) for labels in task_columns(y)]
    return np.stack(columns, axis=1).astype(np.int64)


def joint_codes(codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return a number for each combination of labels, (n_samples, n_tasks) -> (n_samples,)."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def strata(codes: NDArray[np.integer], least: int = 2) -> NDArray[np.int64]:
    """Return the strata of a stratified split, as numbers.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,) or (n_samples, n_tasks), int
        Class indices of one or several tasks.
    least : int, default=2
        Minimum number of samples per stratum.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        With one task, its classes. With several, the combinations of classes; combinations with
        fewer than `least` samples are merged, if necessary with the next larger one.
    """
    if codes.ndim == 1:
        return codes.astype(np.int64, copy=False)
    groups = joint_codes(codes)
    sizes = np.bincount(groups)
    order = np.argsort(sizes, kind="stable")
    n_rare = int(np.count_nonzero(sizes < least))
    if n_rare and sizes[order[:n_rare]].sum() < least:
        n_rare += 1
    groups[np.isin(groups, order[:n_rare])] = order[0]
    return np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)


def exact_match_score(
    y_true: ArrayLike, y_pred: Array, sample_weight: ArrayLike | None = None
) -> float:
    """Return the fraction of samples that are predicted correctly in every task.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_tasks)
    y_pred : ndarray of shape (n_samples, n_tasks)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    hits = task_hits(y_true, y_pred).all(axis=1).astype(np.float64)
    weights = None if sample_weight is None else np.asarray(sample_weight)
    return float(np.average(hits, weights=weights))


def task_hits(y_true: ArrayLike, y_pred: Array) -> NDArray[np.bool_]:
    """Return which labels are predicted correctly, (n_samples, n_tasks).

    Raises if the numbers of tasks differ, or if one of `y_true` and `y_pred` contains strings and
    the other numbers.
    """
    y_true = without_arrow_table(y_true)
    columns = _columns(y_true) if has_tasks(y_true) else []
    shape = (len(columns[0]), len(columns)) if columns else np.shape(y_true)
    if shape != y_pred.shape:
        raise ValueError(
            f"y must hold one label for each of the {y_pred.shape[1]} tasks of the "
            f"{y_pred.shape[0]} samples, shape {y_pred.shape}; got shape {shape}."
        )
    for task, truth in enumerate(columns):
        _check_comparable(truth.tolist(), y_pred[:, task].tolist(), task)
    return np.stack([truth == y_pred[:, t] for t, truth in enumerate(columns)], axis=1)


def _check_comparable(truth: list[Any], predicted: list[Any], task: int) -> None:
    """Raise if strings are compared with numbers, as no prediction would be correct."""
    are_texts = [{isinstance(label, str) for label in labels} for labels in (truth, predicted)]
    if all(len(kinds) == 1 for kinds in are_texts) and are_texts[0] != are_texts[1]:
        raise ValueError(
            f"y holds labels such as {truth[0]!r} in column {task}, but the predictions are labels "
            f"such as {predicted[0]!r}; expected the tasks in the same order as in fit."
        )
