"""A subset of the positions of a batch, with a different number in each sample."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RowSubset"]


class RowSubset(NamedTuple):
    """Positions of R rows in a batch (n, t), sample after sample.

    Matrix products are computed for the rows without padding, (R, d). Attention needs them sample
    by sample, padded to the largest number of rows r of a sample.
    """

    flat: Tensor
    """(R,), int64: indices among the n * t positions of the batch."""
    filled: Tensor
    """(R,), int64: indices among the n * r padded rows of the attention."""
    positions: Tensor
    """(n, r), int64: positions in the sequence, 0 for padding."""

    @classmethod
    def of_mask(cls, chosen: NDArray[np.bool_], device: torch.device) -> Self:
        """Return the rows at which a mask is True.

        Parameters
        ----------
        chosen : ndarray of shape (n, t), bool
        device : torch.device
        """
        samples, positions = np.nonzero(chosen)
        return cls.of_positions(samples, positions, chosen.shape, device)

    @classmethod
    def of_positions(
        cls,
        samples: NDArray[np.intp],
        positions: NDArray[np.int64],
        shape: tuple[int, ...],
        device: torch.device,
    ) -> Self:
        """Return rows, given their samples (in ascending order) and positions.

        Parameters
        ----------
        samples, positions : ndarrays of shape (R,), int
        shape : (n, t)
        device : torch.device
        """
        n, t = shape
        counts = np.bincount(samples, minlength=n)
        most = int(counts.max(initial=0))
        before = np.cumsum(counts) - counts
        filled = samples * most + np.arange(len(samples)) - before[samples]
        grid = np.zeros(n * most, np.int64)
        grid[filled] = positions
        parts = (samples * t + positions, filled, grid.reshape(n, most))
        return cls(*(torch.from_numpy(part).to(device, non_blocking=True) for part in parts))

    def read(self, hidden: Tensor) -> Tensor:
        """Return the rows of a batch, (n, t, d) -> (R, d)."""
        return hidden.flatten(0, 1).index_select(0, self.flat)

    def written(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Return a batch (n, t, d) in which the rows are replaced by `rows`, (R, d)."""
        return hidden.flatten(0, 1).index_copy(0, self.flat, rows).view(hidden.shape)

    def fill_up(self, rows: Tensor) -> Tensor:
        """Return the rows sample by sample, padded with zeros, (R, w) -> (n, r, w)."""
        n, most = self.positions.shape
        together = rows.new_zeros((n * most, rows.shape[-1]))
        return together.index_copy_(0, self.filled, rows).view(n, most, -1)

    def pick(self, filled: Tensor) -> Tensor:
        """Return the rows without padding, (n, r, w) -> (R, w)."""
        return filled.flatten(0, 1).index_select(0, self.filled)
