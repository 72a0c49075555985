"""Samples with several labels exit in the engine as under the policy on arrays."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertModel

from sklearn_epee import policy
from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.exit_rules import ExitPolicy, float32_floor
from sklearn_epee._nn.heads import label_heads
from sklearn_epee._nn.joint_exit_rules import dynamic_rule
from sklearn_epee._nn.network import MultiExitNetwork, rebuild_network
from sklearn_epee._nn.recipes import DistillationExitLoss, JointExitLoss
from sklearn_epee._nn.tasks import as_binary, split_tasks, task_softmax
from sklearn_epee._search.shared_predictions import exits_from
from tests._nn.exits import (
    CLOSE,
    ENSEMBLES,
    FAMILIES,
    N_LAYERS,
    N_SAMPLES,
    exit_policy,
    make_labels_network,
    make_samples,
    poolings,
)

N_LABELS = 3
THRESHOLDS = (None, (0.3, 0.5, 0.7))


def label_policies(joint_exit: str, entropies: np.ndarray) -> list[ExitPolicy]:
    """Policies from never to always, taus among the entropies that occur."""
    rng = np.random.default_rng(9)
    taus = [0.0, *rng.choice(entropies.ravel(), 4), 1.5]
    numbers = zip(taus, rng.integers(1, N_LAYERS + 2, len(taus)), strict=True)
    kinds = itertools.cycle(zip(ENSEMBLES, itertools.cycle(THRESHOLDS), strict=False))
    return [
        replace(
            exit_policy(max(0.0, float(tau)), int(patience), ensemble),
            joint_exit=joint_exit,
            label_thresholds=np.full(N_LABELS, 0.5) if limits is None else np.array(limits),
        )
        for (tau, patience), (ensemble, limits) in zip(numbers, kinds, strict=False)
    ]


def assert_equal_predictions(found, staged: np.ndarray, rule: ExitPolicy) -> None:
    proba = staged[..., 1::2]
    expected = policy.apply_policy(
        proba, rule.tau, rule.patience, rule.exit_ensemble, "ascending",
        joint_exit=rule.joint_exit, multilabel=True, label_thresholds=rule.label_thresholds,
    )  # fmt: skip
    each = policy.normalized_entropy(np.stack([1 - proba, proba], -1))
    joint = np.concatenate([each, each.mean(-1, keepdims=True)], -1)
    near = (abs(joint - rule.tau) < CLOSE).any(-1) & (rule.tau > 0)
    near |= (abs(proba - rule.label_thresholds) < CLOSE).any(-1)
    visited = (
        np.arange(1, N_LAYERS + 1) <= np.maximum(found.exit_layer, expected.exit_layer)[:, None]
    )
    sure = ~(near & visited).any(axis=1)
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(found.exit_layer[sure], expected.exit_layer[sure])
    np.testing.assert_allclose(found.entropy[sure], expected.entropy[sure], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.proba[sure, 1::2], expected.proba[sure], atol=1e-5, rtol=0)


@pytest.mark.parametrize("joint_exit", policy.JOINT_EXITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_exits_of_labels_equal_the_policy_on_staged_probabilities(family, joint_exit):
    engine = Engine(make_labels_network(family, poolings(family)[0], N_LABELS))
    samples = make_samples(family)
    staged = engine.staged(samples, N_SAMPLES)
    assert staged.shape == (N_SAMPLES, N_LAYERS, 2 * N_LABELS)
    np.testing.assert_allclose(staged[..., ::2] + staged[..., 1::2], 1, atol=1e-6)
    entropies = policy.normalized_entropy(staged.reshape(N_SAMPLES, N_LAYERS, N_LABELS, 2))
    for rule, batch_size in itertools.product(label_policies(joint_exit, entropies), (7, "auto")):
        found = engine.dynamic(samples, rule, batch_size)
        assert_equal_predictions(found, staged, rule)
        from_arrays = exits_from(staged, rule, (2,) * N_LABELS)
        assert_equal_predictions(from_arrays, staged, rule)
        assert from_arrays.proba.shape == found.proba.shape


def test_thresholds_are_compared_as_given():
    # Halfway between two neighbors in float32.
    below, above = np.float32(0.3), np.nextafter(np.float32(0.3), np.float32(1))
    limits = np.array([(float(below) + float(above)) / 2, float(below), float(above)])
    proba = np.array([below, above], np.float32)
    for limit, rounded in zip(limits, float32_floor(limits), strict=True):
        np.testing.assert_array_equal(proba > rounded, proba.astype(np.float64) > limit)


def test_exits_under_other_thresholds_are_other_exits():
    engine, samples = Engine(make_labels_network("bert", "cls", N_LABELS)), make_samples("bert")
    rules = [
        replace(exit_policy(0.0, 2), label_thresholds=np.full(N_LABELS, limit))
        for limit in (0.5, 0.99)
    ]
    first, second = (engine.dynamic(samples, rule).exit_layer for rule in rules)
    assert (first != second).any()
    keys = {dynamic_rule(rule, N_LAYERS, None, (2,) * N_LABELS).rates_key for rule in rules}
    assert len(keys) == 2


def test_a_network_is_rebuilt_with_labels_that_do_not_vary():
    network = make_labels_network("bert", "cls", N_LABELS)
    for head in label_heads(network):
        head.constants.copy_(torch.tensor([0.0, 1.0, -1.0]))
    twin = rebuild_network(network.recipe(), network.state_dict())
    assert twin.n_classes == LabelCount(N_LABELS)
    samples = make_samples("bert")
    staged = Engine(network).staged(samples)
    np.testing.assert_array_equal(staged[..., 3], 1)
    np.testing.assert_array_equal(staged[..., 5], 0)
    np.testing.assert_array_equal(Engine(twin).staged(samples), staged)


def test_weights_of_14_labels_of_bert_base():
    """Of a shared head, against a head for each label."""
    with torch.device("meta"):
        backbone = BertModel(BertConfig(num_hidden_layers=1), add_pooling_layer=False)
        labels = MultiExitNetwork(backbone, LabelCount(14), "mean", 0.0)
        tasks = MultiExitNetwork(backbone, (2,) * 14, "mean", 0.0)
    of_labels, of_tasks = (
        12 * sum(weight.numel() for weight in network.heads.parameters())
        for network in (labels, tasks)
    )
    assert of_tasks == 99_477_840
    assert of_labels == 7_216_296


@pytest.mark.parametrize("loss", [JointExitLoss, DistillationExitLoss])
def test_the_loss_of_labels_is_the_mean_of_their_binary_losses(loss):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, N_LAYERS, N_LABELS, generator=generator)
    logits = torch.stack([torch.zeros_like(z), z], dim=-1).flatten(-2)
    labels = torch.randint(0, 2, (5, N_LABELS), generator=generator)
    criterion = loss(np.arange(1.0, N_LAYERS + 1)).train()
    weights = torch.ones(5, N_LABELS)
    found = criterion(*as_binary(logits, labels, weights))
    tasks = zip(split_tasks(logits, (2,) * N_LABELS), labels.unbind(1), strict=True)
    expected = torch.stack([criterion(task, label, weights[:, 0]) for task, label in tasks]).mean()
    torch.testing.assert_close(found, expected)
    if loss is JointExitLoss:
        targets = labels[:, None].expand_as(z).float()
        each = functional.binary_cross_entropy_with_logits(z, targets, reduction="none")
        torch.testing.assert_close(found, (each.mean((0, 2)) * criterion.exit_weights).sum())
    labels[2, 1], weights[2, 1] = -1, 0
    assert torch.isfinite(criterion(*as_binary(logits, labels, weights)))


def test_the_softmax_of_pairs_is_that_of_tasks_to_the_bit():
    logits = 5 * torch.randn(33, 14, generator=torch.Generator().manual_seed(0))
    one_by_one = [torch.softmax(part, dim=-1) for part in logits.split(2, dim=-1)]
    assert torch.equal(task_softmax(logits, (2,) * 7), torch.cat(one_by_one, dim=-1))
