"""Rows on spans: words and tags of texts, and their scores against seqeval alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from benchmarks._measure import interleaved, quotient
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee._spans import spans_to_tags, split_words
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
    """Return texts of about forty words, and three spans of each in characters."""
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
    """Make tags of texts and score them, in turns with seqeval on the same tags."""
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


ROWS = [Row("spans", "Spans, tags and their scores", spans)]
