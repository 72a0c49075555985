"""Scorers for classifiers with early exits, and rules to choose among exit policies.

An exit policy trades accuracy for speed. The functions here measure both for a fitted early-exit
classifier, also if it is the last step of a :class:`~sklearn.pipeline.Pipeline` or inside a search
object, a :class:`~sklearn.frozen.FrozenEstimator` or another wrapper, at any depth.

The speed-up ratio is ``1 - sum(exit layers) / (n_samples * n_layers)`` [1]_: 0 if every sample
runs through all layers, 0.5 if half of the layers are saved. A speed-up factor such as "2x" is
``1 / (1 - ratio)``.

References
----------
.. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
   arXiv:2503.02053.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import make_scorer

from ._checks.labels import check_weights
from ._checks.tasks import Tasks, as_target, check_any_labels
from ._exits.checks import as_array, check_n_layers
from ._exits.class_scores import class_scores, scores_of_labels
from ._exits.label_scores import (
    check_average,
    label_codes,
    label_scores,
    positive_f1_score,
    task_accuracy_score,
)
from ._exits.multilabel_scores import label_scores_once
from ._exits.search_results import (
    TIE,
    first_of_best,
    have_both_scores,
    mean_test_score,
    parameters_of,
)
from ._exits.wrappers import (
    FoundExits,
    chain,
    exit_costs,
    find_exits,
    is_multilabel,
    predicts_words,
)
from ._spans import (
    all_span_scores,
    span_f1_score,
    span_f1_scorer,
    span_precision_score,
    span_recall_score,
    span_scores,
)

__all__ = [
    "exit_scores",
    "positive_f1_score",
    "positive_f1_scorer",
    "refit_accuracy_at_speedup",
    "refit_fastest_within",
    "span_f1_score",
    "span_f1_scorer",
    "span_precision_score",
    "span_recall_score",
    "span_scores",
    "speedup_ratio",
    "speedup_score",
    "task_accuracy_score",
]

RefitRule = Callable[[Mapping[str, Any]], int]


def speedup_ratio(
    exit_layers: ArrayLike, n_layers: int, *, sample_weight: ArrayLike | None = None
) -> float:
    """Return the share of layers saved: 1 - sum(exit_layers) / (n_samples * n_layers).

    Parameters
    ----------
    exit_layers : array-like of shape (n_samples,) of int
        Exit layer of each sample, from 1 to `n_layers`.
    n_layers : int
        Number of layers M of the network.
    sample_weight : array-like of shape (n_samples,), default=None
        Sample weights.

    Returns
    -------
    ratio : float
        From 0 (no sample exited early) to 1 - 1 / M (all exited at layer 1).

    Raises
    ------
    TypeError
        If the layers are not integers.
    ValueError
        If there is no sample, or a layer is not in 1..M.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> from sklearn_epee.metrics import speedup_ratio
    >>> speedup_ratio([1, 2, 3], n_layers=4)
    0.5
    """
    layers = _check_exit_layers(exit_layers, n_layers)
    if sample_weight is None:
        # Sums of integers are exact, so that equal policies score equally.
        return 1.0 - float(layers.sum()) / (len(layers) * int(n_layers))
    weight = check_weights(sample_weight, len(layers))
    return 1.0 - float(np.average(layers, weights=weight)) / int(n_layers)


def speedup_score(
    estimator: Any, X: Any, y: Any = None, *, sample_weight: ArrayLike | None = None
) -> float:
    """Return the speed-up ratio of a fitted early-exit classifier on `X`.

    It is a scorer: pass it as ``scoring=speedup_score``, or inside a dict,
    ``scoring={"accuracy": "accuracy", "speedup": speedup_score}``. To get both accuracy and
    speed-up, ``scoring=exit_scores`` predicts once instead of twice.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with early exits, or a pipeline, search object or wrapper
        around one.
    X : array-like of shape (n_samples, ...)
        Samples accepted by `estimator`.
    y : ignored
        Present because scorers are called with it.
    sample_weight : array-like of shape (n_samples,), default=None
        Sample weights.

    Returns
    -------
    ratio : float
        See :func:`speedup_ratio`. Higher is faster. If exits differ in cost and the classifier has
        ``exit_costs_``, it is the share of work saved, not of layers. For a token classifier it is
        the share of rows (positions times layers) saved.

    Raises
    ------
    TypeError
        If there is no classifier with early exits inside `estimator`.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from sklearn.utils import Bunch
    >>> from sklearn_epee.metrics import speedup_score
    >>> class SignAtLayerOneOrFour(BaseEstimator):
    ...     def fit(self, X, y):
    ...         self.n_layers_ = 4
    ...         return self
    ...
    ...     def predict_with_exits(self, X):
    ...         X = np.asarray(X)
    ...         return Bunch(labels=np.sign(X), exit_layer=np.where(abs(X) > 9, 1, 4))
    ...
    ...     def predict_exit_layer(self, X):
    ...         return self.predict_with_exits(X).exit_layer
    >>> classifier = SignAtLayerOneOrFour().fit([-1, 1], [-1, 1])
    >>> speedup_score(classifier, [10, -1, 2, -20])
    0.375
    """
    del y
    found = find_exits(estimator, X)
    if exit_costs(found.classifier) is not None or predicts_words(found.classifier):
        result = found.classifier.predict_with_exits(found.X)
        return _speedup_of(found.classifier, result, sample_weight)
    layers = found.classifier.predict_exit_layer(found.X)
    return speedup_ratio(layers, found.classifier.n_layers_, sample_weight=sample_weight)


def _speedup_of(classifier: Any, result: Any, sample_weight: ArrayLike | None) -> float:
    """Return the speed-up ratio of predictions with their exits, of work where that is known."""
    if predicts_words(classifier):
        rows = np.stack([result.rows_computed, result.rows_total], axis=1)
        if sample_weight is not None:
            rows = rows * check_weights(sample_weight, len(rows))[:, np.newaxis]
        computed, total = rows.sum(axis=0)
        return 1.0 - float(computed / total) if total else 0.0
    if exit_costs(classifier) is None:
        return speedup_ratio(
            result.exit_layer, int(classifier.n_layers_), sample_weight=sample_weight
        )
    shares = np.asarray(result.exit_cost, dtype=np.float64)
    weights = None if sample_weight is None else check_weights(sample_weight, len(shares))
    return 1.0 - float(np.average(shares, weights=weights))


# With a dict of scorers and sample weights in `fit`, scikit-learn's searches call this method on
# every scorer, including plain functions.
vars(speedup_score)["_accept_sample_weight"] = lambda: True


def exit_scores(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    negative_class: Any = None,
) -> dict[str, float]:
    """Return scores and speed-up of a fitted early-exit classifier, overall and per class.

    It predicts once. The result is a dict, which scikit-learn accepts as several scores:
    ``GridSearchCV(..., scoring=exit_scores, refit=refit_fastest_within(0.01))``. Early exits that
    cost little accuracy may cost a rare class nearly all of its recall, so there are scores for
    each class.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with early exits, or a pipeline, search object or wrapper
        around one.
    X : array-like of shape (n_samples, ...)
        Samples accepted by `estimator`.
    y : array-like of shape (n_samples,) or (n_samples, n_tasks)
        True labels; with several labels per sample, in any form that `fit` accepts.
    sample_weight : array-like of shape (n_samples,), default=None
        Sample weights.
    negative_class : label, default=None
        The class that `positive_f1` leaves out, such as "false". In a search, set it with
        ``scoring=functools.partial(exit_scores, negative_class="false")``.

    Returns
    -------
    scores : dict of str to float
        `accuracy`; `balanced_accuracy`, the mean recall over the classes in `y`; `macro_f1`, the
        mean F1 score over the classes in `y` and in the predictions; `speedup`, see
        :func:`speedup_score`; `mean_exit_layer`, from 1 to M; `recall_<class>` and
        `mean_exit_layer_<class>`, the recall and the mean exit layer of each class in `classes_` or
        `y`, NaN for one without samples here; `positive_f1`, see :func:`positive_f1_score`, only
        with `negative_class`.

        With several tasks, `accuracy` is the share of samples that are correct in every task,
        `task_accuracy` the mean of the tasks' accuracies, and `balanced_accuracy` and `macro_f1`
        are means over the tasks; task t has `recall_task<t>_<class>` and
        `mean_exit_layer_task<t>_<class>`.

        With several labels, `accuracy` is the share of samples whose whole set of labels is
        correct, and `label_accuracy` the share of correct entries (pairs of a sample and a label).
        `macro_f1` and `balanced_accuracy` are means over the labels, `micro_f1` counts all labels
        together, and `samples_f1` is the mean over the samples. `average_precision` is computed
        from the predicted probabilities and needs no thresholds. `recall_<label>` and
        `mean_exit_layer_<label>` are over the samples that have the label. Unknown labels (NaN) are
        ignored.

        For a token classifier there are `span_f1`, `span_precision`, `span_recall` and
        `span_macro_f1` (see :func:`span_scores`), with several layers of spans `span_f1_<layer>`,
        `speedup`, and `mean_exit_layer`, over sentences, or over words if they exit one by one.

    Raises
    ------
    TypeError
        If there is no classifier with early exits inside `estimator`.
    ValueError
        If `negative_class` is neither a true nor a predicted label, or there are several tasks or
        labels.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from sklearn.utils import Bunch
    >>> from sklearn_epee.metrics import exit_scores
    >>> class SignAtLayerOneOrFour(BaseEstimator):
    ...     def fit(self, X, y):
    ...         self.n_layers_ = 4
    ...         return self
    ...
    ...     def predict_with_exits(self, X):
    ...         X = np.asarray(X)
    ...         return Bunch(labels=np.sign(X), exit_layer=np.where(abs(X) > 9, 1, 4))
    >>> classifier = SignAtLayerOneOrFour().fit([-1, 1], [-1, 1])
    >>> scores = exit_scores(classifier, [10, -1, 2, -20], [1, -1, -1, -1])
    >>> scores["accuracy"], scores["speedup"], scores["mean_exit_layer"]
    (0.75, 0.375, 2.5)
    >>> scores["recall_-1"], scores["mean_exit_layer_-1"]
    (0.6666666666666666, 3.0)
    """
    found = find_exits(estimator, X)
    result = found.classifier.predict_with_exits(found.X)
    if predicts_words(found.classifier):
        return _scores_of_words(found, y, result, sample_weight, negative_class)
    y_pred = np.asarray(result.labels if found.is_transparent else estimator.predict(X))
    if is_multilabel(found.classifier):
        return _scores_of_labels(estimator, X, y, found, result, sample_weight, negative_class)
    y_true = as_target(check_any_labels(y, len(y_pred), type(estimator).__name__))
    weights = None if sample_weight is None else check_weights(sample_weight, len(y_pred))
    speedup = _speedup_of(found.classifier, result, weights)
    scores = label_scores(y_true, y_pred, weights)
    scores |= {
        "speedup": speedup,
        "mean_exit_layer": float(np.average(result.exit_layer, weights=weights)),
    }
    if negative_class is not None:
        scores["positive_f1"] = positive_f1_score(
            y_true, y_pred, negative_class=negative_class, sample_weight=weights
        )
    # A wrapper can have other classes than the classifier inside.
    classes = getattr(found.classifier if found.is_transparent else estimator, "classes_", None)
    return scores | class_scores(y_true, y_pred, result.exit_layer, classes, weights)


def _scores_of_words(
    found: FoundExits, y: Any, result: Any, sample_weight: ArrayLike | None, negative_class: Any
) -> dict[str, float]:
    """Return the scores of the spans predicted by a token classifier."""
    for name, value in (("sample_weight", sample_weight), ("negative_class", negative_class)):
        if value is not None:
            raise ValueError(f"{name} must be None where spans are predicted; got {value!r}.")
    classifier = found.classifier
    schemes = (link.scheme for link in chain(classifier) if hasattr(link, "scheme"))
    scheme = str(next(schemes, "IOB2"))
    layers = result.exit_layer
    if isinstance(layers, list):  # words exit by themselves
        layers = np.concatenate(layers)
    return all_span_scores(found.X, y, result.spans, scheme) | {
        "speedup": _speedup_of(classifier, result, None),
        "mean_exit_layer": float(np.mean(layers)),
    }


def _scores_of_labels(  # noqa: PLR0917 - what `exit_scores` was given and found
    estimator: Any,
    X: Any,
    y: Any,
    found: FoundExits,
    result: Any,
    sample_weight: ArrayLike | None,
    negative_class: Any,
) -> dict[str, float]:
    """Return the scores of several labels."""
    if negative_class is not None:
        raise ValueError(
            f"negative_class={negative_class!r} must be None, because "
            f"{type(estimator).__name__} predicts several labels per sample."
        )
    labels, proba = np.asarray(result.labels), np.asarray(result.proba)
    if not found.is_transparent:  # a wrapper with thresholds or probabilities of its own
        labels, proba = np.asarray(estimator.predict(X)), np.asarray(estimator.predict_proba(X))
    names = np.asarray(found.classifier.classes_)
    codes = label_codes(y, Tasks(names, multilabel=True), len(labels))
    weights = None if sample_weight is None else check_weights(sample_weight, len(labels))
    layers = result.exit_layer
    return (
        label_scores_once(codes, labels, proba, weights)
        | {
            "speedup": _speedup_of(found.classifier, result, weights),
            "mean_exit_layer": float(np.average(layers, weights=weights)),
        }
        | scores_of_labels(codes, labels, layers, names, weights)
    )


def positive_f1_scorer(negative_class: Any, *, average: str = "micro") -> Callable[..., float]:
    """Return a scorer: the F1 score over all classes but the negative one.

    It is for ``scoring=`` in :class:`~sklearn_epee.TunedExitPolicyClassifierCV`, which compares all
    policies with it, in the displays, and in scikit-learn's searches and cross-validation. It is
    ``make_scorer(positive_f1_score, negative_class=..., average=...)``.

    Parameters
    ----------
    negative_class : label
        The class that is left out, such as "false" or 0.
    average : {"micro", "macro"}, default="micro"
        See :func:`positive_f1_score`.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)``; it can be pickled.

    Raises
    ------
    ValueError
        Here, if `average` is another one; when it scores, if `negative_class` is neither among the
        true nor among the predicted labels.

    See Also
    --------
    positive_f1_score : The score of true and predicted labels.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn_epee.metrics import positive_f1_scorer
    >>> always_false = DummyClassifier().fit([[0], [1], [2]], ["false", "false", "effect"])
    >>> scorer = positive_f1_scorer("false")
    >>> scorer(always_false, [[0], [1]], ["false", "effect"])
    0.0
    """
    check_average(average)
    return make_scorer(positive_f1_score, negative_class=negative_class, average=average)


def refit_accuracy_at_speedup(
    min_speedup: float, *, metric: str = "accuracy", speedup: str = "speedup"
) -> RefitRule:
    """Return a refit rule: the most accurate exit policy that is at least this fast.

    The rule is for ``GridSearchCV(..., scoring=exit_scores, refit=...)`` and for a dict of scorers.
    It can be pickled and cloned. Candidates with a NaN score are ignored. Ties are broken by speed,
    then by order.

    Parameters
    ----------
    min_speedup : float in [0, 1)
        Smallest mean speed-up ratio over the folds that is accepted.
    metric : str, default="accuracy"
        Name of the score to maximize, one of the keys of `scoring`. With rare classes, use
        "macro_f1" or "positive_f1" of :func:`exit_scores`; accuracy may lose them.
    speedup : str, default="speedup"
        Name of the speed-up ratio among the scores.

    Returns
    -------
    rule : callable
        Takes ``cv_results_`` and returns the index of the chosen candidate.

    Raises
    ------
    TypeError, ValueError
        Here, if `min_speedup` is not a number in [0, 1); when the search applies the rule,
        if a score is missing or no candidate is fast enough.

    See Also
    --------
    refit_fastest_within : The fastest policy within a tolerance of the best score.

    Examples
    --------
    >>> from sklearn_epee.metrics import refit_accuracy_at_speedup
    >>> cv_results = {
    ...     "mean_test_accuracy": [0.90, 0.88, 0.80],
    ...     "mean_test_speedup": [0.10, 0.45, 0.70],
    ... }
    >>> refit_accuracy_at_speedup(0.4)(cv_results)
    1
    """
    _check_number("min_speedup", min_speedup, 1)
    return _AccuracyAtSpeedup(float(min_speedup), metric=metric, speedup=speedup)


def refit_fastest_within(
    tolerance: float, *, metric: str = "accuracy", speedup: str = "speedup"
) -> RefitRule:
    """Return a refit rule: the fastest exit policy whose score is close to the best one.

    The rule is for ``GridSearchCV(..., scoring=exit_scores, refit=...)`` and for a dict of scorers.
    It can be pickled and cloned. Candidates with a NaN score are ignored. Ties are broken by score,
    then by order.

    "Best" is the best candidate of the search. Include ``tau=0, patience=None`` among the
    candidates to compare with the network at full depth.

    Parameters
    ----------
    tolerance : float in [0, inf)
        Accepted decrease relative to the best mean score over the folds; 0.01 is one point of
        accuracy.
    metric : str, default="accuracy"
        Name of the score, one of the keys of `scoring`. Higher is better. With rare classes, use
        "macro_f1" or "positive_f1" of :func:`exit_scores`; accuracy may lose them.
    speedup : str, default="speedup"
        Name of the speed-up ratio among the scores.

    Returns
    -------
    rule : callable
        Takes ``cv_results_`` and returns the index of the chosen candidate.

    Raises
    ------
    TypeError, ValueError
        Here, if `tolerance` is not a number in [0, inf); when the search applies the rule, if
        a score is missing.

    See Also
    --------
    refit_accuracy_at_speedup : The best score among policies that are fast enough.

    Examples
    --------
    >>> from sklearn_epee.metrics import refit_fastest_within
    >>> cv_results = {
    ...     "mean_test_accuracy": [0.90, 0.88, 0.80],
    ...     "mean_test_speedup": [0.10, 0.45, 0.70],
    ... }
    >>> refit_fastest_within(0.03)(cv_results)
    1
    """
    _check_number("tolerance", tolerance, np.inf)
    return _FastestWithin(float(tolerance), metric=metric, speedup=speedup)


@dataclass(frozen=True)
class _AccuracyAtSpeedup:
    """The rule of :func:`refit_accuracy_at_speedup`."""

    min_speedup: float
    metric: str
    speedup: str

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Return the index of the chosen candidate."""
        scores = mean_test_score(cv_results, self.metric)
        speedups = mean_test_score(cv_results, self.speedup)
        valid = have_both_scores(scores, speedups)
        eligible = valid & (speedups >= self.min_speedup - TIE)
        if not eligible.any():
            fastest = int(np.where(valid, speedups, -np.inf).argmax())
            raise ValueError(
                f"No candidate reaches a speed-up ratio of min_speedup={self.min_speedup}: the "
                f"largest is {speedups[fastest]:.4f}, of candidate {fastest}"
                f"{parameters_of(cv_results, fastest)}. Lower min_speedup, or add candidates with "
                "a larger tau or a smaller patience."
            )
        return first_of_best(eligible, scores, speedups)


@dataclass(frozen=True)
class _FastestWithin:
    """The rule of :func:`refit_fastest_within`."""

    tolerance: float
    metric: str
    speedup: str

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Return the index of the chosen candidate."""
        scores = mean_test_score(cv_results, self.metric)
        speedups = mean_test_score(cv_results, self.speedup)
        valid = have_both_scores(scores, speedups)
        close = valid & (scores >= scores[valid].max() - self.tolerance - TIE)
        return first_of_best(close, speedups, scores)


def _check_exit_layers(exit_layers: ArrayLike, n_layers: Any) -> NDArray[np.integer]:
    """Return the exit layers as an array; each must lie in 1..M."""
    n_layers = check_n_layers(n_layers)
    layers = as_array("exit_layers", exit_layers)
    if layers.ndim != 1 or layers.size == 0:
        raise ValueError(
            f"exit_layers must have shape (n_samples,) with n_samples >= 1; got {layers.shape}."
        )
    if layers.dtype.kind not in "iu":
        raise TypeError(f"exit_layers must be integers; got dtype {layers.dtype}.")
    if layers.min() < 1 or layers.max() > n_layers:
        raise ValueError(
            f"exit_layers must lie between 1 and n_layers={n_layers}; "
            f"got values from {layers.min()} to {layers.max()}."
        )
    return layers


def _check_number(name: str, value: Any, below: float) -> None:
    """Raise unless the value is a number in [0, below)."""
    message = f"{name} must be a number in [0, {below}); got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(message)
    if not 0 <= float(value) < below:
        raise ValueError(message)
