"""Size prediction batches, and split samples into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

# Positions (samples x padded length) of an automatic batch: enough rows for matrix products to run
# at full speed, few enough to stay in the processor's caches.
AUTO_POSITIONS = {"cpu": 2048, "cuda": 16384}
# On a GPU, the computation of a layer should take at least this many times as long as the overhead
# of its calls (docs/performance.md).
_AUTO_CALLS = 8
# From this number of positions on, an automatic batch ends at the first text that is shorter than
# this share of its longest one.
_MIN_POSITIONS = 512
_ALIKE = 0.8
# Number of positions that a layer computes in the time of the overhead of its calls. On a GPU, this
# is the time of kernel launches: about a millisecond for a layer of BERT-base and an H100.
_CALLS_ON_CPU = 64
_CALLS_ON_GPU = {torch.float32: 1024, torch.bfloat16: 8192}
# bfloat16 throughput of a multiprocessor relative to that of an H100, which has 132 of them, by
# compute capability, from vendors' figures. Others have at least the same throughput.
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
    """Maximum size of a prediction batch.

    Parameters
    ----------
    samples : int, default=None
        Maximum number of samples; for long texts, of windows.
    positions : int, default=None
        Maximum number of positions, including padding; a single sample may have more.
    calls : int, default=64
        Number of positions that take as long as the overhead of a layer's calls; up to this amount
        of padding, merging two batches saves time.
    """

    samples: int | None = None
    positions: int | None = None
    calls: int = _CALLS_ON_CPU

    def size(self, length: int) -> int:
        """Return the maximum number of samples, or windows, of a length."""
        sizes = []
        if self.samples is not None:
            sizes.append(self.samples)
        if self.positions is not None:
            sizes.append(self.positions // max(1, length))
        return max(1, min(sizes))

    def is_underfilled(self, n: int, length: int) -> bool:
        """Return whether a batch has at most half of the maximum size."""
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
    """Return the batch limit of the ``predict_batch_size`` parameter on a device.

    Parameters
    ----------
    batch_size : int or "auto"
        Samples per batch; ``"auto"`` limits positions instead.
    device : torch.device
    dtype : torch.dtype
        Data type of the layers.

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
    """Return the number of positions that a layer computes in the time of its call overhead."""
    if device.type != "cuda":
        return _CALLS_ON_CPU
    if dtype != torch.bfloat16:
        return _CALLS_ON_GPU[torch.float32]
    return int(_CALLS_ON_GPU[dtype] * _bfloat16_rate(device))


def _bfloat16_rate(device: torch.device) -> float:
    """Return the bfloat16 throughput of a GPU relative to an H100; 1 if there is no GPU."""
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
        Length of each sample in positions; with several windows, of the longest one.
    limit : BatchLimit, int or "auto"
        An integer or "auto" is resolved by `batch_limit`, for a CPU.
    windows : ndarray of shape (n,), default=None
        Number of windows of each sample, all of which are in the same batch. None: one each.

    Yields
    ------
    ndarray of int
        Row numbers of one batch.
    """
    if len(lengths) == 1:
        yield np.zeros(1, np.intp)
        return
    limit = limit if isinstance(limit, BatchLimit) else batch_limit(limit)
    if windows is None:
        order = np.argsort(-lengths, kind="stable")
        before = np.arange(len(order) + 1)
    else:
        order = np.lexsort((-windows, -lengths))
        # Number of windows of all samples before each sample.
        before = np.concatenate([[0], np.cumsum(windows[order])])
    least = max(_MIN_POSITIONS, 2 * limit.calls)
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        # A limit set by the user may exceed the range of int64.
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
