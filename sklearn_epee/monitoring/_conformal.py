"""Conformal p-values of a stream: the rank of each sample among all earlier ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Entropies are counted in bins ("cells"), which are narrow near 0, where most entropies of exits
# are. The bounds must not depend on the samples, or the p-values would not be independent.
N_ENTROPY_CELLS = 256
_ENTROPY_BOUNDS = np.linspace(0.0, 1.0, N_ENTROPY_CELLS + 1)[1:-1] ** 3


def entropy_cells(entropies: Floats) -> Integers:
    """Return the cell of each entropy, from 0."""
    return np.searchsorted(_ENTROPY_BOUNDS, entropies, side="right")


def conformal_p(counts: Integers, cell: Integers, at_random: Floats) -> Floats:
    """Return the share of samples in higher cells, plus a random part of those in the same cell.

    If all samples of a stream are exchangeable, and each one is added to the counts after its
    p-value was computed, the p-values are independent and exactly uniform on [0, 1].

    Parameters
    ----------
    counts : ndarray of shape (..., n_cells), int
        Number of earlier samples in each cell.
    cell : ndarray of shape (...), int
        Cell of the new sample.
    at_random : ndarray of shape (...), in [0, 1]
        Uniform random numbers that break ties.

    Returns
    -------
    ndarray of shape (...), float64
        Small if the new sample is in a high cell.
    """
    until = np.cumsum(counts, axis=-1)
    where = cell[..., np.newaxis]
    higher = until[..., -1] - np.take_along_axis(until, where, axis=-1)[..., 0]
    same = np.take_along_axis(counts, where, axis=-1)[..., 0] + 1
    p: Floats = (higher + at_random * same) / (until[..., -1] + 1)
    return p
