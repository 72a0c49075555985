"""Scores of all thresholds of one patience: exact sums where a score allows it, else one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from sklearn_epee._task_scores import task_accuracy_score
from sklearn_epee._tasks import Tasks, exact_match_score

from ._joint_predictions import JointPredictions
from ._policy_space import Floats, Integers, Predictions, StagedProbabilities, Sweep

Scorer = Callable[..., float]
OneTaskScore = Callable[[Any, Integers, Floats | None], "PolicyScore"]

# Sums of weights that cancel leave less than this.
_ROUNDING = 1e-9
# Counts held at a time, one a class and threshold.
_BLOCK = 2**20


class PolicyScore(Protocol):
    """A score that can be computed for every threshold of a sweep."""

    # Whether the cost of a threshold does not grow with the number of samples.
    is_cheap: bool

    def __call__(self, sweep: Sweep) -> Floats:
        """Give the score, higher is better, for each of the sweep's thresholds."""
        ...


class MeanScore:
    """Weighted mean over the samples of a value that depends on the exit alone.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_layers), of numbers
        What a sample counts if it leaves at this layer, its weight included.
    total_weight : float
        What the sum is divided by.
    """

    is_cheap = True

    def __init__(self, values: NDArray[Any], total_weight: float) -> None:
        self._values = values
        self._total_weight = total_weight

    def __call__(self, sweep: Sweep) -> Floats:
        return sweep.total(self._values) / self._total_weight


class MacroF1:
    """Mean F1 score over the classes that are there or predicted, from counts per class.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_layers), int
        Column of the class predicted at every layer.
    codes : ndarray of shape (n_samples,), int
        Column of the true class.
    n_classes : int
    weights : ndarray of shape (n_samples,), default=None
    """

    is_cheap = True

    def __init__(
        self,
        predictions: Integers,
        codes: Integers,
        n_classes: int,
        weights: Floats | None = None,
    ) -> None:
        self._predictions = predictions
        self._codes = codes
        self._weights = np.ones(len(codes)) if weights is None else weights
        self._support = np.bincount(codes, weights=self._weights, minlength=n_classes)
        # Classes count by their samples, also where these have no weight, as in scikit-learn.
        self._is_true = np.bincount(codes, minlength=n_classes) > 0

    def __call__(self, sweep: Sweep) -> Floats:
        changes = self._changes(sweep)
        start = sweep.at_start(self._predictions)
        hits = self._weights * (start == self._codes)
        predicted, correct = (
            np.bincount(start, weights=weights, minlength=len(self._support))
            for weights in (self._weights, hits)
        )
        n_taus = len(sweep.taus)
        n_scored, total = np.zeros(n_taus), np.zeros(n_taus)
        size = max(1, _BLOCK // n_taus)
        for first in range(0, len(self._support), size):
            block = slice(first, first + size)
            counted = changes.add_up(block, predicted[block], n_taus, changes.weight)
            counted += self._support[block, np.newaxis]
            twice = 2 * changes.add_up(block, correct[block], n_taus, changes.correct)
            has_weight = counted > _ROUNDING
            n_scored += self._is_there(block, start, changes, n_taus).sum(axis=0)
            f1 = np.divide(twice, counted, where=has_weight, out=np.zeros_like(counted))
            total += f1.sum(axis=0)
        return total / n_scored

    def _is_there(
        self, block: slice, start: Integers, changes: _Changes, n_taus: int
    ) -> NDArray[np.bool_]:
        """Tell which classes are true or predicted for some sample, (n_classes, n_taus)."""
        predicted = np.bincount(start, minlength=len(self._support))[block]
        counts = changes.add_up(block, predicted, n_taus, changes.sign)
        return self._is_true[block, np.newaxis] | (counts > 0.5)

    def _changes(self, sweep: Sweep) -> _Changes:
        """Find what each move takes from the class predicted before and gives to the next."""
        before, after = sweep.moved(self._predictions)
        moves = np.flatnonzero(before != after)
        row = np.tile(sweep.row[moves], 2)
        label = np.concatenate([before[moves], after[moves]])
        sign = np.repeat([-1.0, 1.0], len(moves))
        weight = sign * self._weights[row]
        order = np.argsort(label, kind="stable")
        return _Changes(
            label=label[order],
            step=np.tile(sweep.step[moves], 2)[order],
            sign=sign[order],
            weight=weight[order],
            correct=(weight * (self._codes[row] == label))[order],
        )


@dataclass(frozen=True)
class _Changes:
    """Changes of the counts of classes, sorted by class.

    Attributes
    ----------
    label, step : ndarray of shape (n_changes,), int
    sign, weight, correct : ndarray of shape (n_changes,), float64
        Added to the number of predictions of the class, to their weight and to the weight of the
        correct ones.
    """

    label: Integers
    step: Integers
    sign: Floats
    weight: Floats
    correct: Floats

    def add_up(self, classes: slice, start: NDArray[Any], n_taus: int, values: Floats) -> Floats:
        """Give the counts of some classes for every threshold, of shape (n_classes, n_taus)."""
        rows = slice(*np.searchsorted(self.label, [classes.start, classes.stop]))
        cell = (self.label[rows] - classes.start) * n_taus + self.step[rows]
        cells = np.bincount(cell, weights=values[rows], minlength=len(start) * n_taus)
        return start[:, np.newaxis] + cells.reshape(len(start), n_taus).cumsum(axis=1)


class ScorerScore:
    """Any scikit-learn scorer, asked once a threshold.

    Parameters
    ----------
    scorer : callable
        ``scorer(estimator, X, y, **params)``.
    answers : Predictions
    classes : ndarray of shape (n_classes,), or list of such arrays
    X : samples
        Handed to the scorer; what they are answered with is known already.
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
    params : mapping
        Keyword arguments for the scorer, such as sample weights.
    """

    is_cheap = False

    def __init__(
        self,
        scorer: Scorer,
        *,
        answers: Predictions,
        classes: Any,
        X: Any,
        y: NDArray[Any],
        params: Mapping[str, Any],
    ) -> None:
        self._scorer = scorer
        self._predictions = answers
        self._classes = classes
        self._X = X
        self._y = y
        self._params = params

    def __call__(self, sweep: Sweep) -> Floats:
        return np.array([self._score(exits) for exits in sweep.walk()], dtype=np.float64)

    def _score(self, exits: Integers) -> float:
        proba = self._predictions.answered(exits)
        score = self._scorer(_Predicted(self._classes, proba), self._X, self._y, **self._params)
        if not isinstance(score, Real):
            raise TypeError(
                f"scoring must give a single number; got {score!r} of type {type(score).__name__}."
            )
        return float(score)


class _Predicted(ClassifierMixin, BaseEstimator):
    """A fitted classifier that has its answers ready."""

    def __init__(self, classes: Any, proba: Any) -> None:
        self.classes = classes
        self.proba = proba

    @property
    def classes_(self) -> Any:
        """Class labels."""
        return self.classes

    def predict(self, X: Any) -> NDArray[Any]:
        """Give the labels, whatever X holds."""
        del X
        several = isinstance(self.proba, list)
        return Tasks(self.classes).labels(np.hstack(self.proba) if several else self.proba)

    def predict_proba(self, X: Any) -> Any:
        """Give the class probabilities, whatever X holds."""
        del X
        return self.proba

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Give the share of correct answers, in every task."""
        if isinstance(self.proba, list):
            return exact_match_score(y, self.predict(X), sample_weight)
        return super().score(X, y, sample_weight)


class MeanOverTasks:
    """Mean of the scores of several tasks.

    Parameters
    ----------
    scores : sequence of PolicyScore
        One a task.
    """

    def __init__(self, scores: Sequence[PolicyScore]) -> None:
        self._scores = scores
        self.is_cheap = all(score.is_cheap for score in scores)

    def __call__(self, sweep: Sweep) -> Floats:
        return np.mean([score(sweep) for score in self._scores], axis=0)


def _over_tasks(score_one: OneTaskScore) -> Callable[..., PolicyScore]:
    """Make a score of one task a score of several, too: their mean."""

    @functools.wraps(score_one)
    def score(answers: Predictions, codes: Integers, weights: Floats | None = None) -> PolicyScore:
        if isinstance(answers, JointPredictions):
            pairs = zip(answers.tasks, codes.T, strict=True)
            return MeanOverTasks([score_one(task, column, weights) for task, column in pairs])
        return score_one(answers, codes, weights)

    return score


def accuracy(answers: Predictions, codes: Integers, weights: Floats | None = None) -> MeanScore:
    """Score the share of correct answers, in every task if there are several."""
    right = answers.predictions == codes[:, np.newaxis]
    hits = (right if right.ndim == 2 else right.all(axis=2)).astype(np.float64)
    if weights is None:
        return MeanScore(hits, len(codes))
    return MeanScore(hits * weights[:, np.newaxis], float(weights.sum()))


@_over_tasks
def balanced_accuracy(
    answers: StagedProbabilities, codes: Integers, weights: Floats | None = None
) -> MeanScore:
    """Score the mean recall over the classes that are there."""
    weights = np.ones(len(codes)) if weights is None else weights
    support = np.bincount(codes, weights=weights)
    hits = (answers.predictions == codes[:, np.newaxis]).astype(np.float64)
    shares = weights / np.maximum(support[codes], np.finfo(float).tiny)
    return MeanScore(hits * shares[:, np.newaxis], float(np.count_nonzero(support)))


@_over_tasks
def macro_f1(
    answers: StagedProbabilities, codes: Integers, weights: Floats | None = None
) -> MacroF1:
    """Score the mean F1 score over the classes that are there or predicted."""
    return MacroF1(answers.predictions, codes, answers.proba.shape[2], weights)


# The names of scikit-learn's scorers that need not be asked threshold by threshold.
EXACT_SCORES: Mapping[str, Callable[..., PolicyScore]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": macro_f1,
}


def exact_score(scoring: Any) -> Callable[..., PolicyScore] | None:
    """Give the way to score all thresholds at once, if there is one."""
    if scoring is task_accuracy_score:
        return _over_tasks(accuracy)
    return EXACT_SCORES.get(scoring) if isinstance(scoring, str) else None
