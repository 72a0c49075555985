"""Data of displays for token classifiers: sentences with the predictions of all exits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.wrappers import (
    OwnPolicy,
    find_exits,
    innermost,
    own_policy,
    predicts_words,
)
from sklearn_epee._word_exits import (
    SpanCounts,
    StagedSentences,
    count_spans,
    right_words,
    sentence_predictions,
    true_spans,
    true_tags,
)

from ._staged import DisplaySamples, samples_from_estimator


@dataclass(frozen=True)
class DisplaySentences:
    """The sentences of a display.

    Attributes
    ----------
    staged : StagedSentences
    counts : SpanCounts
    right_words : ndarray of shape (n_samples, n_layers + 1), int64, or None
        Number of words with correct tags at every exit, and of all words.
    """

    staged: StagedSentences
    counts: SpanCounts
    right_words: NDArray[np.int64] | None = None

    @property
    def classes(self) -> NDArray[Any]:
        """Labels of spans, with the name of their layer of spans if there are several."""
        labels = self.counts.labels
        return np.array([f"{layer} {label}" if layer else label for layer, label in labels])

    @property
    def of_classes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The row of the sentence and the column of the label of each true span."""
        rows, columns = np.nonzero(self.counts.true)
        times = self.counts.true[rows, columns]
        return np.repeat(rows, times), np.repeat(columns, times)

    @property
    def layer_accuracy(self) -> NDArray[np.float64]:
        """Share of the words that the exit of each layer predicts correctly, (n_layers,)."""
        *right, every = np.asarray(self.right_words).sum(axis=0)
        return np.array(right) / max(every, 1)

    @property
    def layer_entropy(self) -> NDArray[np.float64]:
        """Mean entropy of words, over all layers of spans, at the exit of each layer."""
        found: NDArray[np.float64] = self.staged.entropies.mean(axis=(0, 2))
        return found


def samples_or_sentences(
    estimator: Any, X: Any, y: Any, *, with_tags: bool
) -> tuple[DisplaySamples | DisplaySentences, OwnPolicy]:
    """Return the predictions of all exits of a fitted estimator, and its policy.

    Parameters
    ----------
    estimator : estimator
        A classifier with early exits, of words or not, or a pipeline, search or wrapper around one.
    X : samples
    y : labels, or tags or spans
    with_tags : bool
        Whether tags of words are needed.

    Returns
    -------
    samples : DisplaySamples, or DisplaySentences
    policy : OwnPolicy

    Raises
    ------
    TypeError, ValueError
        As `samples_from_estimator`; or if words exit one by one.
    """
    if not predicts_words(find_exits(estimator, X).classifier):
        return samples_from_estimator(estimator, X, y)
    found = sentence_predictions(estimator, X, with_tags=with_tags)
    inner = innermost(estimator, X)
    scheme = str(getattr(inner.classifier, "scheme", "IOB2"))
    counts = count_spans(true_spans(inner.X, y, found.spans[-1], scheme), found.spans)
    words = None
    if found.tags is not None:
        words = right_words(true_tags(inner.X, y, scheme), found.tags)
    return DisplaySentences(found.staged, counts, words), own_policy(estimator)
