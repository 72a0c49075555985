"""A fitted classifier as it is at one moment, for samples that come one after the other."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._nn.batching import EncodedSamples
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.layer_walk import LayerWalk
from sklearn_epee._nn.row_policies import RowPolicyRule

from .classifier import BaseEPEEClassifier
from .prediction import Probabilities


class Predictions(NamedTuple):
    """What is predicted of n samples, as `predict_with_exits` returns it."""

    labels: NDArray[Any]
    proba: Probabilities
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]


class OnlineModel:
    """Checks and encodes samples, runs them, and makes their predictions.

    A later `fit` or `set_params` of the classifier changes nothing here.

    Parameters
    ----------
    classifier : BaseEPEEClassifier
        Fitted, with one network.

    Attributes
    ----------
    n_layers : int
        Number of layers M.

    Raises
    ------
    TypeError
        If it is another kind of classifier.
    """

    def __init__(self, classifier: Any) -> None:
        check_is_one_network(classifier)
        self._classifier = copy.copy(classifier)
        self._state = classifier._fitted()
        self.n_layers: int = self._state.summary.n_layers
        self._policy = self._classifier._policy(self._state)

    def check(self, X: Any) -> Any:
        """Return the one sample of X, validated.

        Raises
        ------
        TypeError, ValueError
            If X is not as the classifier takes it, or holds another number of samples.
        """
        samples = self._classifier._check_samples(X, self._state.summary)
        if len(samples) != 1:
            raise ValueError(f"A request is for one sample; got {len(samples)}.")
        return samples[0]

    def encode(self, samples: list[Any]) -> EncodedSamples:
        """Return validated samples as the network reads them."""
        encoded: EncodedSamples = self._state.trained.preprocessor.encode(samples)
        return encoded

    def walk(self, tau: float, patience: int, capacity: int) -> tuple[LayerWalk, RowPolicyRule]:
        """Return a walk through the layers that samples can join at any time.

        Parameters
        ----------
        tau : float
            The largest that a sample may have.
        patience : int
            The least that a sample may have.
        capacity : int
            Number of samples that are under way at most.
        """
        engine: Engine = self._state.engine(*self._classifier._setting())
        widest = replace(self._policy, tau=tau, patience=patience)
        return engine.walk(widest, capacity, self._classifier._prediction_batch())

    def predictions(self, rule: RowPolicyRule, slots: NDArray[np.intp]) -> Predictions:
        """Return what a rule recorded of samples that exited."""
        proba, tasks = rule.out.proba[slots], self._state.tasks
        return Predictions(
            self._classifier._labels(self._state, proba),
            tasks.proba(proba),
            rule.out.exit_layer[slots],
            tasks.entropies(rule.out.entropy[slots]),
        )


def check_is_one_network(classifier: Any) -> None:
    """Raise if a classifier is not one of a single network with a prediction for each sample."""
    is_known = isinstance(classifier, BaseEPEEClassifier)
    if not is_known or classifier._engine is not Engine:
        raise TypeError(
            "estimator must be an EPEEClassifier or EPEEImageClassifier, or a pipeline, search "
            "object or exit policy around one; classifiers of words, of texts with images and of "
            f"other packages are not served; got {type(classifier).__name__}."
        )
