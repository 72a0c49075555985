"""Find the best threshold of each label among all thresholds, from cumulative sums.

A label is predicted where its probability is above its threshold, so for samples in the order of
their probabilities each threshold predicts the label for the first of them. How many of these have
the label, and how many samples have it in all, decides the score.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    fbeta_score,
    get_scorer,
    get_scorer_names,
    jaccard_score,
)

from sklearn_epee._compat import scorer_parts

from .count_scores import RATIOS, Ratio, checked_options
from .staged import Floats, Integers

DEFAULT = 0.5
# Scores that are equal on paper differ in their last digits.
_DIGITS = 12


@dataclass(frozen=True)
class Counts:
    """What every threshold of a label does, each entry one threshold.

    Attributes
    ----------
    taken : ndarray of shape (n_thresholds,), float64
        Weight of the samples for which the label is predicted.
    hits : ndarray of shape (n_thresholds,), float64
        Weight of those of them that have it.
    true, total : float
        Weight of the samples that have it, and of all.
    """

    taken: Floats
    hits: Floats
    true: float
    total: float

    @property
    def rejects(self) -> Floats:
        """Weight of the samples without the label for which it is not predicted."""
        return self.total - self.true - (self.taken - self.hits)


Score = Callable[[Counts], Floats]


def _ratio_score(ratio: Ratio) -> Score:
    def score(counts: Counts) -> Floats:
        below = ratio.true * counts.true + ratio.predicted * counts.taken
        below = below - ratio.both * counts.hits
        return np.divide(
            ratio.correct * counts.hits, below, where=below > 0, out=np.zeros(len(counts.hits))
        )

    return score


def _accuracy(counts: Counts) -> Floats:
    return (counts.hits + counts.rejects) / counts.total


def _balanced_accuracy(counts: Counts) -> Floats:
    return (counts.hits / counts.true + counts.rejects / (counts.total - counts.true)) / 2


def threshold_score(scoring: Any) -> Score:
    """Return how a threshold of a label is scored.

    Parameters
    ----------
    scoring : str or callable
        "f1", "jaccard", "accuracy", "balanced_accuracy" or a scorer made by
        :func:`~sklearn.metrics.make_scorer` from one of their functions or from `fbeta_score`.

    Raises
    ------
    ValueError
        If it is another score.
    """
    is_known = callable(scoring) or (isinstance(scoring, str) and scoring in get_scorer_names())
    parts = scorer_parts(get_scorer(scoring)) if is_known else None
    function = None if parts is None else parts.function
    if parts is not None and inspect.isfunction(function) and parts.sign == 1:
        plain = {accuracy_score: _accuracy, balanced_accuracy_score: _balanced_accuracy}
        if function in plain and not parts.kwargs:
            return plain[function]
        if function in (f1_score, fbeta_score, jaccard_score):
            options = checked_options(function, parts.kwargs)
            if options is not None and options["average"] == "binary" and options["pos_label"] == 1:
                return _ratio_score(RATIOS[function](options))
    raise ValueError(
        "scoring must score one label: 'f1', 'jaccard', 'accuracy', 'balanced_accuracy', or "
        "make_scorer(fbeta_score, beta=...); precision alone would predict next to nothing, recall "
        f"alone everything. Got {scoring!r:.200}."
    )


@dataclass(frozen=True)
class LabelThresholds:
    """The best threshold of each label, and what it is worth.

    Attributes
    ----------
    thresholds : ndarray of shape (n_labels,), float64
        Halfway between two probabilities that were seen.
    scores, default_scores : ndarray of shape (n_labels,), float64
        At these thresholds, and at 0.5; NaN for a label that all samples have, or none.
    counts : ndarray of shape (n_labels, 2), int64
        Samples without the label, and with it.
    is_tuned : ndarray of shape (n_labels,), bool
        Whether there were enough samples with and without the label.
    """

    thresholds: Floats
    scores: Floats
    default_scores: Floats
    counts: Integers
    is_tuned: NDArray[np.bool_]


def best_thresholds(
    codes: Integers,
    proba: NDArray[np.floating],
    score: Score,
    min_samples: int,
    weights: Floats | None = None,
) -> LabelThresholds:
    """Return the threshold of each label that scores best on these samples.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int
        1 where a label is there, 0 where not, -1 where that is not known.
    proba : ndarray of shape (n_samples, n_labels)
    score : callable
    min_samples : int
        With fewer samples that have the label, or that do not, its threshold stays 0.5.
    weights : ndarray of shape (n_samples,), default=None

    Returns
    -------
    LabelThresholds
        Of equally good thresholds the one nearest to 0.5.
    """
    weights = np.ones(len(codes)) if weights is None else weights
    used = (codes >= 0) & (weights > 0)[:, np.newaxis]
    counts = np.stack([(used & (codes == code)).sum(axis=0) for code in (0, 1)], axis=1)
    n_labels = codes.shape[1]
    found, scores, before = np.full((3, n_labels), np.nan)
    found[:] = DEFAULT
    is_tuned = counts.min(axis=1) >= max(min_samples, 1)
    for label in np.flatnonzero(counts.min(axis=1) > 0):
        rows = used[:, label]
        of_label = codes[rows, label], proba[rows, label].astype(np.float64), weights[rows]
        before[label] = score(_counts_at(*of_label, np.array([DEFAULT])))[0]
        scores[label] = before[label]
        if is_tuned[label]:
            offered = _thresholds(of_label[1])
            values = score(_counts_at(*of_label, offered))
            best = _nearest_of_the_best(offered, values)
            found[label], scores[label] = offered[best], values[best]
    return LabelThresholds(found, scores, before, counts.astype(np.int64), is_tuned)


def _thresholds(proba: Floats) -> Floats:
    """Return a threshold for every way to split the samples by their probability, ascending."""
    seen = np.unique(np.concatenate([[0.0], proba, [1.0]]))
    middle = seen[:-1] + np.diff(seen) / 2
    # Between neighbouring floats there is no middle; the comparison is strict.
    return np.unique(np.append(np.where(middle < seen[1:], middle, seen[:-1]), [DEFAULT, 1.0]))


def _counts_at(truth: Integers, proba: Floats, weights: Floats, thresholds: Floats) -> Counts:
    """Return what thresholds do, in any order of theirs."""
    order = np.argsort(proba)
    above = len(proba) - np.searchsorted(proba[order], thresholds, side="right")
    hits = weights * (truth == 1)
    taken, found = (
        np.concatenate([[0.0], values[order][::-1].cumsum()])[above] for values in (weights, hits)
    )
    return Counts(taken, found, float(hits.sum()), float(weights.sum()))


def _nearest_of_the_best(thresholds: Floats, scores: Floats) -> int:
    rounded = np.round(scores, _DIGITS)
    best = np.flatnonzero(rounded == rounded.max())
    return int(best[np.abs(thresholds[best] - DEFAULT).argmin()])
