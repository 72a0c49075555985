"""Initialize heads as logistic regressions on the pooled states of the untrained backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback
from torch import nn

from .batching import SAMPLE_WEIGHT, LabelledSamples, parts_of_batch, positions_of
from .head_attention import HeadAttention
from .heads import LabelHead
from .tasks import TaskHeads

HEAD_INITS = ("random", "regression")

# Maximum number of samples of a regression; more do not improve the initialization.
MAX_SAMPLES = 4000
# Inverse strength of the regularization: with small logits, all samples still have gradients.
_C = 0.1
# Standard deviation of the regression's features, averaged over directions; small enough that the
# tanh of a dense layer is nearly linear.
_SPREAD = 0.5


class RegressionHeadInit(Callback):
    """Initialize every head as a logistic regression on the pooled states of its layer.

    Bottlenecks and attention layers are initialized as the identity, a dense layer with the
    principal components of its input, and the last linear layer with the regression on the dense
    layer's output.

    References
    ----------
    Kumar et al., "Fine-tuning can distort pretrained features and underperform
    out-of-distribution", arXiv 2202.10054, train the heads alone first for the same reason.
    """

    def on_train_begin(self, net: Any, X: Any = None, **_: Any) -> None:
        """Run training samples through the backbone once, and initialize the heads."""
        plan = net._require_plan()
        for module in net.module_.modules():
            if isinstance(module, HeadAttention):
                module.begin_as_identity()
        rows = np.random.default_rng(plan.seed).permutation(len(X))[:MAX_SAMPLES]
        states, labels = _states(net, X, rows, plan.batch_size)
        weights = X.weights.numpy()[rows]
        for head, read in zip(net.module_.heads, states, strict=True):
            start_head(head, read, labels, weights)


@torch.no_grad()
def _states(
    net: Any, samples: LabelledSamples, rows: NDArray[np.intp], batch_size: int
) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Return the pooled states of some samples at every layer, (n, ...), and the labels."""
    network = net.module_.eval()
    order = np.argsort(positions_of(samples.samples)[rows], kind="stable")
    parts: list[list[NDArray[Any]]] = [[] for _ in network.heads]
    for some in np.array_split(rows[order], -(-len(rows) // batch_size)):
        inputs, _ = samples.collate(some.tolist())
        inputs.pop(SAMPLE_WEIGHT)
        for batch, _ in parts_of_batch(inputs, batch_size):
            placed = {name: part.to(net.device) for name, part in batch.items()}
            for layer, pooled, _ in network.layers_read(placed):
                parts[layer - 1].append(pooled.float().cpu().numpy())
    back = np.argsort(order, kind="stable")
    return [np.concatenate(part)[back] for part in parts], samples.labels.numpy()[rows]


@torch.no_grad()
def start_head(
    head: nn.Module, read: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[Any]
) -> None:
    """Initialize the head of one exit as a regression on its pooled states.

    Classes and labels that do not vary in the samples keep their random initialization.

    Parameters
    ----------
    head : ExitHead, TaskHeads or LabelHead
    read : ndarray of shape (n, n_features) or, if each task pools separately, (n, T, n_features)
        Pooled states.
    labels : ndarray of shape (n,) or, with tasks or labels, (n, T), int64
        Classes; for labels 1, 0, or -1 if unknown.
    weights : ndarray of shape (n,) or, with labels, (n, T)
    """
    if isinstance(head, TaskHeads):
        for t, own in enumerate(head.tasks):
            _start_classes(own, read[:, t] if read.ndim == 3 else read, labels[:, t], weights)
    elif isinstance(head, LabelHead):
        _start_labels(head.head, read, labels, weights)
    else:
        _start_classes(head, read, labels, weights)


def _start_classes(
    head: Any, read: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[Any]
) -> None:
    inputs = _Inputs(head, read)
    if len(np.unique(labels)) < 2:
        return
    found = _regression(inputs.features, labels, weights)
    coefficients, constants = found.coef_, found.intercept_
    if len(found.classes_) == 2:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        constants = np.concatenate([-constants, constants]) / 2
    inputs.set_out(found.classes_, coefficients, constants)


def _start_labels(
    head: Any, read: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[Any]
) -> None:
    inputs = _Inputs(head, read)
    for label, (own, weight) in enumerate(zip(labels.T, weights.T, strict=True)):
        known = own >= 0
        if len(np.unique(own[known])) == 2:
            found = _regression(inputs.features[known], own[known], weight[known])
            inputs.set_out(np.array([label]), found.coef_, found.intercept_)


def _regression(
    features: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[Any]
) -> LogisticRegression:
    return LogisticRegression(C=_C, max_iter=300).fit(features, labels, sample_weight=weights)


class _Inputs:
    """Features of the regression for one head, and a method to set the head's last layer.

    With a dense layer, which is initialized with the principal components of the pooled states, the
    features are its output. Otherwise they are the centered and scaled states; center and scale
    become part of the last layer. A bottleneck is initialized as the identity.
    """

    def __init__(self, head: Any, read: NDArray[Any]) -> None:
        self._head = head
        if head.bottleneck is not None:
            head.bottleneck.begin_as_identity()
        self._center = read.mean(axis=0, dtype=np.float64)
        self._scale = 1.0
        if head.dense is None:
            centered = read - self._center
            self._scale = _SPREAD / max(np.sqrt(np.square(centered).mean()), 1e-12)
            self.features = centered * self._scale
        else:
            self._set_dense(read)
            inner = head.dense(torch.from_numpy(read).to(head.dense.weight.device))
            self.features = torch.tanh(inner).cpu().numpy()

    def _set_dense(self, read: NDArray[Any]) -> None:
        dense = self._head.dense
        covariance = np.cov(read.T.astype(np.float64), bias=True)
        variances, directions = np.linalg.eigh(np.atleast_2d(covariance))
        n = min(len(variances), dense.out_features)
        size = np.sqrt(variances[-n:].clip(0).mean())
        # `eigh` returns the largest eigenvalues last.
        weight = directions[:, : -n - 1 : -1].T * (_SPREAD / max(size, 1e-12))
        dense.weight[:n] = torch.from_numpy(weight)
        dense.bias[:n] = torch.from_numpy(-weight @ self._center)

    def set_out(
        self, columns: NDArray[Any], coefficients: NDArray[Any], constants: NDArray[Any]
    ) -> None:
        """Set the weights of the last layer for some columns of the logits."""
        if self._head.dense is None:
            coefficients = coefficients * self._scale
            constants = constants - coefficients @ self._center
        out = self._head.out
        out.weight[columns] = torch.from_numpy(coefficients).to(out.weight)
        out.bias[columns] = torch.from_numpy(constants).to(out.bias)
