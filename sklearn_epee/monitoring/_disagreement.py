"""Sequential tests of the disagreement with full depth, for several exit policies at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._audit_parameters import AuditParameters
from ._confidence import rate_interval
from ._evidence import Evidence, rate_bets
from ._policies import Policy
from ._recent import Recent, first_kept, most_allowed


class Alarm(NamedTuple):
    """An alarm about one policy, with its counts at that time."""

    policy: Policy
    n_disagreed: int
    n_audited: int


class DisagreementTests:
    """Count the disagreements of several policies, test for alarms, and choose a policy.

    An audited sample shows what every policy would have predicted, so all of them are tested from
    the start.

    Parameters
    ----------
    policies : list of Policy
        From the fastest, that of the estimator, to the strictest.
    parameters : AuditParameters

    Attributes
    ----------
    in_use : int
        Index of the policy in use.
    n_audited : int
        Number of audited samples.
    alarms : list of dict
        See `ExitAudit`.
    """

    def __init__(self, policies: list[Policy], parameters: AuditParameters) -> None:
        self._policies = policies
        self._parameters = parameters
        self._bets = rate_bets(parameters.alarm_at)
        self._evidence = Evidence.start((len(policies), self._bets.shape[-1]))
        self._disagreed = np.zeros(len(policies), dtype=np.int64)
        self._recent = Recent(parameters.window, self._disagreed.shape)
        self.in_use = 0
        self.n_audited = 0
        self.alarms: list[dict[str, Any]] = []

    @property
    def n_disagreed(self) -> int:
        """Number of audited samples for which the policy in use differs from full depth."""
        return int(self._disagreed[self.in_use])

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval for the disagreement of the policy in use."""
        happened = np.array(float(self.n_disagreed))
        low, high = rate_interval(self.n_audited, happened, self._parameters.confidence)
        return float(low), float(high)

    @property
    def evidence(self) -> float:
        """Evidence that the disagreement of the policy in use is above `alarm_at`."""
        return float(self._evidence.now[self.in_use])

    def add(self, differs: NDArray[np.bool_], n_seen: int) -> list[Alarm]:
        """Count audited samples one after the other, and choose the policy to use from now on.

        Parameters
        ----------
        differs : ndarray of shape (n_samples, n_policies), bool
            Whether each policy differs from full depth.
        n_seen : int
            Number of samples predicted so far, for the record of an alarm.

        Returns
        -------
        list of Alarm
            The alarms that these samples raise.
        """
        raised = []
        for losses in differs:
            factors = 1.0 + self._bets * (losses[:, np.newaxis] - self._parameters.alarm_at)
            self._evidence = self._evidence.after(factors)
            self._disagreed = self._disagreed + losses
            self._recent.add(losses)
            self.n_audited += 1
            raised += self._new_alarms(n_seen)
        self._choose_policy()
        return raised

    def _new_alarms(self, n_seen: int) -> list[Alarm]:
        """Record alarms: the next policy can only raise one after all faster policies did."""
        alarmed = self._evidence.largest >= 1.0 / (1.0 - self._parameters.confidence)
        new = []
        while (i := len(self.alarms)) < len(alarmed) and alarmed[i]:
            tau, patience = self._policies[i]
            self.alarms.append(
                {"n_seen": n_seen, "n_audited": self.n_audited, "tau": tau, "patience": patience}
            )
            new.append(Alarm(self._policies[i], int(self._disagreed[i]), self.n_audited))
        return new

    def _choose_policy(self) -> None:
        """Use the fastest policy without an alarm that recent samples show to be within the limit.

        The strictest policy, full depth, is used if there is no other.
        """
        limit, confidence = self._parameters.max_disagreement, self._parameters.confidence
        allowed = most_allowed(self._parameters.window, limit, confidence)
        strict_enough = int(first_kept(self._recent.counts, allowed))
        self.in_use = min(max(len(self.alarms), strict_enough), len(self._policies) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the state, as JSON can store it."""
        return {
            "n_audited": self.n_audited,
            "disagreed": self._disagreed.tolist(),
            "evidence": self._evidence.to_dict(),
            "recent": self._recent.to_hex(),
            "in_force": self.in_use,
            "alarms": self.alarms,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state that `to_dict` returned.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not a valid state for these policies and parameters.
        """
        evidence = Evidence.from_dict(state["evidence"])
        disagreed = np.asarray(state["disagreed"], dtype=np.int64)
        fits = len(disagreed) == len(self._policies)
        if not fits or evidence.in_play.shape != self._evidence.in_play.shape:
            raise ValueError("its state does not fit its parameters")
        self._evidence, self._disagreed = evidence, disagreed
        if "recent" in state:  # since schema 2
            self._recent = Recent.from_hex(
                state["recent"], self._parameters.window, disagreed.shape
            )
        self.n_audited, self.in_use = int(state["n_audited"]), int(state["in_force"])
        self.alarms = list(state["alarms"])
