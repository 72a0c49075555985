"""Rows on spans: words and tags of texts, valid sequences, and scores against seqeval alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from benchmarks._measure import interleaved, quotient
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee._spans import (
    most_probable_tags,
    spans_to_tags,
    split_words,
    tag_set,
    transition_scores,
    valid_transitions,
)
from sklearn_epee.metrics import span_f1_score

WORDS = [
    "the",
    "patient",
    "developed",
    "severe",
    "rash",
    "after",
    "0.5mg/kg",
    "of",
    "insulin",
    "(IL-6)",
    "given",
    "for",
    "fever",
]
LABELS = ("Drug", "Effect", "Subject")


def make_spans(n: int, seed: int = 0) -> tuple[list[str], list[list[tuple[int, int, str]]]]:
    """Return texts of about forty words, with three spans each, in characters."""
    rng = np.random.default_rng(seed)
    texts, targets = [], []
    for _ in range(n):
        text = " ".join(rng.choice(WORDS, 35))
        words = split_words(text)
        starts = np.sort(rng.choice(len(words) // 5, 3, replace=False)) * 5
        lengths = rng.integers(1, 5, 3)
        places = zip(starts, lengths, rng.choice(LABELS, 3), strict=True)
        texts.append(text)
        targets.append(
            [(words[i][0], words[i + length - 1][1], str(label)) for i, length, label in places]
        )
    return texts, targets


def tags_of(texts: list[str], spans: list[list[tuple[int, int, str]]]) -> list[list[str]]:
    """Return IOB2 tags of all words."""
    return [
        spans_to_tags(found, split_words(text)) for text, found in zip(texts, spans, strict=True)
    ]


def spans(settings: Settings) -> Iterator[Line]:
    """Time conversion to tags and scores, in turns with seqeval on the same tags."""
    n = 300 if settings.quick else 3000
    texts, true = make_spans(n)
    y_true = tags_of(texts, true)
    rng = np.random.default_rng(1)
    y_pred = [tags if rng.random() < 0.7 else ["O"] * len(tags) for tags in y_true]
    theirs = partial(f1_score, y_true, y_pred, mode="strict", scheme=IOB2)
    equal = span_f1_score(y_true, y_pred) == theirs()
    seconds = interleaved(
        {
            "words and tags": partial(tags_of, texts, true),
            "score": partial(span_f1_score, y_true, y_pred),
            "seqeval": theirs,
        },
        settings.repetitions,
    )
    each = 1e6 * float(np.median(seconds["words and tags"])) / n
    against = quotient(seconds, "score", "seqeval")
    yield Line(
        f"{n:,} texts of about 40 words, 3 spans each",
        f"words and tags of a text in {each:.0f} microseconds; the F1 of all tags in {against:.2f} "
        f"of seqeval's time; scores equal: {equal}",
        "equal, and not slower",
        equal and against <= 1.0,
        settings={"n_samples": n},
        values={"microseconds": each, "score_quotient": against},
        seconds=seconds,
    )


def sequences(settings: Settings) -> Iterator[Line]:
    """Time the most probable valid tags of sentences, and the most probable tag of each word."""
    n, n_words = (100, 40) if settings.quick else (1000, 40)
    tags = tag_set([f"label {number}" for number in range(12)])
    rng = np.random.default_rng(0)
    may_follow, may_end = valid_transitions(tags, "IOB2")
    counts = rng.integers(0, 100, may_follow.shape).astype(np.float32)
    scores = transition_scores(counts, may_follow, 0.3)
    proba = rng.dirichlet(np.full(len(tags), 0.1), n * n_words).astype(np.float32)
    seconds = interleaved(
        {
            "sequences": partial(most_probable_tags, proba, np.full(n, n_words), scores, may_end),
            "each word": partial(proba.argmax, axis=1),
        },
        settings.repetitions,
    )
    each = 1e6 * float(np.median(seconds["sequences"])) / n
    alone = 1e6 * float(np.median(seconds["each word"])) / n
    yield Line(
        f"{n:,} sentences of {n_words} words, {len(tags)} tags",
        f"the most probable valid tags of a sentence in {each:.0f} microseconds, those of words "
        f"one by one in {alone:.0f}",
        "<= 500 microseconds",
        each <= 500,
        settings={"n_sentences": n, "n_words": n_words, "n_tags": len(tags)},
        values={"microseconds": each, "microseconds_each_word": alone},
        seconds=seconds,
    )


ROWS = [
    Row("spans", "Spans, tags and their scores", spans),
    Row("sequences", "Valid sequences of tags by the Viterbi algorithm", sequences),
]
