"""Evaluate all exit policies at once on samples with staged predictions.

For a fixed patience, raising tau moves samples to earlier exits, one move at a time: a sample exits
at the first layer with an entropy below tau, so it can only move to layers at which its entropy is
lower than at all layers before. All moves are sorted by entropy once. Sums over the samples for
every tau (of exit layers, correct predictions or losses) are then cumulative sums over the moves.
The results are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from .staged import Floats, Integers


class StagedExits(Protocol):
    """Interface of the values that decide about exits, such as `StagedPredictions`."""

    @property
    def n_samples(self) -> int: ...

    @property
    def n_layers(self) -> int: ...

    @property
    def min_exit_layer(self) -> int: ...

    @property
    def joint_exit(self) -> str: ...

    @property
    def last_layer(self) -> int | None: ...

    @property
    def depends_on_patience(self) -> bool: ...

    @property
    def joint_entropies(self) -> Floats: ...

    @property
    def exit_shares(self) -> Floats | None: ...

    def entropies_with(self, patience: int) -> Floats:
        """Return the entropies to compare with tau, for one patience."""
        ...

    def exit_layers(self, tau: float, patience: int) -> Integers:
        """Return the exit layer of each sample, from 1 to M."""
        ...

    def patience_exits(self, patience: int) -> Integers:
        """Return the exit layer of each sample by the patience rule alone."""
        ...

    def layer_weights(self, weights: Floats | None = None) -> Floats | None:
        """Return how much each sample counts in the speed-up ratio; None if all count the same."""
        ...

    def speedup(self, exits: Integers) -> float:
        """Return the speed-up ratio of samples that exit at these layers."""
        ...

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return some of the samples."""
        ...


@dataclass(frozen=True)
class Sweep:
    """Exits for all thresholds and one patience, from the slowest policy to the fastest.

    Attributes
    ----------
    patience : int
    taus : ndarray of shape (n_taus,), float64
        Ascending.
    start : ndarray of shape (n_samples,), int64
        Exit layers by the patience rule alone.
    step : ndarray of shape (n_moves,), int64
        Index in `taus` of the first threshold with which a move happens, ascending.
    row, source, target : ndarray of shape (n_moves,), int64
        The sample that moves, the layer it moves from and the earlier layer it moves to.
    """

    patience: int
    taus: Floats
    start: Integers
    step: Integers
    row: Integers
    source: Integers
    target: Integers

    def total(self, values: NDArray[Any]) -> Floats:
        """Sum a value of each sample, which depends on its exit layer, for every tau.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_layers), of numbers
            ``values[i, m]`` is the value of sample i if it exits at layer m + 1.

        Returns
        -------
        ndarray of shape (n_taus,), float64
            Exact where the values are integers.
        """
        before, after = self.moved(values)
        return self.accumulate(float(self.at_start(values).sum()), after - before)

    def at_start(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the value of every sample under the patience rule alone."""
        return values[np.arange(len(self.start)), self.start - 1]

    def moved(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the values before and after every move."""
        flat = np.ascontiguousarray(values).ravel()
        base = self.row * values.shape[1] - 1
        return flat[base + self.source], flat[base + self.target]

    def accumulate(
        self, start: float, changes: NDArray[Any], moves: NDArray[Any] | None = None
    ) -> Floats:
        """Return a total for every tau, given its change by each move."""
        step = self.step if moves is None else self.step[moves]
        per_step = np.bincount(step, weights=changes, minlength=len(self.taus))
        return np.cumsum(per_step, dtype=np.float64) + start

    def total_layers(self, weights: Floats | None = None) -> Floats:
        """Return the (weighted) sum of the exit layers for every tau."""
        saved = self.target - self.source
        if weights is None:
            return self.accumulate(float(self.start.sum()), saved)
        return self.accumulate(float(weights @ self.start), weights[self.row] * saved)

    def exit_layers(self) -> Iterator[Integers]:
        """Yield the exit layers for every tau, in one array that is modified in place."""
        exits = self.start.copy()
        bounds = np.searchsorted(self.step, np.arange(len(self.taus) + 1))
        for first, last in pairwise(bounds):
            # The moves of a sample are in the order of its entropies, so the last one counts.
            exits[self.row[first:last]] = self.target[first:last]
            yield exits


class PolicySpace:
    """All possible moves of samples between exits, sorted by entropy.

    Parameters
    ----------
    staged : StagedPredictions, or StagedSentences
    """

    def __init__(self, staged: StagedExits) -> None:
        self.staged = staged
        varies = staged.depends_on_patience
        self._common = None if varies else _Lows.of(staged.joint_entropies)

    @property
    def n_layers(self) -> int:
        """Number of layers M, which is also the number of patience values that differ."""
        return self.staged.n_layers

    @property
    def min_exit_layer(self) -> int:
        """The first layer at which samples may exit, from 1 to M."""
        return min(self.staged.min_exit_layer, self.n_layers)

    @property
    def joint_exit(self) -> str:
        """How tasks, labels or words exit together."""
        return self.staged.joint_exit

    @property
    def last_layer(self) -> int:
        """The layer at which all samples exit that did not before, from 1 to M."""
        last = self.staged.last_layer
        return self.n_layers if last is None else last

    def sweep(self, patience: int, taus: Floats | None = None) -> Sweep:
        """Return the exits for all thresholds and one patience.

        Parameters
        ----------
        patience : int
            From 1 to M.
        taus : ndarray of shape (n_taus,), default=None
            Ascending thresholds. None takes all that give different exits: 0, one in the middle
            between any two successive entropies, and one above the largest.

        Returns
        -------
        Sweep
        """
        start, lows = self.staged.patience_exits(patience), self._lows(patience)
        limit = start[lows.row]
        moves = np.flatnonzero(lows.layer < limit)
        entropy = lows.entropy[moves]
        if taus is None:
            taus, step = _thresholds_between(entropy)
        else:
            step = np.searchsorted(taus, entropy, side="right")
            reached = int(np.searchsorted(step, len(taus)))  # steps are sorted, as moves are
            moves, step = moves[:reached], step[:reached]
        return Sweep(
            patience=patience,
            taus=taus,
            start=start,
            step=step,
            row=lows.row[moves],
            source=np.minimum(lows.following, limit)[moves],
            target=lows.layer[moves],
        )

    def speedups(self, sweep: Sweep, weights: Floats | None = None) -> Floats:
        """Return the speed-up ratio for every tau of a sweep.

        Parameters
        ----------
        sweep : Sweep
        weights : ndarray of shape (n_samples,), default=None
            Sample weights.

        Notes
        -----
        Computed from the costs of the exits if they are known, from the number of layers otherwise.
        """
        weights = self.staged.layer_weights(weights)
        total = self.staged.n_samples if weights is None else float(weights.sum())
        shares = self.staged.exit_shares
        if shares is None:
            return 1.0 - sweep.total_layers(weights) / (total * self.n_layers)
        shares = shares if weights is None else shares * weights[:, np.newaxis]
        return 1.0 - sweep.total(shares) / total

    def quantile_taus(self, n_taus: int) -> Floats:
        """Return at most `n_taus` thresholds: 0, and quantiles of all that give different exits."""
        every, _ = _thresholds_between(self._all_entropies())
        if len(every) <= n_taus:
            return every
        return every[np.linspace(0, len(every) - 1, n_taus).round().astype(np.intp)]

    def _lows(self, patience: int) -> _Lows:
        if self._common is not None:
            return self._common
        return _Lows.of(self.staged.entropies_with(patience))

    def _all_entropies(self) -> Floats:
        """Return the entropies of all moves of all patience values, sorted."""
        if self._common is not None:
            return self._common.entropy
        patiences = range(1, self.n_layers + 1)
        every = np.concatenate([self._lows(patience).entropy for patience in patiences])
        return np.unique(every[every >= 0])  # negative ones mark exits by patience


@dataclass(frozen=True)
class _Lows:
    """Layers at which the entropy of a sample is lower than at all before, sorted by entropy.

    Attributes
    ----------
    row, layer, following : ndarray of shape (n_lows,), int64
        The sample, the layer, and the next such layer of the sample.
    entropy : ndarray of shape (n_lows,), float64
        Ascending.
    """

    row: Integers
    layer: Integers
    following: Integers
    entropy: Floats

    @classmethod
    def of(cls, entropies: Floats) -> Self:
        """Find these layers, given entropies of shape (n_samples, n_layers)."""
        row, layer, following, entropy = _new_lows(entropies)
        order = np.argsort(entropy, kind="stable")
        return cls(row[order], layer[order], following[order], entropy[order])


def _new_lows(entropies: Floats) -> tuple[Integers, Integers, Integers, Floats]:
    """Find layers, except for the last, at which the entropy is lower than at all layers before.

    Returns their rows, layers, the next such layers (M if there is none) and entropies.
    """
    n_layers = entropies.shape[1]
    lowest = np.minimum.accumulate(entropies, axis=1)
    is_low = np.ones(entropies.shape, dtype=bool)
    is_low[:, 1:] = entropies[:, 1:] < lowest[:, :-1]
    is_low &= entropies < np.inf  # infinite where a sample cannot exit
    layers = np.where(is_low, np.arange(1, n_layers + 1), n_layers)
    following = np.minimum.accumulate(layers[:, ::-1], axis=1)[:, ::-1]
    row, column = np.nonzero(is_low[:, :-1])
    return row, column + 1, following[row, column + 1], entropies[row, column]


def _thresholds_between(entropies: Floats) -> tuple[Floats, Integers]:
    """Return thresholds between sorted entropies, and the index of the first one above each.

    Thresholds lie halfway between two entropies, so that rounding errors do not change exits.
    """
    is_new = np.ones(len(entropies), dtype=bool)
    is_new[1:] = entropies[1:] > entropies[:-1]
    lower = entropies[is_new]
    upper = np.empty_like(lower)
    if len(lower):
        upper[:-1] = lower[1:]
        upper[-1] = 1.0 if lower[-1] < 1 else 2.0  # entropies end at 1
    middle = lower + (upper - lower) / 2
    # There is no number between adjacent floats; the upper one works, as entropies must be < tau.
    taus = np.concatenate([[0.0], np.where(middle > lower, middle, upper)])
    return taus, np.cumsum(is_new)
