"""Words exit with their sentence, or one by one, as references say; nothing runs in vain."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from sklearn_epee import policy
from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.token_engine import TokenEngine, TokenExits
from tests._nn.engines import count_rows, gpu_is_full
from tests._nn.exits import CLOSE, ENSEMBLES, N_LAYERS
from tests._nn.words import (
    COUNTS,
    make_sentences,
    make_word_network,
    of_sentence,
    word_by_word,
    word_policy,
)
from tests.checkpoints import GENERIC_TEXT_FAMILIES, TEXT_FAMILIES

FAMILIES = (*TEXT_FAMILIES, *GENERIC_TEXT_FAMILIES)
JOINT_EXITS = ("all", "any", "mean")
exact_bfloat16 = pytest.mark.skipif(
    prediction_dtype("auto", torch.device("cpu")) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)


def tasks_of(staged: np.ndarray) -> list[np.ndarray]:
    return np.split(staged, np.cumsum(COUNTS)[:-1], axis=-1)


def policies(staged: np.ndarray) -> list[ExitPolicy]:
    """From never to always, every ensemble and joint exit, taus among entropies that occur."""
    rng = np.random.default_rng(1)
    entropies = np.concatenate([policy.normalized_entropy(task) for task in tasks_of(staged)])
    taus = [0.0, *np.quantile(entropies, [0.2, 0.4, 0.6, 0.8]) + rng.normal(0, 0.01, 4), 1.5]
    choices = itertools.cycle(itertools.product(JOINT_EXITS, ENSEMBLES))
    return [
        word_policy(max(0.0, float(tau)), patience, ensemble=ensemble, joint_exit=joint)
        for tau, patience, (joint, ensemble) in zip(
            taus, (2, N_LAYERS, 3, N_LAYERS, 2, N_LAYERS), choices, strict=False
        )
    ]


# ------------------------------------------------------------------------------- whole sentences


def assert_equals_arrays(found: TokenExits, staged: np.ndarray, rule: ExitPolicy) -> None:
    tasks, counts = tasks_of(staged), found.word_counts
    words = StagedPredictions.from_proba(tasks, rule.exit_ensemble, joint_exit=rule.joint_exit)
    exits = sentence_exit_layers(words, counts, rule.tau, rule.patience)
    of_words = np.repeat(exits, counts)
    is_sure = ~close_sentences(words, counts, rule.tau)
    assert is_sure.mean() > 0.7
    sure = np.repeat(is_sure, counts)
    np.testing.assert_array_equal(found.sample_exit_layer[is_sure], exits[is_sure])
    np.testing.assert_array_equal(found.exit_layer[sure], of_words[sure])
    expected = np.concatenate(words.proba_at(of_words), axis=1)
    np.testing.assert_allclose(found.proba[sure], expected[sure], atol=1e-5, rtol=0)
    own = words.entropies[np.arange(len(of_words)), of_words - 1]
    np.testing.assert_allclose(found.entropy[sure], own[sure], atol=1e-5, rtol=0)


def close_sentences(words: StagedPredictions, counts: np.ndarray, tau: float) -> np.ndarray:
    """Sentences that floating point may send elsewhere, by a word or by the mean of all."""
    near = (abs(words.entropies - tau) < CLOSE).any((1, 2)) & (tau > 0)
    for task in words.head_proba:
        top_two = np.sort(task, axis=-1)[..., -2:]
        near |= (top_two[..., 1] - top_two[..., 0] < CLOSE).any(1)
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(words.entropies.mean(2), starts) / counts[:, None]
    return np.logical_or.reduceat(near, starts) | (abs(means - tau) < CLOSE).any(1)


@pytest.mark.parametrize(
    ("family", "head"),
    [*((family, "linear") for family in FAMILIES), ("bert", "attention"), ("gpt2", "attention")],
)
def test_sentences_exit_as_on_arrays(family, head):
    engine, sentences = TokenEngine(make_word_network(family, head=head)), make_sentences()
    staged = engine.staged(sentences, 5)
    assert staged.shape == (sentences.word_counts.sum(), N_LAYERS, sum(COUNTS))
    for rule, batch_size in zip(policies(staged), itertools.cycle((1, 4, "auto")), strict=False):
        assert_equals_arrays(engine.dynamic(sentences, rule, batch_size), staged, rule)


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_all_policies_of_sentences(joint_exit):
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    staged = engine.staged(sentences)
    found = []
    for tau, patience in itertools.product([0.0, 0.3, 0.5, 0.7, 0.9], range(1, N_LAYERS + 2)):
        rule = word_policy(tau, patience, joint_exit=joint_exit)
        found.append(engine.dynamic(sentences, rule, 4))
        assert_equals_arrays(found[-1], staged, rule)
    exits = np.concatenate([part.sample_exit_layer for part in found])
    assert set(exits) == set(range(1, N_LAYERS + 1))


def test_rows_of_sentences_are_positions_times_layers():
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    found = engine.dynamic(sentences, word_policy(0.6, 3))
    np.testing.assert_array_equal(found.rows_computed, sentences.lengths * found.sample_exit_layer)
    np.testing.assert_array_equal(found.rows_total, sentences.lengths * N_LAYERS)
    assert 0 < found.speedup < 1
    assert engine.dynamic(sentences, word_policy(0.0)).speedup == 0


# -------------------------------------------------------------------------------- word by word


def assert_equals_word_by_word(found: TokenExits, network, sentences, rule, side="right") -> None:
    sure = 0
    for row in range(len(sentences)):
        expected = word_by_word(network, sentences, row, rule, side)
        if expected.is_close:
            continue
        sure += 1
        part = of_sentence(found, row)
        np.testing.assert_array_equal(found.exit_layer[part], expected.exit_layer)
        np.testing.assert_allclose(found.proba[part], expected.proba, atol=2e-5, rtol=0)
        np.testing.assert_allclose(found.entropy[part], expected.entropy, atol=2e-5, rtol=0)
        assert found.sample_exit_layer[row] == expected.exit_layer.max()
        if network.adapter.rows_apart:
            assert found.rows_computed[row] == expected.rows
        else:
            whole = len(sentences.texts[row]) * expected.exit_layer.max()
            assert found.rows_computed[row] == whole
    assert sure > 0.6 * len(sentences)


def word_policies(staged: np.ndarray) -> list[ExitPolicy]:
    """Under which many words exit early, each with another joint exit and ensemble."""
    entropies = np.concatenate([policy.normalized_entropy(task) for task in tasks_of(staged)])
    taus = np.quantile(entropies, [0.6, 0.4, 0.2])
    return [
        word_policy(float(tau), patience, ensemble=ensemble, joint_exit=joint, token_exit="token")
        for tau, patience, joint, ensemble in zip(
            taus, (3, N_LAYERS, N_LAYERS), JOINT_EXITS, ENSEMBLES, strict=True
        )
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("family", "head"), [*((family, "linear") for family in FAMILIES), ("bert", "attention")]
)
def test_words_exit_as_transformers_layers_with_frozen_states_say(family, head, side):
    network, sentences = make_word_network(family, head=head), make_sentences(7)
    engine, exits = TokenEngine(network), []
    for rule in word_policies(engine.staged(sentences))[:: 1 if side == "right" else 2]:
        found = engine.dynamic(sentences, rule, 4)
        exits.extend(found.exit_layer)
        assert_equals_word_by_word(found, network, sentences, rule, side)
    assert len(set(exits)) > 2


def test_all_policies_of_words():
    network, sentences = make_word_network("bert"), make_sentences(7)
    engine = TokenEngine(network)
    for tau, patience in itertools.product([0.0, 0.4, 0.6, 0.8], (1, 2, N_LAYERS)):
        rule = word_policy(tau, patience, token_exit="token")
        found = engine.dynamic(sentences, rule, 3)
        assert_equals_word_by_word(found, network, sentences, rule)


def test_frozen_words_change_what_those_above_read():
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    staged = engine.staged(sentences)
    found = engine.dynamic(sentences, word_policy(0.5, token_exit="token"))
    late = found.exit_layer == N_LAYERS
    assert late.any()
    assert abs(found.proba[late] - staged[late, -1]).max() > 1e-3
    # Before a word has exited, nothing differs.
    early = found.exit_layer == 1
    assert early.any()
    np.testing.assert_allclose(found.proba[early], staged[early, 0], atol=1e-6)


def test_without_an_exit_both_ways_are_full_depth():
    engine, sentences = TokenEngine(make_word_network("modernbert")), make_sentences()
    staged = engine.staged(sentences)
    for way in ("sentence", "token"):
        found = engine.dynamic(sentences, word_policy(0.0, token_exit=way))
        assert (found.exit_layer == N_LAYERS).all()
        np.testing.assert_allclose(found.proba, staged[:, -1], atol=1e-5)
        np.testing.assert_array_equal(found.rows_computed, found.rows_total)


@pytest.mark.parametrize("way", ["sentence", "token"])
def test_a_sentence_of_one_word_exits_as_its_word(way):
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    single = sentences.take(np.flatnonzero(sentences.word_counts == 1))
    rule = word_policy(0.6, 3, token_exit=way)
    found = engine.dynamic(single, rule)
    assert_equals_arrays(found, engine.staged(single), rule)
    np.testing.assert_array_equal(found.rows_computed, single.lengths * found.exit_layer)


# ------------------------------------------------------------------------------ what is computed


def count_finished_rows(
    monkeypatch: pytest.MonkeyPatch, engine: TokenEngine
) -> list[tuple[int, int]]:
    """Record (layer, rows) of every call that finishes rows of a layer."""
    runs: list[tuple[int, int]] = []
    backbone = engine._placed.backbone
    rows, row_subset = backbone.rows, backbone.row_subset

    def counted(layer, hidden, k, v, mask):
        runs.append((layer, int(mask.sum())))
        return rows(layer, hidden, k, v, mask)

    def some_counted(layer, hidden, *rest):
        runs.append((layer, len(hidden)))
        return row_subset(layer, hidden, *rest)

    monkeypatch.setattr(backbone, "rows", counted)
    monkeypatch.setattr(backbone, "row_subset", some_counted)
    return runs


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_only_open_rows_are_computed_and_first_pieces_at_the_end(monkeypatch, batch_size):
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    rule = word_policy(0.5, 3, token_exit="token")
    runs = count_finished_rows(monkeypatch, engine)
    found = engine.dynamic(sentences, rule, batch_size)
    below = sum(rows for layer, rows in runs if layer < N_LAYERS)
    at_end = sum(rows for layer, rows in runs if layer == N_LAYERS)
    assert at_end == (found.exit_layer == N_LAYERS).sum()
    open_at_end = sum(
        sum(np.isin(words, np.flatnonzero(exits == N_LAYERS))) + 2 * (exits == N_LAYERS).any()
        for words, exits in (
            (sentences.words[row], found.exit_layer[of_sentence(found, row)])
            for row in range(len(sentences))
        )
    )
    assert below + open_at_end == found.rows_computed.sum()
    assert below < 0.8 * (N_LAYERS - 1) * sentences.lengths.sum()


@pytest.mark.parametrize("layer", range(1, N_LAYERS + 1))
def test_budgeted_is_staged_at_that_layer_and_reads_first_pieces_there(monkeypatch, layer):
    engine, sentences = TokenEngine(make_word_network("modernbert")), make_sentences()
    staged = engine.staged(sentences)
    runs = count_finished_rows(monkeypatch, engine)
    found = engine.budgeted(sentences, layer, 5)
    np.testing.assert_allclose(found, staged[:, layer - 1], atol=1e-5, rtol=0)
    by_layer = [sum(n for number, n in runs if number == m + 1) for m in range(N_LAYERS)]
    whole = [sentences.lengths.sum()] * (layer - 1)
    assert by_layer == [*whole, sentences.word_counts.sum(), *[0] * (N_LAYERS - layer)]


@pytest.mark.parametrize("way", ["sentence", "token"])
def test_sentences_leave_the_batch_and_underfilled_ones_are_merged(monkeypatch, way):
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences(48)
    runs = count_rows(monkeypatch, engine)
    rule = word_policy(0.8, 3, token_exit=way)
    found = engine.dynamic(sentences, rule, 8)
    for layer in range(1, N_LAYERS + 1):
        sizes = [n for number, n in runs if number == layer]
        assert sum(sizes) == (found.sample_exit_layer >= layer).sum()
        assert all(n > 4 for n in sizes[:-1])
    assert len(set(found.sample_exit_layer)) > 1


@pytest.mark.parametrize("way", ["sentence", "token"])
def test_out_of_memory_in_the_middle_forgets_the_attempt(monkeypatch, way):
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    rule = word_policy(0.2, 3, ensemble="weighted", joint_exit="mean", token_exit=way)
    expected = engine.dynamic(sentences, rule)
    row_logits = engine._placed.network.row_logits

    def limited(layer, rows, *rest):
        if layer == 2 and len(rows) > 9:
            gpu_is_full()
        return row_logits(layer, rows, *rest)

    monkeypatch.setattr(engine._placed.network, "row_logits", limited)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        found = engine.dynamic(sentences, rule, 13)
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    np.testing.assert_array_equal(found.rows_computed, expected.rows_computed)
    np.testing.assert_allclose(found.proba, expected.proba, atol=1e-5)


# -------------------------------------------------------------------------- batches and precision


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, torch.float32) for family in ("bert", "deberta-v2", "modernbert", "mistral")),
        *(pytest.param(family, torch.bfloat16, marks=exact_bfloat16) for family in TEXT_FAMILIES),
    ],
)
def test_a_sentence_does_not_depend_on_its_batch(family, dtype):
    engine, sentences = TokenEngine(make_word_network(family), dtype), make_sentences()
    order = np.random.default_rng(2).permutation(len(sentences))
    rules = word_policies(engine.staged(sentences))[:2]
    for rule in (*rules, replace(rules[0], token_exit="sentence")):
        alone = engine.dynamic(sentences, rule, 1)
        # To the bit in bfloat16, where rounding would decide otherwise.
        is_sure = np.abs(alone.entropy - rule.tau).min() > CLOSE
        for batch_size in (4, "auto"):
            found = engine.dynamic(sentences.take(order), rule, batch_size)
            for row, source in enumerate(order):
                part, expected = of_sentence(found, row), of_sentence(alone, source)
                if is_sure:
                    np.testing.assert_array_equal(
                        found.exit_layer[part], alone.exit_layer[expected]
                    )
                np.testing.assert_allclose(
                    found.proba[part], alone.proba[expected], atol=1e-5 if is_sure else 1e-2
                )


def test_join_is_as_one_call():
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences()
    rule = word_policy(0.6, 3, token_exit="token")
    parts = [
        engine.dynamic(sentences.take(range(start, min(start + 5, 13))), rule)
        for start in range(0, 13, 5)
    ]
    joined, whole = TokenExits.join(parts), engine.dynamic(sentences, rule)
    np.testing.assert_array_equal(joined.exit_layer, whole.exit_layer)
    np.testing.assert_array_equal(joined.rows_computed, whole.rows_computed)
    assert joined.speedup == whole.speedup
    assert TokenExits.join(parts[:1]) is parts[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "llama", "opt"])
def test_cuda_equals_cpu(family):
    network, sentences = make_word_network(family), make_sentences()
    on_cpu = TokenEngine(network)
    moved = TokenEngine(network.to_inference_copy(torch.device("cuda"), torch.float32))
    rules = word_policies(on_cpu.staged(sentences))
    for rule in (*rules, replace(rules[0], token_exit="sentence")):
        expected, found = (engine.dynamic(sentences, rule) for engine in (on_cpu, moved))
        same = found.exit_layer == expected.exit_layer
        assert same.mean() > 0.9
        np.testing.assert_allclose(found.proba[same], expected.proba[same], atol=1e-2)
