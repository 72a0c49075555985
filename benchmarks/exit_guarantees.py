"""Simulate bounds at every exit, bounds in expectation and bounds on probabilities.

Run from the repository root:

    python -m benchmarks.exit_guarantees

With ``--out FOLDER`` the table is also written to ``exit_guarantees.md`` there, after every row.
Existing rows with the same number of draws and the same versions are kept; remove the file to run
all of them again.

Samples are drawn, and policies chosen and evaluated, as in `benchmarks.risk_control`. Populations
have 8,000 samples. "usual" is generated as there. In "catastrophic", 1 % of the samples are
confident of a wrong class at layer 1 and correct later, so that they exit there under any policy
with exits at layer 1. In "drifted", policies are chosen on "usual" and evaluated on a population in
which 4 % are confident of a wrong class at layers 1 and 2.

Columns of a row: the share of draws whose policy has a true risk above the bound, on average over
all samples ("broken") and among those that exit at some early layer, or block of such layers, with
enough exits to be tested ("at exits": those that were tested with "per exit", otherwise those that
would be on the population); the mean share of samples that exit at any early layer with a true risk
above the bound ("above"); the mean true risk; the share in which a policy was certified ("passed");
and its mean speed-up ratio, 0 without one. With "per exit" the first two should be at most 0.05,
with "probability" the first; with "expectation" the mean risk should be at most the bound, without
a guarantee for the others.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from benchmarks.monitoring import drifted
from benchmarks.risk_control import staged_population
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.tables import PolicyGrid
from sklearn_epee.model_selection._exit_blocks import layers_to_test
from sklearn_epee.model_selection._expectation import ExpectationControl
from sklearn_epee.model_selection._risk_control import Groups, RiskControl
from sklearn_epee.model_selection._risks import risk_of

CONFIDENCE = 0.95
SIZES = (1000,)
KINDS = ("probability", "per exit", "expectation")
# Population, risk, bound, guarantees.
ROWS = (
    ("usual", "disagreement", 0.05, KINDS),
    ("catastrophic", "disagreement", 0.05, KINDS),
    ("usual", "brier_increase", 0.01, KINDS),
    ("drifted", "disagreement", 0.05, KINDS),
    ("usual", "proba_change", 0.02, KINDS[::2]),
    ("catastrophic", "brier_increase", 0.01, KINDS),
    ("catastrophic", "proba_change", 0.02, KINDS[::2]),
    ("drifted", "brier_increase", 0.01, KINDS),
    ("drifted", "proba_change", 0.02, KINDS[::2]),
    ("usual", "brier_score", 0.09, KINDS[:1]),
    ("catastrophic", "brier_score", 0.09, KINDS[:1]),
    ("drifted", "brier_score", 0.09, KINDS[:1]),
)
SHARE_TESTED = 0.7
COLUMNS = (
    *("population", "guarantee", "risk", "bound", "n", "broken", "at exits", "above", "mean"),
    *("passed", "ratio"),
)


def population(kind, n_samples=8000):
    """Return staged probabilities and true columns."""
    proba, codes = staged_population(n_samples)
    if kind == "drifted":
        return drifted("catastrophic", proba, codes), codes
    if kind == "catastrophic":
        rng = np.random.default_rng(2)
        rows = np.flatnonzero(rng.random(n_samples) < 0.01)
        wrong = (codes[rows] + rng.integers(1, 4, size=len(rows))) % 4
        proba[rows, 0] = 0.0001
        proba[rows, 0, wrong] = 0.9997
    return proba, codes


@dataclass(frozen=True)
class Judge:
    """A population, with the losses of its samples at every exit."""

    staged: StagedPredictions
    risk: object
    bound: float

    @classmethod
    def of(cls, proba, codes, risk, bound):
        """Create it for a risk of the tuned classifier."""
        staged = StagedPredictions.from_proba([proba])
        tasks = Tasks(np.arange(proba.shape[2]))
        known = risk_of(risk, staged.predictions, codes[:, np.newaxis], tasks, staged.proba)
        return cls(staged, known, bound)

    def risks(self, exits, blocks):
        """Return the risk over all samples, the largest at exits, and the share "above"."""
        losses = self.risk.losses[np.arange(len(exits)), exits - 1]
        within = [losses[np.isin(exits, layers)] for layers in blocks]
        at_exits = max((each.mean() for each in within if len(each)), default=0.0)
        alone = [losses[exits == layer] for layer in range(1, self.staged.n_layers)]
        above = sum(len(each) for each in alone if len(each) and each.mean() > self.bound)
        return losses.mean(), at_exits, above / len(losses)


def control_of(kind, bound):
    """Return the procedure that certifies policies."""
    if kind == "expectation":
        return ExpectationControl(bound, np.nan)
    return RiskControl(bound, CONFIDENCE, per_exit=kind == "per exit")


def draw(kind, known, judge, n_samples, rng):
    """Choose a policy on new samples; return its true risks, speed-up and whether it passed."""
    rows = rng.randint(len(known.risk.losses), size=n_samples)
    all_samples = np.ones(n_samples, dtype=bool)
    risk = replace(known.risk, losses=known.risk.losses[rows], concerned=all_samples)
    offered = PolicyGrid.from_parameter("all", known.staged.n_layers)
    groups = Groups.from_labels(None, all_samples)
    control = control_of(kind, known.bound)
    certification = control.certify(known.staged.take(rows), risk, groups, offered, rng)
    found = certification.candidates
    certified = np.flatnonzero(found["certified"])
    if not len(certified):
        return 0.0, 0.0, 0.0, 0.0, False
    best = certified[found["speedup"][certified].argmax()]
    exits = judge.staged.exit_layers(found["tau"][best], int(found["patience"][best]))
    if certification.exit_risks is None:
        size = RiskControl(known.bound, CONFIDENCE)._block_size()
        needed = size * len(exits) / (SHARE_TESTED * n_samples)
        blocks = layers_to_test(exits, judge.staged.n_layers, needed)
    else:
        blocks = [layers_of(name) for name in certification.exit_risks[best]]
    return *judge.risks(exits, blocks), judge.staged.speedup(exits), True


def layers_of(name):
    """Return the layers of a block by its name, such as "2-4"."""
    first, _, last = name.partition("-")
    return np.arange(int(first), int(last or first) + 1)


@dataclass(frozen=True)
class Outcome:
    """Results of many draws; see the table."""

    broken: float
    at_exits: float
    above: float
    risk: float
    certified: float
    speedup: float


def simulate(kind, risk, bound, n_samples, n_draws, *, where="usual", seed=0, size=8000):
    """Choose policies many times, and evaluate them."""
    rng = np.random.RandomState(seed)
    known = Judge.of(*population("usual" if where == "drifted" else where, size), risk, bound)
    judge = Judge.of(*population(where, size), risk, bound)
    draws = [draw(kind, known, judge, n_samples, rng) for _ in range(n_draws)]
    overall, at_exits, above, speedups, certified = (
        np.array(column) for column in zip(*draws, strict=True)
    )
    return Outcome(
        np.mean(overall > bound),
        np.mean(at_exits > bound),
        above.mean(),
        overall.mean(),
        certified.mean(),
        speedups.mean(),
    )


def kept(file, heading):
    """Return the rows of an existing table with the same heading."""
    lines = file.read_text().splitlines() if file and file.exists() else [""]
    return lines[4:] if lines[0] == heading else []


def row(kind, n_samples, n_draws, *, where, risk, bound, done=()):
    """Return one row of the table, an existing one or a simulated one."""
    before = f"| {where} | {kind} | {risk} | {bound} | {n_samples} | "
    for line in done:
        if line.startswith(before):
            return line
    found = simulate(kind, risk, bound, n_samples, n_draws, where=where)
    return (
        f"{before}{found.broken:.3f} | "
        f"{found.at_exits:.3f} | {found.above:.3f} | {found.risk:.4f} | {found.certified:.3f} | "
        f"{found.speedup:.3f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--jobs", type=int, default=1, help="rows made at a time")
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    arguments = parser.parse_args()
    heading = (
        f"{platform.machine()}, numpy {version('numpy')}, scipy {version('scipy')}; command: "
        f"`python -m benchmarks.exit_guarantees`, {arguments.draws} draws a row, confidence "
        f"{CONFIDENCE}."
    )
    file = arguments.out and arguments.out / "exit_guarantees.md"
    done = kept(file, heading)
    head = [COLUMNS, ["---"] * len(COLUMNS)]
    lines = [heading, "", *(f"| {' | '.join(cells)} |" for cells in head)]
    print(*lines, sep="\n", flush=True)
    rows = Parallel(arguments.jobs, return_as="generator")(
        delayed(row)(
            kind, n_samples, arguments.draws, where=where, risk=risk, bound=bound, done=done
        )
        for where, risk, bound, kinds in ROWS
        for kind in kinds
        for n_samples in arguments.sizes
    )
    for line in rows:
        print(line, flush=True)
        lines.append(line)
        if file:
            later = [before for before in done if before not in lines]
            file.write_text("\n".join(lines + later) + "\n")


if __name__ == "__main__":
    main()
