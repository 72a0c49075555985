"""Simulate prediction sets: how often they miss the true class, and how large they are.

Run from the repository root:

    python -m benchmarks.prediction_sets

With ``--out FOLDER`` the table is also written to ``prediction_sets.md`` there, after every row.

Calibration samples are repeatedly drawn, with replacement, from a population of staged
probabilities, and sets are evaluated on other samples of the population. For "any_policy", the exit
policy is the one with the lowest coverage on the calibration samples themselves, the worst possible
choice; for "policy", it is fixed beforehand.

Populations: "usual" is that of `benchmarks.risk_control`. In "catastrophic", 2 % of the samples are
confident of a wrong class at the first two layers and correct later. In "drifted", sets are
calibrated on "usual" and evaluated on a population in which 15 % of the samples look like another
class; the coverage is not guaranteed there.

Columns of a row: the mean share of samples whose true class is not in the set at their exit (should
be at most 0.1), its standard deviation over the draws, the largest such mean of any class (should
be at most 0.1 with per_class) and, at the exits of the fixed policy, the mean number of classes in
a set and the share of sets with one class. "each exit by itself" is the usual, invalid procedure: a
separate conformal limit for every exit, and the set of the exit that depends on the data.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.risk_control import staged_population
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee.model_selection._nested_sets import NestedSets, conformal_quantile

COVERAGE = 0.9
SIZES = (200, 1000)
POPULATIONS = ("usual", "catastrophic", "drifted")
POLICIES = [(tau, patience) for tau in (0.05, 0.2, 0.4, 0.7) for patience in (2, 3, 6)]
FIXED_POLICY = (0.2, 3)
N_JUDGED = 1000


def population(kind, n_samples=20_000):
    """Return staged probabilities (n, 6, 4) and true columns of a population."""
    proba, codes = staged_population(n_samples)
    if kind == "usual":
        return proba, codes
    rng = np.random.default_rng(1)
    if kind == "catastrophic":
        rows = np.flatnonzero(rng.random(n_samples) < 0.02)
        wrong = (codes[rows] + rng.integers(1, 4, size=len(rows))) % 4
        proba[rows, :2] = 0.001
        proba[rows[:, np.newaxis], [0, 1], wrong[:, np.newaxis]] = 0.997
        return proba, codes
    # 15 % of the samples look like another class.
    moved = rng.random(n_samples) < 0.15
    return proba, np.where(moved, (codes + rng.integers(1, 4, size=n_samples)) % 4, codes)


@dataclass(frozen=True)
class Outcome:
    """Results of many draws; see the table."""

    missed: float
    spread: float
    worst_class: float
    size: float
    single: float


class ExitByExit:
    """Sets with a separate conformal limit for every exit."""

    def __init__(self, proba, codes):
        misfit = 1.0 - proba[np.arange(len(codes)), :, codes]
        self._limits = [conformal_quantile(column, COVERAGE) for column in misfit.T]

    def staged(self, proba, *, allow_empty):
        """Yield the set of every exit."""
        del allow_empty
        for layer, limit in enumerate(self._limits):
            yield 1.0 - proba[:, layer] <= limit


def make_sets(proba, codes, exits, *, valid_for, per_class, rng):
    """Make the sets of one draw."""
    if valid_for == "each exit by itself":
        return ExitByExit(proba, codes)
    layers = np.arange(1, proba.shape[1] + 1)
    visited = layers <= (exits[:, np.newaxis] if valid_for == "policy" else proba.shape[1])
    visited = np.broadcast_to(visited, proba.shape[:2])
    return NestedSets.learn(proba, codes, visited, coverage=COVERAGE, per_class=per_class, rng=rng)


def all_sets(sets, proba):
    """Return the sets of all exits, (n, 6, 4)."""
    return np.stack(list(sets.staged(proba, allow_empty=True)), axis=1)


def exits_of(proba):
    """Return exit layers of a population under every policy, (n, n_policies)."""
    staged = StagedPredictions.from_proba([proba])
    return np.column_stack([staged.exit_layers(*policy) for policy in POLICIES])


def simulate(proba, codes, n_samples, n_draws, *, valid_for, per_class=False, judged=None, seed=0):
    """Draw samples many times, calibrate sets on them, and evaluate these on others."""
    rng = np.random.RandomState(seed)
    new_proba, new_codes = (proba, codes) if judged is None else judged
    exits, new_exits = exits_of(proba), exits_of(new_proba)
    fixed, order = POLICIES.index(FIXED_POLICY), np.arange(N_JUDGED)
    rows = []
    for _ in range(n_draws):
        drawn = rng.randint(len(codes), size=n_samples)
        mine, known, policy = proba[drawn], codes[drawn], fixed
        sets = make_sets(
            mine, known, exits[drawn, fixed], valid_for=valid_for, per_class=per_class, rng=rng
        )
        if valid_for != "policy":  # the worst one for the samples that made the sets
            covered = all_sets(sets, mine)[np.arange(n_samples), :, known]
            policy = np.take_along_axis(covered, exits[drawn] - 1, axis=1).mean(axis=0).argmin()
        fresh = rng.randint(len(new_codes), size=N_JUDGED)
        found, truth = all_sets(sets, new_proba[fresh]), new_codes[fresh]
        missed = ~found[order, new_exits[fresh, policy] - 1, truth]
        sizes = found[order, new_exits[fresh, fixed] - 1].sum(axis=1)
        by_class = [missed[truth == k].mean() for k in range(proba.shape[2])]
        rows.append([missed.mean(), sizes.mean(), (sizes == 1).mean(), *by_class])
    table = np.array(rows)
    mean = table.mean(axis=0)
    return Outcome(mean[0], table[:, 0].std(), mean[3:].max(), mean[1], mean[2])


def tasks():
    """Yield population, what the sets are valid for, and whether they are per class."""
    for kind in POPULATIONS:
        for valid_for in ("any_policy", "policy"):
            for per_class in (False, True):
                yield kind, valid_for, per_class
        yield kind, "each exit by itself", False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    arguments = parser.parse_args()
    heading = (
        f"{platform.machine()}, numpy {version('numpy')}; command: "
        f"`python -m benchmarks.prediction_sets`, {arguments.draws} draws a row, coverage "
        f"{COVERAGE}."
    )
    lines = [
        heading,
        "",
        "| population | valid for | by class | n | missed | spread | worst class | size | one |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print(*lines, sep="\n", flush=True)
    for kind, valid_for, per_class in tasks():
        made_on = population("usual" if kind == "drifted" else kind)
        judged = population(kind) if kind == "drifted" else None
        for n_samples in arguments.sizes:
            found = simulate(
                *made_on,
                n_samples,
                arguments.draws,
                valid_for=valid_for,
                per_class=per_class,
                judged=judged,
            )
            lines.append(
                f"| {kind} | {valid_for} | {'yes' if per_class else 'no'} | {n_samples} | "
                f"{found.missed:.4f} | {found.spread:.4f} | {found.worst_class:.4f} | "
                f"{found.size:.2f} | {found.single:.3f} |"
            )
            print(lines[-1], flush=True)
            if arguments.out:
                (arguments.out / "prediction_sets.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
