"""Validate the parameters of an exit policy; each function returns the value or raises."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

EXIT_ENSEMBLES = ("mean", "weighted")
EXIT_LOSS_WEIGHTS = ("ascending", "uniform", "descending")
JOINT_EXITS = ("all", "any", "mean")


def as_array(name: str, given: Any) -> NDArray[Any]:
    """Return an argument as an array; errors, such as for ragged lists, name the argument."""
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array; got {given!r:.100}: {error}") from error


def check_each(name: str, given: Any, check: Callable[[Any], Any]) -> NDArray[Any]:
    """Check each value; return them in ascending order, without duplicates.

    Parameters
    ----------
    name : str
        Name of the argument with the values, for messages.
    given : array-like
    check : callable
        Takes a value and returns it, or raises.

    Raises
    ------
    TypeError, ValueError
        If there is no value, or one is invalid; the message names the argument.
    """
    values = np.atleast_1d(np.asarray(given, dtype=object)).tolist()
    if not values:
        raise ValueError(f"{name} must hold at least one value; got none.")
    try:
        return np.unique([check(value) for value in values])
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"In {name}: {error}") from error


def check_tau(tau: Any) -> float:
    """Return the entropy threshold as a float.

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
    >>> from sklearn_epee._exits.checks import check_tau
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


def check_n_layers(n_layers: Any) -> int:
    """Return the number of layers as an int.

    Raises
    ------
    TypeError, ValueError
        If `n_layers` is not an integer >= 1.
    """
    if isinstance(n_layers, bool) or not isinstance(n_layers, Integral):
        raise TypeError(f"n_layers must be an integer >= 1; got {n_layers!r}.")
    if n_layers < 1:
        raise ValueError(f"n_layers must be an integer >= 1; got {n_layers!r}.")
    return int(n_layers)


@overload
def check_patience(patience: Any, n_layers: int) -> int: ...


@overload
def check_patience(patience: Any, n_layers: None = None) -> int | None: ...


def check_patience(patience: Any, n_layers: int | None = None) -> int | None:
    """Return the patience as an int.

    Parameters
    ----------
    patience : int >= 1 or None
        NumPy integers are accepted; booleans and floats are not. A patience above the
        number of layers is accepted and has no effect, like ``patience=M``.
    n_layers : int, default=None
        Number of layers M, which replaces ``patience=None``.

    Returns
    -------
    patience : int or None
        `n_layers` if `patience` is None.

    Raises
    ------
    TypeError
        If `patience` is neither an integer nor None.
    ValueError
        If `patience` is below 1.

    Examples
    --------
    >>> from sklearn_epee._exits.checks import check_patience
    >>> check_patience(3)
    3
    >>> check_patience(None, n_layers=12)
    12
    """
    if patience is None:
        return n_layers
    hint = "The counter starts at 1: the first layer agrees with itself."
    return _check_positive("patience", patience, "an integer >= 1 or None", hint)


def _check_positive(name: str, value: Any, expected: str, hint: str) -> int:
    """Return an integer >= 1 as an int; the messages say what is expected."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be {expected}; got {value!r}. {hint}")
    return int(value)


def check_min_exit_layer(min_exit_layer: Any) -> int:
    """Return the first layer at which samples may exit, as an int.

    Parameters
    ----------
    min_exit_layer : int >= 1
        NumPy integers are accepted; booleans and floats are not. If it is above the number of
        layers, all samples exit at the last layer.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is below 1.

    Examples
    --------
    >>> from sklearn_epee._exits.checks import check_min_exit_layer
    >>> check_min_exit_layer(3)
    3
    """
    hint = "Layers are counted from 1."
    return _check_positive("min_exit_layer", min_exit_layer, "an integer >= 1", hint)


def check_exit_ensemble(exit_ensemble: Any) -> str | None:
    """Return `exit_ensemble`, which says how visited exits are combined.

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
    >>> from sklearn_epee._exits.checks import check_exit_ensemble
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
    """Return the weights of the M exits in the joint loss.

    Parameters
    ----------
    exit_loss_weights : {"ascending", "uniform", "descending"} or array-like of M numbers
        "ascending" weights layer m by m, its relative inference cost; "descending" by
        M + 1 - m; "uniform" by 1. An array holds M finite weights >= 0, not all zero.
    n_layers : int
        Number of layers M.
    dtype : dtype, default=numpy.float64
        Data type of the returned weights.

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
    >>> from sklearn_epee._exits.checks import check_exit_loss_weights
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
    """Return an array of weights of the M exits, or raise."""
    expected = f"exit_loss_weights must be one of {EXIT_LOSS_WEIGHTS} or {n_layers} weights"
    array = as_array("exit_loss_weights", weights)
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


def check_joint_exit(joint_exit: Any) -> str:
    """Return `joint_exit`, the rule by which tasks exit together.

    Parameters
    ----------
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    joint_exit : str

    Raises
    ------
    TypeError
        If `joint_exit` is not a string.
    ValueError
        If `joint_exit` is another string.

    Examples
    --------
    >>> from sklearn_epee._exits.checks import check_joint_exit
    >>> check_joint_exit("any")
    'any'
    """
    expected = f"joint_exit must be 'all', 'any' or 'mean'; got {joint_exit!r}"
    if not isinstance(joint_exit, str):
        raise TypeError(f"{expected} of type {type(joint_exit).__name__}.")
    if joint_exit not in JOINT_EXITS:
        raise ValueError(f"{expected}.")
    return str(joint_exit)


def check_label_thresholds(label_thresholds: Any, n_labels: int) -> NDArray[np.float64]:
    """Return the probability above which each label is predicted.

    Parameters
    ----------
    label_thresholds : None, real number in [0, 1] or array-like of shape (n_labels,)
        None is 0.5 for every label; a number is the threshold of every label. A label is
        predicted if its probability is above its threshold, compared in float64. With a threshold
        of 0, it is predicted unless its probability is 0, and with 1 never.
    n_labels : int
        Number of labels K.

    Returns
    -------
    ndarray of shape (n_labels,), float64

    Raises
    ------
    TypeError
        If a threshold is not a real number.
    ValueError
        If the number of thresholds is wrong, or one is not in [0, 1].

    Examples
    --------
    >>> from sklearn_epee._exits.checks import check_label_thresholds
    >>> check_label_thresholds([0.5, 0.2], n_labels=2)
    array([0.5, 0.2])
    """
    if label_thresholds is None:
        return np.full(n_labels, 0.5)
    expected = f"label_thresholds must be None, a number in [0, 1] or {n_labels} of them"
    array = as_array("label_thresholds", label_thresholds)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"{expected}; got {label_thresholds!r:.200} of type {type(label_thresholds).__name__}."
        )
    if array.shape not in {(), (n_labels,)}:
        raise ValueError(f"{expected}, one for each label; got an array of shape {array.shape}.")
    if not ((array >= 0) & (array <= 1)).all():  # false for NaN too
        raise ValueError(f"{expected}; got {np.array2string(array, threshold=24)}.")
    return np.broadcast_to(array.astype(np.float64), (n_labels,)).copy()
