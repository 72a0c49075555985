"""What classifiers with a policy chosen from outside share: they delegate to a copy that has it."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils import Bunch, Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._exits.wrappers import exit_classifier, find_exits
from sklearn_epee._tasks import Tasks, exact_match_score


class BaseExitPolicyClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Shared by the fixed and the tuned exit policy; not to be used by itself."""

    estimator: Any

    # Whether samples exit by the policy of `estimator`, see `_exits.protocol`.
    delegates_exit_policy: ClassVar[bool] = False

    def _validate_params(self) -> None:
        for name, value in self.get_params(deep=False).items():
            # Other kinds of real numbers, such as fractions, fail deep inside the validation.
            if isinstance(value, Real) and not isinstance(value, (int, float, np.number, np.bool_)):
                raise TypeError(
                    f"{name} must be a float or an integer; got {value!r} of type "
                    f"{type(value).__name__}."
                )
        super()._validate_params()

    def _with_policy(self) -> Any:
        """Give the fitted estimator that leaves by this classifier's policy."""
        check_is_fitted(self, "estimator_")
        return self.estimator_

    def _inner(self, X: Any) -> tuple[Any, Any]:
        """Give the classifier with early exits and X as it reaches it."""
        found = find_exits(self._with_policy(), X)
        return found.classifier, found.X

    def _adopt(self, estimator: Any) -> Self:
        """Take over a fitted estimator that has the policy."""
        classifier = exit_classifier(estimator)
        self.estimator_ = estimator
        self.classes_ = classifier.classes_
        self.n_outputs_ = len(Tasks(classifier.classes_).each)
        self.n_layers_ = classifier.n_layers_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels, each sample leaving by the policy.

        Parameters
        ----------
        X : samples
            As `estimator` takes them.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
        """
        return self._with_policy().predict(X)

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Give the share of the samples that are answered correctly, in every task.

        Parameters
        ----------
        X : samples
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        check_is_fitted(self, "estimator_")
        if self.n_outputs_ == 1:
            return float(super().score(X, y, sample_weight))
        return exact_match_score(y, self.predict(X), sample_weight)

    def predict_proba(self, X: Any) -> NDArray[np.floating] | list[NDArray[np.floating]]:
        """Predict class probabilities, each sample leaving by the policy.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or list of such arrays
            Columns in the order of ``classes_``; a list with one array a task if there are several.
        """
        return self._with_policy().predict_proba(X)

    def predict_with_exits(self, X: Any) -> Bunch:
        """Give labels, probabilities, exit layers and entropies in one pass.

        Parameters
        ----------
        X : samples

        Returns
        -------
        Bunch
            As the classifier with early exits gives it: ``labels``, ``proba``, ``exit_layer`` and
            ``entropy``.
        """
        classifier, inner_X = self._inner(X)
        return classifier.predict_with_exits(inner_X)

    def predict_exit_layer(self, X: Any) -> NDArray[np.int64]:
        """Give the layer at which each sample leaves.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Layers, counted from 1 to ``n_layers_``.
        """
        classifier, inner_X = self._inner(X)
        return classifier.predict_exit_layer(inner_X)

    def staged_predict_proba(
        self, X: Any
    ) -> Iterator[NDArray[np.floating] | list[NDArray[np.floating]]]:
        """Predict class probabilities at every layer, from one forward pass.

        Parameters
        ----------
        X : samples

        Yields
        ------
        ndarray of shape (n_samples, n_classes), or list of such arrays
            Probabilities of layer 1, then 2, up to ``n_layers_``.
        """
        classifier, inner_X = self._inner(X)
        yield from classifier.staged_predict_proba(inner_X)

    def staged_predict(self, X: Any) -> Iterator[NDArray[Any]]:
        """Predict labels at every layer, from one forward pass.

        Parameters
        ----------
        X : samples

        Yields
        ------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            Labels of layer 1, then 2, up to ``n_layers_``.
        """
        tasks = Tasks(self.classes_)
        for proba in self.staged_predict_proba(X):
            yield tasks.labels(np.hstack(proba) if isinstance(proba, list) else proba)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        tags.classifier_tags = inner.classifier_tags
        tags.target_tags.multi_output = inner.target_tags.multi_output
        tags.non_deterministic = inner.non_deterministic
        return tags
