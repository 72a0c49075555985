"""The interface of classifiers for the metrics, the tuned policies and the displays.

A classifier of another package that has the members of `EarlyExitClassifier` can be scored with
`speedup_score` and `exit_scores`, drawn by the displays, and put into
`TunedExitPolicyClassifierCV` and `FixedExitPolicyClassifier`; nothing has to be inherited or
registered. If it also has `map_exit_logits`, `ExitCalibratedClassifier` can calibrate its exits. A
meta-estimator without an exit policy of its own sets `delegates_exit_policy`. ``docs/protocol.md``
lists the members in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch


@runtime_checkable
class EarlyExitClassifier(Protocol):
    """A scikit-learn classifier that predicts after each of its layers.

    It has the constructor parameters `tau` and `patience`, returned by `get_params`. Both only
    affect prediction: ``set_params(tau=..., patience=...)`` after `fit` takes effect at the next
    prediction, and ``copy.copy`` of a fitted classifier returns a classifier with the same network
    and an independent policy. If it has the parameters `min_exit_layer`, `exit_ensemble`,
    `exit_loss_weights` or `joint_exit`, they have the same meaning as in
    :func:`sklearn_epee.policy.apply_policy`. If there is an attribute `exit_weights_` (numbers), it
    is used instead of `exit_loss_weights`.

    Attributes
    ----------
    tau : float
        Entropy threshold.
    patience : int or None
        Number of consecutive layers that must agree; None stands for the number of layers.
    classes_ : ndarray of shape (n_classes,), or list of such arrays
        Class labels, sorted; a list with one array per task for several tasks. A classifier for
        several labels per sample has ``multilabel_ = True``, the labels in `classes_`, and the
        parameters `target_type` and `label_thresholds`; its predictions have a column per label.
    n_layers_ : int
        Number of layers M, and of exits.
    """

    tau: float
    patience: int | None
    classes_: Any
    n_layers_: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, including `tau` and `patience`."""
        ...

    def set_params(self, **params: Any) -> Self:
        """Set parameters; return self."""
        ...

    def fit(self, X: Any, y: Any) -> Self:
        """Train the classifier; return self."""
        ...

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return the predictions of one pass under the classifier's own policy.

        Returns
        -------
        Bunch
            ``labels`` of shape (n_samples,) or (n_samples, n_tasks); ``proba`` of shape
            (n_samples, n_classes), or a list with one such array per task; ``exit_layer`` of shape
            (n_samples,), int, from 1 to M; ``entropy`` of shape (n_samples,) or (n_samples,
            n_tasks).
        """
        ...

    def predict_exit_layer(self, X: Any) -> NDArray[np.int64]:
        """Return the exit layer of each sample, from 1 to M, under the classifier's own policy."""
        ...

    def staged_predict_proba(self, X: Any) -> Iterator[Any]:
        """Yield the class probabilities of layer 1, then 2, up to M, from one forward pass.

        Yields
        ------
        ndarray of shape (n_samples, n_classes), or list of such arrays
            Probabilities of the heads, independent of the policy; a list for several tasks.
        """
        ...


@runtime_checkable
class PredictsWords(Protocol):
    """A classifier with early exits that predicts tags of words, and spans.

    It can be scored with `speedup_score`, which counts rows, and `exit_scores`, which scores spans.
    With the methods `staged_predict`, `staged_predict_tags` and `staged_predict_proba` of
    :class:`~sklearn_epee.EPEETokenClassifier`, the tuned policy and the displays accept it, too.
    """

    n_layers_: int

    def predict_tags(self, X: Any) -> list[Any]:
        """Return the tags of each sample, one per word. Token classifiers are recognized by it."""
        ...

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return the predictions of one pass under the classifier's own policy.

        Returns
        -------
        Bunch
            ``spans``, a list of spans per sample, or dicts of these by layer; ``exit_layer``, of
            shape (n_samples,), or a list with an array of shape (n_words,) per sample;
            ``rows_computed`` and ``rows_total`` of shape (n_samples,), int: positions that the
            layers computed, summed over layers, and the same for all layers.
        """
        ...


@runtime_checkable
class PredictsVisited(Protocol):
    """A classifier that returns the probabilities of all visited exits.

    `predict_set` uses this method if there is one; otherwise it runs all layers.
    """

    def visited_predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Return the heads' probabilities at the visited exits, under the classifier's own policy.

        Returns
        -------
        ndarray of shape (n_samples, n_layers, n_classes)
            NaN in all classes at exits after that of the sample, and at missing exits.
        """
        ...


@runtime_checkable
class MapsExitLogits(Protocol):
    """A classifier whose exits can be calibrated, because their last step is linear."""

    def map_exit_logits(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Self:
        """Return a copy in which the logits z of every exit are ``matrix @ z + shift``.

        The classifier itself is not changed. Logits are the logarithms of the probabilities, up to
        a constant per sample and exit.

        Parameters
        ----------
        matrix : ndarray of shape (n_layers, n_classes, n_classes), float64
        shift : ndarray of shape (n_layers, n_classes), float64
        """
        ...


@runtime_checkable
class DelegatesExitPolicy(Protocol):
    """A meta-estimator without an exit policy of its own.

    It uses the policy of its `estimator_`, so that a copy with another classifier there has another
    policy.

    Attributes
    ----------
    delegates_exit_policy : bool
        True; a class attribute, also read before `fit`.
    estimator : estimator
        The unfitted estimator.
    estimator_ : estimator
        The fitted estimator.
    """

    delegates_exit_policy: bool
    estimator: Any
    estimator_: Any
