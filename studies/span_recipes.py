"""Compare ways to train the exits of words, on all training sentences for the default epochs.

Run from the repository root:

    python -m studies.span_recipes --data-home DIR --checkpoints DIR --out OUT

`OUT` is the folder of the study: its jobs "events", with the package's defaults, are what recipes
are compared with, on the same seeds. Every run chooses on dev the policy of best F1 at a speed-up
ratio of at least 0.52 and reads it on test. Runs are kept one by one and not repeated; the results
of all are written to ``results/span_recipes.json`` and ``.md``, and ``--report`` does no more.
``--docs`` writes the committed tables into ``docs/training_recipes.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import describe
from studies.bootstrap import draws, interval, seed_means
from studies.events import KINDS as EVENT_KINDS
from studies.events import Network, run_with, span_f1
from studies.jobs import Folder, Job, Kind, Work, is_done
from studies.policies import best_that_saves
from studies.recipes import PAGE
from studies.report import replaced_block
from studies.rules import N_DRAWS
from studies.sets import SETS, Parts

RESULTS = Path(__file__).parent / "results"
DOCS_BLOCK = "<!-- begin: python -m studies.span_recipes --docs -->", "<!-- end of spans -->"
BACKBONE = "all-MiniLM-L6-v2"
BASE = "events"
OUT = Path(tempfile.gettempdir()) / "sklearn-epee-study"
SPAN_SETS = tuple(name for name, about in SETS.items() if about.kind == "spans")
N_SEEDS = 2


@dataclass(frozen=True)
class Recipe:
    """Parameters of `EPEETokenClassifier`, and what they do in words."""

    what: str
    parameters: dict[str, Any]


RECIPES = {
    "bottleneck heads": Recipe(
        "heads with a residual map through a quarter of the width in front",
        {"head": "bottleneck"},
    ),
    "uniform weights": Recipe(
        "all exits count alike in the loss", {"exit_loss_weights": "uniform"}
    ),
    "descending weights": Recipe(
        "the first exits count most in the loss", {"exit_loss_weights": "descending"}
    ),
    "bottleneck heads, uniform weights": Recipe(
        "both", {"head": "bottleneck", "exit_loss_weights": "uniform"}
    ),
    "distillation": Recipe(
        "exits learn half from the last one, at temperature 2", {"exit_training": "distillation"}
    ),
    "head rate x 3": Recipe(
        "heads learn at three times the default rate", {"head_learning_rate": 3e-3}
    ),
}


def jobs(sets: tuple[str, ...] = SPAN_SETS, recipes: tuple[str, ...] = tuple(RECIPES)) -> list[Job]:
    """Return every run, in the order of doing: the kind of a job is its recipe."""
    return [
        Job(data, BACKBONE, seed, kind, ())
        for seed in range(N_SEEDS)
        for data in sets
        for kind in (BASE, *recipes)
    ]


def run(job: Job, parts: Parts, folder: Folder, recipe: Recipe) -> dict[str, Any]:
    """Train a network by a recipe and keep what every exit and every policy does."""
    return run_with(job, parts, folder, **recipe.parameters)


KINDS = {BASE: EVENT_KINDS[BASE]} | {
    name: Kind(partial(run, recipe=recipe), lambda *_: True) for name, recipe in RECIPES.items()
}


# ------------------------------------------------------------------------------------- the scores


@dataclass(frozen=True)
class Scored:
    """A run, with what its chosen policy does on test.

    Attributes
    ----------
    job : Job
    result : dict
        What the job has written.
    network : Network
    policy : int
        Number of the chosen policy.
    """

    job: Job
    result: dict[str, Any]
    network: Network
    policy: int

    @classmethod
    def read(cls, job: Job, out: Path) -> Scored:
        """Read a run that is done, and choose its policy on dev."""
        folder = out / job.name
        network = Network.read(folder)
        full = float(span_f1(network.dev_counts[:, -1]))
        policy = best_that_saves(network.ratios("dev"), network.scores("dev"), full)
        if policy is None:
            raise ValueError(f"{job.name}: no policy of the grid saves enough.")
        return cls(job, json.loads((folder / "result.json").read_text()), network, policy)

    @property
    def policy_counts(self) -> NDArray[np.int64]:
        """Counts of each test sentence under the policy, (n, 3)."""
        return self.network.counts("test", self.policy)

    @property
    def layers(self) -> list[float]:
        """F1 of every exit on test."""
        counts = self.network.test_counts
        return [float(span_f1(counts[:, layer])) for layer in range(counts.shape[1])]

    @property
    def ratio(self) -> float:
        """Speed-up ratio of the policy on test."""
        return float(self.network.ratios("test")[self.policy])

    def facts(self) -> dict[str, Any]:
        """Return what is kept of the run."""
        network = self.network
        return {
            "data": self.job.data,
            "recipe": self.job.kind,
            "seed": self.job.seed,
            **{name: self.result[name] for name in ("n_train", "n_epochs", "n_test", "machine")},
            "training_cpu_seconds": self.result["training_cpu_seconds"],
            "layers": self.layers,
            "policy": {
                "tau": float(network.tau[self.policy]),
                "patience": int(network.patience[self.policy]),
                "joint_exit": str(network.joint_exit[self.policy]),
                "ratio": self.ratio,
                "span_f1": float(span_f1(self.policy_counts)),
            },
        }


def difference(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """Return by how much the F1 of counts is above that of others, one pair a seed, in points.

    Counts have the shape (n, 3), or (n, layers, 3) for the mean over layers.
    """
    values = []
    for ours, theirs in pairs:
        weights = draws(len(ours), N_DRAWS, 0)
        each = [_f1(counts, weights) for counts in (ours, theirs)]
        values.append(100 * (each[0] - each[1]))
    return interval(seed_means(values, 0))


def _f1(counts: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    if counts.ndim == 2:
        return np.asarray(span_f1(counts, weights))
    layers = [span_f1(counts[:, layer], weights) for layer in range(counts.shape[1])]
    return np.asarray(np.mean(layers, axis=0))


# ------------------------------------------------------------------------------------- the report

READING = f"""\
{BACKBONE}; all training sentences, the package's number of epochs. Strict micro F1 of spans on the
test part, in percent, means over the seeds. "policy" is the one of best F1 on dev at a speed-up
ratio of at least 0.52 there, "ratio" its ratio on test. "to defaults" is its F1 less that of the
policy of the package's defaults with the same seeds, "early" the mean F1 of the exits of the first
half less theirs, "to full depth" the policy's F1 less that of the defaults' last exit. In brackets
are 95 % bootstrap intervals over sentences and seeds, paired; bold ones leave out 0. "fit s" are
CPU seconds of the training, on one thread of a machine that others used at the same time."""


def markdown(runs: list[Scored]) -> str:
    """Render the runs as one table a data set."""
    machines = dict.fromkeys(describe(run.result["machine"]) for run in runs)
    command = (
        "Command: `python -m studies.span_recipes --data-home DIR --checkpoints DIR --out OUT`."
    )
    what = [f"- {name}: {recipe.what}." for name, recipe in RECIPES.items()]
    tables = [line for name in SPAN_SETS for line in table_of(name, runs)]
    return "\n".join([*machines, "", command, "", READING, "", *what, *tables])


def table_of(name: str, runs: list[Scored]) -> Iterator[str]:
    """Yield the lines of one data set's table."""
    here = [run for run in runs if run.job.data == name]
    base = {run.job.seed: run for run in here if run.job.kind == BASE}
    others = {kind: [r for r in here if r.job.kind == kind and r.job.seed in base]
              for kind in RECIPES}  # fmt: skip
    if not any(others.values()):
        return
    about = next(iter(base.values())).result
    yield (
        f"\n## {name}\n\n{about['n_train']} training sentences, {about['n_epochs']} epochs, "
        f"{about['n_test']} test sentences.\n"
    )
    yield (
        "| recipe | seeds | layers 1 to M | policy | ratio | to defaults | early | to full depth | "
        "fit s |"
    )
    yield "| --- |" + " --- |" * 8
    yield row_of("defaults", list(base.values()), list(base.values()))
    for kind, rows in others.items():
        if rows:
            yield row_of(kind, rows, [base[run.job.seed] for run in rows])


def row_of(recipe: str, rows: list[Scored], base: list[Scored]) -> str:
    """Render one recipe on one data set."""
    pairs = list(zip(rows, base, strict=True))
    half = rows[0].network.n_layers // 2
    to_base = difference([(a.policy_counts, b.policy_counts) for a, b in pairs])
    early = difference(
        [(a.network.test_counts[:, :half], b.network.test_counts[:, :half]) for a, b in pairs]
    )
    to_full = difference([(a.policy_counts, b.network.test_counts[:, -1]) for a, b in pairs])
    cells = [
        recipe,
        str(len(rows)),
        " ".join(f"{100 * score:.1f}" for score in np.mean([row.layers for row in rows], axis=0)),
        f"{100 * np.mean([float(span_f1(row.policy_counts)) for row in rows]):.1f}",
        f"{np.mean([row.ratio for row in rows]):.2f}",
        "" if recipe == "defaults" else _shown(to_base),
        "" if recipe == "defaults" else _shown(early),
        _shown(to_full),
        f"{np.mean([row.result['training_cpu_seconds'] for row in rows]):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _shown(found: dict[str, Any]) -> str:
    text = f"{found['estimate']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"
    return f"**{text}**" if found["beyond_chance"] else text


def report(out: Path, folder: Path) -> None:
    """Write the results of all runs so far."""
    runs = [Scored.read(job, out) for job in jobs() if is_done(out, job)]
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.dumps({"runs": [run.facts() for run in runs]}, indent=1)
    for suffix, text in (("json", facts), ("md", markdown(runs))):
        (folder / f"span_recipes.{suffix}").write_text(text.rstrip() + "\n")


def write_docs(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write how to read the results, and the tables, into the page of recipes."""
    text = (results / "span_recipes.md").read_text()
    tables = text[text.index("\n## ") :].replace("\n## ", "\n### ")
    page.write_text(replaced_block(page.read_text(), f"{READING}\n{tables}", DOCS_BLOCK))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data-home", type=Path, help="default: SKLEARN_EPEE_DATA names it")
    parser.add_argument("--checkpoints", type=Path, help=f"has a folder {BACKBONE}")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the study's jobs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--sets", nargs="+", choices=SPAN_SETS, default=SPAN_SETS)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no more then")
    parser.add_argument("--report", action="store_true", help="write the results, run nothing")
    parser.add_argument("--docs", action="store_true", help="write results into docs, no more")
    given = parser.parse_args(arguments)
    if given.docs:
        write_docs(given.results)
        return 0
    failed: list[Job] = []
    if not given.report:
        until = time.time() + 60 * given.minutes
        wanted = jobs(tuple(given.sets), tuple(given.recipes))
        work = Work(wanted, given.out, given.data_home, given.checkpoints, until, kinds=KINDS)
        failed = work.run()
    report(given.out, given.results)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
