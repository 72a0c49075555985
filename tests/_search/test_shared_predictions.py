"""Predictions shared by the estimators of a search: who runs a network, what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._search import shared_predictions
from sklearn_epee._search.shared_predictions import SharedPredictions, _PredictionCache, exits_from
from sklearn_epee.policy import apply_policy

SETTING = ("cpu", "torch.float32")
SHAPE = (2, 3, 4)


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    """An empty cache, whatever other tests have left."""
    cache = _PredictionCache()
    monkeypatch.setattr(shared_predictions, "_cache", cache)
    return cache


class Network:
    """Counts how often it is run."""

    def __init__(self, value=0.25):
        self.runs = 0
        self.value = value

    def __call__(self):
        self.runs += 1
        return np.full(SHAPE, self.value, np.float32)


def predict_exits(shared, network, samples=("a", "b"), setting=SETTING, shape=SHAPE):
    return shared.probabilities(list(samples), setting, shape, network)


def test_the_first_estimator_always_predicts_and_all_others_share_one_pass():
    network = Network()
    first, second, third = (SharedPredictions("key") for _ in range(3))
    for _ in range(3):
        assert predict_exits(first, network) is None
    assert network.runs == 0
    found = predict_exits(second, network)
    assert found.shape == SHAPE
    assert network.runs == 1
    assert predict_exits(third, network) is predict_exits(second, network) is found
    assert predict_exits(first, network) is None
    assert network.runs == 1


@pytest.mark.parametrize(
    ("key", "samples", "setting"),
    [
        ("other", ("a", "b"), SETTING),
        ("key", ("a", "c"), SETTING),
        ("key", ("a",), SETTING),
        ("key", ("a", "b"), ("cpu", "torch.bfloat16")),
        ("key", ("a", "b"), ("cuda:0", "torch.float32")),
    ],
)
def test_another_network_other_samples_or_another_precision_are_predicted_anew(
    key, samples, setting
):
    network = Network()
    predict_exits(SharedPredictions("key"), network)
    assert predict_exits(SharedPredictions(key), network, samples, setting) is None
    assert network.runs == 0


def test_samples_that_were_changed_in_place_are_other_samples():
    network, images = Network(), np.zeros((2, 4, 4, 1), np.float32)
    predict_exits(SharedPredictions("key"), network, images)
    assert predict_exits(SharedPredictions("key"), network, images) is not None
    images[0, 0, 0] = 1
    assert predict_exits(SharedPredictions("key"), network, images) is None


def test_what_is_kept_is_bounded_and_what_was_used_longest_ago_goes(monkeypatch):
    size = Network()().nbytes
    monkeypatch.setattr(shared_predictions, "MAX_BYTES", 2 * size)
    networks = {name: Network() for name in "abc"}
    for name in "abc":
        predict_exits(SharedPredictions("key"), networks[name], name)
    for name, runs in (("a", 1), ("b", 1), ("a", 1), ("c", 1), ("a", 1), ("b", 2)):
        assert predict_exits(SharedPredictions("key"), networks[name], name) is not None
        assert networks[name].runs == runs


def test_large_sets_of_samples_are_predicted_as_usual(monkeypatch):
    monkeypatch.setattr(shared_predictions, "_MAX_ENTRY_BYTES", Network()().nbytes - 1)
    network = Network()
    assert [predict_exits(SharedPredictions("key"), network) for _ in range(4)] == [None] * 4
    assert network.runs == 0


def test_the_oldest_requests_are_forgotten(monkeypatch):
    monkeypatch.setattr(shared_predictions, "_MAX_NOTED", 2)
    network = Network()
    for samples in ("a", "b", "c"):
        predict_exits(SharedPredictions("key"), network, samples)
    assert predict_exits(SharedPredictions("key"), network, "c") is not None
    assert predict_exits(SharedPredictions("key"), network, "a") is None


def test_samples_without_a_fingerprint_are_predicted_as_usual():
    network = Network()
    for _ in range(3):
        assert predict_exits(SharedPredictions("key"), network, [(i for i in "ab")]) is None


@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
@pytest.mark.parametrize(("tau", "patience"), [(0.0, 2), (0.3, 5), (0.9, 5), (0.2, 1)])
def test_exits_are_those_of_the_array_oracle(ensemble, tau, patience):
    logits = np.random.default_rng(0).normal(0, 2, (50, 5, 3))
    proba = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
    weights = np.arange(1.0, 6.0)
    found = exits_from(proba, ExitPolicy(tau, patience, ensemble, weights))
    expected = apply_policy(proba, tau, patience, ensemble, weights)
    assert_array_equal(found.exit_layer, expected.exit_layer)
    assert_array_equal(found.proba, expected.proba)
    assert found.proba.dtype == found.entropy.dtype == np.float32
    assert not np.shares_memory(found.proba, proba)
