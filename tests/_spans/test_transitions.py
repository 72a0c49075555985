"""Decoding of tags: against all sequences, what may follow what, and what is counted."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._spans import (
    SCHEMES,
    check_transition_weight,
    convert_scheme,
    most_probable_tags,
    spans_of_words_to_tags,
    tag_set,
    transition_counts,
    transition_scores,
    valid_transitions,
)


def is_valid(tags, scheme):
    """Whether all tags are part of a span, or outside."""
    return convert_scheme(tags, scheme, scheme) == list(tags)


def random_proba(rng, n_words, n_tags):
    return rng.dirichlet(np.full(n_tags, 0.5), n_words).astype(np.float32)


def random_counts(rng, n_tags):
    return rng.integers(0, 9, (n_tags + 1, n_tags)).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sequence_is_valid_if_its_transitions_are(scheme):
    tags = tag_set(["X", "Y"], scheme)
    may_follow, may_end = valid_transitions(tags, scheme)
    for n_words in (1, 2, 3):
        for codes in itertools.product(range(len(tags)), repeat=n_words):
            steps = [may_follow[-1, codes[0]], may_end[codes[-1]]]
            steps += [may_follow[pair] for pair in itertools.pairwise(codes)]
            assert all(steps) == is_valid([tags[code] for code in codes], scheme)


def test_labels_may_be_missing_or_look_like_tags():
    tags = ["B", "I", "B-I-X", "I-I-X", "I-X", "B-X", "O"]
    may_follow, _ = valid_transitions(tags, "IOB2")
    assert np.flatnonzero(may_follow[:, 1]).tolist() == [0, 1]
    assert np.flatnonzero(may_follow[:, 3]).tolist() == [2, 3]
    with pytest.raises(ValueError, match="'S-X' is not a tag of the scheme IOB2"):
        valid_transitions(["S-X"], "IOB2")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("weight", [1e-9, 0.3, 1.0, 4.0])
def test_the_sequence_found_is_the_best_of_all(scheme, weight):
    rng = np.random.default_rng(0)
    tags = tag_set(["X", "Y"], scheme)
    may_follow, may_end = valid_transitions(tags, scheme)
    scores = transition_scores(random_counts(rng, len(tags)), may_follow, weight)
    counts = np.array([3, 0, 1, 4, 2, 0, 3])
    proba = random_proba(rng, counts.sum(), len(tags))
    found = most_probable_tags(proba, counts, scores, may_end)
    for part, codes in zip(*(np.split(a, np.cumsum(counts)) for a in (proba, found)), strict=True):
        if len(part) == 0:
            continue
        assert is_valid([tags[code] for code in codes], scheme)
        sums = {
            path: scores[-1, path[0]]
            + sum(scores[pair] for pair in itertools.pairwise(path))
            + np.log(part[np.arange(len(part)), path].astype(float)).sum()
            for path in itertools.product(range(len(tags)), repeat=len(part))
            if may_end[path[-1]]
        }
        assert_allclose(sums[tuple(codes)], max(sums.values()), atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_valid_already_stays_where_transitions_weigh_nothing(scheme):
    rng = np.random.default_rng(1)
    tags = tag_set(["X", "Y", "Z"], scheme)
    may_follow, may_end = valid_transitions(tags, scheme)
    scores = transition_scores(random_counts(rng, len(tags)), may_follow, 0.0)
    spans = [[], [(0, 1, "X")], [(0, 3, "Y"), (3, 5, "Z")], [(1, 4, "X")]]
    sentences = [spans_of_words_to_tags(part, 5, scheme) for part in spans]
    codes = np.array([tags.index(tag) for sentence in sentences for tag in sentence])
    proba = 0.6 * np.eye(len(tags))[codes] + 0.4 * random_proba(rng, len(codes), len(tags))
    assert_array_equal(most_probable_tags(proba, np.full(4, 5), scores, may_end), codes)


@pytest.mark.parametrize("n_tags", [2, 30, 400])
def test_a_sentence_is_decoded_as_it_is_alone(n_tags):
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 12, 60)
    counts[7] = 300
    proba = random_proba(rng, counts.sum(), n_tags)
    allowed = np.ones((n_tags + 1, n_tags), bool)
    scores = transition_scores(random_counts(rng, n_tags), allowed, 1.0)
    ends = np.ones(n_tags, bool)
    together = np.split(most_probable_tags(proba, counts, scores, ends), np.cumsum(counts)[:-1])
    for part, codes in zip(np.split(proba, np.cumsum(counts)[:-1]), together, strict=True):
        alone = most_probable_tags(part, np.array([len(part)]), scores, ends)
        assert_array_equal(alone, codes)


def test_nothing_to_decode():
    scores, ends = np.zeros((3, 2)), np.ones(2, bool)
    for counts in (np.zeros(0, np.int64), np.zeros(3, np.int64)):
        assert most_probable_tags(np.zeros((0, 2)), counts, scores, ends).shape == (0,)


def test_words_that_are_surely_outside_stay_outside():
    tags = ["B-X", "E-X", "I-X", "O"]
    may_follow, may_end = valid_transitions(tags, "BIOES")
    counts = np.array([[0, 9, 9, 0], [0] * 4, [0, 9, 9, 0], [9, 0, 0, 0], [9, 0, 0, 0]], np.float32)
    scores = transition_scores(counts, may_follow, 1000.0)
    proba = np.array([[0.9, 0, 0, 0.1], [0, 0, 0, 1], [0, 0, 0, 1]], np.float32)
    assert most_probable_tags(proba, np.array([3]), scores, may_end).tolist() == [3, 3, 3]
    # Where every valid sequence has a tag of probability 0, one of them is found all the same.
    proba = np.array([[0, 0, 1, 0]], np.float32)
    assert most_probable_tags(proba, np.array([1]), scores, may_end).tolist() == [3]


def test_counts_are_those_of_a_loop():
    rng = np.random.default_rng(3)
    lengths, weights = np.array([3, 0, 1, 5, 0]), np.array([1.0, 7.0, 2.0, 0.5, 9.0])
    codes = rng.integers(0, 4, lengths.sum())
    expected = np.zeros((5, 4))
    for row, part in enumerate(np.split(codes, np.cumsum(lengths)[:-1])):
        for before, code in itertools.pairwise([4, *part]):
            expected[before, code] += weights[row]
    of_words = np.repeat(weights, lengths)
    assert_allclose(transition_counts(codes, lengths, 4, of_words), expected)
    assert transition_counts(codes, lengths, 4).sum() == len(codes)


def test_scores_compare_what_follows_with_how_often_it_is_there():
    counts = np.array([[6.0, 2.0], [1.0, 1.0], [0.0, 4.0]], np.float32)
    found = transition_scores(counts, np.array([[1, 1], [0, 1], [1, 1]], bool), 2.0)
    prior = np.array([8, 8]) / 16  # one more of each
    assert_allclose(found[0], 2 * np.log(np.array([6.5, 2.5]) / 9 / prior))
    assert_allclose(found[1], [-np.inf, 2 * np.log(1 / prior[1])])
    assert_allclose(found[2], 2 * np.log(np.array([0.5, 4.5]) / 5 / prior))


@pytest.mark.parametrize("value", [None, "0.2", True, np.array([0.1]), 1j])
def test_weights_that_are_no_numbers(value):
    with pytest.raises(TypeError, match=r"transition_weight must be a real number in \[0, inf\)"):
        check_transition_weight(value)


@pytest.mark.parametrize("value", [-0.1, np.inf, np.nan])
def test_weights_that_are_too_small_or_large(value):
    with pytest.raises(ValueError, match="transition_weight must be a real number"):
        check_transition_weight(value)


def test_weights_may_be_numbers_of_any_kind():
    assert check_transition_weight(np.float32(0.5)) == 0.5
    assert check_transition_weight(0) == 0.0
