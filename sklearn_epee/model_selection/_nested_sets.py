"""Prediction sets that shrink from exit to exit: split conformal prediction over all exits at once.

How little a class conforms at an exit is its *level* there: the share of samples seen before whose
true class had a higher probability at this exit. The score of a class is its largest level over the
exits it has been through, so it can only rise, and the set of the classes whose score is at or
below a limit can only shrink. The limit is a conformal quantile of the true classes' scores of
other samples. If their scores run over all exits, the true class of a new sample is in its sets of
all exits at once with the wanted probability, and so in that of any one, whoever chooses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.staged import Floats, Integers

Mask = NDArray[np.bool_]

# Share of the samples from which levels are learned; the others set the limits. Levels only make
# exits comparable: coverage holds whatever they are.
LEVEL_SHARE = 0.3


@dataclass(frozen=True)
class NestedSets:
    """Limits for the scores of classes, and the levels that scores are made of.

    Attributes
    ----------
    knots : list of ndarray, float64
        For every exit, values of 1 - probability from 0 to 1, ascending; levels lie between them.
    limits : ndarray of shape (n_classes,), float64
        The largest score of a class that is in the set; infinite where too few samples were there.
    n_samples : ndarray of shape (n_classes,), int64
        Samples that set the limit of each class: those of the class, or all.
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
            The exits over which the true class is to stay in the sets.
        coverage : float in (0, 1)
        per_class : bool
            Whether each class is covered by itself.
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
        """Yield the sets after every exit, each a part of the one before.

        Parameters
        ----------
        proba : ndarray of shape (n_samples, n_layers, n_classes)
            NaN at exits that a sample does not have or has not been through, where its set stays.
        allow_empty : bool
            Whether a set may lose its last class. If not, the class of the smallest score among
            those left stays, also from then on.

        Yields
        ------
        ndarray of shape (n_samples, n_classes), bool
        """
        inside = np.ones((len(proba), proba.shape[2]), dtype=bool)
        scores = np.zeros(inside.shape)
        for layer, knots in enumerate(self.knots):
            misfit = 1.0 - proba[:, layer].astype(np.float64)
            scores = np.fmax(scores, _levels(misfit, knots))  # NaN changes nothing
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
        Exchangeable with the new one.
    coverage : float in (0, 1)

    Returns
    -------
    float
        The score of rank ``ceil((n + 1) * coverage)``; infinite where there are fewer.
    """
    # What rounding adds must not count as one more rank.
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def smallest_calibration(coverage: float) -> int:
    """Return the number of scores below which no limit is finite."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def _levels(misfit: Floats, knots: Floats) -> Floats:
    """Return levels in [0, 1], rising between the knots; NaN stays."""
    levels: Floats = np.interp(misfit, knots, np.linspace(0.0, 1.0, len(knots)))
    return levels


def _seen(codes: Integers, n_classes: int | None, rng: np.random.RandomState) -> Mask:
    """Draw the samples from which levels are learned, class by class where there are classes."""
    groups = np.zeros(len(codes), dtype=np.int64) if n_classes is None else codes
    seen = np.zeros(len(codes), dtype=bool)
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        seen[rows[: int(LEVEL_SHARE * len(rows))]] = True
    return seen
