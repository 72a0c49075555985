"""Bets that are fair, intervals that hold at once, p-values that are uniform."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from benchmarks.monitoring import (
    LEVEL,
    constant,
    jump,
    tighten,
    wandering,
    watch_exits,
    watch_rates,
)
from sklearn_epee.monitoring._confidence import log_capital, rate_interval
from sklearn_epee.monitoring._conformal import N_ENTROPY_CELLS, conformal_p, entropy_cells
from sklearn_epee.monitoring._evidence import (
    Evidence,
    rate_bets,
    reserve,
    uniform_factors,
)
from sklearn_epee.monitoring._recent import Recent, fewest_trials, first_kept, most_allowed

rates = st.floats(0.001, 0.9)


@given(rates)
def test_bets_on_losses_are_fair_and_lose_no_more_than_they_have(rate):
    stakes = rate_bets(rate)
    if_lost, if_not = 1 + stakes * (1 - rate), 1 - stakes * rate
    assert (if_not > 0).all()
    assert (if_lost > 1).all()
    np.testing.assert_allclose(rate * if_lost + (1 - rate) * if_not, 1)


def test_bets_on_p_values_are_fair():
    p = (np.arange(10_000) + 0.5) / 10_000
    factors = uniform_factors(p)
    assert (uniform_factors(np.array([0.0, 0.5, 1.0])) > 0).all()
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=1e-6)


def test_no_capital_comes_from_nowhere():
    evidence = Evidence.start((3, 4))
    for _ in range(500):
        np.testing.assert_allclose(evidence.now, 1)
        evidence = evidence.after(np.ones((3, 4)))
    assert 0 < reserve(500) < reserve(0) == 0.5


def test_evidence_does_not_have_to_win_back_what_it_lost():
    evidence = Evidence.start((2,))
    for _ in range(2000):
        evidence = evidence.after(np.array([0.9, 0.5]))
    assert evidence.now > 0.1
    for _ in range(60):
        evidence = evidence.after(np.array([1.3, 1.2]))
    assert evidence.now > 100
    assert evidence.largest == evidence.now
    assert Evidence.from_dict(evidence.to_dict()).after(np.ones(2)).now == pytest.approx(
        evidence.now, rel=1e-3
    )


@settings(max_examples=20)
@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_hold_the_mean_and_end_where_the_capital_does(n, share, confidence):
    happened = np.array(float(round(share * n)))
    low, high = rate_interval(n, happened, confidence)
    assert 0 <= low <= happened / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            capital = log_capital(n, happened, np.array(end))
            assert capital == pytest.approx(-np.log1p(-confidence), abs=1e-4)


def test_intervals_shrink():
    widths = [
        np.subtract(*rate_interval(n, np.array(n / 20), 0.95)[::-1])
        for n in (100, 1000, 10_000, 1_000_000)
    ]
    assert rate_interval(0, np.array(0.0), 0.95) == (0, 1)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] < 0.25
    assert widths[1] < 0.06
    assert widths[3] < 0.003


def test_conformal_p_values_are_uniform_and_independent():
    rng = np.random.default_rng(0)
    cells = entropy_cells(rng.beta(1, 20, size=(400, 40)))
    counts = np.zeros((400, N_ENTROPY_CELLS), dtype=np.int64)
    p = []
    for column in cells.T:
        p.append(conformal_p(counts, column, rng.random(400)))
        counts[np.arange(400), column] += 1
    p = np.array(p)
    assert abs(p.mean() - 0.5) < 0.02
    assert abs((p < 0.1).mean() - 0.1) < 0.02
    assert abs(np.corrcoef(p[:-1].ravel(), p[1:].ravel())[0, 1]) < 0.04


def test_small_p_values_are_of_high_cells():
    counts = np.array([5, 3, 2])
    lowest, highest = (conformal_p(counts, np.array(cell), np.array(0.5)) for cell in (0, 2))
    assert lowest == pytest.approx((5 + 0.5 * 6) / 11)
    assert highest == pytest.approx(0.5 * 3 / 11)
    assert (entropy_cells(np.array([0.0, 1.0])) == [0, N_ENTROPY_CELLS - 1]).all()


# ------------------------------------------------------------------------------ recent samples


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_recent_trials_are_counted_and_kept(size, n, seed):
    happened = np.random.default_rng(seed).random((n, 3)) < 0.5
    recent = Recent(size, (3,))
    for trial in happened:
        recent.add(trial)
    np.testing.assert_array_equal(recent.counts, happened[-size:].sum(axis=0) if n else 0)
    again = Recent.from_hex(recent.to_hex(), size, (3,))
    for trial in np.eye(3, dtype=bool):
        recent.add(trial)
        again.add(trial)
        np.testing.assert_array_equal(again.counts, recent.counts)


@given(st.integers(1, 3000), rates, st.sampled_from([0.8, 0.95, 0.99]))
def test_as_many_are_allowed_as_clopper_and_pearson_allow(n, rate, confidence):
    allowed = most_allowed(n, rate, confidence)
    upper = beta.ppf(confidence, np.arange(n) + 1, n - np.arange(n))
    assert allowed == (upper <= rate).sum() - 1
    assert (allowed >= 0) == (n >= fewest_trials(rate, confidence))


def test_stricter_policies_have_to_be_within_it_too():
    counts = np.array([[1, 1, 0], [3, 1, 0], [1, 3, 0], [3, 3, 0], [0, 0, 9]])
    np.testing.assert_array_equal(first_kept(counts, 2), [0, 1, 2, 2, 0])
    assert first_kept(np.array([9]), 2) == 0


# ---------------------------------------------------------------------------------- simulated


@pytest.mark.parametrize("stream", [constant(0.05), wandering(0.05)], ids=["constant", "wandering"])
def test_false_alarms_and_intervals(stream):
    found = watch_rates(stream[:2000], 0.05, 200)
    assert found.false <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 200)
    assert found.outside <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 200)


def test_broken_promises_are_noticed():
    found = watch_rates(jump(0.025, 0.2)[:2500], 0.05, 100)
    assert found.missed == 0
    assert found.delay < 150


@pytest.mark.parametrize("kind", ["harder", "catastrophic"])
def test_tau_is_tightened_before_a_slow_change_breaks_the_promise(kind):
    found = tighten(kind, 0.05, 60, slowly=4000)
    assert found.largest < 0.05 < found.untightened
    assert found.above < 0.1


def test_a_sudden_change_is_answered():
    found = tighten("harder", 0.05, 60)
    assert found.at_the_end < 0.05 < found.untightened


@pytest.mark.slow
def test_drift_of_exits_is_noticed():
    found = watch_exits("harder", 2000, 40)
    assert found.missed < 0.5
    assert found.false < 0.2
