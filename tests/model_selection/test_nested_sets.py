"""Prediction sets on arrays: they shrink, and they cover, whoever chooses the exit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from benchmarks.prediction_sets import population, simulate
from sklearn_epee.model_selection._nested_sets import (
    NestedSets,
    conformal_quantile,
    smallest_calibration,
)

from .staged import codes_for, staged_arrays


def learned(proba, codes, coverage=0.8, *, per_class=False, seed=0):
    visited = np.ones(proba.shape[:2], dtype=bool)
    rng = np.random.RandomState(seed)
    return NestedSets.learn(proba, codes, visited, coverage=coverage, per_class=per_class, rng=rng)


@given(staged_arrays(max_samples=30), st.sampled_from([0.1, 0.5, 0.9]), st.booleans())
def test_sets_shrink_and_are_not_empty(proba, coverage, per_class):
    sets = learned(proba, codes_for(proba), coverage, per_class=per_class)
    exact = list(sets.staged(proba, allow_empty=True))
    kept = list(sets.staged(proba, allow_empty=False))
    assert len(exact) == len(kept) == proba.shape[1]
    for before, after in zip([np.ones_like(kept[0]), *kept], kept, strict=False):
        assert (after <= before).all()
        assert after.any(axis=1).all()
    for strict, full in zip(exact, kept, strict=True):
        assert (strict <= full).all()
        several = strict.any(axis=1)
        assert_array_equal(strict[several], full[several])
        assert (full[~several].sum(axis=1) == 1).all()


def test_exits_that_are_not_visited_change_nothing():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), size=(200, 5))
    sets = learned(proba, codes_for(proba))
    exits = rng.integers(1, 6, size=200)
    visited = np.arange(1, 6) <= exits[:, np.newaxis]
    *_, found = sets.staged(np.where(visited[..., np.newaxis], proba, np.nan), allow_empty=False)
    staged = np.stack(list(sets.staged(proba, allow_empty=False)), axis=1)
    assert_array_equal(found, staged[np.arange(200), exits - 1])


def test_the_quantile_has_the_rank_of_split_conformal_prediction():
    scores = np.arange(1.0, 10.0)[::-1]
    assert conformal_quantile(scores, 0.9) == 9  # rank 9 of 9
    assert conformal_quantile(scores, 0.8) == 8
    assert conformal_quantile(scores[1:], 0.9) == np.inf
    assert conformal_quantile(np.array([]), 0.5) == np.inf
    assert [smallest_calibration(coverage) for coverage in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_the_smallest_calibration_is_the_smallest(coverage):
    needed = smallest_calibration(coverage)
    assert np.isfinite(conformal_quantile(np.ones(needed), coverage))
    assert np.isinf(conformal_quantile(np.ones(needed - 1), coverage))


def test_a_class_without_samples_is_in_all_sets():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), size=(100, 4))
    codes = rng.integers(2, size=100)
    sets = learned(proba, codes, per_class=True)
    assert_array_equal(np.isinf(sets.limits), [False, False, True])
    assert sets.n_samples[2] == 0
    *_, last = sets.staged(proba, allow_empty=True)
    assert last[:, 2].all()


@pytest.mark.parametrize("kind", ["any_policy", "policy"])
@pytest.mark.parametrize("per_class", [False, True])
def test_the_true_class_is_covered_in_simulations(kind, per_class):
    proba, codes = population("usual", n_samples=4000)
    found = simulate(proba, codes, 300, 150, valid_for=kind, per_class=per_class)
    error = 3 * found.spread / np.sqrt(150)
    assert found.missed <= 0.1 + error
    if per_class:
        assert found.worst_class <= 0.1 + 3 * 0.04 / np.sqrt(150)
