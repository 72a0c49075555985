"""Jobs "events": spans by words with exits, their policies, and the rivals cut to some layers."""

from __future__ import annotations

import json
import shutil

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.events import Staged
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee.datasets import load_phee_events
from sklearn_epee.metrics import span_scores
from studies.collect import collect
from studies.events import (
    JOINT_EXITS,
    KINDS,
    Network,
    applies,
    embeds,
    measured,
    scores_of,
    span_counts,
    span_f1,
)
from studies.jobs import Folder, Job, do, planned
from studies.rules import compare_all
from studies.sets import load_parts
from studies.span_rules import SPAN_RULES, SpanNetwork
from tests.checkpoints import make_checkpoint

LAYERS = ("trigger", "argument", "sub_argument", "combination")


def job_of(kind):
    return Job("phee_events", "scratch", 0, kind, (("n_epochs", 4),))


@pytest.fixture(scope="module")
def parts(events_home):
    return load_parts("phee_events", events_home)


@pytest.fixture(scope="module")
def out(parts, tmp_path_factory):
    """The folder of a network with exits, and beside it one of two layers."""
    out = tmp_path_factory.mktemp("out")
    for kind in ("events", "cut-2"):
        folder = Folder(out / job_of(kind).name, out, None)
        folder.path.mkdir(parents=True)
        do(job_of(kind), parts, folder, KINDS[kind])
    return out


def result_of(out, kind):
    return json.loads((out / job_of(kind).name / "result.json").read_text())


def test_parts_of_spans_have_what_scores_need(events_home, parts):
    assert parts.kind == "spans"
    assert set(parts.train.y[0]) == set(LAYERS)
    few = load_parts("phee_events", events_home, n_train=10, n_eval=5)
    assert len(few.train.y) == 10
    assert few.bunches["test"].data == few.test.X
    assert len(few.bunches["test"].events) == len(few.bunches["dev"].all_spans) == 5


def test_f1_from_counts_is_that_of_the_package():
    true = [
        {"a": [(0, 2, "x"), ((0, 1), (3, 4), "y")], "b": []},
        {"a": [(5, 6, "x")], "b": [(0, 9, "z")]},
    ]
    predicted = [{"a": [(0, 2, "x"), (3, 4, "y")], "b": []}, {"a": [], "b": [(0, 9, "z")]}]
    counts = span_counts(true, predicted)
    assert counts.tolist() == [[1, 2, 2], [1, 1, 2]]
    assert span_f1(counts) == pytest.approx(span_scores(true, predicted)["micro"]["f1"])
    twice = span_f1(counts, np.array([[2.0, 0.0], [1.0, 1.0]]))
    assert twice.tolist() == pytest.approx([0.5, 4 / 7])
    assert span_f1(np.zeros((2, 3), int)) == 0


def test_layers_are_scored_by_what_each_exit_predicts(out, parts):
    folder = out / job_of("events").name
    model, returned = joblib.load(folder / "model.joblib"), result_of(out, "events")
    spans = model.predict_at_layer(parts.test.X, 3)
    assert returned["layers"]["test"][2] == scores_of(parts.bunches["test"], spans)
    network = Network.read(folder)
    assert span_f1(network.test_counts[:, 2]) == returned["layers"]["test"][2]["span_f1"]
    assert returned["n_layers"] == network.n_layers == 6


def test_policies_of_the_grid_exit_as_the_estimator_does(out, parts):
    folder = out / job_of("events").name
    model, network = joblib.load(folder / "model.joblib"), Network.read(folder)
    assert set(network.joint_exit) == set(JOINT_EXITS)
    # A threshold between two of the entropies: one that is equal to one may fall to either side.
    staged = Staged.of(model, parts.bunches["test"])
    middle = np.flatnonzero((network.tau > np.median(network.tau)) & (network.patience == 4))
    for policy in (0, len(network.tau) - 1, middle[0], middle[-1]):
        settings = {
            "tau": float(network.tau[policy]),
            "patience": int(network.patience[policy]),
            "joint_exit": str(network.joint_exit[policy]),
            "token_exit": "sentence",
        }
        spans, ratio = staged.exits(settings)
        assert network.ratios("test")[policy] == pytest.approx(ratio)
        scores = scores_of(parts.bunches["test"], spans)
        assert network.scores("test")[policy] == pytest.approx(scores["span_f1"])
        assert network.test_paper[policy].tolist() == pytest.approx(list(scores.values())[1:])
        assert np.mean(
            model.set_params(**settings).predict_exit_layer(parts.test.X)
            == network.test_exits[policy]
        ) == pytest.approx(1, abs=0.05)


def test_networks_of_earlier_versions_get_the_policies_with_any(out, tmp_path):
    folder = out / job_of("events").name
    network = Network.read(folder)
    by_policy = ("tau", "patience", "joint_exit", "dev_exits", "test_exits", "test_paper")
    with np.load(folder / "predictions.npz") as saved:
        earlier = {
            name: saved[name][network.joint_exit != "any"] if name in by_policy else saved[name]
            for name in saved
        }
    np.savez(tmp_path / "predictions.npz", **earlier)
    shutil.copy(folder / "result.json", tmp_path)
    again = Network.read(tmp_path)
    # Words are stored in single precision, so that ties may fall to either side.
    assert_array_equal(again.joint_exit, network.joint_exit)
    assert_array_equal(again.patience, network.patience)
    assert_allclose(again.tau, network.tau, atol=1e-6)
    for name in ("dev_exits", "test_exits"):
        assert np.mean(getattr(again, name) == getattr(network, name)) > 0.99
    found = measured([tmp_path], n_draws=5)["methods"]
    for policy in (found[method]["saving"] for method in found):
        is_any = policy["runs"][0]["joint_exit"] == "any"
        assert ("trigger_f1" in policy["scores"]) != is_any


def test_policies_are_chosen_on_dev_and_read_on_test(out):
    found = measured([out / job_of("events").name], n_draws=20)
    assert set(found["methods"]) == {"entropy", "patience", "epee"}
    saving = found["methods"]["epee"]["saving"]
    (run,) = saving["runs"]
    assert run["dev_ratio"] >= 0.52 - 1e-6
    network = Network.read(out / job_of("events").name)
    policy = np.flatnonzero(
        (network.tau == run["tau"])
        & (network.patience == run["patience"])
        & (network.joint_exit == run["joint_exit"])
    )[0]
    assert saving["scores"]["span_f1"] == network.scores("test")[policy]
    assert saving["ratio"] == network.ratios("test")[policy]
    allowed = network.ratios("dev") >= 0.52
    assert run["dev_score"] == network.scores("dev")[allowed].max()
    gain = saving["scores"]["span_f1"] - found["full_depth"]["span_f1"]
    assert saving["to_full_depth"]["estimate"] == pytest.approx(gain)
    # Two layers cost as much as the policy, or more: a ratio of 0.67.
    assert run["cut_layers"] == (2 if run["ratio"] >= 1 - 2 / 6 - 1e-9 else None)
    front = found["fronts"]["epee"]
    assert len(front["ratio"]) == len(front["score"]) > 3
    assert front["ratio"][-1] > 0.5


def test_what_rules_read_is_what_the_exits_say(out, parts):
    folder = out / job_of("events").name
    model, network = joblib.load(folder / "model.joblib"), SpanNetwork.read(folder)
    part, X = network.test, parts.test.X
    settings = {"tau": 0.31, "patience": 4, "joint_exit": "mean", "token_exit": "sentence"}
    exits = part.by_words("mean").exit_layers(0.31, 4)
    assert np.mean(model.set_params(**settings).predict_exit_layer(X) == exits) > 0.95
    np.testing.assert_array_equal(part.counts, Network.read(folder).test_counts)
    # At the first layer every word has one vote: for what the exit predicts.
    np.testing.assert_array_equal(part.voted_counts[:, 0], part.counts[:, 0])
    assert set(np.unique(part.votes[:, 0])) == {1}
    assert (part.votes <= np.arange(1, 7)[:, np.newaxis]).all()
    found = compare_all(out, n_draws=5)
    assert list(found["phee_events, scratch, n_epochs=4"]["rules"]) == list(SPAN_RULES)


def test_events_are_asked_for_as_exits_too():
    names = [
        job.kind for job in planned(["phee_events", "phee"], ["scratch"], 1, patterns=["exits"])
    ]
    assert names == ["events", "exits"]


def test_the_report_has_policies_of_spans(out):
    (cell,) = collect(out, n_draws=20)["cells"]
    found = measured([out / job_of("events").name], n_draws=20)
    scores = {
        policy["goal"]: policy["score"] for policy in cell["policies"] if policy["family"] == "epee"
    }
    expected = {
        choice: each["scores"]["span_f1"] for choice, each in found["methods"]["epee"].items()
    }
    assert scores == pytest.approx(expected, abs=1e-3)
    assert len(cell["fronts"]["epee"]["ratio"]) > 3
    assert list(cell["areas"]) == list(SPAN_RULES)
    assert cell["areas"]["oracle"]["to_epee"]["estimate"] >= 0
    assert cell["main_score"] == "span_f1"
    families = [point["family"] for point in cell["points"]]
    assert {"budget", "cut"} <= set(families)


def test_rivals_of_some_layers_predict_with_their_last(out, parts):
    folder = out / job_of("cut-2").name
    returned = result_of(out, "cut-2")
    model = joblib.load(folder / "model.joblib")
    assert returned["n_layers"] == model.n_layers_ == 2
    spans = model.predict_at_layer(parts.test.X, 2)
    assert returned["scores"]["test"] == scores_of(parts.bunches["test"], spans)
    with np.load(folder / "predictions.npz") as saved:
        assert float(span_f1(saved["test_counts"])) == returned["scores"]["test"]["span_f1"]


def test_frozen_words_train_the_last_head_alone(parts, tmp_path):
    backbone = str(make_checkpoint("bert", tmp_path / "checkpoint", n_layers=6))
    job = Job("phee_events", "all-MiniLM-L6-v2", 0, "embeddings", (("n_epochs", 1),))
    result = KINDS["embeddings"].run(job, parts, Folder(tmp_path, tmp_path, backbone))
    assert len(result["tried"]) == 3
    assert set(result["scores"]) == {"dev", "test"}
    model = joblib.load(tmp_path / "model.joblib")
    whole = load_backbone(backbone, "text").state_dict()
    for name, weight in model.net_.module_.backbone.state_dict().items():
        torch.testing.assert_close(weight, whole[name])
    assert embeds("phee_events", "all-MiniLM-L6-v2")
    assert not embeds("phee_events", "scratch")


def test_only_spans_are_read_by_words():
    assert applies("phee_events", "scratch")
    assert applies("phee_events", "all-mpnet-base-v2", 11)
    assert not applies("phee_events", "all-MiniLM-L6-v2", 6)
    assert not applies("phee", "scratch")
    assert not applies("phee_events", "dinov2-small")


def test_the_loader_reads_the_sentences_of_these_tests(events_home):
    bunch = load_phee_events(subset="dev", data_home=events_home)
    start, end, label = bunch.target[0]["trigger"][0]
    assert bunch.data[0][start:end] in {"caused", "led to"}
    assert label == "Adverse_event"
