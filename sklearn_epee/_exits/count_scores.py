"""Scores from counts per class, for all thresholds at once: precision, recall, F, Jaccard.

They depend on the numbers of true, predicted and correctly predicted samples of each class. A
sample that moves to an earlier exit changes the counts of at most two classes, so the counts for
all thresholds are cumulative sums. The results are exact: the same as those of scikit-learn's
functions, including `labels`, `average` and `zero_division`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, fbeta_score, jaccard_score, precision_score, recall_score

from sklearn_epee._compat import scorer_parts

from .label_scores import positive_f1_score
from .staged import Floats, Integers
from .sweep import Sweep

# Sums of weights below this, times the largest weight, are 0 up to rounding errors.
ROUNDING = 1e-9
# Number of counts in memory at a time, one per class and threshold.
_BLOCK = 2**20


def rounding_of(weights: Floats) -> float:
    """Return the limit below which a sum of weights counts as 0, relative to the weights."""
    return ROUNDING * float(weights.max(initial=0.0))


class Ratio(NamedTuple):
    """Coefficients of a score: correct * c / (true * t + predicted * p - both * c).

    Here c is the number of correct predictions of a class, t the number of samples of it, and p the
    number of predictions of it.
    """

    correct: float
    true: float
    predicted: float
    both: float = 0.0

    @classmethod
    def fbeta(cls, beta: float) -> Ratio:
        """Return the coefficients of the F-beta score."""
        if np.isposinf(beta):
            return RECALL
        return cls(1 + beta**2, beta**2, 1.0)


PRECISION = Ratio(1.0, 0.0, 1.0)
RECALL = Ratio(1.0, 1.0, 0.0)
JACCARD = Ratio(1.0, 1.0, 1.0, both=1.0)


@dataclass(frozen=True)
class CountMetric:
    """A ratio of counts, and how it is averaged over the classes.

    Attributes
    ----------
    ratio : Ratio
    average : {"micro", "macro", "weighted"}
        "micro" divides the sums over the classes, "macro" is the mean of the ratios of the classes,
        and "weighted" their mean weighted by the numbers of true samples.
    columns : ndarray of int or None
        The classes that count; numbers from the number of classes on stand for labels without a
        sample. None means all classes.
    present_only : bool
        Whether classes with neither true nor predicted samples are left out of the mean.
    zero_division : float
        The ratio if the denominator is 0; NaN leaves the class out of the mean.
    sign : {1, -1}
    """

    ratio: Ratio
    average: str
    columns: Integers | None = None
    present_only: bool = True
    zero_division: float = 0.0
    sign: int = 1

    def score(
        self,
        predictions: Integers,
        codes: Integers,
        n_classes: int,
        weights: Floats | None = None,
    ) -> CountScore:
        """Return a score of these samples, which can be computed for any sweep.

        Parameters
        ----------
        predictions : ndarray of shape (n_samples, n_layers), int
            Column of the class predicted at every layer.
        codes : ndarray of shape (n_samples,), int
            Column of the true class.
        n_classes : int
        weights : ndarray of shape (n_samples,), default=None
        """
        n_counted = n_classes
        if self.columns is not None:  # all others share one last column
            n_counted = len(self.columns)
            place = np.full(max(n_classes, self.columns.max(initial=0) + 1), n_counted)
            place[self.columns] = np.arange(n_counted)
            predictions, codes = place[predictions], place[codes]
        kind = _PooledScore if self.average == "micro" else _AveragedScore
        return kind(self, predictions, codes, n_counted, weights)


class CountScore:
    """A score from counts per class, for each threshold of a sweep.

    Parameters
    ----------
    metric : CountMetric
    predictions : ndarray of shape (n_samples, n_layers), int
        Index of the class predicted at every layer among those that count; `n_counted` for others.
    codes : ndarray of shape (n_samples,), int
        Index of the true class among those that count.
    n_counted : int
        Number of classes that count.
    weights : ndarray of shape (n_samples,) or None
    """

    is_cheap = True

    def __init__(
        self,
        metric: CountMetric,
        predictions: Integers,
        codes: Integers,
        n_counted: int,
        weights: Floats | None,
    ) -> None:
        self._metric = metric
        self._predictions = predictions
        self._codes = codes
        self._n_counted = n_counted
        self._has_weights = weights is not None
        self._weights = np.ones(len(codes)) if weights is None else weights
        self._rounding = rounding_of(self._weights)

    def __call__(self, sweep: Sweep) -> Floats:
        """Return the score for each threshold of a sweep; higher is better."""
        return self._metric.sign * self._scores(sweep)

    def _scores(self, sweep: Sweep) -> Floats:
        raise NotImplementedError

    def _denominator(self, true: Any, predicted: Any, correct: Any) -> Any:
        ratio = self._metric.ratio
        denominator = ratio.predicted * predicted + ratio.true * true
        return denominator - ratio.both * correct if ratio.both else denominator


class _PooledScore(CountScore):
    """The ratio of the sums over the classes."""

    def _scores(self, sweep: Sweep) -> Floats:
        ratio, weights = self._metric.ratio, self._weights[:, np.newaxis]
        counts = self._predictions < self._n_counted
        hits = counts & (self._predictions == self._codes[:, np.newaxis])
        true = float(self._weights[self._codes < self._n_counted].sum())
        correct = sweep.total(hits * weights)
        predicted = sweep.total(counts * weights) if ratio.predicted else 0.0
        denominator = np.broadcast_to(self._denominator(true, predicted, correct), correct.shape)
        found = np.full(len(correct), self._metric.zero_division)
        has_weight = denominator > self._rounding
        return np.divide(ratio.correct * correct, denominator, where=has_weight, out=found)


class _AveragedScore(CountScore):
    """The (weighted) mean of the ratios of the classes."""

    def __init__(
        self,
        metric: CountMetric,
        predictions: Integers,
        codes: Integers,
        n_counted: int,
        weights: Floats | None,
    ) -> None:
        super().__init__(metric, predictions, codes, n_counted, weights)
        size = n_counted + 1
        self._support = np.bincount(codes, weights=self._weights, minlength=size)[:n_counted]
        # As in scikit-learn, a class counts if it has samples, even if their weight is 0.
        self._is_true = np.bincount(codes, minlength=size)[:n_counted] > 0

    def _scores(self, sweep: Sweep) -> Floats:
        n_taus = len(sweep.taus)
        n_scored, total, weight, weighted = np.zeros((4, n_taus))
        for block, ratios, is_there in self._ratios(sweep):
            ratios[~is_there] = 0.0
            n_scored += is_there.sum(axis=0)
            total += ratios.sum(axis=0)
            if self._metric.average == "weighted":
                support = self._support[block, np.newaxis]
                weight += (is_there * support).sum(axis=0)
                weighted += (ratios * support).sum(axis=0)
        found = np.full(n_taus, self._metric.zero_division)  # where no class counts
        np.divide(total, n_scored, where=n_scored > 0, out=found)
        return np.divide(weighted, weight, where=weight > 0, out=found)

    def _ratios(self, sweep: Sweep) -> Iterator[tuple[slice, Floats, NDArray[np.bool_]]]:
        """Yield blocks of classes, their ratios, and which of them count, (n_classes, n_taus)."""
        ratio, zero_division = self._metric.ratio, self._metric.zero_division
        changes = self._changes(sweep)
        start = sweep.at_start(self._predictions)
        hits = self._weights * (start == self._codes)
        predicted, correct = (
            np.bincount(start, weights=weights, minlength=self._n_counted)
            for weights in (self._weights, hits)
        )
        n_taus = len(sweep.taus)
        size = max(1, _BLOCK // n_taus)
        for first in range(0, self._n_counted, size):
            block = slice(first, min(first + size, self._n_counted))
            right = changes.add_up(block, correct[block], n_taus, changes.correct)
            guessed = changes.add_up(block, predicted[block], n_taus, changes.weight)
            true = self._support[block, np.newaxis]
            denominator = self._denominator(true, guessed, right)
            has_weight = denominator > self._rounding
            ratios = np.full(denominator.shape, zero_division)
            np.divide(ratio.correct * right, denominator, where=has_weight, out=ratios)
            yield block, ratios, self._counts(block, start, changes, n_taus) & ~np.isnan(ratios)

    def _counts(
        self, block: slice, start: Integers, changes: _Changes, n_taus: int
    ) -> NDArray[np.bool_]:
        """Return which classes are included in the mean, (n_classes, n_taus)."""
        if not self._metric.present_only:
            return np.ones((block.stop - block.start, n_taus), dtype=bool)
        predicted = np.bincount(start, minlength=self._n_counted)[block]
        times = changes.add_up(block, predicted, n_taus, changes.sign)
        return self._is_true[block, np.newaxis] | (times > 0.5)

    def _changes(self, sweep: Sweep) -> _Changes:
        """Return the changes of counts by each move, for the classes predicted before and after."""
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
        Changes of the number of predictions of the class, of their weight, and of the weight of
        the correct predictions.
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


# ------------------------------------------------------------------------- from scorers


RATIOS: Mapping[Callable[..., Any], Callable[[Mapping[str, Any]], Ratio]] = {
    f1_score: lambda _: Ratio.fbeta(1.0),
    fbeta_score: lambda options: Ratio.fbeta(options["beta"]),
    precision_score: lambda _: PRECISION,
    recall_score: lambda _: RECALL,
    jaccard_score: lambda _: JACCARD,
    positive_f1_score: lambda _: Ratio.fbeta(1.0),
}


def count_metric(scorer: Any, classes: NDArray[Any]) -> CountMetric | None:
    """Return the metric of a scikit-learn scorer; None if it needs more than counts per class.

    Parameters
    ----------
    scorer : callable
        Made by :func:`~sklearn.metrics.make_scorer`.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    CountMetric or None
        Also None for invalid options, so that scikit-learn raises the error.
    """
    parts = scorer_parts(scorer)
    if parts is None or not inspect.isfunction(parts.function) or not _are_classes(classes):
        return None
    if parts.function not in RATIOS:
        return None
    options = checked_options(parts.function, parts.kwargs)
    if options is None or options["sample_weight"] is not None:
        return None
    chosen = _averaged(options, classes)
    if chosen is None:
        return None
    ratio = RATIOS[parts.function](options)
    zero_division = options["zero_division"]
    zero_division = 0.0 if isinstance(zero_division, str) else float(zero_division)
    return replace(chosen, ratio=ratio, zero_division=zero_division, sign=parts.sign)


def _are_classes(classes: NDArray[Any]) -> bool:
    """Return whether scikit-learn accepts these labels as classes, not as continuous values."""
    return classes.dtype.kind != "f" or bool((classes == classes.round()).all())


def checked_options(
    function: Callable[..., Any], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the options of a metric, including defaults; None if they are invalid."""
    try:
        bound = inspect.signature(function).bind(None, None, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    options = dict(bound.arguments)
    # scikit-learn does not accept zero_division=np.nan for the Jaccard score.
    is_refused = function is jaccard_score and options["zero_division"] != options["zero_division"]
    return options if _is_valid(options) and not is_refused else None


def _is_valid(options: Mapping[str, Any]) -> bool:
    """Return whether scikit-learn accepts the options that are numbers."""
    beta, zero_division = options.get("beta", 1.0), options["zero_division"]
    if isinstance(zero_division, str):
        return zero_division == "warn" and _is_number(beta)
    is_valid = _is_number(zero_division) and (zero_division in (0, 1) or np.isnan(zero_division))
    return is_valid and _is_number(beta)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, (int, float, np.integer, np.floating))
    return is_real and not isinstance(value, bool) and not value < 0


def _averaged(options: Mapping[str, Any], classes: NDArray[Any]) -> CountMetric | None:
    """Return a metric over the classes given by the options, with a placeholder for the ratio."""
    average, every = options["average"], np.arange(len(classes))
    if "negative_class" in options:
        column = _column(options["negative_class"], classes)
        if column is None or average not in {"micro", "macro"}:
            return None
        return CountMetric(PRECISION, average, np.delete(every, column))
    if average == "binary":
        column = _column(options["pos_label"], classes) if len(classes) == 2 else None
        return None if column is None else _over_named(every[[column]], "macro")
    if average not in ("micro", "macro", "weighted"):
        return None
    if options["labels"] is None:
        return CountMetric(PRECISION, average)
    columns = _columns(options["labels"], classes)
    return None if columns is None else _over_named(columns, average)


def _over_named(columns: Integers, average: str) -> CountMetric:
    """Return a metric over explicitly listed classes, which count even without samples."""
    return CountMetric(PRECISION, average, columns, present_only=False)


def _column(label: Any, classes: NDArray[Any]) -> int | None:
    """Return the column of a class; None if the label is not a class."""
    columns = _columns([label], classes)
    return None if columns is None or columns[0] >= len(classes) else int(columns[0])


def _columns(labels: Any, classes: NDArray[Any]) -> Integers | None:
    """Return columns of labels, beyond those of classes if unknown; None for invalid labels."""
    given, classes = np.asarray(labels), np.asarray(classes.tolist())
    kinds = ["n" if part.dtype.kind in "iuf" else part.dtype.kind for part in (given, classes)]
    if given.ndim != 1 or not len(given) or kinds[0] != kinds[1] or kinds[0] not in "nbU":
        return None
    if len(np.unique(given)) < len(given):
        return None
    place = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
    is_known = classes[place] == given
    columns = np.where(is_known, place, len(classes) + np.arange(len(given)))
    return columns.astype(np.int64)
