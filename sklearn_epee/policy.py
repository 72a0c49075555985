"""Exit policies on arrays: entropy, counters, exit layers, ensembles of exits, joint exits.

A multi-exit network answers every sample M times, once after each of its layers. An exit
policy reads these staged probabilities and says after which layer each sample leaves:
at the first layer whose normalized entropy is below ``tau``, or whose patience counter
has reached ``patience``; at the last layer if there is none. The two rules and their
combination are those of EPEE [1]_. Layers are numbered from 1.

The patience counter starts at 1, so ``patience=1`` always leaves at the first layer and
``patience=M`` never leaves before the last one. PABEE [2]_ and its descendants count
agreements from 0: their patience ``p`` is ``p + 1`` here.

Several tasks on one backbone leave together, by a rule that joins what each of them says.

This module needs NumPy alone. It is the reference that the inference engine is tested
against, and it applies any policy to probabilities computed once.

References
----------
.. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
   arXiv:2503.02053.
.. [2] "BERT Loses Patience: Fast and Robust Inference with Early Exit",
   Advances in Neural Information Processing Systems 33 (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._joint import JOINT_EXITS, check_joint_exit, effective_entropies

__all__ = [
    "JOINT_EXITS",
    "PolicyResult",
    "apply_policy",
    "check_exit_ensemble",
    "check_exit_loss_weights",
    "check_joint_exit",
    "check_patience",
    "check_tau",
    "exit_layers",
    "normalized_entropy",
    "patience_counters",
]

EXIT_ENSEMBLES = ("mean", "weighted")
EXIT_LOSS_WEIGHTS = ("ascending", "uniform", "descending")

# Probabilities of a float16 or bfloat16 softmax may exceed 1 by about this much.
_PROBA_EXCESS = 1e-2


class PolicyResult(NamedTuple):
    """What an exit policy answers, one row a sample.

    Attributes
    ----------
    exit_layer : ndarray of shape (n_samples,), dtype int64
        The layer at which each sample leaves, from 1 to M.
    proba : ndarray of shape (n_samples, n_classes)
        The class probabilities returned: those of the exit, or the ensemble of the
        visited exits.
    entropy : ndarray of shape (n_samples,)
        Normalized entropy of the exit's own probabilities, the one that was compared
        with ``tau``. It is not the entropy of an ensemble.
    prediction : ndarray of shape (n_samples,), dtype int64
        Column of the largest returned probability, the first one on ties.

    Notes
    -----
    With several tasks `proba` is a list of one array a task, and `entropy` and `prediction`
    have the shape (n_samples, n_tasks).
    """

    exit_layer: NDArray[np.int64]
    proba: NDArray[np.floating] | list[NDArray[np.floating]]
    entropy: NDArray[np.floating]
    prediction: NDArray[np.int64]


def check_tau(tau: Any) -> float:
    """Return the entropy threshold as a float, or refuse it.

    Parameters
    ----------
    tau : real number in [0, inf)
        NumPy scalars are accepted; booleans, strings and arrays are not.

    Returns
    -------
    tau : float

    Raises
    ------
    TypeError
        If `tau` is not a real number.
    ValueError
        If `tau` is negative, infinite or NaN.

    Examples
    --------
    >>> from sklearn_epee.policy import check_tau
    >>> check_tau(0)
    0.0
    """
    if isinstance(tau, bool) or not isinstance(tau, Real):
        raise TypeError(
            f"tau must be a real number in [0, inf); got {tau!r} of type {type(tau).__name__}."
        )
    threshold = float(tau)
    if not 0 <= threshold < np.inf:  # false for NaN too
        raise ValueError(f"tau must be a real number in [0, inf); got {tau!r}.")
    return threshold


@overload
def check_patience(patience: Any, n_layers: int) -> int: ...


@overload
def check_patience(patience: Any, n_layers: None = None) -> int | None: ...


def check_patience(patience: Any, n_layers: int | None = None) -> int | None:
    """Return the patience as an int, or refuse it.

    Parameters
    ----------
    patience : int >= 1 or None
        NumPy integers are accepted; booleans and floats are not. A patience above the
        number of layers is accepted and never fires, exactly as ``patience=M``: the
        last layer answers those that nothing else let go.
    n_layers : int, default=None
        Number of layers M, which is what ``patience=None`` stands for.

    Returns
    -------
    patience : int or None
        `n_layers` where `patience` is None.

    Raises
    ------
    TypeError
        If `patience` is neither an integer nor None.
    ValueError
        If `patience` is below 1.

    Examples
    --------
    >>> from sklearn_epee.policy import check_patience
    >>> check_patience(3)
    3
    >>> check_patience(None, n_layers=12)
    12
    """
    if patience is None:
        return n_layers
    if isinstance(patience, bool) or not isinstance(patience, Integral):
        raise TypeError(
            "patience must be an integer >= 1 or None; "
            f"got {patience!r} of type {type(patience).__name__}."
        )
    if patience < 1:
        raise ValueError(
            f"patience must be an integer >= 1 or None; got {patience!r}. The counter starts "
            "at 1: the first layer agrees with itself."
        )
    return int(patience)


def check_exit_ensemble(exit_ensemble: Any) -> str | None:
    """Return the name of the way visited exits combine, or refuse it.

    Parameters
    ----------
    exit_ensemble : {None, "mean", "weighted"}

    Returns
    -------
    exit_ensemble : str or None

    Raises
    ------
    TypeError
        If `exit_ensemble` is neither a string nor None.
    ValueError
        If `exit_ensemble` is another string.

    Examples
    --------
    >>> from sklearn_epee.policy import check_exit_ensemble
    >>> check_exit_ensemble("mean")
    'mean'
    """
    if exit_ensemble is None:
        return None
    expected = f"exit_ensemble must be None, 'mean' or 'weighted'; got {exit_ensemble!r}"
    if not isinstance(exit_ensemble, str):
        raise TypeError(f"{expected} of type {type(exit_ensemble).__name__}.")
    if exit_ensemble not in EXIT_ENSEMBLES:
        raise ValueError(f"{expected}.")
    return exit_ensemble


def check_exit_loss_weights(
    exit_loss_weights: Any, n_layers: int, dtype: Any = np.float64
) -> NDArray[Any]:
    """Return the weights of the M exits in the joint loss, or refuse them.

    Parameters
    ----------
    exit_loss_weights : {"ascending", "uniform", "descending"} or array-like of M numbers
        "ascending" weights layer m by m, its relative inference cost; "descending" by
        M + 1 - m; "uniform" by 1. An array holds M finite weights >= 0, not all zero.
    n_layers : int
        Number of layers M.
    dtype : dtype, default=numpy.float64
        Type of the weights returned.

    Returns
    -------
    weights : ndarray of shape (n_layers,)
        As given; they are not normalized.

    Raises
    ------
    TypeError
        If the weights are not numbers.
    ValueError
        If the name is unknown, or the array has another shape or a weight that is
        negative or not finite, or only zeros.

    Examples
    --------
    >>> from sklearn_epee.policy import check_exit_loss_weights
    >>> check_exit_loss_weights("ascending", n_layers=4)
    array([1., 2., 3., 4.])
    """
    if isinstance(exit_loss_weights, str):
        if exit_loss_weights not in EXIT_LOSS_WEIGHTS:
            raise ValueError(
                f"exit_loss_weights must be one of {EXIT_LOSS_WEIGHTS} or {n_layers} weights; "
                f"got {exit_loss_weights!r}."
            )
        ascending = np.arange(1, n_layers + 1, dtype=dtype)
        named = {"ascending": ascending, "descending": ascending[::-1].copy()}
        return named.get(exit_loss_weights, np.ones(n_layers, dtype=dtype))
    return _check_weight_array(exit_loss_weights, n_layers).astype(dtype)


def _check_weight_array(weights: Any, n_layers: int) -> NDArray[Any]:
    """Refuse an array that cannot weight the M exits."""
    expected = f"exit_loss_weights must be one of {EXIT_LOSS_WEIGHTS} or {n_layers} weights"
    try:
        array = np.asarray(weights)
    except ValueError as error:  # nested lists of different lengths
        raise ValueError(f"{expected}; got {weights!r}.") from error
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{expected}; got {weights!r} of type {type(weights).__name__}.")
    if array.shape != (n_layers,):
        raise ValueError(
            f"exit_loss_weights must hold one weight for each of the {n_layers} layers; "
            f"got an array of shape {array.shape}."
        )
    if not (np.isfinite(array).all() and (array >= 0).all() and array.any()):
        raise ValueError(
            "exit_loss_weights must be finite, >= 0 and not all zero; "
            f"got {np.array2string(array, threshold=24)}."
        )
    return array


def normalized_entropy(proba: ArrayLike) -> NDArray[np.floating]:
    """Compute the entropy of class probabilities, divided by its largest value, log K.

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
        If `proba` has no class, or holds a value that is no probability.

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
    proba = _check_proba(proba)
    n_classes = proba.shape[-1]
    if n_classes == 1:
        return np.zeros(proba.shape[:-1], dtype=proba.dtype)
    information = -proba * np.log(np.where(proba > 0, proba, 1))
    entropy = information.sum(axis=-1) / proba.dtype.type(np.log(n_classes))
    return np.clip(entropy, 0, 1)


def patience_counters(predictions: ArrayLike) -> NDArray[np.int64]:
    """Count, at every layer, how many layers in a row agree on the predicted class.

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
    predictions = np.asarray(predictions)
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


def exit_layers(
    proba: ArrayLike | Sequence[ArrayLike],
    tau: float,
    patience: int | None = None,
    *,
    joint_exit: str = "all",
) -> NDArray[np.int64]:
    """Find the layer at which each sample leaves.

    It is the first layer m with H_m < `tau` or P_m >= `patience`, and M if there is none.
    The comparison with `tau` is strict, so ``tau=0`` leaves the patience rule alone, and
    ``patience=M`` leaves the entropy rule alone.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_layers, n_classes), or list of such arrays
        Class probabilities after every layer; a list holds those of several tasks, which may
        have different classes.
    tau : float in [0, inf)
        Entropy threshold. Compared in float64, whatever the type of `proba`, so that
        the threshold that counts is the one that was given.
    patience : int >= 1, default=None
        Number of layers in a row that must agree, the first of them included; PABEE's
        patience plus 1. None means M. A patience above M never fires.
    joint_exit : {"all", "any", "mean"}, default="all"
        Which layer several tasks leave at: the first at which every task t may leave, having
        H_tm < `tau` or P_tm >= `patience`; the first at which some task may; or the first at
        which the mean of H_tm over the tasks is below `tau`, or at which the last `patience`
        layers agree in the predictions of all tasks. For one task they are the same.

    Returns
    -------
    exit_layer : ndarray of shape (n_samples,), dtype int64
        From 1 to M.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.policy import exit_layers
    >>> proba = np.array(
    ...     [[[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]], [[0.4, 0.6], [0.99, 0.01], [0.8, 0.2]]]
    ... )
    >>> exit_layers(proba, tau=0.1)
    array([3, 2])
    >>> exit_layers(proba, tau=0.0, patience=2)
    array([2, 3])

    Two tasks leave together:

    >>> exit_layers([proba, proba[::-1]], tau=0.1, joint_exit="all")
    array([3, 3])
    >>> exit_layers([proba, proba[::-1]], tau=0.1, joint_exit="any")
    array([2, 2])
    """
    tasks = _check_tasks(proba)
    return _first_exit(_entropies(tasks), tasks, tau, patience, joint_exit)


def apply_policy(
    proba: ArrayLike | Sequence[ArrayLike],
    tau: float,
    patience: int | None = None,
    exit_ensemble: str | None = None,
    exit_loss_weights: Any = "ascending",
    *,
    joint_exit: str = "all",
) -> PolicyResult:
    """Answer every sample as dynamic inference would, from staged probabilities.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_layers, n_classes), or list of such arrays
        Class probabilities after every layer; a list holds those of several tasks.
    tau : float in [0, inf)
        Entropy threshold, see :func:`exit_layers`.
    patience : int >= 1, default=None
        Number of layers in a row that must agree, see :func:`exit_layers`.
    exit_ensemble : {None, "mean", "weighted"}, default=None
        None returns the exit's own probabilities; "mean" the mean over the visited
        exits, from layer 1 to the exit; "weighted" their mean weighted with
        `exit_loss_weights`. Which layer a sample leaves at does not depend on it.
    exit_loss_weights : {"ascending", "uniform", "descending"} or array-like of shape \
            (n_layers,), default="ascending"
        Read for ``exit_ensemble="weighted"`` only, see :func:`check_exit_loss_weights`.
        Where all visited exits have weight 0 the exit's own probabilities are returned.
    joint_exit : {"all", "any", "mean"}, default="all"
        How several tasks decide together, see :func:`exit_layers`.

    Returns
    -------
    result : PolicyResult
        Named tuple of `exit_layer`, `proba`, `entropy` and `prediction`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> from sklearn_epee.policy import apply_policy
    >>> proba = [[[0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]]
    >>> result = apply_policy(proba, tau=0.0, patience=2, exit_ensemble="mean")
    >>> result.exit_layer
    array([3])
    >>> result.proba
    array([[0.3, 0.7]])
    """
    tasks = _check_tasks(proba)
    exit_ensemble = check_exit_ensemble(exit_ensemble)
    entropies = _entropies(tasks)
    exit_layer = _first_exit(entropies, tasks, tau, patience, joint_exit)
    answers = [_answer(task, exit_layer, exit_ensemble, exit_loss_weights) for task in tasks]
    left = entropies[np.arange(len(exit_layer)), exit_layer - 1]
    predictions = np.stack([answer.argmax(axis=1) for answer in answers], axis=1).astype(np.int64)
    if not _is_tasks(proba):
        return PolicyResult(exit_layer, answers[0], left[:, 0], predictions[:, 0])
    return PolicyResult(exit_layer, answers, left, predictions)


def _entropies(tasks: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Give the normalized entropies of tasks, of shape (n_samples, n_layers, n_tasks)."""
    return np.stack([normalized_entropy(task) for task in tasks], axis=-1)


def _first_exit(
    entropies: NDArray[Any],
    tasks: Sequence[NDArray[Any]],
    tau: float,
    patience: int | None,
    joint_exit: str,
) -> NDArray[np.int64]:
    """Apply the rule of :func:`exit_layers`, the entropies being known."""
    threshold, joint_exit = check_tau(tau), check_joint_exit(joint_exit)
    agreements = check_patience(patience, entropies.shape[1])
    counters = np.stack([patience_counters(task.argmax(axis=-1)) for task in tasks], axis=-1)
    leaves = effective_entropies(entropies, counters, agreements, joint_exit) < threshold
    leaves[:, -1] = True
    return leaves.argmax(axis=1).astype(np.int64) + 1


def _answer(
    proba: NDArray[Any], exit_layer: NDArray[np.int64], exit_ensemble: str | None, weights: Any
) -> NDArray[Any]:
    """Give the probabilities of each sample's exit, or of the exits it visited."""
    own = proba[np.arange(len(proba)), exit_layer - 1]
    if exit_ensemble is None:
        return own
    weighting = weights if exit_ensemble == "weighted" else "uniform"
    checked = check_exit_loss_weights(weighting, proba.shape[1], dtype=proba.dtype)
    return _combine_visited(proba, own, exit_layer, checked)


def _combine_visited(
    proba: NDArray[Any], own: NDArray[Any], exit_layer: NDArray[np.int64], weights: NDArray[Any]
) -> NDArray[Any]:
    """Average the probabilities of layers 1 to the exit of each sample."""
    visited = np.arange(1, proba.shape[1] + 1) <= exit_layer[:, None]
    weights = np.where(visited, weights, 0)
    total = weights.sum(axis=1)[:, None]
    mean = (weights[:, :, None] * proba).sum(axis=1) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, own)


def _is_tasks(proba: Any) -> bool:
    """Tell a list of staged probabilities from one array of them, which may be nested lists."""
    if not isinstance(proba, (list, tuple)) or not proba:
        return False
    depth, inner = 0, proba[0]
    while isinstance(inner, (list, tuple)) and inner:
        depth, inner = depth + 1, inner[0]
    return depth + np.ndim(inner) == 3


def _check_tasks(proba: Any) -> list[NDArray[np.floating]]:
    """Give the staged probabilities of every task, of which there may be one."""
    tasks = [_check_staged_proba(part) for part in (proba if _is_tasks(proba) else [proba])]
    shapes = [task.shape for task in tasks]
    if len({shape[:2] for shape in shapes}) > 1:
        raise ValueError(
            "The tasks in proba must have the same samples and layers; got arrays of the shapes "
            f"{shapes}."
        )
    return tasks


def _check_staged_proba(proba: ArrayLike) -> NDArray[np.floating]:
    """Refuse anything but probabilities of shape (n_samples, n_layers, n_classes)."""
    proba = _check_proba(proba)
    if proba.ndim != 3 or proba.shape[1] == 0:
        raise ValueError(
            "proba must have shape (n_samples, n_layers, n_classes) with at least one layer; "
            f"got an array of shape {proba.shape}."
        )
    return proba


def _check_proba(proba: ArrayLike) -> NDArray[np.floating]:
    """Refuse anything that cannot be class probabilities along the last axis."""
    array = np.asarray(proba)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"proba must be an array of numbers; got dtype {array.dtype}.")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"proba must have at least one class along its last axis; got shape {array.shape}."
        )
    # float16 cannot hold the sums; longdouble buys nothing here.
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    array = array.astype(np.float32 if small else np.float64, copy=False)
    if array.size and not (array.min() >= 0 and array.max() <= 1 + _PROBA_EXCESS):  # NaN fails
        raise ValueError(
            "proba must hold probabilities between 0 and 1; "
            f"got values from {array.min()} to {array.max()}."
        )
    return array
