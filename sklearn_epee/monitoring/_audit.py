"""ExitAudit: monitor the disagreement with full depth, without labels."""

from __future__ import annotations

import json
import math
import warnings
from numbers import Integral
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state

from sklearn_epee._compat import num_samples, safe_indexing
from sklearn_epee._exits.wrappers import find_exits, staged_predictions
from sklearn_epee.exceptions import ExitAlarmWarning

from ._confidence import rate_interval
from ._evidence import Evidence, rate_bets
from ._policies import (
    Policy,
    disagreements,
    n_layers_of,
    policy_of,
    stricter_policies,
    with_other_policy,
)
from ._recent import Recent, fewest_trials, first_kept, most_allowed
from ._state import check_share, parsed

_SCHEMA = 2
# Samples of the window that differ if the promise is just kept.
_EXPECTED_IN_WINDOW = 50


class ExitAudit:
    """Early-exit classifier that audits a random share of its predictions at full depth.

    A bound on the disagreement with full depth only holds for the distribution it was tested on.
    This classifier monitors the disagreement on new data: each sample is audited with a small
    probability, which takes one pass through all layers and no label. The audited samples give a
    confidence interval for the disagreement that is valid at all times simultaneously, and an alarm
    whose false-alarm probability is bounded over unlimited time. Optionally, `tau` is tightened
    before the limit is exceeded.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier with early exits, or a pipeline, search object or wrapper that ends in
        such a classifier, such as :class:`~sklearn_epee.TunedExitPolicyClassifierCV`. It is not
        modified.
    max_disagreement : float in (0, 1)
        The limit: the largest accepted share of predictions that differ from those at full depth.
        With several tasks or labels, a prediction differs if any of them does.
    confidence : float in (0, 1), default=0.95
        Confidence of the interval; 1 - confidence bounds the probability of a false alarm.
    share : float in (0, 1], default=0.02
        Probability with which a sample is audited.
    alarm_at : float in (0, 1), default=None
        The alarm says that the disagreement is above this value; None is `max_disagreement`. With a
        lower value, the alarm comes earlier, but also if the disagreement stays just below
        `max_disagreement`.
    tighten : bool, default=False
        Whether to lower `tau`, in `n_steps` equal steps to 0, then to raise `patience` one by one
        up to full depth, as soon as the last `window` audited samples no longer show that the
        disagreement is below the limit. Both are restored step by step once they do, but never
        beyond the policy of the estimator, or to a policy that raised an alarm.
    n_steps : int, default=10
        Only used with `tighten`.
    window : int, default=None
        Number of last audited samples that `tighten` uses. A long window reacts late to a change, a
        short one also tightens when nothing changes. None is ``ceil(50 / max_disagreement)``, so
        that 50 samples of a window differ if the disagreement is at the limit.
    random_state : int, RandomState instance or None, default=None
        Draws the audited samples.

    Attributes
    ----------
    estimator_ : estimator
        The estimator with the policy in use.
    tau_, patience_ : float, int or None
        The policy in use.
    n_seen_, n_audited_, n_disagreed_ : int
        Numbers of samples predicted; audited; and audited samples for which the policy in use
        differs from full depth.
    interval_ : tuple of float
        Confidence interval for the disagreement under the policy in use, averaged over the samples
        audited so far, which may drift. It is valid after all samples simultaneously.
    evidence_ : float
        Evidence (an e-value) against "the disagreement has always been at most `alarm_at`"; an
        alarm is raised when it reaches ``1 / (1 - confidence)``. It is the capital of a bettor who
        started with 1.
    alarm_ : bool
        Whether there has been an alarm.
    alarms_ : list of dict
        "n_seen" and "n_audited" at each alarm, and the "tau" and "patience" that raised it.

    See Also
    --------
    ExitMonitor : Drift of exits and entropies, without any additional pass.
    sklearn_epee.TunedExitPolicyClassifierCV : Chooses a policy with a guarantee.

    Notes
    -----
    **Interval.** If S of n audited samples differ, a bettor with odds w against a disagreement of p
    turns a capital of 1 into ``w**S / (1 - p + p * w)**n``. The interval contains all p against
    which the mean capital over a fixed set of odds is less than ``1 / (1 - confidence)``, as in
    [1]_ with bets fixed beforehand. It is also valid for the mean of a disagreement that changes.

    **Alarm.** Bets against "at most `alarm_at`" multiply the capital by
    ``1 + stake * (loss - alarm_at)`` for each audited sample, with eight stakes and all starting
    times: the capital is spread over all of them [2]_, because otherwise capital lost in a long
    time without change would have to be won back first. As long as the disagreement is at most
    `alarm_at`, given all earlier samples, the probability of ever raising an alarm is at most 1 -
    confidence.

    **Tightening.** An audited sample shows what every stricter policy would have predicted, so all
    policies are tracked from the start. The policy in use is the fastest for which, as for all
    stricter ones, the last `window` audited samples show a disagreement of at most
    `max_disagreement`, by the Clopper-Pearson upper bound at `confidence`. Testing policies from
    full depth to faster ones until the first failure is a fixed-sequence test, so at any given time
    the probability that the policy in use had a mean disagreement above the limit over this window
    is at most 1 - confidence. The audit reacts to a slow change before the limit is exceeded, and
    to a sudden change after a part of the window. Until the window is full, missing samples count
    as agreeing: the policy is assumed to be as good as it was when it was tuned.

    **Assumptions.** Samples must be audited at random, independently of everything else: audits of
    the first samples of each hour say nothing about the others. The disagreement is measured
    against full depth, not against the truth: the audit does not detect that full depth gets worse.
    Alarms are delayed, see ``docs/monitoring.md``: rare and small changes need thousands of audited
    samples.

    References
    ----------
    .. [1] I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
       Journal of the Royal Statistical Society B 86 (2024).
    .. [2] J. Shin, A. Ramdas, A. Rinaldo, "E-detectors: a nonparametric framework for sequential
       change detection", arXiv:2203.03532.

    Examples
    --------
    >>> from sklearn_epee import EPEEClassifier
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> from sklearn_epee.monitoring import ExitAudit
    >>> X, y = make_supplement_notes(200, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:60], y[:60])
    >>> audit = ExitAudit(clf, max_disagreement=0.3, share=0.5, random_state=0)
    >>> audit.predict(X[60:]).shape
    (140,)
    >>> audit.n_seen_, audit.n_audited_
    (140, 74)
    >>> low, high = audit.interval_
    >>> bool(0 <= low <= audit.n_disagreed_ / audit.n_audited_ <= high <= 1)
    True

    Stopped and continued elsewhere:

    >>> text = audit.to_json()
    >>> ExitAudit.from_json(text, clf).n_audited_
    74
    """

    estimator: Any
    estimator_: Any
    max_disagreement: float
    confidence: float
    share: float
    alarm_at: float
    tighten: bool
    n_steps: int
    window: int
    n_seen_: int
    n_audited_: int
    alarms_: list[dict[str, Any]]
    _policies: list[Policy]
    _now: int
    _rng: np.random.Generator
    _bets: NDArray[np.float64]
    _evidence: Evidence
    _disagreed: NDArray[np.int64]
    _recent: Recent
    _lock: Lock

    def __init__(
        self,
        estimator: Any,
        *,
        max_disagreement: float,
        confidence: float = 0.95,
        share: float = 0.02,
        alarm_at: float | None = None,
        tighten: bool = False,
        n_steps: int = 10,
        window: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.max_disagreement = check_share("max_disagreement", max_disagreement)
        self.confidence = check_share("confidence", confidence)
        self.share = check_share("share", share, may_be_1=True)
        self.alarm_at = self.max_disagreement
        if alarm_at is not None:
            self.alarm_at = check_share("alarm_at", alarm_at)
        if self.alarm_at > self.max_disagreement:
            raise ValueError(
                f"alarm_at must not be above max_disagreement={self.max_disagreement}; got "
                f"{alarm_at!r}."
            )
        if not isinstance(tighten, (bool, np.bool_)):
            raise TypeError(f"tighten must be True or False; got {tighten!r}.")
        if isinstance(n_steps, bool) or not isinstance(n_steps, Integral) or n_steps < 1:
            raise ValueError(f"n_steps must be an integer >= 1; got {n_steps!r}.")
        self.estimator = estimator
        self.tighten = bool(tighten)
        self.n_steps = int(n_steps)
        self.window = self._checked_window(window)
        self._policies = [policy_of(estimator)]
        if self.tighten:
            n_layers = n_layers_of(estimator)
            self._policies += stricter_policies(self._policies[0], self.n_steps, n_layers)
            with_other_policy(estimator, self._policies[-1])  # raises where that cannot be done
        self._rng = np.random.default_rng(check_random_state(random_state).randint(2**31))
        self._bets = rate_bets(self.alarm_at)
        self._evidence = Evidence.start((len(self._policies), self._bets.shape[-1]))
        self._disagreed = np.zeros(len(self._policies), dtype=np.int64)
        self._recent = Recent(self.window, self._disagreed.shape)
        self._now = 0
        self.n_seen_ = self.n_audited_ = 0
        self.alarms_ = []
        self._set_policy()
        self._lock = Lock()

    # ------------------------------------------------------------------------- predictions

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels under the policy in force, and audit a share of the samples.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)

        Warns
        -----
        sklearn_epee.exceptions.ExitAlarmWarning
            If these samples raise an alarm.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(80, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:40], y[:40])
        >>> audit = ExitAudit(clf, max_disagreement=0.3, random_state=0)
        >>> bool((audit.predict(X[40:]) == clf.predict(X[40:])).all())
        True
        """
        return np.asarray(self.predict_with_exits(X).labels)

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return labels, probabilities, exits and entropies, and audit a share of the samples.

        Audited samples get the prediction of their exit, as all others do.

        Parameters
        ----------
        X : samples

        Returns
        -------
        Bunch
            As that of the classifier, and ``audited`` of shape (n_samples,), bool.

        Warns
        -----
        sklearn_epee.exceptions.ExitAlarmWarning
            If these samples raise an alarm.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(80, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:40], y[:40])
        >>> audit = ExitAudit(clf, max_disagreement=0.3, share=0.1, random_state=0)
        >>> int(audit.predict_with_exits(X[40:]).audited.sum()) == audit.n_audited_
        True
        """
        with self._lock:  # another thread may change the policy
            estimator, candidates = self.estimator_, self._policies
            expected = self.tau_, self.patience_
        if (now := policy_of(estimator)) != expected:
            raise ValueError(
                f"The audit is of tau={expected[0]!r}, patience={expected[1]!r}, but estimator "
                f"exits by tau={now[0]!r}, patience={now[1]!r} now; make a new audit of it."
            )
        inner = find_exits(estimator, X)
        found = Bunch(**inner.classifier.predict_with_exits(inner.X))
        found["audited"] = self.draw(num_samples(X))
        rows = np.flatnonzero(found.audited)
        if len(rows):
            staged, _ = staged_predictions(estimator, safe_indexing(X, rows))
            self._count(disagreements(staged, candidates))
        return found

    # ------------------------------------------------------------------- for other programs

    def draw(self, n_samples: int) -> NDArray[np.bool_]:
        """Count samples as seen, and draw which of them are to be audited.

        For programs that predict by themselves and report to `update`.

        Parameters
        ----------
        n_samples : int

        Returns
        -------
        ndarray of shape (n_samples,), bool

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> ExitAudit(clf, max_disagreement=0.3, share=1.0).draw(2)
        array([ True,  True])
        """
        with self._lock:
            self.n_seen_ += int(n_samples)
            drawn: NDArray[np.bool_] = self._rng.random(int(n_samples)) < self.share
        return drawn

    def update(self, labels: ArrayLike, full_depth_labels: ArrayLike) -> Self:
        """Count audited samples of another program, such as the workers of a server.

        Parameters
        ----------
        labels, full_depth_labels : array-like of shape (n_samples,) or (n_samples, n_tasks)
            What was predicted at the exits, and at full depth, in the order of time.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the two differ in shape, or with ``tighten=True``, which has to know what other
            policies predict.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> audit = ExitAudit(clf, max_disagreement=0.3)
        >>> audit.update(["a", "b", "a"], ["a", "b", "b"]).n_disagreed_
        1
        """
        if self.tighten:
            raise ValueError(
                "update knows the predictions of one policy alone, but tighten=True compares "
                "several; use predict or predict_with_exits, or tighten=False."
            )
        early, full = np.asarray(labels), np.asarray(full_depth_labels)
        if early.shape != full.shape or early.ndim not in (1, 2):
            raise ValueError(
                "labels and full_depth_labels must have the same shape, (n_samples,) or "
                f"(n_samples, n_tasks); got {early.shape} and {full.shape}."
            )
        differs = np.not_equal(early, full)
        if differs.ndim == 2:
            differs = differs.any(axis=1)
        self._count(differs[:, np.newaxis])
        return self

    # ------------------------------------------------------------------------- what is known

    @property
    def tau_(self) -> float:
        """Threshold in force."""
        return self._policies[self._now][0]

    @property
    def patience_(self) -> int | None:
        """Patience in force."""
        return self._policies[self._now][1]

    @property
    def n_disagreed_(self) -> int:
        """Audited samples for which the policy in force differs from full depth."""
        return int(self._disagreed[self._now])

    @property
    def interval_(self) -> tuple[float, float]:
        """Confidence interval for the disagreement under the policy in force."""
        happened = np.array(float(self._disagreed[self._now]))
        low, high = rate_interval(self.n_audited_, happened, self.confidence)
        return float(low), float(high)

    @property
    def evidence_(self) -> float:
        """Evidence that the disagreement of the policy in force is above `alarm_at`."""
        return float(self._evidence.now[self._now])

    @property
    def alarm_(self) -> bool:
        """Whether there has been an alarm."""
        return bool(self.alarms_)

    def report(self) -> dict[str, Any]:
        """Return all figures of the policy in force.

        Returns
        -------
        dict
            Plain numbers, for a log: "n_seen", "n_audited", "n_disagreed", "disagreement" (NaN
            before the first audit), "low", "high", "promise" ("kept" where the whole interval is at
            most `max_disagreement`, "broken" where it is above, else "open"), "evidence", "alarm",
            "tau" and "patience".

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> ExitAudit(clf, max_disagreement=0.3).report()["promise"]
        'open'
        """
        with self._lock:
            return self._report()

    def _report(self) -> dict[str, Any]:
        low, high = self.interval_
        promise = "broken" if low > self.max_disagreement else "open"
        if high <= self.max_disagreement:
            promise = "kept"
        n = self.n_audited_
        return {
            "n_seen": self.n_seen_,
            "n_audited": n,
            "n_disagreed": self.n_disagreed_,
            "disagreement": self.n_disagreed_ / n if n else float("nan"),
            "low": low,
            "high": high,
            "promise": promise,
            "evidence": self.evidence_,
            "alarm": self.alarm_,
            "tau": self.tau_,
            "patience": self.patience_,
        }

    # ------------------------------------------------------------------------------- state

    def to_json(self) -> str:
        """Return parameters and state as JSON, the estimator left out.

        Returns
        -------
        str

        Examples
        --------
        >>> import json
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> json.loads(ExitAudit(clf, max_disagreement=0.3).to_json())["kind"]
        'ExitAudit'
        """
        with self._lock:
            state = {
                "kind": "ExitAudit",
                "schema": _SCHEMA,
                "parameters": {
                    "max_disagreement": self.max_disagreement,
                    "confidence": self.confidence,
                    "share": self.share,
                    "alarm_at": self.alarm_at,
                    "tighten": self.tighten,
                    "n_steps": self.n_steps,
                    "window": self.window,
                },
                "policy": list(self._policies[0]),
                "n_seen": self.n_seen_,
                "n_audited": self.n_audited_,
                "disagreed": self._disagreed.tolist(),
                "evidence": self._evidence.to_dict(),
                "recent": self._recent.to_hex(),
                "in_force": self._now,
                "alarms": self.alarms_,
                "random": self._rng.bit_generator.state,
            }
            return json.dumps(state)

    @classmethod
    def from_json(cls, text: str, estimator: Any) -> Self:
        """Return an audit that continues where another one was written.

        Parameters
        ----------
        text : str
            What `to_json` returned.
        estimator : estimator
            With the policy that the audit began with.

        Returns
        -------
        ExitAudit

        Raises
        ------
        ValueError
            If the text is none of an audit, or the estimator has another policy.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitAudit
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> audit = ExitAudit(clf, max_disagreement=0.3, share=0.5, random_state=0)
        >>> text, expected = audit.to_json(), audit.draw(20)
        >>> bool((ExitAudit.from_json(text, clf).draw(20) == expected).all())
        True
        """
        with parsed(text, "ExitAudit", _SCHEMA) as state:
            audit = cls(estimator, random_state=0, **state["parameters"])
            tau, patience = state["policy"]
            if audit._policies[0] != (tau, patience):
                raise ValueError(
                    f"the audit is of tau={tau!r}, patience={patience!r}, but the estimator exits "
                    f"by tau={audit._policies[0][0]!r}, patience={audit._policies[0][1]!r}"
                )
            evidence = Evidence.from_dict(state["evidence"])
            disagreed = np.asarray(state["disagreed"], dtype=np.int64)
            if evidence.in_play.shape != audit._evidence.in_play.shape or len(disagreed) != len(
                audit._policies
            ):
                raise ValueError("its state does not fit its parameters")
            audit._evidence, audit._disagreed = evidence, disagreed
            if "recent" in state:  # from schema 2 on
                audit._recent = Recent.from_hex(state["recent"], audit.window, disagreed.shape)
            audit.n_seen_, audit.n_audited_ = int(state["n_seen"]), int(state["n_audited"])
            audit._now = int(state["in_force"])
            audit.alarms_ = list(state["alarms"])
            audit._rng.bit_generator.state = state["random"]
            audit._set_policy()
        return audit

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def __repr__(self) -> str:
        return (
            f"ExitAudit({self.estimator!r}, max_disagreement={self.max_disagreement}, "
            f"confidence={self.confidence}, share={self.share}, alarm_at={self.alarm_at}, "
            f"tighten={self.tighten})"
        )

    # ----------------------------------------------------------------------------- the tests

    def _checked_window(self, window: int | None) -> int:
        if window is None:
            window = math.ceil(_EXPECTED_IN_WINDOW / self.max_disagreement)
        if isinstance(window, bool) or not isinstance(window, Integral):
            raise TypeError(f"window must be an integer or None; got {window!r}.")
        fewest = fewest_trials(self.max_disagreement, self.confidence)
        if window < fewest:
            raise ValueError(
                f"window must be at least {fewest}: fewer samples cannot show a disagreement of at "
                f"most {self.max_disagreement} with confidence {self.confidence}; got {window!r}."
            )
        return int(window)

    def _count(self, differs: NDArray[np.bool_]) -> None:
        """Count audited samples one after the other, (n_samples, n_candidates)."""
        raised = []
        with self._lock:
            for losses in differs:
                factors = 1.0 + self._bets * (losses[:, np.newaxis] - self.alarm_at)
                self._evidence = self._evidence.after(factors)
                self._disagreed = self._disagreed + losses
                self._recent.add(losses)
                self.n_audited_ += 1
                raised += self._new_alarms()
            self._choose_policy()
            messages = [self._message(*alarm) for alarm in raised]
        for message in messages:
            warnings.warn(message, ExitAlarmWarning, stacklevel=4)

    def _new_alarms(self) -> list[tuple[Policy, int, int]]:
        """Record alarms about the first policy that had none, and about those that follow it.

        Returns
        -------
        list of (policy, n_disagreed, n_audited)
        """
        alarmed = self._evidence.largest >= 1.0 / (1.0 - self.confidence)
        new = []
        while (i := len(self.alarms_)) < len(alarmed) and alarmed[i]:
            tau, patience = self._policies[i]
            self.alarms_.append(
                {
                    "n_seen": self.n_seen_,
                    "n_audited": self.n_audited_,
                    "tau": tau,
                    "patience": patience,
                }
            )
            new.append((self._policies[i], int(self._disagreed[i]), self.n_audited_))
        return new

    def _choose_policy(self) -> None:
        """Go to the first policy without an alarm of which recent samples show no breach."""
        allowed = most_allowed(self.window, self.max_disagreement, self.confidence)
        strict_enough = int(first_kept(self._recent.counts, allowed))
        now = min(max(len(self.alarms_), strict_enough), len(self._policies) - 1)
        if now != self._now:
            self._now = now
            self._set_policy()

    def _message(self, policy: Policy, n_disagreed: int, n_audited: int) -> str:
        goes_on = "Tune the policy again, on recent samples, or lower tau."
        if self.tighten:
            goes_on = f"The policy is tau={self.tau_:.4g}, patience={self.patience_} from now on."
        return (
            f"The disagreement with full depth is above {self.alarm_at} (confidence "
            f"{self.confidence}): {n_disagreed} of {n_audited} audited samples differ under "
            f"tau={policy[0]:.4g}, patience={policy[1]}, among them the more recent ones. "
            f"{goes_on}"
        )

    def _set_policy(self) -> None:
        self.estimator_ = self.estimator
        if self._now:
            self.estimator_ = with_other_policy(self.estimator, self._policies[self._now])
