"""Sentences that enter a scheduler at any time exit as in a call of the engine."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from sklearn_epee import policy
from sklearn_epee._nn.token_engine import TokenEngine
from tests._nn.words import COUNTS, make_sentences, make_word_network, word_policy

N = 13


def threshold(engine, sentences, joint_exit="all"):
    """Return a tau by which some sentences, or words, exit at the first layers and some do not."""
    tasks = np.split(engine.staged(sentences)[:, :2], np.cumsum(COUNTS)[:-1], axis=-1)
    entropies = np.stack([policy.normalized_entropy(task) for task in tasks], axis=-1)
    if joint_exit == "mean":
        starts = np.cumsum(sentences.word_counts) - sentences.word_counts
        entropies = np.add.reduceat(entropies.mean(-1), starts)
        entropies /= sentences.word_counts[:, np.newaxis]
    share = {"all": 0.6, "any": 0.05, "mean": 0.3}[joint_exit]
    return float(np.quantile(entropies, share)) + 1e-3


def run_apart(engine, sentences, rule, policies, seed=0):
    """Let sentences enter a few at a time, between layers; return their exits in their order."""
    rng = np.random.default_rng(seed)
    scheduler, records = engine.scheduler(rule, capacity=2 * N, batch_size=4)
    slots, done, start = rng.permutation(2 * N)[:N], [], 0
    while start < N or scheduler.n_samples:
        end = min(N, start + int(rng.integers(0, 4)))
        if end > start:
            rows = list(range(start, end))
            records.admit(sentences.take(rows), slots[rows], [policies[row] for row in rows])
            scheduler.enter(sentences.take(rows), slots[rows])
            start = end
        done.extend(scheduler.advance().tolist())
    assert sorted(done) == sorted(slots.tolist())
    return records.exits(slots), records, slots


def assert_same(found, expected):
    for part in fields(found):
        one, other = getattr(found, part.name), getattr(expected, part.name)
        if one.dtype == np.float32:
            np.testing.assert_allclose(one, other, atol=2e-5, rtol=0)
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
@pytest.mark.parametrize("way", ["sentence", "token"])
@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
def test_a_scheduler_predicts_as_a_call_does(family, way, joint_exit):
    engine, sentences = TokenEngine(make_word_network(family)), make_sentences(N)
    tau = threshold(engine, sentences, joint_exit)
    rule = word_policy(tau, 4, joint_exit=joint_exit, token_exit=way)
    found, _, _ = run_apart(engine, sentences, rule, [(tau, 4)] * N)
    assert len(np.unique(found.exit_layer)) > 1
    assert_same(found, engine.dynamic(sentences, rule))


@pytest.mark.parametrize("way", ["sentence", "token"])
@pytest.mark.parametrize("joint_exit", ["all", "mean"])
def test_sentences_have_policies_of_their_own(way, joint_exit):
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences(N)
    tau = threshold(engine, sentences, joint_exit)
    policies = [[(tau, 4), (0.0, 2), (0.0, 4)][row % 3] for row in range(N)]
    options = {"joint_exit": joint_exit, "token_exit": way}
    found, records, slots = run_apart(engine, sentences, word_policy(tau, 2, **options), policies)
    for own in set(policies):
        rows = [row for row in range(N) if policies[row] == own]
        expected = engine.dynamic(sentences.take(rows), word_policy(*own, **options))
        assert_same(records.exits(slots[rows]), expected)
    assert len(np.unique(found.sample_exit_layer)) > 1


def test_rows_are_counted_anew_for_the_next_sentence_of_a_slot():
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences(N)
    rule = word_policy(0.0, token_exit="token")
    scheduler, records = engine.scheduler(rule, capacity=1)
    slot = np.array([0])
    for row in range(4):
        one = sentences.take([row])
        records.admit(one, slot, [(0.0, rule.patience)])
        scheduler.enter(one, slot)
        while scheduler.n_samples:
            scheduler.advance()
        assert_same(records.exits(slot), engine.dynamic(one, rule))
        records.release(slot)
