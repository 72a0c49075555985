"""Simulate risk-controlled exit policies: how often the bound is exceeded, and the speed-up.

Run from the repository root:

    python -m benchmarks.risk_control

With ``--out FOLDER`` the table is also written to ``risk_control.md`` there, after every row.

Calibration samples are repeatedly drawn, with replacement, from a population of staged
probabilities, on which the true risk of the chosen policy is computed. Columns of a row: the share
of draws whose chosen policy has a true risk above the bound (should be at most 0.05), the share in
which a policy was certified, the mean speed-up ratio of the chosen policy on the population (0 if
none was certified), that of the fastest policy within the bound (the oracle), and the mean
difference.
"""

from __future__ import annotations

import argparse
import math
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.special import xlog1py, xlogy
from scipy.stats import binom

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import PolicyGrid
from sklearn_epee.model_selection._p_values import betting
from sklearn_epee.model_selection._risk_control import Groups, RiskControl
from sklearn_epee.model_selection._risks import Risk, risk_of

CONFIDENCE = 0.95
SIZES = (500, 1000, 2000, 5000)
BOUNDS = {"accuracy_drop": (0.01, 0.02), "disagreement": (0.02, 0.05), "error": (0.12,)}
N_ORACLE_TAUS = 1000


def hoeffding_bentkus(losses, bound, lowest=0.0):
    """Test losses between `lowest` and 1 with the inequality of Learn then Test [1]_.

    Parameters
    ----------
    losses : ndarray of shape (n,)
    bound  in (lowest, 1)
    lowest , default=0.0
        Losses are mapped to [0, 1] first.

    Returns
    -------
    float

    References
    ----------
    .. [1] A. N. Angelopoulos et al., "Learn then Test: calibrating predictive algorithms to achieve
       risk control", arXiv:2110.01052.
    """
    n = len(losses)
    bound = (bound - lowest) / (1 - lowest)
    total = float(((losses - lowest) / (1 - lowest)).sum())
    mean = min(total / n, bound)
    divergence = xlogy(mean, mean / bound) + xlog1py(1 - mean, (bound - mean) / (1 - bound))
    hoeffding = math.exp(-n * divergence)
    # Rounding errors must not count as an additional loss.
    bentkus = math.e * binom.cdf(math.ceil(total - 1e-9), n, bound)
    return float(min(1.0, hoeffding, bentkus))


def bet_on(risk, losses, bound, level, seen):
    """Test by betting, for any losses."""
    del risk
    return betting(losses, bound, level, seen) if len(losses) else 1.0


def bound_by_hoeffding_bentkus(risk, losses, bound, level, seen):
    """Test using only the range of the losses, which starts at -1 for an accuracy drop."""
    del level, seen
    lowest = -1.0 if risk.is_relative and not risk.is_binary else 0.0
    return hoeffding_bentkus(losses, bound, lowest) if len(losses) else 1.0


# "auto" is that of the tuned classifier: binomial if losses are 0 or 1, otherwise betting.
P_VALUES = {
    "auto": Risk.p_value,
    "betting": bet_on,
    "hoeffding_bentkus": bound_by_hoeffding_bentkus,
}


def staged_population(n_samples=20_000, n_layers=6, n_classes=4, seed=0):
    """Generate staged probabilities similar to those of a fine-tuned network, and true columns.

    Evidence for the true class increases with depth and saturates, samples differ in difficulty,
    noise is correlated between layers, and all layers are overconfident. The accuracy is about 0.9
    at full depth and 0.7 at layer 1.
    """
    rng = np.random.default_rng(seed)
    shares = np.array([0.5, 0.25, 0.15, 0.1, *[0.1] * n_classes][:n_classes])
    codes = rng.choice(n_classes, size=n_samples, p=shares / shares.sum())
    ease = rng.gamma(2.0, size=n_samples)
    logits = np.empty((n_samples, n_layers, n_classes))
    noise = rng.normal(size=(n_samples, n_classes))
    for layer in range(n_layers):
        logits[:, layer] = 0.9 * noise
        logits[np.arange(n_samples), layer, codes] += 2.2 * (1 - 0.62 ** (layer + 1)) * ease
        noise = 0.8 * noise + 0.6 * rng.normal(size=noise.shape)
    logits *= np.linspace(1.6, 1.8, n_layers)[:, np.newaxis]
    proba = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (proba / proba.sum(axis=2, keepdims=True)).astype(np.float32), codes


@dataclass(frozen=True)
class Promise:
    """A risk in a population, the groups for which it is bounded, and the bound."""

    staged: StagedPredictions
    risk: object
    groups: Groups
    bound: float

    @classmethod
    def on(cls, proba, codes, risk, bound, *, per_class=False):
        """Create it from the parameters of the tuned classifier."""
        staged = StagedPredictions.from_proba([proba])
        classes = np.arange(proba.shape[2])
        losses = risk_of(risk, staged.predictions, codes[:, np.newaxis], Tasks(classes))
        groups = Groups.from_labels(codes if per_class else None, losses.concerned)
        return cls(staged, losses, groups, bound)

    def true_risk(self, exits):
        """Return the largest risk over the groups, for exit layers of the population."""
        losses = self.risk.losses[np.arange(len(exits)), exits - 1]
        return max(losses[member].mean() for member in self.groups.members)

    def oracle_speedup(self):
        """Return the speed-up of the fastest policy whose true risk is within the bound."""
        space = PolicySpace(self.staged)
        taus = space.quantile_taus(N_ORACLE_TAUS)
        fastest = 0.0
        for patience in range(1, space.n_layers + 1):
            sweep = space.sweep(patience, taus)
            risks = [
                sweep.total(self.risk.losses * member[:, np.newaxis]) / member.sum()
                for member in self.groups.members
            ]
            within = np.max(risks, axis=0) <= self.bound
            speedups = 1 - sweep.total_layers() / self.risk.losses.size
            fastest = max(fastest, speedups[within].max(initial=0.0))
        return fastest

    def draw(self, n_samples, p_value, rng):
        """Return true risk and speed-up of the policy for new samples, and whether it passed."""
        rows = rng.randint(len(self.risk.losses), size=n_samples)
        risk = replace(
            self.risk, losses=self.risk.losses[rows], concerned=self.risk.concerned[rows]
        )
        control = RiskControl(self.bound, CONFIDENCE, P_VALUES[p_value])
        offered = PolicyGrid.from_parameter("all", self.staged.n_layers)
        candidates = control.certify(
            self.staged.take(rows), risk, self.groups.take(rows), offered, rng
        ).candidates
        certified = np.flatnonzero(candidates["certified"])
        tau, patience = 0.0, self.staged.n_layers
        if len(certified):
            best = certified[candidates["speedup"][certified].argmax()]
            tau, patience = candidates["tau"][best], candidates["patience"][best]
        exits = self.staged.exit_layers(tau, patience)
        speedup = 1 - exits.mean() / self.staged.n_layers
        return self.true_risk(exits), speedup, bool(len(certified))


@dataclass(frozen=True)
class Outcome:
    """Results of many draws."""

    violations: float
    certified: float
    speedup: float
    oracle: float


def simulate(promise, n_samples, n_draws, *, p_value="auto", seed=0):
    """Draw calibration samples many times, and evaluate the chosen policies on the population.

    Without a certified policy, the bound is not exceeded.
    """
    rng = np.random.RandomState(seed)
    draws = [promise.draw(n_samples, p_value, rng) for _ in range(n_draws)]
    risks, speedups, certified = (np.array(column) for column in zip(*draws, strict=True))
    violations = np.mean(certified & (risks > promise.bound))
    return Outcome(violations, certified.mean(), speedups.mean(), promise.oracle_speedup())


def graded_error(y, answers, at_full_depth):
    """Return a loss between 0 and 1: the distance of the predicted class from the true one."""
    del at_full_depth
    return np.abs(y - answers) / 3


def promises(proba, codes):
    """Yield the name, the promise and the p-values to compare."""
    binary = tuple(P_VALUES)
    other = binary[1:]  # "auto" is betting there
    for risk, bounds in BOUNDS.items():
        for bound in bounds:
            p_values = other if risk == "accuracy_drop" else binary
            yield risk, Promise.on(proba, codes, risk, bound), p_values
    yield "miss, class 3", Promise.on(proba, codes, ("miss", 3), 0.4), binary
    yield "graded error", Promise.on(proba, codes, graded_error, 0.08), other
    by_class = Promise.on(proba, codes, "disagreement", 0.05, per_class=True)
    yield "disagreement, per class", by_class, binary


@dataclass(frozen=True)
class Task:
    """One row of the table."""

    name: str
    promise: Promise
    n_samples: int
    p_value: str

    def row(self, n_draws):
        """Simulate; return the row."""
        found = simulate(self.promise, self.n_samples, n_draws, p_value=self.p_value)
        return (
            f"| {self.name} | {self.promise.bound} | {self.n_samples} | {self.p_value} | "
            f"{found.violations:.3f} | {found.certified:.3f} | {found.speedup:.3f} | "
            f"{found.oracle:.3f} | {found.oracle - found.speedup:.3f} |"
        )


def tasks(risks, sizes):
    """Yield the tasks of all rows."""
    for name, promise, p_values in promises(*staged_population()):
        if risks is None or name in risks:
            for n_samples in sizes:
                for p_value in p_values:
                    yield Task(name, promise, n_samples, p_value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--risks", nargs="+", help="names as in the first column; default: all")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--jobs", type=int, default=1, help="rows made at a time")
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    arguments = parser.parse_args()
    heading = (
        f"{platform.machine()}, numpy {version('numpy')}, scipy {version('scipy')}; command: "
        f"`python -m benchmarks.risk_control`, {arguments.draws} draws a row, confidence "
        f"{CONFIDENCE}."
    )
    lines = [
        heading,
        "",
        "| risk | bound | samples | p-value | violated | certified | speed-up | oracle | lost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print(*lines, sep="\n", flush=True)
    rows = Parallel(arguments.jobs, return_as="generator")(
        delayed(task.row)(arguments.draws) for task in tasks(arguments.risks, arguments.sizes)
    )
    for row in rows:
        print(row, flush=True)
        lines.append(row)
        if arguments.out:
            (arguments.out / "risk_control.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
