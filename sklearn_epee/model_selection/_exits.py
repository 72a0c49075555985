"""Estimators with early exits inside pipelines and wrappers: find them, ask them, set their policy.

Everything goes through the public methods of the estimators.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from sklearn_epee._compat import BaseSearchCV
from sklearn_epee.metrics import _unwrap

_NEEDED = ("staged_predict_proba", "predict_with_exits")


@dataclass(frozen=True)
class Staged:
    """What all exits of a fitted classifier say about some samples.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_layers, n_classes), or list of such arrays
        A list with one array a task if there are several.
    classes : ndarray of shape (n_classes,), or list of such arrays
    exit_ensemble : {None, "mean", "weighted"}
    exit_loss_weights : str or array-like
    joint_exit : {"all", "any", "mean"}
    """

    proba: Any
    classes: Any
    exit_ensemble: str | None
    exit_loss_weights: Any
    joint_exit: str = "all"

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return (self.proba[0] if isinstance(self.proba, list) else self.proba).shape[1]


def check_has_exits(estimator: Any) -> None:
    """Refuse an estimator, fitted or not, that ends in no classifier with early exits.

    Raises
    ------
    TypeError
        The message shows the way that was searched.
    """
    _innermost(estimator, _given)


def exit_classifier(estimator: Any) -> Any:
    """Give the classifier with early exits that a fitted estimator ends in.

    Raises
    ------
    TypeError
        As `check_has_exits`: a search may have preferred a classifier without early exits.
    """
    return _innermost(estimator, _fitted)


def _innermost(estimator: Any, inner_of: Callable[[Any], Any]) -> Any:
    path = [type(estimator).__name__]
    while not _has_exits(estimator):
        inner = inner_of(estimator)
        if inner is None:
            raise TypeError(
                "estimator must be a classifier with early exits (one with the methods "
                f"{' and '.join(_NEEDED)} and the parameters tau and patience), or a pipeline, "
                "search object, FrozenEstimator or ExitCalibratedClassifier that ends in one; got "
                f"{' > '.join(path)}."
            )
        estimator = inner
        path.append(type(inner).__name__)
    return estimator


def _has_exits(estimator: Any) -> bool:
    if isinstance(estimator, FrozenEstimator) or not hasattr(estimator, "get_params"):
        return False  # frozen estimators have all attributes of what they hold, but its parameters
    parameters = set(estimator.get_params(deep=False))
    # A wrapper with a policy of its own would be overruled, or overrule.
    has_policy = {"tau", "patience"} <= parameters and "estimator" not in parameters
    return has_policy and all(hasattr(estimator, name) for name in _NEEDED)


def _given(estimator: Any) -> Any:
    """Give what a wrapper was made with; None if it is not looked through."""
    if isinstance(estimator, Pipeline):
        return estimator.steps[-1][1]
    is_looked_through = isinstance(estimator, FrozenEstimator) or _fitted_name(estimator)
    return estimator.estimator if is_looked_through else None


def _fitted(estimator: Any) -> Any:
    """Give what a wrapper has fitted, or was made with where it is not fitted."""
    name = _fitted_name(estimator)
    return _given(estimator) if name is None else getattr(estimator, name, estimator.estimator)


def _fitted_name(estimator: Any) -> str | None:
    """Give the attribute in which a wrapper keeps what it has fitted, if that has the policy."""
    if isinstance(estimator, FrozenEstimator):
        return None  # it answers for what it holds
    if isinstance(estimator, BaseSearchCV):
        return "best_estimator_"
    return "estimator_" if getattr(estimator, "_leaves_as_inner", False) else None


def staged_predictions(estimator: Any, X: Any) -> Staged:
    """Ask a fitted estimator for the probabilities of every exit, in one forward pass.

    Parameters
    ----------
    estimator : estimator
    X : samples
        As `estimator` takes them; the steps of a pipeline are applied.

    Returns
    -------
    Staged
    """
    classifier, inner_X = _unwrap(estimator, X)
    layers = list(classifier.staged_predict_proba(inner_X))
    several = isinstance(layers[0], list)
    classes = classifier.classes_ if several else np.asarray(classifier.classes_)
    classifier = exit_classifier(estimator)  # wrappers that answer need not know how
    return Staged(
        proba=stacked_tasks(layers) if several else np.stack(layers, axis=1),
        classes=classes,
        exit_ensemble=getattr(classifier, "exit_ensemble", None),
        exit_loss_weights=getattr(classifier, "exit_loss_weights", "ascending"),
        joint_exit=getattr(classifier, "joint_exit", "all"),
    )


def stacked_tasks(layers: list[list[NDArray[np.floating]]]) -> list[NDArray[np.floating]]:
    """Turn lists of tasks, one a layer, into one array of all layers a task."""
    return [np.stack(task, axis=1) for task in zip(*layers, strict=True)]


def with_policy(estimator: Any, tau: float, patience: int | None) -> Any:
    """Give a copy of a fitted estimator that leaves by another policy.

    What was learned is shared with `estimator`, which keeps its own policy.

    Parameters
    ----------
    estimator : estimator
    tau : float
    patience : int or None

    Returns
    -------
    estimator
    """

    def changed(classifier: Any) -> Any:
        return copy.copy(classifier).set_params(tau=tau, patience=patience)

    return with_classifier(estimator, changed)


def with_classifier(estimator: Any, change: Callable[[Any], Any]) -> Any:
    """Give a copy of a fitted estimator that ends in another classifier with early exits.

    Parameters
    ----------
    estimator : estimator
        It stays as it is; all but the classifier is shared.
    change : callable
        Takes the fitted classifier with early exits and gives the one to put in its place.

    Returns
    -------
    estimator

    Raises
    ------
    TypeError
        If `estimator` ends in another classifier.
    """
    if isinstance(estimator, FrozenEstimator):
        return FrozenEstimator(with_classifier(estimator.estimator, change))
    twin = copy.copy(estimator)
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        twin.steps = [*estimator.steps[:-1], (name, with_classifier(last, change))]
        return twin
    fitted_name = _fitted_name(estimator)
    if fitted_name is None:
        return change(exit_classifier(estimator))
    setattr(twin, fitted_name, with_classifier(getattr(estimator, fitted_name), change))
    return twin
