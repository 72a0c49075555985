"""Validated training data: samples with class indices and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_sample_weight

from sklearn_epee._checks.labels import check_groups, check_weights
from sklearn_epee._checks.messages import SampleError, shown
from sklearn_epee._checks.tasks import Tasks, check_any_labels
from sklearn_epee._nn.batching import EncodedSamples, LabelledSamples

from .held_out import hold_out, hold_out_labels

Rows = NDArray[np.intp]
ClassWeight = dict[Any, float] | list[Any] | str | None


class BaseTrainingData(Protocol):
    """Interface of the training data of a fit, for labels of any form."""

    @property
    def samples(self) -> Any:
        """Validated samples, in an array or a list."""

    @property
    def classes(self) -> Any:
        """The classes, in the form of the estimator's ``classes_``."""

    @property
    def labels(self) -> Any:
        """The labels as class indices."""

    @property
    def weights(self) -> Any:
        """Weights in the loss, 1 on average."""

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Group of each sample, as numbers from 0."""

    @property
    def tasks(self) -> Any:
        """The classes, with methods that convert probabilities to labels."""

    def held_out(self, fraction: float, seed: int) -> tuple[Rows, Rows]:
        """Return the training rows and the held-out rows, ascending."""

    def labelled(self, encode: Callable[[Any], Any], rows: Rows) -> LabelledSamples:
        """Return some of the samples, encoded for the training loop."""


@dataclass(frozen=True)
class TrainingData:
    """Validated training samples with class indices and weights, 1 on average.

    With several tasks, `classes` is a list, and `labels` has one column per task. With several
    labels per sample, `labels` has one column per label (1, 0, or -1 if unknown), and `weights` has
    the same shape. Groups are numbers from 0.
    """

    samples: Any
    classes: NDArray[Any] | list[NDArray[Any]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    numbers: Rows
    """Number of each sample in the caller's X."""
    groups: NDArray[np.int64] | None = None
    constants: NDArray[np.int64] | None = None
    """With several labels: 1 for labels that all samples have, -1 for those of none, else 0."""

    @property
    def tasks(self) -> Tasks:
        """The classes, with methods that convert probabilities to labels."""
        return Tasks(self.classes, multilabel=self.constants is not None)

    def held_out(self, fraction: float, seed: int) -> tuple[Rows, Rows]:
        """Return the training rows and the held-out rows, stratified and ascending."""
        if self.constants is not None:
            return hold_out_labels(self.labels, fraction, seed, self.groups)
        names = None if isinstance(self.classes, list) else self.classes
        return hold_out(self.labels, fraction, seed, self.groups, names)

    def labelled(self, encode: Callable[[Any], EncodedSamples], rows: Rows) -> LabelledSamples:
        """Return some of the samples, encoded for the training loop."""
        try:
            samples = encode(take(self.samples, rows))
        except SampleError as error:
            raise error.at(int(self.numbers[rows[error.row]])) from None
        return LabelledSamples(samples, self.labels[rows], self.weights[rows])


def prepare_training_data(
    samples: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    class_weight: ClassWeight,
    estimator: type,
    *,
    groups: ArrayLike | None = None,
) -> TrainingData:
    """Return validated training data, without the samples of weight 0.

    Parameters
    ----------
    samples : sequence
        Validated samples.
    y : array-like of shape (n_samples,) or (n_samples, n_tasks)
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : "balanced", dict, list of these or None
    estimator : type
        Its name is used in error messages.
    groups : array-like of shape (n_samples,) or None, default=None

    Returns
    -------
    TrainingData

    Raises
    ------
    ValueError
        If y, a group or a weight is invalid, or no task has at least two classes.
    """
    checked = check_any_labels(y, len(samples), estimator.__name__)
    weights = check_weights(sample_weight, len(samples))
    members = check_groups(groups, len(samples))
    used = np.flatnonzero(weights)
    tasks = checked if isinstance(checked, list) else [checked]
    if len(used) < len(weights):
        samples, weights = take(samples, used), weights[used]
        tasks = [labels[used] for labels in tasks]
        members = None if members is None else members[used]
    encoded = [np.unique(labels, return_inverse=True) for labels in tasks]
    if all(len(classes) < 2 for classes, _ in encoded):
        raise ValueError(
            f"{estimator.__name__} needs samples of at least 2 classes; y holds only one class"
            f"{' in every task' if len(encoded) > 1 else ''}: "
            f"{', '.join(repr(classes.tolist()[0]) for classes, _ in encoded)}."
        )
    if class_weight is not None:
        weights = with_class_weights(weights, class_weight, tasks)
    weights = (weights / weights.mean()).astype(np.float32)
    codes = [inverse.reshape(-1).astype(np.int64) for _, inverse in encoded]
    if not isinstance(checked, list):
        return TrainingData(samples, encoded[0][0], codes[0], weights, used, members)
    classes = [found for found, _ in encoded]
    return TrainingData(samples, classes, np.stack(codes, axis=1), weights, used, members)


def with_class_weights(
    weights: NDArray[np.float64], class_weight: Any, tasks: list[NDArray[Any]]
) -> NDArray[np.float64]:
    """Return the weights, multiplied by the weight of the class in every task."""
    for wanted, labels in zip(_for_each(class_weight, len(tasks)), tasks, strict=True):
        if wanted is not None:
            weights = weights * _weights_of_classes(wanted, labels)
    if not (np.isfinite(weights.sum()) and (weights >= 0).all()):
        raise ValueError(f"class_weight={class_weight!r} must hold finite weights >= 0.")
    if not weights.any():
        raise ValueError("class_weight leaves no sample with a weight above 0.")
    return weights


def _weights_of_classes(wanted: Any, labels: NDArray[Any]) -> NDArray[np.float64]:
    try:
        return compute_sample_weight(wanted, labels)
    except (TypeError, ValueError) as error:
        raise type(error)(f"class_weight={shown(wanted)} is not valid: {error}") from error


def _for_each(class_weight: Any, n_tasks: int) -> list[Any]:
    if isinstance(class_weight, str):
        return [class_weight] * n_tasks
    if n_tasks == 1 and isinstance(class_weight, dict):
        return [class_weight]
    if n_tasks == 1:
        raise ValueError(
            f"class_weight={class_weight!r} is a list, for several tasks, but y holds one; "
            "expected 'balanced', a dict or None."
        )
    is_list = isinstance(class_weight, list) and len(class_weight) == n_tasks
    if not is_list or not all(isinstance(one, dict) or one is None for one in class_weight):
        raise ValueError(
            f"class_weight={class_weight!r} does not fit the {n_tasks} tasks of y; expected "
            f"'balanced', None or a list of {n_tasks} dicts, one per task."
        )
    return class_weight


def take(samples: Any, rows: Rows) -> Any:
    """Return some of the samples, as an array or a list like `samples`."""
    if isinstance(samples, np.ndarray):
        return samples[rows]
    return [samples[row] for row in rows]
