"""Scores as sums, and resamples of them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from studies.bootstrap import Score, draws, interval, quotient, seed_means


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    return rng.integers(0, 4, 60), rng.integers(0, 4, 60)


def test_accuracy_and_micro_f1_are_those_of_scikit_learn(codes):
    y, predicted = codes
    assert Score()(predicted, y) == pytest.approx(accuracy_score(y, predicted))
    expected = f1_score(y, predicted, labels=[0, 1, 3], average="micro")
    assert Score(2)(predicted, y) == pytest.approx(expected)
    assert (Score().name, Score(2).name) == ("accuracy", "micro_f1")


def test_micro_f1_of_negative_predictions_alone_is_zero():
    y = np.array([2, 2, 0])
    assert Score(2)(np.array([2, 2, 2]), y) == 0
    assert Score(2)(y[:2], y[:2]) == 0  # nothing to find, nothing found


@pytest.mark.parametrize("score", [Score(), Score(2)])
def test_a_weighted_score_is_that_of_repeated_samples(codes, score):
    y, predicted = codes
    weights = draws(len(y), 3, 0)
    above, below = score.counts(predicted, y)
    for counts, found in zip(weights, quotient(weights @ above, weights @ below), strict=True):
        rows = np.repeat(np.arange(len(y)), counts.astype(int))
        assert found == pytest.approx(score(predicted[rows], y[rows]))


def test_resamples_are_as_large_as_the_sample_and_the_same_each_time():
    found = draws(40, 5, seed=1)
    assert found.shape == (6, 40)
    np.testing.assert_array_equal(found[0], 1)
    np.testing.assert_array_equal(found.sum(axis=1), 40)
    np.testing.assert_array_equal(found, draws(40, 5, seed=1))
    assert (found != draws(40, 5, seed=2)).any()


def test_networks_count_once_in_the_estimate_and_are_drawn_in_resamples():
    values = [np.zeros(200), np.ones(200)]
    found = seed_means(values, seed=0)
    assert found[0] == 0.5
    assert set(found[1:]) == {0.0, 0.5, 1.0}
    np.testing.assert_array_equal(seed_means(values[:1], 0), values[0])


def test_an_interval_lies_around_the_estimate_and_says_whether_it_leaves_out_0():
    drawn = np.random.default_rng(0).normal(1.0, 0.1, 5000)
    found = interval(np.concatenate([[0.4], drawn]))
    assert found["estimate"] == 0.4
    assert found["low"] == pytest.approx(0.4 - 0.196, abs=0.01)
    assert found["high"] == pytest.approx(0.4 + 0.196, abs=0.01)
    assert found["beyond_chance"]
    assert not interval(np.concatenate([[0.1], drawn]))["beyond_chance"]
    assert not interval(np.zeros(5))["beyond_chance"]
