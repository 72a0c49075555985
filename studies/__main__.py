"""Run the study: every data set, backbone, seed and kind of job, then the report.

Run from the repository root:

    python -m studies --data-home DIR --checkpoints DIR
    python -m studies --data-home DIR --quick

Finished jobs are not run again. After an interrupt, only the running job is lost; start the command
again to continue. Several processes can run the command at the same time and share the jobs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import transformers

import studies.kinds  # noqa: F401 - registers the kinds of jobs
from studies.jobs import BACKBONES, KINDS, NO_BACKBONE, Job, Work, checkpoint_of, planned, say
from studies.sets import SETS, sets_in

# Settings of --quick: a complete run in minutes.
QUICK: dict[str, Any] = {
    "sets": ["phee", "breastmnist", "phee_events"],
    "backbones": ["scratch"],
    "seeds": 1,
    "n_train": 120,
    "n_eval": 60,
    "n_epochs": 2,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m studies", description=__doc__.partition("\n")[0]
    )
    add = found.add_argument
    add("--data-home", help="folder of the data sets (default: SKLEARN_EPEE_DATA)")
    add("--checkpoints", type=Path, help=f"folder with any of the folders {', '.join(folders())}")
    add("--sets", nargs="+", choices=list(SETS), help="default: all that are there")
    add("--backbones", nargs="+", choices=["scratch", *folders()], help="default: all there")
    add("--seeds", type=int, help="number of seeds (default: 3)")
    add("--kinds", nargs="+", default=["*"], metavar="KIND", help=f"{', '.join(KINDS)}; or cut-*")
    add("--n-train", type=int, help="training samples (default: all)")
    add("--n-eval", type=int, help="samples of dev and of test (default: all)")
    add("--n-epochs", type=int, help="epochs of all networks (default: the package's)")
    add("--image-size", type=int, help="pixels that checkpoints read (default: their own)")
    add("--minutes", type=float, default=float("inf"), help="start no job after these")
    out = Path(tempfile.gettempdir()) / "sklearn-epee-study"
    add("--out", type=Path, help=f"folder of all jobs (default: {out})")
    add("--results", type=Path, help="folder of the report (default: OUT/report)")
    add("--quick", action="store_true", help="small parts, one seed, from scratch: in minutes")
    add("--report", action="store_true", help="run nothing, write the report")
    add("--list", action="store_true", help="run nothing, list the state of every job")
    return found


def folders() -> list[str]:
    """Return the names of the checkpoint folders."""
    return [name for name in BACKBONES if name not in ("scratch", NO_BACKBONE)]


def completed(given: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of the command line, with defaults filled in."""
    if given.quick:
        for name, value in QUICK.items():
            if getattr(given, name) is None:
                setattr(given, name, value)
    default = "sklearn-epee-study-quick" if given.quick else "sklearn-epee-study"
    given.out = given.out or Path(tempfile.gettempdir()) / default
    given.results = given.results or given.out / "report"
    given.seeds = given.seeds or 3
    if given.backbones is None:
        there = [
            name for name in folders() if given.checkpoints and (given.checkpoints / name).is_dir()
        ]
        given.backbones = ["scratch", *there]
    for name in given.backbones:
        checkpoint_of(name, given.checkpoints)  # fail now, not after hours
    for pattern in given.kinds:
        if not any(fnmatchcase(kind, pattern) for kind in KINDS):
            raise ValueError(f"--kinds: {pattern!r} is none of {', '.join(KINDS)}.")
    return given


def jobs_of(given: argparse.Namespace) -> list[Job]:
    """Return the jobs of a command line, for the available data sets."""
    names = given.sets or list(SETS)
    there = sets_in(given.data_home, names)
    for name in set(names) - set(there):
        say(f"{name}: not in the data folder, left out")
    options = {
        name: getattr(given, name) for name in ("n_train", "n_eval", "n_epochs", "image_size")
    }
    return planned(there, given.backbones, given.seeds, patterns=given.kinds, options=options)


def write_report(out: Path, results: Path) -> None:
    """Write the report of all finished jobs."""
    from studies.report import write_report as write  # noqa: PLC0415 - imports matplotlib

    results.mkdir(parents=True, exist_ok=True)
    write(out, results)
    say(f"report: {results}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a job failed."""
    given = parser().parse_args(arguments)
    try:
        given = completed(given)
        jobs = [] if given.report else jobs_of(given)
    except (FileNotFoundError, ValueError) as error:
        parser().error(str(error))
    # Tokenizers would start additional threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*longer than max_length.*")
    if given.report:
        write_report(given.out, given.results)
        return 0
    work = Work(
        jobs, given.out, given.data_home, given.checkpoints,
        until=time.time() + 60 * given.minutes,
    )  # fmt: skip
    if given.list:
        return listed(work)
    failed = work.run()
    write_report(given.out, given.results)
    for job in failed:
        say(f"failed: {job.name}, see error.txt in its folder")
    return int(bool(failed))


def listed(work: Work) -> int:
    """Print the state of every job."""
    for job in work.jobs:
        print(f"{work.state(job):8} {job.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
