"""Predictions shared by the estimators of a search: who runs a network, what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._search import shared_predictions
from sklearn_epee._search.shared_predictions import SharedPredictions, _Memory, exits_from
from sklearn_epee.policy import apply_policy

SETTING = ("cpu", "torch.float32")
SHAPE = (2, 3, 4)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """An empty memory, whatever other tests have left."""
    memory = _Memory()
    monkeypatch.setattr(shared_predictions, "_memory", memory)
    return memory


class Network:
    """Counts how often it is run."""

    def __init__(self, value=0.25):
        self.runs = 0
        self.value = value

    def __call__(self):
        self.runs += 1
        return np.full(SHAPE, self.value, np.float32)


def ask(answers, network, samples=("a", "b"), setting=SETTING, shape=SHAPE):
    return answers.probabilities(list(samples), setting, shape, network)


def test_the_first_to_ask_always_predicts_and_all_others_share_one_pass():
    network = Network()
    first, second, third = (SharedPredictions("key") for _ in range(3))
    for _ in range(3):
        assert ask(first, network) is None
    assert network.runs == 0
    found = ask(second, network)
    assert found.shape == SHAPE
    assert network.runs == 1
    assert ask(third, network) is ask(second, network) is found
    assert ask(first, network) is None
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
def test_another_network_other_samples_or_another_precision_are_another_question(
    key, samples, setting
):
    network = Network()
    ask(SharedPredictions("key"), network)
    assert ask(SharedPredictions(key), network, samples, setting) is None
    assert network.runs == 0


def test_samples_that_were_changed_in_place_are_other_samples():
    network, images = Network(), np.zeros((2, 4, 4, 1), np.float32)
    ask(SharedPredictions("key"), network, images)
    assert ask(SharedPredictions("key"), network, images) is not None
    images[0, 0, 0] = 1
    assert ask(SharedPredictions("key"), network, images) is None


def test_what_is_kept_is_bounded_and_what_was_used_longest_ago_goes(monkeypatch):
    size = Network()().nbytes
    monkeypatch.setattr(shared_predictions, "MAX_BYTES", 2 * size)
    networks = {name: Network() for name in "abc"}
    for name in "abc":
        ask(SharedPredictions("key"), networks[name], name)
    for name, runs in (("a", 1), ("b", 1), ("a", 1), ("c", 1), ("a", 1), ("b", 2)):
        assert ask(SharedPredictions("key"), networks[name], name) is not None
        assert networks[name].runs == runs


def test_large_sets_of_samples_are_predicted_as_usual(monkeypatch):
    monkeypatch.setattr(shared_predictions, "_LARGEST", Network()().nbytes - 1)
    network = Network()
    assert [ask(SharedPredictions("key"), network) for _ in range(4)] == [None] * 4
    assert network.runs == 0


def test_the_oldest_requests_are_forgotten(monkeypatch):
    monkeypatch.setattr(shared_predictions, "_MOST_ASKED", 2)
    network = Network()
    for samples in ("a", "b", "c"):
        ask(SharedPredictions("key"), network, samples)
    assert ask(SharedPredictions("key"), network, "c") is not None
    assert ask(SharedPredictions("key"), network, "a") is None


def test_samples_without_a_fingerprint_are_predicted_as_usual():
    network = Network()
    for _ in range(3):
        assert ask(SharedPredictions("key"), network, [(i for i in "ab")]) is None


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
