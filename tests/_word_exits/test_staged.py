"""Sentences that exit as a whole, against the reference sentence by sentence."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._word_exits import StagedSentences

JOINT_EXITS = ("all", "any", "mean")
COUNTS = np.array([3, 0, 1, 5, 2, 0, 4, 4, 1])
N_LAYERS = 5


def words(joint_exit, seed=0):
    """Words of two layers of spans, whose heads get surer from layer to layer."""
    rng = np.random.default_rng(seed)
    sharpness = np.linspace(0.5, 6, N_LAYERS)[:, np.newaxis]
    tasks = []
    for n_tags in (3, 5):
        logits = rng.normal(size=(COUNTS.sum(), N_LAYERS, n_tags)) + 2 * rng.normal(
            size=(COUNTS.sum(), 1, n_tags)
        )
        proba = np.exp(logits * sharpness)
        tasks.append(proba / proba.sum(axis=2, keepdims=True))
    return StagedPredictions.from_proba(tasks, joint_exit=joint_exit)


def sentences(joint_exit, seed=0):
    tokens = np.where(COUNTS, COUNTS + 2, 0)
    return StagedSentences.from_words(words(joint_exit, seed), COUNTS, tokens, joint_exit)


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_every_threshold_of_every_patience_exits_as_the_reference_does(joint_exit):
    staged, reference = sentences(joint_exit), words(joint_exit)
    space = PolicySpace(staged)
    n_policies = 0
    for patience in range(1, N_LAYERS + 1):
        sweep = space.sweep(patience)
        ratios = space.speedups(sweep)
        found = zip(sweep.taus, sweep.exit_layers(), ratios, strict=True)
        for tau, exits, ratio in found:
            expected = sentence_exit_layers(reference, COUNTS, tau, patience)
            assert_array_equal(exits, expected)
            assert_array_equal(staged.exit_layers(tau, patience), expected)
            assert_allclose(ratio, staged.speedup(expected), atol=1e-12)
            n_policies += 1
    assert n_policies > 20


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_sentences_without_words_exit_at_once_and_cost_nothing(joint_exit):
    staged = sentences(joint_exit)
    exits = staged.exit_layers(0.0, N_LAYERS)
    assert_array_equal(exits[COUNTS == 0], 1)
    assert_array_equal(exits[COUNTS > 0], N_LAYERS)
    assert staged.speedup(exits) == 0


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_parts_exit_as_they_do_among_all(joint_exit):
    staged = sentences(joint_exit)
    rows = np.array([7, 1, 0, 3, 3])
    part = staged.take(rows)
    joined = StagedSentences.concatenate([part, staged])
    for tau, patience in [(0.3, 2), (0.6, 4), (0.0, 3)]:
        exits = staged.exit_layers(tau, patience)
        assert_array_equal(part.exit_layers(tau, patience), exits[rows])
        assert_array_equal(joined.exit_layers(tau, patience), np.concatenate([exits[rows], exits]))
    assert_array_equal(part.n_tokens, staged.n_tokens[rows])


def test_weights_count_in_the_speedup():
    staged = sentences("all")
    space = PolicySpace(staged)
    sweep = space.sweep(2)
    weights = np.arange(1.0, len(COUNTS) + 1)
    repeated = staged.take(np.repeat(np.arange(len(COUNTS)), weights.astype(int)))
    expected = [repeated.speedup(repeated.exit_layers(tau, 2)) for tau in sweep.taus]
    assert_allclose(space.speedups(sweep, weights), expected)


def test_nothing_is_saved_where_no_sentence_has_words():
    nothing = sentences("all").take(np.flatnonzero(COUNTS == 0))
    assert nothing.speedup(nothing.exit_layers(0.5, 2)) == 0


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"adds up to 21 words; there are 20"):
        StagedSentences.from_words(words("all"), COUNTS + np.eye(1, 9, dtype=int)[0], COUNTS)
