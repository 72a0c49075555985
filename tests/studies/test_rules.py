"""Fronts chosen on dev and read on test, areas and their intervals, and what is read from disk."""

import json

import numpy as np
import pytest

from studies import rules
from studies.bootstrap import draws
from studies.exit_rules import RULES
from studies.rules import (
    GRID,
    Group,
    apply,
    compare,
    compare_all,
    curve_of,
    curves,
    front_of,
    jobs_in,
    markdown,
    over_halves,
    summary,
)
from tests.studies.staged import make_network


@pytest.fixture(scope="module")
def networks():
    return [make_network(seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def found(networks):
    chosen = [RULES[name] for name in ("entropy", "patience", "epee", "voting", "oracle")]
    return compare(networks, chosen, n_draws=60)


def test_sums_of_weighted_samples_are_those_of_repeated_samples():
    network = make_network(60, negative=1)
    sums = apply(RULES["epee"], network, 20).test
    weights = draws(60, 2, 0)
    for row, counts in enumerate(weights):
        rows = np.repeat(np.arange(60), counts.astype(int))
        exits = sums.layers[:, rows].astype(int)
        expected = [
            network.score(network.test.predictions[rows, layers - 1, 0], network.test_y[rows])
            for layers in exits
        ]
        np.testing.assert_allclose(sums.scores(weights)[row], expected, atol=1e-6)
        np.testing.assert_allclose(
            sums.ratios(weights)[row], 1 - exits.mean(axis=1) / network.n_layers, atol=1e-6
        )


def test_all_rules_share_the_number_of_settings():
    network = make_network(400)
    for name in ("entropy", "epee", "pcee", "beem", "gate"):
        assert 100 < len(apply(RULES[name], network, 200).settings) <= 200


def test_a_front_holds_the_settings_that_no_other_one_beats():
    rng = np.random.default_rng(0)
    ratios, scores = rng.random((2, 50)).round(1)  # with ties
    front = front_of(ratios, scores)
    beaten = [
        ((ratios >= r) & (scores >= s) & ((ratios > r) | (scores > s))).any()
        for r, s in zip(ratios, scores, strict=True)
    ]
    on_front = {(ratios[i], scores[i]) for i in np.flatnonzero(~np.array(beaten))}
    assert {(ratios[i], scores[i]) for i in front} == on_front
    assert len(front) == len(on_front)
    assert (np.diff(ratios[front]) < 0).all()
    assert (np.diff(scores[front]) > 0).all()


def test_a_curve_is_read_between_settings_and_level_below_the_slowest():
    found = curve_of(np.array([0.6, 0.2]), np.array([0.7, 0.9]), np.array([0.0, 0.2, 0.4, 0.6]))
    np.testing.assert_allclose(found, [0.9, 0.9, 0.8, 0.7])


def test_the_front_is_chosen_on_dev_alone():
    network = make_network()
    applied = apply(RULES["epee"], network, 50)
    ones = np.ones((1, 150), np.float32)
    front = front_of(applied.dev.ratios(ones)[0], applied.dev.scores(ones)[0])
    test = applied.test.ratios(ones)[0], applied.test.scores(ones)[0]
    expected = curve_of(test[0][front], test[1][front], GRID)
    np.testing.assert_allclose(curves(applied, ones, ones)[0], expected)


def test_a_comparison_says_what_is_better_and_json_can_say_it(found, networks):
    assert json.loads(json.dumps(found)) == found
    assert (found["n_seeds"], found["n_layers"], found["score"]) == (2, 5, "accuracy")
    assert set(found["rules"]["epee"]["to_epee"].values()) == {0.0}
    assert found["rules"]["oracle"]["bound"]
    assert found["rules"]["oracle"]["to_epee"]["estimate"] > 0
    assert found["rules"]["oracle"]["to_epee"]["beyond_chance"]
    for rule in found["rules"].values():
        assert rule["area"]["low"] <= rule["area"]["estimate"] <= rule["area"]["high"]
        assert len(rule["curve"]) == len(found["curve_ratios"])
    again = compare(networks, [RULES["entropy"], RULES["epee"]], n_draws=60)
    assert again["rules"]["entropy"] == found["rules"]["entropy"]


def test_differences_are_paired(found):
    entropy = found["rules"]["entropy"]
    width = {key: entropy[key]["high"] - entropy[key]["low"] for key in ("area", "to_epee")}
    assert width["to_epee"] < width["area"] / 2


def test_random_halves_hold_the_same_samples(networks):
    network = networks[0]
    chosen = [RULES[name] for name in ("epee", "patience", "oracle")]
    found = over_halves(network, 3, chosen)
    assert found["epee"] == {"difference": 0.0, "better": 0.0}
    assert found["oracle"]["difference"] > 0
    assert found["oracle"]["better"] == 1
    assert found["patience"]["difference"] < 0
    halves = rules._redrawn(network, 0)
    for of in (lambda n: n.dev_y, lambda n: n.test_y):
        assert len(of(halves)) == len(of(network))
    both = [np.concatenate([n.dev.head_proba[0], n.test.head_proba[0]]) for n in (network, halves)]
    np.testing.assert_array_equal(*(np.sort(part[:, 0, 0]) for part in both))
    right = halves.test.predictions[:, -1, 0] == halves.test_y
    assert right.mean() > 0.6  # labels went with their samples


def save_job(out, data, seed, network, kind="exits"):
    folder = out / data / "scratch" / f"seed{seed}" / kind
    folder.mkdir(parents=True)
    np.savez(
        folder / "predictions.npz",
        dev_proba=network.dev.head_proba[0],
        dev_y=network.dev_y,
        test_proba=network.test.head_proba[0],
        test_y=network.test_y,
        test_pred=network.test.predictions[:, -1, 0],
    )
    job = {"data": data, "backbone": "scratch", "seed": seed, "kind": kind, "options": {}}
    (folder / "result.json").write_text(json.dumps({"job": job}))
    return folder


def test_networks_are_read_by_data_set_and_backbone_in_the_order_of_their_seeds(tmp_path, networks):
    folders = {seed: save_job(tmp_path, "phee", seed, networks[seed]) for seed in (1, 0)}
    save_job(tmp_path, "phee", 0, networks[0], kind="cut-2")
    ddi = save_job(tmp_path, "ddi2013", 0, make_network(n_classes=5))
    phee = Group("phee", "scratch")
    expected = [(Group("ddi2013", "scratch"), 0, ddi), (phee, 0, folders[0]), (phee, 1, folders[1])]
    assert list(jobs_in(tmp_path)) == expected
    read = rules.networks_in(tmp_path)
    assert [len(group) for group in read.values()] == [1, 2]
    assert read[Group("ddi2013", "scratch")][0].score.negative == 2
    np.testing.assert_array_equal(read[phee][1].test_y, networks[1].test_y)


def test_a_job_without_a_result_is_left_out(tmp_path, networks):
    (save_job(tmp_path, "phee", 0, networks[0]) / "result.json").unlink()
    assert rules.networks_in(tmp_path) == {}
    with pytest.raises(SystemExit):
        rules.main([str(tmp_path)])


def test_networks_of_another_study_are_read_with_dev_first(tmp_path, networks, monkeypatch):
    network = networks[0]
    both = zip((network.dev, network.test), (network.dev_y, network.test_y), strict=True)
    proba, codes = ([*part] for part in zip(*((s.head_proba[0], y) for s, y in both), strict=True))
    np.savez(
        tmp_path / "health_advice_0.npz", proba=np.concatenate(proba), codes=np.concatenate(codes)
    )
    monkeypatch.setattr(rules, "load", lambda *_: (None, np.array(["none"] * 150)))
    ((group, (read,)),) = rules.networks_in_store(tmp_path).items()
    assert group.data == "health_advice"
    np.testing.assert_array_equal(read.dev_y, network.dev_y)
    np.testing.assert_array_equal(read.test.head_proba[0], network.test.head_proba[0])


def test_the_command_prints_every_rule_of_every_set(tmp_path, networks, capsys):
    save_job(tmp_path, "phee", 0, networks[0])
    rules.main([str(tmp_path), "--draws", "20", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    for rule in RULES.values():
        assert printed.count(f"| {rule.title} |") == 2
    rules.main([str(tmp_path), "--halves", "1"])
    halves = capsys.readouterr().out
    assert f"| {RULES['epee'].title} | +0.00 (0%) |" in halves
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept == compare_all(tmp_path, 20)
    assert printed.strip() == markdown(kept).strip()


def test_a_summary_counts_sets_beyond_chance_and_takes_the_mean():
    def rule(estimate, error):
        far = abs(estimate) > error
        ends = {"low": estimate - error, "high": estimate + error}
        return {"to_epee": {"estimate": estimate, **ends, "beyond_chance": far}}

    found = {
        "a": {"rules": {"pcee": rule(0.01, 0.005)}},
        "b": {"rules": {"pcee": rule(-0.02, 0.01)}},
        "c": {"rules": {"pcee": rule(0.04, 0.05), "beem": rule(0.01, 0.02)}},
    }
    counts = summary(found)["pcee"]
    assert (counts["better"], counts["worse"]) == (["a"], ["b"])
    assert counts["mean"]["estimate"] == pytest.approx(0.01)
    reach = (0.005**2 + 0.01**2 + 0.05**2) ** 0.5 / 3
    assert counts["mean"]["high"] == pytest.approx(0.01 + reach)
    assert not counts["mean"]["beyond_chance"]
    assert summary(found)["beem"]["mean"]["high"] == pytest.approx(0.03)
