"""Layout of a batch: which rows belong to which sample, and which positions the heads read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Keys of a batch. For each text, the positions of its entities' opening marks, (n, 2).
ENTITY_POSITIONS = "entity_positions"
# Number of windows of each text, (n,).
WINDOWS = "windows"
# For each word, text after text, its row and the position of its first piece, (w,).
WORD_ROWS = "word_rows"
WORD_POSITIONS = "word_positions"
# For each position, the index of its word in its text, (n, t); -1 if it belongs to no word.
PIECE_WORDS = "piece_words"
# For each sample, the additional input of its heads, (n, c).
CONTEXT = "context"
_LAYOUT_INPUTS = frozenset({
    ENTITY_POSITIONS, WINDOWS, WORD_ROWS, WORD_POSITIONS, PIECE_WORDS, CONTEXT,
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """Which positions of a batch are real, which the heads read, and to which sample they belong.

    A sample has one row of hidden states, or several consecutive ones: its windows.

    Parameters
    ----------
    mask : Tensor of shape (w, t), bool
        True at real positions, which are the first ones of each row.
    read : Tensor of shape (w, r), int64, default=None
        Positions that the heads read, in this order; None for heads that read all positions.
    windows : ndarray of shape (n,), int64, default=None
        Number of rows of each of the n samples. None: one each.
    context : Tensor of shape (n, c), float32, default=None
        Additional input of the heads of all layers: the last state of another backbone.
    """

    mask: Tensor
    read: Tensor | None = None
    windows: NDArray[np.int64] | None = None
    context: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of positions per row, including padding."""
        return self.mask.shape[1]

    @property
    def n_rows(self) -> int:
        """Number of rows of all samples."""
        return self.mask.shape[0]

    @cached_property
    def is_padded(self) -> bool:
        """Whether there may be padding; always on a GPU, where reading the mask synchronizes."""
        return self.mask.device.type != "cpu" or not bool(self.mask.all())

    def rows_read(self, hidden: Tensor) -> Tensor:
        """Return the hidden states that the heads read, (w, t, d) -> (w, r, d)."""
        if self.read is None:
            raise RuntimeError("The heads of this batch read all positions.")
        samples = torch.arange(len(self.read), device=hidden.device).unsqueeze(1)
        return hidden[samples, self.read]

    def rows_of(self, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the rows of some samples, sample after sample."""
        if self.windows is None:
            return samples
        return rows_of_samples(self.windows, samples)

    def predicted(self, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the predictions of some samples: here, the samples themselves."""
        return samples

    def take(
        self, samples: NDArray[np.intp], index: Tensor, width: int | None = None
    ) -> BatchLayout:
        """Return the layout of some samples.

        Parameters
        ----------
        samples : ndarray of int
            Their indices.
        index : Tensor of int64
            The indices of their rows, `rows_of`, on the device of the batch.
        width : int, default=None
            Number of positions to keep; None keeps all.
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
        """Merge the layouts of several batches into one, padded to the widest."""
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
        """Index of the sample that each row belongs to, (w,)."""
        windows = np.ones(self.n_rows, np.int64) if self.windows is None else self.windows
        owners = np.repeat(np.arange(len(windows)), windows)
        return torch.from_numpy(owners).to(self.mask.device)

    def summed(self, rows: Tensor) -> Tensor:
        """Return the sums over each sample's windows, (w, ...) -> (n, ...)."""
        if self.windows is None:
            return rows
        # Summed in the order of the windows, so that a sum does not depend on other samples.
        return rows.new_zeros((len(self.windows), *rows.shape[1:])).index_add(0, self._owners, rows)

    def repeated(self, rows: Tensor) -> Tensor:
        """Return the row of each sample once per window, (n, ...) -> (w, ...)."""
        return rows if self.windows is None else rows.index_select(0, self._owners)

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
    """Return the indices of the rows of some samples, given the number of windows of all samples.

    Parameters
    ----------
    windows : ndarray of shape (n,), int64
        Number of windows of each sample; windows of a sample are consecutive rows.
    samples : ndarray of int
        Indices of samples, in any order.

    Returns
    -------
    ndarray of int
        Sample after sample.
    """
    return ranges((np.cumsum(windows) - windows)[samples], windows[samples])


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return concatenated ranges, given their starts and lengths."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def stacked(parts: Sequence[Tensor], width: int) -> Tensor:
    """Concatenate tensors (n, t, ...), with the second dimension padded with zeros."""
    if all(part.shape[1] == width for part in parts):
        return torch.cat(list(parts))
    ends = np.cumsum([len(part) for part in parts])
    whole = parts[0].new_zeros((int(ends[-1]), width, *parts[0].shape[2:]))
    for part, end in zip(parts, ends, strict=True):
        whole[end - len(part) : end, : part.shape[1]] = part
    return whole


def backbone_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of the backbone in a batch: everything except the layout."""
    return {name: part for name, part in batch.items() if name not in _LAYOUT_INPUTS}
