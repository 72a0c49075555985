"""The policy space of several tasks against the policies applied one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.policy_scores import accuracy, balanced_accuracy, macro_f1
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee.policy import JOINT_EXITS, apply_policy, exit_layers
from tests.model_selection.staged import codes_for, staged_arrays, staged_tasks

no_deadline = settings(deadline=None)
TAUS = st.floats(0, 1.2)
WAYS = st.sampled_from(JOINT_EXITS)
ENSEMBLES = st.sampled_from([None, "mean", "weighted"])


@given(staged_tasks(), WAYS)
@no_deadline
def test_a_sweep_walks_through_the_exits_of_each_of_its_policies(tasks, joint_exit):
    space = PolicySpace(StagedPredictions.from_proba(tasks, joint_exit=joint_exit))
    for patience in range(1, space.n_layers + 1):
        sweep = space.sweep(patience)
        for tau, exits in zip(sweep.taus, sweep.exit_layers(), strict=True):
            assert_array_equal(exits, exit_layers(tasks, tau, patience, joint_exit=joint_exit))


@given(staged_tasks(), TAUS, WAYS)
@no_deadline
def test_a_sweep_has_every_set_of_decisions_there_is(tasks, tau, joint_exit):
    space = PolicySpace(StagedPredictions.from_proba(tasks, joint_exit=joint_exit))
    for patience in range(1, space.n_layers + 1):
        found = [exits.tolist() for exits in space.sweep(patience).exit_layers()]
        assert exit_layers(tasks, tau, patience, joint_exit=joint_exit).tolist() in found
        assert len({tuple(exits) for exits in found}) == len(found)  # and none of them twice


@given(staged_tasks(), st.lists(TAUS, min_size=1, max_size=4), WAYS)
@no_deadline
def test_given_thresholds_are_followed_strictly(tasks, taus, joint_exit):
    space = PolicySpace(StagedPredictions.from_proba(tasks, joint_exit=joint_exit))
    # Equal to an entropy that decides: not below.
    taus = np.unique([*taus, *space.staged.joint_entropies.ravel()[:3]])
    for patience in range(1, space.n_layers + 1):
        sweep = space.sweep(patience, taus)
        for tau, exits in zip(taus, sweep.exit_layers(), strict=True):
            assert_array_equal(exits, exit_layers(tasks, tau, patience, joint_exit=joint_exit))


@given(staged_tasks(), TAUS, st.integers(1, 7), ENSEMBLES, WAYS)
@no_deadline
def test_answers_are_those_of_the_policy_on_arrays(tasks, tau, patience, ensemble, joint_exit):
    staged = StagedPredictions.from_proba(tasks, ensemble, joint_exit=joint_exit)
    expected = apply_policy(tasks, tau, patience, ensemble, joint_exit=joint_exit)
    exits = staged.exit_layers(tau, patience)
    assert_array_equal(exits, expected.exit_layer)
    rows = np.arange(len(exits))
    assert_array_equal(staged.predictions[rows, exits - 1], expected.prediction)
    for mine, theirs in zip(staged.proba_at(exits), expected.proba, strict=True):
        assert_allclose(mine, theirs, rtol=1e-5)
    half = staged.take(rows[: len(rows) // 2 + 1])
    assert_array_equal(half.exit_layers(tau, patience), exits[: len(rows) // 2 + 1])


@given(staged_arrays(), WAYS)
@no_deadline
def test_one_task_twice_is_one_task(proba, joint_exit):
    alone = PolicySpace(StagedPredictions.from_proba([proba]))
    twice = PolicySpace(StagedPredictions.from_proba([proba, proba], joint_exit=joint_exit))
    for patience in range(1, alone.n_layers + 1):
        one, two = alone.sweep(patience), twice.sweep(patience)
        assert_array_equal(one.taus, two.taus)
        assert_array_equal(one.total_layers(), two.total_layers())


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_quantiles_are_thresholds_that_matter_to_some_patience(joint_exit):
    rng = np.random.default_rng(0)
    tasks = [rng.dirichlet(np.ones(k), size=(40, 4)) for k in (2, 3)]
    space = PolicySpace(StagedPredictions.from_proba(tasks, joint_exit=joint_exit))
    every = np.unique(np.concatenate([space.sweep(p).taus for p in range(1, 5)]))
    taus = space.quantile_taus(9)
    assert len(taus) == 9
    assert taus[0] == 0
    assert (np.diff(taus) > 0).all()
    assert every.min() <= taus.min()
    # Every set of decisions is found with all thresholds of all patiences.
    all_taus = space.quantile_taus(10**6)
    for patience in range(1, 5):
        wanted = {tuple(exits) for exits in space.sweep(patience).exit_layers()}
        assert wanted == {tuple(exits) for exits in space.sweep(patience, all_taus).exit_layers()}


@given(staged_tasks(), WAYS, st.booleans())
@no_deadline
def test_scores_are_those_of_the_predictions(tasks, joint_exit, weighted):
    codes = np.stack([codes_for(task, seed) for seed, task in enumerate(tasks)], axis=1)
    weights = np.random.default_rng(0).random(len(codes)) + 0.1 if weighted else None
    staged = StagedPredictions.from_proba(tasks, joint_exit=joint_exit)
    space = PolicySpace(staged)
    sweep = space.sweep(min(2, space.n_layers))
    exact = accuracy(staged, codes, weights)(sweep)
    means = {name: name(staged, codes, weights)(sweep) for name in (balanced_accuracy, macro_f1)}
    rows = np.arange(len(codes))
    for at, exits in enumerate(sweep.exit_layers()):
        hits = (staged.predictions[rows, exits - 1] == codes).all(axis=1)
        assert exact[at] == pytest.approx(np.average(hits, weights=weights))
        for name, found in means.items():
            each = [
                name(alone(task), column[:, np.newaxis], weights)(_only(exits, staged.n_layers))[0]
                for task, column in zip(tasks, codes.T, strict=True)
            ]
            assert found[at] == pytest.approx(np.mean(each))


def alone(task):
    return StagedPredictions.from_proba([task])


def _only(exits, n_layers):
    """A sweep of a single policy with these exits."""
    certain = np.zeros((len(exits), n_layers, 2))
    certain[..., 0] = 0.5
    certain[..., 1] = 0.5
    leaves = np.arange(1, n_layers + 1) == exits[:, np.newaxis]
    certain[leaves] = [1.0, 0.0]
    return PolicySpace(StagedPredictions.from_proba([certain])).sweep(n_layers, np.array([0.5]))
