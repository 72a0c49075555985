"""FixedExitPolicyClassifier: a given policy for any early-exit classifier."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Self

from sklearn import get_config
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._compat import HasMethods, Interval
from sklearn_epee._exits.checks import check_patience, check_tau
from sklearn_epee._exits.wrappers import check_has_exits, exit_classifier, with_policy

from ._base import BaseExitPolicyClassifier
from ._staging import check_used


class FixedExitPolicyClassifier(BaseExitPolicyClassifier):
    """Early-exit classifier with a given exit policy.

    It sets the policy of a classifier, as
    :class:`~sklearn.model_selection.FixedThresholdClassifier` sets its decision threshold; the
    classifier itself is not changed. The exit rule is that of EPEE [1]_.

    Parameters
    ----------
    estimator : estimator
        A classifier with early exits, such as :class:`~sklearn_epee.EPEEClassifier`, or a pipeline,
        search object or :class:`ExitCalibratedClassifier` that ends in one. Wrap a fitted one in
        :class:`~sklearn.frozen.FrozenEstimator` to avoid training it again.
    tau : float, default=0.1
        Entropy threshold: a sample exits at the first layer whose normalized entropy, in [0, 1], is
        below `tau`. The comparison is strict: with 0 no sample exits by entropy, and with a value
        above 1 every sample exits at layer 1. Can be changed after `fit`.
    patience : int or None, default=None
        A sample also exits once this many consecutive layers, the current one included, predict
        the same class; None stands for the number of layers M. PABEE, PCEE-BERT, ElasticBERT and
        the EPEE paper's own code count agreements from 0: their patience p is ``patience=p + 1``
        here. Can be changed after `fit`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator, with the policy. It shares the network with a frozen `estimator`,
        whose own policy is not changed.
    classes_ : ndarray of shape (n_classes,), or list of such arrays
        Class labels; with several tasks a list with one array per task.
    multilabel_ : bool
        Whether a sample may have any number of the labels in `classes_`.
    n_outputs_ : int
        Number of tasks, or of labels.
    n_layers_ : int
        Number of layers M, and of exits.
    n_features_in_ : int
        Number of features seen in `fit`. Only defined if the underlying estimator has it.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen in `fit`. Only defined if the underlying estimator has them.

    See Also
    --------
    TunedExitPolicyClassifierCV : Chooses the policy from data, on request with a guarantee.

    References
    ----------
    .. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
       arXiv:2503.02053.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> X, y = make_supplement_notes(60, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
    >>> fixed = FixedExitPolicyClassifier(FrozenEstimator(clf), tau=0.0, patience=2).fit(X, y)
    >>> fixed.predict_exit_layer(X[:5]).min() >= 2
    np.True_
    >>> clf.patience is None
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "tau": [Interval(Real, 0, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, estimator: Any, *, tau: float = 0.1, patience: int | None = None) -> None:
        self.estimator = estimator
        self.tau = tau
        self.patience = patience

    def fit(self, X: Any, y: Any, **params: Any) -> Self:
        """Fit the estimator, unless it is frozen.

        Parameters
        ----------
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Labels.
        **params : dict
            Passed to the `fit` of `estimator`, such as ``sample_weight``.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If `estimator` ends in no classifier with early exits.
        ValueError
            If a parameter is not as described.
        sklearn.exceptions.NotFittedError
            If `estimator` is frozen and not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> fixed = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), tau=0.0, patience=2)
        >>> fixed.fit(X, y).estimator_.patience
        2
        """
        self._validate_params()
        check_tau(self.tau)
        check_patience(self.patience)
        check_has_exits(self.estimator)
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params).estimator.fit
        if isinstance(self.estimator, FrozenEstimator):
            check_used(params, self.estimator)
        fitted = clone(self.estimator).fit(X, y, **params)
        return self._adopt(with_policy(fitted, self.tau, self.patience))

    def _with_policy(self) -> Any:
        check_is_fitted(self, "estimator_")
        classifier = exit_classifier(self.estimator_)  # a copy, which may be modified
        policy = {"tau": check_tau(self.tau), "patience": check_patience(self.patience)}
        if any(getattr(classifier, name) != value for name, value in policy.items()):
            classifier.set_params(**policy)
        return self.estimator_

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata passed to `fit` goes: to the `fit` of `estimator`.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> type(FixedExitPolicyClassifier(EPEEClassifier()).get_metadata_routing()).__name__
        'MetadataRouter'
        """
        fit_to_fit = MethodMapping().add(caller="fit", callee="fit")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)  # of `score`
            .add(estimator=self.estimator, method_mapping=fit_to_fit)
        )
