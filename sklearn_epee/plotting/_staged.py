"""What displays are made of: true classes and the probabilities of all exits, from one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import column_or_1d

from sklearn_epee.metrics import _inner_estimator, _unwrap
from sklearn_epee.model_selection._policy_space import StagedProbabilities

# Sums of probabilities in half precision are off by less than this.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class StagedPredictions:
    """True classes and the probabilities of all exits.

    Attributes
    ----------
    codes : ndarray of shape (n_samples,), int64
        Column of the true class.
    proba : ndarray of shape (n_samples, n_layers, n_classes)
    classes : ndarray of shape (n_classes,)
    """

    codes: NDArray[np.int64]
    proba: NDArray[np.floating]
    classes: NDArray[Any]

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.proba.shape[1]

    def answers(
        self, exit_ensemble: str | None = None, exit_loss_weights: Any = "ascending"
    ) -> StagedProbabilities:
        """Give what each exit answers, and what decides whether a sample leaves there."""
        return StagedProbabilities.from_proba(self.proba, exit_ensemble, exit_loss_weights)


@dataclass(frozen=True)
class OwnPolicy:
    """How a fitted estimator leaves and answers.

    Attributes
    ----------
    tau : float or None
        None if no policy is found: the estimator leaves by rules of its own.
    patience : int or None
    exit_ensemble : {None, "mean", "weighted"}
    exit_loss_weights : str or array-like
    """

    tau: float | None
    patience: int | None
    exit_ensemble: str | None
    exit_loss_weights: Any


def from_arrays(y_true: ArrayLike, staged_proba: ArrayLike, labels: ArrayLike | None) -> Any:
    """Check true labels and staged probabilities.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
    staged_proba : array-like of shape (n_samples, n_layers, n_classes)
    labels : array-like of shape (n_classes,) or None
        The class of each column; None: the sorted labels in `y_true`.

    Returns
    -------
    StagedPredictions

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or they do not fit together.
    """
    proba = _check_proba(staged_proba)
    truth: NDArray[Any] = np.asarray(column_or_1d(y_true))
    if len(truth) != len(proba):
        raise ValueError(
            "staged_proba must have one row for each sample of y_true, shape (n_samples, n_layers, "
            f"n_classes); got {proba.shape} for {len(truth)} labels. The arrays of "
            "staged_predict_proba are to be stacked along axis 1."
        )
    classes = _check_classes(truth, labels, proba.shape[2])
    order = np.argsort(classes)
    codes = order[np.searchsorted(classes, truth, sorter=order)]
    return StagedPredictions(codes, proba, classes)


def ask_estimator(estimator: Any, X: Any, y: ArrayLike) -> StagedPredictions:
    """Ask a fitted estimator for all exits in one forward pass.

    Parameters
    ----------
    estimator : estimator
        A classifier with early exits, or a pipeline, search or wrapper around one.
    X : samples
    y : array-like of shape (n_samples,)

    Returns
    -------
    StagedPredictions

    Raises
    ------
    TypeError
        If the classifier answers several tasks.
    ValueError
        If `y` does not fit.
    """
    classifier, inner_X = _unwrap(estimator, X)
    if isinstance(classifier.classes_, list):
        raise TypeError(
            f"{type(estimator).__name__} answers {len(classifier.classes_)} tasks, and a display "
            "shows one. Draw task t with from_predictions(y[:, t], np.stack([layer[t] for layer in "
            "classifier.staged_predict_proba(X)], axis=1)); its exits are then those of the task "
            "alone."
        )
    proba = np.stack(list(classifier.staged_predict_proba(inner_X)), axis=1)
    return from_arrays(y, proba, classifier.classes_)


def own_policy(estimator: Any) -> OwnPolicy:
    """Read by which policy a fitted estimator leaves; of wrapped ones the outermost counts.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    OwnPolicy
    """
    chain = list(_chain(estimator))
    chosen = ((c.best_tau_, c.best_patience_) for c in chain if hasattr(c, "best_tau_"))
    given = ((c.tau, c.patience) for c in chain if hasattr(c, "tau"))
    tau, patience = next(chosen, None) or next(given, (None, None))
    return OwnPolicy(
        tau=tau,
        patience=patience,
        exit_ensemble=_first(chain, "exit_ensemble", None),
        exit_loss_weights=_first(chain, "exit_loss_weights", "ascending"),
    )


def _chain(estimator: Any) -> Iterator[Any]:
    """Give the estimator, what it wraps, and so on."""
    while estimator is not None:
        yield estimator
        is_pipeline = isinstance(estimator, Pipeline)
        estimator = estimator.steps[-1][1] if is_pipeline else _inner_estimator(estimator)[0]


def _first(chain: list[Any], name: str, default: Any) -> Any:
    return next((getattr(link, name) for link in chain if hasattr(link, name)), default)


def _check_proba(staged_proba: ArrayLike) -> NDArray[np.floating]:
    proba = np.asarray(staged_proba)
    if proba.dtype.kind not in "iuf":
        raise TypeError(f"staged_proba must be an array of numbers; got dtype {proba.dtype}.")
    if proba.ndim != 3 or 0 in proba.shape:
        raise ValueError(
            "staged_proba must have shape (n_samples, n_layers, n_classes), none of them 0; got "
            f"{proba.shape}."
        )
    sums = proba.sum(axis=2, dtype=np.float64)
    if not (proba.min() >= 0 and np.abs(sums - 1).max() <= _SUM_TOLERANCE):  # false for NaN too
        raise ValueError(
            "staged_proba must hold probabilities that sum to 1 over the classes (the last axis); "
            f"got values from {proba.min():.4g} to {proba.max():.4g} and sums from "
            f"{sums.min():.4g} to {sums.max():.4g}."
        )
    return proba.astype(np.float32 if proba.dtype.itemsize <= 4 else np.float64, copy=False)


def _check_classes(y_true: NDArray[Any], labels: ArrayLike | None, n_classes: int) -> NDArray[Any]:
    classes = np.unique(y_true) if labels is None else np.asarray(column_or_1d(labels))
    if len(classes) != n_classes:
        where = "labels has" if labels is not None else "y_true has"
        advice = "" if labels is not None else " Give the class of each column as labels."
        raise ValueError(
            f"staged_proba has {n_classes} columns, one a class, but {where} {len(classes)} "
            f"classes: {classes.tolist()}.{advice}"
        )
    if len(np.unique(classes)) != n_classes:
        raise ValueError(f"labels must differ from each other; got {classes.tolist()}.")
    unknown = np.setdiff1d(y_true, classes)
    if len(unknown):
        raise ValueError(
            f"y_true holds the labels {unknown.tolist()}, which are not among the classes "
            f"{classes.tolist()}."
        )
    return classes
