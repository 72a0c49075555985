"""Blocks of early layers at which enough samples exit for a test of the risk.

Every early layer is in one block. A layer of a larger block at which enough samples exit is also
tested separately.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.sweep import Sweep

Mask = NDArray[np.bool_]

_MIN_VARIANCE = 0.1  # divided by the number of samples


def exit_blocks(counts: NDArray[np.number], needed: float) -> Integers:
    """Return the block of each early layer, from 0.

    Successive layers are combined, starting with the first, until enough samples exit at them. If
    too few are left at the end, those layers belong to the last block.

    Parameters
    ----------
    counts : ndarray of shape (n_layers - 1, ...)
        Number of samples that exit at each layer except for the last.
    needed : float
        Smallest number of samples of a block.

    Returns
    -------
    ndarray of the same shape, int64
    """
    blocks = np.zeros(counts.shape, dtype=np.int64)
    current, found = np.zeros(counts.shape[1:], dtype=np.int64), np.zeros(counts.shape[1:])
    for layer, here in enumerate(counts):
        blocks[layer] = current
        found = found + here
        is_full = found >= needed
        current, found = current + is_full, np.where(is_full, 0.0, found)
    return np.minimum(blocks, np.maximum(current - 1, 0))


def layers_to_test(exits: Integers, n_layers: int, needed: float) -> list[Integers]:
    """Return the sets of layers to test, counted from 1, given the exit layers of samples.

    These are the blocks, and single layers of larger blocks at which enough samples exit.
    """
    counts = np.bincount(exits, minlength=n_layers + 1)[1:n_layers]
    blocks = exit_blocks(counts, needed)
    whole = [np.flatnonzero(blocks == block) + 1 for block in np.unique(blocks)]
    in_larger = np.concatenate([layers for layers in whole if len(layers) > 1] or [whole[0][:0]])
    return whole + [np.array([layer]) for layer in in_larger if counts[layer - 1] >= needed]


def block_name(layers: Integers) -> str:
    """Return the name of a block, such as "2" or "2-4"."""
    first, last = int(layers[0]), int(layers[-1])
    return str(first) if first == last else f"{first}-{last}"


def block_evidence(
    sweep: Sweep, losses: Floats, concerned: Mask, bound: float, needed: float
) -> Floats:
    """Return by how many standard errors the risk is below a bound, for every tau.

    This is the smallest number over all blocks, and single layers at which enough samples exit.

    Parameters
    ----------
    sweep : Sweep
    losses : ndarray of shape (n_samples, n_layers)
    concerned : ndarray of shape (n_samples,), bool
    bound : float
    needed : float
        Smallest number of samples of a block.

    Returns
    -------
    ndarray of shape (n_taus,), float64
        Infinite where no sample exits early.
    """
    n_early = losses.shape[1] - 1
    ours = np.where(concerned[:, np.newaxis], losses, 0.0)
    ones = np.repeat(concerned[:, np.newaxis].astype(np.float64), losses.shape[1], axis=1)
    counts, sums, squares = (
        np.stack([sweep.total(_only(values, layer)) for layer in range(n_early)])
        for values in (ones, ours, ours**2)
    )
    blocks = exit_blocks(counts, needed)
    layers = np.arange(n_early)[:, np.newaxis]
    together = [blocks == block for block in range(int(blocks.max(initial=0)) + 1)]
    alone = [(layers == layer) & (counts >= needed) for layer in range(n_early)]
    evidence = np.full(len(sweep.taus), np.inf)
    for within in [*together, *alone]:
        n, total, square = (np.where(within, x, 0.0).sum(axis=0) for x in (counts, sums, squares))
        some = np.maximum(n, 1)
        mean = total / some
        variance = np.maximum(square / some - mean**2, 0) + _MIN_VARIANCE / some
        ours_here = (bound - mean) / np.sqrt(variance / some)
        evidence = np.where(n > 0, np.minimum(evidence, ours_here), evidence)
    return evidence


def _only(values: Floats, layer: int) -> Floats:
    """Return values at one layer, and 0 at all others."""
    alone = np.zeros_like(values)
    alone[:, layer] = values[:, layer]
    return alone
