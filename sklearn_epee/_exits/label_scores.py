"""Scores of predicted labels, for one task, several tasks or several labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score

from sklearn_epee._checks.labels import check_weights
from sklearn_epee._checks.messages import shown
from sklearn_epee._checks.multilabel import check_label_targets, label_set_score
from sklearn_epee._checks.tasks import (
    Tasks,
    as_target,
    check_any_labels,
    exact_match_score,
    task_columns,
    task_hits,
)

from .wrappers import known_tasks


def task_accuracy_score(
    estimator: Any, X: Any, y: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    """Return the mean accuracy over the tasks of a fitted classifier.

    It is a scorer, to be passed as it is: ``scoring=task_accuracy_score``, or inside a dict. The
    accuracy of a classifier of several tasks, its ``score``, is stricter: it counts the samples
    that are right in every task.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier whose `predict` returns an array of shape (n_samples, n_tasks). With one
        task, of shape (n_samples,), the score is the accuracy; of several labels it is the share
        of all pairs of a sample and a label that are right.
    X : array-like of shape (n_samples, ...)
        Samples accepted by `estimator`.
    y : array-like of shape (n_samples, n_tasks)
        True labels.
    sample_weight : array-like of shape (n_samples,), default=None
        Sample weights.

    Returns
    -------
    score : float
        From 0 to 1.

    Raises
    ------
    ValueError
        If `y` has not one label for each task of each sample.

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from sklearn_epee.metrics import task_accuracy_score
    >>> tree = DecisionTreeClassifier().fit([[0], [1]], [["no", "left"], ["yes", "right"]])
    >>> task_accuracy_score(tree, [[0], [1]], [["no", "left"], ["yes", "left"]])
    0.75
    """
    y_pred = np.asarray(estimator.predict(X))
    tasks = known_tasks(estimator) if y_pred.ndim == 2 else None
    if tasks is not None and tasks.multilabel:
        codes = label_codes(y, tasks, len(y_pred))
        each = None if sample_weight is None else check_weights(sample_weight, len(y_pred))
        return share_of_labels(codes, y_pred, each)
    y = as_target(check_any_labels(y, len(y_pred), type(estimator).__name__))
    weights = None if sample_weight is None else check_weights(sample_weight, len(y_pred))
    if y_pred.ndim == 1:
        with naming_y():
            return float(accuracy_score(y, y_pred, sample_weight=weights))
    hits = task_hits(y, y_pred).mean(axis=1)
    return float(np.average(hits, weights=weights))


# With a dict of scorers and sample weights in `fit`, scikit-learn's searches call this method on
# every scorer, including plain functions.
vars(task_accuracy_score)["_accept_sample_weight"] = lambda: True


def share_of_labels(
    codes: NDArray[np.int64], y_pred: NDArray[Any], weights: NDArray[np.float64] | None
) -> float:
    """Return the share of correct labels, over all known labels of all samples."""
    known = codes >= 0
    weights = np.ones(len(codes)) if weights is None else weights
    each = np.broadcast_to(weights[:, np.newaxis], codes.shape)[known]
    return float(np.average((codes == y_pred)[known], weights=each))


def positive_f1_score(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    negative_class: Any,
    average: str = "micro",
    sample_weight: ArrayLike | None = None,
    zero_division: float = 0.0,
) -> float:
    """Return the F1 score over all classes but the negative one.

    It is the usual score of relation extraction, where most pairs are in no relation: true
    negatives (pairs correctly predicted to be in no relation) do not count, false positives and
    false negatives lower the score. With ``average="micro"`` it equals
    ``f1_score(y_true, y_pred, labels=[...], average="micro")`` with the labels of all other
    classes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.
    y_pred : array-like of shape (n_samples,)
        Predicted labels.
    negative_class : label
        The class without relation, such as "false" or 0.
    average : {"micro", "macro"}, default="micro"
        "micro" counts over the samples of all positive classes together; "macro" is the mean of
        the F1 scores of the positive classes that are in `y_true` or `y_pred`.
    sample_weight : array-like of shape (n_samples,), default=None
        Sample weights.
    zero_division : {0.0, 1.0, np.nan}, default=0.0
        The score if a class, or all classes, have neither true nor predicted samples.

    Returns
    -------
    score : float
        From 0 to 1.

    Raises
    ------
    ValueError
        If `negative_class` is neither in `y_true` nor in `y_pred`, `average` is invalid, or there
        are several tasks.

    See Also
    --------
    positive_f1_scorer : The scorer, for ``scoring=``.

    Examples
    --------
    >>> from sklearn_epee.metrics import positive_f1_score
    >>> y_true = ["false", "false", "effect", "advise"]
    >>> y_pred = ["false", "effect", "effect", "false"]
    >>> positive_f1_score(y_true, y_pred, negative_class="false")
    0.5
    """
    check_average(average)
    truth, predicted = np.asarray(y_true), np.asarray(y_pred)
    if truth.ndim != 1 or predicted.ndim != 1:
        raise ValueError(
            "positive_f1_score is for one task: y_true and y_pred must have shape (n_samples,); "
            f"got {truth.shape} and {predicted.shape}."
        )
    labels = np.union1d(truth, predicted).tolist()
    if negative_class not in labels:
        raise ValueError(
            f"negative_class={negative_class!r} is neither in y_true nor in y_pred, whose labels "
            f"are {shown(labels)}."
        )
    positive = [label for label in labels if label != negative_class]
    if not positive:
        return float(zero_division)
    score = f1_score(
        truth,
        predicted,
        labels=positive,
        average=average,
        sample_weight=sample_weight,
        zero_division=zero_division,
    )
    return float(score)


def check_average(average: Any) -> None:
    """Raise unless `average` is "micro" or "macro"."""
    if not isinstance(average, str) or average not in ("micro", "macro"):
        raise ValueError(f"average must be 'micro' or 'macro'; got {average!r}.")


@contextmanager
def naming_y() -> Iterator[None]:
    """Name y in errors of scikit-learn's metrics, such as for a mix of strings and numbers."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"y cannot be compared with the predicted labels: {error}") from error


def share_correct(
    y: ArrayLike,
    y_pred: NDArray[Any],
    sample_weight: ArrayLike | None,
    name: str,
    tasks: Tasks | None = None,
) -> float:
    """Return the share of samples that are predicted correctly, in every task or label.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_tasks)
        True labels.
    y_pred : ndarray of the same shape
    sample_weight : array-like of shape (n_samples,) or None
    name : str
        Class name of the estimator, for messages.
    tasks : Tasks, default=None
        The classes, or labels, that are predicted; required for several labels.

    Raises
    ------
    TypeError, ValueError
        If `y` or `sample_weight` is not as described.
    """
    if tasks is not None and tasks.multilabel:
        codes = label_codes(y, tasks, len(y_pred))
        weights = None if sample_weight is None else check_weights(sample_weight, len(y_pred))
        return label_set_score(codes, y_pred, weights)
    y_true = as_target(check_any_labels(y, len(y_pred), name))
    weights = None if sample_weight is None else check_weights(sample_weight, len(y_pred))
    with naming_y():
        if y_pred.ndim == 1:
            return float(accuracy_score(y_true, y_pred, sample_weight=weights))
        return exact_match_score(y_true, y_pred, weights)


def label_codes(y: Any, tasks: Tasks, n_samples: int) -> NDArray[np.int64]:
    """Return which labels samples have, for any format of y: 1, 0, or -1 if unknown.

    Raises
    ------
    TypeError, ValueError
        If `y` does not fit the labels of `tasks` or the number of samples.
    """
    return check_label_targets(y, n_samples, np.asarray(tasks.classes)).codes


def label_scores(
    y_true: ArrayLike, y_pred: NDArray[Any], sample_weight: ArrayLike | None
) -> dict[str, float]:
    """Return scores of predictions; for several tasks, the exact match and means over tasks."""
    if y_pred.ndim == 1:
        with naming_y():
            return _scores_of_one(np.asarray(y_true), y_pred, sample_weight)
    exact = exact_match_score(y_true, y_pred, sample_weight)
    pairs = zip(task_columns(y_true), task_columns(y_pred), strict=True)
    scores = [_scores_of_one(truth, labels, sample_weight) for truth, labels in pairs]
    means = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
    return {**means, "task_accuracy": means["accuracy"], "accuracy": exact}


def _scores_of_one(
    y_true: NDArray[Any], y_pred: NDArray[Any], sample_weight: ArrayLike | None
) -> dict[str, float]:
    """Return scores of predictions, without warnings for classes that a small fold lacks."""
    # The recall of classes without true samples is undefined and left out of the mean. An F1 score
    # is undefined only for classes without weight and counts as 0, as in "f1_macro".
    common = {"sample_weight": sample_weight, "average": "macro"}
    recall = recall_score(y_true, y_pred, zero_division=np.nan, **common)
    return {
        "accuracy": float(accuracy_score(y_true, y_pred, sample_weight=sample_weight)),
        "balanced_accuracy": float(recall),
        "macro_f1": float(f1_score(y_true, y_pred, zero_division=0.0, **common)),
    }
