"""What is measured on saved probabilities, against the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from sklearn_epee.policy import apply_policy
from studies import measures
from studies.bootstrap import Score
from studies.exit_rules import Network
from studies.sets import NEGATIVE_CODES, score_all
from tests.studies.made_up import staged


@pytest.fixture(scope="module")
def network():
    """A made-up network of six layers."""
    return network_of_seed(0)


def network_of_seed(seed, data="ddi2013", n=60):
    parts = [staged(data, 6, seed, n, part) for part in ("dev", "test")]
    (dev, dev_y), (test, test_y) = parts
    return Network.from_arrays(dev, dev_y, test, test_y, Score(NEGATIVE_CODES.get(data)))


def test_cells_of_the_grid_are_those_policies(network):
    found = measures.grid([network], taus=(0.0, 0.3))
    assert found["patiences"] == [1, 2, 3, 4, 5, 6]
    proba, y = network.test.head_proba[0], network.test_y
    for row, patience in enumerate(found["patiences"]):
        for column, tau in enumerate(found["taus"]):
            policy = apply_policy(proba, tau=tau, patience=patience)
            score = score_all("ddi2013", y, policy.proba.argmax(1))["micro_f1"]
            assert found["score"][row, column] == pytest.approx(score)
            ratio = 1 - policy.exit_layer.mean() / 6
            assert found["ratio"][row, column] == pytest.approx(ratio)


def test_the_degenerate_cases_coincide_with_the_rules_alone(network):
    found = measures.degenerate([network, network_of_seed(1)])
    assert found["n_different"] == 0
    assert found["n_decisions"] == 2 * 60 * (measures.N_TAUS_ALONE + 6)
    assert np.array_equal(found["patience"]["epee"], found["patience"]["alone"])
    assert (np.diff(found["entropy"]["ratio"]) >= 0).all()


def test_degenerate_cases_that_differ_are_counted(network, monkeypatch):
    rule = measures.patience_alone
    monkeypatch.setitem(measures.ALONE, "patience", lambda n, _: rule(n, 1))
    assert measures.degenerate([network])["n_different"] > 0


def test_steps_are_the_gaps_between_ratios_that_are_reached(network):
    found = measures.steps([network])
    alone = [measures.measured(network, network.test.exit_layers(0.0, p))[0] for p in range(1, 7)]
    assert found["patience"] == pytest.approx(np.diff(np.unique(alone)).max())
    assert found["epee"] <= found["patience"]


def test_overthinking_counts_what_the_last_layer_loses():
    proba = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.1]]] * 10, np.float32)
    y = np.zeros(20, int)
    found = measures.overthinking([Network.from_arrays(proba, y, proba, y)], n_draws=50)
    assert found["lost"] == 0.5
    assert found["layer"] == [1]
    assert found["to_full"]["estimate"] == pytest.approx(0.5)
    assert found["to_full"]["low"] > 0


def test_layers_of_several_seeds_are_means_and_ranges():
    networks = [network_of_seed(seed) for seed in (0, 1)]
    found = measures.of_networks(networks, n_draws=10)
    by_seed = [(n.test.predictions[..., 0] == n.test_y[:, None]).mean(axis=0) for n in networks]
    assert found["accuracy"] == pytest.approx(np.mean(by_seed, axis=0))
    assert found["accuracy_low"] == pytest.approx(np.min(by_seed, axis=0))
    assert (np.diff(found["oracle"]) >= 0).all()
