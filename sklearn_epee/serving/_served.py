"""Find the classifier inside pipelines, search objects and exit policies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._base.online import OnlineModel, check_is_one_network
from sklearn_epee._exits.checks import check_patience, check_tau
from sklearn_epee._exits.wrappers import chain, own_policy, step_inwards
from sklearn_epee.model_selection import FixedExitPolicyClassifier, TunedExitPolicyClassifierCV

_POLICIES = (FixedExitPolicyClassifier, TunedExitPolicyClassifierCV)


class ServedModel:
    """Snapshot of a fitted estimator for serving.

    Parameters
    ----------
    estimator : estimator

    Attributes
    ----------
    model : OnlineModel
        The classifier with early exits.
    policy : tuple of (float, int)
        tau and patience of the outermost wrapper that has them.

    Raises
    ------
    TypeError
        If the estimator cannot be served, or a wrapper may change its predictions.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    """

    def __init__(self, estimator: Any) -> None:
        links = list(chain(estimator))
        for link in links[:-1]:
            _check_changes_nothing(link)
        classifier = links[-1]
        check_is_one_network(classifier)
        check_is_fitted(classifier)
        own = own_policy(estimator)
        tau, patience = check_tau(own.tau), check_patience(own.patience, classifier.n_layers_)
        # How label thresholds are applied depends on the policy, so it is set on the model, too.
        model = copy.copy(classifier).set_params(tau=tau, patience=patience)
        self.model = OnlineModel(model)
        self.policy = tau, patience
        self._transforms: Sequence[Any] = [
            link[:-1] for link in links if isinstance(link, Pipeline) and len(link.steps) > 1
        ]

    def check(self, sample: Any) -> Any:
        """Return a sample, transformed by the steps of pipelines and validated."""
        is_row = isinstance(sample, np.ndarray) and sample.ndim == 1
        X: Any = sample[np.newaxis] if is_row else [sample]
        for transform in self._transforms:
            X = transform.transform(X)
        return self.model.check(X)


def _check_changes_nothing(link: Any) -> None:
    step = step_inwards(link)
    if step is None or not (step.is_transparent or isinstance(link, _POLICIES)):
        raise TypeError(
            f"estimator holds a {type(link).__name__}, which may change the predictions of the "
            "classifier with early exits inside, and is not served; expected an EPEEClassifier, "
            "EPEEImageClassifier, EPEEMultimodalClassifier or EPEETokenClassifier, or a pipeline, "
            "search object or exit policy around one."
        )
