"""From the folder of the jobs to the data of the report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from studies.collect import collect, rounded
from studies.jobs import Job
from studies.report import as_json
from tests.studies.made_up import rivals_of, write_study


def cell_of(study, data, backbone):
    return next(c for c in study["cells"] if (c["data"], c["backbone"]) == (data, backbone))


def test_every_pair_with_a_network_is_a_cell_in_the_order_of_the_sets(study):
    pairs = [(cell["data"], cell["backbone"]) for cell in study["cells"]]
    assert pairs == [
        ("ddi2013", "all-MiniLM-L6-v2"),
        ("phee", "all-MiniLM-L6-v2"),
        ("phee", "all-mpnet-base-v2"),
        ("breastmnist", "scratch"),
        ("phee_events", "scratch"),
    ]


def test_scores_are_means_over_the_seeds(study, made_up_out):
    cell = cell_of(study, "phee", "all-MiniLM-L6-v2")
    found = []
    for seed in (0, 1):
        name = Job("phee", "all-MiniLM-L6-v2", seed, "exits").name
        result = json.loads((made_up_out / name / "result.json").read_text())
        found.append([scores["accuracy"] for scores in result["layers"]["test"]])
    assert cell["layers"]["main"] == pytest.approx(np.mean(found, axis=0), abs=1e-4)
    assert cell["seeds"] == [0, 1]
    assert cell["n_layers"] == 6


def test_rivals_of_the_backbone_and_those_without_one_are_beside_the_exits(study):
    points = {p["kind"]: p for p in cell_of(study, "phee", "all-MiniLM-L6-v2")["points"]}
    assert set(rivals_of("all-MiniLM-L6-v2")) | {"tfidf"} <= set(points)
    assert points["cut-3"]["layers"] == 3
    assert points["tfidf"]["n_seeds"] == 2
    assert "forest" in {p["kind"] for p in cell_of(study, "breastmnist", "scratch")["points"]}


def test_policies_are_reported_against_full_depth_and_the_cut_backbone(study):
    policies = cell_of(study, "phee", "all-MiniLM-L6-v2")["policies"]
    assert {p["family"] for p in policies} == {"entropy", "patience", "epee"}
    saving = next(p for p in policies if p["family"] == "epee" and p["goal"] == "saving")
    for key in ("to_full", "to_cut"):
        assert saving[key]["low"] <= saving[key]["estimate"] <= saving[key]["high"]
    without_rivals = cell_of(study, "phee", "all-mpnet-base-v2")["policies"]
    assert all(policy["to_cut"] is None for policy in without_rivals)


def test_times_are_beside_everything_that_was_measured(study):
    cell = cell_of(study, "phee", "all-MiniLM-L6-v2")
    points = {point["kind"]: point for point in cell["points"]}
    assert points["tfidf"]["seconds"] == {"single": 0.0003, "batched": 0.0001}
    saving = next(p for p in cell["policies"] if p["family"] == "epee" and p["goal"] == "saving")
    full, own = points["budget-6"], points["epee/saving"]
    assert own["scores"] == saving["scores"]
    quotient = full["seconds"]["single"] / own["seconds"]["single"]
    assert saving["clock"]["single"] == pytest.approx(quotient, rel=1e-3)
    assert cell_of(study, "phee", "all-mpnet-base-v2")["clock"] is None


def test_events_have_policies_and_fronts_of_their_own_kind(study):
    cell = cell_of(study, "phee_events", "scratch")
    assert cell["main_score"] == "span_f1"
    assert {policy["goal"] for policy in cell["policies"]} == {"saving", "tolerance"}
    assert set(cell["fronts"]) == {"entropy", "patience", "epee"}
    assert "grid" not in cell


def test_what_is_not_there_is_said(study):
    text = "\n".join(study["missing"])
    assert "git" in text
    assert "health_advice" in text


def test_fewer_seeds_and_failures_are_said(tmp_path):
    write_study(tmp_path, n_eval=30, seeds=2, short=True)
    gone = tmp_path / Job("phee", "all-MiniLM-L6-v2", 1, "exits").name / "result.json"
    gone.rename(gone.with_name("error.txt"))
    missing = collect(tmp_path, n_draws=5)["missing"]
    assert any("1 of 2 seeds" in line and "exits" in line for line in missing)
    assert any("Failed" in line and "seed1/exits" in line for line in missing)


def test_capped_runs_are_cells_of_their_own(tmp_path):
    write_study(tmp_path, n_eval=30, seeds=1, short=True)
    write_study(tmp_path, n_eval=30, seeds=1, short=True, options=(("n_train", 1200),))
    found = collect(tmp_path, n_draws=5)
    assert [cell["notes"] for cell in found["cells"]] == [[], ["1,200 training samples"]]
    assert found["notes"] == []


def test_caps_of_all_are_said_once(tmp_path):
    write_study(tmp_path, n_eval=30, seeds=1, short=True, options=(("n_epochs", 2),))
    found = collect(tmp_path, n_draws=5)
    assert found["notes"] == ["2 epochs"]
    assert [cell["notes"] for cell in found["cells"]] == [[]]


def test_nothing_done_is_a_report_that_says_so(tmp_path):
    study = collect(tmp_path)
    assert study["cells"] == []
    assert study["missing"]


def test_a_network_that_predicts_the_largest_class_has_learned_nothing(tmp_path):
    write_study(tmp_path, n_eval=30, seeds=1, short=True)
    folder = tmp_path / Job("phee", "all-MiniLM-L6-v2", 0, "exits").name
    assert collect(tmp_path, n_draws=5)["cells"][0]["learned"]
    result = json.loads((folder / "result.json").read_text())
    with np.load(folder / "predictions.npz") as saved:
        largest = np.bincount(saved["test_y"]).max() / len(saved["test_y"])
    result["layers"]["test"][-1]["accuracy"] = largest
    (folder / "result.json").write_text(json.dumps(result))
    assert not collect(tmp_path, n_draws=5)["cells"][0]["learned"]


def test_numbers_keep_four_digits_and_json_says_all(study):
    assert rounded({"a": [0.123456, np.float32(1e-5), 12345.678, 3, None, "x"]}) == {
        "a": [0.1235, 1e-5, 12350.0, 3, None, "x"]
    }
    assert json.loads(as_json(study)) == study
