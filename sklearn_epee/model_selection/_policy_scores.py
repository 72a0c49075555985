"""Scores of all thresholds of one patience: exact sums where a score allows it, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from ._policy_space import Floats, Integers, StagedAnswers, Sweep

Scorer = Callable[..., float]

# Sums of weights that cancel leave less than this.
_ROUNDING = 1e-9


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

    def __call__(self, sweep: Sweep) -> Floats:
        before, after = sweep.moved(self._predictions)
        changing = np.flatnonzero(before != after)
        changes = (changing, before[changing], after[changing])
        n_scored = np.zeros(len(sweep.taus))
        total = np.zeros(len(sweep.taus))
        for label, support in enumerate(self._support):
            predicted, correct = self._counts(sweep, label, *changes)
            counted = support + predicted
            is_there = counted > _ROUNDING
            n_scored += is_there
            total += np.divide(2 * correct, counted, where=is_there, out=np.zeros_like(counted))
        return total / n_scored

    def _counts(
        self, sweep: Sweep, label: int, changing: Integers, before: Integers, after: Integers
    ) -> tuple[Floats, Floats]:
        """Count how often a class is predicted, and how often correctly, for every threshold."""
        start = sweep.at_start(self._predictions) == label
        moves = (before == label) | (after == label)
        rows = sweep.row[changing[moves]]
        change = (after[moves] == label) * self._weights[rows]
        change -= (before[moves] == label) * self._weights[rows]
        predicted = sweep.accumulate(self._weights @ start, change, changing[moves])
        correct_start = self._weights @ (start & (self._codes == label))
        correct_change = change * (self._codes[rows] == label)
        correct = sweep.accumulate(correct_start, correct_change, changing[moves])
        return predicted, correct


class ScorerScore:
    """Any scikit-learn scorer, asked once a threshold.

    Parameters
    ----------
    scorer : callable
        ``scorer(estimator, X, y, **params)``.
    answers : StagedAnswers
    classes : ndarray of shape (n_classes,)
    X : samples
        Handed to the scorer; what they are answered with is known already.
    y : ndarray of shape (n_samples,)
    params : mapping
        Keyword arguments for the scorer, such as sample weights.
    """

    is_cheap = False

    def __init__(
        self,
        scorer: Scorer,
        *,
        answers: StagedAnswers,
        classes: NDArray[Any],
        X: Any,
        y: NDArray[Any],
        params: Mapping[str, Any],
    ) -> None:
        self._scorer = scorer
        self._answers = answers
        self._classes = classes
        self._X = X
        self._y = y
        self._params = params

    def __call__(self, sweep: Sweep) -> Floats:
        return np.array([self._score(exits) for exits in sweep.walk()], dtype=np.float64)

    def _score(self, exits: Integers) -> float:
        proba = self._answers.proba[np.arange(len(exits)), exits - 1]
        score = self._scorer(_Answered(self._classes, proba), self._X, self._y, **self._params)
        if not isinstance(score, Real):
            raise TypeError(
                f"scoring must give a single number; got {score!r} of type {type(score).__name__}."
            )
        return float(score)


class _Answered(ClassifierMixin, BaseEstimator):
    """A fitted classifier that has its answers ready."""

    def __init__(self, classes: NDArray[Any], proba: NDArray[np.floating]) -> None:
        self.classes = classes
        self.proba = proba

    @property
    def classes_(self) -> NDArray[Any]:
        """Class labels."""
        return self.classes

    def predict(self, X: Any) -> NDArray[Any]:
        """Give the labels, whatever X holds."""
        del X
        return self.classes[self.proba.argmax(axis=1)]

    def predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Give the class probabilities, whatever X holds."""
        del X
        return self.proba


def accuracy(answers: StagedAnswers, codes: Integers, weights: Floats | None = None) -> MeanScore:
    """Score the share of correct answers."""
    hits = (answers.predictions == codes[:, np.newaxis]).astype(np.float64)
    if weights is None:
        return MeanScore(hits, len(codes))
    return MeanScore(hits * weights[:, np.newaxis], float(weights.sum()))


def balanced_accuracy(
    answers: StagedAnswers, codes: Integers, weights: Floats | None = None
) -> MeanScore:
    """Score the mean recall over the classes that are there."""
    weights = np.ones(len(codes)) if weights is None else weights
    support = np.bincount(codes, weights=weights)
    hits = (answers.predictions == codes[:, np.newaxis]).astype(np.float64)
    shares = weights / np.maximum(support[codes], np.finfo(float).tiny)
    return MeanScore(hits * shares[:, np.newaxis], float(np.count_nonzero(support)))


def macro_f1(answers: StagedAnswers, codes: Integers, weights: Floats | None = None) -> MacroF1:
    """Score the mean F1 score over the classes that are there or predicted."""
    return MacroF1(answers.predictions, codes, answers.proba.shape[2], weights)


# The names of scikit-learn's scorers that need not be asked threshold by threshold.
EXACT_SCORES: Mapping[str, Callable[..., PolicyScore]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": macro_f1,
}
