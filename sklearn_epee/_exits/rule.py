"""The exit rule on arrays: entropies, patience counters, and the layer at which samples exit.

A sample exits at the first layer whose normalized entropy is below ``tau`` or whose patience
counter has reached ``patience``, or at the last layer if there is no such layer. Tasks that share
a backbone exit together: with "all", a sample exits when every task may exit, with "any" when one
may; "mean" averages the entropies and counts for how many layers the predictions of all tasks have
stayed the same.

Several labels of a sample exit together as well: their entropies are combined in the same ways, and
patience always counts for how many layers the whole set of predicted labels has stayed the same.

Arrays of entropies and counters have the shape (n_samples, n_layers, n_tasks). ``n_tasks`` is 1 for
a single task, and for several labels, whose entropies and counters have already been combined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .checks import as_array

# Probabilities of a float16 or bfloat16 softmax may exceed 1 by about this much.
_PROBA_EXCESS = 1e-2


def normalized_entropy(proba: ArrayLike) -> NDArray[np.floating]:
    """Return the entropy of class probabilities, divided by its largest value, log K.

    H = -sum_k p_k log p_k / log K, where 0 log 0 = 0, and H = 0 when K = 1.

    Parameters
    ----------
    proba : array-like of shape (..., n_classes)
        Class probabilities. Sums over the last axis are taken to be 1.

    Returns
    -------
    entropy : ndarray of shape (...)
        Between 0 (certain) and 1 (uniform), in the type of `proba`: float32 or float64
        (float32 for float16, float64 for integers).

    Raises
    ------
    ValueError
        If `proba` has no class, or holds a value that is not a probability.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> from sklearn_epee.policy import normalized_entropy
    >>> normalized_entropy([[0.5, 0.5], [1.0, 0.0]])
    array([1., 0.])
    """
    proba = check_proba(proba)
    n_classes = proba.shape[-1]
    if n_classes == 1:
        return np.zeros(proba.shape[:-1], dtype=proba.dtype)
    information = -proba * np.log(np.where(proba > 0, proba, 1))
    entropy = information.sum(axis=-1) / proba.dtype.type(np.log(n_classes))
    return np.clip(entropy, 0, 1)


def label_entropies(proba: ArrayLike) -> NDArray[np.floating]:
    """Return the normalized binary entropy of each label.

    Parameters
    ----------
    proba : array-like of shape (..., n_labels)
        Probability of each label.

    Returns
    -------
    ndarray of shape (..., n_labels)
        Between 0 (certain) and 1 (a probability of 0.5).
    """
    clipped = np.minimum(check_proba(proba), 1)  # half precision may exceed 1
    return normalized_entropy(np.stack([1 - clipped, clipped], axis=-1))


def set_counters(predictions: NDArray[Any]) -> NDArray[np.int64]:
    """Return, for every layer, for how many layers the set of labels has been the same.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_layers, n_labels)
        Which labels are predicted at every layer.

    Returns
    -------
    ndarray of shape (n_samples, n_layers), int64
    """
    differs = (predictions[:, 1:] != predictions[:, :-1]).any(axis=2)
    runs = np.zeros(predictions.shape[:2], dtype=np.int64)
    runs[:, 1:] = differs.cumsum(axis=1)
    return patience_counters(runs)


def patience_counters(predictions: ArrayLike) -> NDArray[np.int64]:
    """Return, for every layer, how many layers in a row agree on the predicted class.

    P_1 = 1; P_m = P_{m-1} + 1 if layers m and m - 1 predict the same class, else 1.
    (PABEE and its descendants count agreements from 0; their counter is P_m - 1.)

    Parameters
    ----------
    predictions : array-like of shape (n_samples, n_layers)
        Predicted class at every layer: column numbers, or labels.

    Returns
    -------
    counters : ndarray of shape (n_samples, n_layers), dtype int64

    Raises
    ------
    ValueError
        If `predictions` is not two-dimensional.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> from sklearn_epee.policy import patience_counters
    >>> patience_counters([[0, 0, 1, 1, 1]])
    array([[1, 2, 1, 2, 3]])
    """
    predictions = as_array("predictions", predictions)
    if predictions.ndim != 2:
        raise ValueError(
            "predictions must have shape (n_samples, n_layers); "
            f"got an array of shape {predictions.shape}."
        )
    layers = np.arange(predictions.shape[1], dtype=np.int64)
    starts = np.zeros(predictions.shape, dtype=np.int64)
    starts[:, 1:] = np.where(predictions[:, 1:] != predictions[:, :-1], layers[1:], 0)
    # The layer where the current run of agreement began is the latest start so far.
    return layers - np.maximum.accumulate(starts, axis=1) + 1


def joint_counters(counters: NDArray[np.int64], joint_exit: str) -> NDArray[np.int64]:
    """Combine the patience counters of several tasks into one, to be compared with the patience.

    Parameters
    ----------
    counters : ndarray of shape (n_samples, n_layers, n_tasks), int64
        Patience counters of every task.
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    ndarray of shape (n_samples, n_layers), int64
    """
    if counters.shape[-1] == 1:
        return counters[..., 0]
    if joint_exit == "any":
        return counters.max(axis=-1)
    # The joint prediction changes whenever that of one task does, so "mean" counts like "all".
    return counters.min(axis=-1)


def joint_entropies(entropies: NDArray[np.float64], joint_exit: str) -> NDArray[np.float64]:
    """Combine the entropies of several tasks into one, to be compared with ``tau``.

    Parameters
    ----------
    entropies : ndarray of shape (n_samples, n_layers, n_tasks), float64
        Normalized entropies of every task.
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
    """
    if entropies.shape[-1] == 1:
        return entropies[..., 0]
    if joint_exit == "mean":
        return entropies.mean(axis=-1)
    return entropies.max(axis=-1) if joint_exit == "all" else entropies.min(axis=-1)


def may_exit(
    entropies: NDArray[np.float64],
    counters: NDArray[np.int64],
    tau: float,
    patience: int,
    joint_exit: str,
) -> NDArray[np.bool_]:
    """Return at which layers a policy lets samples exit.

    Parameters
    ----------
    entropies : ndarray of shape (n_samples, n_layers, n_tasks), float64
    counters : ndarray of shape (n_samples, n_layers, n_tasks), int64
    tau : float
        The comparison is strict, and in float64.
    patience : int
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    ndarray of shape (n_samples, n_layers), bool
    """
    if entropies.shape[-1] > 1 and joint_exit == "all":
        # One task may meet the entropy criterion, and another one the patience criterion.
        is_ready: NDArray[np.bool_] = (entropies < tau) | (counters >= patience)
        return np.logical_and.reduce(is_ready, axis=-1)
    is_sure = joint_entropies(entropies, joint_exit) < tau
    return is_sure | (joint_counters(counters, joint_exit) >= patience)


def first_exits(
    allowed: NDArray[np.bool_],
    last: NDArray[np.int64] | None = None,
    min_exit_layer: int = 1,
) -> NDArray[np.int64]:
    """Return the first layer at which each sample may exit, or its last layer if there is none.

    Parameters
    ----------
    allowed : ndarray of shape (n_samples, n_layers), bool
        Where a sample may exit. Modified in place: set to False below `min_exit_layer`, and to
        True at the last layer.
    last : ndarray of shape (n_samples,), int64, default=None
        The last exit of each sample; None means layer M for all samples.
    min_exit_layer : int, default=1
        The first layer at which samples may exit.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        From 1 to M.
    """
    allowed[:, : min_exit_layer - 1] = False
    if last is None:
        allowed[:, -1] = True
    else:
        allowed[np.arange(len(allowed)), last - 1] = True
    return allowed.argmax(axis=1).astype(np.int64) + 1


def infinite_below(entropies: NDArray[np.float64], min_exit_layer: int) -> NDArray[np.float64]:
    """Set entropies to infinity below the first layer at which samples may exit.

    Parameters
    ----------
    entropies : ndarray of shape (n_samples, n_layers), float64
    min_exit_layer : int

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
    """
    if min_exit_layer == 1:
        return entropies
    layers = np.arange(1, entropies.shape[1] + 1)
    return np.where(layers < min_exit_layer, np.inf, entropies)


def combine_visited(
    proba: NDArray[np.floating],
    weights: NDArray[np.floating],
    own: NDArray[np.bool_] | None = None,
) -> NDArray[np.floating]:
    """Return the weighted mean of the probabilities of layers 1 to m, for every layer m.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_layers, n_classes)
    weights : ndarray of shape (n_layers,)
        Of the same dtype as `proba`. Where the weights of layers 1 to m are all 0, the
        probabilities of layer m are returned.
    own : ndarray of shape (n_samples, n_layers), bool, default=None
        Which exits each sample has; the others are left out. None means all.

    Returns
    -------
    ndarray of shape (n_samples, n_layers, n_classes)
    """
    if own is not None:
        weights = np.where(own, weights, 0)
        totals = weights.cumsum(axis=1)[..., np.newaxis]
        mean = (weights[..., np.newaxis] * proba).cumsum(axis=1) / np.where(totals > 0, totals, 1)
        return np.where(totals > 0, mean, proba)
    visited = np.tri(len(weights), dtype=bool)
    totals = np.where(visited, weights, 0).sum(axis=1)[:, np.newaxis]
    mean = (weights[:, np.newaxis] * proba).cumsum(axis=1) / np.where(totals > 0, totals, 1)
    return np.where(totals > 0, mean, proba)


def check_proba(proba: ArrayLike) -> NDArray[np.floating]:
    """Return class probabilities along the last axis as float32 or float64, or raise."""
    array = as_array("proba", proba)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"proba must be an array of numbers; got dtype {array.dtype}.")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"proba must have at least one class along its last axis; got shape {array.shape}."
        )
    # float16 is too imprecise for the sums, and longdouble has no advantage here.
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    array = array.astype(np.float32 if small else np.float64, copy=False)
    if array.size and not (array.min() >= 0 and array.max() <= 1 + _PROBA_EXCESS):  # NaN fails
        raise ValueError(
            "proba must hold probabilities between 0 and 1; "
            f"got values from {array.min()} to {array.max()}."
        )
    return array
