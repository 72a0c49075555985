"""Several tasks on arrays leave as a loop over samples, layers and tasks says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.checks import check_joint_exit
from sklearn_epee.policy import (
    JOINT_EXITS,
    apply_policy,
    exit_layers,
    normalized_entropy,
    patience_counters,
)
from tests.model_selection.staged import staged_arrays, staged_tasks


def leaves_at(tasks, row, tau, patience, joint_exit):
    """Give the exit layer of one sample by the definition, step by step."""
    n_layers = tasks[0].shape[1]
    agreeing, together = [0] * len(tasks), 0
    before = None
    for m in range(n_layers):
        now = [int(task[row, m].argmax()) for task in tasks]
        entropies = [float(normalized_entropy(task[row, m])) for task in tasks]
        for t in range(len(tasks)):
            agreeing[t] = agreeing[t] + 1 if before and before[t] == now[t] else 1
        together = together + 1 if before == now else 1
        before = now
        may = [h < tau or p >= patience for h, p in zip(entropies, agreeing, strict=True)]
        mean = float(np.mean(entropies)) < tau or together >= patience
        if {"all": all(may), "any": any(may), "mean": mean}[joint_exit]:
            return m + 1
    return n_layers


@given(staged_tasks(), st.floats(0, 1.2), st.integers(1, 7), st.sampled_from(JOINT_EXITS))
def test_exit_layers_are_those_of_the_definition(tasks, tau, patience, joint_exit):
    found = exit_layers(tasks, tau, patience, joint_exit=joint_exit)
    expected = [leaves_at(tasks, i, tau, patience, joint_exit) for i in range(len(tasks[0]))]
    assert_array_equal(found, expected)
    assert found.dtype == np.int64


@given(staged_arrays(), st.floats(0, 1.2), st.integers(1, 7), st.sampled_from(JOINT_EXITS))
def test_all_ways_coincide_for_one_task(proba, tau, patience, joint_exit):
    plain = exit_layers(proba, tau, patience)
    assert_array_equal(exit_layers([proba], tau, patience, joint_exit=joint_exit), plain)
    assert_array_equal(exit_layers([proba, proba], tau, patience, joint_exit=joint_exit), plain)
    alone = apply_policy(proba, tau, patience, "mean")
    listed = apply_policy([proba], tau, patience, "mean", joint_exit=joint_exit)
    assert_array_equal(listed.proba[0], alone.proba)
    assert_array_equal(listed.entropy[:, 0], alone.entropy)
    assert_array_equal(listed.prediction[:, 0], alone.prediction)


@given(staged_tasks(), st.floats(0, 1.2), st.integers(1, 7))
def test_any_leaves_before_mean_and_all(tasks, tau, patience):
    first, mean, last = (
        exit_layers(tasks, tau, patience, joint_exit=way) for way in ("any", "mean", "all")
    )
    assert (first <= last).all()
    # A mean below tau has an entropy below tau in it, and a joint prediction agrees in every task.
    assert (first <= mean).all()


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_degenerate_policies_exit_at_the_first_or_last_layer(joint_exit):
    rng = np.random.default_rng(0)
    tasks = [rng.dirichlet(np.ones(k), size=(20, 4)) for k in (2, 3)]
    assert (exit_layers(tasks, 0.0, 1, joint_exit=joint_exit) == 1).all()
    assert (exit_layers(tasks, 1.1, 4, joint_exit=joint_exit) == 1).all()
    assert (exit_layers(tasks, 0.0, None, joint_exit=joint_exit) >= 3).all()
    never = exit_layers(tasks, 0.0, 5, joint_exit=joint_exit)
    assert_array_equal(never, np.full(20, 4))


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_the_comparison_with_tau_is_strict(joint_exit):
    tasks = [np.array([[[0.75, 0.25], [0.75, 0.25]]])] * 2
    entropy = float(normalized_entropy([0.75, 0.25]))
    assert exit_layers(tasks, entropy, 2, joint_exit=joint_exit) == 2
    above = float(np.nextafter(entropy, 2))
    assert exit_layers(tasks, above, 2, joint_exit=joint_exit) == 1


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
def test_answers_of_every_task_are_those_of_its_own_exits(joint_exit, ensemble):
    rng = np.random.default_rng(1)
    tasks = [rng.dirichlet(np.ones(k), size=(30, 5)) for k in (2, 4)]
    found = apply_policy(tasks, 0.5, 3, ensemble, joint_exit=joint_exit)
    assert found.entropy.shape == found.prediction.shape == (30, 2)
    for t, task in enumerate(tasks):
        for i, layer in enumerate(found.exit_layer):
            visited = task[i, :layer]
            weights = {None: np.eye(layer)[-1], "mean": np.ones(layer)}.get(
                ensemble, np.arange(1.0, layer + 1)
            )
            combined = weights @ visited / weights.sum()
            assert_allclose(found.proba[t][i], combined)
            assert found.prediction[i, t] == combined.argmax()
            assert_allclose(found.entropy[i, t], normalized_entropy(visited[-1]))


def test_a_joint_prediction_is_as_old_as_the_youngest_of_its_parts():
    rng = np.random.default_rng(2)
    predictions = rng.integers(0, 2, (50, 7, 3))
    pairs = predictions @ [1, 2, 4]
    each = np.stack([patience_counters(predictions[..., t]) for t in range(3)], axis=-1)
    assert_array_equal(patience_counters(pairs), each.min(axis=-1))


def test_nested_lists_are_one_task_unless_every_part_is_staged():
    one = [[[0.6, 0.4], [0.1, 0.9]]]
    assert exit_layers(one, 0.5).shape == (1,)
    both = [one, [[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]]]
    assert_array_equal(exit_layers(both, 0.9), [2])
    assert isinstance(apply_policy(both, 0.9).proba, list)
    assert_array_equal(exit_layers(tuple(map(np.array, both)), 0.9), [2])


def test_arguments_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    tasks = [rng.dirichlet(np.ones(2), size=(n, 3)) for n in (4, 5)]
    with pytest.raises(ValueError, match=r"same samples and layers; got .*\(4, 3, 2\), \(5, 3, 2"):
        exit_layers(tasks, 0.5)
    with pytest.raises(ValueError, match="joint_exit must be 'all', 'any' or 'mean'; got 'some'"):
        exit_layers([tasks[0]] * 2, 0.5, joint_exit="some")
    with pytest.raises(TypeError, match="got True of type bool"):
        apply_policy([tasks[0]] * 2, 0.5, joint_exit=True)
    assert check_joint_exit("mean") == "mean"
