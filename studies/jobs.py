"""Jobs of the study: their names, folders and dependencies, and how processes share them."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import filelock
import joblib
import numpy as np
import torch

from benchmarks._report import machine
from studies.sets import SETS, Parts, load_parts

NO_BACKBONE = "none"


@dataclass(frozen=True)
class Backbone:
    """The input of a backbone, and its number of layers."""

    reads: tuple[str, ...]
    n_layers: int


# Folders of `--checkpoints`; "scratch" is the package's own compact backbone.
BACKBONES = {
    "scratch": Backbone(("texts", "images", "spans"), 6),
    "all-MiniLM-L6-v2": Backbone(("texts", "spans"), 6),
    "all-mpnet-base-v2": Backbone(("texts", "spans"), 12),
    "dinov2-small": Backbone(("images",), 12),
    NO_BACKBONE: Backbone((), 0),
}


@dataclass(frozen=True)
class Job:
    """A training or a measurement.

    Parameters
    ----------
    data : str
        A key of `studies.sets.SETS`.
    backbone : str
        A key of `BACKBONES`; "none" for kinds that have no backbone.
    seed : int
    kind : str
        A key of `KINDS`.
    options : tuple of (str, value)
        Other settings that affect the result, mainly limits: "n_train", "n_eval", "n_epochs",
        "image_size". They are part of the name, so that limited runs are not taken for full ones.

    Examples
    --------
    >>> Job("phee", "scratch", 0, "cut-3", (("n_train", 200),)).name
    'phee/scratch/seed0/cut-3,n_train=200'
    """

    data: str
    backbone: str
    seed: int
    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The path of the job's folder within the folder of all results."""
        words = [self.kind, *(f"{key}={value}" for key, value in sorted(self.options))]
        parts = (self.data, self.backbone, f"seed{self.seed}", ",".join(words))
        return "/".join(re.sub(r"[^\w.,=+-]+", "_", part) for part in parts)

    def option(self, name: str, default: Any = None) -> Any:
        """Return the value of an option."""
        return dict(self.options).get(name, default)

    def of_kind(self, kind: str) -> Job:
        """Return the job of another kind on the same data, backbone, seed and options."""
        return Job(self.data, self.backbone, self.seed, kind, self.options)


def job_in(folder: Path) -> Job:
    """Return the finished job of a folder."""
    about = json.loads((folder / "result.json").read_text())["job"]
    where = {name: about[name] for name in ("data", "backbone", "seed", "kind")}
    return Job(**where, options=tuple(about["options"].items()))


@dataclass(frozen=True)
class Folder:
    """The folder of a job, and the checkpoint from which it starts.

    Parameters
    ----------
    path : Path
        The folder of the job.
    out : Path
        The folder of all jobs.
    backbone : str or None
        The folder of the job's checkpoint; None: from scratch, or no backbone at all.
    """

    path: Path
    out: Path
    backbone: str | None

    def of(self, job: Job) -> Path:
        """Return the folder of another job."""
        return self.out / job.name

    def save_predictions(self, **arrays: Any) -> None:
        """Write `predictions.npz`."""
        draft = self.path / "predictions.draft.npz"
        np.savez_compressed(draft, **arrays)
        draft.replace(self.path / "predictions.npz")

    def save_model(self, model: Any) -> None:
        """Write `model.joblib`, which the clock reads."""
        draft = self.path / "model.draft"
        joblib.dump(model, draft)
        draft.replace(self.path / "model.joblib")


@dataclass(frozen=True)
class Kind:
    """A kind of jobs, and how to run it.

    Parameters
    ----------
    run : callable (job, parts, folder) -> dict
        Trains on `parts.train`, tunes on `parts.dev`, saves predictions for dev and test, and
        returns the result, which can be saved as JSON.
    applies : callable (data, backbone) -> bool
        Whether there are such jobs; for kinds without a backbone, only with the backbone "none".
    needs : tuple of str
        Names or aliases of kinds whose jobs of the same data, backbone, seed and options must be
        finished before.
    one_seed : bool
        Whether it only runs for seed 0.
    last : bool
        Whether it waits for all other jobs with the same data, backbone and seed.
    aliases : tuple of str
        Other names of the kind on the command line.
    """

    run: Callable[[Job, Parts, Folder], dict[str, Any]]
    applies: Callable[[str, str], bool]
    needs: tuple[str, ...] = ()
    one_seed: bool = False
    last: bool = False
    aliases: tuple[str, ...] = ()


# Filled by `studies.kinds`, in the order in which kinds run.
KINDS: dict[str, Kind] = {}


def reads(data: str, backbone: str) -> bool:
    """Return whether a backbone can read a data set."""
    return SETS[data].kind in BACKBONES[backbone].reads


def planned(
    data: Sequence[str],
    backbones: Sequence[str],
    n_seeds: int,
    *,
    patterns: Sequence[str] = ("*",),
    options: Mapping[str, Any] | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> list[Job]:
    """Return the jobs of a study in the order in which they run: all of seed 0 first.

    Parameters
    ----------
    data, backbones : sequence of str
    n_seeds : int
    patterns : sequence of str
        Names of kinds, or patterns such as ``cut-*``.
    options : mapping or None
        Options of every job; None values are left out. "image_size" only applies to checkpoints
        for images.
    kinds : mapping of str to Kind
    """
    chosen = {
        name: kind
        for name, kind in kinds.items()
        if any(fnmatchcase(word, p) for word in (name, *kind.aliases) for p in patterns)
    }
    return [
        Job(name, backbone, seed, kind, options_of(name, backbone, options or {}))
        for seed in range(n_seeds)
        for name in data
        for backbone in (NO_BACKBONE, *backbones)
        for kind, how in chosen.items()
        if how.applies(name, backbone) and not (how.one_seed and seed)
    ]


def options_of(data: str, backbone: str, options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the options that apply to a data set and backbone, without those that are None."""
    resized = SETS[data].kind == "images" and backbone not in ("scratch", NO_BACKBONE)
    return tuple(
        (key, value)
        for key, value in options.items()
        if value is not None and (key != "image_size" or resized)
    )


# ----------------------------------------------------------------------------------- one job


def is_done(out: Path, job: Job) -> bool:
    """Return whether a job has a result."""
    return (out / job.name / "result.json").exists()


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Lock a job until the block ends; yield whether it was free.

    The operating system holds the lock, so that it is released if the process dies. The owner is
    written to a file next to it, for information.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    holder = folder / "running.json"
    try:
        write_json(holder, {"pid": os.getpid(), "since": now()})
        yield True
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def do(job: Job, parts: Parts, folder: Folder, kind: Kind) -> dict[str, Any]:
    """Run a job and write its result, at the end and atomically."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    found = kind.run(job, parts, folder)
    result = {
        "job": asdict(job) | {"options": dict(job.options), "name": job.name},
        "n_train": len(parts.train.X),
        "n_dev": len(parts.dev.X),
        "n_test": len(parts.test.X),
        "classes": parts.classes.tolist(),
        "main_score": parts.main_score,
        **found,
        "cpu_seconds": round(cpu_seconds() - cpu, 2),
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "finished": now(),
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
    }
    write_json(folder.path / "result.json", result)
    (folder.path / "error.txt").unlink(missing_ok=True)
    return result


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished child processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def now() -> str:
    """Return the time, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_json(path: Path, found: Any) -> None:
    """Write a JSON file atomically."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    draft.replace(path)


# --------------------------------------------------------------------------------- all of them


@dataclass
class Work:
    """Runs the jobs of a study one after another, while other processes may do the same.

    Parameters
    ----------
    jobs : list of Job
    out : Path
    data_home : path-like or None
    checkpoints : Path or None
        The folder with the folders of checkpoints.
    until : float
        The time after which no job is started.
    kinds : mapping of str to Kind
    pause : float
        Seconds between checks of jobs that run in other processes and others depend on.
    """

    jobs: list[Job]
    out: Path
    data_home: str | os.PathLike[str] | None
    checkpoints: Path | None
    until: float = float("inf")
    kinds: Mapping[str, Kind] = None  # type: ignore[assignment]
    pause: float = 5.0

    def __post_init__(self) -> None:
        self.kinds = KINDS if self.kinds is None else self.kinds
        self.failed: set[Job] = set()
        self._parts: tuple[Any, Parts] | None = None

    def run(self) -> list[Job]:
        """Run all open jobs; return those that failed.

        Returns when there is no job left that this process could run now or later.
        """
        n_done = sum(is_done(self.out, job) for job in self.jobs)
        say(f"{n_done} of {len(self.jobs)} jobs are done; results: {self.out}")
        while True:
            states = [self._tried(job) for job in self.jobs]
            if "done now" in states:
                continue
            # Jobs that depend on a job of another process can run after it.
            if "elsewhere" in states and "waits" in states and time.time() < self.until:
                time.sleep(self.pause)
                continue
            for job, state in zip(self.jobs, states, strict=True):
                if state == "waits":
                    say(f"{job.name}: not done, {', '.join(self._missing(job))} is missing")
            return [job for job in self.jobs if job in self.failed]

    def state(self, job: Job) -> str:
        """Return whether a job is "done", "running", has "failed" before, or is "open"."""
        path = self.out / job.name
        if is_done(self.out, job):
            return "done"
        if (path / "running.json").exists():
            with claimed(path) as own:  # a killed process leaves the file, but no lock
                return "open" if own else "running"
        return "failed" if (path / "error.txt").exists() else "open"

    def _tried(self, job: Job) -> str:
        """Run a job if this is possible now; return the outcome."""
        if is_done(self.out, job):
            return "done"
        if job in self.failed or time.time() > self.until:
            return "left"
        if self._missing(job):
            return "waits"
        path = self.out / job.name
        with claimed(path) as own:
            if not own:
                return "elsewhere"
            if is_done(self.out, job):
                return "done"
            return "done now" if self._done(job, path) else "left"

    def _missing(self, job: Job) -> list[str]:
        """Return the names of unfinished jobs on which this one depends."""
        kind = self.kinds[job.kind]
        before = [
            job.of_kind(name)
            for name, how in self.kinds.items()
            if {name, *how.aliases} & {*kind.needs} and how.applies(job.data, job.backbone)
        ]
        if kind.last:
            before += [
                other
                for other in self.jobs
                if other.data == job.data
                and other.seed == job.seed
                and other.backbone in (job.backbone, NO_BACKBONE)
                and not self.kinds[other.kind].last
                and other not in self.failed
            ]
        return [other.name for other in before if not is_done(self.out, other)]

    def _done(self, job: Job, path: Path) -> bool:
        say(f"{job.name}: started")
        try:
            folder = Folder(path, self.out, checkpoint_of(job.backbone, self.checkpoints))
            result = do(job, self._parts_of(job), folder, self.kinds[job.kind])
        except Exception:  # noqa: BLE001 - the other jobs still run
            self.failed.add(job)
            (path / "error.txt").write_text(traceback.format_exc())
            say(f"{job.name}: failed\n{traceback.format_exc()}")
            return False
        say(f"{job.name}: done, {result['cpu_seconds']:.0f} CPU seconds")
        return True

    def _parts_of(self, job: Job) -> Parts:
        """Return the parts of a job's data; those of the last job are cached."""
        n_train, n_eval = job.option("n_train"), job.option("n_eval")
        key = (job.data, n_train, job.seed, n_eval)
        if self._parts is None or self._parts[0] != key:
            parts = load_parts(job.data, self.data_home, n_train, job.seed, n_eval)
            self._parts = key, parts
        return self._parts[1]


def checkpoint_of(backbone: str, checkpoints: Path | None) -> str | None:
    """Return the folder of a checkpoint; None for backbones without one."""
    if backbone in ("scratch", NO_BACKBONE):
        return None
    if checkpoints is None or not (checkpoints / backbone / "config.json").exists():
        raise FileNotFoundError(f"--checkpoints: {checkpoints} has no checkpoint {backbone}.")
    return str(checkpoints / backbone)


def say(text: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
