"""Choose the products that run in 8 bits: those that save most time for the least change.

What rounding changes is measured layer by layer on a few samples, what it saves is known from the
sizes of the products, and the choice is measured as a whole on all samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_epee._checks.tasks import split_columns
from sklearn_epee._nn.int8_calibration import Int8Scales

# Mean change of probabilities, and at each exit that of log probabilities as a share of their
# variation between samples, above which more products are left as they are. A network is surer of
# its training samples than of others: probabilities near 0 and 1 hardly change, their logarithms
# do.
MAX_CHANGE = 0.002
MAX_LOG_CHANGE = 0.006
# Where what is not rounded changes more by itself, being in bfloat16, this many times as much.
_OF_REST = 1.15
# Log probabilities that vary less than this, in nats, count as if they varied by it.
_LEAST_VARIATION = 1.0
# What the room for changes is multiplied with where products change more than was expected.
_SMALLER_ROOM = 0.85
# Gains, room and sums of squared errors are taken to be this at least.
_LEAST = 1e-12


class Group(NamedTuple):
    """Products that read the same rows, of a layer and those that share its weights."""

    tower: int
    layer: int
    name: str


@dataclass(frozen=True)
class Change:
    """What rounding changed, against float32.

    Attributes
    ----------
    rounded : ndarray of shape (n, M, K), float32
        Probabilities at all exits.
    mean, largest : float
        Of the changes of probabilities.
    of_logs : ndarray of shape (M,)
        Of log probabilities at each exit, as a share of their variation.
    """

    rounded: NDArray[np.float32]
    mean: float
    largest: float
    of_logs: NDArray[np.float64]

    def is_within(self, limits: NDArray[np.float64] | float) -> bool:
        """Return whether probabilities change little, and their logarithms within limits."""
        return self.mean <= MAX_CHANGE and bool(np.all(self.of_logs <= limits))


class RoundedTrial:
    """Runs samples through a network with some products rounded, and compares.

    Parameters
    ----------
    engine : type
    placed : nn.Module
        On a CPU, in float32.
    rest : torch.dtype
        What is computed in where nothing is rounded.
    parts : sequence of EncodedSamples
    counts : sequence of int
        Classes of every task.
    """

    def __init__(
        self,
        engine: Any,
        placed: Any,
        rest: torch.dtype,
        parts: Sequence[Any],
        counts: Sequence[int],
    ) -> None:
        self._engine = engine
        self._placed = placed
        self._rest = rest
        self._parts = parts
        self._counts = counts

    @cached_property
    def exact(self) -> NDArray[np.float32]:
        """Probabilities at all exits in float32, (n, M, K)."""
        return self._staged(self._engine(self._placed))

    def _staged(self, engine: Any) -> NDArray[np.float32]:
        return np.concatenate([engine.staged(part) for part in self._parts])

    def __call__(self, scales: Any) -> Change:
        """Return what is changed where products are rounded as scales say."""
        rounded = self._staged(self._engine(self._placed, self._rest, scales))
        each = _changes(self.exact, rounded, self._counts)
        of_logs = _log_changes(self.exact, rounded, self._counts)
        return Change(rounded, float(np.nanmean(each)), float(np.nanmax(each)), of_logs)


def choose_rounded(scales: Any, trial: RoundedTrial, few: RoundedTrial) -> tuple[Any, Change]:
    """Return scales that round no more than the limits allow, and what they change.

    Parameters
    ----------
    scales : Int8Scales, or a tuple of two
        That round all that may be rounded.
    trial, few : RoundedTrial
        On all samples, and on a few.

    Returns
    -------
    scales : Int8Scales, or a tuple of two
    change : Change
        On all samples.
    """
    change = trial(scales)
    if not change.is_within(MAX_LOG_CHANGE):
        scales, change = _within_limits(scales, trial, few)
    return _like(scales, [replace(tower, gains=()) for tower in towers_of(scales)]), change


def _within_limits(scales: Any, trial: RoundedTrial, few: RoundedTrial) -> tuple[Any, Change]:
    towers = towers_of(scales)
    base = trial(only(scales, []))
    limits = np.maximum(MAX_LOG_CHANGE, _OF_REST * base.of_logs)
    # Squared changes of products that are rounded apart add up, nearly.
    room = limits**2 - base.of_logs**2
    costs = _costs(scales, few, room)
    taken = {group: _part_of(room, cost).mean() for group, cost in costs.items()}
    # Those first that take least of the room for what they save.
    order = sorted(costs, key=lambda group: (taken[group] / _gain(towers, group), group))
    kept: list[Group] = order
    # What seemed to cost nothing fits into any room.
    while kept and room.max() > _LEAST:
        fitting = _fitting(costs, order, room)
        if fitting != kept:
            kept = fitting
            some = only(scales, kept)
            change = trial(some)
            if change.is_within(limits):
                return some, change
        room *= _SMALLER_ROOM
    return only(scales, []), base


def _part_of(room: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    part: NDArray[np.float64] = cost / np.maximum(room, _LEAST)
    return part


def _fitting(
    costs: Mapping[Group, NDArray[np.float64]], order: Sequence[Group], room: NDArray[np.float64]
) -> list[Group]:
    """Return the groups whose costs fit together at every exit, taken in an order."""
    kept, total = [], np.zeros_like(room)
    for group in order:
        if np.all(total + costs[group] <= room):
            kept.append(group)
            total += costs[group]
    return kept


def _costs(
    scales: Any, few: RoundedTrial, room: NDArray[np.float64]
) -> dict[Group, NDArray[np.float64]]:
    """Return by how much each group changes log probabilities at the exits, squared, (M,).

    Measured layer by layer: within a layer the products share what comes of them as the squares of
    their errors do. Where that is more than the layer's part of the room, they are measured one by
    one.
    """
    towers = towers_of(scales)
    base = few(only(scales, [])).of_logs ** 2
    costs: dict[Group, NDArray[np.float64]] = {}
    layers = dict.fromkeys(group[:2] for group in groups(scales))
    for layer in layers:
        together = [group for group in groups(scales) if group[:2] == layer]
        change = np.maximum(few(only(scales, together)).of_logs ** 2 - base, 0.0)
        if _part_of(room, change).max() > 1 / len(layers):
            costs |= {
                group: np.maximum(few(only(scales, [group])).of_logs ** 2 - base, 0.0)
                for group in together
            }
            continue
        errors = {
            group: towers[group.tower].errors[group.layer][group.name] ** 2 for group in together
        }
        total = max(sum(errors.values()), _LEAST)
        costs |= {group: change * error / total for group, error in errors.items()}
    return costs


def _gain(towers: Sequence[Int8Scales], group: Group) -> float:
    # The layers of a second tower run for fewer samples than those of the first.
    n_exits = sum(len(tower.layers) for tower in towers)
    share = sum(len(tower.layers) for tower in towers[group.tower :]) / n_exits
    return max(share * towers[group.tower].gain(group.layer, group.name), _LEAST)


# ------------------------------------------------------------------------------ scales of towers


def towers_of(scales: Any) -> tuple[Int8Scales, ...]:
    """Return the scales of each tower, of which there is mostly one."""
    return (scales,) if isinstance(scales, Int8Scales) else tuple(scales)


def groups(scales: Any) -> list[Group]:
    """Return the groups of products that are rounded."""
    towers = enumerate(towers_of(scales))
    return [Group(number, *group) for number, tower in towers for group in tower.rounded()]


def only(scales: Any, kept: Collection[Group]) -> Any:
    """Return scales that round no others than some groups."""
    found = [
        tower.only({group[1:] for group in kept if group.tower == number})
        for number, tower in enumerate(towers_of(scales))
    ]
    return _like(scales, found)


def _like(scales: Any, towers: Sequence[Int8Scales]) -> Any:
    return towers[0] if isinstance(scales, Int8Scales) else tuple(towers)


# ------------------------------------------------------------------------------------ what changes


def _changes(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], counts: Sequence[int]
) -> NDArray[np.float32]:
    """Return by how much probabilities change, (n, M), on average over the tasks."""
    each = split_columns(np.abs(exact - rounded), counts)
    changes: NDArray[np.float32] = np.mean([part.sum(axis=-1) / 2 for part in each], axis=0)
    return changes


def _log_changes(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], counts: Sequence[int]
) -> NDArray[np.float64]:
    """Return by how much log probabilities change at each exit, as a share of how they vary.

    Of shape (M,), on average over the tasks.
    """
    shares = []
    pairs = zip(split_columns(exact, counts), split_columns(rounded, counts), strict=True)
    for before, after in pairs:
        first, second = _centered_logs(before), _centered_logs(after)
        n_own = np.maximum(1, np.isfinite(first).sum(axis=(0, 2)))
        apart = first - np.nansum(first, axis=0) / np.maximum(1, np.isfinite(first).sum(axis=0))
        moved, varies = (
            np.sqrt(np.nansum(part**2, axis=(0, 2)) / n_own) for part in (second - first, apart)
        )
        shares.append(moved / np.maximum(varies, _LEAST_VARIATION))
    changes: NDArray[np.float64] = np.mean(shares, axis=0)
    return changes


def _centered_logs(proba: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log probabilities, (n, M, K), less their mean over the classes."""
    logs = np.log(np.maximum(proba, np.finfo(np.float32).tiny, dtype=np.float64))
    centered: NDArray[np.float64] = logs - logs.mean(axis=-1, keepdims=True)
    return centered
