"""Samples that lack some exits: the rule, sweeps and speed-ups against loops over their own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.missing_exits import exit_shares, nearest_exits
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee.policy import apply_policy, exit_layers, normalized_entropy

N, M, K = 60, 5, 3
COSTS = np.array([0.05, 0.1, 0.5, 0.75, 1.0])


@pytest.fixture
def proba():
    """Staged probabilities: a third of the samples without exits 1, 2, a third without 3 to 5."""
    drawn = np.random.default_rng(0).dirichlet([0.4] * K, size=(N, M))
    drawn[: N // 3, :2] = np.nan
    drawn[N // 3 : 2 * N // 3, 2:] = np.nan
    return drawn


def available_exits(sample):
    return [m for m in range(1, M + 1) if not np.isnan(sample[m - 1]).any()]


def exit_by_loop(sample, tau, patience):
    """The rule as the documentation has it: exits that a sample does not have are not there."""
    before, agreeing = None, 0
    for m in available_exits(sample):
        predicted = sample[m - 1].argmax()
        agreeing = agreeing + 1 if predicted == before else 1
        before = predicted
        if normalized_entropy(sample[m - 1]) < tau or agreeing >= patience:
            break
    return m


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.6, 2.0])
@pytest.mark.parametrize("patience", [1, 2, 3, M])
def test_a_sample_exits_at_one_of_its_own(proba, tau, patience):
    expected = [exit_by_loop(sample, tau, patience) for sample in proba]
    assert_array_equal(exit_layers(proba, tau, patience), expected)


@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
def test_ensembles_are_over_the_visited_exits_that_there_are(proba, ensemble):
    found = apply_policy(proba, 0.3, 3, ensemble)
    for sample, m, predicted in zip(proba, found.exit_layer, found.proba, strict=True):
        visited = [e for e in available_exits(sample) if e <= m] if ensemble else [m]
        weights = visited if ensemble == "weighted" else np.ones(len(visited))
        rows = sample[np.array(visited) - 1]
        assert_allclose(predicted, np.average(rows, axis=0, weights=weights))
    assert np.isfinite(found.entropy).all()


def test_several_tasks_lack_the_same_exits(proba):
    other = proba[..., :2] / proba[..., :2].sum(axis=2, keepdims=True)
    joint = exit_layers([proba, other], 0.5, 2, joint_exit="any")
    both = [exit_layers(task, 0.5, 2) for task in (proba, other)]
    assert_array_equal(joint, np.minimum(*both))
    with pytest.raises(ValueError, match="in some tasks only"):
        exit_layers([proba, np.nan_to_num(other, nan=0.5)], 0.5)


def test_no_exit_and_half_an_exit_are_refused(proba):
    none = proba.copy()
    none[4] = np.nan
    with pytest.raises(ValueError, match=r"proba\[4\] is NaN at every exit"):
        exit_layers(none, 0.5)
    half = proba.copy()
    half[-1, 1, 0] = np.nan
    with pytest.raises(ValueError, match="between 0 and 1"):
        exit_layers(half, 0.5)


def test_the_nearest_exit_is_the_last_one_before_and_else_the_first():
    own = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], dtype=bool)
    assert_array_equal(nearest_exits(own), [[3, 3, 3, 4], [1, 2, 2, 2], [2, 2, 2, 4]])


@pytest.mark.parametrize("patience", [1, 2, M])
@pytest.mark.parametrize("costs", [None, COSTS])
def test_a_sweep_knows_every_threshold(proba, patience, costs):
    staged = StagedPredictions.from_proba([proba]).with_costs(costs)
    space = PolicySpace(staged)
    sweep = space.sweep(patience)
    speedups = space.speedups(sweep)
    for tau, exits, speedup in zip(sweep.taus, sweep.exit_layers(), speedups, strict=True):
        assert_array_equal(exits, [exit_by_loop(sample, tau, patience) for sample in proba])
        assert speedup == pytest.approx(staged.speedup(exits))
    assert np.isfinite(sweep.taus).all()


def test_speedups_are_shares_of_the_work_that_a_sample_has(proba):
    staged = StagedPredictions.from_proba([proba[[0, N // 3, N - 1]]]).with_costs(COSTS)
    full = staged.exit_layers(0.0, M)
    assert_array_equal(full, [5, 2, 5])
    assert staged.speedup(full) == 0
    # Without exits 1 and 2 there is 0.9 of the work, of which exit 3 takes 0.4; the second sample
    # has 0.1 of it, half of which exit 1 takes.
    assert staged.speedup(np.array([3, 1, 1])) == pytest.approx(
        1 - np.mean([0.4 / 0.9, 0.05 / 0.1, 0.05])
    )


def test_parts_with_and_without_lacking_exits_are_joined(proba):
    whole = StagedPredictions.from_proba([proba])
    parts = [
        StagedPredictions.from_proba([part]) for part in (proba[: 2 * N // 3], proba[2 * N // 3 :])
    ]
    joined = StagedPredictions.concatenate(parts)
    assert parts[1].own is None
    assert_array_equal(joined.exit_layers(0.3, 3), whole.exit_layers(0.3, 3))
    rows = np.arange(0, N, 7)
    assert_array_equal(whole.take(rows).exit_layers(0.3, 3), whole.exit_layers(0.3, 3)[rows])


def test_sets_of_labels_are_counted_over_the_exits_that_there_are(proba):
    labels = exit_layers(proba, 0.0, 2, multilabel=True)
    for sample, found in zip(proba, labels, strict=True):
        own = available_exits(sample)
        alone = exit_layers(sample[np.array(own) - 1][np.newaxis], 0.0, 2, multilabel=True)
        assert found == own[alone[0] - 1]


def shares_by_loop(own, costs, towers):
    """What runs, exit by exit, of all layers of the towers of which a sample has any."""
    steps = np.diff(costs, prepend=0)
    taken = whole = 0.0
    shares = []
    ends = np.cumsum(towers)
    for start, end in zip(ends - towers, ends, strict=True):
        if any(own[start:end]):
            whole += sum(steps[start:end])
    for step, there in zip(steps, own, strict=True):
        taken += step if there else 0
        shares.append(taken / whole)
    return shares


@pytest.mark.parametrize("costs", [COSTS, np.arange(1, M + 1) / M])
def test_skipped_exits_are_saved_work_and_missing_towers_are_none(costs):
    own = np.array([
        [1, 1, 1, 1, 1],
        [1, 0, 0, 1, 1],  # two exits of the first tower are skipped
        [0, 0, 0, 1, 1],  # it is missing
        [1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0],
    ], dtype=bool)  # fmt: skip
    found = exit_shares(own, costs, (3, 2))
    for row, shares in zip(own, found, strict=True):
        assert_allclose(shares, shares_by_loop(row, costs, np.array([3, 2])))
    assert_array_equal(found[[0, 2, 3], -1], 1)
    assert (found[[1, 4], -1] < 1).all()
    # Without towers what is lacking is missing.
    assert_array_equal(exit_shares(own, costs)[:, -1], 1)


def test_shares_are_those_of_each_part(proba):
    own = ~np.isnan(proba).any(axis=2)
    parts = [
        StagedPredictions.from_proba([proba[:40]]).with_costs(COSTS, (2, 3)),
        StagedPredictions.from_proba([proba[40:]]).with_costs(),
        StagedPredictions.from_proba([np.full((3, M, K), 1 / K)]),
    ]
    joined = StagedPredictions.concatenate(parts)
    assert_allclose(joined.exit_shares[:40], exit_shares(own[:40], COSTS, (2, 3)))
    assert_allclose(joined.exit_shares[40:N], exit_shares(own[40:]))
    assert_allclose(joined.exit_shares[N:], np.tile(np.arange(1, M + 1) / M, (3, 1)))
    assert_allclose(joined.take(np.array([3, 50])).exit_shares, joined.exit_shares[[3, 50]])
