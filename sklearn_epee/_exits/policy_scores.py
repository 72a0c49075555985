"""Scores for all thresholds of one patience, by cumulative sums if the score allows it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, balanced_accuracy_score, get_scorer

from sklearn_epee._checks.tasks import Tasks, exact_match_score
from sklearn_epee._compat import scorer_parts

from .count_scores import CountMetric, Ratio, count_metric
from .label_scores import task_accuracy_score
from .multilabel_scores import (
    LabelAveragePrecision,
    exact_label_score,
    label_accuracy,
    label_balanced_accuracy,
    label_set_accuracy,
)
from .staged import Floats, Integers, StagedPredictions
from .sweep import Sweep
from .sweep_scores import MeanScore, PolicyScore

Scorer = Callable[..., float]
# Names of the scores of make_scorer(function).
_ACCURACIES = {accuracy_score: "accuracy", balanced_accuracy_score: "balanced_accuracy"}
_MACRO_F1 = CountMetric(Ratio.fbeta(1.0), "macro")
# Predictions of one task (n_samples, n_layers), true columns, number of classes, weights.
OneTaskScore = Callable[[Integers, Integers, int, Floats | None], "PolicyScore"]


class ScorerScore:
    """Any scikit-learn scorer, called once per threshold.

    Parameters
    ----------
    scorer : callable
        ``scorer(estimator, X, y, **params)``.
    staged : StagedPredictions
    tasks : Tasks
    X : samples
        Passed to the scorer, but not used for predictions, which are given by `staged`.
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
    params : mapping
        Keyword arguments for the scorer, such as sample weights.
    """

    is_cheap = False

    def __init__(
        self,
        scorer: Scorer,
        *,
        staged: StagedPredictions,
        tasks: Tasks,
        X: Any,
        y: NDArray[Any],
        params: Mapping[str, Any],
    ) -> None:
        if tasks.multilabel and (y < 0).any():
            raise ValueError(
                "y does not say of every sample which labels it has, and this scoring needs that. "
                "Score by 'accuracy', 'average_precision', or a precision, recall, F or Jaccard "
                "score, such as 'f1_macro', which leave out what is not known."
            )
        self._scorer = scorer
        self._staged = staged
        self._tasks = tasks
        self._X = X
        self._y = y
        self._params = params

    def __call__(self, sweep: Sweep) -> Floats:
        return np.array([self._score(exits) for exits in sweep.exit_layers()], dtype=np.float64)

    def _score(self, exits: Integers) -> float:
        proba = self._staged.proba_at(exits)
        if self._tasks.multilabel:
            at_exit = exits.copy()  # the sweep modifies this array in place
            predicted = _Predicted(
                # With these classes, scikit-learn recognizes a label indicator.
                [np.arange(2)] * len(self._tasks.classes),
                proba[0],
                lambda: self._staged.predictions[np.arange(len(at_exit)), at_exit - 1],
            )
        else:
            classes = self._tasks.classes
            predicted = _Predicted(
                classes,
                proba if isinstance(classes, list) else proba[0],
                lambda: self._tasks.labels(np.hstack(proba)),
            )
        score = self._scorer(predicted, self._X, self._y, **self._params)
        if not isinstance(score, Real):
            raise TypeError(
                f"scoring must return a single number; got {score!r} of type "
                f"{type(score).__name__}."
            )
        return float(score)


class _Predicted(ClassifierMixin, BaseEstimator):
    """A fitted classifier that returns given predictions.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,), or list of such arrays
    proba : ndarray of shape (n_samples, n_classes), or list of such arrays
    decode : callable
        Returns the predicted labels.
    """

    def __init__(self, classes: Any, proba: Any, decode: Callable[[], NDArray[Any]]) -> None:
        self.classes = classes
        self.proba = proba
        self.decode = decode

    @property
    def classes_(self) -> Any:
        """Class labels."""
        return self.classes

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the given labels, for any X."""
        del X
        return self.decode()

    def predict_proba(self, X: Any) -> Any:
        """Return the given class probabilities, for any X."""
        del X
        return self.proba

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of samples that are predicted correctly, in every task."""
        if isinstance(self.classes, list):
            return exact_match_score(y, self.predict(X), sample_weight)
        return super().score(X, y, sample_weight)


class MeanOverTasks:
    """Mean of the scores of several tasks.

    Parameters
    ----------
    scores : sequence of PolicyScore
        One per task.
    """

    def __init__(self, scores: Sequence[PolicyScore]) -> None:
        self._scores = scores
        self.is_cheap = all(score.is_cheap for score in scores)

    def __call__(self, sweep: Sweep) -> Floats:
        return np.mean([score(sweep) for score in self._scores], axis=0)


def _over_tasks(score_one: OneTaskScore) -> Callable[..., PolicyScore]:
    """Extend a score of one task to several tasks, by the mean over the tasks."""

    @functools.wraps(score_one)
    def score(
        staged: StagedPredictions, codes: Integers, weights: Floats | None = None
    ) -> PolicyScore:
        scores = [
            score_one(staged.predictions[..., task], codes[:, task], proba.shape[2], weights)
            for task, proba in enumerate(staged.proba)
        ]
        return scores[0] if len(scores) == 1 else MeanOverTasks(scores)

    return score


def accuracy(
    staged: StagedPredictions, codes: Integers, weights: Floats | None = None
) -> PolicyScore:
    """Score the share of samples that are predicted correctly, in every task.

    Parameters
    ----------
    staged : StagedPredictions
    codes : ndarray of shape (n_samples, n_tasks), int
        Columns of the true classes.
    weights : ndarray of shape (n_samples,), default=None
    """
    hits = (staged.predictions == codes[:, np.newaxis]).all(axis=2)
    return _mean_score(hits, weights)


@_over_tasks
def task_accuracy(
    predictions: Integers, codes: Integers, n_classes: int, weights: Floats | None
) -> PolicyScore:
    """Score the share of samples that are predicted correctly in one task."""
    del n_classes
    return _mean_score(predictions == codes[:, np.newaxis], weights)


def _mean_score(hits: NDArray[np.bool_], weights: Floats | None) -> MeanScore:
    if weights is None:
        return MeanScore(hits.astype(np.float64), len(hits))
    return MeanScore(hits * weights[:, np.newaxis], float(weights.sum()))


@_over_tasks
def balanced_accuracy(
    predictions: Integers, codes: Integers, n_classes: int, weights: Floats | None
) -> PolicyScore:
    """Score the mean recall over the classes in the true labels."""
    weights = np.ones(len(codes)) if weights is None else weights
    support = np.bincount(codes, weights=weights, minlength=n_classes)
    hits = (predictions == codes[:, np.newaxis]).astype(np.float64)
    shares = weights / np.maximum(support[codes], np.finfo(float).tiny)
    return MeanScore(hits * shares[:, np.newaxis], float(np.count_nonzero(support)))


@_over_tasks
def macro_f1(
    predictions: Integers, codes: Integers, n_classes: int, weights: Floats | None
) -> PolicyScore:
    """Score the mean F1 score over the classes in the true or predicted labels."""
    return _MACRO_F1.score(predictions, codes, n_classes, weights)


# Scores of one or several tasks that are computed for all thresholds at once.
EXACT_SCORES: Mapping[str, Callable[..., PolicyScore]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": macro_f1,
}


# Scores of several labels; only the average precision is computed separately for each threshold.
LABEL_SCORES: Mapping[str, Callable[..., PolicyScore]] = {
    "accuracy": label_set_accuracy,
    "balanced_accuracy": label_balanced_accuracy,
    "average_precision": LabelAveragePrecision,
}


def exact_score(scoring: Any, tasks: Tasks) -> Callable[..., PolicyScore] | None:
    """Return a function to score all thresholds at once; None if the score does not allow it.

    Parameters
    ----------
    scoring : str or callable
        The name of a scorer, or a scorer.
    tasks : Tasks
        The classes of one task, of several, or several labels.
    """
    classes = tasks.classes
    if tasks.multilabel:
        return _exact_score_of_labels(scoring, len(classes))
    if scoring is task_accuracy_score:
        return task_accuracy
    if isinstance(scoring, str) and scoring in EXACT_SCORES:
        return EXACT_SCORES[scoring]
    if isinstance(classes, list):  # scikit-learn has no other scores of several tasks
        return None
    scorer = get_scorer(scoring)
    name = plain_score(scorer)
    if name is not None:
        return EXACT_SCORES[name]
    metric = count_metric(scorer, classes)
    return None if metric is None else _over_tasks(metric.score)


def _exact_score_of_labels(scoring: Any, n_labels: int) -> Callable[..., PolicyScore] | None:
    if scoring is task_accuracy_score:
        return label_accuracy
    if isinstance(scoring, str) and scoring in LABEL_SCORES:
        return LABEL_SCORES[scoring]
    scorer = get_scorer(scoring)
    name = plain_score(scorer)
    return exact_label_score(scorer, n_labels) if name is None else LABEL_SCORES[name]


def plain_score(scorer: Any) -> str | None:
    """Return the name of the (balanced) accuracy if a scorer computes it, otherwise None."""
    parts = scorer_parts(scorer)
    if parts is None or parts.kwargs or parts.sign != 1:
        return None
    return _ACCURACIES.get(parts.function) if inspect.isfunction(parts.function) else None
