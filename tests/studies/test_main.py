"""The command of the study."""

import json

import pytest

from studies import __main__ as command
from studies.__main__ import completed, jobs_of, main, parser


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """The calls for a report, which has tests of its own."""
    calls = []
    monkeypatch.setattr(command, "write_report", lambda out, results: calls.append((out, results)))
    return calls


def given(*arguments):
    return completed(parser().parse_args([str(argument) for argument in arguments]))


def test_one_command_runs_and_resumes_and_reports(data_home, tmp_path, reports, capsys):
    arguments = ["--data-home", data_home, "--out", tmp_path, "--seeds", "1", "--n-epochs", "1"]
    arguments = [str(a) for a in [*arguments, "--sets", "phee", "git", "--kinds", "exits"]]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "git: not in the data folder, left out" in said
    assert "phee/scratch/seed0/exits,n_epochs=1: done" in said
    folder = tmp_path / "phee" / "scratch" / "seed0" / "exits,n_epochs=1"
    first = json.loads((folder / "result.json").read_text())
    assert main(arguments) == 0
    assert json.loads((folder / "result.json").read_text()) == first
    assert reports == [(tmp_path, tmp_path / "report")] * 2
    assert main([*arguments, "--list"]) == 0
    assert capsys.readouterr().out.split() == ["done", "phee/scratch/seed0/exits,n_epochs=1"]


def test_report_alone_runs_nothing(tmp_path, reports):
    assert main(["--report", "--out", str(tmp_path), "--results", str(tmp_path / "r")]) == 0
    assert reports == [(tmp_path, tmp_path / "r")]


def test_a_job_that_fails_makes_the_command_fail(data_home, tmp_path, reports):
    arguments = ["--data-home", data_home, "--out", tmp_path, "--sets", "phee", "--kinds", "exits"]
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    (tmp_path / "all-MiniLM-L6-v2" / "config.json").write_text("{}")
    arguments += ["--checkpoints", tmp_path, "--backbones", "all-MiniLM-L6-v2", "--seeds", "1"]
    assert main([str(argument) for argument in arguments]) == 1
    assert len(reports) == 1


def test_quick_is_small_and_gives_way_to_what_is_asked_for(data_home):
    quick = given("--quick", "--data-home", data_home)
    assert {job.data for job in jobs_of(quick)} == {"phee", "breastmnist"}
    assert {job.seed for job in jobs_of(quick)} == {0}
    assert all(job.option("n_train") for job in jobs_of(quick))
    assert given("--quick", "--n-train", 30, "--seeds", 2).n_train == 30
    assert given("--quick").out != given().out


def test_backbones_are_those_that_are_there(tmp_path):
    (tmp_path / "dinov2-small").mkdir()
    (tmp_path / "dinov2-small" / "config.json").write_text("{}")
    assert given("--checkpoints", tmp_path).backbones == ["scratch", "dinov2-small"]
    assert given().backbones == ["scratch"]
    assert given().seeds == 3


def test_a_checkpoint_that_is_not_there_is_refused_at_once(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--checkpoints", str(tmp_path), "--backbones", "dinov2-small"])
    assert "has no checkpoint dinov2-small" in capsys.readouterr().err


def test_kinds_that_do_not_exist_and_no_data_folder_are_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--kinds", "exits", "cutt-*"])
    assert "--kinds: 'cutt-*' is none of exits, events" in capsys.readouterr().err
    monkeypatch.delenv("SKLEARN_EPEE_DATA", raising=False)
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "SKLEARN_EPEE_DATA" in capsys.readouterr().err
