"""Every exit policy at once: what each tau and patience does to samples whose exits are known.

For one patience, raising tau moves samples to earlier exits, one move at a time: a sample whose
entropies fall to new lows at some layers leaves at the first of these lows that is below tau. All
moves are sorted by entropy once; totals over the samples (of layers run, of correct answers, of
losses) then follow for every tau from cumulative sums. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee.policy import (
    check_exit_ensemble,
    check_exit_loss_weights,
    normalized_entropy,
    patience_counters,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class StagedProbabilities:
    """What every exit would answer, and what decides whether a sample leaves there.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_layers, n_classes)
        The probabilities answered with by a sample that leaves at this layer: the head's own, or
        the ensemble of the heads visited by then.
    entropies : ndarray of shape (n_samples, n_layers), float64
        Normalized entropies of the heads' own probabilities.
    counters : ndarray of shape (n_samples, n_layers), int64
        Patience counters of the heads' own predictions.
    """

    proba: NDArray[np.floating]
    entropies: Floats
    counters: Integers

    @classmethod
    def from_proba(
        cls,
        proba: ArrayLike,
        exit_ensemble: str | None = None,
        exit_loss_weights: Any = "ascending",
    ) -> Self:
        """Read staged probabilities of shape (n_samples, n_layers, n_classes).

        The other parameters are those of :func:`sklearn_epee.policy.apply_policy`, and so are the
        errors raised.
        """
        staged = np.asarray(proba)
        if staged.ndim != 3 or 0 in staged.shape:
            raise ValueError(
                "staged probabilities must have shape (n_samples, n_layers, n_classes), none of "
                f"them 0; got {staged.shape}."
            )
        entropies = normalized_entropy(staged).astype(np.float64)
        counters = patience_counters(staged.argmax(axis=2))
        answered = _combine_visited(staged, check_exit_ensemble(exit_ensemble), exit_loss_weights)
        return cls(answered, entropies, counters)

    # Several tasks may differ in this, see `JointPredictions`.
    depends_on_patience: ClassVar[bool] = False

    @property
    def n_samples(self) -> int:
        """Number of samples n."""
        return self.entropies.shape[0]

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.entropies.shape[1]

    @cached_property
    def predictions(self) -> Integers:
        """Column of the class answered at every layer, of shape (n_samples, n_layers)."""
        return self.proba.argmax(axis=2)

    def entropies_with(self, patience: int) -> Floats:
        """Give the entropies that count with a patience: always the same."""
        del patience
        return self.entropies

    def answered(self, exits: Integers) -> NDArray[np.floating]:
        """Give the probabilities answered with, by the layers that samples leave at."""
        return self.proba[np.arange(len(exits)), exits - 1]

    def take(self, rows: NDArray[np.intp]) -> StagedProbabilities:
        """Give some of the samples."""
        return StagedProbabilities(self.proba[rows], self.entropies[rows], self.counters[rows])

    def exit_layers(self, tau: float, patience: int) -> Integers:
        """Give the layer at which each sample leaves, from 1 to M."""
        leaves = (self.entropies < tau) | (self.counters >= patience)
        leaves[:, -1] = True
        return leaves.argmax(axis=1) + 1


class Predictions(Protocol):
    """What policies are evaluated on: those of one task, or `JointPredictions` of several."""

    @property
    def n_samples(self) -> int:
        """Number of samples n."""
        ...

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        ...

    @property
    def depends_on_patience(self) -> bool:
        """Whether the entropies that count change with the patience."""
        ...

    @property
    def entropies(self) -> Floats:
        """Entropies that count, of shape (n_samples, n_layers)."""
        ...

    @property
    def counters(self) -> Integers:
        """Patience counters, of shape (n_samples, n_layers)."""
        ...

    @property
    def predictions(self) -> Integers:
        """Columns of the classes answered, (n_samples, n_layers) or (..., n_tasks)."""
        ...

    def entropies_with(self, patience: int) -> Floats:
        """Give the entropies that count with a patience."""
        ...

    def answered(self, exits: Integers) -> Any:
        """Give the probabilities answered with, by the layers that samples leave at."""
        ...

    def take(self, rows: NDArray[np.intp]) -> Predictions:
        """Give some of the samples."""
        ...

    def exit_layers(self, tau: float, patience: int) -> Integers:
        """Give the layer at which each sample leaves, from 1 to M."""
        ...


def _combine_visited(
    proba: NDArray[np.floating], exit_ensemble: str | None, exit_loss_weights: Any
) -> NDArray[np.floating]:
    """Give what a sample answers at every layer it may leave at."""
    if exit_ensemble is None:
        return proba
    weighting = exit_loss_weights if exit_ensemble == "weighted" else "uniform"
    weights = check_exit_loss_weights(weighting, proba.shape[1], dtype=proba.dtype)[:, np.newaxis]
    totals = weights.cumsum(axis=0)
    mean = (weights * proba).cumsum(axis=1) / np.where(totals > 0, totals, 1)
    return np.where(totals > 0, mean, proba)


@dataclass(frozen=True)
class Sweep:
    """All thresholds of one patience, from the slowest policy to the fastest.

    Attributes
    ----------
    patience : int
    taus : ndarray of shape (n_taus,), float64
        Ascending.
    start : ndarray of shape (n_samples,), int64
        Exit layers of the patience rule alone.
    step : ndarray of shape (n_moves,), int64
        Position in `taus` of the first threshold at which a move has happened, ascending.
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
        """Sum `values[i, m]`, of sample i leaving at layer m + 1, over the samples for every tau.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_layers), of numbers

        Returns
        -------
        ndarray of shape (n_taus,), float64
            Exact where the values are integers.
        """
        before, after = self.moved(values)
        return self.accumulate(float(self.at_start(values).sum()), after - before)

    def at_start(self, values: NDArray[Any]) -> NDArray[Any]:
        """Give the value of every sample under the patience rule alone."""
        return values[np.arange(len(self.start)), self.start - 1]

    def moved(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Give the values before and after every move."""
        flat = np.ascontiguousarray(values).ravel()
        base = self.row * values.shape[1] - 1
        return flat[base + self.source], flat[base + self.target]

    def accumulate(
        self, start: float, changes: NDArray[Any], moves: NDArray[Any] | None = None
    ) -> Floats:
        """Add up the changes that all moves, or those selected, make to a total."""
        step = self.step if moves is None else self.step[moves]
        per_step = np.bincount(step, weights=changes, minlength=len(self.taus))
        return np.cumsum(per_step, dtype=np.float64) + start

    def total_layers(self, weights: Floats | None = None) -> Floats:
        """Sum the exit layers, weighted or not, for every tau."""
        saved = self.target - self.source
        if weights is None:
            return self.accumulate(float(self.start.sum()), saved)
        return self.accumulate(float(weights @ self.start), weights[self.row] * saved)

    def walk(self) -> Iterator[Integers]:
        """Yield the exit layers of every tau; one array, changed in place."""
        exits = self.start.copy()
        bounds = np.searchsorted(self.step, np.arange(len(self.taus) + 1))
        for first, last in pairwise(bounds):
            # Moves of one sample come in the order of its entropies: the last one counts.
            exits[self.row[first:last]] = self.target[first:last]
            yield exits


class PolicySpace:
    """Samples with all their possible moves between exits, sorted by entropy.

    Parameters
    ----------
    answers : Predictions
    """

    def __init__(self, answers: Predictions) -> None:
        self.answers = answers
        varies = answers.depends_on_patience
        self._common = None if varies else _Lows.of(answers.entropies)

    @property
    def n_layers(self) -> int:
        """Number of layers M, and of patience values that differ."""
        return self.answers.n_layers

    def sweep(self, patience: int, taus: Floats | None = None) -> Sweep:
        """Follow the samples through the thresholds of one patience.

        Parameters
        ----------
        patience : int
            From 1 to M.
        taus : ndarray of shape (n_taus,), default=None
            Ascending thresholds. None takes one for each set of decisions that there is: 0, and
            one in the middle between any two entropies that are neighbours.

        Returns
        -------
        Sweep
        """
        start, lows = self._patience_exits(patience), self._lows(patience)
        limit = start[lows.row]
        moves = np.flatnonzero(lows.layer < limit)
        entropy = lows.entropy[moves]
        if taus is None:
            taus, step = _thresholds_between(entropy)
        else:
            step = np.searchsorted(taus, entropy, side="right")
            reached = int(np.searchsorted(step, len(taus)))  # moves are sorted, and so are steps
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

    def quantile_taus(self, n_taus: int) -> Floats:
        """Give at most `n_taus` thresholds: 0, and quantiles of all thresholds that matter."""
        every, _ = _thresholds_between(self._all_entropies())
        if len(every) <= n_taus:
            return every
        return every[np.linspace(0, len(every) - 1, n_taus).round().astype(np.intp)]

    def _lows(self, patience: int) -> _Lows:
        if self._common is not None:
            return self._common
        return _Lows.of(self.answers.entropies_with(patience))

    def _all_entropies(self) -> Floats:
        """Give the entropies of all moves that there are, sorted."""
        if self._common is not None:
            return self._common.entropy
        patiences = range(1, self.n_layers + 1)
        every = np.concatenate([self._lows(patience).entropy for patience in patiences])
        return np.unique(every[every >= 0])  # others mark where patience decides

    def _patience_exits(self, patience: int) -> Integers:
        leaves = self.answers.counters >= patience
        leaves[:, -1] = True
        return leaves.argmax(axis=1) + 1


@dataclass(frozen=True)
class _Lows:
    """The layers at which a sample's entropy is lower than ever before, sorted by entropy.

    Attributes
    ----------
    row, layer, following : ndarray of shape (n_lows,), int64
        The sample, the layer, and the layer of its next low.
    entropy : ndarray of shape (n_lows,), float64
        Ascending.
    """

    row: Integers
    layer: Integers
    following: Integers
    entropy: Floats

    @classmethod
    def of(cls, entropies: Floats) -> Self:
        """Find them in entropies of shape (n_samples, n_layers)."""
        row, layer, following, entropy = _new_lows(entropies)
        order = np.argsort(entropy, kind="stable")
        return cls(row[order], layer[order], following[order], entropy[order])


def _new_lows(entropies: Floats) -> tuple[Integers, Integers, Integers, Floats]:
    """Find the layers, but for the last, at which a sample's entropy is lower than ever before.

    Returns their rows, layers, the layer of the next low (M if there is none) and entropies.
    """
    n_layers = entropies.shape[1]
    lowest = np.minimum.accumulate(entropies, axis=1)
    is_low = np.ones(entropies.shape, dtype=bool)
    is_low[:, 1:] = entropies[:, 1:] < lowest[:, :-1]
    layers = np.where(is_low, np.arange(1, n_layers + 1), n_layers)
    following = np.minimum.accumulate(layers[:, ::-1], axis=1)[:, ::-1]
    row, column = np.nonzero(is_low[:, :-1])
    return row, column + 1, following[row, column + 1], entropies[row, column]


def _thresholds_between(entropies: Floats) -> tuple[Floats, Integers]:
    """Give one threshold for each way to part sorted entropies, and each entropy's first one above.

    A threshold lies halfway between its neighbours, so that rounding elsewhere changes nothing.
    """
    is_new = np.ones(len(entropies), dtype=bool)
    is_new[1:] = entropies[1:] > entropies[:-1]
    lower = entropies[is_new]
    upper = np.empty_like(lower)
    if len(lower):
        upper[:-1] = lower[1:]
        upper[-1] = 1.0 if lower[-1] < 1 else 2.0  # entropies end at 1
    middle = lower + (upper - lower) / 2
    # Between neighbouring floats there is no middle; the comparison with tau is strict.
    taus = np.concatenate([[0.0], np.where(middle > lower, middle, upper)])
    return taus, np.cumsum(is_new)
