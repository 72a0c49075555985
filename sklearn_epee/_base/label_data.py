"""Training data with several labels per sample."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee._checks.labels import check_groups, check_weights
from sklearn_epee._checks.messages import level_of_caller, shown
from sklearn_epee._checks.multilabel import UNKNOWN, LabelTargets, check_label_targets

from .training_data import ClassWeight, TrainingData, take

Weights = NDArray[np.float64]


def prepare_label_data(
    samples: Any,
    y: Any,
    sample_weight: ArrayLike | None,
    class_weight: ClassWeight,
    *,
    groups: ArrayLike | None = None,
    known: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
) -> TrainingData:
    """Return validated training data, without samples of weight 0 or without any known label.

    Parameters
    ----------
    samples : sequence
        Validated samples.
    y : array-like or sparse matrix of shape (n_samples, n_labels), or sequence of label lists
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : "balanced", dict, list of dict or None
        A dict contains, by label name, weights of samples that have the label.
    groups : array-like of shape (n_samples,) or None, default=None
    known : tuple of two ndarray of shape (n_labels,), default=None
        Labels and `TrainingData.constants` of a network whose training is continued.

    Returns
    -------
    TrainingData

    Raises
    ------
    TypeError, ValueError
        If y, a group or a weight is not as described, or no label varies.

    Warns
    -----
    UserWarning
        If labels are the same for all samples; they are always predicted that way.
    """
    targets = check_label_targets(y, len(samples), None if known is None else known[0])
    weights = check_weights(sample_weight, len(samples))
    members = check_groups(groups, len(samples))
    used = np.flatnonzero((weights > 0) & (targets.codes != UNKNOWN).any(axis=1))
    if len(used) < len(weights):
        samples, weights = take(samples, used), weights[used]
        members = None if members is None else members[used]
    targets = LabelTargets(targets.classes, targets.codes[used], targets.named)
    constants = _constants(targets)
    if known is not None:
        # Labels that were trained before are trained further.
        constants = np.where(constants == known[1], constants, 0)
    _warn_of_constants(targets, constants)
    entries = weights[:, np.newaxis] * _class_weights(class_weight, targets)
    entries = np.where((targets.codes == UNKNOWN) | (constants != 0), 0, entries)
    if not entries.any():
        raise ValueError("class_weight leaves no sample with a weight above 0.")
    entries = (entries / entries.mean()).astype(np.float32)
    return TrainingData(samples, targets.classes, targets.codes, entries, used, members, constants)


def label_rates(labels: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the weighted and smoothed frequency of each label, in (0, 1).

    Parameters
    ----------
    labels : ndarray of shape (n_samples, n_labels), int64
        1, 0, or -1 if unknown.
    weights : ndarray of shape (n_samples, n_labels), float32
        1 on average; 0 if a label is unknown.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        0.5 for a label whose weights are all 0.
    """
    weight_with = np.where(labels == 1, weights, 0).sum(axis=0, dtype=np.float64)
    every = weights.sum(axis=0, dtype=np.float64)
    rates: NDArray[np.float64] = (weight_with + 0.5) / (every + 1.0)
    return rates


def _constants(targets: LabelTargets) -> NDArray[np.int64]:
    """Return 1 for labels that all samples have, -1 for labels that none has, 0 for the others."""
    has_positive, has_negative = (targets.codes == 1).any(axis=0), (targets.codes == 0).any(axis=0)
    # A label that is unknown for all samples counts as one that no sample has.
    constants = np.where(has_positive & has_negative, 0, np.where(has_positive, 1, -1))
    if constants.all():
        raise ValueError(
            "y must hold a label that some samples have and others do not; all labels are the same "
            f"for every sample: {shown(targets.classes.tolist())}."
        )
    return constants.astype(np.int64)


def _warn_of_constants(targets: LabelTargets, constants: NDArray[np.int64]) -> None:
    parts = [
        f"{shown(targets.classes[constants == value].tolist())} {samples}"
        for value, samples in ((1, "of every sample"), (-1, "of no sample"))
        if (constants == value).any()
    ]
    if parts:
        warnings.warn(
            f"y holds labels that do not vary, {' and '.join(parts)}; they are always predicted "
            "that way.",
            UserWarning,
            stacklevel=level_of_caller(),
        )


def _class_weights(class_weight: Any, targets: LabelTargets) -> Weights:
    """Return the weight of every label of every sample."""
    has_label, n_labels = targets.codes == 1, len(targets.classes)
    if class_weight is None:
        return np.ones(has_label.shape)
    if isinstance(class_weight, str):  # "balanced"
        n_with, n_without = has_label.sum(axis=0), (targets.codes == 0).sum(axis=0)
        n_each = np.where(has_label, n_with, n_without)
        return (n_with + n_without) / (2 * np.maximum(n_each, 1))
    pairs = np.array([_pair(one, class_weight) for one in _for_labels(class_weight, targets)])
    if pairs.shape != (n_labels, 2) or not (np.isfinite(pairs).all() and (pairs >= 0).all()):
        raise ValueError(f"class_weight={class_weight!r} must hold finite weights >= 0.")
    return np.where(has_label, pairs[:, 1], pairs[:, 0])


def _for_labels(class_weight: Any, targets: LabelTargets) -> list[Any]:
    """Return the class weights of every label, as given: dicts with the weights of 0 and 1."""
    labels = targets.classes.tolist()
    if isinstance(class_weight, dict):
        if not targets.named:
            raise ValueError(
                f"class_weight={class_weight!r} is a dict, which gives the weights of labels by "
                "their names, but the columns of y have none; expected 'balanced', None or a list "
                f"of {len(labels)} dicts such as {{0: 1.0, 1: 5.0}}, one per label."
            )
        if unknown := [label for label in class_weight if label not in labels]:
            raise ValueError(
                f"class_weight holds the labels {shown(unknown)}, which y does not; its labels "
                f"are {shown(labels)}."
            )
        return [{1: class_weight.get(label, 1.0)} for label in labels]
    if len(class_weight) != len(labels):
        raise ValueError(
            f"class_weight={class_weight!r} does not fit the {len(labels)} labels of y; expected "
            f"'balanced', None, a list of {len(labels)} dicts such as {{0: 1.0, 1: 5.0}}, or a "
            "dict of weights by the names of labels."
        )
    return list(class_weight)


def _pair(weights: Any, class_weight: Any) -> tuple[float, float]:
    table = {} if weights is None else weights
    if not (isinstance(table, dict) and set(table) <= {0, 1}):
        raise ValueError(
            f"class_weight={shown(class_weight)} is not valid: expected the weights of 0 and 1 of "
            f"a label, such as {{0: 1.0, 1: 5.0}}; got {shown(weights)}."
        )
    try:
        return float(table.get(0, 1.0)), float(table.get(1, 1.0))
    except (TypeError, ValueError) as error:
        raise type(error)(f"class_weight={shown(class_weight)} is not valid: {error}.") from error
