"""Which rows of a batch belong to which sample, and which positions the heads read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of each text of a batch, the positions of its entities' opening marks, (n, 2).
ENTITY_POSITIONS = "entity_positions"
# Of each text of a batch, how many of the rows are its windows, (n,).
WINDOWS = "windows"
# Of each word of a batch, text after text, its row and the position of its first piece, (w,).
WORD_ROWS = "word_rows"
WORD_POSITIONS = "word_positions"
# Of each position of a batch, the number of its word in its text, (n, t); -1 where it has none.
PIECE_WORDS = "piece_words"
# Of each sample of a batch, what its heads read beside their own layer, (n, c).
CONTEXT = "context"
_LAYOUT_INPUTS = frozenset({
    ENTITY_POSITIONS, WINDOWS, WORD_ROWS, WORD_POSITIONS, PIECE_WORDS, CONTEXT,
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """Which positions of a batch are real, which of them the heads read, and whose they are.

    A sample is one row of hidden states, or several: its windows, one after the other.

    Parameters
    ----------
    mask : Tensor of shape (w, t), bool
        True at real positions; each row's come first.
    read : Tensor of shape (w, r), int64, default=None
        Positions that the heads read, in their order; None for heads that read all of them.
    windows : ndarray of shape (n,), int64, default=None
        How many of the w rows each of the n samples has. None: one each.
    context : Tensor of shape (n, c), float32, default=None
        What the heads of every layer read beside it: the state that another backbone ended in.
    """

    mask: Tensor
    read: Tensor | None = None
    windows: NDArray[np.int64] | None = None
    context: Tensor | None = None

    @property
    def width(self) -> int:
        """Positions per row, padding included."""
        return self.mask.shape[1]

    @property
    def n_rows(self) -> int:
        """Rows of all samples."""
        return self.mask.shape[0]

    def rows_read(self, hidden: Tensor) -> Tensor:
        """Return the hidden states that the heads read, (w, t, d) -> (w, r, d)."""
        if self.read is None:
            raise RuntimeError("The heads of this batch read all positions.")
        samples = torch.arange(len(self.read), device=hidden.device).unsqueeze(1)
        return hidden[samples, self.read]

    def rows_of(self, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the numbers of the rows of some samples, sample after sample."""
        if self.windows is None:
            return samples
        return rows_of_samples(self.windows, samples)

    def predicted(self, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the numbers of what is predicted of some samples: the samples themselves."""
        return samples

    def take(
        self, samples: NDArray[np.intp], index: Tensor, width: int | None = None
    ) -> BatchLayout:
        """Return the layout of some samples.

        Parameters
        ----------
        samples : ndarray of int
            Their numbers.
        index : Tensor of int64
            The numbers of their rows, `rows_of`, where the batch is.
        width : int, default=None
            Positions to keep; None keeps all.
        """
        mask = self.mask if width is None else self.mask[:, :width]
        windows = None if self.windows is None else self.windows[samples]
        return BatchLayout(
            mask.index_select(0, index),
            None if self.read is None else self.read.index_select(0, index),
            None if windows is None or (windows == 1).all() else windows,
            self._context_of(samples, index),
        )

    def _context_of(self, samples: NDArray[np.intp], index: Tensor) -> Tensor | None:
        if self.context is None:
            return None
        if self.windows is not None:
            index = torch.from_numpy(samples).to(self.context.device)
        return self.context[index]

    @classmethod
    def merge(cls, parts: Sequence[BatchLayout]) -> BatchLayout:
        """Return the layouts of several batches as one, padded to the widest."""
        width = max(part.width for part in parts)
        reads = [part.read for part in parts if part.read is not None]
        mask = stacked([part.mask for part in parts], width)
        windows = None
        if any(part.windows is not None for part in parts):
            windows = np.concatenate([
                np.ones(part.n_rows, np.int64) if part.windows is None else part.windows
                for part in parts
            ])  # fmt: skip
        contexts = [part.context for part in parts if part.context is not None]
        return cls(
            mask,
            torch.cat(reads) if reads else None,
            windows,
            torch.cat(contexts) if contexts else None,
        )

    # ------------------------------------------------------------------- from windows to samples

    @cached_property
    def _owners(self) -> Tensor:
        """The number of the sample that each row is a window of, (w,)."""
        windows = np.ones(self.n_rows, np.int64) if self.windows is None else self.windows
        owners = np.repeat(np.arange(len(windows)), windows)
        return torch.from_numpy(owners).to(self.mask.device)

    def summed(self, rows: Tensor) -> Tensor:
        """Return the sums over each sample's windows, (w, ...) -> (n, ...)."""
        if self.windows is None:
            return rows
        # In the order of the windows: a sum depends on no other sample of the batch.
        return rows.new_zeros((len(self.windows), *rows.shape[1:])).index_add(0, self._owners, rows)

    def averaged(self, rows: Tensor) -> Tensor:
        """Return the means over each sample's windows, (w, d) -> (n, d), summed in float32."""
        if self.windows is None:
            return rows
        counts = torch.from_numpy(self.windows).to(rows.device).unsqueeze(1)
        return (self.summed(rows.float()) / counts).to(rows)

    def shares(self, scores: Tensor) -> Tensor:
        """Return the softmax of the rows' scores within each sample, (w,) -> (w,)."""
        if self.windows is None:
            return torch.ones_like(scores)
        lowest = scores.new_full((len(self.windows),), -torch.inf)
        top = lowest.scatter_reduce(0, self._owners, scores.detach(), "amax")
        powers = torch.exp(scores - top[self._owners])
        return powers / self.summed(powers)[self._owners]


def rows_of_samples(windows: NDArray[np.int64], samples: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the numbers of the rows of some samples, each of which has so many windows.

    Parameters
    ----------
    windows : ndarray of shape (n,), int64
        Windows of each sample, which lie one after the other.
    samples : ndarray of int
        Numbers of samples, in any order.

    Returns
    -------
    ndarray of int
        Sample after sample.
    """
    return ranges((np.cumsum(windows) - windows)[samples], windows[samples])


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return consecutive numbers from each of some starts, so many of each, range after range."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def stacked(parts: Sequence[Tensor], width: int) -> Tensor:
    """Return tensors (n, t, ...) as one, their second dimension filled up with zeros."""
    if all(part.shape[1] == width for part in parts):
        return torch.cat(list(parts))
    ends = np.cumsum([len(part) for part in parts])
    whole = parts[0].new_zeros((int(ends[-1]), width, *parts[0].shape[2:]))
    for part, end in zip(parts, ends, strict=True):
        whole[end - len(part) : end, : part.shape[1]] = part
    return whole


def backbone_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a backbone reads of a batch: all but what describes its layout."""
    return {name: part for name, part in batch.items() if name not in _LAYOUT_INPUTS}
