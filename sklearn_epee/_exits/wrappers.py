"""Find the classifier with early exits inside pipelines, searches and other wrappers.

`step_inwards` handles each kind of wrapper; the other functions call it repeatedly. See `protocol`
for the methods and attributes that the classifier needs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._compat import BaseSearchCV

from .checks import check_patience, check_tau
from .staged import StagedPredictions

_METHODS = ("staged_predict_proba", "predict_with_exits")


@dataclass(frozen=True)
class Step:
    """One step from a wrapper to the estimator inside.

    Attributes
    ----------
    inner : estimator
    is_transparent : bool
        Whether predictions and exits are those of `inner`, and with them the exit policy.
    attribute : str or None
        Attribute of the wrapper that holds `inner`; None for pipelines and frozen estimators.
    """

    inner: Any
    is_transparent: bool = True
    attribute: str | None = None


class FoundExits(NamedTuple):
    """The classifier with early exits inside a fitted estimator.

    Attributes
    ----------
    classifier : estimator
    X : samples
        Input of the classifier, after the steps of pipelines.
    is_transparent : bool
        Whether the estimator is known to predict the same labels as the classifier.
    """

    classifier: Any
    X: Any
    is_transparent: bool


class OwnPolicy(NamedTuple):
    """The exit policy of a fitted estimator, and how it combines visited exits.

    Attributes
    ----------
    tau : float or None
        None if no policy is found, because the estimator has other exit rules.
    patience : int or None
    exit_ensemble : {None, "mean", "weighted"}
    exit_loss_weights : str or array-like
    joint_exit : {"all", "any", "mean"}
    label_thresholds : None, float or array-like
        Probability above which each of several labels is predicted; None means 0.5.
    min_exit_layer : int
        The first layer at which samples may exit.
    """

    tau: float | None
    patience: int | None
    exit_ensemble: str | None
    exit_loss_weights: Any
    joint_exit: str
    label_thresholds: Any = None
    min_exit_layer: int = 1


# ------------------------------------------------------------------------------- one step


def step_inwards(estimator: Any, *, fitted: bool = True) -> Step | None:
    """Return the step from a wrapper to what it wraps, or None if it is not a wrapper.

    Parameters
    ----------
    estimator : estimator
    fitted : bool, default=True
        Whether to step to the fitted estimator of a wrapper if there is one; otherwise always to
        the estimator that it was given.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the inner estimator is not known before `fit`.
    ValueError
        If a search was fitted without refit.
    """
    if isinstance(estimator, Pipeline):
        return Step(estimator.steps[-1][1])
    if isinstance(estimator, FrozenEstimator):
        return Step(estimator.estimator)
    is_search = isinstance(estimator, BaseSearchCV) or hasattr(estimator, "best_estimator_")
    if is_search or getattr(estimator, "delegates_exit_policy", False):
        attribute = "best_estimator_" if is_search else "estimator_"
        return _transparent_step(estimator, attribute, fitted)
    return _opaque_step(estimator) if fitted else None


def _transparent_step(estimator: Any, attribute: str, fitted: bool) -> Step:
    """Step into a wrapper whose predictions are those of its inner estimator."""
    if not fitted:
        return Step(estimator.estimator, attribute=attribute)
    if getattr(estimator, "refit", True) is False and hasattr(estimator, "cv_results_"):
        raise ValueError(
            f"{type(estimator).__name__} was fitted with refit=False and holds no fitted "
            "estimator to measure; fit it with refit=True or a refit rule."
        )
    inner = getattr(estimator, attribute, None)
    return Step(estimator.estimator if inner is None else inner, attribute=attribute)


def _opaque_step(estimator: Any) -> Step | None:
    """Step into a fitted wrapper whose predictions may differ from those of its inner estimator."""
    if hasattr(estimator, "estimator_"):  # a tuned or fixed threshold, for example
        return Step(estimator.estimator_, is_transparent=False, attribute="estimator_")
    calibrated: Any = getattr(estimator, "calibrated_classifiers_", ())
    if len(calibrated) == 1:
        return Step(calibrated[0].estimator, is_transparent=False)
    if hasattr(estimator, "estimator") and hasattr(estimator, "fit"):
        check_is_fitted(estimator)  # not fitted yet, or with several inner estimators
    return None


# ------------------------------------------------------------------------------- all steps


def chain(estimator: Any) -> Iterator[Any]:
    """Yield a fitted estimator, the estimator that it wraps, and so on.

    Parameters
    ----------
    estimator : estimator

    Yields
    ------
    estimator
    """
    while True:
        yield estimator
        step = step_inwards(estimator)
        if step is None:
            return
        estimator = step.inner


def find_exits(estimator: Any, X: Any) -> FoundExits:
    """Return the classifier with early exits in a fitted estimator, and its input.

    Parameters
    ----------
    estimator : estimator
    X : samples
        Input of `estimator`; the steps of pipelines are applied.

    Returns
    -------
    FoundExits

    Raises
    ------
    TypeError
        If there is none. The message names the estimators that were searched.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.
    """
    path = [type(estimator).__name__]
    is_transparent = True
    while not hasattr(estimator, "predict_with_exits"):
        step = step_inwards(estimator)
        if step is None:
            raise TypeError(
                "estimator must be a classifier with early exits (one with a method "
                "predict_with_exits), or a pipeline, search object or wrapper around a single one; "
                f"got {' > '.join(path)}."
            )
        if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
            X = estimator[:-1].transform(X)
        is_transparent &= step.is_transparent
        estimator = step.inner
        path.append(type(estimator).__name__)
    check_is_fitted(estimator, "n_layers_")
    return FoundExits(estimator, X, is_transparent)


def innermost(estimator: Any, X: Any) -> FoundExits:
    """Return the classifier with early exits inside all wrappers, including those with a policy.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : samples
        Input of `estimator`; the steps of pipelines are applied.

    Raises
    ------
    TypeError, sklearn.exceptions.NotFittedError
        As `find_exits`.
    """
    found = find_exits(estimator, X)
    while (step := step_inwards(found.classifier)) is not None:
        found = find_exits(step.inner, found.X)
    return found


def check_has_exits(estimator: Any) -> None:
    """Raise if an estimator, fitted or not, has no classifier with parameters of an exit policy.

    Parameters
    ----------
    estimator : estimator

    Raises
    ------
    TypeError
        The message names the estimators that were searched.
    """
    _classifier_with_policy(estimator, fitted=False)


def given_classifier(estimator: Any) -> Any:
    """Return the classifier with early exits that an estimator was given, fitted or not.

    Raises
    ------
    TypeError
        As `check_has_exits`.
    """
    return _classifier_with_policy(estimator, fitted=False)


def check_predicts_samples(estimator: Any) -> None:
    """Raise if a fitted estimator predicts words instead of samples.

    Raises
    ------
    TypeError
        The message says what can be used with a token classifier.
    """
    words = [link for link in chain(estimator) if predicts_words(link)]
    if words:
        raise TypeError(
            f"{type(words[-1]).__name__} predicts words, and this is for classifiers with one "
            "prediction for each sample. TunedExitPolicyClassifierCV and ExitTradeoffDisplay take "
            "it; so does GridSearchCV over tau, patience, token_exit and joint_exit with "
            "scoring=exit_scores or span_f1_scorer() from sklearn_epee.metrics."
        )


def exit_classifier(estimator: Any) -> Any:
    """Return the classifier with early exits whose policy is that of a fitted estimator.

    Raises
    ------
    TypeError
        As `check_has_exits`, for example if a search selected a classifier without early exits.
    """
    return _classifier_with_policy(estimator, fitted=True)


def _classifier_with_policy(estimator: Any, *, fitted: bool) -> Any:
    path = [type(estimator).__name__]
    while not _has_policy(estimator):
        step = step_inwards(estimator, fitted=fitted)
        if step is None or not step.is_transparent:
            raise TypeError(
                "estimator must be a classifier with early exits (one with the methods "
                f"{' and '.join(_METHODS)} and the parameters tau and patience), or a pipeline, "
                "search object, FrozenEstimator or ExitCalibratedClassifier that ends in one; got "
                f"{' > '.join(path)}."
            )
        estimator = step.inner
        path.append(type(estimator).__name__)
    return estimator


def _has_policy(estimator: Any) -> bool:
    if isinstance(estimator, FrozenEstimator) or not hasattr(estimator, "get_params"):
        return False  # frozen estimators have the attributes of the inner one, not its parameters
    parameters = set(estimator.get_params(deep=False))
    # A wrapper with a policy of its own does not count: it would conflict with the inner one.
    has_policy = {"tau", "patience"} <= parameters and "estimator" not in parameters
    return has_policy and all(hasattr(estimator, name) for name in _METHODS)


# ------------------------------------------------------------ predictions, and another policy


def known_tasks(estimator: Any) -> Tasks | None:
    """Return the classes or labels that a fitted estimator predicts; None if they are unknown.

    Parameters
    ----------
    estimator : estimator
        The outermost estimator with ``classes_`` counts. ``multilabel_`` says whether they are
        labels, of which a sample may have any number.

    Returns
    -------
    Tasks or None
    """
    for link in chain(estimator):
        if hasattr(link, "classes_"):
            classes, multilabel = link.classes_, is_multilabel(link)
            return Tasks(classes if isinstance(classes, list) else np.asarray(classes), multilabel)
    return None


def check_labels_known(estimator: Any, y: Any) -> None:
    """Raise if `y` has labels that a fitted estimator does not know.

    Raises
    ------
    ValueError
    """
    tasks = known_tasks(estimator)
    if tasks is not None:
        tasks.check_known(y)


def is_multilabel(estimator: Any) -> bool:
    """Return whether a fitted estimator predicts several labels per sample."""
    links = chain(estimator)
    return any(bool(getattr(link, "multilabel_", False)) for link in links)


def target_type_of(estimator: Any) -> str:
    """Return the `target_type` of the classifier in an estimator, fitted or not.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    {"auto", "multilabel", "tasks"}
        "tasks" for a classifier without this parameter, which does not support several labels.
    """
    while not hasattr(estimator, "target_type"):
        step = step_inwards(estimator, fitted=False)
        if step is None:
            return "tasks"
        estimator = step.inner
    return str(estimator.target_type)


def staged_predictions(estimator: Any, X: Any) -> tuple[StagedPredictions, Tasks]:
    """Return the predictions of every exit of a fitted estimator, from one forward pass.

    Parameters
    ----------
    estimator : estimator
    X : samples
        Input of `estimator`; the steps of pipelines are applied.

    Returns
    -------
    staged : StagedPredictions
    tasks : Tasks
        The classes, or labels, that are predicted.

    Raises
    ------
    TypeError
        If there is no classifier with early exits, or it predicts words.
    """
    found = find_exits(estimator, X)
    check_predicts_samples(found.classifier)
    layers = list(found.classifier.staged_predict_proba(found.X))
    own = own_policy(estimator)
    combined = own.exit_ensemble, own.exit_loss_weights, own.joint_exit
    classes = found.classifier.classes_
    if is_multilabel(found.classifier):
        proba = np.stack(layers, axis=1)
        staged = StagedPredictions.from_labels(
            proba, *combined, own.label_thresholds, min_exit_layer=own.min_exit_layer
        )
        tasks = Tasks(np.asarray(classes), multilabel=True)
    elif isinstance(layers[0], list):
        staged = StagedPredictions.from_proba(
            stack_tasks(layers), *combined, min_exit_layer=own.min_exit_layer
        )
        tasks = Tasks(classes)
    else:
        proba = np.stack(layers, axis=1)
        staged = StagedPredictions.from_proba([proba], *combined, min_exit_layer=own.min_exit_layer)
        tasks = Tasks(np.asarray(classes))
    costs, towers = exit_costs(found.classifier), tower_layers(found.classifier)
    if costs is not None or towers is not None:
        staged = staged.with_costs(costs, towers)
    return staged, tasks


def visited_proba(estimator: Any, X: Any) -> NDArray[np.floating]:
    """Return the probabilities of the exits that samples visit under the estimator's policy.

    Parameters
    ----------
    estimator : estimator
        Fitted, with one task.
    X : samples
        Input of `estimator`; the steps of pipelines are applied.

    Returns
    -------
    ndarray of shape (n_samples, n_layers, n_classes)
        NaN above the exit of a sample, and at exits that it does not have. If the classifier has
        `visited_predict_proba`, layers above the exits are not computed.

    Raises
    ------
    TypeError
        If there is no classifier with early exits.
    """
    found = find_exits(estimator, X)
    if hasattr(found.classifier, "visited_predict_proba"):
        return np.asarray(found.classifier.visited_predict_proba(found.X))
    staged, _ = staged_predictions(found.classifier, found.X)
    exits = own_exit_layers(staged, own_policy(estimator))
    return np.where(staged.visited(exits)[..., np.newaxis], staged.head_proba[0], np.nan)


def own_exit_layers(staged: StagedPredictions, policy: OwnPolicy) -> NDArray[np.int64]:
    """Return the exit layer of each sample under the estimator's own policy.

    Parameters
    ----------
    staged : StagedPredictions
    policy : OwnPolicy
        With a tau; otherwise a TypeError is raised.
    """
    if policy.tau is None:
        raise TypeError(
            "estimator must be a classifier that exits by the parameters tau and patience; got one "
            "that exits by rules of its own."
        )
    patience = check_patience(policy.patience, staged.n_layers)
    return staged.exit_layers(check_tau(policy.tau), patience)


def exit_costs(classifier: Any) -> NDArray[np.float64] | None:
    """Return the cost of each exit of a fitted classifier, as a share of that of all layers.

    None if the classifier has no `exit_costs_`: then all layers cost the same.
    """
    costs = getattr(classifier, "exit_costs_", None)
    return None if costs is None else np.asarray(costs, dtype=np.float64)


def tower_layers(classifier: Any) -> tuple[int, ...] | None:
    """Return the number of layers of each tower of a fitted classifier; None if it has no towers.

    If a sample has other exits in the tower of a missing exit, that exit was skipped.
    """
    layers = getattr(classifier, "n_tower_layers_", None)
    return None if layers is None else tuple(int(number) for number in layers)


def predicts_words(classifier: Any) -> bool:
    """Return whether a classifier predicts the words of its samples: it has `predict_tags`."""
    return hasattr(classifier, "predict_tags")


def stack_tasks(layers: list[list[Any]]) -> list[Any]:
    """Stack lists of one array per task for each layer into one array per task."""
    return [np.stack(task, axis=1) for task in zip(*layers, strict=True)]


def own_policy(estimator: Any) -> OwnPolicy:
    """Return the exit policy of a fitted estimator; that of the outermost wrapper counts.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    OwnPolicy
    """
    links = list(chain(estimator))
    chosen = ((link.best_tau_, link.best_patience_) for link in links if hasattr(link, "best_tau_"))
    given = ((link.tau, link.patience) for link in links if hasattr(link, "tau"))
    tau, patience = next(chosen, None) or next(given, (None, None))

    def first(name: str, default: Any) -> Any:
        return next((getattr(link, name) for link in links if hasattr(link, name)), default)

    return OwnPolicy(
        tau=tau,
        patience=patience,
        exit_ensemble=first("exit_ensemble", None),
        # The fitted weights are used even if the parameter has been changed since.
        exit_loss_weights=first("exit_weights_", first("exit_loss_weights", "ascending")),
        joint_exit=first("joint_exit", "all"),
        label_thresholds=first("label_thresholds", None),
        min_exit_layer=first("min_exit_layer", 1),
    )


def with_policy(
    estimator: Any,
    tau: float,
    patience: int | None,
    min_exit_layer: int | None = None,
    joint_exit: str | None = None,
) -> Any:
    """Return a copy of a fitted estimator with another exit policy.

    The fitted networks are shared with `estimator`, whose own policy is unchanged.

    Parameters
    ----------
    estimator : estimator
    tau : float
    patience : int or None
    min_exit_layer : int or None, default=None
        None: unchanged.
    joint_exit : str or None, default=None
        None: unchanged.

    Returns
    -------
    estimator
    """

    def changed(classifier: Any) -> Any:
        optional = {"min_exit_layer": min_exit_layer, "joint_exit": joint_exit}
        changes = {
            name: value
            for name, value in optional.items()
            if value is not None and hasattr(classifier, name)
        }
        return copy.copy(classifier).set_params(tau=tau, patience=patience, **changes)

    return with_classifier(estimator, changed)


def with_classifier(estimator: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a fitted estimator with another classifier with early exits inside.

    Parameters
    ----------
    estimator : estimator
        Not modified; everything except for the classifier is shared with the copy.
    change : callable
        Takes the fitted classifier with early exits and returns its replacement.

    Returns
    -------
    estimator

    Raises
    ------
    TypeError
        If there is no classifier with early exits in `estimator`.
    """
    if _has_policy(estimator):
        return change(estimator)
    exit_classifier(estimator)  # raises with the whole path where there is none
    step: Any = step_inwards(estimator)
    return with_inner(estimator, step, with_classifier(step.inner, change))


def with_inner(estimator: Any, step: Step, inner: Any) -> Any:
    """Return a copy of a wrapper with another inner estimator.

    Parameters
    ----------
    estimator : estimator
        Not modified.
    step : Step
        Step from `estimator` to its current inner estimator.
    inner : estimator
        Fitted.

    Returns
    -------
    estimator
    """
    if isinstance(estimator, FrozenEstimator):
        return FrozenEstimator(inner)
    twin = copy.copy(estimator)
    if isinstance(estimator, Pipeline):
        twin.steps = [*estimator.steps[:-1], (estimator.steps[-1][0], inner)]
    else:
        setattr(twin, str(step.attribute), inner)
    return twin
