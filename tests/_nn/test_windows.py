"""Texts of several windows: one sample with one exit, as plain transformers would compute it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sklearn_epee import policy
from sklearn_epee._compat import is_out_of_memory
from sklearn_epee._nn.batch_layout import BatchLayout
from sklearn_epee._nn.batching import EncodedTexts
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.pooling import attended_mean, attended_mean_over_samples
from tests._nn.engines import always_row_first, count_positions, count_rows, limit_memory
from tests._nn.exits import (
    DTYPES,
    ENSEMBLES,
    N_LAYERS,
    N_SAMPLES,
    assert_equal_predictions,
    exit_policy,
    make_network,
    make_tasks_network,
    poolings,
    random_policies,
)
from tests.checkpoints import TEXT_FAMILIES

# Windows of a text, most of them full.
LENGTH = 9
NETWORKS = [(family, pooling) for family in TEXT_FAMILIES for pooling in poolings(family)]


def make_rows(n: int = N_SAMPLES) -> list[list[np.ndarray]]:
    """Texts of one to five windows of random tokens: full ones, and a last one that may not be."""
    rng = np.random.default_rng(5)
    lengths = [[LENGTH] * ((3 * i) % 5) + [1 + (7 * i) % LENGTH] for i in range(n)]
    return [[rng.integers(5, 100, m, dtype=np.int32) for m in text] for text in lengths]


def encode(texts: list[list[np.ndarray]]) -> EncodedTexts:
    rows = [row for text in texts for row in text]
    lengths, windows = ([len(part) for part in parts] for parts in (rows, texts))
    return EncodedTexts(np.concatenate(rows), np.array(lengths), None, 0, np.array(windows))


def make_samples(n: int = N_SAMPLES, order: Any = None) -> EncodedTexts:
    texts = make_rows(n)
    return encode([texts[i] for i in (range(n) if order is None else order)])


@torch.no_grad()
def states_of(network: MultiExitNetwork, row: np.ndarray) -> list[torch.Tensor]:
    """Return what goes into the first layer, and what comes out of each, in transformers' own run.

    As a head reads them: through the final norm, where there is one.
    """
    model, block = network.backbone, type(network.adapter._block(1))
    states: list[torch.Tensor] = []

    def note(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
        if not states:
            states.append(args[0] if args else kwargs["hidden_states"])
        states.append(out[0] if isinstance(out, tuple) else out)

    hooks = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in model.modules()
        if type(module) is block
    ]
    ids = torch.from_numpy(row.astype(np.int64))[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    for hook in hooks:
        hook.remove()
    return [network.adapter.pool(state)[0] for state in states]


@torch.no_grad()
def plain_transformers(network: MultiExitNetwork, text: list[np.ndarray]) -> np.ndarray:
    """Return the probabilities of every exit, from transformers' own run of every window."""
    windows = [states_of(network, row) for row in text]
    proba = []
    for layer, head in enumerate(network.heads, 1):
        here = [states[layer] for states in windows]
        below = [states[layer - 1] for states in windows]
        pooled = {
            "mean": lambda here, _: torch.cat(here).mean(0),
            "cls": lambda here, _: torch.stack([state[0] for state in here]).mean(0),
            "last": lambda here, _: torch.stack([state[-1] for state in here]).mean(0),
            "cls+mean": lambda here, below: torch.cat([
                torch.stack([state[0] for state in here]).mean(0), torch.cat(below).mean(0)
            ]),
            "attention": lambda here, _: _attended(torch.cat(here), head.query),  # noqa: B023
        }[network.pooling](here, below)  # fmt: skip
        proba.append(torch.softmax(head(pooled), -1))
    return torch.stack(proba).numpy()


def _attended(positions: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return torch.softmax(positions @ query / len(query) ** 0.5, dim=0) @ positions


# ------------------------------------------------------------------------------ against the oracle


@pytest.mark.parametrize(("family", "pooling"), NETWORKS)
def test_every_exit_is_that_of_plain_transformers_on_the_windows(family, pooling):
    network = make_network(family, pooling)
    expected = np.stack([plain_transformers(network, text) for text in make_rows()])
    engine, samples = Engine(network), make_samples()
    for batch_size in (1, 7, N_SAMPLES, "auto"):
        np.testing.assert_allclose(engine.staged(samples, batch_size), expected, atol=2e-5, rtol=0)
    with torch.no_grad():
        logits = network(**samples.batch(np.arange(N_SAMPLES)))
    np.testing.assert_allclose(torch.softmax(logits, -1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "pooling"), [pair for pair in NETWORKS if pair[0] in ("bert", "gpt2", "albert")]
)
def test_all_windows_exit_together_where_the_policy_says(family, pooling):
    rng = np.random.default_rng(6)
    engine, samples = Engine(make_network(family, pooling)), make_samples()
    staged = engine.staged(samples, N_SAMPLES)
    entropies = policy.normalized_entropy(staged)
    for rule, batch_size in itertools.product(
        random_policies(rng, entropies), (1, 7, 3 * N_SAMPLES, "auto")
    ):
        assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)
    order = rng.permutation(N_SAMPLES)
    rule = exit_policy(float(np.median(entropies)), 3, "weighted")
    shuffled = engine.dynamic(make_samples(order=order), rule, 5)
    assert_equal_predictions(shuffled, staged[order], rule)
    alone = engine.dynamic(make_samples(order=order[:1]), rule)
    assert_equal_predictions(alone, staged[order[:1]], rule)


@pytest.mark.parametrize("pooling", poolings("bert"))
def test_texts_of_one_window_predict_exactly_what_they_do_without_windows(pooling):
    engine = Engine(make_network("bert", pooling))
    texts = [text[:1] for text in make_rows()]
    rows = [text[0] for text in texts]
    plain = EncodedTexts(np.concatenate(rows), np.array([len(row) for row in rows]), None, 0)
    in_windows = encode(texts)
    assert in_windows.windows is None
    expected = engine.staged(plain)
    assert np.array_equal(engine.staged(in_windows), expected)
    # Beside longer texts the products have other shapes.
    mixed = engine.staged(encode([*texts, *make_rows()]))
    np.testing.assert_allclose(mixed[:N_SAMPLES], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "cls"), ("bert", "cls+mean"), ("gpt2", "last")]
)
def test_the_rows_of_all_windows_come_first_and_change_no_prediction(
    family, pooling, dtype, monkeypatch
):
    network, samples, rule = make_network(family, pooling), make_samples(), exit_policy(0.4, 3)
    found, runs = [], []
    for row_first in (True, False):
        engine = Engine(network, dtype)
        always_row_first(monkeypatch, engine, row_first)
        if row_first:
            runs = count_positions(monkeypatch, engine)
        found.append(engine.dynamic(samples, rule, 5 * N_SAMPLES))
    first, whole = found
    np.testing.assert_array_equal(first.exit_layer, whole.exit_layer)
    np.testing.assert_allclose(first.proba, whole.proba, atol=1e-6, rtol=0)
    for layer in range(1, first.exit_layer.max() + 1):
        head_rows, *rest = [(n, width) for number, n, width in runs if number == layer]
        assert head_rows == (samples.windows[first.exit_layer >= layer].sum(), 1)
        staying = samples.windows[first.exit_layer > layer].sum()
        assert [n for n, _ in rest] == ([staying] if staying else [])


@pytest.mark.skipif(
    prediction_dtype("auto", torch.device("cpu")) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)
@pytest.mark.parametrize("pooling", poolings("bert"))
def test_bfloat16_predictions_do_not_depend_on_neighbours(pooling):
    engine, samples = Engine(make_network("bert", pooling), torch.bfloat16), make_samples()
    staged = engine.staged(samples, 5 * N_SAMPLES)
    for batch_size in (1, 7, "auto"):
        np.testing.assert_allclose(engine.staged(samples, batch_size), staged, atol=2e-6, rtol=0)
    for rule in random_policies(np.random.default_rng(8), policy.normalized_entropy(staged)):
        assert_equal_predictions(engine.dynamic(samples, rule, 7), staged, rule)


def test_several_tasks_exit_together():
    network = make_tasks_network("bert", "attention")
    engine, samples = Engine(network), make_samples()
    staged = engine.staged(samples)
    for joint in ("all", "any", "mean"):
        rule = replace(exit_policy(0.5, 3), joint_exit=joint)
        one, many = (engine.dynamic(samples, rule, size) for size in (1, 40))
        np.testing.assert_array_equal(one.exit_layer, many.exit_layer)
        at_exit = staged[np.arange(N_SAMPLES), one.exit_layer - 1]
        np.testing.assert_allclose(many.proba, at_exit, atol=1e-5)


# ------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_batches_hold_so_many_windows_and_are_merged_when_they_get_thin(ensemble, monkeypatch):
    network, samples = make_network("bert", "mean"), make_samples(64)
    engine, rule = Engine(network), exit_policy(0.3, 3, ensemble)
    runs = count_rows(monkeypatch, engine)
    found = engine.dynamic(samples, rule, 8)
    for layer in range(1, N_LAYERS + 1):
        sizes = [n for number, n in runs if number == layer]
        assert sum(sizes) == samples.windows[found.exit_layer >= layer].sum()
        assert max(sizes) <= 8
    late = [n for number, n in runs if number > 1]
    assert np.mean(late) > 4
    assert_equal_predictions(found, engine.staged(samples), rule)


def test_a_text_with_more_windows_than_a_batch_runs_by_itself(monkeypatch):
    network, samples = make_network("bert", "mean"), make_samples()
    engine = Engine(network)
    staged = engine.staged(samples)
    runs = count_rows(monkeypatch, engine)
    np.testing.assert_allclose(engine.staged(samples, 1), staged, atol=1e-5)
    assert sorted(n for layer, n in runs if layer == 1) == sorted(samples.windows)


@pytest.mark.parametrize("limit", [5, 12])
def test_out_of_memory_halves_batches_of_windows(limit, monkeypatch):
    network, samples = make_network("bert", "cls"), make_samples()
    engine, rule = Engine(network), exit_policy(0.3, 3, "mean")
    expected = engine.dynamic(samples, rule)
    sizes = limit_memory(monkeypatch, network, limit)
    with pytest.warns(RuntimeWarning, match="ran out of memory") as seen:
        found = engine.dynamic(samples, rule, 40)
    assert len(seen) == 1
    assert max(sizes) <= limit
    assert sum(sizes) == samples.windows.sum()
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    np.testing.assert_allclose(found.proba, expected.proba, atol=1e-5)


def test_a_text_whose_windows_do_not_fit_is_an_error(monkeypatch):
    network = make_network("bert", "cls")
    limit_memory(monkeypatch, network, 4)
    with (
        pytest.warns(RuntimeWarning, match="ran out of memory"),
        pytest.raises(MemoryError, match=r"a single sample\. Set max_length or max_windows") as e,
    ):
        Engine(network).staged(make_samples())
    assert is_out_of_memory(e.value.__cause__)


# ------------------------------------------------------------------------------------- the layout


def layout(windows: list[int], width: int = 3) -> BatchLayout:
    n = sum(windows)
    return BatchLayout(torch.ones(n, width).bool(), torch.arange(n)[:, None], np.array(windows))


def test_layouts_are_taken_and_merged_sample_by_sample():
    samples = np.array([2, 0])
    rows = layout([2, 1, 3]).rows_of(samples)
    assert rows.tolist() == [3, 4, 5, 0, 1]
    part = layout([2, 1, 3]).take(samples, torch.from_numpy(rows), width=2)
    assert part.windows.tolist() == [3, 2]
    assert part.read.ravel().tolist() == rows.tolist()
    assert part.mask.shape == (5, 2)
    plain = BatchLayout(torch.ones(2, 4).bool(), torch.zeros(2, 1, dtype=torch.long))
    merged = BatchLayout.merge([plain, part])
    assert merged.windows.tolist() == [1, 1, 3, 2]
    assert merged.mask.sum(1).tolist() == [4, 4, 2, 2, 2, 2, 2]
    assert BatchLayout.merge([plain, plain]).windows is None
    assert layout([2, 1]).take(np.array([1]), torch.tensor([2])).windows is None


def test_windows_are_summed_averaged_and_weighed_within_their_sample():
    parts = layout([2, 1, 3])
    rows = torch.tensor([[1.0], [3], [10], [0], [0], [6]])
    assert parts.summed(rows).ravel().tolist() == [4, 10, 6]
    assert parts.averaged(rows).ravel().tolist() == [2, 10, 2]
    assert parts.averaged(rows.bfloat16()).dtype == torch.bfloat16
    shares = parts.shares(torch.tensor([0.0, 0, -1e4, 1e4, 1e4, -1e4]))
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5, 1, 0.5, 0.5, 0]))


def test_attention_over_windows_is_attention_over_one_long_row():
    generator = torch.Generator().manual_seed(0)
    hidden, query = torch.randn(1, 12, 8, generator=generator), torch.randn(8, generator=generator)
    query.requires_grad_()
    whole = attended_mean(hidden, torch.ones(1, 12).bool(), query)
    (expected,) = torch.autograd.grad(whole.sum(), query)

    found = attended_mean_over_samples(hidden.reshape(3, 4, 8), layout([3], 4), query)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), query)[0], expected)
