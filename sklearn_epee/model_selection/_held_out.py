"""Base class of classifiers that learn a few parameters from held-out samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from sklearn_epee._compat import BaseSearchCV, num_samples
from sklearn_epee._exits.wrappers import exit_classifier

from ._base import BaseExitPolicyClassifier
from ._staging import Target, Validation, check_used, make_splits, stage_fitted, stage_splits


class BaseHeldOutClassifier(BaseExitPolicyClassifier):
    """Base class of calibrated exits and tuned thresholds; not to be used directly."""

    cv: Any
    n_jobs: int | None
    random_state: Any

    # Samples exit by the policy of `estimator`.
    delegates_exit_policy = True

    def _is_fitted(self) -> bool:
        return isinstance(self.cv, str) or isinstance(self.estimator, FrozenEstimator)

    def _target(self, X: Any, y: Any) -> Target:
        """Check the labels given to `fit`."""
        return Target.of(
            y, num_samples(X), self.estimator, type(self).__name__, fitted=self._is_fitted()
        )

    def _route(
        self, sample_weight: ArrayLike | None, params: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Route metadata to the estimator and to the splitter."""
        given = dict(params)
        if sample_weight is not None:
            given["sample_weight"] = sample_weight
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **given)
            return routed.estimator.fit, routed.splitter.split
        to_split = {"groups": given.get("groups")}
        if self._is_fitted() or not holds_groups_out(self.estimator):
            given.pop("groups", None)
        return given, to_split

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata passed to `fit` goes.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
            To the `fit` of `estimator` and the `split` of `cv`.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, ExitCalibratedClassifier
        >>> type(ExitCalibratedClassifier(EPEEClassifier()).get_metadata_routing()).__name__
        'MetadataRouter'
        """
        to_fit, to_split = (
            MethodMapping().add(caller="fit", callee=callee) for callee in ("fit", "split")
        )
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=to_fit)
            .add(splitter=self.cv, method_mapping=to_split)
        )

    def _stage(
        self, X: Any, target: Target, to_fit: Mapping[str, Any], to_split: Mapping[str, Any]
    ) -> Validation:
        """Return the predictions of all exits for samples that were not used for training."""
        if self._is_fitted():
            check_is_fitted(exit_classifier(self.estimator), "n_layers_")
            check_used(to_fit, self.estimator)
            return stage_fitted(self.estimator, X, target.y)
        splits = make_splits(
            self.cv,
            X,
            target.to_split(self.cv),
            random_state=self.random_state,
            split_params=to_split,
        )
        validation, _ = stage_splits(
            self.estimator, X, target.y, splits, fit_params=to_fit, n_jobs=self.n_jobs
        )
        return validation

    def _fitted(self, X: Any, target: Target, to_fit: Mapping[str, Any]) -> Any:
        """Return the estimator trained on all samples, or as it was given."""
        if self._is_fitted():
            return self.estimator
        return clone(self.estimator).fit(X, target.y, **to_fit)


def holds_groups_out(estimator: Any) -> bool:
    """Return whether the `fit` of an estimator takes groups because it holds out samples itself."""
    if isinstance(estimator, BaseHeldOutClassifier | BaseSearchCV):
        return True
    if not has_fit_parameter(estimator, "groups"):
        return False
    return bool(estimator.get_params(deep=False).get("validation_fraction", True))
