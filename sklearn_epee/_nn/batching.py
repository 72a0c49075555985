"""Encoded samples, and training batches of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from .batch_layout import ENTITY_POSITIONS, WINDOWS, rows_of_samples

# Samples are sorted by length within pools of this many batches: this reduces padding, but keeps
# batches random.
POOL_BATCHES = 32


class EncodedSamples(Protocol):
    """Interface of encoded samples (token ids or pixels), without padding.

    Attributes
    ----------
    lengths : ndarray of shape (n,), int64
        Number of positions of each sample; for a long text, of its longest window.
    windows : ndarray of shape (n,), int64, or None
        Number of windows of each sample; None if all have one.
    """

    lengths: NDArray[np.int64]
    windows: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the padded input tensors of some samples."""
        ...


class EncodedTexts:
    """Token ids of texts, ragged, with optional segment ids.

    Parameters
    ----------
    ids : ndarray of shape (total length,), int32
        Concatenated token ids of all rows, including special tokens.
    lengths : ndarray of shape (w,), int64
        Number of tokens of each row, at least 1.
    segments : ndarray of shape (total length,), int8, or None
        Segment ids, if the backbone reads them.
    pad_id : int
        Token id of padding, which is always masked.
    windows : ndarray of shape (n,), int64, or None, default=None
        Number of rows (windows) of each text. None: one each.
    entity_positions : ndarray of shape (n, 2), int64, or None, default=None
        Positions of the opening marks of both entities of each text.
    """

    def __init__(  # noqa: PLR0917 - the parts of rows
        self,
        ids: NDArray[np.int32],
        lengths: NDArray[np.int64],
        segments: NDArray[np.int8] | None,
        pad_id: int,
        windows: NDArray[np.int64] | None = None,
        entity_positions: NDArray[np.int64] | None = None,
    ) -> None:
        if windows is not None and (windows == 1).all():
            windows = None
        self.windows = windows
        self._row_lengths = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.lengths = (
            lengths
            if windows is None
            else np.maximum.reduceat(lengths, np.cumsum(windows) - windows)
        )
        self._ids = ids
        self._segments = segments
        self._pad_id = pad_id
        self._entity_positions = entity_positions

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the tensors of some texts, padded on the right to the longest of them.

        If some texts have several windows, the tensors have one row per window, text after text,
        and ``"windows"`` contains the number of windows of each text.
        """
        samples, windows = rows, None
        if self.windows is not None:
            windows, rows = self.windows[rows], rows_of_samples(self.windows, rows)
        lengths = self._row_lengths[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]
        source = (self._starts[rows][:, None] + np.arange(lengths.max()))[mask]
        tensors = {
            "input_ids": _filled(mask, self._ids[source], self._pad_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        if self._segments is not None:
            tensors["token_type_ids"] = _filled(mask, self._segments[source], 0)
        if windows is not None and (windows > 1).any():
            tensors[WINDOWS] = torch.from_numpy(windows)
        if self._entity_positions is not None:
            tensors[ENTITY_POSITIONS] = torch.from_numpy(self._entity_positions[samples])
        return tensors


class EncodedImages:
    """Images that are converted to pixel tensors batch by batch.

    Parameters
    ----------
    images : ndarray of shape (n, h, w, c) or list of ndarrays of shape (h, w, c)
        uint8 or float32.
    transform : callable
        Converts some images to a tensor (n, c, h, w) of normalized pixels. Called for every batch,
        because a data set prepared at a backbone's size can be a thousand times as large.
    n_positions : int
        Number of positions of an image in the backbone.
    """

    def __init__(
        self,
        images: NDArray[Any] | list[NDArray[Any]],
        transform: Callable[[Sequence[NDArray[Any]]], Tensor],
        n_positions: int,
    ) -> None:
        self._images = images
        self._transform = transform
        self.windows = None
        self.lengths = np.full(len(images), n_positions, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the pixels of some images."""
        return {"pixel_values": self._transform([self._images[row] for row in rows])}


# Key of the sample weights in a training batch.
SAMPLE_WEIGHT = "sample_weight"
# Key of the indices, within the labels of a batch, of those whose inputs a process reads.
PLACES = "places"


class LabelledSamples(Dataset):
    """Encoded samples with labels and weights, as the training loop reads them.

    Parameters
    ----------
    samples : EncodedSamples
    labels : ndarray of shape (n,) or, with several tasks, (n, T), int64
        Class indices 0..K-1.
    weights : ndarray of shape (n,), float32
        Weight of each sample in the loss, 1 on average.
    """

    def __init__(
        self, samples: EncodedSamples, labels: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> None:
        self.samples = samples
        self.labels = torch.from_numpy(labels)
        self.weights = torch.from_numpy(weights)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> int:
        # Only the row number: a batch is gathered and padded at once, in `collate`.
        return row

    def collate(self, rows: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the training batch of some row numbers: inputs with their weights, and labels.

        Weights are among the inputs, under `SAMPLE_WEIGHT`: skorch's scoring uses the second part
        of a batch as the labels.
        """
        index = np.asarray(rows)
        numbers = self.label_numbers(index)
        weights = {SAMPLE_WEIGHT: self.weights[numbers]}
        return self.samples.batch(index) | weights, self.labels[numbers]

    def collate_share(
        self, rows: list[int], number: int, count: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of every ``count``-th row, and the labels of all.

        Parameters
        ----------
        rows : list of int
            Rows of a batch that is split over processes.
        number : int
            Number of the process, from 0.
        count : int
            Number of processes.

        Returns
        -------
        inputs : dict of str to Tensor
            Inputs of the rows of this process, with `PLACES`, the indices of their labels within
            the batch. A process without any row reads the first one, with indices of -1.
        labels : Tensor
            Labels of the whole batch.
        """
        index = np.asarray(rows)
        own = np.arange(len(rows))[number::count]
        read = own if len(own) else np.arange(1)
        inputs, _ = self.collate(index[read].tolist())
        places = rows_of_samples(self.label_counts(index), read)
        if not len(own):
            places = np.full_like(places, -1)
        labels = self.labels[self.label_numbers(index)]
        return inputs | {PLACES: torch.from_numpy(places)}, labels

    def label_counts(self, index: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the number of rows of labels of each of some samples."""
        return np.ones(len(index), dtype=np.int64)

    def label_numbers(self, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the labels of some samples, sample after sample."""
        return index


class LengthGroupedSampler(Sampler[list[int]]):
    """Random batches of samples of similar length, new in every epoch.

    Samples are shuffled and split into pools of `POOL_BATCHES` batches. Each pool is sorted by
    length and split into batches, and the batches of all pools are shuffled.

    Parameters
    ----------
    lengths : ndarray of shape (n,)
        Length of each sample in positions.
    batch_size : int
        Maximum number of samples per batch. Batch sizes differ by at most one: a last batch of two
        or three samples would otherwise get a step with the full learning rate.
    rng : numpy.random.Generator
        Used once per epoch.
    """

    def __init__(
        self, lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
    ) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._rng = rng

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = np.array_split(self._rng.permutation(len(self._lengths)), len(self))
        sorted_batches: list[list[int]] = []
        for start in range(0, len(batches), POOL_BATCHES):
            sorted_batches.extend(self._sort_pool(batches[start : start + POOL_BATCHES]))
        return iter([sorted_batches[i] for i in self._rng.permutation(len(batches))])

    def _sort_pool(self, batches: list[NDArray[np.intp]]) -> list[list[int]]:
        """Return batches of the same sizes and samples, with samples of similar length together."""
        pool = np.concatenate(batches)
        pool = pool[np.argsort(self._lengths[pool], kind="stable")]
        ends = np.cumsum([len(batch) for batch in batches])
        return [part.tolist() for part in np.split(pool, ends[:-1])]


def positions_of(samples: EncodedSamples) -> NDArray[np.int64]:
    """Return the number of positions of each sample in a batch, over all its windows."""
    return samples.lengths if samples.windows is None else samples.lengths * samples.windows


def parts_of_batch(
    inputs: Mapping[str, Tensor], most: int
) -> list[tuple[dict[str, Tensor], slice]]:
    """Split a training batch of long texts into parts that need as much memory as short texts.

    Parameters
    ----------
    inputs : mapping of str to Tensor
    most : int
        Maximum number of windows of a part; a single text may have more.

    Returns
    -------
    list of (dict, slice)
        Inputs of consecutive samples, and the slice of these samples. A single part if no text has
        several windows.
    """
    if WINDOWS not in inputs:
        return [(dict(inputs), slice(None))]
    windows = inputs[WINDOWS].cpu().numpy()
    parts = []
    ends = np.cumsum(windows)
    for samples in _consecutive(windows, most):
        rows = slice(ends[samples.start] - windows[samples.start], ends[samples.stop - 1])
        width = int(inputs["attention_mask"][rows].sum(1).max())
        part = {
            name: tensor[samples] if len(tensor) == len(windows) else tensor[rows, :width]
            for name, tensor in inputs.items()
            if name != WINDOWS or (windows[samples] > 1).any()
        }
        parts.append((part, samples))
    return parts


def _consecutive(windows: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Yield slices of consecutive samples with at most `most` windows; at least one sample."""
    start = total = 0
    for i, n in enumerate(windows.tolist()):
        if i > start and total + n > most:
            yield slice(start, i)
            start, total = i, 0
        total += n
    yield slice(start, len(windows))


def _filled(mask: NDArray[np.bool_], values: NDArray[Any], fill: int) -> Tensor:
    """Return a tensor with values at the True positions of a mask, and ``fill`` elsewhere."""
    padded = np.full(mask.shape, fill, dtype=np.int64)
    padded[mask] = values
    return torch.from_numpy(padded)
