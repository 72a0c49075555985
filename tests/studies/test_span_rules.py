"""Exit rules on spans: doubts of sentences, fronts on dev and test, and what jobs keep for them."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from scipy.special import softmax

from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions
from studies.exit_rules import RULES, beem_doubts, largest_of_last, least_confidence, small_margin
from studies.rules import apply, compare, front_of, markdown, rules_for
from studies.span_rules import (
    JOINT_EXITS,
    SPAN_RULES,
    SpanNetwork,
    SpanPart,
    gate_features,
    sums_of,
)

N, M = 60, 5


def make_part(seed):
    """Sentences of 0 to 4 words with a span each, or none, that later exits find more often."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, N)
    sureness = np.linspace(0.4, 3, M)[:, None] * rng.gamma(2, 0.7, (counts.sum(), 1, 1))
    tasks = []
    for n_tags in (2, 3):
        truth = np.eye(n_tags)[rng.integers(0, n_tags, counts.sum())][:, None]
        noise = rng.normal(size=(counts.sum(), M, n_tags))
        tasks.append(softmax(noise + sureness * truth, axis=2))
    words = StagedPredictions.from_proba(tasks)
    each = [StagedPredictions.from_proba([task]) for task in tasks]
    found = [rng.random((N, M)) < np.linspace(0.3, 0.8, M) for _ in range(2)]
    has_words = (counts > 0)[:, None]
    right, voted = (has_words & found[0]), (has_words & found[0] & found[1])

    def counted(hits):
        true = np.broadcast_to(has_words, hits.shape)
        return np.stack([hits, true, true], axis=2).astype(np.int16)

    part = SpanPart(
        counts=counted(right),
        voted_counts=counted(voted),
        tokens=np.where(counts, counts + 2, 0),
        word_counts=counts,
        entropies=words.entropies.astype(np.float32),
        doubts=np.stack([least_confidence(one) for one in each], axis=2),
        margins=np.stack([small_margin(one) for one in each], axis=2),
        counters=words.counters.astype(np.int8),
        votes=np.minimum(words.counters, M).astype(np.int8),
    )
    return part, words


@pytest.fixture(scope="module")
def network():
    return SpanNetwork(make_part(0)[0], make_part(1)[0])


def variants(network, name):
    return list(SPAN_RULES[name].variants(network))


def test_rules_on_spans_are_those_on_classes_without_the_ones_that_change_probabilities():
    assert set(RULES) - set(SPAN_RULES) == {"epee_mean", "epee_calibrated", "gate_same"}
    assert [SPAN_RULES[name].title for name in SPAN_RULES] == [RULES[n].title for n in SPAN_RULES]


def test_epee_exits_as_the_package_does(network):
    part, words = make_part(1)
    for variant in variants(network, "epee"):
        joint, patience = variant.parameters["joint_exit"], variant.parameters["patience"]
        reference = StagedPredictions.from_proba(words.head_proba, joint_exit=joint)
        for tau in (0.0, 0.21, 0.63):
            np.testing.assert_array_equal(
                variant.test.exit_layers(tau, variant.patience),
                sentence_exit_layers(reference, part.word_counts, tau, patience),
            )


def test_words_make_a_sentence_doubtful_by_the_most_doubtful_the_mean_or_the_least(network):
    part = network.test
    first = np.flatnonzero(part.word_counts)[0]
    size = part.word_counts[first]
    for name, doubts in [("max_probability", part.doubts), ("margin", part.margins)]:
        strict, mean, first_word = variants(network, name)
        own = doubts[:size].astype(float)
        np.testing.assert_allclose(strict.test.joint_entropies[first], own.max(axis=(0, 2)))
        np.testing.assert_allclose(mean.test.joint_entropies[first], own.mean(axis=(0, 2)))
        np.testing.assert_allclose(first_word.test.joint_entropies[first], own.min(axis=(0, 2)))


def test_consecutive_confident_layers_are_of_sentences(network):
    part = network.test
    entropies = part.by_words("mean").joint_entropies
    for variant in variants(network, "pcee"):
        if variant.parameters["joint_exit"] == "mean":
            expected = largest_of_last(entropies, variant.parameters["patience"])
            np.testing.assert_allclose(variant.test.joint_entropies, expected)


def test_agreeing_words_add_up_their_confidences(network):
    strict = variants(network, "beem")[0]
    weights = np.arange(1.0, M + 1) / 15
    part = network.test
    words = np.stack(
        [beem_doubts(part.doubts[..., t], part.counters[..., t], weights) for t in (0, 1)], axis=2
    )
    np.testing.assert_allclose(
        strict.test.joint_entropies, part.by_doubts(words, "all").joint_entropies
    )
    assert strict.parameters == {"weights": "cost", "joint_exit": "all"}


def test_voting_is_scored_by_what_votes_predict(network):
    found = sums_of(network, [(variants(network, "voting")[0], np.array([2.0]))], "test")
    own = sums_of(network, [(variants(network, "entropy")[0], np.array([2.0]))], "test")
    ones = np.ones((1, N), np.float32)
    assert found.ratios(ones) == own.ratios(ones)  # all exit at once
    right = network.test.voted_counts[:, 0, 0].sum()
    assert found.scores(ones)[0, 0] == pytest.approx(right / (network.test.word_counts > 0).sum())


def test_scores_and_ratios_are_those_of_the_sentences(network):
    variant = variants(network, "epee")[2]
    taus = np.array([0.0, 0.3, 0.6])
    sums = sums_of(network, [(variant, taus)], "test")
    part, ones = network.test, np.ones((1, N), np.float32)
    for row, tau in enumerate(taus):
        exits = variant.test.exit_layers(tau, variant.patience)
        right, predicted, true = part.counts[np.arange(N), exits - 1].T.astype(int)
        f1 = 2 * right.sum() / (predicted.sum() + true.sum())
        assert sums.scores(ones)[0, row] == pytest.approx(f1)
        assert sums.ratios(ones)[0, row] == pytest.approx(variant.test.speedup(exits), abs=1e-6)


def test_all_sentences_exit_at_one_layer(network):
    some = network.test.word_counts > 0
    for layer, variant in enumerate(variants(network, "fixed"), start=1):
        assert variant.parameters == {"layer": layer}
        exits = variant.test.exit_layers(0.5, variant.patience)
        assert set(exits[some]) == {layer}
    applied = apply(SPAN_RULES["fixed"], network, 80)
    assert len(applied.settings) == M
    scores = applied.test.scores(np.ones((1, N), np.float32))[0]
    np.testing.assert_allclose(scores, network.test.f1(), rtol=1e-5)


def test_the_oracle_has_the_fewest_errors_within_its_depth(network):
    part = network.test
    for variant in variants(network, "oracle"):
        depth = variant.parameters["depth"]
        exits = variant.test.exit_layers(0.5, variant.patience)
        errors = part.errors[np.arange(N), exits - 1]
        np.testing.assert_array_equal(errors, part.errors[:, :depth].min(axis=1))
        assert exits.max() <= depth


def test_the_gate_sees_numbers_alone(network):
    features = gate_features(network.dev)
    assert features.shape == (N, M, 4 + M)
    assert np.isfinite(features).all()
    agreeing = features[..., 3]
    assert (agreeing[network.dev.word_counts > 0][:, 0] == 1).all()
    assert agreeing.max() <= 1


def test_all_rules_are_compared_with_epee(network):
    found = compare([network, network], n_draws=20)
    assert json.loads(json.dumps(found)) == found
    assert list(found["rules"]) == list(SPAN_RULES) == [rule.name for rule in rules_for(network)]
    assert found["score"] == "span_f1"
    assert (found["n_dev"], found["n_test"], found["n_layers"]) == (N, N, M)
    assert found["rules"]["oracle"]["to_epee"]["estimate"] > 0
    assert set(found["rules"]["epee"]["to_epee"].values()) == {0.0}
    assert found["full_depth"] == pytest.approx(network.test.f1()[-1])
    assert "| Voting |" in markdown({"spans": found})


def test_the_front_of_a_rule_is_made_of_settings_of_all_joint_exits(network):
    applied = apply(SPAN_RULES["entropy"], network, 80)
    ones = np.ones((1, N), np.float32)
    front = front_of(applied.dev.ratios(ones)[0], applied.dev.scores(ones)[0])
    assert len(front) > 3
    assert {setting.parameters["joint_exit"] for setting in applied.settings} == set(JOINT_EXITS)


def test_arrays_of_jobs_are_read_again(network, tmp_path):
    arrays = {
        f"{name}_{field.name}": getattr(getattr(network, name), field.name)
        for name in ("dev", "test")
        for field in fields(SpanPart)
    }
    np.savez_compressed(tmp_path / "predictions.npz", **arrays)
    again = SpanNetwork.read(tmp_path)
    np.testing.assert_array_equal(again.test.votes, network.test.votes)
    without = {name: values for name, values in arrays.items() if "voted" not in name}
    np.savez_compressed(tmp_path / "predictions.npz", **without)
    assert SpanNetwork.read(tmp_path) is None  # of a job of an earlier version
