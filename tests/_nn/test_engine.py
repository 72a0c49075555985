"""The engine predicts as the policy on arrays does, sample by sample, and runs nothing in vain."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_epee import policy
from sklearn_epee._compat import is_out_of_memory
from sklearn_epee._nn.backbones import BackboneAdapter
from sklearn_epee._nn.batching import EncodedTexts
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.exit_rules import float32_threshold, normalized_entropy
from sklearn_epee._nn.network import MultiExitNetwork
from tests._nn.engines import (
    always_row_first,
    count_positions,
    count_rows,
    gpu_is_full,
    limit_memory,
)
from tests._nn.exits import (
    ALL_NETWORKS,
    CLOSE,
    DTYPES,
    ENSEMBLES,
    FAMILIES,
    N_CLASSES,
    N_LAYERS,
    N_SAMPLES,
    assert_equal_predictions,
    exit_policy,
    make_network,
    make_samples,
    poolings,
    random_policies,
)


@pytest.fixture
def bert() -> tuple[MultiExitNetwork, EncodedTexts]:
    return make_network("bert", "cls"), make_samples("bert")


# ------------------------------------------------------------------------- against the oracle


@pytest.mark.parametrize(("family", "pooling"), ALL_NETWORKS)
def test_dynamic_inference_equals_the_policy_on_staged_probabilities(family, pooling):
    rng = np.random.default_rng(6)
    engine, samples = Engine(make_network(family, pooling)), make_samples(family)
    staged = engine.staged(samples, N_SAMPLES)
    entropies = policy.normalized_entropy(staged)
    # Otherwise the test would be an easy one.
    assert (staged.argmax(-1) != staged.argmax(-1)[:, :1]).any()
    assert entropies.max() - entropies.min() > 0.3
    for rule, batch_size in itertools.product(
        random_policies(rng, entropies), (1, 7, N_SAMPLES, "auto")
    ):
        assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)


@pytest.mark.parametrize(("family", "pooling"), ALL_NETWORKS)
def test_neighbours_order_and_padding_do_not_matter(family, pooling):
    engine = Engine(make_network(family, pooling))
    order = np.random.default_rng(7).permutation(N_SAMPLES)
    staged = engine.staged(make_samples(family), 1)
    rule = exit_policy(float(np.median(policy.normalized_entropy(staged))), 3, "weighted")
    assert_equal_predictions(
        engine.dynamic(make_samples(family, order=order), rule, 5), staged[order], rule
    )
    lonely = make_samples(family, order=order[:1])
    assert_equal_predictions(engine.dynamic(lonely, rule), staged[order[:1]], rule)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_all_policies_on_one_network(bert, ensemble):
    network, samples = bert
    engine = Engine(network)
    staged = engine.staged(samples)
    taus = np.quantile(policy.normalized_entropy(staged), [0.1, 0.35, 0.6, 0.9])
    for tau, patience in itertools.product([0.0, *taus, 1.0], range(1, N_LAYERS + 2)):
        rule = exit_policy(float(tau), patience, ensemble)
        assert_equal_predictions(engine.dynamic(samples, rule, 4), staged, rule)


def test_an_ensemble_does_not_move_the_exit(bert):
    engine, samples = Engine(bert[0]), bert[1]
    alone, mean, weighted = (
        engine.dynamic(samples, exit_policy(0.4, 3, ensemble)) for ensemble in ENSEMBLES
    )
    np.testing.assert_array_equal(alone.exit_layer, mean.exit_layer)
    np.testing.assert_array_equal(alone.exit_layer, weighted.exit_layer)
    np.testing.assert_array_equal(alone.entropy, mean.entropy)
    later = alone.exit_layer > 1
    assert later.any()
    assert abs(alone.proba[later] - mean.proba[later]).max() > 1e-3
    assert abs(weighted.proba[later] - mean.proba[later]).max() > 1e-3


def test_visited_exits_without_weight_give_the_exits_own_prediction(bert):
    engine, samples = Engine(bert[0]), bert[1]
    late = replace(exit_policy(0.4, 2, "weighted"), exit_weights=np.array([0.0, 0, 0, 1]))
    staged = engine.staged(samples)
    expected = policy.apply_policy(staged, 0.4, 2, "weighted", [0, 0, 0, 1])
    np.testing.assert_allclose(engine.dynamic(samples, late).proba, expected.proba, atol=1e-5)


# --------------------------------------------------------------- the rules in their special cases


def test_an_entropy_equal_to_tau_does_not_leave(bert):
    engine, samples = Engine(bert[0]), bert[1]
    # patience=1: all samples exit at layer 1, so these are the entropies compared there.
    entropies = engine.dynamic(samples, exit_policy(0.0, 1), N_SAMPLES).entropy
    for row, entropy in enumerate(entropies):
        at = engine.dynamic(samples, exit_policy(float(entropy)), N_SAMPLES)
        above = float(np.nextafter(np.float64(entropy), 2))
        over = engine.dynamic(samples, exit_policy(above), N_SAMPLES)
        assert at.exit_layer[row] > 1
        assert over.exit_layer[row] == 1
        np.testing.assert_array_equal(at.exit_layer == 1, entropies < entropy)


@given(st.floats(0, 2), st.floats(0, 1, width=32))
def test_the_float32_threshold_decides_as_the_float64_tau(tau, entropy):
    threshold = float32_threshold(tau)
    assert float(np.float32(threshold)) == threshold
    assert (np.float32(entropy) < np.float32(threshold)) == (float(entropy) < tau)
    at = float32_threshold(float(entropy))
    assert not np.float32(entropy) < np.float32(at)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=6))
def test_entropy_in_torch_is_entropy_on_arrays(logits):
    proba = torch.softmax(torch.tensor([logits], dtype=torch.float32), -1)
    found = normalized_entropy(proba)
    assert 0 <= found.item() <= 1
    np.testing.assert_allclose(found, policy.normalized_entropy(proba.numpy()), atol=1e-6)


def test_tau_zero_is_patience_only(bert):
    engine, samples = Engine(bert[0]), bert[1]
    predicted = engine.staged(samples).argmax(-1)
    for patience in range(1, N_LAYERS + 1):
        found = engine.dynamic(samples, exit_policy(0.0, patience)).exit_layer
        for labels, exit_layer in zip(predicted, found, strict=True):
            agreeing, layer = 1, 1
            while agreeing < patience and layer < N_LAYERS:
                agreeing = agreeing + 1 if labels[layer] == labels[layer - 1] else 1
                layer += 1
            assert exit_layer == layer


def test_patience_of_all_layers_is_entropy_only(bert):
    engine, samples = Engine(bert[0]), bert[1]
    entropies = policy.normalized_entropy(engine.staged(samples))
    for tau in np.quantile(entropies, [0.2, 0.5, 0.8]) + 3 * CLOSE:
        sure = np.hstack([entropies[:, :-1] < tau, np.ones((N_SAMPLES, 1), bool)])
        for patience in (N_LAYERS, N_LAYERS + 5):
            found = engine.dynamic(samples, exit_policy(float(tau), patience))
            np.testing.assert_array_equal(found.exit_layer, sure.argmax(1) + 1)


@pytest.mark.parametrize(("tau", "patience"), [(0.0, 1), (1.01, 4), (1e300, 4)])
def test_policies_that_always_leave_at_layer_1(bert, monkeypatch, tau, patience):
    network, samples = bert
    engine = Engine(network)
    runs = count_rows(monkeypatch, engine)
    found = engine.dynamic(samples, exit_policy(tau, patience), N_SAMPLES)
    assert (found.exit_layer == 1).all()
    assert runs == [(1, N_SAMPLES)]


def test_a_single_class_has_no_entropy():
    engine = Engine(make_network("bert", "mean", n_classes=1))
    found = engine.dynamic(make_samples("bert"), exit_policy(0.5))
    assert (found.exit_layer == 1).all()
    assert (found.proba == 1).all()
    assert (found.entropy == 0).all()


# ------------------------------------------------------------------------------ what is computed


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_finished_samples_leave_the_batch(family, monkeypatch):
    network, samples = make_network(family, poolings(family)[0]), make_samples(family)
    rule, engine = exit_policy(0.3, 3), Engine(network)
    runs = count_rows(monkeypatch, engine)
    exit_layer = engine.dynamic(samples, rule, N_SAMPLES).exit_layer
    staying = [
        (layer, int((exit_layer >= layer).sum())) for layer in range(1, exit_layer.max() + 1)
    ]
    assert runs == staying
    assert len({n for _, n in staying}) > 1


@pytest.mark.parametrize("row_first", [True, False])
def test_columns_that_only_finished_samples_filled_are_dropped(bert, monkeypatch, row_first):
    network, samples = bert
    engine = Engine(network)
    always_row_first(monkeypatch, engine, row_first)
    widths: list[tuple[int, int]] = []
    rows = engine._placed.backbone.rows

    def measured(layer, hidden_rows, k, v, mask, *positions):
        widths.append((k.shape[2], int(mask.sum(1).max())))
        return rows(layer, hidden_rows, k, v, mask, *positions)

    monkeypatch.setattr(engine._placed.backbone, "rows", measured)
    engine.dynamic(samples, exit_policy(0.3, 3), N_SAMPLES)
    assert all(width == longest for width, longest in widths)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "vit", "albert"])
def test_rows_first_change_no_prediction(family, dtype, monkeypatch):
    network, samples = make_network(family, poolings(family)[0]), make_samples(family)
    rule = exit_policy(0.4, 3)
    found = []
    for row_first in (True, False):
        engine = Engine(network, dtype)
        always_row_first(monkeypatch, engine, row_first)
        found.append(engine.dynamic(samples, rule, 7))
    first, whole = found
    np.testing.assert_array_equal(first.exit_layer, whole.exit_layer)
    np.testing.assert_allclose(first.proba, whole.proba, atol=1e-6, rtol=0)


def test_rows_first_are_single_rows_and_the_rest_for_those_who_stay(bert, monkeypatch):
    network, samples = bert
    engine = Engine(network)
    always_row_first(monkeypatch, engine, pays=True)
    runs = count_positions(monkeypatch, engine)
    exit_layer = engine.dynamic(samples, exit_policy(0.3, 3), N_SAMPLES).exit_layer
    for layer in range(1, exit_layer.max() + 1):
        head_rows, *rest = [(n, width) for number, n, width in runs if number == layer]
        assert head_rows == ((exit_layer >= layer).sum(), 1)
        staying = (exit_layer > layer).sum()
        assert [n for n, _ in rest] == ([staying] if staying else [])


def test_a_head_that_reads_all_positions_never_comes_first(monkeypatch):
    network, samples = make_network("bert", "mean"), make_samples("bert")
    engine = Engine(network)
    always_row_first(monkeypatch, engine, pays=True)
    runs = count_positions(monkeypatch, engine)
    engine.dynamic(samples, exit_policy(0.3, 3), N_SAMPLES)
    assert all(width > 1 for _, _, width in runs[:1])
    assert len(runs) == len({layer for layer, _, _ in runs})


def test_budgeted_finishes_only_the_row_its_head_reads(bert, monkeypatch):
    network, samples = bert
    engine = Engine(network)
    runs = count_positions(monkeypatch, engine)
    engine.budgeted(samples, 3, N_SAMPLES)
    assert [(layer, width == 1) for layer, _, width in runs] == [(1, False), (2, False), (3, True)]


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_underfilled_batches_wait_to_be_merged(bert, monkeypatch, ensemble):
    network = bert[0]
    samples = make_samples("bert", n=64)
    engine = Engine(network)
    rule = exit_policy(0.3, 3, ensemble)
    runs = count_rows(monkeypatch, engine)
    found = engine.dynamic(samples, rule, 8)
    for layer in range(2, N_LAYERS + 1):
        sizes = [n for number, n in runs if number == layer]
        assert sum(sizes) == (found.exit_layer >= layer).sum()
        assert max(sizes) <= 8
        # At most the last one is underfilled: those before waited until they were half full.
        assert all(n > 4 for n in sizes[:-1])
    assert_equal_predictions(found, engine.staged(samples), rule)


@pytest.mark.parametrize("batch_size", [1, 7, N_SAMPLES, "auto"])
@pytest.mark.parametrize("family", ["albert", "gpt2", "dinov2"])
def test_budgeted_is_staged_at_that_layer_and_stops_there(family, batch_size, monkeypatch):
    network, samples = make_network(family, "mean"), make_samples(family)
    engine = Engine(network)
    staged = engine.staged(samples, N_SAMPLES)
    runs = count_rows(monkeypatch, engine)
    for layer in range(1, N_LAYERS + 1):
        runs.clear()
        found = engine.budgeted(samples, layer, batch_size)
        np.testing.assert_allclose(found, staged[:, layer - 1], atol=1e-5, rtol=0)
        for number in range(1, N_LAYERS + 1):
            rows = sum(n for layer_run, n in runs if layer_run == number)
            assert rows == (N_SAMPLES if number <= layer else 0)


def test_staged_is_one_pass(bert, monkeypatch):
    network, samples = bert
    engine = Engine(network)
    runs = count_rows(monkeypatch, engine)
    staged = engine.staged(samples, N_SAMPLES)
    assert runs == [(layer, N_SAMPLES) for layer in range(1, N_LAYERS + 1)]
    assert staged.shape == (N_SAMPLES, N_LAYERS, N_CLASSES)
    assert staged.dtype == np.float32
    np.testing.assert_allclose(staged.sum(-1), 1, atol=1e-6)


def test_only_heads_that_can_matter_are_read(bert, monkeypatch):
    network, samples = bert
    read: list[int] = []
    classify = network._classify

    def counted(layer, *pooled_and_head):
        read.append(layer)
        return classify(layer, *pooled_and_head)

    monkeypatch.setattr(network, "_classify", counted)
    engine = Engine(network)
    engine.budgeted(samples, 3, N_SAMPLES)
    engine.dynamic(samples, exit_policy(0.0, N_LAYERS), N_SAMPLES)
    assert read == [3, N_LAYERS]


@pytest.mark.parametrize("family", FAMILIES)
def test_staged_probabilities_are_those_of_the_training_forward(family):
    network, samples = make_network(family, "mean"), make_samples(family)
    staged = Engine(network).staged(samples, 5)
    with torch.no_grad():
        logits = network(**samples.batch(np.arange(N_SAMPLES)))
    np.testing.assert_allclose(staged, torch.softmax(logits, -1), atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------- out of memory


def cpu_is_full() -> None:
    torch.empty(10**15)  # torch's own error, whatever its wording


def arrays_are_full() -> None:
    raise MemoryError("Unable to allocate 3.5 PiB")


FULL = (gpu_is_full, cpu_is_full, arrays_are_full)


@pytest.mark.parametrize("fail", FULL)
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_out_of_memory_halves_the_batch_with_one_warning(bert, monkeypatch, limit, fail):
    network, samples = bert
    engine, rule = Engine(network), exit_policy(0.3, 3, "mean")
    staged = engine.staged(samples)
    expected = engine.dynamic(samples, rule)
    sizes = limit_memory(monkeypatch, network, limit, fail)
    with pytest.warns(RuntimeWarning, match=r"ran out of memory .* batch of \d+ samples") as seen:
        found = engine.dynamic(samples, rule, 9)
    assert len(seen) == 1
    assert "predict_batch_size" in str(seen[0].message)
    assert sum(sizes) == N_SAMPLES
    assert max(sizes) <= limit
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    np.testing.assert_allclose(found.proba, expected.proba, atol=1e-5)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        np.testing.assert_allclose(engine.staged(samples), staged, atol=1e-5)


@pytest.mark.parametrize("fail", FULL)
def test_out_of_memory_in_the_middle_of_a_batch_forgets_the_attempt(bert, monkeypatch, fail):
    network, samples = bert
    engine, rule = Engine(network), exit_policy(0.3, 3, "weighted")
    expected = engine.dynamic(samples, rule)
    rows = engine._placed.backbone.rows

    def limited(layer, hidden_rows, *rest):
        if layer == 3 and len(hidden_rows) > 2:
            fail()
        return rows(layer, hidden_rows, *rest)

    monkeypatch.setattr(engine._placed.backbone, "rows", limited)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        found = engine.dynamic(samples, rule, N_SAMPLES)
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    np.testing.assert_allclose(found.proba, expected.proba, atol=1e-5)


@pytest.mark.parametrize("fail", FULL)
def test_a_single_sample_that_does_not_fit_is_an_error(bert, monkeypatch, fail):
    network, samples = bert
    limit_memory(monkeypatch, network, 0, fail)
    with (
        pytest.warns(RuntimeWarning, match="ran out of memory"),
        pytest.raises(MemoryError, match=r"a single sample\. Set max_length") as raised,
    ):
        Engine(network).staged(samples)
    assert is_out_of_memory(raised.value.__cause__)


def test_other_errors_do_not_halve_the_batch(bert, monkeypatch):
    network, samples = bert
    engine = Engine(network)
    sizes: list[int] = []

    def fail(batch):
        sizes.append(len(next(iter(batch.values()))))
        raise RuntimeError("a broken layer")

    monkeypatch.setattr(network.adapter, "embed", fail)
    with pytest.raises(RuntimeError, match="a broken layer"):
        engine.staged(samples, N_SAMPLES)
    assert sizes == [N_SAMPLES]


# -------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_close_and_predicts_in_float32(family):
    network, samples = make_network(family, "mean"), make_samples(family)
    staged = Engine(network).staged(samples)
    half = Engine(network, torch.bfloat16)
    found = half.staged(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert np.median(abs(found - staged)) < 0.02
    exits = half.dynamic(samples, exit_policy(0.3, 3))
    assert set(exits.exit_layer) <= set(range(1, N_LAYERS + 1))


@pytest.mark.skipif(
    prediction_dtype("auto", torch.device("cpu")) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)
@pytest.mark.parametrize(("family", "pooling"), ALL_NETWORKS)
def test_bfloat16_predictions_do_not_depend_on_neighbours(family, pooling):
    engine = Engine(make_network(family, pooling), torch.bfloat16)
    samples = make_samples(family)
    staged = engine.staged(samples, N_SAMPLES)
    rng = np.random.default_rng(8)
    for batch_size in (1, 2, 7, "auto"):
        np.testing.assert_allclose(engine.staged(samples, batch_size), staged, atol=2e-6, rtol=0)
    for rule in random_policies(rng, policy.normalized_entropy(staged)):
        for batch_size in (1, 7, N_SAMPLES):
            assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_backbone_of_another_plan_runs_through_its_adapter(dtype, monkeypatch):
    network, samples = make_network("dinov2", "cls"), make_samples("dinov2")
    usual = Engine(network, dtype).staged(samples)
    monkeypatch.setattr(type(network.adapter), "_parts", lambda *_: None)
    engine = Engine(network, dtype)
    assert isinstance(engine._placed.backbone, BackboneAdapter)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    np.testing.assert_allclose(engine.staged(samples), usual, atol=tolerance)


def test_prediction_is_silent_and_does_not_touch_the_network(bert):
    network, samples = bert
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(network).dynamic(samples, exit_policy(0.3, 2, "mean"), 4)
    assert not network.training
    assert all(value.grad is None for value in network.parameters())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
