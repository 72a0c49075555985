"""Choose an exit policy, given the predictions of all exits for some samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer

from sklearn_epee._compat import safe_indexing
from sklearn_epee._exits.policy_scores import PolicyScore, ScorerScore, exact_score
from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import PolicyGrid, Table, concatenate, policy_tables, take

from ._class_recall import ClassReport
from ._expectation import ExpectationControl
from ._risk_control import Certification, Groups, RiskControl, largest_risk
from ._risks import Risk, risk_of
from ._selection import SelectionCriterion
from ._sentences import SentenceValidation
from ._staging import Validation
from ._word_runs import ScoredRuns


@dataclass(frozen=True)
class ScoredSamples:
    """Samples on which policies are compared.

    Attributes
    ----------
    validation : Validation or SentenceValidation
    X : samples
        All samples given to `fit`.
    weights : ndarray of shape (n_given,) or None
        Sample weights of `X`.
    scoring : str or callable
    """

    validation: Validation | SentenceValidation
    X: Any
    weights: Floats | None
    scoring: str | Callable[..., float]

    @cached_property
    def space(self) -> PolicySpace:
        """All policies for these samples."""
        return PolicySpace(self.validation.staged)

    @cached_property
    def sample_weight(self) -> Floats | None:
        """Weights of these samples."""
        return None if self.weights is None else self.weights[self.validation.rows]

    @cached_property
    def score(self) -> PolicyScore:
        """Scores all thresholds of one patience."""
        if isinstance(self.validation, SentenceValidation):
            return self.validation.policy_score(self.scoring, self.sample_weight)
        staged, codes = self.validation.staged, self.validation.codes
        tasks = self.validation.tasks
        exact = exact_score(self.scoring, tasks)
        if exact is not None:
            return exact(staged, codes, self.sample_weight)
        weights = self.sample_weight
        return ScorerScore(
            get_scorer(self.scoring),
            staged=staged,
            tasks=tasks,
            X=safe_indexing(self.X, self.validation.rows),
            y=tasks.decode(codes if tasks.several else codes[:, 0]),
            params={} if weights is None else {"sample_weight": weights},
        )

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.space.n_layers

    @property
    def full_depth_score(self) -> float:
        """Score at full depth, that is, without early exits."""
        return self.limited_to(n_layers=self.n_layers).score_of(0.0, self.n_layers)

    def score_of(self, tau: float, patience: int) -> float:
        """Score one policy."""
        return float(self.score(self.space.sweep(patience, np.array([tau])))[0])

    @property
    def min_exit_layer(self) -> int:
        """The first layer at which the samples may exit, from 1 to M."""
        return self.space.min_exit_layer

    @property
    def last_layer(self) -> int:
        """The layer at which all samples exit that did not before, from 1 to M."""
        return self.space.last_layer

    @property
    def joint_exit(self) -> str:
        """How the tasks, labels or words of a sample exit together."""
        return self.space.joint_exit

    def limited_to(
        self,
        min_exit_layer: int | None = None,
        n_layers: int | None = None,
        joint_exit: str | None = None,
    ) -> ScoredSamples:
        """Return the same samples with other `min_exit_layer`, first layers or `joint_exit`."""
        first = self.min_exit_layer if min_exit_layer is None else min_exit_layer
        last = self.last_layer if n_layers is None else n_layers
        joint = self.joint_exit if joint_exit is None else joint_exit
        if (first, last, joint) == (self.min_exit_layer, self.last_layer, self.joint_exit):
            return self
        staged: Any = replace(
            self.validation.staged, min_exit_layer=first, last_layer=last, joint_exit=joint
        )
        return replace(self, validation=replace(self.validation, staged=staged))

    def tables(self, offered: PolicyGrid) -> list[Table]:
        """Evaluate policies; return one table per numbers of layers, joint exit and patience."""
        firsts, lasts = (
            [own] if layers is None else layers.tolist()
            for own, layers in (
                (self.min_exit_layer, offered.min_exit_layers),
                (self.last_layer, offered.last_layers),
            )
        )
        # With a first layer above the last one, all samples exit at the last one.
        limits = dict.fromkeys(
            (min(first, last), last, joint)
            for joint in offered.joint_exits or (self.joint_exit,)
            for last in lasts
            for first in firsts
        )
        return [
            table
            for samples in (self.limited_to(*limit) for limit in limits)
            for table in policy_tables(samples.space, samples.score, offered, samples.sample_weight)
        ]

    def by_class(self, policy: Mapping[str, Any]) -> ClassReport:
        """Compare the recall of each class under a policy with full depth."""
        limits = policy["min_exit_layer"], policy["n_layers"], policy["joint_exit"]
        validation = self.limited_to(*limits).validation
        tau, patience = policy["tau"], policy["patience"]
        if isinstance(validation, SentenceValidation):
            return validation.class_report(tau, patience, self.sample_weight)
        return ClassReport.of(validation, tau, patience, self.sample_weight)

    def take(self, rows: Integers) -> ScoredSamples:
        """Return some of the samples, without sample weights."""
        return ScoredSamples(self.validation.take(rows), self.X, None, self.scoring)


@dataclass(frozen=True)
class Choice:
    """A chosen policy with its scores and risks.

    Attributes
    ----------
    policy : dict
        "tau", "patience", "min_exit_layer", "n_layers", "joint_exit", "score" and "speedup".
    full_depth_score : float
        Score at full depth on the same samples.
    samples : ScoredSamples, or ScoredRuns
        The samples on which the scores were computed.
    certified : bool
        Whether the policy has a guarantee.
    risks : ndarray of shape (n_groups,) or None
        Risk in each group of the tested samples.
    exit_risks : dict of float, or None
        Risk in each block of early layers.
    """

    policy: dict[str, Any]
    full_depth_score: float
    samples: ScoredSamples | ScoredRuns
    certified: bool = False
    risks: NDArray[np.float64] | None = None
    exit_risks: dict[str, float] | None = None

    def by_class(self) -> ClassReport:
        """Compare the recall of each class under the policy with full depth."""
        return self.samples.by_class(self.policy)


def choose(
    samples: ScoredSamples | ScoredRuns, tables: list[Table], criterion: SelectionCriterion
) -> Choice:
    """Choose a policy by the observed scores, without tests.

    Parameters
    ----------
    samples : ScoredSamples, or ScoredRuns
    tables : list of dict of ndarray
        The evaluated policies, or at least those on the Pareto front.
    criterion : SelectionCriterion

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If no policy meets the constraints.
    """
    full_depth = samples.full_depth_score
    policy = criterion.choose(concatenate(tables), full_depth, samples.n_layers)
    return Choice(policy, full_depth, samples)


def _losses(risk: Any, validation: Validation | SentenceValidation) -> Risk:
    if isinstance(validation, SentenceValidation):
        return validation.risk(risk)
    staged = validation.staged
    return risk_of(risk, staged.predictions, validation.codes, validation.tasks, staged.proba)


@dataclass(frozen=True)
class Guarantee:
    """Test candidate policies, and choose among those that pass.

    Attributes
    ----------
    control : RiskControl
    risk : Risk
    groups : Groups
    """

    control: RiskControl
    risk: Risk
    groups: Groups

    @classmethod
    def of(
        cls,
        bound: float,
        confidence: float | None,
        *,
        risk: Any,
        validation: Validation | SentenceValidation,
        group_labels: NDArray[Any] | None,
        group_names: NDArray[Any] | None,
        together: Integers | None = None,
        per_exit: bool = False,
    ) -> Guarantee:
        """Create a guarantee that bounds a risk, for all samples or for each group.

        Parameters
        ----------
        bound : float in (0, 1)
        confidence : float in (0, 1) or None
            None bounds the risk in expectation.
        risk : str, tuple or callable
            See :func:`._risks.risk_of`.
        validation : Validation or SentenceValidation
        group_labels : ndarray of shape (n_given,) or None
            Group of each sample given to `fit`; the bound has to hold for each group.
        group_names : ndarray of shape (n_groups,) or None
            All groups, including those without a sample in `validation`.
        together : ndarray of shape (n_given,), int, or None
            Indices of units that must not be split, such as patients, of each sample given to
            `fit`.
        per_exit : bool, default=False
            Whether the bound also has to hold for the samples that exit at early layers.
        """
        losses = _losses(risk, validation)
        control: RiskControl = ExpectationControl(bound, np.nan)
        if confidence is not None:
            control = RiskControl(bound, confidence, per_exit=per_exit)
        labels = None if group_labels is None else group_labels[validation.rows]
        numbers = None
        if together is not None:  # renumbered from 0
            numbers = np.unique(together[validation.rows], return_inverse=True)[1].reshape(-1)
        return cls(
            control,
            losses,
            replace(Groups.from_labels(labels, losses.concerned, group_names), together=numbers),
        )

    def certify(
        self, samples: ScoredSamples, offered: PolicyGrid, rng: np.random.RandomState
    ) -> Certification:
        """Find candidate policies and test them."""
        staged = samples.validation.staged
        return self.control.certify(staged, self.risk, self.groups, offered, rng)

    def choose(
        self, samples: ScoredSamples, certification: Certification, criterion: SelectionCriterion
    ) -> Choice:
        """Choose among the certified policies by their scores on the tested samples.

        Raises
        ------
        ValueError
            If no certified policy meets the constraints.

        Warns
        -----
        UserWarning
            If no policy is certified; full depth is chosen then.
        """
        tested = samples.take(certification.tested)
        certified = np.flatnonzero(certification.candidates["certified"])
        if not len(certified):
            return self._full_depth(tested, certification, criterion)
        table = take(certification.candidates, certified)
        policies = zip(table["tau"], table["patience"], strict=True)
        table["score"] = np.array([tested.score_of(tau, patience) for tau, patience in policies])
        table["min_exit_layer"] = np.full(len(certified), tested.min_exit_layer)
        table["n_layers"] = np.full(len(certified), tested.last_layer)
        table["joint_exit"] = np.full(len(certified), tested.joint_exit)
        names = (
            "tau", "patience", "min_exit_layer", "n_layers", "joint_exit", "score", "speedup",
        )  # fmt: skip
        columns = {name: table[name] for name in names}
        full_depth = tested.full_depth_score
        policy = criterion.choose({**columns, "row": certified}, full_depth, tested.space.n_layers)
        row = policy.pop("row")
        by_exit = None if certification.exit_risks is None else certification.exit_risks[row]
        return Choice(policy, full_depth, tested, True, certification.group_risks[row], by_exit)

    def attributes(self, certification: Certification, choice: Choice) -> dict[str, Any]:
        """Return the fitted attributes about the guarantee."""
        risks = np.asarray(choice.risks)
        found = {
            "certified_": choice.certified,
            "risk_bound_": self.control.bound,
            "risk_": largest_risk(risks),
            "candidates_": certification.candidates,
            "p_values_": certification.candidates["p_value"],
            "n_calibration_": len(certification.tested),
        }
        names = certification.group_names
        if names is not None:
            found["risk_by_group_"] = dict(zip(names, risks.tolist(), strict=True))
        if self.control.per_exit:
            by_exit = choice.exit_risks or {}
            found["risk_by_exit_"] = by_exit
            found["risk_"] = largest_risk([*risks, *by_exit.values()])
        return found

    def _full_depth(
        self, tested: ScoredSamples, certification: Certification, criterion: SelectionCriterion
    ) -> Choice:
        message = self.control.explain_failure(certification, self.risk)
        if criterion.min_speedup:
            raise ValueError(f"min_speedup={criterion.min_speedup} cannot be promised. {message}")
        warnings.warn(message, UserWarning, stacklevel=5)
        score = tested.full_depth_score
        policy = {
            "tau": 0.0,
            "patience": tested.space.n_layers,
            "min_exit_layer": tested.min_exit_layer,
            "n_layers": tested.n_layers,
            "joint_exit": tested.joint_exit,
            "score": score,
            "speedup": 0.0,
        }
        losses = self.risk.losses[certification.tested, -1]
        members = self.groups.take(certification.tested).members
        risks = [losses[member].mean() if member.any() else np.nan for member in members]
        return Choice(policy, score, tested, False, np.array(risks))
