"""Schedule prediction batches: small ones wait to be merged, too large ones are halved."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_epee._compat import is_out_of_memory

from .active_batch import ActiveBatch
from .batching import EncodedSamples
from .prediction_batches import BatchLimit


class Step(Protocol):
    """Interface of what embeds batches and runs layers, such as `LayerStep`."""

    def start(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> ActiveBatch:
        """Return some samples as an embedded batch."""
        ...

    def advance(self, active: ActiveBatch) -> ActiveBatch | None:
        """Run the next layer; return the samples that did not exit, None if all did."""
        ...


class BatchScheduler:
    """Run all samples of a call until they exit.

    A batch from which many samples have exited waits until other batches have reached the same
    layer, and is merged with them, because a layer takes hardly less time for a few samples than
    for a full batch.

    Parameters
    ----------
    step : Step
    limit : BatchLimit
        Maximum size of a batch.

    Notes
    -----
    A batch that does not fit in memory is split in halves; this warns once per call.
    """

    def __init__(self, step: Step, limit: BatchLimit) -> None:
        self._step = step
        self._limit = limit
        self._waiting: dict[int, list[ActiveBatch]] = {}
        self._warned = False

    def run(self, samples: EncodedSamples, batches: Iterable[NDArray[np.intp]]) -> None:
        """Run batches until all samples exit; each batch is given by the indices of its samples.

        Raises
        ------
        MemoryError
            If a single sample does not fit in memory.
        """
        for rows in batches:
            self._enter(samples, rows)
        self._drain()

    def _enter(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> None:
        """Embed a batch and run it until it is too small or done."""
        fitting = self._fitting(samples, rows)
        if fitting < len(rows):
            self._enter(samples, rows[:fitting])
            self._enter(samples, rows[fitting:])
            return
        active = None
        try:
            active = self._step.start(samples, rows)
        except (RuntimeError, MemoryError) as error:
            check_can_be_halved(error, len(rows))
        if active is not None:
            self._advance(active)
            return
        # Outside the `except` block, so that the tensors of the failed attempt have been freed.
        n_windows = len(rows) if samples.windows is None else int(samples.windows[rows].sum())
        self._make_room(len(rows), n_windows)
        for part in np.array_split(rows, 2):
            self._enter(samples, part)

    def _fitting(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> int:
        """Return the number of first samples of a batch that are within the limit; at least one."""
        most = self._limit.samples
        if most is None:
            return len(rows)
        if samples.windows is None:
            return min(most, len(rows))
        return max(1, int(np.searchsorted(samples.windows[rows].cumsum(), most, side="right")))

    def _drain(self) -> None:
        """Run the waiting batches, layer by layer."""
        while self._waiting:
            layer = min(self._waiting)
            for group in self._groups(self._waiting.pop(layer)):
                active = self._run_layer(ActiveBatch.merge(group))
                if active is not None:
                    self._waiting.setdefault(layer + 1, []).append(active)

    def _advance(self, active: ActiveBatch | None) -> None:
        """Run a batch until it is too small or done."""
        while active is not None:
            active = self._filled(active)
            if active is not None:
                active = self._run_layer(active)

    def _filled(self, active: ActiveBatch) -> ActiveBatch | None:
        """Return a batch, merged with waiting ones if it is too small; None if it has to wait."""
        if active.layer == 0 or not self._limit.is_underfilled(active.n_windows, active.width):
            return active
        waiting = self._waiting.setdefault(active.layer, [])
        group = [other for other in waiting if _are_alike(other.width, active.width)]
        width = max(part.width for part in [*group, active])
        n = active.n_windows + sum(part.n_windows for part in group)
        if self._limit.is_underfilled(n, width):
            waiting.append(active)
            return None
        self._waiting[active.layer] = [other for other in waiting if other not in group]
        return ActiveBatch.merge([*group, active])

    def _groups(self, waiting: list[ActiveBatch]) -> Iterator[list[ActiveBatch]]:
        """Group batches by length, so that padding costs less than merging saves."""
        group: list[ActiveBatch] = []
        for active in sorted(waiting, key=lambda part: -part.width):
            if group and not self._fits(active, group):
                yield group
                group = []
            group.append(active)
        if group:
            yield group

    def _fits(self, active: ActiveBatch, group: list[ActiveBatch]) -> bool:
        width = group[0].width
        padding = active.n_windows * (width - active.width)
        n = active.n_windows + sum(part.n_windows for part in group)
        wasteful = padding > self._limit.calls and not _are_alike(active.width, width)
        return n <= self._limit.size(width) and not wasteful

    def _run_layer(self, active: ActiveBatch) -> ActiveBatch | None:
        try:
            return self._step.advance(active)
        except (RuntimeError, MemoryError) as error:
            check_can_be_halved(error, len(active.rows))
        self._make_room(len(active.rows), active.n_windows)
        for half in active.halves():
            self._advance(half)
        return None

    def _make_room(self, n_samples: int, n_windows: int) -> None:
        torch.cuda.empty_cache()
        self._limit = self._limit.at_most(n_windows // 2)
        if not self._warned:
            self._warned = True
            warn_out_of_memory(n_samples)


def _are_alike(width: int, other: int) -> bool:
    """Return whether two lengths are so similar that padding to the longer one is negligible."""
    return max(width, other) <= 1.2 * min(width, other) + 2


def check_can_be_halved(error: Exception, size: int) -> None:
    """Return if halving the batch may avoid an error; raise it otherwise."""
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise MemoryError(
            "Out of memory in the prediction of a single sample. Set max_length or max_windows "
            "(texts) or image_size (images) lower and fit again, or predict on a device with more "
            "memory."
        ) from error


def warn_out_of_memory(size: int) -> None:
    """Warn that a batch is split in halves."""
    warnings.warn(
        f"The device ran out of memory with a prediction batch of {size} samples; continuing with "
        "half batches. Set predict_batch_size lower to avoid this.",
        RuntimeWarning,
        stacklevel=2,
    )
