"""Base class of classifiers that predict with a given exit policy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils import Bunch, Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._checks.multilabel import labels_above
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._documentation import DocumentationLinkMixin
from sklearn_epee._exits.checks import check_label_thresholds
from sklearn_epee._exits.label_scores import share_correct
from sklearn_epee._exits.wrappers import (
    exit_classifier,
    find_exits,
    is_multilabel,
    own_policy,
    predicts_words,
)
from sklearn_epee._folders import PretrainedMixin
from sklearn_epee.metrics import exit_scores

from ._set_prediction import SetPredictionMixin
from ._word_prediction import WordPredictionMixin


class BaseExitPolicyClassifier(
    WordPredictionMixin,
    SetPredictionMixin,
    PretrainedMixin,
    DocumentationLinkMixin,
    ClassifierMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Base class of classifiers with a fixed or tuned exit policy; not to be used directly."""

    estimator: Any

    # Whether samples exit by the policy of `estimator`, see `_exits.protocol`.
    delegates_exit_policy: ClassVar[bool] = False

    def _validate_params(self) -> None:
        for name, value in self.get_params(deep=False).items():
            # scikit-learn's validation fails with obscure errors for fractions and the like.
            if isinstance(value, Real) and not isinstance(value, (int, float, np.number, np.bool_)):
                raise TypeError(
                    f"{name} must be a float or an integer; got {value!r} of type "
                    f"{type(value).__name__}."
                )
        super()._validate_params()

    def export_onnx(self, folder: str | os.PathLike[str], layer: int | None = None) -> None:
        """Write the network as ONNX graphs, with the exit policy of this classifier.

        Parameters
        ----------
        folder : str or path-like
            An empty or new folder.
        layer : int, default=None
            If given, only one graph is written, up to the head of this layer.

        Raises
        ------
        ImportError, ValueError, FileExistsError
            As :meth:`sklearn_epee.EPEEClassifier.export_onnx`. For pipelines and searches, only the
            classifier is written, without the steps before it.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> fixed = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2).fit(X, y)
        >>> fixed.export_onnx(tempfile.mkdtemp())  # doctest: +SKIP
        """
        exit_classifier(self._with_policy()).export_onnx(folder, layer)

    def _scores_for_card(self, X: Any, y: Any) -> dict[str, float]:
        return exit_scores(self, X, y)

    def _with_policy(self) -> Any:
        """Return the fitted estimator with the exit policy of this classifier."""
        check_is_fitted(self, "estimator_")
        return self.estimator_

    def _inner(self, X: Any) -> tuple[Any, Any]:
        """Return the classifier with early exits, and its input."""
        found = find_exits(self._with_policy(), X)
        return found.classifier, found.X

    def _adopt(self, estimator: Any) -> Self:
        """Set the fitted attributes from an estimator with the exit policy; return self."""
        classifier = exit_classifier(estimator)
        self.estimator_ = estimator
        self.classes_ = classifier.classes_
        self.multilabel_ = is_multilabel(classifier)
        layers_of_spans = list(self.classes_.values()) if isinstance(self.classes_, dict) else None
        self.n_outputs_ = len(Tasks(layers_of_spans or self.classes_, self.multilabel_).each)
        self.n_layers_ = classifier.n_layers_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))
        for name in ("exit_costs_", "n_tower_layers_", "prediction_sets_"):
            self.__dict__.pop(name, None)  # from an earlier fit
            if getattr(classifier, name, None) is not None:
                setattr(self, name, getattr(classifier, name))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels under the exit policy.

        Parameters
        ----------
        X : samples
            As for `estimator`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            For several labels an indicator, (n_samples, n_labels). For a token classifier a list
            with the spans of each sample.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2)
        >>> clf.fit(X, y).predict(X).shape
        (40,)
        """
        return self._with_policy().predict(X)

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the fraction of samples that are predicted correctly, in every task or label.

        For a token classifier it is the F1 score of spans.

        Parameters
        ----------
        X : samples
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            True labels; for several labels and for token classifiers in any form that `fit` takes.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        TypeError, ValueError
            If `y` or `sample_weight` does not match the samples.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2)
        >>> 0 <= clf.fit(X, y).score(X, y) <= 1
        True
        """
        classifier, inner_X = self._inner(X)
        if predicts_words(classifier):
            return float(classifier.score(inner_X, y, sample_weight))
        predicted = self.predict(X)
        tasks = Tasks(self.classes_, is_multilabel(self))
        return share_correct(y, predicted, sample_weight, type(self).__name__, tasks)

    def predict_proba(self, X: Any) -> NDArray[np.floating] | list[NDArray[np.floating]]:
        """Predict class probabilities under the exit policy.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or list of such arrays
            Columns in the order of ``classes_``; a list with one array per task for several tasks.
            For several labels, the probability of each label, (n_samples, n_labels).

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2)
        >>> proba = clf.fit(X, y).predict_proba(X)
        >>> proba.shape == (40, len(clf.classes_))
        True
        """
        return self._with_policy().predict_proba(X)

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return labels, probabilities, exit layers and entropies, from one pass.

        Parameters
        ----------
        X : samples

        Returns
        -------
        Bunch
            ``labels``, ``proba``, ``exit_layer`` and ``entropy``, as returned by the classifier
            with early exits.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2)
        >>> found = clf.fit(X, y).predict_with_exits(X)
        >>> sorted(found)
        ['entropy', 'exit_layer', 'labels', 'proba']
        """
        classifier, inner_X = self._inner(X)
        return classifier.predict_with_exits(inner_X)

    def predict_exit_layer(self, X: Any) -> NDArray[np.int64]:
        """Return the exit layer of each sample.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples,), int64
            From 1 to ``n_layers_``.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), tau=0)
        >>> bool((clf.fit(X, y).predict_exit_layer(X) == clf.n_layers_).all())
        True
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

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2)
        >>> staged = list(clf.fit(X, y).staged_predict_proba(X))
        >>> len(staged) == clf.n_layers_
        True
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
            Labels of layer 1, then 2, up to ``n_layers_``. For a token classifier lists of spans,
            as returned by `predict`.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = FixedExitPolicyClassifier(EPEEClassifier(max_epochs=1), patience=2)
        >>> [labels.shape for labels in clf.fit(X, y).staged_predict(X)][0]
        (40,)
        """
        classifier, inner_X = self._inner(X)
        if predicts_words(classifier):
            yield from classifier.staged_predict(inner_X)
            return
        tasks = Tasks(self.classes_, is_multilabel(self))
        given = own_policy(self._with_policy()).label_thresholds
        for proba in self.staged_predict_proba(X):
            if tasks.multilabel:
                thresholds = check_label_thresholds(given, len(self.classes_))
                yield labels_above(np.asarray(proba), thresholds)
            else:
                yield tasks.labels(np.hstack(proba) if isinstance(proba, list) else proba)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        # Classifiers of words have none: scikit-learn cannot stratify splits by their labels.
        tags.estimator_type = inner.estimator_type
        tags.input_tags = inner.input_tags
        tags.classifier_tags = inner.classifier_tags
        tags.target_tags.multi_output = inner.target_tags.multi_output
        tags.non_deterministic = inner.non_deterministic
        return tags
