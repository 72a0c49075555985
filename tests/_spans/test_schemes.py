"""Tags and spans: against seqeval's strict mode, there and back, and what is refused."""

import numpy as np
import pytest
from seqeval.scheme import IOB2, IOBES, Entities

from sklearn_epee._spans import (
    SCHEMES,
    check_scheme,
    check_tags,
    convert_scheme,
    spans_of_words_to_tags,
    tag_set,
    tags_to_spans,
)


def random_tags(scheme, seed, n_sentences=3000, longest=9):
    rng = np.random.default_rng(seed)
    tags = tag_set(["X", "Y"], scheme) + [tag for tag in tag_set(["_"], scheme) if tag != "O"]
    return [list(rng.choice(tags, rng.integers(1, longest + 1))) for _ in range(n_sentences)]


def random_spans(rng, n_words):
    spans, start = [], 0
    while start < n_words:
        end = int(rng.integers(start + 1, n_words + 1))
        if rng.random() < 0.6:
            spans.append((start, end, str(rng.choice(["X", "Y", "A-B", "_"]))))
        start = end
    return spans


@pytest.mark.parametrize(("scheme", "theirs"), [("IOB2", IOB2), ("BIOES", IOBES)])
@pytest.mark.parametrize("seed", [0, 1])
def test_spans_are_those_of_seqevals_strict_mode(scheme, theirs, seed):
    sentences = random_tags(scheme, seed)
    expected = [
        [(found.start, found.end, found.tag) for found in entities]
        for entities in Entities(sentences, theirs).entities
    ]
    assert [tags_to_spans(tags, scheme) for tags in sentences] == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spans_to_tags_and_back(scheme):
    rng = np.random.default_rng(0)
    for _ in range(500):
        n_words = int(rng.integers(1, 10))
        spans = random_spans(rng, n_words)
        if scheme == "IO":  # spans of one label side by side are one
            spans = spans[::2]
            spans = [s for i, s in enumerate(spans) if not i or spans[i - 1][1] < s[0]]
        tags = spans_of_words_to_tags(spans, n_words, scheme)
        assert len(tags) == n_words
        assert tags_to_spans(tags, scheme) == spans


def test_conversion_keeps_the_spans():
    rng = np.random.default_rng(0)
    for _ in range(200):
        tags = spans_of_words_to_tags(random_spans(rng, 8), 8, "IOB2")
        there = convert_scheme(tags, "IOB2", "BIOES")
        assert convert_scheme(there, "BIOES", "IOB2") == tags
    assert convert_scheme(["B-X", "B-X", "I-Y"], "IOB2", "IO") == ["I-X", "I-X", "O"]


def test_io_reads_runs_of_a_label():
    tags = ["I-X", "I-X", "I-Y", "O", "I"]
    assert tags_to_spans(tags, "IO") == [(0, 2, "X"), (2, 3, "Y"), (4, 5, "_")]


def test_tag_set_has_every_tag_once():
    assert tag_set(["Y", "X", "Y"], "BIOES") == [
        "O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y",
    ]  # fmt: skip
    assert tag_set([], "IO") == ["O"]


@pytest.mark.parametrize(
    ("tag", "scheme"),
    [("", "IOB2"), ("B-", "IOB2"), ("E-X", "IOB2"), ("B-X", "IO"), ("Drug", "IOB2"), ("O-X", "IO")],
)
def test_other_tags_are_refused(tag, scheme):
    with pytest.raises(ValueError, match=f"of the scheme {scheme}"):
        tags_to_spans(["O", tag], scheme)
    with pytest.raises(ValueError, match=r"y\[7\] has the tag .* at word 1"):
        check_tags(["O", tag], 2, scheme, row=7)


def test_refusals_name_the_scheme_that_fits_and_the_sample():
    with pytest.raises(ValueError, match="It is a tag of BIOES; pass scheme"):
        check_tags(["S-X"], 1, "IOB2", row=0)
    with pytest.raises(ValueError, match=r"y\[3\] has 1 tag.s. for 2 words"):
        check_tags(["O"], 2, "IOB2", row=3)
    with pytest.raises(ValueError, match=r"y\[3\] has the tags 'O'; expected a list"):
        check_tags("O", 1, "IOB2", row=3)
    with pytest.raises(ValueError, match="scheme must be one of IOB2, BIOES, IO; got 'IOB1'"):
        check_scheme("IOB1")
    with pytest.raises(ValueError, match=r"y\[2\] has the spans \(0, 2, 'X'\) and \(1, 3, 'Y'\)"):
        spans_of_words_to_tags([(0, 2, "X"), (1, 3, "Y")], 4, row=2)
    with pytest.raises(ValueError, match=r"y\[2\] .*the number of its words"):
        spans_of_words_to_tags([(0, 5, "X")], 4, row=2)


def test_tags_may_be_an_array():
    assert check_tags(np.array(["O", "B-X"]), 2, "IOB2", row=0) == ["O", "B-X"]
