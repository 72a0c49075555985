"""P-values: valid by complete enumeration of small samples, and known values."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from benchmarks.risk_control import hoeffding_bentkus
from sklearn_epee.model_selection._p_values import (
    _variances_before,
    betting,
    binomial,
    smallest_sample,
)

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)
NOTHING = np.empty(0)


def every_sample(rates, n):
    """Yield all samples of n values, with their probabilities."""
    for values in itertools.product(rates, repeat=n):
        yield np.array(values, dtype=float), math.prod(rates[value] for value in values)


def assert_valid(p_value, rates, n):
    """Check that p <= u happens with probability at most u, for some u."""
    found = [(p_value(losses), chance) for losses, chance in every_sample(rates, n)]
    assert sum(chance for _, chance in found) == pytest.approx(1)
    assert all(0 <= p <= 1 for p, _ in found)
    for level in LEVELS:
        assert sum(chance for p, chance in found if p <= level) <= level + 1e-12


@pytest.mark.parametrize("bound", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("excess", [0.0, 0.1])
def test_tests_of_losses_of_zero_and_one_are_valid(bound, excess):
    rates = {0: 1 - bound - excess, 1: bound + excess}
    assert_valid(lambda losses: binomial(losses, bound), rates, 10)
    assert_valid(lambda losses: hoeffding_bentkus(losses, bound), rates, 10)
    for seen in (NOTHING, np.zeros(20), np.array([0.0, 1.0])):
        assert_valid(lambda losses, seen=seen: betting(losses, bound, 0.05, seen), rates, 10)


@pytest.mark.parametrize("bound", [0.02, 0.2])
@pytest.mark.parametrize("disagreement", [0.3, 0.8])
@pytest.mark.parametrize("level", [0.05, 0.5])
def test_tests_of_differences_are_valid(bound, disagreement, level):
    worse = (disagreement + bound) / 2
    rates = {-1: worse - bound, 0: 1 - disagreement, 1: worse}
    for seen in (NOTHING, np.zeros(20), np.array([-1.0, 1.0, 0.0])):
        assert_valid(lambda losses, seen=seen: betting(losses, bound, level, seen), rates, 7)
    assert_valid(lambda losses: hoeffding_bentkus(losses, bound, lowest=-1), rates, 7)


def test_tests_of_graded_losses_are_valid():
    rates = {0.0: 0.5, 0.3: 0.2, 0.6: 0.2, 1.0: 0.1}
    mean = 0.28
    assert_valid(lambda losses: betting(losses, mean, 0.05, NOTHING), rates, 6)
    assert_valid(lambda losses: hoeffding_bentkus(losses, mean), rates, 6)


def sample(n_losses, n=1000):
    losses = np.zeros(n)
    losses[:: n // n_losses][:n_losses] = 1
    return losses


def test_the_binomial_tail():
    expected = binomtest(10, 1000, 0.02, alternative="less").pvalue
    assert binomial(sample(10), 0.02) == pytest.approx(expected)


def test_the_inequality_of_learn_then_test():
    """The smaller one of Hoeffding's and Bentkus' bounds, from their formulas."""
    mean, bound, n = 0.01, 0.02, 1000
    divergence = mean * math.log(mean / bound) + (1 - mean) * math.log((1 - mean) / (1 - bound))
    expected = min(math.exp(-n * divergence), math.e * binom.cdf(10, n, bound))
    assert hoeffding_bentkus(sample(10), bound) == pytest.approx(expected)
    assert hoeffding_bentkus(np.zeros(100), 0.02) == pytest.approx(0.98**100)
    assert hoeffding_bentkus(sample(30), bound) == 1
    assert hoeffding_bentkus(np.ones(50), bound) == 1


def test_rounding_adds_no_loss():
    tenths = np.full(1000, 0.1)  # add up to a little more than 100
    assert hoeffding_bentkus(tenths, 0.13) <= math.e * binom.cdf(100, 1000, 0.13)


def test_differences_are_tested_in_the_unit_interval():
    differences = np.array([-1.0, 0, 0, 1, 0, 0, -1, 0] * 50)
    expected = hoeffding_bentkus((differences + 1) / 2, 0.55)
    assert hoeffding_bentkus(differences, 0.1, lowest=-1) == pytest.approx(expected)


def test_bets_win_against_small_losses_only():
    assert betting(np.zeros(500), 0.02, 0.05, np.zeros(200)) < 0.01
    assert betting(np.ones(500), 0.02, 0.05, np.zeros(200)) == 1
    assert betting(sample(5), 0.02, 0.05, sample(5)) < 0.05
    assert betting(sample(15), 0.02, 0.05, sample(5)) > 0.05


def test_gains_make_up_for_losses_in_differences():
    losses = sample(20)
    gains = np.roll(losses, 7)
    assert betting(losses - gains, 0.02, 0.05, NOTHING) < betting(losses, 0.02, 0.05, NOTHING)


def test_bets_know_what_came_before_alone():
    rng = np.random.default_rng(0)
    losses, seen = rng.random(20), rng.random(5)
    variances = _variances_before(losses, seen)
    assert variances.shape == (20,)
    for t in range(20):
        other = losses.copy()
        other[t:] = 1 - other[t:]
        assert _variances_before(other, seen)[t] == variances[t]
    assert _variances_before(losses, NOTHING)[0] == 0.25


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_the_smallest_sample_that_can_be_enough(bound, level):
    n = smallest_sample(bound, level)
    assert binomial(np.zeros(n), bound) <= level
    assert binomial(np.zeros(n - 1), bound) > level
