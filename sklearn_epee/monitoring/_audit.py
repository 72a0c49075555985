"""ExitAudit: monitor the disagreement with full depth, without labels."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state

from sklearn_epee._compat import num_samples, safe_indexing
from sklearn_epee._exits.wrappers import find_exits, staged_predictions
from sklearn_epee.exceptions import ExitAlarmWarning

from ._audit_parameters import AuditParameters
from ._disagreement import Alarm, DisagreementTests
from ._policies import (
    Policy,
    disagreements,
    min_exit_layer_of,
    n_layers_of,
    policy_of,
    stricter_policies,
    with_other_policy,
)
from ._state import parsed

_SCHEMA = 2


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
    _parameters: AuditParameters
    _policies: list[Policy]
    _tests: DisagreementTests
    _rng: np.random.Generator
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
        self._parameters = AuditParameters.checked(
            max_disagreement=max_disagreement,
            confidence=confidence,
            share=share,
            alarm_at=alarm_at,
            tighten=tighten,
            n_steps=n_steps,
            window=window,
        )
        vars(self).update(asdict(self._parameters))
        self.estimator = estimator
        self._policies = [policy_of(estimator)]
        self._min_exit_layer = min_exit_layer_of(estimator)
        if self.tighten:
            n_layers = n_layers_of(estimator)
            self._policies += stricter_policies(self._policies[0], self.n_steps, n_layers)
            with_other_policy(estimator, self._policies[-1])  # raises if this is not possible
        self._tests = DisagreementTests(self._policies, self._parameters)
        self._rng = np.random.default_rng(check_random_state(random_state).randint(2**31))
        self.n_seen_ = 0
        self._set_policy()
        self._lock = Lock()

    # ------------------------------------------------------------------------- predictions

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels under the policy in use, and audit a share of the samples.

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

        Audited samples also get the prediction of their exit, not that of full depth.

        Parameters
        ----------
        X : samples

        Returns
        -------
        Bunch
            The entries of the classifier's `predict_with_exits`, and ``audited`` of shape
            (n_samples,), bool.

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
                f"The audit is of tau={expected[0]!r}, patience={expected[1]!r}, but the estimator "
                f"now has tau={now[0]!r}, patience={now[1]!r}; create a new audit for it."
            )
        if (first := min_exit_layer_of(estimator)) != self._min_exit_layer:
            raise ValueError(
                f"The audit is of min_exit_layer={self._min_exit_layer}, but the estimator now has "
                f"min_exit_layer={first}; create a new audit for it."
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
        """Count samples as seen, and draw which of them should be audited.

        For programs that make the predictions themselves and report them to `update`.

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
            Predictions at the exits and at full depth, in chronological order.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the two differ in shape, or with ``tighten=True``, which needs the predictions of
            other policies, too.

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
                "update only gets the predictions of one policy, but tighten=True compares "
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

    # ----------------------------------------------------------------------------- results

    @property
    def tau_(self) -> float:
        """Threshold in use."""
        return self._policies[self._tests.in_use][0]

    @property
    def patience_(self) -> int | None:
        """Patience in use."""
        return self._policies[self._tests.in_use][1]

    @property
    def n_audited_(self) -> int:
        """Number of audited samples."""
        return self._tests.n_audited

    @property
    def n_disagreed_(self) -> int:
        """Number of audited samples for which the policy in use differs from full depth."""
        return self._tests.n_disagreed

    @property
    def interval_(self) -> tuple[float, float]:
        """Confidence interval for the disagreement under the policy in use."""
        return self._tests.interval

    @property
    def evidence_(self) -> float:
        """Evidence that the disagreement of the policy in use is above `alarm_at`."""
        return self._tests.evidence

    @property
    def alarm_(self) -> bool:
        """Whether there has been an alarm."""
        return bool(self.alarms_)

    @property
    def alarms_(self) -> list[dict[str, Any]]:
        """All alarms so far."""
        return self._tests.alarms

    def report(self) -> dict[str, Any]:
        """Return all results for the policy in use.

        Returns
        -------
        dict
            Plain numbers, for a log: "n_seen", "n_audited", "n_disagreed", "disagreement" (NaN
            before the first audit), "low", "high", "promise" ("kept" if the whole interval is at
            most `max_disagreement`, "broken" if it is above, else "open"), "evidence", "alarm",
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
        """Return parameters and state as JSON, without the estimator.

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
                "parameters": asdict(self._parameters),
                "policy": list(self._policies[0]),
                "min_exit_layer": self._min_exit_layer,
                "n_seen": self.n_seen_,
                **self._tests.to_dict(),
                "random": self._rng.bit_generator.state,
            }
            return json.dumps(state)

    @classmethod
    def from_json(cls, text: str, estimator: Any) -> Self:
        """Return an audit that continues from the state of another one.

        Parameters
        ----------
        text : str
            Returned by `to_json`.
        estimator : estimator
            With the policy that the audit started with.

        Returns
        -------
        ExitAudit

        Raises
        ------
        ValueError
            If the text is not the state of an audit, or the estimator has another policy.

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
                    f"the audit is of tau={tau!r}, patience={patience!r}, but the estimator has "
                    f"tau={audit._policies[0][0]!r}, patience={audit._policies[0][1]!r}"
                )
            first = state.get("min_exit_layer", 1)  # states of 0.1.0 have none
            if audit._min_exit_layer != first:
                raise ValueError(
                    f"the audit is of min_exit_layer={first}, but the estimator has "
                    f"min_exit_layer={audit._min_exit_layer}"
                )
            audit._tests.restore(state)
            audit.n_seen_ = int(state["n_seen"])
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

    # ----------------------------------------------------------------------------- audits

    def _count(self, differs: NDArray[np.bool_]) -> None:
        """Count audited samples, (n_samples, n_policies); set the policy in use, and warn."""
        with self._lock:
            before = self._tests.in_use
            alarms = self._tests.add(differs, self.n_seen_)
            if self._tests.in_use != before:
                self._set_policy()
            messages = [self._message(alarm) for alarm in alarms]
        for message in messages:
            warnings.warn(message, ExitAlarmWarning, stacklevel=4)

    def _message(self, alarm: Alarm) -> str:
        advice = "Tune the policy again, on recent samples, or lower tau."
        if self.tighten:
            advice = f"The policy is tau={self.tau_:.4g}, patience={self.patience_} from now on."
        (tau, patience), n_disagreed, n_audited = alarm
        return (
            f"The disagreement with full depth is above {self.alarm_at} (confidence "
            f"{self.confidence}): {n_disagreed} of {n_audited} audited samples differ under "
            f"tau={tau:.4g}, patience={patience}, among them the more recent ones. {advice}"
        )

    def _set_policy(self) -> None:
        self.estimator_ = self.estimator
        if self._tests.in_use:
            policy = self._policies[self._tests.in_use]
            self.estimator_ = with_other_policy(self.estimator, policy)
