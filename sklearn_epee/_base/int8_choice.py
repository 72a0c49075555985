"""Choose the matrix products that run in 8 bits: those that save most time for the least change.

The change due to rounding is measured layer by layer on a few samples; the time saved is computed
from the sizes of the products. The final choice is measured as a whole on all samples.
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

# Limits of the mean change of probabilities, and of the change of log probabilities at each exit as
# a share of their variation between samples. Above them, fewer products are rounded. Networks are
# more confident on training samples than on others: there, probabilities near 0 and 1 hardly
# change, but their logarithms do.
MAX_CHANGE = 0.002
MAX_LOG_CHANGE = 0.006
# If bfloat16 alone, without any 8-bit product, changes log probabilities by more than the limit
# divided by this, the limit is that change times this factor.
_OF_REST = 1.15
# Lower bound of the variation of log probabilities, in nats.
_LEAST_VARIATION = 1.0
# If a choice exceeds the limits, the allowed change is multiplied by this factor and the next
# choice is tried.
_SMALLER_ROOM = 0.85
# Lower bound of gains, allowed changes and sums of squared errors, which are divisors.
_LEAST = 1e-12


class Group(NamedTuple):
    """Matrix products with the same input, of one layer and of layers that share its weights."""

    tower: int
    layer: int
    name: str


@dataclass(frozen=True)
class Change:
    """Difference between rounded and float32 predictions.

    Attributes
    ----------
    rounded : ndarray of shape (n, M, K), float32
        Probabilities at all exits, with rounding.
    mean, largest : float
        Mean and largest change of probabilities.
    of_logs : ndarray of shape (M,)
        Change of log probabilities at each exit, as a share of their variation.
    """

    rounded: NDArray[np.float32]
    mean: float
    largest: float
    of_logs: NDArray[np.float64]

    def is_within(self, limits: NDArray[np.float64] | float) -> bool:
        """Return whether the changes of probabilities and of their logarithms are within limits."""
        return self.mean <= MAX_CHANGE and bool(np.all(self.of_logs <= limits))


class RoundedTrial:
    """Runs samples through a network with some products rounded, and compares with float32.

    Parameters
    ----------
    engine : type
    placed : nn.Module
        The network, on a CPU, in float32.
    rest : torch.dtype
        Data type of products that are not rounded.
    parts : sequence of EncodedSamples
    counts : sequence of int
        Number of classes of every task.
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
        """Return the change if products are rounded with some scales."""
        rounded = self._staged(self._engine(self._placed, self._rest, scales))
        each = _changes(self.exact, rounded, self._counts)
        of_logs = _log_changes(self.exact, rounded, self._counts)
        return Change(rounded, float(np.nanmean(each)), float(np.nanmax(each)), of_logs)


def choose_rounded(scales: Any, trial: RoundedTrial, few: RoundedTrial) -> tuple[Any, Change]:
    """Return scales whose change is within the limits, and that change.

    Parameters
    ----------
    scales : Int8Scales, or a tuple of two
        Scales of all products that can be rounded.
    trial, few : RoundedTrial
        On all samples, and on a few.

    Returns
    -------
    scales : Int8Scales, or a tuple of two
    change : Change
        Measured on all samples.
    """
    change = trial(scales)
    if not change.is_within(MAX_LOG_CHANGE):
        scales, change = _within_limits(scales, trial, few)
    return _like(scales, [replace(tower, gains=()) for tower in towers_of(scales)]), change


def _within_limits(scales: Any, trial: RoundedTrial, few: RoundedTrial) -> tuple[Any, Change]:
    towers = towers_of(scales)
    base = trial(only(scales, []))
    limits = np.maximum(MAX_LOG_CHANGE, _OF_REST * base.of_logs)
    # The allowed squared change: squared changes of independent products nearly add up.
    room = limits**2 - base.of_logs**2
    costs = _costs(scales, few, room)
    taken = {group: _part_of(room, cost).mean() for group, cost in costs.items()}
    # Round products first that need the smallest share of the allowed change per time saved.
    order = sorted(costs, key=lambda group: (taken[group] / _gain(towers, group), group))
    kept: list[Group] = order
    # Groups with a measured cost of 0 fit any `room`, so stop when it is nearly 0.
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
    """Return the groups, chosen greedily in an order, whose total cost is allowed at every exit."""
    kept, total = [], np.zeros_like(room)
    for group in order:
        if np.all(total + costs[group] <= room):
            kept.append(group)
            total += costs[group]
    return kept


def _costs(
    scales: Any, few: RoundedTrial, room: NDArray[np.float64]
) -> dict[Group, NDArray[np.float64]]:
    """Return the squared change of log probabilities at the exits due to each group, (M,).

    The change is measured layer by layer, and divided among the products of a layer in proportion
    to their squared errors. If it exceeds the layer's share of the allowed change, the products are
    measured one by one.
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
    """Return the scales of each tower; usually there is only one."""
    return (scales,) if isinstance(scales, Int8Scales) else tuple(scales)


def groups(scales: Any) -> list[Group]:
    """Return all groups of products that are rounded."""
    towers = enumerate(towers_of(scales))
    return [Group(number, *group) for number, tower in towers for group in tower.rounded()]


def only(scales: Any, kept: Collection[Group]) -> Any:
    """Return scales that only round some groups."""
    found = [
        tower.only({group[1:] for group in kept if group.tower == number})
        for number, tower in enumerate(towers_of(scales))
    ]
    return _like(scales, found)


def _like(scales: Any, towers: Sequence[Int8Scales]) -> Any:
    return towers[0] if isinstance(scales, Int8Scales) else tuple(towers)


# ----------------------------------------------------------------------------------------- changes


def _changes(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], counts: Sequence[int]
) -> NDArray[np.float32]:
    """Return the change of probabilities, (n, M), averaged over the tasks."""
    each = split_columns(np.abs(exact - rounded), counts)
    changes: NDArray[np.float32] = np.mean([part.sum(axis=-1) / 2 for part in each], axis=0)
    return changes


def _log_changes(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], counts: Sequence[int]
) -> NDArray[np.float64]:
    """Return the change of log probabilities at each exit, as a share of their variation.

    Of shape (M,), averaged over the tasks.
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
    """Return log probabilities, (n, M, K), minus their mean over the classes."""
    logs = np.log(np.maximum(proba, np.finfo(np.float32).tiny, dtype=np.float64))
    centered: NDArray[np.float64] = logs - logs.mean(axis=-1, keepdims=True)
    return centered
