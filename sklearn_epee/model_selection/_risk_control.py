"""Policies with a guarantee: Learn then Test, by fixed sequence testing along a Pareto front.

One part of the calibration samples is used to find candidate policies and to order them, from the
one with the strongest evidence for a risk below the bound to the fastest. On the other part, the
candidates are tested in this order. The null hypothesis is that the risk is above the bound; all
candidates before the first one for which it is not rejected are certified. The probability that any
of them has a risk above the bound is at most 1 - confidence, for any network, any number of samples
and any way to find the candidates.

References
----------
A. N. Angelopoulos et al., "Learn then Test: calibrating predictive algorithms to achieve risk
control", arXiv:2110.01052.

B. Laufer-Goldshtein et al., "Efficiently controlling multiple risks with Pareto testing",
International Conference on Learning Representations (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.sweep import PolicySpace, StagedExits, Sweep
from sklearn_epee._exits.tables import PolicyGrid, Table, concatenate, pareto_front, take

from ._exit_blocks import block_evidence, block_name, layers_to_test
from ._p_values import smallest_sample
from ._risks import Risk

PValue = Callable[[Risk, Floats, float, float, Floats], float]

# Chosen by simulation, see benchmarks/risk_control.py.
CANDIDATE_SHARE = 0.3
N_CANDIDATES = 100
N_CAUTIOUS = 25
N_CANDIDATE_TAUS = 200
_MIN_VARIANCE = 0.1  # divided by the number of samples
# Smallest size of a block of early layers, in multiples of the size that suffices without losses.
_BLOCK_SIZE = 1.5


@dataclass(frozen=True)
class Groups:
    """Groups of samples for each of which the bound has to hold.

    Attributes
    ----------
    names : list or None
        Name of each group; None for a single group of all samples.
    members : list of ndarray of bool of shape (n_samples,)
        Which samples belong to each group.
    together : ndarray of shape (n_samples,), int, or None, default=None
        Indices from 0 of units that must not be split, such as patients.
    """

    names: list[Any] | None
    members: list[NDArray[np.bool_]]
    together: Integers | None = None

    @classmethod
    def from_labels(
        cls,
        labels: NDArray[Any] | None,
        concerned: NDArray[np.bool_],
        names: NDArray[Any] | None = None,
    ) -> Groups:
        """Create one group per name, or a single one, from the samples that a risk concerns.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,) or None
            The group of each sample; None for a single group.
        concerned : ndarray of shape (n_samples,), bool
        names : ndarray of shape (n_groups,), default=None
            All groups with a guarantee, including those without samples. None: those in `labels`.
        """
        if labels is None:
            return cls(None, [concerned])
        names = np.unique(labels) if names is None else names
        return cls(names.tolist(), [(labels == name) & concerned for name in names])

    def take(self, rows: Integers) -> Groups:
        """Return the groups of some of the samples."""
        return Groups(self.names, [member[rows] for member in self.members])


@dataclass(frozen=True)
class Parts:
    """Rows of the samples for finding candidates (`seen`) and for testing them (`tested`)."""

    seen: Integers
    tested: Integers


@dataclass(frozen=True)
class Certification:
    """Results of the tests.

    Attributes
    ----------
    candidates : dict of ndarray
        Columns "tau", "patience", "speedup", "risk" (largest over the groups), "p_value" (largest)
        and "certified", in the order of the tests; measured on the tested samples.
    group_names : list or None
    group_risks : ndarray of shape (n_candidates, n_groups)
    group_sizes : ndarray of shape (n_groups,), int
        Number of tested samples per group.
    tested : ndarray of shape (n_tested,), int
        Rows of the tested samples.
    exit_risks : list of dict of float, or None
        For every candidate, the risk among the samples that exit in each block of early layers, and
        at single layers of larger blocks; None if these were not tested.
    """

    candidates: Table
    group_names: list[Any] | None
    group_risks: Floats
    group_sizes: Integers
    tested: Integers
    exit_risks: list[dict[str, float]] | None = None


@dataclass(frozen=True)
class RiskControl:
    """A bound on the risk of new samples, and the confidence in it.

    Attributes
    ----------
    bound : float in (0, 1)
    confidence : float in (0, 1)
    p_value : callable, default=Risk.p_value
        Test of a policy; takes a risk and the arguments of `Risk.p_value`.
    per_exit : bool, default=False
        Whether the bound also has to hold among the samples that exit in each block of early
        layers, and at each early layer at which enough samples exit. Blocks and layers are
        determined for each policy, on the samples for finding candidates.
    """

    bound: float
    confidence: float
    p_value: PValue = Risk.p_value
    per_exit: bool = False

    @property
    def level(self) -> float:
        """Accepted probability that the guarantee does not hold."""
        return 1.0 - self.confidence

    def certify(
        self,
        staged: StagedExits,
        risk: Risk,
        groups: Groups,
        offered: PolicyGrid,
        rng: np.random.RandomState,
    ) -> Certification:
        """Find candidates on one part of the samples and test them on the other.

        Parameters
        ----------
        staged : StagedPredictions, or StagedSentences
        risk : Risk
        groups : Groups
        offered : PolicyGrid
        rng : numpy.random.RandomState
            Splits the samples.

        Returns
        -------
        Certification
        """
        parts = split_rows(groups, rng)
        seen = parts.seen
        policies = self.find_candidates(
            staged.take(seen), risk.losses[seen], groups.take(seen), offered
        )
        if risk.is_relative:  # no test of full depth, whose risk is 0
            policies = take(policies, np.flatnonzero(policies["speedup"] > 0))
        return self.test_candidates(policies, staged, risk, groups, parts)

    def find_candidates(
        self,
        staged: StagedExits,
        losses: Floats,
        groups: Groups,
        offered: PolicyGrid,
    ) -> Table:
        """Return policies from strong evidence to high speed, along the Pareto front of the two.

        The evidence for a policy is the number of standard errors by which its risk lies below the
        bound, in the worst group. With few samples, many policies have no loss at all and therefore
        the same evidence, and only the fastest of them is on the front. Some slower ones are tested
        before it, because otherwise no policy would be certified if the first test failed.
        """
        space = PolicySpace(staged)
        taus = offered.thresholds(space, N_CANDIDATE_TAUS)
        sweeps = (space.sweep(int(patience), taus) for patience in offered.patiences)
        tables = [self._evidence(space, sweep, losses, groups) for sweep in sweeps]
        front = pareto_front(tables, "evidence")
        n_policies = len(front["tau"])
        if n_policies > N_CANDIDATES:
            rows = np.linspace(0, n_policies - 1, N_CANDIDATES).round().astype(np.intp)
            front = take(front, rows)
        return concatenate([_as_sure_but_slower(concatenate(tables), front), front])

    def _evidence(self, space: PolicySpace, sweep: Sweep, losses: Floats, groups: Groups) -> Table:
        evidence = np.full(len(sweep.taus), np.inf)
        for member in groups.members:
            n = max(int(np.count_nonzero(member)), 1)
            ours = losses * member[:, np.newaxis]
            mean = sweep.total(ours) / n
            variance = np.maximum(sweep.total(ours**2) / n - mean**2, 0) + _MIN_VARIANCE / n
            evidence = np.minimum(evidence, (self.bound - mean) / np.sqrt(variance / n))
        if self.per_exit:
            concerned = np.logical_or.reduce(groups.members)
            needed = self._block_size(CANDIDATE_SHARE / (1 - CANDIDATE_SHARE))
            by_block = block_evidence(sweep, losses, concerned, self.bound, needed)
            evidence = np.minimum(evidence, by_block)
        return {
            "tau": sweep.taus,
            "patience": np.full(len(sweep.taus), sweep.patience),
            "speedup": space.speedups(sweep),
            "evidence": evidence,
        }

    def test_candidates(
        self,
        policies: Table,
        staged: StagedExits,
        risk: Risk,
        groups: Groups,
        parts: Parts,
    ) -> Certification:
        """Test policies in their order; those before the first failed test are certified.

        The largest p-value of the groups is a p-value of the null hypothesis that the risk is above
        the bound in some group, so several groups need no correction for multiple tests.
        """
        seen, tested = parts.seen, parts.tested
        ours = groups.take(tested)
        rows, by_exit = [], []
        for tau, patience in zip(policies["tau"], policies["patience"], strict=True):
            exits = staged.exit_layers(tau, patience)
            losses = risk.losses[np.arange(len(exits)), exits - 1]
            p_values = [
                self._p_value(risk, losses, seen[member[seen]], tested[member[tested]])
                for member in groups.members
            ]
            speedup = staged.take(tested).speedup(exits[tested])
            risks = [_mean(losses[tested[member]]) for member in ours.members]
            blocks = self._test_blocks(risk, losses, exits, groups, parts) if self.per_exit else {}
            by_exit.append({name: mean for name, (mean, _) in blocks.items()})
            p_values += [p_value for _, p_value in blocks.values()]
            largest = largest_risk([*risks, *by_exit[-1].values()])
            rows.append((speedup, largest, max(p_values), *risks))
        measured = np.array(rows).reshape(len(rows), 3 + len(groups.members))
        rejected = measured[:, 2] <= self.level
        candidates = {
            "tau": policies["tau"],
            "patience": policies["patience"],
            "speedup": measured[:, 0],
            "risk": measured[:, 1],
            "p_value": measured[:, 2],
            "certified": np.logical_and.accumulate(rejected),
        }
        sizes = np.array([np.count_nonzero(member) for member in ours.members])
        exit_risks = by_exit if self.per_exit else None
        return Certification(candidates, groups.names, measured[:, 3:], sizes, tested, exit_risks)

    def _block_size(self, share: float = 1.0) -> float:
        """Return the smallest size of a block in a part with `share` samples per tested one."""
        return _BLOCK_SIZE * smallest_sample(self.bound, self.level) * share

    def _test_blocks(
        self, risk: Risk, losses: Floats, exits: Integers, groups: Groups, parts: Parts
    ) -> dict[str, tuple[float, float]]:
        """Return the risk and p-value of each tested block and single early layer."""
        concerned = np.logical_or.reduce(groups.members)
        seen, tested = (rows[concerned[rows]] for rows in (parts.seen, parts.tested))
        n_layers = risk.losses.shape[1]
        needed = self._block_size(len(seen) / max(len(tested), 1))
        found = {}
        for layers in layers_to_test(exits[seen], n_layers, needed):
            first, second = (rows[np.isin(exits[rows], layers)] for rows in (seen, tested))
            p_value = self._p_value(risk, losses, first, second)
            found[block_name(layers)] = (_mean(losses[second]), p_value)
        return found

    def _p_value(self, risk: Risk, losses: Floats, seen: Integers, tested: Integers) -> float:
        return self.p_value(risk, losses[tested], self.bound, self.level, losses[seen])

    def explain_failure(self, certification: Certification, risk: Risk) -> str:
        """Return the message that no policy was certified, with the reason and the fallback."""
        needed = smallest_sample(self.bound, self.level)
        fallback = (
            f"continuing at full depth, where {risk.description} is 0 by definition."
            if risk.is_relative
            else "continuing at full depth, which is not certified either."
        )
        return (
            f"No policy could be certified to keep {risk.description} at or below {self.bound} "
            f"with confidence {self.confidence}; {fallback} {_closest(certification)} "
            f"{_tested_sizes(certification)}, but at least {needed} without any loss are needed. "
            "Calibrate on more samples, or use a larger bound."
        )


def _as_sure_but_slower(table: Table, front: Table) -> Table:
    """Return slower policies with the same evidence as the first of the front, slowest first."""
    is_as_sure = table["evidence"] >= front["evidence"][0]
    as_sure = take(table, np.flatnonzero(is_as_sure & (table["speedup"] < front["speedup"][0])))
    as_sure = take(as_sure, np.lexsort((as_sure["tau"], -as_sure["patience"], as_sure["speedup"])))
    wanted = np.linspace(0, front["speedup"][0], N_CAUTIOUS, endpoint=False)
    rows = np.unique(np.searchsorted(as_sure["speedup"], wanted))
    return take(as_sure, rows[rows < len(as_sure["speedup"])])


def _tested_sizes(certification: Certification) -> str:
    """Describe how many samples were tested, or which groups had none, for the message."""
    sizes, names = certification.group_sizes, certification.group_names
    if names is None:
        return f"{sizes[0]} samples were tested"
    empty = [names[group] for group in np.flatnonzero(sizes == 0)]
    if empty:
        return f"No sample was tested of the groups or classes {empty}"
    smallest = int(sizes.argmin())
    return f"{sizes[smallest]} samples were tested in the smallest group, {names[smallest]!r}"


def largest_risk(risks: Sequence[float] | Floats) -> float:
    """Return the largest risk that is not NaN (a group without samples); NaN if all are."""
    known = [float(risk) for risk in risks if not np.isnan(risk)]
    return max(known, default=np.nan)


def _closest(certification: Certification) -> str:
    candidates = certification.candidates
    if not len(candidates["tau"]):
        return "No policy that exits early was found."
    return (
        f"The first of {len(candidates['tau'])} candidates has a speed-up ratio of "
        f"{candidates['speedup'][0]:.4f}, a risk of {candidates['risk'][0]:.4f} and a p-value of "
        f"{candidates['p_value'][0]:.4f}."
    )


def _mean(losses: Floats) -> float:
    return float(losses.mean()) if len(losses) else np.nan


def split_rows(groups: Groups, rng: np.random.RandomState) -> Parts:
    """Split rows at random into those for finding candidates and those for testing them.

    Each group, and the samples in no group, are split in the same proportion, unless
    `groups.together` is given. The second part is shuffled.
    """
    if groups.together is not None:
        return _split_whole(groups.together, rng)
    rest = ~np.logical_or.reduce(groups.members)
    strata = [rng.permutation(np.flatnonzero(member)) for member in (*groups.members, rest)]
    n_seen = [round(CANDIDATE_SHARE * len(rows)) for rows in strata]
    seen = np.concatenate([rows[:n] for rows, n in zip(strata, n_seen, strict=True)])
    tested = np.concatenate([rows[n:] for rows, n in zip(strata, n_seen, strict=True)])
    return Parts(seen, rng.permutation(tested))


def _split_whole(together: Integers, rng: np.random.RandomState) -> Parts:
    """Split rows at random; rows with the same index in `together` stay in the same part."""
    sizes = np.bincount(together)
    order = rng.permutation(len(sizes))
    is_seen = np.zeros(len(sizes), dtype=bool)
    is_seen[order[np.cumsum(sizes[order]) <= CANDIDATE_SHARE * len(together)]] = True
    is_seen[order[:1]] = True  # at least one, even if it is larger than the share
    rows = rng.permutation(len(together))
    goes_first = is_seen[together[rows]]
    return Parts(rows[goes_first], rows[~goes_first])
