"""Prediction methods: under the exit policy, at one layer, and at all layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Bunch

from sklearn_epee._checks.labels import check_scored
from sklearn_epee._checks.messages import shown
from sklearn_epee._checks.multilabel import label_set_score
from sklearn_epee._checks.parameters import check_layer
from sklearn_epee._checks.tasks import Tasks, exact_match_score
from sklearn_epee._exits.checks import (
    as_array,
    check_exit_ensemble,
    check_joint_exit,
    check_label_thresholds,
    check_min_exit_layer,
    check_patience,
    check_tau,
)
from sklearn_epee._exits.label_scores import naming_y
from sklearn_epee._nn.exit_rules import ExitPolicy, Exits

from .fitted import FittedState

Probabilities = NDArray[np.float32] | list[NDArray[np.float32]]


class ExitPredictionMixin(ClassifierMixin):
    """Public prediction methods of classifiers of samples.

    Each method reads the `FittedState` once, so that a `fit` in another thread has no effect on it.
    """

    # Defaults for estimators without these parameters.
    target_type: Any = "auto"
    label_thresholds: Any = None

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels under the exit policy.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            ``classes_[predict_proba(X).argmax(1)]``, per task. With several labels per sample an
            indicator (n_samples, n_labels), int64: 1 if ``predict_proba(X)`` is above
            `label_thresholds`.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.predict(X[:5]).shape
        (5,)
        """
        return self.predict_with_exits(X).labels

    def predict_proba(self, X: Any) -> Probabilities:
        """Predict class probabilities under the exit policy.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
            Columns in the order of ``classes_``; a list with one array per task if there are
            several. With several labels per sample, the probability of each, (n_samples, n_labels).

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> proba = clf.predict_proba(X[:5])
        >>> proba.shape, proba.dtype
        ((5, 4), dtype('float32'))
        """
        state = self._fitted()
        return state.tasks.proba(self._exits(state, X).proba)

    def predict_exit_layer(self, X: Any) -> NDArray[np.int64]:
        """Return the exit layer of each sample.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Layers, counted from 1 to ``n_layers_``.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.set_params(patience=2).predict_exit_layer(X).max() <= clf.n_layers_
        np.True_
        >>> clf.set_params(patience=1).predict_exit_layer(X[:3])
        array([1, 1, 1])
        """
        return self._exits(self._fitted(), X).exit_layer

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return labels, probabilities, exit layers and entropies from one pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        Bunch
            ``labels`` (n_samples,), ``proba`` (n_samples, n_classes) float32, ``exit_layer``
            (n_samples,) int64 and ``entropy`` (n_samples,) float32, the normalized entropy of the
            exit's own head, in [0, 1]. With several tasks ``labels`` and ``entropy`` have the shape
            (n_samples, n_tasks), and ``proba`` is a list with one array per task. With several
            labels per sample all three have the shape (n_samples, n_labels).

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> found = clf.predict_with_exits(X[:5])
        >>> found.labels.shape, found.proba.shape, found.exit_layer.shape, found.entropy.shape
        ((5,), (5, 4), (5,), (5,))
        """
        state = self._fitted()
        samples = self._check_samples(X, state.summary)
        exits = self._exits_of(state, samples)
        return Bunch(
            labels=self._labels(state, exits.proba),
            proba=state.tasks.proba(exits.proba),
            exit_layer=exits.exit_layer,
            entropy=state.tasks.entropies(exits.entropy),
            **self._extra_results(state, samples, exits),
        )

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy: the fraction of samples that are correct in every task or label.

        Parameters
        ----------
        X : samples
            As in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            True labels; several labels per sample as in `fit`, where unknown labels are ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the mean.

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        ValueError
            If X is not as described, or y or the weights do not match it.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> 0 <= clf.score(X, y) <= 1
        True
        """
        state = self._fitted()
        predicted = self._labels(state, self._exits(state, X).proba)
        check_scored(y, sample_weight, len(predicted))
        if state.tasks.multilabel:
            return label_set_score(state.tasks.codes(y), predicted, sample_weight)
        if predicted.ndim > 1:
            return exact_match_score(y, predicted, sample_weight)
        with naming_y():
            return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def predict_at_layer(self, X: Any, layer: int) -> NDArray[Any]:
        """Predict labels with the head of one layer; the layers above do not run.

        Parameters
        ----------
        X : samples
            As in `fit`.
        layer : int
            1 to ``n_layers_``, or -1 (the last layer) to ``-n_layers_``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            Labels.

        Raises
        ------
        ValueError
            If X is not as described, or there is no such layer.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.predict_at_layer(X[:5], 2).shape
        (5,)
        """
        state = self._fitted()
        return self._labels(state, self._at_layer(state, X, layer))

    def predict_proba_at_layer(self, X: Any, layer: int) -> Probabilities:
        """Predict class probabilities with the head of one layer; the layers above do not run.

        Parameters
        ----------
        X : samples
            As in `fit`.
        layer : int
            1 to ``n_layers_``, or -1 (the last layer) to ``-n_layers_``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
            Columns in the order of ``classes_``; a list with one array per task if there are
            several. With several labels per sample, the probability of each, (n_samples, n_labels).

        Raises
        ------
        ValueError
            If X is not as described, or there is no such layer.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.predict_proba_at_layer(X[:5], -1).shape
        (5, 4)
        """
        state = self._fitted()
        return state.tasks.proba(self._at_layer(state, X, layer))

    def staged_predict(self, X: Any) -> Iterator[NDArray[Any]]:
        """Predict labels at every layer, from one forward pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Yields
        ------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            Labels of layer 1, then 2, up to ``n_layers_``.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> [labels.shape for labels in clf.staged_predict(X[:5])][:2]
        [(5,), (5,)]
        """
        state = self._fitted()
        for proba in self._layer_by_layer(state, X):
            yield self._labels(state, proba)

    def staged_predict_proba(self, X: Any) -> Iterator[Probabilities]:
        """Predict class probabilities at every layer, from one forward pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Yields
        ------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
            Probabilities of layer 1, then 2, up to ``n_layers_``.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.policy import stack_layers
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> stack_layers(clf.staged_predict_proba(X[:5])).shape
        (5, 6, 4)
        """
        state = self._fitted()
        for proba in self._layer_by_layer(state, X):
            yield state.tasks.proba(proba)

    def visited_predict_proba(self, X: Any) -> Any:
        """Predict class probabilities at the exits that samples visit under the exit policy.

        Layers above a sample's exit do not run for it.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_layers, n_classes), float32, or list of such arrays
            NaN in all classes at exits after that of the sample, and at missing exits. A list with
            one array per task if there are several.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> visited = ~np.isnan(clf.visited_predict_proba(X)).any(axis=2)
        >>> bool((visited.sum(axis=1) == clf.predict_exit_layer(X)).all())
        True
        """
        state = self._fitted()
        samples = self._check_samples(X, state.summary)
        policy, batch_size = self._policy(state), self._prediction_batch()
        engine = state.engine(*self._setting())
        windows = self._encoded(state.trained.preprocessor, samples)
        proba = [engine.visited(window, policy, batch_size) for window in windows]
        return state.tasks.proba(np.concatenate(proba))

    def map_exit_logits(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Self:
        """Return a copy in which the logits z of every exit are ``matrix @ z + shift``.

        The last step of a head is linear, so only the weights of the copy differ.

        Parameters
        ----------
        matrix : ndarray of shape (n_layers, n_classes, n_classes)
            With several labels per sample, z are the log-odds of the labels.
        shift : ndarray of shape (n_layers, n_classes)

        Returns
        -------
        estimator
            Of the same class, fitted; the classifier itself is not changed.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or there are several tasks.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> shape = clf.n_layers_, len(clf.classes_)
        >>> flat = clf.map_exit_logits(np.zeros((*shape, shape[1])), np.zeros(shape))
        >>> bool(np.allclose(flat.predict_proba(X), 1 / shape[1]))
        True
        """
        state = self._fitted()
        if len(state.tasks.counts) > 1 and not state.tasks.multilabel:
            raise ValueError("The logits of several tasks cannot be mapped together.")
        n_logits = len(state.tasks.classes)
        shape = state.summary.n_layers, n_logits
        maps = (
            _finite_array("matrix", matrix, (*shape, n_logits)),
            _finite_array("shift", shift, shape),
        )
        twin = copy.deepcopy(self)
        twin.net_.module_.map_logits(*maps)
        return twin

    @property
    def exit_weights_(self) -> NDArray[np.float64]:
        """Weight of each exit in the joint loss, and in ``exit_ensemble="weighted"``."""
        state = vars(self).get("_state")
        if state is None:
            name = type(self).__name__
            raise AttributeError(f"{name!r} has no 'exit_weights_' before it is fitted.")
        return np.array(state.summary.exit_weights, dtype=np.float64)

    # ---------------------------------------------------------------------------- running samples

    def _extra_results(self, state: FittedState, samples: Any, exits: Exits) -> dict[str, Any]:  # noqa: ARG002
        """Return additional entries of `predict_with_exits`."""
        return {}

    def _exits(self, state: FittedState, X: Any) -> Exits:
        """Return exits and predictions of samples under the exit policy."""
        return self._exits_of(state, self._check_samples(X, state.summary))

    def _exits_of(self, state: FittedState, samples: Any) -> Exits:
        """Return exits and predictions of validated samples under the exit policy."""
        policy, batch_size = self._policy(state), self._prediction_batch()
        device, dtype = self._setting()
        if state.shared is not None:
            exits = state.shared.exits_or_none(
                samples,
                policy,
                setting=(str(device), str(dtype)),
                n_layers=state.summary.n_layers,
                counts=state.tasks.counts,
                run=lambda: self._staged(state, samples),
            )
            if exits is not None:
                return exits
        engine = state.engine(device, dtype)
        windows = self._encoded(state.trained.preprocessor, samples)
        return Exits.join([engine.dynamic(window, policy, batch_size) for window in windows])

    def _at_layer(self, state: FittedState, X: Any, layer: int) -> NDArray[np.float32]:
        layer = check_layer(layer, state.summary.n_layers)
        samples = self._check_samples(X, state.summary)
        engine, batch_size = state.engine(*self._setting()), self._prediction_batch()
        windows = self._encoded(state.trained.preprocessor, samples)
        return np.concatenate([engine.budgeted(window, layer, batch_size) for window in windows])

    def _layer_by_layer(self, state: FittedState, X: Any) -> NDArray[np.float32]:
        samples = self._check_samples(X, state.summary)
        return self._staged(state, samples).transpose(1, 0, 2)

    def _staged(self, state: FittedState, samples: Any) -> NDArray[np.float32]:
        engine, batch_size = state.engine(*self._setting()), self._prediction_batch()
        windows = self._encoded(state.trained.preprocessor, samples)
        return np.concatenate([engine.staged(window, batch_size) for window in windows])

    def _labels(self, state: FittedState, proba: NDArray[np.float32]) -> NDArray[Any]:
        """Return the predicted labels, given the concatenated probabilities of all tasks."""
        found: NDArray[Any] = state.tasks.labels(
            proba, thresholds_for(self.label_thresholds, state.tasks)
        )
        return found

    def _policy(self, state: FittedState) -> ExitPolicy:
        return ExitPolicy(
            tau=check_tau(self.tau),
            patience=check_patience(self.patience, state.summary.n_layers),
            min_exit_layer=check_min_exit_layer(self.min_exit_layer),
            exit_ensemble=check_exit_ensemble(self.exit_ensemble),
            exit_weights=state.summary.exit_weights,
            joint_exit=check_joint_exit(self.joint_exit),
            label_thresholds=thresholds_for(self.label_thresholds, state.tasks),
        )


def _finite_array(name: str, given: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return finite numbers of a shape as float64, or raise."""
    array = as_array(name, given)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of numbers; got dtype {array.dtype}.")
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}; got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers.")
    return array.astype(np.float64)


def thresholds_for(label_thresholds: Any, tasks: Tasks) -> NDArray[np.float64] | None:
    """Return the probability above which each label is predicted; None if not multilabel.

    Raises
    ------
    TypeError, ValueError
        If thresholds are invalid, or given although samples do not have several labels.
    """
    if tasks.multilabel:
        return check_label_thresholds(label_thresholds, len(tasks.classes))
    if label_thresholds is not None:
        raise ValueError(
            f"label_thresholds={shown(label_thresholds)} is for samples with several labels, but "
            f"y holds {'several tasks' if isinstance(tasks.classes, list) else 'one label each'}; "
            "expected None, or several labels per sample (see target_type)."
        )
    return None
