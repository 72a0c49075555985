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

from sklearn_epee._checks.tasks import Tasks, exact_match_score

from .label_scores import task_accuracy_score
from .staged import Floats, Integers, StagedPredictions
from .sweep import Sweep

Scorer = Callable[..., float]
# Predictions of one task (n_samples, n_layers), true columns, number of classes, weights.
OneTaskScore = Callable[[Integers, Integers, int, Floats | None], "PolicyScore"]

# Sums of weights that cancel are below this.
_ROUNDING = 1e-9
# Counts held at a time, one per class and threshold.
_BLOCK = 2**20


class PolicyScore(Protocol):
    """A score that can be computed for every threshold of a sweep."""

    # Whether the cost of a threshold does not grow with the number of samples.
    is_cheap: bool

    def __call__(self, sweep: Sweep) -> Floats:
        """Return the score, higher is better, for each of the sweep's thresholds."""
        ...


class MeanScore:
    """Weighted mean over the samples of a value that depends on the exit alone.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_layers), of numbers
        What a sample counts if it exits at this layer, its weight included.
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
        self._has_weights = weights is not None
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
            is_there = has_weight
            if self._has_weights:
                is_there = self._is_there(block, start, changes, n_taus)
            n_scored += is_there.sum(axis=0)
            f1 = np.divide(twice, counted, where=has_weight, out=np.zeros_like(counted))
            total += f1.sum(axis=0)
        return total / n_scored

    def _is_there(
        self, block: slice, start: Integers, changes: _Changes, n_taus: int
    ) -> NDArray[np.bool_]:
        """Return which classes are true or predicted for some sample, (n_classes, n_taus)."""
        predicted = np.bincount(start, minlength=len(self._support))[block]
        counts = changes.add_up(block, predicted, n_taus, changes.sign)
        return self._is_true[block, np.newaxis] | (counts > 0.5)

    def _changes(self, sweep: Sweep) -> _Changes:
        """Return what each move takes from the class predicted before and gives to the next."""
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
        """Return the counts of some classes for every threshold, (n_classes, n_taus)."""
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
    staged : StagedPredictions
    classes : ndarray of shape (n_classes,), or list of such arrays
    X : samples
        Passed to the scorer; what is predicted for them is known already.
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
        classes: Any,
        X: Any,
        y: NDArray[Any],
        params: Mapping[str, Any],
    ) -> None:
        self._scorer = scorer
        self._staged = staged
        self._classes = classes
        self._X = X
        self._y = y
        self._params = params

    def __call__(self, sweep: Sweep) -> Floats:
        return np.array([self._score(exits) for exits in sweep.exit_layers()], dtype=np.float64)

    def _score(self, exits: Integers) -> float:
        predicted = _Predicted(self._classes, self._staged.proba_at(exits))
        score = self._scorer(predicted, self._X, self._y, **self._params)
        if not isinstance(score, Real):
            raise TypeError(
                f"scoring must return a single number; got {score!r} of type "
                f"{type(score).__name__}."
            )
        return float(score)


class _Predicted(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose predictions are known.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,), or list of such arrays
    proba : list of ndarray of shape (n_samples, n_classes)
        One per task.
    """

    def __init__(self, classes: Any, proba: list[NDArray[np.floating]]) -> None:
        self.classes = classes
        self.proba = proba

    @property
    def classes_(self) -> Any:
        """Class labels."""
        return self.classes

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the labels, whatever X holds."""
        del X
        return Tasks(self.classes).labels(np.hstack(self.proba))

    def predict_proba(self, X: Any) -> Any:
        """Return the class probabilities, whatever X holds."""
        del X
        return self.proba if isinstance(self.classes, list) else self.proba[0]

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
    """Make a score of one task a score of several tasks, too: their mean."""

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
    return MacroF1(predictions, codes, n_classes, weights)


# The names of scikit-learn's scorers that need not be asked threshold by threshold.
EXACT_SCORES: Mapping[str, Callable[..., PolicyScore]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": macro_f1,
}


def exact_score(scoring: Any) -> Callable[..., PolicyScore] | None:
    """Return the way to score all thresholds at once, None if there is none."""
    if scoring is task_accuracy_score:
        return task_accuracy
    return EXACT_SCORES.get(scoring) if isinstance(scoring, str) else None
