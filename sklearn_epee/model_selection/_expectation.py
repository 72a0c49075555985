"""Policies whose risk is bounded in expectation: conformal risk control along one path of policies.

A patience is chosen on one part of the calibration samples. It defines a path of policies from full
depth to the fastest one: first, the patience decreases to the chosen one, with tau = 0, then tau
increases. The loss of a sample along the path is made monotone by taking the largest loss so far,
starting with 0 at full depth. On the other part, of n samples, the fastest policy is chosen for
which (sum of these losses + 1) / (n + 1) is at most the bound. Then the expected loss of a new
sample, where the expectation is also over the calibration samples, is at most the bound.

References
----------
A. N. Angelopoulos, S. Bates, A. Fisch, L. Lei, T. Schuster, "Conformal risk control",
arXiv:2208.02814.

M. Jazbec, A. Timans, T. Hadži Veljković, K. Sakmann, D. Zhang, C. A. Naesseth, E. Nalisnick, "Fast
yet safe: early-exiting with risk control", arXiv:2405.20915.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.staged import Floats
from sklearn_epee._exits.sweep import PolicySpace, StagedExits
from sklearn_epee._exits.tables import PolicyGrid, Table

from ._risk_control import (
    N_CANDIDATE_TAUS,
    Certification,
    Groups,
    RiskControl,
    largest_risk,
    split_rows,
)
from ._risks import Risk


@dataclass(frozen=True)
class ExpectationControl(RiskControl):
    """A bound on the expected loss of a new sample."""

    def certify(
        self,
        staged: StagedExits,
        risk: Risk,
        groups: Groups,
        offered: PolicyGrid,
        rng: np.random.RandomState,
    ) -> Certification:
        """Choose a path on one part of the samples, and certify its policies on the other."""
        parts = split_rows(groups, rng)
        first = staged.take(parts.seen)
        taus = offered.thresholds(PolicySpace(first), N_CANDIDATE_TAUS)
        ours = groups.take(parts.seen)
        paths = (
            self._path(first, risk.losses[parts.seen], ours.members, offered, (patience, taus))
            for patience in offered.patiences.tolist()
        )
        fastest = max(paths, key=_speed)
        patience = int(fastest["patience"][-1])
        tested = groups.take(parts.tested)
        path = self._path(
            staged.take(parts.tested),
            risk.losses[parts.tested],
            tested.members,
            offered,
            (patience, taus),
        )
        risks = path.pop("by_group")
        sizes = np.array([np.count_nonzero(member) for member in tested.members])
        return Certification(path, groups.names, risks, sizes, parts.tested)

    def _path(
        self,
        staged: StagedExits,
        losses: Floats,
        members: Sequence[NDArray[np.bool_]],
        offered: PolicyGrid,
        end: tuple[int, Floats | None],
    ) -> Table:
        """Return the policies of the path that ends with one patience, and which are certified."""
        patience, taus = end
        sweep = PolicySpace(staged).sweep(patience, taus)
        longer = [int(more) for more in offered.patiences[::-1] if more > patience]
        policies = [(0.0, more) for more in longer] + [(tau, patience) for tau in sweep.taus]
        all_exits = chain(map(staged.patience_exits, longer), sweep.exit_layers())
        rows, worst = np.arange(len(losses)), np.zeros(len(losses))
        risks, bounded, speedups = [], [], []
        for exits in all_exits:
            here = losses[rows, exits - 1]
            worst = np.maximum(worst, here)
            risks.append([here[member].mean() if member.any() else np.nan for member in members])
            bounded.append([(worst[member].sum() + 1) / (member.sum() + 1) for member in members])
            speedups.append(staged.speedup(exits))
        by_group = np.array(risks).reshape(len(risks), len(members))
        certified = np.max(bounded, axis=1) <= self.bound
        return {
            "tau": np.array([tau for tau, _ in policies]),
            "patience": np.array([of_policy for _, of_policy in policies]),
            "speedup": np.array(speedups),
            "risk": np.array([largest_risk(row) for row in by_group]),
            "p_value": np.full(len(policies), np.nan),
            "certified": certified,
            "by_group": by_group,
        }

    def explain_failure(self, certification: Certification, risk: Risk) -> str:
        """Return the message that no policy is within the bound, with the fallback."""
        smallest = int(certification.group_sizes.min())
        whose = "" if certification.group_names is None else " of the rarest group"
        return (
            f"No policy with early exits keeps {risk.description} at or below {self.bound} in "
            f"expectation; continuing at full depth, where it is 0 by definition. The bound needs "
            f"at least {int(np.ceil(1 / self.bound)) - 1} samples without any loss, and there "
            f"were {smallest}{whose}. Calibrate on more samples, or use a larger bound."
        )


def _speed(path: dict[str, Any]) -> float:
    """Return the largest speed-up ratio of a path within the bound."""
    return float(path["speedup"][path["certified"]].max(initial=-1.0))
