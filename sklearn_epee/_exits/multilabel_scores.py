"""Scores of several labels for all thresholds at once, from counts per label or per sample.

Precision, recall, F and Jaccard scores depend on the numbers of true, predicted and correctly
predicted samples of each label. Each of these is a sum over the samples of a value that depends
only on the exit, so it is a cumulative sum over the thresholds. The results are exact: the same as
those of scikit-learn's functions for a label indicator matrix. Unknown labels (code -1) are
ignored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from sklearn_epee._compat import scorer_parts

from .count_scores import PRECISION, RATIOS, CountMetric, Ratio, checked_options, rounding_of
from .staged import Floats, Integers, StagedPredictions
from .sweep import PolicySpace, Sweep
from .sweep_scores import MeanScore, PolicyScore

_AVERAGES = ("micro", "macro", "weighted", "samples")


class LabelCountScore:
    """A score from counts per label or per sample, for each threshold of a sweep.

    Parameters
    ----------
    metric : CountMetric
        Its average may also be "samples", the mean of the ratios of the samples.
    predictions : ndarray of shape (n_samples, n_layers, n_labels), int
        Whether each label is predicted at each layer.
    codes : ndarray of shape (n_samples, n_labels), int
        1 if a sample has the label, 0 if not, -1 if this is unknown.
    weights : ndarray of shape (n_samples,) or None
    """

    is_cheap = True

    def __init__(
        self, metric: CountMetric, predictions: Integers, codes: Integers, weights: Floats | None
    ) -> None:
        if metric.columns is not None:
            predictions, codes = predictions[..., metric.columns], codes[:, metric.columns]
        self._metric = metric
        self._weights = np.ones(len(codes)) if weights is None else weights
        self._rounding = rounding_of(self._weights)
        self._true: NDArray[np.bool_] = np.asarray(codes == 1)
        self._predicted = (predictions == 1) & (codes >= 0)[:, np.newaxis]
        self._right = self._predicted & self._true[:, np.newaxis]
        self._is_known: NDArray[np.bool_] = np.asarray((codes >= 0).any(axis=1))

    def __call__(self, sweep: Sweep) -> Floats:
        """Return the score for each threshold of a sweep; higher is better."""
        average = {"micro": self._micro, "samples": self._samples}
        return self._metric.sign * average.get(self._metric.average, self._over_labels)(sweep)

    def _micro(self, sweep: Sweep) -> Floats:
        """Return the ratio of the sums over samples and labels."""
        weights = self._weights[:, np.newaxis]
        correct = sweep.total(self._right.sum(axis=2) * weights)
        predicted = sweep.total(self._predicted.sum(axis=2) * weights)
        true = float(self._weights @ self._true.sum(axis=1))
        return self._ratio(correct, np.full_like(correct, true), predicted)

    def _samples(self, sweep: Sweep) -> Floats:
        """Return the mean of the ratios of the samples with a known label."""
        true = np.broadcast_to(self._true.sum(axis=1)[:, np.newaxis], self._right.shape[:2])
        # The counts of a single sample are integers, without rounding errors.
        ratios = self._ratio(self._right.sum(axis=2), true, self._predicted.sum(axis=2), zero=0.0)
        counts = ~np.isnan(ratios) & self._is_known[:, np.newaxis]
        weights = self._weights[:, np.newaxis]
        total = sweep.total(np.where(counts, ratios, 0) * weights)
        size = sweep.total(counts * weights)
        return np.divide(total, size, where=size > self._rounding, out=np.full(len(size), np.nan))

    def _over_labels(self, sweep: Sweep) -> Floats:
        """Return the mean of the ratios of the labels, or the mean weighted by their support."""
        support = self._weights @ self._true
        weights = self._weights[:, np.newaxis]
        sums, sizes = np.zeros((2, 2, len(sweep.taus)))  # plain and weighted
        for label, true in enumerate(support):
            correct = sweep.total(self._right[..., label] * weights)
            predicted = sweep.total(self._predicted[..., label] * weights)
            ratios = self._ratio(correct, np.full_like(correct, true), predicted)
            counts = ~np.isnan(ratios)
            for row, weight in enumerate((1.0, float(true))):
                sums[row] += np.where(counts, ratios, 0) * weight
                sizes[row] += counts * weight
        found = np.full(len(sweep.taus), np.nan)
        np.divide(sums[0], sizes[0], where=sizes[0] > 0, out=found)
        if self._metric.average == "weighted":
            np.divide(sums[1], sizes[1], where=sizes[1] > 0, out=found)
        return found

    def _ratio(self, correct: Any, true: Any, predicted: Any, zero: float | None = None) -> Floats:
        """Return the ratio of counts, or sums of weights; `zero_division` if it is undefined."""
        zero = self._rounding if zero is None else zero
        ratio = self._metric.ratio
        below = ratio.predicted * predicted + ratio.true * true - ratio.both * correct
        found = np.full(np.shape(below), self._metric.zero_division)
        np.divide(ratio.correct * correct, below, where=below > zero, out=found)
        return found


class LabelAveragePrecision:
    """Mean over the labels of the average precision of the probabilities at the exits.

    It depends on the order of all samples, so it is computed separately for each threshold.

    Parameters
    ----------
    staged : StagedPredictions
    codes : ndarray of shape (n_samples, n_labels), int
    weights : ndarray of shape (n_samples,) or None
    """

    is_cheap = False

    def __init__(
        self, staged: StagedPredictions, codes: Integers, weights: Floats | None = None
    ) -> None:
        self._staged = staged
        self._codes = codes
        self._weights = weights

    def __call__(self, sweep: Sweep) -> Floats:
        """Return the score for each threshold of a sweep."""
        each = (self._staged.proba_at(exits)[0] for exits in sweep.exit_layers())
        return np.array(
            [mean_average_precision(self._codes, proba, self._weights) for proba in each]
        )


def mean_average_precision(
    codes: Integers, proba: NDArray[np.floating], weights: Floats | None
) -> float:
    """Return the mean of the average precisions of the labels; 0 for one without samples.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int
        1, 0, or -1 if unknown.
    proba : ndarray of shape (n_samples, n_labels)
    weights : ndarray of shape (n_samples,) or None
    """
    scores = []
    for truth, column in zip(codes.T, proba.T, strict=True):
        known = truth >= 0
        if not (truth == 1).any():  # scikit-learn returns 0, too, with a warning
            scores.append(0.0)
            continue
        known_weights = None if weights is None else weights[known]
        scores.append(
            average_precision_score(truth[known], column[known], sample_weight=known_weights)
        )
    return float(np.mean(scores))


def label_accuracy(
    staged: StagedPredictions, codes: Integers, weights: Floats | None = None
) -> PolicyScore:
    """Score the share of labels that are predicted correctly, over all known labels."""
    right = (staged.predictions == codes[:, np.newaxis]).sum(axis=2)
    known = (codes >= 0).sum(axis=1)
    return _mean_over(right, known, weights)


def label_set_accuracy(
    staged: StagedPredictions, codes: Integers, weights: Floats | None = None
) -> PolicyScore:
    """Score the share of samples whose known labels are all predicted correctly."""
    known: NDArray[np.bool_] = np.asarray(codes >= 0)
    hits = ((staged.predictions == codes[:, np.newaxis]) | ~known[:, np.newaxis]).all(axis=2)
    scored: NDArray[np.bool_] = np.asarray(known.any(axis=1))
    return _mean_over(hits & scored[:, np.newaxis], scored, weights)


def label_balanced_accuracy(
    staged: StagedPredictions, codes: Integers, weights: Floats | None = None
) -> PolicyScore:
    """Score the mean over the labels of the balanced accuracy of each label."""
    weights = np.ones(len(codes)) if weights is None else weights
    right = staged.predictions == codes[:, np.newaxis]
    values, n_scored = np.zeros(right.shape[:2]), 0
    for label, truth in enumerate(codes.T):
        support = [float(weights @ (truth == code)) for code in (0, 1)]
        present = np.count_nonzero(support)
        n_scored += bool(present)
        for code, size in enumerate(support):
            if size > 0:
                share = weights * (truth == code) / (size * present)
                values += right[..., label] * share[:, np.newaxis]
    return MeanScore(values, float(n_scored))


def _mean_over(values: NDArray[Any], counted: NDArray[Any], weights: Floats | None) -> PolicyScore:
    weights = np.ones(len(values)) if weights is None else weights
    return MeanScore(values * weights[:, np.newaxis], float(counted @ weights))


def exact_label_score(scorer: Any, n_labels: int) -> Callable[..., PolicyScore] | None:
    """Return a function to score several labels for all thresholds at once; None if impossible.

    Parameters
    ----------
    scorer : callable
        A scorer of scikit-learn.
    n_labels : int

    Returns
    -------
    callable or None
        Takes staged predictions, codes and weights.
    """
    metric = label_count_metric(scorer, n_labels)
    if metric is None:
        return None

    def score(
        staged: StagedPredictions, codes: Integers, weights: Floats | None = None
    ) -> LabelCountScore:
        return LabelCountScore(metric, staged.predictions, codes, weights)

    return score


def label_count_metric(scorer: Any, n_labels: int) -> CountMetric | None:
    """Return the metric of a scikit-learn scorer; None if it needs more than counts per label.

    Parameters
    ----------
    scorer : callable
        Made by :func:`~sklearn.metrics.make_scorer`.
    n_labels : int
    """
    parts = scorer_parts(scorer)
    if parts is None or not inspect.isfunction(parts.function) or parts.function not in RATIOS:
        return None
    options = checked_options(parts.function, parts.kwargs)
    if options is None or options.get("sample_weight") is not None:
        return None
    average, labels = options["average"], options.get("labels")
    if "negative_class" in options or average not in _AVERAGES:
        return None
    columns = None
    if labels is not None:  # indices of columns, as in scikit-learn for an indicator
        columns = np.asarray(labels)
        if columns.ndim != 1 or columns.dtype.kind not in "iu" or not len(columns):
            return None
        if columns.min() < 0 or columns.max() >= n_labels:
            return None
    zero_division = options["zero_division"]
    return replace(
        CountMetric(PRECISION, average, columns),
        ratio=RATIOS[parts.function](options),
        zero_division=0.0 if isinstance(zero_division, str) else float(zero_division),
        sign=parts.sign,
    )


def label_scores_once(
    codes: Integers, predicted: Integers, proba: NDArray[np.floating], weights: Floats | None
) -> dict[str, float]:
    """Return the scores of one prediction of several labels.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int
        1 if a sample has the label, 0 if not, -1 if this is unknown.
    predicted : ndarray of shape (n_samples, n_labels), int
    proba : ndarray of shape (n_samples, n_labels)
    weights : ndarray of shape (n_samples,) or None

    Returns
    -------
    dict of str to float
        "accuracy" (of whole sets), "label_accuracy", "balanced_accuracy", "macro_f1", "micro_f1",
        "samples_f1" and "average_precision".
    """
    staged = StagedPredictions.from_labels(np.asarray(predicted, np.float64)[:, np.newaxis])
    sweep = PolicySpace(staged).sweep(1, np.zeros(1))
    scores: dict[str, PolicyScore] = {
        "accuracy": label_set_accuracy(staged, codes, weights),
        "label_accuracy": label_accuracy(staged, codes, weights),
        "balanced_accuracy": label_balanced_accuracy(staged, codes, weights),
    }
    for average in ("macro", "micro", "samples"):
        metric = CountMetric(Ratio.fbeta(1.0), average)
        score = LabelCountScore(metric, staged.predictions, codes, weights)
        scores[f"{average}_f1"] = score
    found = {name: float(score(sweep)[0]) for name, score in scores.items()}
    return found | {"average_precision": mean_average_precision(codes, proba, weights)}
