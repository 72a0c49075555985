"""Spans in characters, in words and as tags."""

import numpy as np
import pytest

from sklearn_epee._spans import fit_spans, in_characters, spans_to_tags, split_words, tags_to_spans

TEXT = "Insulin-induced lipoatrophies of a diabetic patient."
WORDS = split_words(TEXT)


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "IO"])
def test_characters_to_tags_and_back(scheme):
    spans = [(0, 7, "Drug"), (8, 15, "Trigger"), (33, 51, "Subject")]
    tags = spans_to_tags(spans[::-1], WORDS, scheme)
    assert in_characters(tags_to_spans(tags, scheme), WORDS) == spans


@pytest.mark.parametrize(
    "span", [(1, 7, "X"), (0, 6, "X"), (7, 7, "X"), (15, 16, "X"), (8, 7, "X")]
)
def test_spans_that_fit_no_words_are_refused_or_lost(span):
    with pytest.raises(ValueError, match=r"y\[4\] has the span .* does not start and end with a"):
        spans_to_tags([span], WORDS, row=4)
    assert fit_spans([span], WORDS) == ([], [span])


def test_what_fits_is_apart_and_nothing_is_forgotten():
    rng = np.random.default_rng(0)
    for _ in range(300):
        borders = rng.integers(0, len(TEXT), size=(6, 2))
        borders.sort(axis=1)
        spans = [(int(a), int(b) + 1, str(rng.choice(["X", "Y"]))) for a, b in borders]
        spans += [(WORDS[a][0], WORDS[b][1], "Z") for a, b in [(0, 2), (1, 1), (4, 5), (4, 5)]]
        kept, lost = fit_spans(spans, WORDS)
        assert sorted(kept + lost) == sorted(set(spans))
        assert in_characters(tags_to_spans(spans_to_tags(kept, WORDS)), WORDS) == kept


def test_of_overlapping_spans_the_first_and_longest_is_kept():
    kept, lost = fit_spans([(0, 7, "Drug"), (0, 15, "Cause"), (8, 29, "Effect")], WORDS)
    assert kept == [(0, 15, "Cause")]
    assert lost == [(0, 7, "Drug"), (8, 29, "Effect")]


def test_spans_that_overlap_are_named_as_they_were_given():
    spans = [(33, 51, "Subject"), (0, 7, "Drug"), (0, 15, "Cause")]
    with pytest.raises(ValueError, match=r"y\[4\] has the spans \(0, 7, 'Drug'\) and \(0, 15, 'Ca"):
        spans_to_tags(spans, WORDS, row=4)
