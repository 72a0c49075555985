"""Size prediction batches, and split samples into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

# Positions (samples x padded length) of an automatic batch: enough rows for the matrix products to
# run at full speed, few enough to stay in a processor's caches.
AUTO_POSITIONS = {"cpu": 2048, "cuda": 16384}
# A GPU is to compute this many times as long as the calls of a layer take (docs/performance.md).
_AUTO_CALLS = 8
# With this many positions an automatic batch may end before a text much shorter than its longest.
_MIN_POSITIONS = 512
_ALIKE = 0.8
# Positions that a layer computes in the time that its calls take by themselves. On a GPU these are
# launches of kernels: of the size of BERT-base, on an H100, a millisecond of a thread.
_CALLS_ON_CPU = 64
_CALLS_ON_GPU = {torch.float32: 1024, torch.bfloat16: 8192}
# How many products of bfloat16 a multiprocessor makes in a second, over one of an H100, which has
# 132: by compute capability, from vendors' figures. Those not named make at least as many.
_MULTIPROCESSORS = 132
_BFLOAT16_RATES = {
    (8, 0): 0.4,
    (8, 6): 0.25,
    (8, 7): 0.25,
    (8, 9): 0.3,
    (12, 0): 0.25,
    (12, 1): 0.25,
}


@dataclass(frozen=True)
class BatchLimit:
    """How large a prediction batch may be.

    Parameters
    ----------
    samples : int, default=None
        At most this many samples; of long texts, windows.
    positions : int, default=None
        At most this many positions, padding included; a single sample may have more.
    calls : int, default=64
        Positions that take as long as the calls of a layer by themselves: so much padding is worth
        a batch less.
    """

    samples: int | None = None
    positions: int | None = None
    calls: int = _CALLS_ON_CPU

    def size(self, length: int) -> int:
        """Return the number of samples, or windows, of a length that fit."""
        sizes = []
        if self.samples is not None:
            sizes.append(self.samples)
        if self.positions is not None:
            sizes.append(self.positions // max(1, length))
        return max(1, min(sizes))

    def is_underfilled(self, n: int, length: int) -> bool:
        """Return whether a batch fills less than half of what it may."""
        return 2 * n <= self.size(length)

    def at_most(self, samples: int) -> BatchLimit:
        """Return this limit with fewer samples."""
        return replace(
            self, samples=samples if self.samples is None else min(samples, self.samples)
        )


def batch_limit(
    batch_size: int | str,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
    dtype: torch.dtype = torch.float32,
) -> BatchLimit:
    """Return what the ``predict_batch_size`` parameter means on a device.

    Parameters
    ----------
    batch_size : int or "auto"
        Samples per batch; ``"auto"`` sizes batches by positions instead.
    device : torch.device
    dtype : torch.dtype
        What the layers compute in.

    Returns
    -------
    BatchLimit
    """
    calls = calls_in_positions(device, dtype)
    if batch_size == "auto":
        positions = AUTO_POSITIONS.get(device.type, AUTO_POSITIONS["cuda"])
        if device.type == "cuda":
            positions = max(positions, _AUTO_CALLS * calls)
        return BatchLimit(positions=positions, calls=calls)
    return BatchLimit(samples=int(batch_size), calls=calls)


def calls_in_positions(device: torch.device, dtype: torch.dtype) -> int:
    """Return how many positions a layer computes in the time that its calls take."""
    if device.type != "cuda":
        return _CALLS_ON_CPU
    if dtype != torch.bfloat16:
        return _CALLS_ON_GPU[torch.float32]
    return int(_CALLS_ON_GPU[dtype] * _bfloat16_rate(device))


def _bfloat16_rate(device: torch.device) -> float:
    """Return how fast a GPU multiplies bfloat16 over an H100; 1 where there is no GPU to ask."""
    if not torch.cuda.is_available():
        return 1.0
    found = torch.cuda.get_device_properties(device)
    rate = _BFLOAT16_RATES.get((found.major, found.minor), 1.0)
    return rate * found.multi_processor_count / _MULTIPROCESSORS


def batches_by_length(
    lengths: NDArray[np.int64],
    limit: BatchLimit | int | str,
    windows: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.intp]]:
    """Split samples into batches of similar length, the longest first.

    Parameters
    ----------
    lengths : ndarray of shape (n,)
        Length of each sample in positions; of several windows, that of the longest.
    limit : BatchLimit, int or "auto"
        As `batch_limit` takes it, for a CPU.
    windows : ndarray of shape (n,), default=None
        Windows of each sample, all of which go into its batch and count there. None: one each.

    Yields
    ------
    ndarray of int
        Row numbers of one batch.
    """
    limit = limit if isinstance(limit, BatchLimit) else batch_limit(limit)
    if windows is None:
        order = np.argsort(-lengths, kind="stable")
        before = np.arange(len(order) + 1)
    else:
        order = np.lexsort((-windows, -lengths))
        # Windows of the samples before each.
        before = np.concatenate([[0], np.cumsum(windows[order])])
    least = max(_MIN_POSITIONS, 2 * limit.calls)
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        # A limit may be any integer, of more digits than an array's numbers have.
        most = int(before[start]) + min(limit.size(longest), int(before[-1]))
        wanted = before[start] + -(-least // longest)
        end = int(np.searchsorted(before, most, side="right")) - 1
        rows = order[start : max(start + 1, end)]
        if limit.samples is None:
            enough = int(np.searchsorted(before, wanted)) - start
            alike = np.count_nonzero(lengths[rows] >= _ALIKE * longest)
            rows = rows[: max(enough, alike)]
        yield rows
        start += len(rows)
