"""Samples without some exits (missing input or skipped layers): NaN in staged probabilities.

A sample exits at an exit of its own. Patience counts the exits that it has, the last of which it
takes at the latest. Where a prediction at an exit is wanted that a sample does not have, it is
that of the last of its exits before, and of its first one if there is none before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rule import check_proba

Mask = NDArray[np.bool_]


def read_tasks(tasks: Sequence[ArrayLike]) -> tuple[list[NDArray[np.floating]], Mask | None]:
    """Return checked probabilities, filled where a sample has no exit, and which exits there are.

    Parameters
    ----------
    tasks : sequence of array-like of shape (n_samples, n_layers, n_classes)
        NaN in all classes where a sample does not have an exit.

    Returns
    -------
    proba : list of ndarray of shape (n_samples, n_layers, n_classes)
    own : ndarray of shape (n_samples, n_layers), bool, or None
        None where every sample has all exits.

    Raises
    ------
    ValueError
        If a sample has no exit, tasks differ in which there are, or a value is not a probability.
    """
    found = [available_exits(task) for task in tasks]
    if all(mask is None for mask in found):
        return [check_proba(task) for task in tasks], None
    own = found[0]
    if own is None or any(mask is None or not np.array_equal(mask, own) for mask in found):
        raise ValueError("proba is NaN at exits in some tasks only; expected the same in all.")
    if not own.any(axis=1).all():
        row = int(own.any(axis=1).argmin())
        raise ValueError(f"proba[{row}] is NaN at every exit; expected one exit at least.")
    return [check_proba(fill(np.asarray(task), own)) for task in tasks], own


def available_exits(proba: ArrayLike) -> Mask | None:
    """Return which exits samples have, (n_samples, n_layers); None where all have all.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_layers, n_classes)
        NaN in all classes where a sample does not have an exit.
    """
    array: Any = np.asarray(proba)
    if array.ndim != 3 or array.dtype.kind != "f" or not array.shape[2]:
        return None
    missing: Mask = np.isnan(array).all(axis=2)
    return ~missing if missing.any() else None


def nearest_exits(own: Mask) -> NDArray[np.int64]:
    """Return for every exit the one whose prediction stands for it, from 1 to M.

    Parameters
    ----------
    own : ndarray of shape (n_samples, n_layers), bool

    Returns
    -------
    ndarray of shape (n_samples, n_layers), int64
        The exit itself if the sample has it, else the last one before, else the first one.
    """
    layers = np.where(own, np.arange(1, own.shape[1] + 1), 0)
    before = np.maximum.accumulate(layers, axis=1)
    return np.where(before > 0, before, own.argmax(axis=1)[:, np.newaxis] + 1)


def last_exits(own: Mask) -> NDArray[np.int64]:
    """Return the last exit that each sample has, (n_samples,), from 1 to M."""
    return own.shape[1] - own[:, ::-1].argmax(axis=1)


def fill(proba: NDArray[Any], own: Mask) -> NDArray[Any]:
    """Return probabilities with those of the nearest exit where a sample has none of its own."""
    return np.take_along_axis(proba, nearest_exits(own)[..., np.newaxis] - 1, axis=1)


def available_exit_counters(
    count: Callable[[NDArray[Any]], NDArray[np.int64]], predictions: NDArray[Any], own: Mask
) -> NDArray[np.int64]:
    """Return the patience counters over the exits that a sample has, 0 at the others.

    Parameters
    ----------
    count : callable
        Returns the counters of predictions at all exits.
    predictions : ndarray of shape (n_samples, n_layers, ...)
    own : ndarray of shape (n_samples, n_layers), bool

    Returns
    -------
    ndarray of shape (n_samples, n_layers), int64
    """
    own_first = np.argsort(~own, axis=1, kind="stable")
    wide = own_first.reshape(*own.shape, *[1] * (predictions.ndim - 2))
    counted = count(np.take_along_axis(predictions, wide, axis=1))
    counters = np.zeros(own.shape, dtype=np.int64)
    np.put_along_axis(counters, own_first, counted, axis=1)
    return np.where(own, counters, 0)


def exit_shares(
    own: Mask,
    exit_costs: NDArray[np.float64] | None = None,
    n_tower_layers: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Return the share that each exit takes of the work of all that a sample has.

    Parameters
    ----------
    own : ndarray of shape (n_samples, n_layers), bool
        Exits that a sample does not have cost nothing.
    exit_costs : ndarray of shape (n_layers,), float64, default=None
        What an exit has cost for a sample that runs through all layers; None: layers cost the same.
    n_tower_layers : sequence of int, default=None
        Number of layers of each tower. An exit that is lacking in a tower of which a sample has
        another one was skipped: its work is saved. It is no work at all in a tower of which the
        sample has none, as its input is missing; nor where there are no towers (None).

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
        From 0 to 1. At the last exit 1, less what was skipped.
    """
    n_layers = own.shape[1]
    costs = np.arange(1.0, n_layers + 1) / n_layers if exit_costs is None else exit_costs
    steps = np.diff(costs, prepend=0.0)
    present = own if n_tower_layers is None else _whole_towers(own, n_tower_layers)
    total = np.where(present, steps, 0.0).cumsum(axis=1)[:, -1:]
    return np.where(own, steps, 0.0).cumsum(axis=1) / total


def _whole_towers(own: Mask, n_tower_layers: Sequence[int]) -> Mask:
    """Return all exits of the towers of which a sample has any."""
    starts = np.cumsum([0, *n_tower_layers[:-1]])
    return np.repeat(np.logical_or.reduceat(own, starts, axis=1), n_tower_layers, axis=1)
