"""Scores per class: recall and mean exit layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.tasks import Tasks, task_columns

from .staged import Floats, Integers


def class_means(
    values: NDArray[Any], codes: Integers, n_classes: int, weights: Floats | None = None
) -> Floats:
    """Return the mean of a value over the samples of each class.

    Parameters
    ----------
    values : ndarray of shape (n_samples,), of numbers
    codes : ndarray of shape (n_samples,), int
        Column of the true class.
    n_classes : int
    weights : ndarray of shape (n_samples,), default=None

    Returns
    -------
    ndarray of shape (n_classes,), float64
        NaN for a class without samples, or without weight.
    """
    weights = np.ones(len(codes)) if weights is None else weights
    support = np.bincount(codes, weights=weights, minlength=n_classes)
    total = np.bincount(codes, weights=weights * values, minlength=n_classes)
    means = np.full(n_classes, np.nan)
    return np.divide(total, support, where=support > 0, out=means)


def class_scores(
    y_true: NDArray[Any],
    y_pred: NDArray[Any],
    exit_layer: Integers,
    classes: Any,
    weights: Floats | None = None,
) -> dict[str, float]:
    """Return the recall and mean exit layer of each class, as separate scores.

    Parameters
    ----------
    y_true, y_pred : ndarray of shape (n_samples,) or (n_samples, n_tasks)
    exit_layer : ndarray of shape (n_samples,), int
    classes : ndarray of shape (n_classes,), list of such arrays, or None
        Classes to include even if they have no sample. None: those in `y_pred`.
    weights : ndarray of shape (n_samples,), default=None

    Returns
    -------
    dict of str to float
        "recall_<class>" and "mean_exit_layer_<class>", with several tasks "recall_task<t>_<class>"
        and so on; NaN for a class without samples.
    """
    tasks = list(zip(task_columns(y_true), task_columns(y_pred), strict=True))
    known = [None] * len(tasks) if classes is None else Tasks(classes).each
    scores: dict[str, float] = {}
    for task, ((truth, predicted), columns) in enumerate(zip(tasks, known, strict=True)):
        prefix = f"task{task}_" if len(tasks) > 1 else ""
        labels = np.union1d(truth, predicted if columns is None else columns)
        codes = np.searchsorted(labels, truth)
        recall = class_means(truth == predicted, codes, len(labels), weights)
        layer = class_means(exit_layer, codes, len(labels), weights)
        names = [f"{prefix}{label}" for label in labels.tolist()]
        for kind, values in (("recall", recall), ("mean_exit_layer", layer)):
            keys = [f"{kind}_{name}" for name in names]
            scores |= dict(zip(keys, values.tolist(), strict=True))
    return scores


def scores_of_labels(
    codes: Integers,
    y_pred: NDArray[Any],
    exit_layer: Integers,
    labels: NDArray[Any],
    weights: Floats | None = None,
) -> dict[str, float]:
    """Return the recall and mean exit layer of each label, over the samples that have it.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int
        1 if a sample has the label.
    y_pred : ndarray of shape (n_samples, n_labels), int
    exit_layer : ndarray of shape (n_samples,), int
    labels : ndarray of shape (n_labels,)
    weights : ndarray of shape (n_samples,), default=None

    Returns
    -------
    dict of str to float
        "recall_<label>" and "mean_exit_layer_<label>"; NaN for a label that no sample has.
    """
    sample, label = np.nonzero(codes == 1)
    of_label = label, len(labels), None if weights is None else weights[sample]
    recall = class_means(y_pred[sample, label] == 1, *of_label)
    layer = class_means(exit_layer[sample], *of_label)
    pairs = (("recall", recall), ("mean_exit_layer", layer))
    return {
        f"{kind}_{name}": value
        for kind, values in pairs
        for name, value in zip(labels.tolist(), values.tolist(), strict=True)
    }
