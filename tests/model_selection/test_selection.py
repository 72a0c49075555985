"""Which policies are offered, the Pareto front against brute force, and the choice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.metrics import accuracy_score

from sklearn_epee._exits.policy_scores import EXACT_SCORES
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import PolicyGrid, concatenate, pareto_front, policy_tables
from sklearn_epee.metrics import speedup_ratio
from sklearn_epee.model_selection._selection import SelectionCriterion
from sklearn_epee.policy import apply_policy

from .staged import codes_for, staged_arrays

no_deadline = settings(deadline=None)


def tables_of(proba, policies="all", weights=None, score="accuracy"):
    staged = StagedPredictions.from_proba([proba])
    codes = codes_for(proba)
    offered = PolicyGrid.from_parameter(policies, staged.n_layers)
    exact = EXACT_SCORES[score](staged, codes[:, np.newaxis], weights)
    return list(policy_tables(PolicySpace(staged), exact, offered, weights))


def not_dominated(points):
    """Give the distinct points that no other one matches in both and beats in one."""
    return {
        (a, b)
        for a, b in points
        if not any(c >= a and d >= b and (c > a or d > b) for c, d in points)
    }


# --------------------------------------------------------------------------- tables


@given(staged_arrays())
@no_deadline
def test_tables_agree_with_the_policy_on_arrays(proba):
    codes = codes_for(proba)
    table = concatenate(tables_of(proba))
    for tau, patience, first, _, _, score, speedup in zip(*table.values(), strict=True):
        result = apply_policy(proba, tau, patience, min_exit_layer=first)
        assert score == accuracy_score(codes, result.prediction)
        assert speedup == pytest.approx(speedup_ratio(result.exit_layer, proba.shape[1]))


def test_weights_count_in_score_and_speedup():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), size=(30, 4))
    weights = np.random.default_rng(1).random(30)
    table = concatenate(tables_of(proba, weights=weights))
    for tau, patience, first, _, _, score, speedup in list(zip(*table.values(), strict=True))[::7]:
        result = apply_policy(proba, tau, patience, min_exit_layer=first)
        hits = result.prediction == codes_for(proba)
        assert score == pytest.approx(np.average(hits, weights=weights))
        expected = speedup_ratio(result.exit_layer, 4, sample_weight=weights)
        assert speedup == pytest.approx(expected)


PROBA = np.random.default_rng(0).dirichlet(np.ones(3), size=(40, 4))


def test_tables_hold_the_offered_policies():
    every = concatenate(tables_of(PROBA))
    assert set(every["patience"]) == {1, 2, 3, 4}
    some = concatenate(tables_of(PROBA, 7))
    assert np.bincount(some["patience"]).tolist() == [0, 7, 7, 7, 7]
    grid = {"tau": [0.9, 0.1, 0.9], "patience": [9, 2, None]}
    table = concatenate(tables_of(PROBA, grid))
    assert_array_equal(table["tau"], [0.1, 0.9, 0.1, 0.9])
    assert_array_equal(table["patience"], [2, 2, 4, 4])
    only_entropy = concatenate(tables_of(PROBA, {"patience": [4]}))
    assert_array_equal(only_entropy["tau"], every["tau"][every["patience"] == 4])
    assert len(concatenate(tables_of(PROBA, {"tau": 3}))["tau"]) == 12


@pytest.mark.parametrize(
    ("policies", "error", "message"),
    [
        (
            {"taus": [0.1]},
            ValueError,
            r"keys tau, patience, min_exit_layer, n_layers, joint_exit; got \['taus'\]",
        ),
        ({"tau": "some"}, ValueError, r"policies\['tau'\] must be 'all'"),
        ({"tau": []}, ValueError, r"policies\['tau'\] must be 'all'"),
        ({"tau": 0}, ValueError, r"policies\['tau'\] must be 'all'"),
        ({"tau": [-0.1]}, ValueError, "tau must be a real number"),
        ({"tau": [np.nan]}, ValueError, "tau must be a real number"),
        ({"patience": 3}, ValueError, r"policies\['patience'\] must be 'all'"),
        ({"patience": "most"}, ValueError, r"policies\['patience'\] must be 'all'"),
        ({"patience": [0]}, ValueError, "patience must be an integer >= 1"),
        ({"patience": [1.5]}, TypeError, "patience must be an integer"),
    ],
)
def test_policies_that_cannot_be_offered(policies, error, message):
    with pytest.raises(error, match=message):
        PolicyGrid.from_parameter(policies, 4)


# --------------------------------------------------------------------------- the front


@given(staged_arrays(), st.sampled_from(["accuracy", "balanced_accuracy", "f1_macro"]))
@no_deadline
def test_the_front_equals_brute_force(proba, score):
    tables = tables_of(proba, score=score)
    table = concatenate(tables)
    rounded = [np.round(table[name], 12) for name in ("speedup", "score")]
    expected = not_dominated(set(zip(*rounded, strict=True)))
    front = pareto_front(tables)
    found = list(zip(np.round(front["speedup"], 12), np.round(front["score"], 12), strict=True))
    assert found == sorted(expected)
    for tau, patience, speedup in zip(
        front["tau"], front["patience"], front["speedup"], strict=True
    ):
        exits = apply_policy(proba, tau, patience).exit_layer
        assert speedup == pytest.approx(speedup_ratio(exits, proba.shape[1]))


def table(tau, patience, score, speedup):
    columns = {"tau": tau, "patience": patience, "score": score, "speedup": speedup}
    return {name: np.array(values) for name, values in columns.items()}


def test_of_equal_policies_the_most_cautious_is_on_the_front():
    tied = table([0.3, 0.1, 0.2, 0.4], [2, 2, 3, 3], [0.9] * 4, [0.5, 0.5, 0.5, 0.5 - 1e-15])
    front = pareto_front([tied])
    assert (front["tau"].tolist(), front["patience"].tolist()) == ([0.2], [3])
    halves = [{name: column[rows] for name, column in tied.items()} for rows in ([0, 1], [2, 3])]
    assert pareto_front(halves)["tau"] == [0.2]


def test_scores_that_are_nan_are_on_no_front():
    front = pareto_front([table([0.1, 0.2], [2, 2], [np.nan, 0.5], [0.9, 0.1])])
    assert front["tau"] == [0.2]


# --------------------------------------------------------------------------- the choice

TRADEOFF = table(
    [0.0, 0.1, 0.2, 0.3, 0.4], [4] * 5, [0.90, 0.93, 0.92, 0.85, 0.70], [0, 0.3, 0.5, 0.6, 0.75]
)


def chosen(objective, **wishes):
    return SelectionCriterion(objective, **wishes).choose(TRADEOFF, full_depth=0.9, n_layers=4)[
        "tau"
    ]


@pytest.mark.parametrize(
    ("least", "tau"), [(None, 0.1), (0, 0.1), (0.3, 0.1), (0.31, 0.2), (0.6, 0.3), (0.75, 0.4)]
)
def test_the_best_score_that_is_fast_enough(least, tau):
    assert chosen("max_score", min_speedup=least) == tau


@pytest.mark.parametrize(("drop", "tau"), [(0, 0.2), (0.04, 0.2), (0.05, 0.3), (0.2, 0.4)])
def test_the_fastest_that_is_good_enough(drop, tau):
    assert chosen("max_speedup", max_drop=drop) == tau


def test_the_score_and_the_speed_are_bounded_together():
    assert chosen("max_score", min_speedup=0.4, max_drop=0.1) == 0.2
    assert chosen("max_speedup", min_speedup=0.4, max_drop=0.1) == 0.3


def test_a_callable_sees_the_policies_that_meet_the_wishes():
    seen = {}

    def slowest(policies):
        seen.update(policies)
        return np.int64(policies["speedup"].argmin())

    assert chosen(slowest, min_speedup=0.4, max_drop=0.05) == 0.2
    assert_array_equal(seen["tau"], [0.2, 0.3])
    assert_array_equal(sorted(seen), ["patience", "score", "speedup", "tau"])


@pytest.mark.parametrize("row", [-1, 5, 1.0, True, None, "0"])
def test_a_callable_that_gives_no_row(row):
    with pytest.raises(ValueError, match="one of the 5 policies in its table, an integer from 0"):
        chosen(lambda _: row)


def test_wishes_that_cannot_be_met():
    with pytest.raises(
        ValueError,
        match=r"min_speedup=0.8 cannot be reached: with 4 layers the speed-up ratio lies between 0 "
        r"and 1 - 1/4 = 0.7500, and the fastest policy to choose from has 0.7500",
    ):
        chosen("max_score", min_speedup=0.8)
    with pytest.raises(
        ValueError,
        match=r"max_accuracy_drop=0.01 cannot be met: the best score of the policies with a "
        r"speed-up ratio of at least min_speedup=0.6 is 0.8500, 0.0500 below full depth \(0.9000\)",
    ):
        chosen("max_speedup", min_speedup=0.6, max_drop=0.01)
    bad = SelectionCriterion("max_speedup", max_drop=0.01)
    with pytest.raises(ValueError, match="of the policies to choose from is"):
        bad.choose(TRADEOFF, full_depth=0.99, n_layers=4)
    nothing = table([0.1], [2], [np.nan], [0.1])
    with pytest.raises(ValueError, match="all are NaN"):
        SelectionCriterion("max_score", min_speedup=0.0).choose(nothing, np.nan, 4)
    with pytest.raises(ValueError, match="all are NaN"):
        SelectionCriterion("max_score").choose(nothing, np.nan, 4)
