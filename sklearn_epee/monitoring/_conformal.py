"""Conformal p-values of a stream: how a sample ranks among all that came before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Bounds of the cells in which entropies are counted, narrow near 0, where most entropies of exits
# are. They must not depend on the samples, or the p-values would not be independent.
N_ENTROPY_CELLS = 256
_ENTROPY_BOUNDS = np.linspace(0.0, 1.0, N_ENTROPY_CELLS + 1)[1:-1] ** 3


def entropy_cells(entropies: Floats) -> Integers:
    """Return the cell of each entropy, from 0."""
    return np.searchsorted(_ENTROPY_BOUNDS, entropies, side="right")


def conformal_p(counts: Integers, cell: Integers, at_random: Floats) -> Floats:
    """Return the share of the samples in higher cells, a random part of the same cell included.

    If the new sample and those counted are exchangeable, the p-values of a stream are independent
    and uniform on [0, 1], exactly, each new sample being counted after its p-value.

    Parameters
    ----------
    counts : ndarray of shape (..., n_cells), int
        Samples so far, by cell.
    cell : ndarray of shape (...), int
        Of the new sample.
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
