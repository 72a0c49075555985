"""Data of displays: the predictions of all exits, from one pass, and the true classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import column_or_1d

from sklearn_epee._checks.missing import is_missing
from sklearn_epee._checks.multilabel import labels_above
from sklearn_epee._exits.checks import as_array
from sklearn_epee._exits.label_scores import label_codes
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.wrappers import OwnPolicy, own_policy, staged_predictions

# Tolerance of sums of probabilities, for half precision.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class DisplaySamples:
    """The samples of a display.

    Attributes
    ----------
    staged : StagedPredictions
        Predictions of one task, or of several labels.
    codes : ndarray of shape (n_samples,), int64
        Column of the true class. For several labels (n_samples, n_labels): 1 if a sample has the
        label, 0 if not, -1 if unknown.
    classes : ndarray of shape (n_classes,)
        Classes, or labels.
    multilabel : bool
        Whether samples have several labels.
    """

    staged: StagedPredictions
    codes: NDArray[np.int64]
    classes: NDArray[Any]
    multilabel: bool = False

    @property
    def head_proba(self) -> NDArray[np.floating]:
        """The heads' own probabilities, (n_samples, n_layers, n_classes)."""
        return self.staged.head_proba[0]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the exit of a layer is correct, in all labels, (n_samples, n_layers)."""
        if not self.multilabel:
            hits = self.head_proba.argmax(axis=2) == self.codes[:, np.newaxis]
            return np.asarray(hits)
        thresholds = np.asarray(self.staged.label_thresholds)[:, np.newaxis]
        right = labels_above(self.head_proba, thresholds) == self.codes[:, np.newaxis]
        return np.asarray((right | (self.codes < 0)[:, np.newaxis]).all(axis=2))

    @property
    def layer_accuracy(self) -> NDArray[np.float64]:
        """Fraction of the samples that the exit of each layer predicts correctly, (n_layers,).

        With several labels, over the samples with at least one known label; NaN if there are none.
        """
        hits = self.hits[(self.codes >= 0).any(axis=1)] if self.multilabel else self.hits
        return np.asarray(hits.mean(axis=0)) if len(hits) else np.full(hits.shape[1], np.nan)

    @property
    def layer_entropy(self) -> NDArray[np.float64]:
        """Mean entropy of the exit of each layer, (n_layers,)."""
        return np.asarray(self.staged.head_entropies[..., 0].mean(axis=0))

    @property
    def of_classes(self) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """The row and the class column of each sample, or of each label of each sample."""
        if not self.multilabel:
            return np.arange(len(self.codes)), self.codes
        rows, columns = np.nonzero(self.codes == 1)
        return rows, columns

    def as_pairs(self) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return probabilities and true columns of every sample, or pair of sample and label.

        A label is a task with two classes, so the probabilities of several labels have the shape
        (n_pairs, n_layers, 2).
        """
        if not self.multilabel:
            return self.head_proba, self.codes
        known = self.codes >= 0
        clipped = np.minimum(self.head_proba.transpose(0, 2, 1)[known], 1)
        return np.stack([1 - clipped, clipped], axis=-1), self.codes[known]


def samples_from_arrays(
    y_true: ArrayLike,
    staged_proba: ArrayLike,
    labels: ArrayLike | None,
    exit_ensemble: str | None = None,
    exit_loss_weights: Any = "ascending",
    *,
    min_exit_layer: int = 1,
) -> DisplaySamples:
    """Return the samples of a display, given true labels and staged probabilities.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
    staged_proba : array-like of shape (n_samples, n_layers, n_classes)
    labels : array-like of shape (n_classes,) or None
        The class of each column; None: the sorted labels in `y_true`.
    exit_ensemble : {None, "mean", "weighted"}, default=None
    exit_loss_weights : str or array-like, default="ascending"
    min_exit_layer : int, default=1

    Returns
    -------
    DisplaySamples

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or arguments do not match.
    """
    proba = _check_proba(staged_proba)
    truth = _check_labels("y_true", y_true)
    if len(truth) != len(proba):
        raise ValueError(
            "staged_proba must have one row for each sample of y_true, shape (n_samples, n_layers, "
            f"n_classes); got {proba.shape} for {len(truth)} labels. Create it with "
            "sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))."
        )
    classes = _check_classes(truth, labels, proba.shape[2])
    staged = StagedPredictions.from_proba(
        [proba], exit_ensemble, exit_loss_weights, min_exit_layer=min_exit_layer
    )
    return DisplaySamples(staged, _codes(truth, classes), classes)


def samples_from_estimator(
    estimator: Any, X: Any, y: ArrayLike
) -> tuple[DisplaySamples, OwnPolicy]:
    """Return the predictions of all exits of a fitted estimator, and its policy.

    Parameters
    ----------
    estimator : estimator
        A classifier with early exits, or a pipeline, search or wrapper around one.
    X : samples
    y : array-like of shape (n_samples,)
        True labels; with several labels in any form that `fit` takes.

    Returns
    -------
    samples : DisplaySamples
    policy : OwnPolicy

    Raises
    ------
    TypeError
        If the classifier predicts several tasks.
    ValueError
        If `y` is invalid, or does not match `X`.
    """
    staged, tasks = staged_predictions(estimator, X)
    classes = tasks.classes
    if isinstance(classes, list):
        raise TypeError(
            f"{type(estimator).__name__} predicts {len(classes)} tasks, but a display is for one. "
            "Draw task t with from_predictions(y[:, t], sklearn_epee.policy.stack_layers("
            "classifier.staged_predict_proba(X))[t]); exits then depend on this task only."
        )
    if tasks.multilabel:
        codes = label_codes(y, tasks, staged.n_samples)
        return DisplaySamples(staged, codes, classes, multilabel=True), own_policy(estimator)
    truth = _check_labels("y", y)
    if len(truth) != staged.n_samples:
        raise ValueError(
            f"y must hold one label for each of the {staged.n_samples} samples of X; got "
            f"{len(truth)}."
        )
    _check_known("y", truth, classes)
    return DisplaySamples(staged, _codes(truth, classes), classes), own_policy(estimator)


def _codes(truth: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    order = np.argsort(classes)
    return order[np.searchsorted(classes, truth, sorter=order)].astype(np.int64)


def _check_labels(name: str, given: ArrayLike) -> NDArray[Any]:
    """Return labels as an array of one dimension, or raise."""
    try:
        labels: NDArray[Any] = np.asarray(column_or_1d(given))
        _check_not_missing(labels)
        np.unique(labels)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must hold one label per sample, of one type and shape (n_samples,); {error} "
            "For several labels per sample, use from_estimator."
        ) from error
    return labels


def _check_not_missing(labels: NDArray[Any]) -> None:
    missing = [row for row, label in enumerate(labels.tolist()) if is_missing(label)]
    if missing:
        raise ValueError(
            f"{len(missing)} are missing (None, NaN or NA), the first at row {missing[0]}."
        )


def _check_proba(staged_proba: ArrayLike) -> NDArray[np.floating]:
    proba = as_array("staged_proba", staged_proba)
    if proba.dtype.kind not in "iuf":
        raise TypeError(
            f"staged_proba must be an array of numbers; got dtype {proba.dtype}. "
            "Create it with sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))."
        )
    if proba.ndim != 3 or 0 in proba.shape:
        raise ValueError(
            "staged_proba must have shape (n_samples, n_layers, n_classes), none of them 0; got "
            f"{proba.shape}."
        )
    # NaN in all classes is a missing exit.
    given = proba[~np.isnan(proba).all(axis=2)] if proba.dtype.kind == "f" else proba
    given = given.reshape(-1, proba.shape[2])
    sums = given.sum(axis=1, dtype=np.float64) if len(given) else np.zeros(1)
    if not (given.min(initial=0) >= 0 and np.abs(sums - 1).max() <= _SUM_TOLERANCE):  # nor NaN
        raise ValueError(
            "staged_proba must hold probabilities that sum to 1 over the classes (the last axis); "
            f"got values from {proba.min():.4g} to {proba.max():.4g} and sums from "
            f"{sums.min():.4g} to {sums.max():.4g}."
        )
    return proba.astype(np.float32 if proba.dtype.itemsize <= 4 else np.float64, copy=False)


def _check_classes(y_true: NDArray[Any], labels: ArrayLike | None, n_classes: int) -> NDArray[Any]:
    classes = np.unique(y_true) if labels is None else _check_labels("labels", labels)
    if len(classes) != n_classes:
        where = "labels has" if labels is not None else "y_true has"
        advice = "" if labels is not None else " Pass the class of each column as labels."
        raise ValueError(
            f"staged_proba has {n_classes} columns, one per class, but {where} {len(classes)} "
            f"classes: {classes.tolist()}.{advice}"
        )
    if len(np.unique(classes)) != n_classes:
        raise ValueError(f"labels must differ from each other; got {classes.tolist()}.")
    _check_known("y_true", y_true, classes)
    return classes


def _check_known(name: str, truth: NDArray[Any], classes: NDArray[Any]) -> None:
    """Raise if true labels are not among the classes."""
    try:
        unknown = np.setdiff1d(truth, classes)
    except TypeError as error:  # words and numbers
        raise TypeError(
            f"{name} and the classes {classes.tolist()} are of different types; got labels such "
            f"as {truth[:1].tolist()}."
        ) from error
    if len(unknown):
        raise ValueError(
            f"{name} holds the labels {unknown.tolist()}, which are not among the classes "
            f"{classes.tolist()}."
        )
