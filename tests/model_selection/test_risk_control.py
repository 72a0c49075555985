"""Guarantees: losses, groups, fixed sequences, and the promise in simulations."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import binom

from benchmarks.risk_control import (
    CONFIDENCE,
    P_VALUES,
    Promise,
    graded_error,
    simulate,
    staged_population,
)
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.tables import PolicyGrid
from sklearn_epee.model_selection._risk_control import (
    CANDIDATE_SHARE,
    N_CAUTIOUS,
    Groups,
    RiskControl,
    split_rows,
)
from sklearn_epee.model_selection._risks import check_risk, risk_of

LEVEL = 1 - CONFIDENCE
N_DRAWS = 300


@pytest.fixture(scope="module")
def population():
    return staged_population(n_samples=8000)


# --------------------------------------------------------------------------- losses

PREDICTIONS = np.array([[0, 1, 1], [1, 1, 1], [2, 2, 0], [1, 2, 2]])
CODES = np.array([1, 1, 2, 0])
CLASSES = np.array(["a", "b", "c"])


def losses_of(risk):
    return risk_of(risk, PREDICTIONS[..., np.newaxis], CODES[:, np.newaxis], Tasks(CLASSES))


def test_named_risks_have_the_losses_of_their_definitions():
    assert_array_equal(losses_of("error").losses, [[1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]])
    differs = [[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert_array_equal(losses_of("disagreement").losses, differs)
    drop = losses_of("accuracy_drop")
    assert_array_equal(drop.losses, [[1, 0, 0], [0, 0, 0], [-1, -1, 0], [0, 0, 0]])
    for risk in (drop, losses_of("disagreement")):
        assert risk.is_relative
        assert not risk.losses[:, -1].any()
    miss = losses_of(("miss", "b"))
    assert_array_equal(miss.concerned, [True, True, False, False])
    assert_array_equal(miss.losses[miss.concerned], [[1, 0, 0], [0, 0, 0]])


def test_a_callable_gets_labels():
    def risk(y, answers, at_full_depth):
        assert_array_equal(y, ["b", "b", "c", "a"])
        assert_array_equal(at_full_depth, ["b", "b", "a", "c"])
        return 0.5 * (answers == "c")

    expected = 0.5 * np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1]])
    assert_array_equal(losses_of(risk).losses, expected)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (np.full(4, -0.1), "between 0 and 1; got values from -0.1"),
        (np.full(4, 1.1), "between 0 and 1"),
        (np.full(4, np.nan), "between 0 and 1"),
        (np.zeros(3), r"4 numbers, one loss a sample; got an array of shape \(3,\)"),
        (0.5, "4 numbers"),
        (["a"] * 4, "4 numbers"),
    ],
)
def test_callables_that_give_no_losses(losses, message):
    with pytest.raises(ValueError, match=message):
        losses_of(lambda *_: losses)


def test_a_class_that_is_not_there():
    with pytest.raises(ValueError, match=r"\('miss', 'd'\) names no class; there are \['a', 'b'"):
        losses_of(("miss", "d"))


@pytest.mark.parametrize("risk", ["errors", ("miss",), ("hit", "a"), 3, None])
def test_risks_that_do_not_exist(risk):
    with pytest.raises(ValueError, match="risk must be 'accuracy_drop', 'disagreement'"):
        check_risk(risk)


# --------------------------------------------------------------------------- parts and groups


def test_parts_of_groups():
    labels = np.repeat(["a", "b", "c"], [100, 10, 1000])
    concerned = labels != "c"
    groups = Groups.from_labels(labels, concerned)
    assert groups.names == ["a", "b", "c"]
    assert [member.sum() for member in groups.members] == [100, 10, 0]
    parts = split_rows(groups, np.random.RandomState(0))
    assert_array_equal(np.sort(np.concatenate([parts.seen, parts.tested])), np.arange(1110))
    for label, size in (("a", 100), ("b", 10), ("c", 1000)):
        assert (labels[parts.seen] == label).sum() == round(CANDIDATE_SHARE * size)
    assert (np.diff(parts.tested) < 0).any()  # in random order


def certify(promise, *, p_value="auto", policies="all", seed=0, confidence=CONFIDENCE):
    control = RiskControl(promise.bound, confidence, P_VALUES[p_value])
    offered = PolicyGrid.from_parameter(policies, promise.staged.n_layers)
    rng = np.random.RandomState(seed)
    return control.certify(promise.staged, promise.risk, promise.groups, offered, rng)


def test_candidates_go_from_the_surest_to_the_fastest(population):
    promise = Promise.on(*population, "accuracy_drop", 0.01)
    control = RiskControl(0.01, 0.95)
    offered = PolicyGrid.from_parameter("all", promise.staged.n_layers)
    front = control.find_candidates(promise.staged, promise.risk.losses, promise.groups, offered)
    assert (np.diff(front["speedup"]) > 0).all()
    as_sure = front["evidence"] == front["evidence"][0]  # slower ones, and the first of the front
    assert as_sure.sum() > 5
    assert (np.diff(front["evidence"][~as_sure]) < 0).all()
    assert as_sure[: as_sure.sum()].all()
    assert 50 < len(front["tau"]) <= 100 + N_CAUTIOUS


def test_few_samples_without_a_loss_do_not_leave_the_fastest_policy_alone(population):
    promise = Promise.on(*population, "accuracy_drop", 0.01)
    found = simulate(promise, 500, 40)
    assert found.certified == 1.0  # about half of them with the front alone
    assert found.violations <= 0.05


def test_a_sequence_ends_at_the_first_policy_that_may_be_too_risky(population):
    found = certify(Promise.on(*population, "disagreement", 0.05)).candidates
    rejected = found["p_value"] <= LEVEL
    assert rejected.any()
    assert not rejected.all()
    first = int(rejected.argmin())
    assert found["certified"][:first].all()
    assert not found["certified"][first:].any()


def test_what_is_tested_was_not_seen(population):
    promise = Promise.on(*population, "error", 0.12)
    found = certify(promise)
    assert len(found.tested) == 8000 - round(CANDIDATE_SHARE * 8000)
    losses = promise.risk.losses[found.tested]
    for i in (0, 10, -1):
        tau, patience = found.candidates["tau"][i], found.candidates["patience"][i]
        exits = promise.staged.take(found.tested).exit_layers(tau, patience)
        risk = losses[np.arange(len(exits)), exits - 1].mean()
        assert found.candidates["risk"][i] == pytest.approx(risk)
        assert found.candidates["p_value"][i] == binom.cdf(
            round(risk * len(exits)), len(exits), 0.12
        )
        assert found.candidates["speedup"][i] == pytest.approx(1 - exits.mean() / 6)


def test_the_worst_group_decides(population):
    promise = Promise.on(*population, "disagreement", 0.05, per_class=True)
    found = certify(promise)
    assert found.group_names == [0, 1, 2, 3]
    assert found.group_risks.shape == (len(found.candidates["risk"]), 4)
    assert_array_equal(found.candidates["risk"], found.group_risks.max(axis=1))
    last = np.flatnonzero(found.candidates["certified"])[-1]
    assert (found.group_risks[last] < 0.05).all()
    alone = certify(Promise.on(*population, "disagreement", 0.05))
    assert (
        alone.candidates["speedup"][alone.candidates["certified"]].max()
        > (found.candidates["speedup"][last])
    )


def test_a_group_without_samples_is_not_certified(population):
    promise = Promise.on(*population, ("miss", 1), 0.9)
    nobody = np.zeros(8000, dtype=bool)
    promise = replace(promise, groups=Groups(None, [nobody]))
    found = certify(promise)
    assert (found.candidates["p_value"] == 1).all()
    assert not found.candidates["certified"].any()


def test_full_depth_needs_no_test_of_a_relative_risk(population):
    for risk, is_there in (("disagreement", False), ("accuracy_drop", False)):
        speedups = certify(Promise.on(*population, risk, 0.05)).candidates["speedup"]
        assert (speedups == 0).any() == is_there


def test_full_depth_may_be_certified_to_err_seldom(population):
    grid = {"tau": [0.0], "patience": [6]}
    found = certify(Promise.on(*population, "error", 0.2), policies=grid).candidates
    assert found["speedup"].tolist() == [0]
    assert found["certified"].tolist() == [True]


def test_one_layer_leaves_nothing_to_certify():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), size=(50, 1))
    promise = Promise.on(proba, proba[:, 0].argmax(axis=1), "disagreement", 0.1)
    found = certify(promise)
    assert len(found.candidates["tau"]) == 0
    message = RiskControl(0.1, 0.95).explain_failure(found, promise.risk)
    assert "No policy that exits early was found" in message


# --------------------------------------------------------------------------- the promise

SIMULATED = {
    "accuracy drop": ("accuracy_drop", 0.02, {}, 1500, 0.12),
    "disagreement": ("disagreement", 0.05, {}, 1000, 0.08),
    "error": ("error", 0.13, {}, 1500, 0.25),
    "miss": (("miss", 3), 0.4, {}, 1000, 0.1),
    "graded": (graded_error, 0.09, {}, 1500, 0.15),
    "per class": ("disagreement", 0.08, {"per_class": True}, 1500, 0.15),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATED)
def test_the_promise_is_kept_and_costs_little(name, population):
    risk, bound, options, n_samples, lost = SIMULATED[name]
    promise = Promise.on(*population, risk, bound, **options)
    outcome = simulate(promise, n_samples, N_DRAWS)
    # Of promises broken with probability 0.05, fewer than one set in ten thousand exceeds this.
    assert outcome.violations <= binom.ppf(0.9999, N_DRAWS, LEVEL) / N_DRAWS
    assert outcome.oracle - outcome.speedup < lost


@pytest.mark.parametrize("p_value", P_VALUES)
@pytest.mark.parametrize("risk", ["error", "disagreement", "accuracy_drop"])
def test_a_policy_that_is_a_little_too_risky_is_seldom_certified(p_value, risk, population):
    """The hardest case: one policy, whose risk is just above the bound."""
    grid = {"tau": [0.3], "patience": [6]}
    offered = PolicyGrid.from_parameter(grid, 6)
    promise = Promise.on(*population, risk, 0.5)
    true_risk = promise.true_risk(promise.staged.exit_layers(0.3, 6))
    control = RiskControl(true_risk - 1e-9, 0.9, P_VALUES[p_value])
    rng = np.random.RandomState(0)
    n_draws, n_certified = 400, 0
    for _ in range(n_draws):
        rows = rng.randint(8000, size=400)
        drawn = replace(promise.risk, losses=promise.risk.losses[rows])
        staged = promise.staged.take(rows)
        found = control.certify(staged, drawn, promise.groups.take(rows), offered, rng)
        n_certified += bool(found.candidates["certified"].any())
    assert n_certified <= binom.ppf(0.9999, n_draws, 0.1)
    if p_value == "auto" and risk != "accuracy_drop":  # exact, so nearly all of it is used
        assert n_certified >= binom.ppf(0.0001, n_draws, 0.05)


def test_the_same_seed_gives_the_same_tests(population):
    promise = Promise.on(*population, "accuracy_drop", 0.01)
    one, two, other = (certify(promise, seed=seed) for seed in (0, 0, 1))
    assert_array_equal(one.candidates["p_value"], two.candidates["p_value"])
    assert one.tested.tolist() != other.tested.tolist()


def test_answers_carry_the_ensemble(population):
    proba, codes = population
    staged = StagedPredictions.from_proba([proba], exit_ensemble="mean")
    codes_of_tasks = codes[:, np.newaxis]
    losses = risk_of("disagreement", staged.predictions, codes_of_tasks, Tasks(np.arange(4))).losses
    assert not losses[:, -1].any()
    assert (losses != Promise.on(proba, codes, "disagreement", 0.1).risk.losses).any()
