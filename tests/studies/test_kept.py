"""Reports that keep pairs of an earlier one."""

from __future__ import annotations

import copy
import json

import pytest

from studies.collect import collect
from studies.jobs import Job
from studies.kept import with_kept
from studies.missing import missing
from studies.report import as_json, write_report
from tests.studies.made_up import write_study


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A report of one pair, phee with all-MiniLM-L6-v2, on another machine."""
    out = tmp_path_factory.mktemp("short")
    write_study(out, n_eval=30, seeds=1, short=True)
    for path in out.rglob("result.json"):
        result = json.loads(path.read_text())
        result["machine"] |= {"cpu": "Another CPU", "commit": "def5678"}
        path.write_text(json.dumps(result))
    return out, collect(out, n_draws=5)


def pairs(study):
    return [(cell["data"], cell["backbone"]) for cell in study["cells"]]


def test_pairs_that_are_not_there_are_kept_whole_and_in_order(study, short):
    _, new = short
    earlier = study | {"n_draws": 5}
    found = with_kept(new, copy.deepcopy(earlier))
    assert pairs(found) == pairs(study)
    for cell, was in zip(found["cells"], study["cells"], strict=True):
        if (cell["data"], cell["backbone"]) == pairs(new)[0]:
            assert cell | {"machines": []} == new["cells"][0] | {"machines": []}
        else:
            assert cell | {"machines": []} == was | {"machines": []}
            used = [found["machines"][number - 1] for number in cell["machines"]]
            assert used == [study["machines"][number - 1] for number in was["machines"]]
    assert [name.partition(" (")[0] for name in found["machines"]] == ["Another CPU", "Some CPU"]
    assert found["commits"] == ["abc1234", "def5678"]
    assert json.loads(as_json(found))["missing"] == missing(found["cells"])


def test_nothing_of_an_earlier_report_stays_where_all_pairs_are_new(short):
    _, new = short
    earlier = copy.deepcopy(new) | {"machines": ["Old CPU."], "commits": ["0000000"]}
    found = with_kept(new, earlier)
    assert found == new


def test_caps_of_one_of_them_are_not_taken_for_caps_of_all(short, tmp_path):
    _, whole = short
    write_study(tmp_path, n_eval=30, seeds=1, short=True, options=(("n_epochs", 2),))
    capped = collect(tmp_path, n_draws=5)
    assert capped["notes"] == ["2 epochs"]
    found = with_kept(capped, copy.deepcopy(whole))
    assert found["notes"] == []
    assert [cell["notes"] for cell in found["cells"]] == [[], ["2 epochs"]]


def test_failures_of_the_new_folder_are_still_said(short, tmp_path):
    write_study(tmp_path, n_eval=30, seeds=2, short=True)
    gone = tmp_path / Job("phee", "all-MiniLM-L6-v2", 1, "exits").name / "result.json"
    gone.rename(gone.with_name("error.txt"))
    found = with_kept(collect(tmp_path, n_draws=5), short[1])
    assert any("Failed" in line and "seed1/exits" in line for line in found["missing"])


@pytest.mark.parametrize("key", ["format", "n_draws"])
def test_reports_of_another_kind_are_refused(short, key):
    _, new = short
    with pytest.raises(ValueError, match=f"another {key}"):
        with_kept(new, new | {key: 7})


def test_the_report_keeps_only_if_asked(study, short, tmp_path, monkeypatch):
    out, _ = short
    monkeypatch.setattr("studies.report.write_pages", lambda *_: None)
    (tmp_path / "study.json").write_text(as_json(study | {"n_draws": 5}))
    assert pairs(write_report(out, tmp_path, n_draws=5, keep=True)) == pairs(study)
    assert pairs(write_report(out, tmp_path, n_draws=5)) == pairs(short[1])
