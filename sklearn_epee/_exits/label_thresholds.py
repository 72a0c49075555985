"""Find the best threshold of each label among all thresholds, by cumulative sums.

A label is predicted if its probability is above its threshold. If samples are sorted by descending
probability, the label is predicted for the first ones. The score depends on how many of these have
the label, and how many samples have it in total; both are cumulative sums.
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
# Scores are rounded before they are compared, because of rounding errors.
_DIGITS = 12


@dataclass(frozen=True)
class Counts:
    """Numbers of samples for every threshold of a label, weighted by sample weights.

    Attributes
    ----------
    taken : ndarray of shape (n_thresholds,), float64
        Weight of the samples for which the label is predicted.
    hits : ndarray of shape (n_thresholds,), float64
        Weight of the samples that have the label and for which it is predicted.
    true, total : float
        Weight of the samples that have the label, and of all samples.
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
    """Return the function that scores the thresholds of a label.

    Parameters
    ----------
    scoring : str or callable
        "f1", "jaccard", "accuracy", "balanced_accuracy" or a scorer made by
        :func:`~sklearn.metrics.make_scorer` from one of their functions or from `fbeta_score`.

    Raises
    ------
    ValueError
        If another score is given.
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
    """The best threshold of each label, with its score.

    Attributes
    ----------
    thresholds : ndarray of shape (n_labels,), float64
        Halfway between two observed probabilities.
    scores, default_scores : ndarray of shape (n_labels,), float64
        Scores at these thresholds, and at 0.5; NaN for a label that all samples have, or none.
    counts : ndarray of shape (n_labels, 2), int64
        Number of samples without the label, and with it.
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
    """Return the threshold of each label with the best score on these samples.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int
        1 if a sample has the label, 0 if not, -1 if this is unknown.
    proba : ndarray of shape (n_samples, n_labels)
    score : callable
    min_samples : int
        Labels with fewer positive or fewer negative samples keep the threshold 0.5.
    weights : ndarray of shape (n_samples,), default=None

    Returns
    -------
    LabelThresholds
        If several thresholds have the best score, the one nearest to 0.5.
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
    """Return all thresholds with different predictions, halfway between probabilities, sorted."""
    seen = np.unique(np.concatenate([[0.0], proba, [1.0]]))
    middle = seen[:-1] + np.diff(seen) / 2
    # There is no number between adjacent floats; the lower one works, as proba must be > threshold.
    return np.unique(np.append(np.where(middle < seen[1:], middle, seen[:-1]), [DEFAULT, 1.0]))


def _counts_at(truth: Integers, proba: Floats, weights: Floats, thresholds: Floats) -> Counts:
    """Return the counts for thresholds in any order."""
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
