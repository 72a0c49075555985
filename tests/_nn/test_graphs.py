"""Captured graphs: what a GPU runs, with stand-ins on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from sklearn_epee._nn import graphs as graphs_module
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.graphs import LayerGraphs
from tests._nn.exits import (
    ALL_NETWORKS,
    N_LAYERS,
    N_SAMPLES,
    assert_equal_predictions,
    exit_policy,
    make_network,
    make_samples,
    random_policies,
)
from tests.checkpoints import IMAGE_FAMILIES


class StandIn:
    """Records a function as CUDA does: fixed inputs, and outputs that a replay overwrites."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def __call__(self, function: Callable[[], tuple[torch.Tensor, ...]]):
        self.captures += 1
        # CUDA's pool hands out memory with anything in it.
        outputs = tuple(torch.full_like(part, torch.nan) for part in function())

        def replay() -> None:
            self.replays += 1
            for kept, new in zip(outputs, function(), strict=True):
                kept.copy_(new)

        return replay, outputs


def with_graphs(
    engine: Engine, capture: Callable, *, image: bool = False, max_positions: int = 1024
) -> Engine:
    run = engine._placed.run_layer

    def of_this_replay(layer, hidden, layout):
        # Masks are written anew before each replay; a GPU never looks into them.
        return run(layer, hidden, replace(layout))

    engine._graphs = LayerGraphs(
        of_this_replay, not image, capture, max_positions=max_positions, runs_before_capture=0
    )
    return engine


# How large batches are is no matter of the family: three of them stand for all.
REPLAYED = [
    (family, pooling, size)
    for family, pooling in ALL_NETWORKS
    for size in ([1, 7, N_SAMPLES] if family in {"bert", "gpt2", "vit"} else [7])
]


@pytest.mark.parametrize(("family", "pooling", "batch_size"), REPLAYED)
def test_replayed_layers_predict_as_the_policy_on_arrays(family, pooling, batch_size):
    network, samples = make_network(family, pooling), make_samples(family)
    staged = Engine(network).staged(samples)
    capture = StandIn()
    engine = with_graphs(Engine(network), capture, image=family in IMAGE_FAMILIES)
    entropies = np.linspace(0.2, 0.9, 20)
    for rule in random_policies(np.random.default_rng(1), entropies):
        assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)
    np.testing.assert_allclose(engine.staged(samples, batch_size), staged, atol=1e-5)
    np.testing.assert_allclose(engine.budgeted(samples, 2, batch_size), staged[:, 1], atol=1e-5)
    assert capture.replays > capture.captures


def test_few_graphs_serve_all_lengths_and_numbers_of_samples():
    capture = StandIn()
    engine = with_graphs(Engine(make_network("bert", "mean")), capture)
    for batch_size in range(1, 9):
        engine.staged(make_samples("bert"), batch_size)
    # Texts of up to 14 tokens are one length, 1 to 8 samples are 1, 2, 4 or 8.
    assert capture.captures <= 4 * N_LAYERS


def test_large_batches_are_launched_as_usual(monkeypatch):
    capture = StandIn()
    monkeypatch.setattr(graphs_module, "_SMALL_BATCH", 20)
    engine = with_graphs(Engine(make_network("bert", "cls")), capture, max_positions=20)
    engine.staged(make_samples("bert"), N_SAMPLES)
    assert not capture.captures


@pytest.mark.parametrize("long_unused", [1, 1000])
def test_graphs_that_are_used_stay_and_others_make_room(monkeypatch, long_unused):
    monkeypatch.setattr(graphs_module, "_MAX_POSITIONS_KEPT", 16)  # one shape
    monkeypatch.setattr(graphs_module, "_LONG_UNUSED", long_unused)
    capture = StandIn()
    engine = with_graphs(Engine(make_network("bert", "cls")), capture)
    expected = Engine(make_network("bert", "cls")).staged(make_samples("bert"))
    for batch_size in (1, 2, 1):
        found = engine.staged(make_samples("bert"), batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(engine._graphs._buffers) == 1
    assert len(engine._graphs._graphs) <= N_LAYERS
    if long_unused == 1:
        assert capture.captures > 2 * N_LAYERS
    else:
        assert capture.captures == N_LAYERS  # the first ones serve on


def test_what_comes_up_again_is_captured():
    capture = StandIn()
    engine = Engine(make_network("bert", "cls"))
    engine._graphs = LayerGraphs(engine._placed.run_layer, True, capture, runs_before_capture=2)
    samples = make_samples("bert")
    expected = Engine(make_network("bert", "cls")).staged(samples)
    for n_captures in (0, 0, N_LAYERS, N_LAYERS):
        found = engine.staged(samples, N_SAMPLES)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert capture.captures == n_captures


@pytest.mark.parametrize(("least", "is_captured"), [(0.3, True), (1.1, False)])
def test_graphs_of_large_batches_are_to_be_filled(monkeypatch, least, is_captured):
    monkeypatch.setattr(graphs_module, "_SMALL_BATCH", 0)
    monkeypatch.setattr(graphs_module, "_MIN_FILLED", least)
    capture, samples = StandIn(), make_samples("bert")
    engine = with_graphs(Engine(make_network("bert", "cls")), capture, max_positions=10**6)
    expected = Engine(make_network("bert", "cls")).staged(samples)
    np.testing.assert_allclose(engine.staged(samples, 7), expected, atol=1e-5)
    assert bool(capture.captures) is is_captured


def test_each_batch_writes_its_own_layout_and_its_layers_share_it(monkeypatch):
    samples, layouts = make_samples("bert"), []
    engine = with_graphs(Engine(make_network("bert", "mean")), StandIn())
    expected = Engine(make_network("bert", "mean")).staged(samples)
    write = graphs_module._Buffers.write

    def noted(self, hidden, layout):
        before = self.written
        write(self, hidden, layout)
        if self.written is not before:
            layouts.append(layout)

    monkeypatch.setattr(graphs_module._Buffers, "write", noted)
    for batch_size, n_batches in ((N_SAMPLES, 1), (5, -(-N_SAMPLES // 5)), (N_SAMPLES, 1)):
        layouts.clear()
        np.testing.assert_allclose(engine.staged(samples, batch_size), expected, atol=1e-5)
        assert len(layouts) == n_batches


def test_lengths_are_rounded_to_few():
    rounded = [graphs_module._rounded(length) for length in range(1, 1025)]
    assert all(length <= found for length, found in enumerate(rounded, 1))
    assert all(found <= max(16, 1.5 * length) for length, found in enumerate(rounded, 1))
    sizes = [graphs_module._rounded_size(n) for n in range(1, 65)]
    assert sorted(set(sizes)) == [1, 2, 4, 8, 16, 24, 32, 48, 64]
    assert all(n <= found <= 2 * n for n, found in enumerate(sizes, 1))
    assert sorted(set(rounded)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def break_down(function: Callable):
    raise RuntimeError("operation not permitted when stream is capturing")


def give_something_else(function: Callable):
    return (lambda: None), tuple(torch.zeros_like(part) for part in function())


@pytest.mark.parametrize(("n_failures", "gives_up"), [(2, False), (3, True)])
def test_a_capture_may_fail_twice(n_failures, gives_up):
    network, samples = make_network("bert", "cls"), make_samples("bert")
    expected = Engine(network).staged(samples)
    works, failures = StandIn(), iter(range(n_failures))

    def fail_first(function: Callable):
        if next(failures, None) is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return works(function)

    engine = with_graphs(Engine(network), fail_first)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = [engine.staged(samples, 4) for _ in range(2)]
    assert [str(w.message)[:26] for w in seen] == ["Layers cannot be captured "] * gives_up
    assert bool(works.replays) is not gives_up
    np.testing.assert_allclose(found, [expected] * 2, atol=1e-5)


def fill_the_memory(function: Callable):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_full_memory_halves_the_batch_and_keeps_no_buffers():
    network, samples = make_network("bert", "cls"), make_samples("bert")
    expected = Engine(network).staged(samples)
    engine = with_graphs(Engine(network), fill_the_memory)
    with pytest.raises(MemoryError), pytest.warns(RuntimeWarning):
        engine.staged(samples, 4)
    assert not engine._graphs._buffers
    engine._graphs._capture = StandIn()
    np.testing.assert_allclose(engine.staged(samples, 4), expected, atol=1e-5)


@pytest.mark.parametrize("capture", [break_down, give_something_else])
def test_graphs_that_do_not_work_are_given_up_with_a_warning(capture):
    network, samples, rule = make_network("bert", "cls"), make_samples("bert"), exit_policy(0.5)
    expected = Engine(network).dynamic(samples, rule, 4)
    engine = with_graphs(Engine(network), capture)
    with pytest.warns(RuntimeWarning, match="cannot be captured"):
        found = engine.dynamic(samples, rule, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.dynamic(samples, rule, 4)
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    np.testing.assert_allclose(found.proba, expected.proba, atol=1e-6)


def test_threads_that_share_an_engine_do_not_mix_their_replays():
    network, samples, rule = make_network("bert", "cls"), make_samples("bert"), exit_policy(0.5)
    expected = Engine(network).dynamic(samples, rule, 1)
    engine = with_graphs(Engine(network), StandIn())
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(engine.dynamic, samples, rule, 1) for _ in range(8)]
        for run in runs:
            np.testing.assert_array_equal(run.result().exit_layer, expected.exit_layer)
            np.testing.assert_allclose(run.result().proba, expected.proba, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("family", "pooling", "batch_size"), REPLAYED)
def test_a_gpu_predicts_as_a_cpu(family, pooling, batch_size):
    network, samples = make_network(family, pooling), make_samples(family)
    staged = Engine(network).staged(samples)
    engine = Engine(network.to_inference_copy(torch.device("cuda", 0), torch.float32))
    engine._graphs.runs_before_capture = 0
    for tau, patience in ((0.5, 4), (0.0, 2), (0.3, 3)):
        rule = exit_policy(tau, patience)
        for _ in range(2):  # the second time, graphs are there
            found = engine.dynamic(samples, rule, batch_size)
            assert_equal_predictions(found, staged, rule)
    assert engine._graphs._works
    assert batch_size > 1 or engine._graphs._graphs
