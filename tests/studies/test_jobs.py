"""Jobs of the study: names, order, sharing between processes, resuming."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from studies.jobs import Folder, Job, Kind, Work, checkpoint_of, claimed, is_done, planned, reads


def noted(calls, *, fails=()):
    """Return a kind's `run` that notes what it did."""

    def run(job, parts, folder):
        if job.kind in fails:
            raise RuntimeError("no luck")
        calls.append((job.kind, job.seed, len(parts.train.X)))
        folder.save_predictions(test_pred=np.zeros(len(parts.test.X), int))
        return {"score": 1.0}

    return run


def made(calls, **changes):
    """Return kinds: one without a backbone, two with, and a last one."""
    run = noted(calls, **changes)
    return {
        "words": Kind(run, lambda _, backbone: backbone == "none", one_seed=True),
        "taught": Kind(run, reads, needs=("full",)),
        "full": Kind(run, reads),
        "clock": Kind(run, reads, one_seed=True, last=True),
    }


def work_of(kinds, data_home, out, *, n_seeds=1, **changes):
    jobs = planned(["phee"], ["scratch"], n_seeds, kinds=kinds)
    return Work(jobs, out, data_home, None, kinds=kinds, pause=0.05, **changes)


def test_names_are_paths_that_say_what_a_job_saw():
    plain = Job("phee", "all-MiniLM-L6-v2", 1, "cut-3")
    assert plain.name == "phee/all-MiniLM-L6-v2/seed1/cut-3"
    capped = Job("phee", "scratch", 0, "exits", (("n_train", 9), ("n_epochs", 2)))
    assert capped.name == "phee/scratch/seed0/exits,n_epochs=2,n_train=9"
    assert capped.option("n_train") == 9
    assert capped.of_kind("full").options == capped.options
    odd = Job("phee", "scratch", 0, "exits", (("recipe", "a/b [1, 2]"),))
    assert odd.name == "phee/scratch/seed0/exits,recipe=a_b_1,_2_"


def test_jobs_are_those_that_apply_all_of_seed_0_first():
    kinds = made([])
    names = [job.name for job in planned(["phee"], ["scratch", "dinov2-small"], 2, kinds=kinds)]
    assert names == [
        "phee/none/seed0/words",
        "phee/scratch/seed0/taught",
        "phee/scratch/seed0/full",
        "phee/scratch/seed0/clock",
        "phee/scratch/seed1/taught",
        "phee/scratch/seed1/full",
    ]
    chosen = planned(["phee"], ["scratch"], 1, patterns=["f*", "words"], kinds=kinds)
    assert [job.kind for job in chosen] == ["words", "full"]


def test_options_that_are_none_or_not_of_this_job_are_left_out():
    options = {"n_train": 5, "n_epochs": None, "image_size": 56}
    kinds = {"full": Kind(noted([]), reads)}
    jobs = planned(
        ["phee", "breastmnist"], ["scratch", "dinov2-small"], 1, options=options, kinds=kinds
    )
    assert [job.options for job in jobs] == [
        (("n_train", 5),),
        (("n_train", 5),),
        (("n_train", 5), ("image_size", 56)),
    ]


def test_all_jobs_are_done_in_an_order_that_their_needs_allow_and_once(data_home, tmp_path):
    calls = []
    kinds = made(calls)
    assert work_of(kinds, data_home, tmp_path, n_seeds=2).run() == []
    assert [call[:2] for call in calls[:2]] == [("words", 0), ("full", 0)]
    order = [call[:2] for call in calls]
    assert order.index(("taught", 0)) > order.index(("full", 0))
    assert order.index(("clock", 0)) > order.index(("taught", 0))
    assert len(calls) == 6
    work_of(kinds, data_home, tmp_path, n_seeds=2).run()
    assert len(calls) == 6
    found = json.loads((tmp_path / "phee/scratch/seed0/full/result.json").read_text())
    assert found["score"] == 1.0
    assert found["job"]["name"] == "phee/scratch/seed0/full"
    assert found["n_train"] == 40
    assert found["machine"]["packages"]["torch"]
    assert found["cpu_seconds"] >= 0


def test_a_job_that_fails_leaves_the_others_and_says_why(data_home, tmp_path, capsys):
    calls = []
    work = work_of(made(calls, fails=("full",)), data_home, tmp_path)
    assert [job.kind for job in work.run()] == ["full"]
    assert {call[0] for call in calls} == {"words"}
    path = tmp_path / "phee/scratch/seed0"
    assert "no luck" in (path / "full" / "error.txt").read_text()
    assert "taught: not done, phee/scratch/seed0/full is missing" in capsys.readouterr().err
    assert [work.state(job) for job in work.jobs] == ["done", "open", "failed", "open"]
    # Mended, it goes on.
    work_of(made(calls), data_home, tmp_path).run()
    assert {call[0] for call in calls} == {"words", "full", "taught", "clock"}
    assert not (path / "full" / "error.txt").exists()


def test_no_job_starts_after_the_time(data_home, tmp_path):
    calls = []
    assert work_of(made(calls), data_home, tmp_path, until=time.time() - 1).run() == []
    assert calls == []


def test_a_job_of_another_holder_is_left_to_it(data_home, tmp_path):
    calls = []
    kinds = {"full": Kind(noted(calls), reads)}
    path = tmp_path / "phee/scratch/seed0/full"
    with claimed(path) as own:
        assert own
        assert json.loads((path / "running.json").read_text())["pid"] == os.getpid()
        work = work_of(kinds, data_home, tmp_path)
        work.run()
        assert calls == []
        assert work.state(work.jobs[0]) == "running"
    assert work.state(work.jobs[0]) == "open"
    assert not (path / "running.json").exists()
    work_of(kinds, data_home, tmp_path).run()
    assert len(calls) == 1


def slow(job, _parts, folder):
    """Note the job; the second one takes long, unless there is a file "fast"."""
    with (folder.out / "log").open("a") as file:
        file.write(f"{job.kind}\n")
    (folder.path / "began").write_text("")
    if job.kind == "b" and not (folder.out / "fast").exists():
        time.sleep(60)
    return {}


def interruptible(run):
    """Run a function that can be interrupted, even if this process ignores interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def started(data_home, out):
    """Start a process that does jobs a, b and c; it knows what this one has imported."""
    kinds = {name: Kind(slow, reads) for name in "abc"}
    work = work_of(kinds, data_home, out)
    process = multiprocessing.get_context("fork").Process(target=interruptible, args=(work.run,))
    process.start()
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_loses_the_running_job_alone(data_home, tmp_path, how):
    process = started(data_home, tmp_path)
    began = tmp_path / "phee/scratch/seed0/b/began"
    for _ in range(1200):
        if began.exists():
            break
        time.sleep(0.05)
    os.kill(process.pid, how)
    process.join(30)
    assert began.exists()
    assert is_done(tmp_path, Job("phee", "scratch", 0, "a"))
    assert not is_done(tmp_path, Job("phee", "scratch", 0, "b"))
    assert Work([], tmp_path, None, None).state(Job("phee", "scratch", 0, "b")) == "open"
    (tmp_path / "fast").write_text("")
    again = started(data_home, tmp_path)
    again.join(60)
    assert again.exitcode == 0
    assert (tmp_path / "log").read_text().split() == ["a", "b", "b", "c"]


def test_two_processes_share_the_jobs(data_home, tmp_path):
    (tmp_path / "fast").write_text("")
    both = [started(data_home, tmp_path) for _ in range(2)]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["a", "b", "c"]


def test_a_checkpoint_that_is_not_there_is_an_error_that_names_it(tmp_path):
    assert checkpoint_of("scratch", None) is None
    with pytest.raises(FileNotFoundError, match=r"--checkpoints: .* no checkpoint dinov2-small"):
        checkpoint_of("dinov2-small", tmp_path)


def test_predictions_are_whole_or_not_there(tmp_path):
    folder = Folder(tmp_path, tmp_path, None)
    folder.save_predictions(test_pred=np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    with np.load(tmp_path / "predictions.npz") as found:
        assert found["test_pred"].tolist() == [0, 1, 2]
