"""The paper's three methods: what is chosen on dev, and what is said of it on test."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from sklearn_epee.policy import apply_policy
from studies.exit_rules import RULES
from studies.policies import (
    MIN_RATIO,
    TOLERANCE,
    Chosen,
    chosen,
    cuts_beside,
    policies,
    policies_in,
)
from studies.rules import apply
from tests.studies.staged import make_network
from tests.studies.test_rules import save_job


@pytest.fixture(scope="module")
def networks():
    return [make_network(300, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def cuts(networks):
    """Cut backbones that predict what the exits do."""
    return [{m: n.test.predictions[:, m - 1, 0] for m in range(1, 6)} for n in networks]


@pytest.fixture(scope="module")
def found(networks, cuts):
    return policies("phee", networks, cuts, n_draws=50)


def dev_points(network, name):
    applied = apply(RULES[name], network)
    ones = np.ones((1, len(network.dev_y)), np.float32)
    return applied, applied.dev.ratios(ones)[0], applied.dev.scores(ones)[0]


@pytest.mark.parametrize("method", ["entropy", "patience", "epee"])
def test_the_best_that_saves_is_chosen(networks, method):
    applied, ratios, scores = dev_points(networks[0], method)
    policy = chosen(networks[0], applied, "saving")
    assert policy.dev["ratio"] >= MIN_RATIO
    assert policy.dev["score"] == scores[ratios >= MIN_RATIO].max()


@pytest.mark.parametrize("method", ["entropy", "patience", "epee"])
def test_the_fastest_that_keeps_the_score_is_chosen(networks, method):
    network = networks[0]
    applied, ratios, scores = dev_points(network, method)
    policy = chosen(network, applied, "tolerance")
    full = accuracy_score(network.dev_y, network.dev.predictions[:, -1, 0])
    assert policy.dev["score"] >= full - TOLERANCE - 1e-6
    assert policy.dev["ratio"] == ratios[scores >= full - TOLERANCE - 1e-6].max()


def test_a_method_whose_settings_are_too_slow_has_no_policy(networks):
    assert policies("phee", [make_network(50, n_layers=2)])["methods"]["epee"]["saving"] is None


def test_test_results_are_those_of_the_policy_of_the_package(networks, found):
    for method in ("entropy", "patience", "epee"):
        for choice in ("saving", "tolerance"):
            runs = found["methods"][method][choice]["runs"]
            for network, run in zip(networks, runs, strict=True):
                proba = network.test.head_proba[0]
                policy = apply_policy(proba, run["tau"], run["patience"])
                assert run["ratio"] == pytest.approx(1 - policy.exit_layer.mean() / 5)
                assert run["accuracy"] == accuracy_score(network.test_y, policy.prediction)
                macro = f1_score(network.test_y, policy.prediction, average="macro")
                assert run["macro_f1"] == pytest.approx(macro)


def test_edges_of_the_grid_use_one_rule_alone(found):
    assert {run["tau"] for run in found["methods"]["patience"]["saving"]["runs"]} == {0.0}
    assert {run["patience"] for run in found["methods"]["entropy"]["saving"]["runs"]} == {5}


def test_differences_are_means_over_the_networks(found, networks):
    saving = found["methods"]["epee"]["saving"]
    full = found["full_depth"]["accuracy"]
    assert saving["to_full_depth"]["estimate"] == pytest.approx(saving["scores"]["accuracy"] - full)
    cut_scores = [
        accuracy_score(n.test_y, n.test.predictions[:, run["cut_layers"] - 1, 0])
        for n, run in zip(networks, saving["runs"], strict=True)
    ]
    expected = saving["scores"]["accuracy"] - np.mean(cut_scores)
    assert saving["to_cut"]["estimate"] == pytest.approx(expected)
    assert json.loads(json.dumps(found)) == found


def test_the_cut_backbone_costs_as_much_or_more(networks):
    def policy(layers):
        exits = np.array(layers)
        return Chosen(0.0, 5, {}, exits, exits, networks[0])

    cuts = dict.fromkeys((1, 2, 3, 5))
    assert policy([2, 2, 2]).equal_cost(cuts) == 2
    assert policy([2, 2, 3]).equal_cost(cuts) == 3
    assert policy([3, 4, 4]).equal_cost(cuts) == 5
    assert policy([5, 5, 5]).equal_cost(dict.fromkeys((1, 2))) is None


def test_without_all_cut_backbones_there_is_no_comparison_with_them(networks, cuts):
    found = policies("phee", networks, [cuts[0], {}], n_draws=5)
    assert found["methods"]["epee"]["saving"]["to_cut"] is None
    assert found["methods"]["epee"]["saving"]["to_full_depth"] is not None


def test_cut_backbones_are_read_beside_the_network(tmp_path, networks):
    folder = save_job(tmp_path, "phee", 0, networks[0])
    for kind in ("cut-2", "full"):
        save_job(tmp_path, "phee", 0, networks[0], kind=kind)
    assert sorted(cuts_beside(folder, 5)) == [2, 5]
    found = policies_in(tmp_path, 5)["phee, scratch"]
    assert found["data"] == "phee"
    assert found["methods"]["epee"]["saving"]["runs"][0]["cut_layers"] in {2, 5}
