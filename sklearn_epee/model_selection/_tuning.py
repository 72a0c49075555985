"""Steps of tuning an exit policy: check the input, predict each split once, choose a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, check_random_state, indexable
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._checks.labels import check_groups, check_weights
from sklearn_epee._compat import num_samples
from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.tables import PolicyGrid, concatenate, pareto_front
from sklearn_epee._exits.wrappers import (
    exit_classifier,
    exit_costs,
    given_classifier,
    predicts_words,
)
from sklearn_epee._word_exits import check_word_scoring
from sklearn_epee.metrics import exit_scores, speedup_score

from ._base import BaseExitPolicyClassifier
from ._choice import Choice, Guarantee, ScoredSamples, choose
from ._guarantee_parameters import (
    check_risk_for,
    guarantee_parameter,
    has_guarantee,
)
from ._held_out import holds_groups_out
from ._risks import check_risk_groups
from ._selection import SelectionCriterion
from ._sentences import SentenceStaging, SentenceTarget, SentenceValidation, check_risk_of_words
from ._staging import (
    ClassStaging,
    Staging,
    Target,
    Validation,
    check_used,
    make_splits,
    stage_fitted,
    stage_splits,
)
from ._word_runs import ScoredRuns, WordRuns, WordStaging, check_named

# Keys of `policies`, and the attribute that a classifier needs for them.
_NEEDED = {
    "min_exit_layer": "min_exit_layer",
    "n_layers": "first_layers",
    "joint_exit": "joint_exit",
}


@dataclass(frozen=True)
class FitInputs:
    """Validated arguments of `fit`."""

    X: Any
    target: Target | SentenceTarget
    staging: Staging
    weights: Floats | None
    fit_params: Mapping[str, Any]
    split_params: Mapping[str, Any]
    risk_groups: NDArray[Any] | None
    together: Integers | None


def check_policies(tuned: Any) -> None:
    """Check the parameter `policies` before anything is trained.

    Raises
    ------
    TypeError, ValueError
        If it is not as documented, or cannot be used with the estimator or the guarantee.
    """
    PolicyGrid.from_parameter(tuned.policies, n_layers=1)  # the number does not matter
    if not isinstance(tuned.policies, Mapping):
        return
    classifier = given_classifier(tuned.estimator)
    for key, needed in _NEEDED.items():
        if key in tuned.policies:
            _check_key(tuned, key, needed)
    if "n_layers" in tuned.policies:
        _check_shortens(classifier)


def _check_shortens(classifier: Any) -> None:
    """Raise unless numbers of layers can be compared for a classifier."""
    why = None
    if getattr(classifier, "token_exit", None) == "token":
        why = "with token_exit='token', because each policy needs a separate pass"
    elif hasattr(type(classifier), "n_tower_layers_"):
        why = "for a classifier with two backbones"
    elif getattr(classifier, "precision", None) == "int8":
        why = "with precision='int8', because a shorter network has to be calibrated again"
    if why is not None:
        raise ValueError(
            f"policies cannot have the key 'n_layers' {why}; shorten a fitted estimator by its "
            "method first_layers, and tune the result."
        )


def _check_key(tuned: Any, key: str, needed: str) -> None:
    """Check a key of the parameter `policies` that changes more than thresholds."""
    values = tuned.policies[key]
    classifier = given_classifier(tuned.estimator)
    if not hasattr(classifier, needed):
        name = type(classifier).__name__
        raise ValueError(f"policies has the key {key!r}, but {name} has no {needed}.")
    if has_guarantee(tuned) and (isinstance(values, str) or len(set(values)) > 1):
        raise ValueError(
            f"policies[{key!r}] must hold a single value where policies are tested "
            f"(confidence or guarantee); got {values!r}."
        )


class BaseTunedExitPolicy(BaseExitPolicyClassifier):
    """Steps of `fit` of `TunedExitPolicyClassifierCV`, which defines the parameters."""

    objective: Any
    min_speedup: float | None
    max_accuracy_drop: float | None
    confidence: float | None
    guarantee: str
    risk: Any
    max_risk: float | None
    per_class: bool
    per_exit: bool
    scoring: Any
    policies: Any
    cv: Any
    refit: bool
    n_jobs: int | None
    random_state: Any
    store_cv_results: bool

    # ----------------------------------------------------------------------------- input

    def _checked(
        self, X: Any, y: ArrayLike, risk_groups: ArrayLike | None, params: dict[str, Any]
    ) -> FitInputs:
        X = indexable(X)[0]
        n_samples = num_samples(X)
        target, staging = self._target(y, n_samples)
        groups = None if risk_groups is None else check_risk_groups(risk_groups, n_samples)
        routed = self._route(params)
        weights = routed.scorer.score.get("sample_weight")
        return FitInputs(
            X=X,
            target=target,
            staging=staging,
            weights=None if weights is None else check_weights(weights, n_samples),
            fit_params=routed.estimator.fit,
            split_params=routed.splitter.split,
            risk_groups=groups,
            together=self._together(routed.splitter.split.get("groups"), n_samples),
        )

    def _target(self, y: Any, n_samples: int) -> tuple[Target | SentenceTarget, Staging]:
        """Check the labels, tags or spans given to `fit`; return them and their staging."""
        classifier = given_classifier(self.estimator)
        if not predicts_words(classifier):
            name = type(self).__name__
            _check_scorer(self.scoring)
            target = Target.of(y, n_samples, self.estimator, name, fitted=self._is_fitted())
            check_risk_for(target, self)
            return target, ClassStaging(target.multilabel)
        of_sentences = SentenceTarget.of(y, n_samples)
        check_word_scoring(self.scoring)
        if getattr(classifier, "token_exit", "sentence") == "sentence":
            if has_guarantee(self):
                check_risk_of_words(self)
            return of_sentences, SentenceStaging(self.scoring)
        check_named(self.policies)
        if has_guarantee(self):
            raise ValueError(
                f"{guarantee_parameter(self)}: there are guarantees for token_exit='sentence' "
                f"alone; got token_exit={classifier.token_exit!r}."
            )
        return of_sentences, WordStaging(self.scoring, self.policies)

    def _together(self, groups: ArrayLike | None, n_samples: int) -> Integers | None:
        """Return the group of each sample if the tests of a guarantee must not split groups."""
        return check_groups(groups, n_samples) if has_guarantee(self) else None

    def _route(self, params: dict[str, Any]) -> Bunch:
        """Route metadata to the estimator, splitter and scorer."""
        if get_config()["enable_metadata_routing"]:
            return process_routing(self, "fit", **params)
        params = dict(params)
        split = {"groups": params.get("groups")}
        if self._is_fitted() or not holds_groups_out(self.estimator):
            params.pop("groups", None)
        weights = params.get("sample_weight")
        return Bunch(
            estimator=Bunch(fit=params),
            splitter=Bunch(split=split),
            scorer=Bunch(score={} if weights is None else {"sample_weight": weights}),
        )

    # ------------------------------------------------------------------ predictions of splits

    def _is_fitted(self) -> bool:
        return isinstance(self.cv, str) or isinstance(self.estimator, FrozenEstimator)

    def _stage(self, given: FitInputs) -> tuple[Validation | SentenceValidation | WordRuns, Any]:
        """Return the predictions of all exits, and the estimator if it is not trained again."""
        if isinstance(self.cv, str) and self.refit:
            raise ValueError("cv='prefit' trains nothing: refit must be False; got refit=True.")
        if self._is_fitted():
            check_is_fitted(exit_classifier(self.estimator), "n_layers_")
            self._check_reachable(exit_classifier(self.estimator))
            check_used(given.fit_params, self.estimator)
            if isinstance(given.target, Target):
                return stage_fitted(self.estimator, given.X, given.target.y), self.estimator
            staged = given.staging.stage(self.estimator, given.X)
            every = np.arange(num_samples(given.X))
            return given.staging.pooled([staged], [every], given.target.y), self.estimator
        splits = make_splits(
            self.cv,
            given.X,
            given.target.to_split(self.cv),
            random_state=self.random_state,
            split_params=given.split_params,
        )
        self._check_splits(len(splits))
        validation, kept = stage_splits(
            self.estimator,
            given.X,
            given.target.y,
            splits,
            fit_params=given.fit_params,
            n_jobs=self.n_jobs,
            staging=given.staging,
        )
        return validation, None if self.refit else kept

    def _check_splits(self, n_splits: int) -> None:
        if not self.refit and n_splits > 1:
            raise ValueError(
                f"refit=False keeps the network of a single split, but cv={self.cv!r} makes "
                f"{n_splits}; give a float such as cv=0.3, or refit=True."
            )
        if self.refit and has_guarantee(self):
            raise ValueError(
                f"{guarantee_parameter(self)} is a guarantee for the network whose exits were "
                "tested, but refit=True trains another one. Hold out samples and keep the network "
                "(cv=0.3, refit=False), or give a fitted one (FrozenEstimator) and samples that it "
                "was not trained on."
            )

    def _check_reachable(self, classifier: Any) -> None:
        n_layers = classifier.n_layers_
        if exit_costs(classifier) is not None:  # the largest speed-up depends on the samples
            return
        if self.min_speedup is not None and self.min_speedup > 1 - 1 / n_layers:
            raise ValueError(
                f"min_speedup={self.min_speedup} cannot be reached: with {n_layers} layers the "
                f"speed-up ratio lies between 0 and 1 - 1/{n_layers} = {1 - 1 / n_layers:.4f}."
            )

    # ---------------------------------------------------------------------- choice of a policy

    def _criterion(self) -> SelectionCriterion:
        if has_guarantee(self):  # max_accuracy_drop is tested, and is no constraint here
            objective = "max_speedup" if self.objective == "auto" else self.objective
            return SelectionCriterion(objective, self.min_speedup)
        objective = "max_score" if self.max_accuracy_drop is None else "max_speedup"
        if self.objective != "auto":
            objective = self.objective
        return SelectionCriterion(objective, self.min_speedup, self.max_accuracy_drop)

    def _scored(
        self, validation: Validation | SentenceValidation | WordRuns, given: FitInputs
    ) -> ScoredSamples | ScoredRuns:
        """Return the samples together with the scoring of policies."""
        if isinstance(validation, WordRuns):
            return ScoredRuns(validation, given.weights, self.scoring)
        return ScoredSamples(validation, given.X, given.weights, self.scoring)

    def _choose(
        self, samples: ScoredSamples | ScoredRuns, given: FitInputs
    ) -> tuple[Choice, dict[str, Any]]:
        """Return the chosen policy, and fitted attributes about all policies."""
        offered = PolicyGrid.from_parameter(self.policies, samples.n_layers)
        if isinstance(samples, ScoredSamples) and has_guarantee(self):
            samples = samples.limited_to(
                offered.only_min_exit_layer(samples.min_exit_layer),
                offered.only_last_layer(samples.last_layer),
                offered.only_joint_exit(samples.joint_exit),
            )
        tables = samples.tables(offered)
        front = pareto_front(tables)
        found: dict[str, Any] = {"pareto_front_": front}
        if self.store_cv_results:
            found["cv_results_"] = concatenate(tables)
        if isinstance(samples, ScoredRuns) or not has_guarantee(self):
            to_compare = tables if callable(self.objective) else [front]
            return choose(samples, to_compare, self._criterion()), found
        bound: Any = self.max_accuracy_drop if self.risk == "accuracy_drop" else self.max_risk
        labels, names = self._groups(given, samples.validation)
        guarantee = Guarantee.of(
            bound,
            self.confidence,
            risk=self.risk,
            validation=samples.validation,
            group_labels=labels,
            group_names=names,
            together=given.together,
            per_exit=self.per_exit,
        )
        rng = check_random_state(self.random_state)
        certification = guarantee.certify(samples, offered.up_to(samples.last_layer), rng)
        choice = guarantee.choose(samples, certification, self._criterion())
        return choice, found | guarantee.attributes(certification, choice)

    def _groups(
        self, given: FitInputs, validation: Validation | SentenceValidation
    ) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return the group of each sample given to `fit`, and all groups with a guarantee."""
        if self.per_class and isinstance(
            validation, Validation
        ):  # all classes, because the network may predict each of them
            return given.target.y, validation.classes
        groups = given.risk_groups
        return groups, None if groups is None else np.unique(groups)


def _check_scorer(scoring: Any) -> None:
    """Raise if a callable is a metric instead of a scorer, or does not return a single score."""
    module = str(getattr(scoring, "__module__", ""))
    if module.startswith("sklearn.metrics.") and not module.startswith("sklearn.metrics._scorer"):
        raise ValueError(
            f"scoring={scoring!r} looks like a metric, which compares labels; expected a scorer, "
            f"such as make_scorer({getattr(scoring, '__name__', 'metric')})."
        )
    function = getattr(scoring, "func", scoring)  # of a partial
    if function in (exit_scores, speedup_score):
        raise ValueError(
            f"scoring={function.__name__} is for searches and cross_validate; expected one score "
            "of predictions, such as 'f1_macro'. min_speedup bounds the speed-up."
        )
