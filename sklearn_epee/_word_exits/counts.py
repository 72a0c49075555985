"""Count true, predicted and correct spans of each label, at every exit of every sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._spans import distinct_spans, layers_by_sample, spans_as_predicted

# The name of a layer of spans and a label in it; the name is empty where there is one layer.
Label = tuple[str, str]


@dataclass(frozen=True)
class SpanCounts:
    """Spans of some sentences, counted by label.

    Attributes
    ----------
    labels : list of (str, str)
        Layer of spans and label, sorted.
    right, predicted : ndarray of shape (n_samples, n_exits, n_labels), int64
        Number of correct spans, and of all spans, that each exit predicts.
    true : ndarray of shape (n_samples, n_labels), int64
        Number of true spans.
    same : ndarray of shape (n_samples, n_exits), bool
        Whether an exit predicts the same spans as the last one.
    """

    labels: list[Label]
    right: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]
    same: NDArray[np.bool_]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether a predicted span is not true or a true one is missing, (n_samples, n_exits)."""
        right, predicted = self.right.sum(axis=2), self.predicted.sum(axis=2)
        return (right < predicted) | (right < self.true.sum(axis=1)[:, np.newaxis])

    def take(self, rows: NDArray[np.intp]) -> SpanCounts:
        """Return the counts of some of the sentences."""
        right, predicted, true = self.right[rows], self.predicted[rows], self.true[rows]
        return SpanCounts(self.labels, right, predicted, true, self.same[rows])


def count_spans(true: Sequence[Any], exits: Sequence[Sequence[Any]]) -> SpanCounts:
    """Count spans like seqeval: a span is correct if its layer, start, end and label are.

    Parameters
    ----------
    true : sequence of length n_samples
        True spans, or dicts of these by layer. Discontinuous spans are never predicted correctly.
    exits : sequence of length n_exits of sequence of length n_samples
        Spans that each exit predicts.

    Returns
    -------
    SpanCounts
    """
    wanted = [distinct_spans(found, "y", row) for row, found in enumerate(true)]
    found = [[distinct_spans(one, "y_pred", row) for row, one in enumerate(at)] for at in exits]
    labels = sorted({span[2] for part in (wanted, *found) for spans in part for span in spans})
    columns = {label: column for column, label in enumerate(labels)}

    def counted(parts: Sequence[set[Any]]) -> NDArray[np.int64]:
        return _counted(parts, columns)

    def stacked(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(list(parts), axis=1)

    return SpanCounts(
        labels,
        stacked(counted([a & b for a, b in zip(at, wanted, strict=True)]) for at in found),
        stacked(map(counted, found)),
        counted(wanted),
        stacked(np.array([a == b for a, b in zip(at, found[-1], strict=True)]) for at in found),
    )


def _counted(parts: Sequence[set[Any]], columns: Mapping[Label, int]) -> NDArray[np.int64]:
    """Return the number of spans of each label in each sentence, (n_samples, n_labels)."""
    counts = np.zeros((len(parts), len(columns)), dtype=np.int64)
    for row, spans in enumerate(parts):
        for *_, label in spans:
            counts[row, columns[label]] += 1
    return counts


def true_spans(X: Any, y: Any, predicted: Sequence[Any], scheme: str) -> list[Any]:
    """Return the true spans of samples, in the same units and layers as predicted spans.

    Parameters
    ----------
    X : samples
    y : sequence or frame
        Tags or spans, or dicts of these by layer.
    predicted : sequence of length n_samples
        Spans that an exit predicts.
    scheme : {"IOB2", "BIOES", "IO"}
        Tagging scheme of `y`.

    Raises
    ------
    ValueError
        If `y` and `predicted` differ in length, or in the layers of spans.
    """
    found = layers_by_sample(y)
    if len(found) != len(predicted):
        raise ValueError(
            f"X and y have inconsistent numbers of samples: X has {len(predicted)}, y has "
            f"{len(found)}."
        )
    for row, (ours, theirs) in enumerate(zip(found, predicted, strict=True)):
        given, known = (sorted(p) if isinstance(p, Mapping) else [] for p in (ours, theirs))
        if given != known:
            raise ValueError(
                f"y[{row}] has the layers of spans {given}; the estimator was fitted on {known}."
            )
    return spans_as_predicted(X, found, scheme)
