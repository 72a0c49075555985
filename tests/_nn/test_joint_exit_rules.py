"""Samples of several tasks exit together in the engine as under the policy on arrays."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from sklearn_epee import policy
from sklearn_epee._checks.tasks import split_columns
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.tasks import TaskHeads
from sklearn_epee._search.shared_predictions import exits_from
from tests._nn.exits import (
    CLOSE,
    COUNTS,
    ENSEMBLES,
    FAMILIES,
    N_LAYERS,
    N_SAMPLES,
    exit_policy,
    make_samples,
    poolings,
)
from tests._nn.exits import make_network as make_single
from tests._nn.exits import make_tasks_network as make_network


def rules(joint_exit: str, entropies: np.ndarray) -> list[ExitPolicy]:
    """Policies from never to always, with every ensemble, taus among the entropies that occur."""
    rng = np.random.default_rng(9)
    taus = [0.0, *rng.choice(entropies.ravel(), 4) + rng.normal(0, 0.02, 4), 1.5]
    patiences = rng.integers(1, N_LAYERS + 2, len(taus))
    return [
        replace(exit_policy(max(0.0, float(tau)), int(p), ensemble), joint_exit=joint_exit)
        for (tau, p), ensemble in zip(
            zip(taus, patiences, strict=True), itertools.cycle(ENSEMBLES), strict=False
        )
    ]


def undecided(tasks: list[np.ndarray], rule: ExitPolicy, last_visited: np.ndarray) -> np.ndarray:
    """Samples that floating point may send elsewhere, by a task or by the mean of all."""
    entropies = np.stack([policy.normalized_entropy(task) for task in tasks], -1)
    entropies = np.concatenate([entropies, entropies.mean(-1, keepdims=True)], -1)
    # Nothing is below a tau of 0, however close.
    near = (abs(entropies - rule.tau) < CLOSE).any(-1) & (rule.tau > 0)
    for task in (task for task in tasks if task.shape[-1] > 1):
        top_two = np.sort(task, axis=-1)[..., -2:]
        near |= top_two[..., 1] - top_two[..., 0] < CLOSE
    visited = np.arange(1, N_LAYERS + 1) <= last_visited[:, None]
    return (near & visited).any(axis=1)


def assert_equal_predictions(found, staged: np.ndarray, rule: ExitPolicy, counts=COUNTS) -> None:
    tasks = split_columns(staged, counts)
    expected = policy.apply_policy(
        tasks, rule.tau, rule.patience, rule.exit_ensemble, "ascending", joint_exit=rule.joint_exit
    )
    sure = ~undecided(tasks, rule, np.maximum(found.exit_layer, expected.exit_layer))
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(found.exit_layer[sure], expected.exit_layer[sure])
    np.testing.assert_allclose(found.entropy[sure], expected.entropy[sure], atol=1e-5, rtol=0)
    proba = np.concatenate(expected.proba, axis=1)
    np.testing.assert_allclose(found.proba[sure], proba[sure], atol=1e-5, rtol=0)


@pytest.mark.parametrize("joint_exit", policy.JOINT_EXITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_joint_exits_equal_the_policy_on_staged_probabilities(family, joint_exit):
    engine, samples = Engine(make_network(family, poolings(family)[0])), make_samples(family)
    staged = engine.staged(samples, N_SAMPLES)
    assert staged.shape == (N_SAMPLES, N_LAYERS, sum(COUNTS))
    entropies = np.stack(
        [policy.normalized_entropy(task) for task in split_columns(staged, COUNTS)], -1
    )
    # Otherwise the tasks would hardly differ.
    assert abs(entropies[..., 0] - entropies[..., 1]).max() > 0.2
    for rule, batch_size in itertools.product(
        rules(joint_exit, entropies), (1, 7, N_SAMPLES, "auto")
    ):
        assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)


@pytest.mark.parametrize("joint_exit", policy.JOINT_EXITS)
@pytest.mark.parametrize("pooling", poolings("bert"))
def test_neighbours_order_and_padding_do_not_matter(pooling, joint_exit):
    engine = Engine(make_network("bert", pooling))
    order = np.random.default_rng(7).permutation(N_SAMPLES)
    staged = engine.staged(make_samples("bert"), 1)
    rule = replace(exit_policy(0.6, 3, "weighted"), joint_exit=joint_exit)
    shuffled = make_samples("bert", order=order)
    for batch_size in (1, 5, "auto"):
        assert_equal_predictions(engine.dynamic(shuffled, rule, batch_size), staged[order], rule)


@pytest.mark.parametrize("joint_exit", policy.JOINT_EXITS)
def test_all_policies_on_one_network(joint_exit):
    engine, samples = Engine(make_network("bert", "cls")), make_samples("bert")
    staged = engine.staged(samples)
    layers = set()
    for tau, patience in itertools.product([0.0, 0.3, 0.6, 0.9, 1.5], range(1, N_LAYERS + 2)):
        rule = replace(exit_policy(tau, patience), joint_exit=joint_exit)
        found = engine.dynamic(samples, rule, 4)
        assert_equal_predictions(found, staged, rule)
        layers.update(found.exit_layer.tolist())
    assert layers == set(range(1, N_LAYERS + 1))


def test_the_three_ways_differ():
    engine, samples = Engine(make_network("bert", "cls")), make_samples("bert")
    first, mean, last = (
        engine.dynamic(samples, replace(exit_policy(0.7, 3), joint_exit=way)).exit_layer
        for way in ("any", "mean", "all")
    )
    assert (first <= mean).all()
    assert (first <= last).all()
    assert first.sum() < mean.sum() < last.sum()


def test_a_task_with_a_single_class_never_holds_others_up():
    counts = (3, 1)
    engine = Engine(make_network("bert", "mean", counts))
    samples = make_samples("bert")
    staged = engine.staged(samples)
    rule = exit_policy(0.7, 3)
    found = engine.dynamic(samples, rule)
    assert_equal_predictions(found, staged, rule, counts)
    np.testing.assert_array_equal(found.exit_layer, policy.exit_layers(staged[..., :3], 0.7, 3))


def test_budgeted_is_staged_at_that_layer():
    engine, samples = Engine(make_network("bert", "cls")), make_samples("bert")
    staged = engine.staged(samples, 1)
    for layer in range(1, N_LAYERS + 1):
        found = engine.budgeted(samples, layer, 1)
        np.testing.assert_allclose(found, staged[:, layer - 1], atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_every_task_is_what_a_network_of_its_own_would_say(family):
    pooling = poolings(family)[0]
    joint, samples = make_network(family, pooling), make_samples(family)
    tasks = split_columns(Engine(joint).staged(samples, 1), COUNTS)
    for t, (task, count) in enumerate(zip(tasks, COUNTS, strict=True)):
        single = MultiExitNetwork(joint.backbone, count, pooling, dropout=0.5)
        for mine, theirs in zip(single.heads, joint.heads, strict=True):
            assert isinstance(theirs, TaskHeads)
            mine.load_state_dict(theirs.tasks[t].state_dict())
        found = Engine(single.eval()).staged(samples, 1)
        np.testing.assert_allclose(task, found, atol=1e-6)


def test_a_network_of_one_task_has_the_weights_it_always_had():
    backbone = make_single("bert", "cls").backbone
    torch.manual_seed(0)
    network = MultiExitNetwork(backbone, 3, "cls", 0.1)
    assert [name for name in network.state_dict() if name.startswith("heads.0")] == [
        f"heads.0.{part}.{kind}" for part in ("dense", "out") for kind in ("weight", "bias")
    ]
    assert network.n_classes == 3


def test_predictions_from_an_array_are_those_of_the_engine():
    engine, samples = Engine(make_network("bert", "mean")), make_samples("bert")
    staged = engine.staged(samples)
    rule = replace(exit_policy(0.6, 2, "mean"), joint_exit="any")
    found = exits_from(staged, rule, COUNTS)
    assert found.proba.shape == (N_SAMPLES, sum(COUNTS))
    assert_equal_predictions(found, staged, rule)
    expected = engine.dynamic(samples, rule)
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
