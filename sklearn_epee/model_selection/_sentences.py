"""Compare exit policies of token classifiers: targets, exits, scores and losses of sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from sklearn_epee._checks.messages import shown
from sklearn_epee._checks.tasks import strata
from sklearn_epee._compat import num_samples, safe_indexing
from sklearn_epee._exits.policy_scores import PolicyScore
from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.wrappers import innermost
from sklearn_epee._spans import layers_by_sample
from sklearn_epee._word_exits import (
    SentencePredictions,
    SpanCounts,
    StagedSentences,
    count_spans,
    is_word_accuracy,
    right_words,
    sentence_predictions,
    true_spans,
    true_tags,
    word_score,
)

from ._class_recall import ClassReport
from ._risks import Risk, checked_losses

_ADVICE = (
    "Bound risk='disagreement', the share of the sentences whose spans differ from those of full "
    "depth, or 'error', the share of those with a wrong or missing span, by max_risk; or give a "
    "callable risk with one loss a sentence."
)


@dataclass(frozen=True)
class SentenceTarget:
    """The tags or spans given to `fit`.

    Attributes
    ----------
    y : sequence or frame of length n_samples
        As it was given.
    """

    y: Any

    @classmethod
    def of(cls, y: Any, n_samples: int) -> SentenceTarget:
        """Check that there is one entry for each sample.

        Raises
        ------
        ValueError
        """
        if y is None or not hasattr(y, "__len__") or num_samples(y) != n_samples:
            found = "None" if y is None else shown(y)
            raise ValueError(
                f"y must hold tags or spans for each of the {n_samples} samples of X; got {found}."
            )
        return cls(y)

    def to_split(self, cv: Any) -> Integers:
        """Return the target for stratified splits: which layers of a sentence have spans."""
        has_spans = [
            [_has_spans(part) for part in found.values()]
            if isinstance(found, Mapping)
            else [_has_spans(found)]
            for found in layers_by_sample(self.y)
        ]
        codes = np.array(has_spans, dtype=np.int64)
        return strata(codes, 2 if isinstance(cv, float) else cv if isinstance(cv, int) else 5)


def _has_spans(found: Any) -> bool:
    return any(tag != "O" for tag in found)


def check_risk_of_words(tuner: Any) -> None:
    """Raise if a guarantee bounds a risk that is not a mean over sentences.

    Raises
    ------
    ValueError
    """
    if tuner.per_class:
        raise ValueError(
            "per_class=True needs samples of one class each, but a sentence has spans of several "
            f"labels. {_ADVICE}"
        )
    if callable(tuner.risk) or tuner.risk in ("disagreement", "error"):
        return
    if tuner.risk == "accuracy_drop":
        raise ValueError(
            "risk='accuracy_drop' (max_accuracy_drop with a guarantee) has no bound where words "
            "are predicted: F1 divides sums over all sentences, so it is no mean of one loss for "
            f"each, which the tests are about. {_ADVICE}"
        )
    raise ValueError(
        f"risk={tuner.risk!r} is about samples with one prediction each, not words. {_ADVICE}"
    )


@dataclass(frozen=True)
class SentenceValidation:
    """Sentences with the predictions of all exits of networks that were not trained on them.

    Attributes
    ----------
    staged : StagedSentences
    rows : ndarray of shape (n_samples,), int
        Row of each sample in the data given to `fit`; a sample may appear in several splits.
    counts : SpanCounts
    true : list of length n_samples
        True spans.
    spans : list of length n_layers of list of length n_samples
        Predicted spans.
    right_words : ndarray of shape (n_samples, n_layers + 1), int64, or None
        Number of words with correct tags at each exit, and of all words; None if the score does
        not need them.
    """

    staged: StagedSentences
    rows: NDArray[np.intp]
    counts: SpanCounts
    true: list[Any]
    spans: list[list[Any]]
    right_words: Integers | None = None

    def take(self, rows: Integers) -> SentenceValidation:
        """Return some of the sentences."""
        return SentenceValidation(
            self.staged.take(rows),
            self.rows[rows],
            self.counts.take(rows),
            [self.true[row] for row in rows],
            [[at[row] for row in rows] for at in self.spans],
            None if self.right_words is None else self.right_words[rows],
        )

    def policy_score(self, scoring: Any, weights: Floats | None) -> PolicyScore:
        """Return the score for all thresholds of one patience."""
        return word_score(scoring, self.counts, self.right_words, weights)

    def class_report(self, tau: float, patience: int, weights: Floats | None) -> ClassReport:
        """Compare the recall of the spans of each label under a policy with full depth."""
        exits = self.staged.exit_layers(tau, patience)
        right = self.counts.right[np.arange(len(exits)), exits - 1]
        return span_report(self.counts, right, exits.astype(np.float64), weights)

    def risk(self, risk: Any) -> Risk:
        """Return a named or callable risk, with one loss per sentence."""
        all_samples = np.ones(self.staged.n_samples, dtype=bool)
        if callable(risk):
            return Risk(self._called(risk), all_samples, "the given risk")
        if risk == "error":
            losses = self.counts.wrong.astype(np.float64)
            return Risk(losses, all_samples, "the share of wrong sentences", is_binary=True)
        losses = (~self.counts.same).astype(np.float64)
        name = "the share of sentences that differ from full depth"
        return Risk(losses, all_samples, name, is_binary=True, is_relative=True)

    def _called(self, risk: Callable[..., Any]) -> Floats:
        columns = [
            checked_losses(risk(self.true, at, self.spans[-1]), len(self.true)) for at in self.spans
        ]
        return np.column_stack(columns)


def span_report(
    counts: SpanCounts, right: Integers, exits: Floats, weights: Floats | None
) -> ClassReport:
    """Compare the recall of the spans of every label with full depth.

    Parameters
    ----------
    counts : SpanCounts
        The last exit is full depth.
    right : ndarray of shape (n_samples, n_labels), int64
        Number of correct spans at the exits of the sentences under a policy.
    exits : ndarray of shape (n_samples,), float64
        Mean exit layers of the sentences.
    weights : ndarray of shape (n_samples,) or None
    """
    full, true = counts.right[:, -1], counts.true
    shares = np.ones(len(true)) if weights is None else weights
    support = shares @ true

    def per_span(values: NDArray[Any]) -> Floats:
        found = np.full(len(support), np.nan)
        return np.divide(shares @ values, support, where=support > 0, out=found)

    counted = shares > 0
    lost, gained = (np.count_nonzero(d[counted], axis=0) for d in (right < full, right > full))
    full_recall, recall = per_span(full), per_span(right)
    everywhere = float(shares @ (full - right).sum(axis=1)) / max(float(support.sum()), 1e-300)
    layers = sorted({layer for layer, _ in counts.labels})
    return ClassReport(
        np.array([layers.index(layer) for layer, _ in counts.labels], dtype=np.int64),
        [label for _, label in counts.labels],
        true[counted].sum(axis=0),
        full_recall,
        recall,
        per_span(true * exits[:, np.newaxis]),
        binom.sf(lost - 1, lost + gained, 0.5),
        full_recall - recall - max(everywhere, 0.0),
        layers=layers,
    )


@dataclass(frozen=True)
class SentenceStaging:
    """Staging of sentences that exit as a whole.

    Attributes
    ----------
    scoring : str or callable
        Determines whether tags are needed.
    """

    scoring: Any

    def stage(self, estimator: Any, X: Any) -> tuple[SentencePredictions, Any, str]:
        """Return the predictions of every exit, the input of the classifier, and the scheme."""
        found = innermost(estimator, X)
        predictions = sentence_predictions(estimator, X, with_tags=is_word_accuracy(self.scoring))
        return predictions, found.X, str(getattr(found.classifier, "scheme", "IOB2"))

    def warn_of_missing(self, y: Any, splits: Sequence[Any]) -> None:
        """Do nothing, because splits of sentences are not stratified by their labels."""

    def pooled(
        self, parts: Sequence[Any], rows: Sequence[NDArray[np.intp]], y: Any
    ) -> SentenceValidation:
        """Concatenate the predictions of several networks."""
        found = [part for part, *_ in parts]
        depths = sorted({part.staged.n_layers for part in found})
        if len(depths) > 1:
            raise ValueError(
                f"The networks of the splits have different numbers of layers: {depths}."
            )
        true, right = [], []
        for (part, X, scheme), own in zip(parts, rows, strict=True):
            labels = safe_indexing(y, own)
            true += true_spans(X, labels, part.spans[-1], scheme)
            if part.tags is not None:
                right.append(right_words(true_tags(X, labels, scheme), part.tags))
        layers = zip(*(part.spans for part in found), strict=True)
        spans = [list(chain.from_iterable(at)) for at in layers]
        return SentenceValidation(
            StagedSentences.concatenate([part.staged for part in found]),
            np.concatenate(rows),
            count_spans(true, spans),
            true,
            spans,
            np.concatenate(right) if right else None,
        )
