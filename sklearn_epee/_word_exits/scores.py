"""Scores of spans and of words for all policies at once, from sums over sentences.

The micro F1 score is a ratio of sums over sentences: of correct, predicted and true spans. The
contribution of each sentence only depends on its exit, so the sums for all thresholds are
cumulative sums, and the results are exact. Macro and weighted averages need the same sums for each
label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer, get_scorer_names

from sklearn_epee._compat import scorer_parts
from sklearn_epee._exits.count_scores import (
    RATIOS,
    CountMetric,
    Ratio,
    checked_options,
    count_metric,
    rounding_of,
)
from sklearn_epee._exits.staged import Floats
from sklearn_epee._exits.sweep_scores import MeanScore, PolicyScore
from sklearn_epee._spans import (
    SpanF1Scorer,
    fit_spans,
    layers_by_sample,
    spans_to_tags,
    split_words,
)

from .counts import Label, SpanCounts

F1 = Ratio.fbeta(1.0)
_EXPECTED = (
    "expected span_f1_scorer(...), 'accuracy' (of words), or a precision, recall, F or Jaccard "
    "score with the average micro, macro or weighted, such as 'f1_micro', which is of spans here"
)


class Totals(Protocol):
    """Interface of policies for which values at the exits can be summed, such as a `Sweep`."""

    def total(self, values: NDArray[Any]) -> Floats:
        """Sum `values[i, m]`, of sentence i at exit m, for every policy."""
        ...


class SpanScore:
    """A ratio of counts of spans for every policy, averaged over labels.

    Parameters
    ----------
    metric : CountMetric
        Its classes are the labels of `counts`.
    counts : SpanCounts
    weights : ndarray of shape (n_samples,), default=None
    """

    is_cheap = True

    def __init__(
        self, metric: CountMetric, counts: SpanCounts, weights: Floats | None = None
    ) -> None:
        self._metric = metric
        self._counts = counts
        self._weights = np.ones(len(counts.true)) if weights is None else weights
        self._rounding = rounding_of(self._weights)
        every = np.arange(len(counts.labels))
        self._columns = every if metric.columns is None else metric.columns

    def __call__(self, sweep: Totals) -> Floats:
        score = self._pooled(sweep) if self._metric.average == "micro" else self._averaged(sweep)
        return self._metric.sign * score

    def _pooled(self, sweep: Totals) -> Floats:
        known = self._columns[self._columns < len(self._counts.labels)]
        right, predicted = (
            sweep.total(part[..., known].sum(axis=2) * self._weights[:, np.newaxis])
            for part in (self._counts.right, self._counts.predicted)
        )
        true = float(self._weights @ self._counts.true[:, known].sum(axis=1))
        return self._ratio(right, predicted, true)

    def _averaged(self, sweep: Totals) -> Floats:
        if not len(self._columns):  # no span is true or predicted
            none = sweep.total(np.zeros(self._counts.same.shape))
            return np.full(len(none), self._metric.zero_division)
        ratios, there, support = zip(
            *(self._of_label(sweep, c) for c in self._columns), strict=True
        )
        scored = np.stack(there) & ~np.isnan(ratios)
        sizes = np.array(support) if self._metric.average == "weighted" else np.ones(len(support))
        weight = scored * sizes[:, np.newaxis]
        total = np.where(weight > 0, ratios, 0.0) * weight
        found = np.full(total.shape[1], self._metric.zero_division)
        return np.divide(total.sum(0), weight.sum(0), where=weight.sum(0) > 0, out=found)

    def _of_label(self, sweep: Totals, column: int) -> tuple[Floats, NDArray[np.bool_], float]:
        """Return the ratio of a label, whether it counts, and its number of true spans."""
        counts = self._counts
        if column >= len(counts.labels):  # a label that is neither true nor predicted
            none = sweep.total(np.zeros(counts.predicted.shape[:2]))
            return self._ratio(none, none, 0.0), none == 0, 0.0
        right, predicted = (
            sweep.total(part[..., column] * self._weights[:, np.newaxis])
            for part in (counts.right, counts.predicted)
        )
        true = float(self._weights @ counts.true[:, column])
        is_there = np.full(len(right), True)
        if self._metric.present_only:
            is_there = (predicted > self._rounding) | (true > self._rounding)
        return self._ratio(right, predicted, true), is_there, true

    def _ratio(self, right: Floats, predicted: Floats, true: float) -> Floats:
        ratio = self._metric.ratio
        below = ratio.predicted * predicted + ratio.true * true - ratio.both * right
        found = np.full(len(right), self._metric.zero_division)
        return np.divide(ratio.correct * right, below, where=below > self._rounding, out=found)


def word_score(
    scoring: Any,
    counts: SpanCounts,
    right_words: NDArray[np.int64] | None = None,
    weights: Floats | None = None,
) -> PolicyScore:
    """Return a score of spans, or of words, for any set of policies.

    Parameters
    ----------
    scoring : str or scorer
        :func:`~sklearn_epee.metrics.span_f1_scorer`; the name of a precision, recall, F or Jaccard
        score of scikit-learn, or a scorer made from one, applied to spans and their labels; or
        "accuracy", applied to words.
    counts : SpanCounts
    right_words : ndarray of shape (n_samples, n_exits + 1), int64, default=None
        For "accuracy": number of words with correct tags, and in the last column of all words.
    weights : ndarray of shape (n_samples,), default=None

    Raises
    ------
    ValueError
        If `scoring` is not supported.
    """
    if is_word_accuracy(scoring) and right_words is not None:
        shares = np.ones(len(right_words)) if weights is None else weights
        right = right_words[:, :-1] * shares[:, np.newaxis]
        return MeanScore(right, float(shares @ right_words[:, -1]))
    metric = span_metric(scoring, counts.labels)
    return SpanScore(metric, counts, weights)


def is_word_accuracy(scoring: Any) -> bool:
    """Return whether a scoring is the accuracy of words, which needs tags."""
    return isinstance(scoring, str) and scoring == "accuracy"


def check_word_scoring(scoring: Any) -> None:
    """Raise if a scoring cannot be applied to words or spans, for any labels.

    Raises
    ------
    ValueError
    """
    if isinstance(scoring, SpanF1Scorer) or is_word_accuracy(scoring):
        return
    parts = scorer_parts(get_scorer(scoring)) if _is_scorer(scoring) else None
    options = None
    if parts is not None and parts.function in RATIOS:
        options = checked_options(parts.function, parts.kwargs)
    # A score of one of two labels needs the name of this label.
    is_of_two = options is not None and options["average"] == "binary"
    if options is None or (is_of_two and not isinstance(options["pos_label"], str)):
        raise ValueError(f"scoring={scoring!r} is no score of words or spans; {_EXPECTED}.")


def _is_scorer(scoring: Any) -> bool:
    return scoring in get_scorer_names() if isinstance(scoring, str) else callable(scoring)


def span_metric(scoring: Any, labels: Sequence[Label]) -> CountMetric:
    """Return the metric of a scoring, for spans with these labels.

    Raises
    ------
    ValueError
        If it needs more than counts of spans, or refers to an unknown layer.
    """
    if isinstance(scoring, SpanF1Scorer):
        return CountMetric(F1, scoring.average, _columns_of(scoring.layer, labels))
    layers = {layer for layer, _ in labels}
    # Labels of several layers may have the same names.
    names = np.array([label for _, label in labels] if len(layers) <= 1 else range(len(labels)))
    metric = None
    if _is_scorer(scoring) and scorer_parts(get_scorer(scoring)) is not None:
        metric = count_metric(get_scorer(scoring), names)
    if metric is None:
        raise ValueError(f"scoring={scoring!r} is no score of words or spans; {_EXPECTED}.")
    return metric


def _columns_of(layer: str | None, labels: Sequence[Label]) -> NDArray[np.int64] | None:
    if layer is None:
        return None
    layers = sorted({of for of, _ in labels})
    if layer not in layers:
        known = [of for of in layers if of]
        raise ValueError(f"layer must be one of {known}; got {layer!r}.")
    return np.array([column for column, (of, _) in enumerate(labels) if of == layer])


# ------------------------------------------------------------------------------ tags of words


def true_tags(X: Sequence[Any], y: Any, scheme: str) -> list[Any]:
    """Return the true tags of words, given tags or spans; or dicts of these by layer.

    Spans that cannot be represented by tags are left out.
    """
    return [
        {name: _tags(sample, part, scheme) for name, part in found.items()}
        if isinstance(found, Mapping)
        else _tags(sample, found, scheme)
        for sample, found in zip(X, layers_by_sample(y), strict=True)
    ]


def _tags(sample: Any, found: Any, scheme: str) -> list[str]:
    if len(found) and isinstance(found[0], str):
        return list(found)
    places = split_words(sample) if isinstance(sample, str) else _places(len(sample))
    spans = [tuple(span) for span in found if len(span) == 3]
    simple = [span for span in spans if all(isinstance(n, (int, np.integer)) for n in span[:2])]
    kept, _ = fit_spans(simple, places)
    return spans_to_tags(kept, places, scheme)


def _places(n_words: int) -> list[tuple[int, int]]:
    return [(word, word + 1) for word in range(n_words)]


def right_words(true: Sequence[Any], exits: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
    """Return the number of words with correct tags at every exit, and the number of all words.

    Parameters
    ----------
    true : sequence of length n_samples
        True tags, or dicts of these by layer; a word is correct if its tags in all layers are.
    exits : sequence of length n_exits of sequence of length n_samples

    Returns
    -------
    ndarray of shape (n_samples, n_exits + 1), int64
    """
    wanted = [_by_word(tags) for tags in true]
    columns = [
        [
            sum(ours == theirs for ours, theirs in zip(_by_word(tags), words, strict=True))
            for tags, words in zip(at, wanted, strict=True)
        ]
        for at in exits
    ]
    return np.array([*columns, [len(words) for words in wanted]], dtype=np.int64).T


def _by_word(tags: Any) -> list[tuple[str, ...]]:
    layers = [tags[name] for name in sorted(tags)] if isinstance(tags, Mapping) else [tags]
    return list(zip(*layers, strict=True))
