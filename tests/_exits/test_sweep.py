"""The whole policy space against the policies applied one by one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee.policy import apply_policy, exit_layers
from tests.model_selection.staged import staged_arrays

no_deadline = settings(deadline=None)
TAUS = st.floats(0, 1.2)
ENSEMBLES = st.sampled_from([None, "mean", "weighted"])


def space_of(proba, **options):
    return PolicySpace(StagedPredictions.from_proba([proba], **options))


@given(staged_arrays())
@no_deadline
def test_a_sweep_walks_through_the_exits_of_each_of_its_policies(proba):
    space = space_of(proba)
    for patience in range(1, space.n_layers + 1):
        sweep = space.sweep(patience)
        for tau, exits in zip(sweep.taus, sweep.exit_layers(), strict=True):
            assert_array_equal(exits, exit_layers(proba, tau, patience))


@given(staged_arrays(), TAUS)
@no_deadline
def test_a_sweep_has_every_set_of_decisions_there_is(proba, tau):
    space = space_of(proba)
    for patience in range(1, space.n_layers + 1):
        found = [exits.tolist() for exits in space.sweep(patience).exit_layers()]
        assert exit_layers(proba, tau, patience).tolist() in found
        assert len({tuple(exits) for exits in found}) == len(found)  # and none of them twice


@given(staged_arrays(), st.lists(TAUS, min_size=1, max_size=5))
@no_deadline
def test_given_thresholds_are_followed_strictly(proba, taus):
    space = space_of(proba)
    entropies = space.staged.entropies.ravel()
    taus = np.unique([*taus, *entropies[:3]])  # equal to an entropy: not below
    for patience in range(1, space.n_layers + 1):
        sweep = space.sweep(patience, taus)
        assert_array_equal(sweep.taus, taus)
        for tau, exits in zip(taus, sweep.exit_layers(), strict=True):
            assert_array_equal(exits, exit_layers(proba, tau, patience))


@given(staged_arrays(), st.integers(0, 2**32 - 1))
@no_deadline
def test_totals_are_those_of_the_exits(proba, seed):
    rng = np.random.default_rng(seed)
    space = space_of(proba)
    values = rng.integers(-3, 4, size=proba.shape[:2])
    weights = rng.random(len(proba))
    rows = np.arange(len(proba))
    for patience in range(1, space.n_layers + 1):
        sweep = space.sweep(patience)
        exits = np.array([each.copy() for each in sweep.exit_layers()])
        assert_array_equal(sweep.total(values), [values[rows, each - 1].sum() for each in exits])
        assert_array_equal(sweep.total_layers(), exits.sum(axis=1))
        assert_allclose(sweep.total_layers(weights), exits @ weights)


@given(staged_arrays(), TAUS, st.integers(1, 7), ENSEMBLES)
@no_deadline
def test_answers_are_those_of_the_policy_on_arrays(proba, tau, patience, ensemble):
    staged = StagedPredictions.from_proba([proba], exit_ensemble=ensemble)
    expected = apply_policy(proba, tau, patience, exit_ensemble=ensemble)
    exits = staged.exit_layers(tau, patience)
    rows = np.arange(len(proba))
    assert_array_equal(exits, expected.exit_layer)
    assert_array_equal(staged.predictions[rows, exits - 1, 0], expected.prediction)
    assert_array_equal(staged.proba_at(exits)[0], expected.proba)


def test_exits_with_weights_of_zero_predict_by_themselves():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), size=(20, 4))
    weights = [0.0, 0.0, 1.0, 3.0]
    staged = StagedPredictions.from_proba([proba], "weighted", weights)
    for layer in range(1, 5):
        exits = np.full(20, layer)
        expected = apply_policy(proba, 0.0, layer, "weighted", weights)
        at_layer = expected.exit_layer == exits
        assert at_layer.any()
        assert_array_equal(
            staged.proba[0][at_layer, layer - 1], expected.proba[at_layer], strict=True
        )


@given(staged_arrays())
@no_deadline
def test_thresholds_keep_their_distance(proba):
    taus = space_of(proba).sweep(proba.shape[1]).taus
    entropies = np.unique(StagedPredictions.from_proba([proba]).entropies)
    assert taus[0] == 0
    assert (np.diff(taus) > 0).all()
    between = taus[1:]
    below = entropies[np.searchsorted(entropies, between) - 1]
    assert (below < between).all()


def test_thresholds_are_in_the_middle():
    def binary(p):
        return [p, 1 - p]

    proba = np.array([[binary(0.9), binary(0.6)], [binary(0.99), binary(0.6)]])
    entropies = np.sort(StagedPredictions.from_proba([proba]).entropies[:, 0, 0])
    taus = space_of(proba).sweep(2).taus
    assert_allclose(taus, [0, entropies.mean(), (entropies[1] + 1) / 2])


def test_neighboring_floats_are_distinguished():
    space = space_of(np.full((2, 2, 2), 0.5))
    low = 0.3
    high = np.nextafter(low, 1)
    entropies = np.array([[low, 0.9], [high, 0.9]])[..., np.newaxis]
    sweep = PolicySpace(replace(space.staged, entropies=entropies)).sweep(2)
    assert [exits.tolist() for exits in sweep.exit_layers()] == [[2, 2], [1, 2], [1, 1]]
    assert sweep.taus[1] == high


def test_uniform_probabilities_need_a_threshold_above_one():
    assert_array_equal(space_of(np.full((3, 2, 4), 0.25)).sweep(2).taus, [0, 1.5])


def test_patience_one_has_a_single_policy():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), size=(50, 4))
    assert_array_equal(space_of(proba).sweep(1).taus, [0])


@given(staged_arrays(), st.integers(1, 12))
@no_deadline
def test_quantiles_are_some_of_all_thresholds(proba, n_taus):
    space = space_of(proba)
    every = space.quantile_taus(10**6)
    some = space.quantile_taus(n_taus)
    assert some[0] == 0
    assert len(some) == min(n_taus, len(every))
    assert set(some) <= set(every)
    if n_taus > 1:
        assert some[-1] == every[-1]


def test_some_of_the_samples():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), size=(20, 4))
    some = StagedPredictions.from_proba([proba]).take(np.array([3, 3, 17]))
    assert some.n_samples == 3
    assert_array_equal(some.exit_layers(0.7, 3), exit_layers(proba[[3, 3, 17]], 0.7, 3))


@pytest.mark.parametrize("shape", [(4, 3), (4, 0, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(n_samples, n_layers, n_classes\)"):
        StagedPredictions.from_proba([np.ones(shape)])
