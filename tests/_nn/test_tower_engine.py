"""The engine of two towers predicts as a plain loop does, and runs the second for few samples."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from sklearn_epee import policy
from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._exits.missing_exits import exit_shares
from sklearn_epee._nn.graphs import LayerGraphs
from sklearn_epee._nn.pairs import DeferredSamples, EncodedPairs
from sklearn_epee._nn.tower_engine import TowerEngine
from sklearn_epee._search.shared_predictions import exits_from
from tests._nn.engines import always_row_first, count_rows
from tests._nn.exits import COUNTS, ENSEMBLES, N_CLASSES, N_LAYERS, N_SAMPLES
from tests._nn.test_graphs import StandIn
from tests._nn.towers import (
    N_EXITS,
    PAIRS,
    make_pairs,
    make_present,
    make_towers,
    one_by_one,
    tower_policy,
)

CLOSE = 1e-5


def random_policies(entropies):
    rng = np.random.default_rng(6)
    near = rng.choice(entropies, 4) + rng.normal(0, 0.02, 4)
    taus = [0.0, *near.clip(0), 1.5]
    patiences = [N_EXITS, 6, 2, 5, N_EXITS, 4]
    return [
        tower_policy(float(tau), patience, ensemble)
        for tau, patience, ensemble in zip(
            taus, patiences, itertools.cycle(ENSEMBLES), strict=False
        )
    ]


def entropies_of(staged):
    own = ~np.isnan(staged[..., 0])
    return policy.normalized_entropy(staged[own])


def assert_as(found, expected):
    sure = np.array([one.margin > CLOSE for one in expected])
    assert sure.mean() > 0.8
    layers = np.array([one.exit_layer for one in expected])
    proba = np.array([one.proba for one in expected])
    entropy = np.array([one.entropy for one in expected])
    np.testing.assert_array_equal(found.exit_layer[sure], layers[sure])
    np.testing.assert_allclose(found.proba[sure], proba[sure], atol=CLOSE, rtol=0)
    np.testing.assert_allclose(found.entropy[sure], entropy[sure], atol=CLOSE, rtol=0)


def assert_as_arrays(found, staged, rule):
    expected = policy.apply_policy(staged, rule.tau, rule.patience, rule.exit_ensemble, "ascending")
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    np.testing.assert_allclose(found.proba, expected.proba, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(found.entropy, expected.entropy, atol=CLOSE, rtol=0)


# ------------------------------------------------------------------------- against the oracles


@pytest.mark.parametrize("after", [None, 2])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_dynamic_inference_equals_the_plain_loop(first, second, after):
    network = make_towers(first, second, hand_over_after=after)
    pairs = make_pairs(first[0], second[0])
    engine = TowerEngine(network)
    entropies = entropies_of(engine.staged(pairs))
    # Otherwise the test would be an easy one.
    assert entropies.max() - entropies.min() > 0.3
    reached = set()
    for rule in random_policies(entropies):
        expected = one_by_one(network, pairs, rule)
        reached |= {one.exit_layer for one in expected}
        for batch_size in (1, 7, "auto"):
            assert_as(engine.dynamic(pairs, rule, batch_size), expected)
    assert len(reached) > N_LAYERS


@pytest.mark.parametrize("after", [None, 1, 2, N_LAYERS])
def test_the_rule_on_staged_arrays_decides_as_the_engine_does(after):
    engine, pairs = TowerEngine(make_towers(hand_over_after=after)), make_pairs()
    staged = engine.staged(pairs, 5)
    for tau, patience, ensemble in itertools.product(
        [0.0, *np.quantile(entropies_of(staged), [0.2, 0.5])], range(1, N_EXITS + 1, 2), ENSEMBLES
    ):
        rule = tower_policy(float(tau), patience, ensemble)
        assert_as_arrays(engine.dynamic(pairs, rule, 6), staged, rule)


@pytest.mark.parametrize("after", [None, 2])
def test_staged_probabilities_are_those_of_the_network_and_nan_where_there_is_no_exit(after):
    network, pairs = make_towers(hand_over_after=after), make_pairs()
    staged = TowerEngine(network).staged(pairs, 4)
    with torch.no_grad():
        logits = network(**pairs.batch(np.arange(N_SAMPLES)))
    own = ~np.isnan(staged)
    np.testing.assert_allclose(staged[own], torch.softmax(logits, -1).numpy()[own], atol=CLOSE)
    has_first, has_second = pairs.present.T
    exits = own[..., 0]
    assert (exits[:, :N_LAYERS].any(1) == has_first).all()
    assert (exits[:, N_LAYERS:].all(1) == has_second).all()
    assert (exits[:, N_LAYERS:].any(1) == has_second).all()
    whole = exits[has_first & has_second, :N_LAYERS]
    assert whole.all() == (after is None)
    # Who cannot go on does not go on early.
    assert exits[~has_second, :N_LAYERS].all()


@pytest.mark.parametrize("after", [None, 2])
def test_a_budget_takes_the_nearest_exit_that_a_sample_has(after):
    engine, pairs = TowerEngine(make_towers(hand_over_after=after)), make_pairs()
    staged = engine.staged(pairs)
    own = ~np.isnan(staged[..., 0])
    for layer in range(1, N_EXITS + 1):
        found = engine.budgeted(pairs, layer, 5)
        for number, exits in enumerate(own):
            at = np.flatnonzero(exits) + 1
            nearest = at[at <= layer].max(initial=0) or at.min()
            np.testing.assert_allclose(found[number], staged[number, nearest - 1], atol=CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_and_order_do_not_matter(dtype):
    engine = TowerEngine(make_towers(), dtype)
    order = np.random.default_rng(7).permutation(N_SAMPLES)
    staged = engine.staged(make_pairs(), 1)
    rule = tower_policy(float(np.median(entropies_of(staged))), 5, "weighted")
    found = engine.dynamic(make_pairs(order=order), rule, 5)
    assert_as_arrays(found, staged[order], rule)
    alone = engine.dynamic(make_pairs(order=order[:1]), rule)
    assert_as_arrays(alone, staged[order[:1]], rule)


@pytest.mark.parametrize("missing", [0, 1])
def test_one_column_may_be_missing_altogether(missing):
    present = make_present()
    present[:, missing], present[:, 1 - missing] = False, True
    network, pairs = make_towers(), make_pairs(present=present)
    rule = tower_policy(0.5, 4, "mean")
    assert_as(TowerEngine(network).dynamic(pairs, rule), one_by_one(network, pairs, rule))


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
def test_several_tasks_exit_together_from_either_tower(joint_exit):
    engine, pairs = TowerEngine(make_towers(counts=COUNTS, hand_over_after=3)), make_pairs()
    staged = engine.staged(pairs)
    parts = np.split(staged, np.cumsum(COUNTS)[:-1], axis=-1)
    for tau, patience in ((0.4, 3), (0.7, N_EXITS), (0.0, 2)):
        rule = tower_policy(tau, patience)
        found = engine.dynamic(pairs, replace(rule, joint_exit=joint_exit), 6)
        expected = policy.apply_policy(parts, tau, patience, joint_exit=joint_exit)
        np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
        np.testing.assert_allclose(found.proba, np.hstack(expected.proba), atol=CLOSE)


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
@pytest.mark.parametrize("after", [None, 2])
def test_several_labels_exit_with_their_whole_set(joint_exit, after):
    network = make_towers(counts=LabelCount(3), hand_over_after=after)
    engine, pairs = TowerEngine(network), make_pairs()
    staged, limits = engine.staged(pairs), np.array([0.3, 0.5, 0.8])
    for tau, patience, ensemble in ((0.5, 3, None), (0.8, N_EXITS, "mean"), (0.0, 5, "weighted")):
        rule = replace(
            tower_policy(tau, patience, ensemble), joint_exit=joint_exit, label_thresholds=limits
        )
        found = engine.dynamic(pairs, rule, 6)
        expected = policy.apply_policy(
            staged[..., 1::2],
            tau,
            patience,
            ensemble,
            joint_exit=joint_exit,
            multilabel=True,
            label_thresholds=limits,
        )
        np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
        np.testing.assert_allclose(found.proba[:, 1::2], expected.proba, atol=CLOSE)


@pytest.mark.parametrize("after", [None, 1, 2])
@pytest.mark.parametrize("counts", [N_CLASSES, COUNTS, LabelCount(3)])
def test_exits_that_samples_had_are_those_of_the_arrays(counts, after):
    engine, pairs = TowerEngine(make_towers(counts=counts, hand_over_after=after)), make_pairs()
    staged = engine.staged(pairs)
    limits = np.full(3, 0.5) if isinstance(counts, LabelCount) else None
    layers = np.arange(1, N_EXITS + 1)
    for tau in (0.0, 0.6, 0.9):
        rule = replace(tower_policy(tau), label_thresholds=limits)
        found = engine.dynamic(pairs, rule, 6)
        visited = layers <= found.exit_layer[:, np.newaxis]
        own = ~np.isnan(staged[..., 0])
        np.testing.assert_array_equal(found.own & visited, own & visited)
        shares = [exit_shares(one, None, (N_LAYERS, N_LAYERS)) for one in (found.own, own)]
        rows = np.arange(N_SAMPLES)
        taken = [share[rows, found.exit_layer - 1] for share in shares]
        np.testing.assert_allclose(*taken)
        again = exits_from(staged, rule, engine._counts)
        np.testing.assert_array_equal(again.exit_layer, found.exit_layer)
        np.testing.assert_array_equal(again.own, own)


# ------------------------------------------------------------------------- what does not run


def asked_for(pairs):
    """Return pairs that note which second cells are encoded."""
    numbers: list[int] = []

    def encode(wanted):
        numbers.extend(wanted.tolist())
        return EncodedPairs.second_of(pairs, wanted)

    deferred = DeferredSamples(len(pairs), encode)
    return EncodedPairs(pairs.first, deferred, pairs.present), numbers


def test_what_exits_in_the_first_tower_is_not_even_encoded_for_the_second():
    engine, pairs = TowerEngine(make_towers()), make_pairs()
    staged = engine.staged(pairs)
    tau = float(np.quantile(entropies_of(staged), 0.4))
    watched, numbers = asked_for(pairs)
    found = engine.dynamic(watched, tower_policy(tau), 4)
    assert sorted(numbers) == np.flatnonzero(found.exit_layer > N_LAYERS).tolist()
    assert 0 < len(numbers) < N_SAMPLES


def test_the_second_tower_runs_for_nobody_if_all_are_sure():
    engine = TowerEngine(make_towers())
    watched, numbers = asked_for(make_pairs(present=np.ones((N_SAMPLES, 2), bool)))
    assert (engine.dynamic(watched, tower_policy(1.5)).exit_layer == 1).all()
    engine.budgeted(watched, N_LAYERS)
    assert not numbers


def test_layers_of_the_second_tower_run_for_those_that_reach_them(monkeypatch):
    engine, pairs = TowerEngine(make_towers()), make_pairs()
    staged = engine.staged(pairs)
    runs = count_rows(monkeypatch, engine._second)
    exits = engine.dynamic(
        pairs, tower_policy(float(np.quantile(entropies_of(staged), 0.3))), N_SAMPLES
    ).exit_layer
    assert dict(runs) == {
        layer: reached
        for layer in range(1, N_LAYERS + 1)
        if (reached := np.count_nonzero(exits >= N_LAYERS + layer))
    }


def test_a_settled_first_tower_runs_no_further(monkeypatch):
    present = np.ones((N_SAMPLES, 2), bool)
    runs = count_rows(monkeypatch, (engine := TowerEngine(make_towers(hand_over_after=1)))._first)
    engine.dynamic(make_pairs(present=present), tower_policy(0.0), N_SAMPLES)
    assert runs == [(1, N_SAMPLES)]


# ----------------------------------------------------------------- batches that change on the way


@pytest.mark.parametrize("row_first", [True, False])
def test_states_follow_their_samples_through_merged_batches(monkeypatch, row_first):
    network, pairs = make_towers(("vit", "cls"), ("bert", "cls")), make_pairs("vit", "bert")
    engine = TowerEngine(network)
    for tower in (engine._first, engine._second):
        always_row_first(monkeypatch, tower, row_first)
    rule = tower_policy(float(np.median(entropies_of(engine.staged(pairs)))), 6, "mean")
    expected = one_by_one(network, pairs, rule)
    for batch_size in (2, 3, 4):
        assert_as(engine.dynamic(pairs, rule, batch_size), expected)


@pytest.mark.parametrize("tower", [0, 1])
def test_states_follow_their_samples_through_halved_batches(monkeypatch, tower):
    network, pairs = make_towers(("vit", "cls"), ("bert", "mean")), make_pairs("vit", "bert")
    rule = tower_policy(0.0, 7, "weighted")
    expected = one_by_one(network, pairs, rule)
    engine = TowerEngine(network)
    placed = (engine._first, engine._second)[tower]._placed
    keys_values = placed.backbone.keys_values

    def limited(layer, hidden):
        if layer == 2 and len(hidden) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return keys_values(layer, hidden)

    monkeypatch.setattr(placed.backbone, "keys_values", limited)
    with pytest.warns(RuntimeWarning, match="half batches"):
        found = engine.dynamic(pairs, rule, N_SAMPLES)
    assert_as(found, expected)


def test_replayed_layers_read_the_context_of_their_samples():
    network, pairs = make_towers(), make_pairs()
    engine = TowerEngine(network)
    staged = engine.staged(pairs)
    for tower in (engine._first, engine._second):
        tower._graphs = LayerGraphs(
            tower._placed.run_layer, False, StandIn(), runs_before_capture=0
        )
    np.testing.assert_allclose(engine.staged(pairs, 7), staged, atol=CLOSE)
    rule = tower_policy(0.4, 5)
    assert_as_arrays(engine.dynamic(pairs, rule, 3), staged, rule)


def test_probabilities_are_in_float32_and_sum_to_one():
    staged = TowerEngine(make_towers(), torch.bfloat16).staged(make_pairs())
    assert staged.dtype == np.float32
    assert staged.shape == (N_SAMPLES, N_EXITS, N_CLASSES)
    np.testing.assert_allclose(np.nansum(staged, -1)[~np.isnan(staged[..., 0])], 1, atol=CLOSE)
