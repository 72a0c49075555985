"""Tag prediction of meta-estimators around a token classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.utils.metaestimators import available_if

from sklearn_epee._exits.wrappers import given_classifier, predicts_words


def _is_of_words(wrapper: Any) -> bool:
    try:
        return predicts_words(given_classifier(wrapper.estimator))
    except TypeError:  # there is none, for which `fit` raises an error
        return False


class WordPredictionMixin:
    """Tag prediction of meta-estimators; not to be used directly."""

    def _inner(self, X: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    @available_if(_is_of_words)
    def predict_tags(self, X: Any) -> list[Any]:
        """Predict tags of words under the exit policy.

        Only if `estimator` is a token classifier.

        Parameters
        ----------
        X : samples
            Samples accepted by `estimator`.

        Returns
        -------
        list of length n_samples
            Of each sample the tags, one a word. With several layers of spans, a dict of these by
            layer.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier, FixedExitPolicyClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0)
        >>> fixed = FixedExitPolicyClassifier(clf, tau=0.3).fit(X, y)
        >>> fixed.predict_tags([["zinc", "causes", "rash"]])
        [['B-Drug', 'O', 'B-Effect']]
        """
        classifier, inner_X = self._inner(X)
        tags: list[Any] = classifier.predict_tags(inner_X)
        return tags

    @available_if(_is_of_words)
    def staged_predict_tags(self, X: Any) -> Iterator[list[Any]]:
        """Predict tags of words at every layer, from one forward pass.

        Only if `estimator` is a token classifier.

        Parameters
        ----------
        X : samples
            Samples accepted by `estimator`.

        Returns
        -------
        iterator of list of length n_samples
            At layer 1, then 2, up to ``n_layers_``, what `predict_tags` returns.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier, FixedExitPolicyClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0)
        >>> fixed = FixedExitPolicyClassifier(clf, tau=0.3).fit(X, y)
        >>> [tags for tags in fixed.staged_predict_tags([["zinc", "causes", "rash"]])][-1]
        [['B-Drug', 'O', 'B-Effect']]
        """
        classifier, inner_X = self._inner(X)
        staged: Iterator[list[Any]] = classifier.staged_predict_tags(inner_X)
        return staged
