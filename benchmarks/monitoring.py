"""Simulate audits and monitors of early exits: false alarms, missed alarms and delays.

Run from the repository root:

    python -m benchmarks.monitoring

With ``--out FOLDER`` the tables are also written to ``monitoring.md`` there. All draws are
simulated in parallel, with the functions of `ExitAudit` and `ExitMonitor`.

**Audit.** Each row has a stream of disagreements with full depth over 10,000 audited samples, and a
limit ("promise"). "false" is the share of draws with an alarm before the limit is exceeded (should
be at most 0.05), "missed" the share without an alarm at the end, "delay" the median number of
audited samples from the change to the alarm, "outside" the share of draws in which the mean
disagreement was ever outside the interval (should be at most 0.05). Changes come after 2,000
audited samples.

**Tightening.** A population of staged probabilities (`benchmarks.risk_control`) changes after 3,000
of 9,000 audited samples, at once or slowly over 4,000, and with it the disagreement of the policy.
For the policy in use: "before" is its disagreement before the change (from the first full window
on), averaged over draws; "largest" is the maximum of this average after the change, and "at the
end" its last value; "above" is the share of draws and audited samples after the change with a
disagreement above the limit. "untightened" is the disagreement at the end without tightening.
"layers" is the mean exit layer before the change, with tightening and "as tuned".

**Monitor.** Exits and entropies of the same population under one policy, with a number of
calibration samples and 5,000 new samples, which change after 1,000. "false" is the share of draws
with an alarm before the change (should be at most 0.05).
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import astuple, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.risk_control import staged_population
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee.monitoring._confidence import log_capital
from sklearn_epee.monitoring._conformal import N_ENTROPY_CELLS, conformal_p, entropy_cells
from sklearn_epee.monitoring._evidence import (
    N_UNIFORM_BETS,
    Evidence,
    rate_bets,
    uniform_factors,
)
from sklearn_epee.monitoring._policies import stricter_policies
from sklearn_epee.monitoring._recent import Recent, first_kept, most_allowed

LEVEL = 0.05
N_AUDITED, CHANGE = 10_000, 2_000
N_TIGHTENED, NEW_RATE, SLOWLY = 9_000, 3_000, 4_000
TIGHTENED = (
    ("calm", 0, 1000),
    ("harder", 0, 1000),
    ("harder", SLOWLY, 1000),
    ("catastrophic", 0, 1000),
    ("catastrophic", SLOWLY, 1000),
    ("calm", 0, 2000),
    ("harder", 0, 2000),
    ("harder", SLOWLY, 2000),
)
N_WATCHED, NEW_KIND = 5_000, 1_000
POLICY = (0.2, 4)
CHECKED_EVERY = 10


# ------------------------------------------------------------------------------- audits


def constant(rate):
    """Return a constant disagreement."""
    return np.full(N_AUDITED, rate)


def wandering(highest):
    """Return a disagreement that rises and falls, up to a maximum."""
    return highest * (0.5 + 0.5 * np.sin(np.arange(N_AUDITED) / 300))


def jump(before, after):
    """Return a disagreement that changes at once."""
    return np.where(np.arange(N_AUDITED) < CHANGE, before, after)


def ramp(before, after):
    """Return a disagreement that changes over 4,000 audited samples."""
    way = np.clip((np.arange(N_AUDITED) - CHANGE) / 4000, 0, 1)
    return before + way * (after - before)


# Name, promise, disagreements.
STREAMS = (
    ("as promised", 0.05, constant(0.05)),
    ("as promised, rare", 0.005, constant(0.005)),
    ("up to the promise and down", 0.05, wandering(0.05)),
    ("half of it", 0.05, constant(0.025)),
    ("jump to 1.5 times", 0.05, jump(0.025, 0.075)),
    ("jump to 2 times", 0.05, jump(0.025, 0.1)),
    ("jump to 4 times", 0.05, jump(0.025, 0.2)),
    ("slowly to 2 times", 0.05, ramp(0.025, 0.1)),
    ("rare, jump to 2 times", 0.005, jump(0.002, 0.01)),
    ("rare, jump to 6 times", 0.005, jump(0.002, 0.03)),
)


@dataclass(frozen=True)
class Watch:
    """Results of many draws; see the tables."""

    false: float
    missed: float
    delay: float
    outside: float = np.nan


def watch_rates(rates, promise, n_draws, seed=0):
    """Audit a stream of disagreements, for all draws in parallel."""
    rng = np.random.default_rng(seed)
    bets = rate_bets(promise)
    evidence = Evidence.start((n_draws, len(bets)))
    alarm = np.full(n_draws, len(rates))
    outside, happened = np.zeros(n_draws, dtype=bool), np.zeros(n_draws)
    means = rates.cumsum() / np.arange(1, len(rates) + 1)
    for step, rate in enumerate(rates):
        loss = (rng.random(n_draws) < rate).astype(np.float64)
        evidence = evidence.after(1 + bets * (loss[:, np.newaxis] - promise))
        alarm = np.where((evidence.now >= 1 / LEVEL) & (alarm > step), step, alarm)
        happened += loss
        if step % CHECKED_EVERY == 0:
            against = log_capital(step + 1, happened, np.array(means[step]))
            outside |= against >= -np.log(LEVEL)
    broken = np.flatnonzero(rates > promise)
    return outcome(alarm, broken[0] if len(broken) else len(rates), len(rates), outside)


def outcome(alarm, change, end, outside=None):
    """Count false and missed alarms, and measure delays."""
    late = alarm[alarm >= change]
    found = late[late < end]
    return Watch(
        np.mean(alarm < change),
        np.mean(late >= end) if change < end else np.nan,
        np.median(found) - change if len(found) else np.nan,
        np.nan if outside is None else outside.mean(),
    )


# --------------------------------------------------------------------------- tightening


def drifted(kind, proba, codes):
    """Return the staged probabilities of a population after a change."""
    rng = np.random.default_rng(1)
    proba = proba.copy()
    if kind == "harder":  # half of the samples have less evidence, especially at early layers
        rows = np.flatnonzero(rng.random(len(codes)) < 0.5)
        noisy = np.log(proba[rows]) + rng.normal(size=proba[rows].shape) * 1.5
        noisy -= noisy.max(axis=2, keepdims=True)
        proba[rows] = np.exp(noisy) / np.exp(noisy).sum(axis=2, keepdims=True)
    elif kind == "catastrophic":  # confident of a wrong class at layers 1 and 2
        rows = np.flatnonzero(rng.random(len(codes)) < 0.04)
        wrong = (codes[rows] + rng.integers(1, 4, size=len(rows))) % 4
        proba[rows, :2] = 0.001
        proba[rows[:, np.newaxis], [0, 1], wrong[:, np.newaxis]] = 0.997
    return proba


def disagreements(proba, policies):
    """Return whether samples differ from full depth under some policies, (n, n_policies)."""
    staged = StagedPredictions.from_proba([proba])
    predictions, rows = staged.predictions[..., 0], np.arange(staged.n_samples)
    return np.column_stack([
        predictions[rows, staged.exit_layers(*policy) - 1] != predictions[:, -1]
        for policy in policies
    ])  # fmt: skip


@dataclass(frozen=True)
class Tightened:
    """Disagreements of the policy in use; see the tables."""

    before: float
    untightened: float
    largest: float
    at_the_end: float
    above: float
    layers: float
    layers_as_tuned: float


def tighten(kind, promise, n_draws, *, slowly=0, window=1000, seed=0):
    """Audit with tightening, for all draws in parallel.

    Parameters
    ----------
    kind : {"calm", "harder", "catastrophic"}
    promise : float
    n_draws : int
    slowly : int, default=0
        Number of audited samples over which the change takes place; 0: at once.
    window : int, default=1000
    seed : int, default=0
    """
    rng = np.random.default_rng(seed)
    proba, codes = staged_population()
    n_layers = proba.shape[1]
    stricter = stricter_policies(POLICY, 10, n_layers)
    policies = [POLICY, *((tau, patience or n_layers) for tau, patience in stricter)]
    old = new = disagreements(proba, policies)
    if kind != "calm":
        new = disagreements(drifted(kind, proba, codes), policies)
    share = np.clip((np.arange(N_TIGHTENED) - NEW_RATE + 1) / max(slowly, 1), 0, 1)
    rates = old.mean(axis=0) + share[:, np.newaxis] * (new.mean(axis=0) - old.mean(axis=0))
    recent = Recent(window, (n_draws, len(policies)))
    allowed = most_allowed(window, promise, 1 - LEVEL)
    evidence = Evidence.start((n_draws, len(policies), rate_bets(promise).shape[-1]))
    chosen = np.zeros((N_TIGHTENED, n_draws), dtype=np.int64)
    for step in range(N_TIGHTENED):
        alarmed = np.logical_and.accumulate(evidence.largest >= 1 / LEVEL, axis=1).sum(axis=1)
        chosen[step] = np.minimum(
            np.maximum(alarmed, first_kept(recent.counts, allowed)), len(policies) - 1
        )
        rows = rng.integers(len(codes), size=n_draws)
        is_new = rng.random(n_draws) < share[step]
        differs = np.where(is_new[:, np.newaxis], new[rows], old[rows])
        recent.add(differs)
        factors = 1 + rate_bets(promise) * (differs[..., np.newaxis] - promise)
        evidence = evidence.after(factors)
    in_force = np.take_along_axis(rates, chosen, axis=1)
    after = in_force[NEW_RATE:]
    staged = StagedPredictions.from_proba([proba])
    layers = np.array([staged.exit_layers(*policy).mean() for policy in policies])
    return Tightened(
        before=in_force[window:NEW_RATE].mean(),
        untightened=rates[-1, 0],
        largest=after.mean(axis=1).max(),
        at_the_end=after[-1].mean(),
        above=(after > promise).mean(),
        layers=layers[chosen[window:NEW_RATE]].mean(),
        layers_as_tuned=layers[0],
    )


# ----------------------------------------------------------------------------- monitors


def exits_and_cells(proba):
    """Return the cells of exit layers and entropies of a population under the policy."""
    staged = StagedPredictions.from_proba([proba])
    exits = staged.exit_layers(*POLICY)
    entropies = staged.joint_entropies[np.arange(len(exits)), exits - 1]
    return exits - 1, entropy_cells(entropies)


def counted(cells, n_cells):
    """Count cells of many draws, (n_draws, n_samples) -> (n_draws, n_cells)."""
    n_draws = len(cells)
    flat = cells + n_cells * np.arange(n_draws)[:, np.newaxis]
    return np.bincount(flat.ravel(), minlength=n_draws * n_cells).reshape(n_draws, n_cells)


def watch_exits(kind, n_calibration, n_draws, seed=0):
    """Monitor exits and entropies, for all draws in parallel."""
    rng = np.random.default_rng(seed)
    proba, codes = staged_population()
    calm = exits_and_cells(proba)
    changed = calm if kind == "calm" else exits_and_cells(drifted(kind, proba, codes))
    sizes = (proba.shape[1], N_ENTROPY_CELLS)
    drawn = rng.integers(len(codes), size=(n_draws, n_calibration))
    counts = [counted(cells[drawn], size) for cells, size in zip(calm, sizes, strict=True)]
    evidence = Evidence.start((n_draws, 2 * N_UNIFORM_BETS))
    alarm, rows = np.full(n_draws, N_WATCHED), np.arange(n_draws)
    for step in range(N_WATCHED):
        new = rng.integers(len(codes), size=n_draws)
        cells = [stream[new] for stream in (changed if step >= NEW_KIND else calm)]
        p = [
            conformal_p(c, cell, rng.random(n_draws)) for c, cell in zip(counts, cells, strict=True)
        ]
        for count, cell in zip(counts, cells, strict=True):
            count[rows, cell] += 1
        evidence = evidence.after(np.concatenate([uniform_factors(one) for one in p], axis=-1))
        alarm = np.where((evidence.now >= 1 / LEVEL) & (alarm > step), step, alarm)
    return outcome(alarm, N_WATCHED if kind == "calm" else NEW_KIND, N_WATCHED)


# ------------------------------------------------------------------------------- tables


def shown(number, digits=3):
    """Return a number as text, or "" for NaN."""
    return "" if np.isnan(number) else f"{number:.{digits}f}"


def lines_of(n_draws):
    """Yield the lines of all tables."""
    yield (
        f"{platform.machine()}, numpy {version('numpy')}; command: "
        f"`python -m benchmarks.monitoring`, {n_draws} draws a row, false-alarm rate {LEVEL}."
    )
    yield from ("", "| audit | promise | false | missed | delay | outside |")
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, promise, rates in STREAMS:
        found = watch_rates(rates, promise, n_draws)
        yield (
            f"| {name} | {promise} | {shown(found.false)} | {shown(found.missed)} | "
            f"{shown(found.delay, 0)} | {shown(found.outside)} |"
        )
    yield ""
    names = [field.name.replace("_", " ") for field in fields(Tightened)]
    yield f"| tightening | change | window | {' | '.join(names)} |"
    yield "| --- " * (len(names) + 3) + "|"
    for kind, slowly, window in TIGHTENED:
        found = tighten(kind, 0.05, n_draws, slowly=slowly, window=window)
        how = "" if kind == "calm" else f"over {slowly:,}" if slowly else "at once"
        numbers = " | ".join(shown(value) for value in astuple(found))
        yield f"| {kind} | {how} | {window:,} | {numbers} |"
    yield from ("", "| monitor | calibration | false | missed | delay |")
    yield "| --- | --- | --- | --- | --- |"
    for kind in ("calm", "harder", "catastrophic"):
        for n_calibration in (500, 2000):
            found = watch_exits(kind, n_calibration, n_draws)
            yield (
                f"| {kind} | {n_calibration} | {shown(found.false)} | {shown(found.missed)} | "
                f"{shown(found.delay, 0)} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    arguments = parser.parse_args()
    lines = []
    for line in lines_of(arguments.draws):
        print(line, flush=True)
        lines.append(line)
        if arguments.out:
            (arguments.out / "monitoring.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
