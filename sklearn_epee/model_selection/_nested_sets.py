"""Prediction sets that shrink from exit to exit: split conformal prediction over all exits at once.

The *level* of a class at an exit is its nonconformity: the share of calibration samples whose true
class had a higher probability at this exit. The score of a class is its largest level over the
visited exits, so it can only increase, and the set of all classes whose score is at or below a
limit can only shrink. The limit is a conformal quantile of the scores of the true classes of other
samples. If these scores are computed over all exits, the sets of all exits together contain the
true class of a new sample with the requested probability, so the set of any exit does as well,
whatever policy selects the exit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.staged import Floats, Integers

Mask = NDArray[np.bool_]

# Share of the samples for learning levels; limits are learned on the others. Levels make exits
# comparable; the coverage does not depend on them.
LEVEL_SHARE = 0.3


@dataclass(frozen=True)
class NestedSets:
    """Levels of the exits, and limits for the scores of classes.

    Attributes
    ----------
    knots : list of ndarray, float64
        For every exit, values of 1 - probability from 0 to 1, ascending. Levels are interpolated
        between them.
    limits : ndarray of shape (n_classes,), float64
        Largest score with which each class is in the set; infinite if there were too few samples.
    n_samples : ndarray of shape (n_classes,), int64
        Number of samples for the limit of each class: those of the class, or all.
    coverage : float
    """

    knots: list[Floats]
    limits: Floats
    n_samples: Integers
    coverage: float

    @classmethod
    def learn(
        cls,
        proba: NDArray[np.floating],
        codes: Integers,
        visited: Mask,
        *,
        coverage: float,
        per_class: bool,
        rng: np.random.RandomState,
    ) -> NestedSets:
        """Learn levels on one part of the samples and limits on the other.

        Parameters
        ----------
        proba : ndarray of shape (n_samples, n_layers, n_classes)
        codes : ndarray of shape (n_samples,), int
            Column of the true class.
        visited : ndarray of shape (n_samples, n_layers), bool
            The exits whose sets should contain the true class.
        coverage : float in (0, 1)
        per_class : bool
            Whether the coverage has to hold for each class.
        rng : numpy.random.RandomState
            Splits the samples.

        Returns
        -------
        NestedSets
        """
        n_classes = proba.shape[2]
        misfit = 1.0 - proba[np.arange(len(codes)), :, codes].astype(np.float64)
        seen = _seen(codes, n_classes if per_class else None, rng)
        knots = [
            np.unique(np.concatenate([[0.0, 1.0], misfit[seen & visited[:, layer], layer]]))
            for layer in range(proba.shape[1])
        ]
        levels = np.column_stack([_levels(misfit[:, m], knots[m]) for m in range(len(knots))])
        scores = np.where(visited, levels, 0.0).max(axis=1)[~seen]
        if not per_class:
            limit = conformal_quantile(scores, coverage)
            n = np.full(n_classes, len(scores))
            return cls(knots, np.full(n_classes, limit), n, coverage)
        others = codes[~seen]
        limits = [conformal_quantile(scores[others == k], coverage) for k in range(n_classes)]
        return cls(knots, np.array(limits), np.bincount(others, minlength=n_classes), coverage)

    def staged(self, proba: NDArray[np.floating], *, allow_empty: bool) -> Iterator[Mask]:
        """Yield the sets after every exit; each is a subset of the one before.

        Parameters
        ----------
        proba : ndarray of shape (n_samples, n_layers, n_classes)
            NaN at exits that a sample does not have or does not visit; its set is unchanged there.
        allow_empty : bool
            Whether sets may become empty. If not, the remaining class with the smallest score stays
            in the set, also at later exits.

        Yields
        ------
        ndarray of shape (n_samples, n_classes), bool
        """
        inside = np.ones((len(proba), proba.shape[2]), dtype=bool)
        scores = np.zeros(inside.shape)
        for layer, knots in enumerate(self.knots):
            misfit = 1.0 - proba[:, layer].astype(np.float64)
            scores = np.fmax(scores, _levels(misfit, knots))  # ignores NaN
            kept = inside & (scores <= self.limits)
            if not allow_empty:
                empty = np.flatnonzero(~kept.any(axis=1))
                last = np.where(inside[empty], scores[empty], np.inf).argmin(axis=1)
                kept[empty, last] = True
            inside = kept
            yield kept


def conformal_quantile(scores: Floats, coverage: float) -> float:
    """Return the value that a new score exceeds with probability at most 1 - coverage.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Exchangeable with the new score.
    coverage : float in (0, 1)

    Returns
    -------
    float
        The score of rank ``ceil((n + 1) * coverage)``; infinite if there are fewer scores.
    """
    # Rounding errors must not increase the rank by one.
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def smallest_calibration(coverage: float) -> int:
    """Return the smallest number of scores with a finite conformal quantile."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def _levels(misfit: Floats, knots: Floats) -> Floats:
    """Return levels in [0, 1], interpolated between the knots; NaN for NaN."""
    levels: Floats = np.interp(misfit, knots, np.linspace(0.0, 1.0, len(knots)))
    return levels


def _seen(codes: Integers, n_classes: int | None, rng: np.random.RandomState) -> Mask:
    """Draw the samples for learning levels, separately for each class if `n_classes` is given."""
    groups = np.zeros(len(codes), dtype=np.int64) if n_classes is None else codes
    seen = np.zeros(len(codes), dtype=bool)
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        seen[rows[: int(LEVEL_SHARE * len(rows))]] = True
    return seen
