"""Samples with missing exits (missing input or skipped layers), NaN in staged probabilities.

A sample only exits at exits that it has, at the latest at the last of them, and patience only
counts these exits. The prediction at a missing exit is that of the last exit of the sample before
it, or of the first exit of the sample if there is none before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rule import check_proba

Mask = NDArray[np.bool_]


def read_tasks(tasks: Sequence[ArrayLike]) -> tuple[list[NDArray[np.floating]], Mask | None]:
    """Check probabilities, fill missing exits, and return which exits samples have.

    Parameters
    ----------
    tasks : sequence of array-like of shape (n_samples, n_layers, n_classes)
        NaN in all classes where a sample does not have an exit.

    Returns
    -------
    proba : list of ndarray of shape (n_samples, n_layers, n_classes)
    own : ndarray of shape (n_samples, n_layers), bool, or None
        None if every sample has all exits.

    Raises
    ------
    ValueError
        If a sample has no exit, tasks have different exits, or a value is not a probability.
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
    """Return which exits samples have, (n_samples, n_layers); None if all samples have all.

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
    """Return the exit whose prediction is used at every exit, from 1 to M.

    Parameters
    ----------
    own : ndarray of shape (n_samples, n_layers), bool

    Returns
    -------
    ndarray of shape (n_samples, n_layers), int64
        The exit itself if the sample has it, otherwise the last one before, or the first one if
        there is none before.
    """
    layers = np.where(own, np.arange(1, own.shape[1] + 1), 0)
    before = np.maximum.accumulate(layers, axis=1)
    return np.where(before > 0, before, own.argmax(axis=1)[:, np.newaxis] + 1)


def last_exits(own: Mask) -> NDArray[np.int64]:
    """Return the last exit that each sample has, (n_samples,), from 1 to M."""
    return own.shape[1] - own[:, ::-1].argmax(axis=1)


def fill(proba: NDArray[Any], own: Mask) -> NDArray[Any]:
    """Replace the probabilities of missing exits by those of `nearest_exits`."""
    return np.take_along_axis(proba, nearest_exits(own)[..., np.newaxis] - 1, axis=1)


def available_exit_counters(
    count: Callable[[NDArray[Any]], NDArray[np.int64]], predictions: NDArray[Any], own: Mask
) -> NDArray[np.int64]:
    """Return patience counters over the exits that a sample has, and 0 at missing exits.

    Parameters
    ----------
    count : callable
        Counts patience, given predictions at all exits.
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
    """Return the cost up to each exit as a share of the cost of all layers of a sample.

    Parameters
    ----------
    own : ndarray of shape (n_samples, n_layers), bool
        Missing exits cost nothing.
    exit_costs : ndarray of shape (n_layers,), float64, default=None
        Cost up to each exit, as a share of that of all layers. None: layers cost the same.
    n_tower_layers : sequence of int, default=None
        Number of layers of each tower. If a sample has other exits in the tower of a missing exit,
        that exit was skipped, which saves its cost. If it has none in the tower, because the input
        is missing, the cost of the tower is left out of the total. Without towers (None), that of
        any missing exit is.

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
        From 0 to 1. 1 at the last exit, minus the share of skipped exits.
    """
    n_layers = own.shape[1]
    costs = np.arange(1.0, n_layers + 1) / n_layers if exit_costs is None else exit_costs
    steps = np.diff(costs, prepend=0.0)
    present = own if n_tower_layers is None else _whole_towers(own, n_tower_layers)
    total = np.where(present, steps, 0.0).cumsum(axis=1)[:, -1:]
    return np.where(own, steps, 0.0).cumsum(axis=1) / total


def _whole_towers(own: Mask, n_tower_layers: Sequence[int]) -> Mask:
    """Return which exits are in a tower of which the sample has any exit."""
    starts = np.cumsum([0, *n_tower_layers[:-1]])
    return np.repeat(np.logical_or.reduceat(own, starts, axis=1), n_tower_layers, axis=1)
