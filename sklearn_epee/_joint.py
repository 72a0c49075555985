"""One exit for several tasks: how entropies and patience counters of tasks become one decision.

Tasks share a backbone, so a sample leaves with all of them at once. Whatever rule joins the tasks,
for a given patience it is a comparison of one number a layer with ``tau``: the *effective entropy*,
-1 where the patience rule lets the sample leave (below any ``tau``, 0 included) and an entropy
elsewhere. "all" needs every task and takes the largest of the tasks' numbers, "any" needs one and
takes the smallest; "mean" averages entropies, and counts how long the joint prediction holds.

This module needs NumPy alone; its names are public in `sklearn_epee.policy`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

JOINT_EXITS = ("all", "any", "mean")
_LEAVES = -1.0


def check_joint_exit(joint_exit: Any) -> str:
    """Return the name of the way tasks decide together, or refuse it.

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
    >>> from sklearn_epee.policy import check_joint_exit
    >>> check_joint_exit("any")
    'any'
    """
    expected = f"joint_exit must be 'all', 'any' or 'mean'; got {joint_exit!r}"
    if not isinstance(joint_exit, str):
        raise TypeError(f"{expected} of type {type(joint_exit).__name__}.")
    if joint_exit not in JOINT_EXITS:
        raise ValueError(f"{expected}.")
    return str(joint_exit)


def joint_counters(counters: NDArray[np.int64], joint_exit: str) -> NDArray[np.int64]:
    """Give the counters whose comparison with a patience is the joint patience rule.

    Parameters
    ----------
    counters : ndarray of shape (n_samples, n_layers, n_tasks), int64
        Patience counters of every task.
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    ndarray of shape (n_samples, n_layers), int64
    """
    if joint_exit == "any":
        return counters.max(axis=-1)
    # A joint prediction is as old as the youngest of its parts, so "mean" counts like "all".
    return counters.min(axis=-1)


def joint_entropies(entropies: NDArray[np.floating], joint_exit: str) -> NDArray[np.float64]:
    """Give the entropies whose comparison with ``tau`` is the joint entropy rule.

    Parameters
    ----------
    entropies : ndarray of shape (n_samples, n_layers, n_tasks)
        Normalized entropies of every task.
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
    """
    entropies = entropies.astype(np.float64, copy=False)
    if joint_exit == "mean":
        return entropies.mean(axis=-1)
    return entropies.max(axis=-1) if joint_exit == "all" else entropies.min(axis=-1)


def effective_entropies(
    entropies: NDArray[np.floating], counters: NDArray[np.int64], patience: int, joint_exit: str
) -> NDArray[np.float64]:
    """Give the numbers whose comparison with ``tau`` is the whole joint rule for one patience.

    Parameters
    ----------
    entropies, counters : ndarray of shape (n_samples, n_layers, n_tasks)
        Normalized entropies and patience counters of every task.
    patience : int
    joint_exit : {"all", "any", "mean"}

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
        -1 where the patience rule lets a sample leave.
    """
    if joint_exit == "mean":
        settled = joint_counters(counters, joint_exit) >= patience
        return np.where(settled, _LEAVES, joint_entropies(entropies, joint_exit))
    # A task may leave for either reason, and another task for the other one.
    numbers = np.where(counters >= patience, _LEAVES, entropies.astype(np.float64, copy=False))
    return joint_entropies(numbers, joint_exit)
