"""Continuous batching: new samples can enter between two layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from .active_batch import ActiveBatch
from .batch_scheduler import Step, check_can_be_halved, warn_out_of_memory
from .batching import EncodedSamples
from .prediction_batches import BatchLimit, batches_by_length

# Maximum number of full batches that wait before the first layer. This is enough to find samples of
# similar length, so that batches have little padding.
_ENTERED_BATCHES = 4


@dataclass(frozen=True, eq=False)
class Group:
    """Batches that wait at the same layer and can be run as one.

    Attributes
    ----------
    parts : list of ActiveBatch
    oldest : int
        Number of layer runs that the scheduler had done when the oldest sample entered.
    """

    parts: list[ActiveBatch]
    oldest: int

    @property
    def layer(self) -> int:
        """Number of layers that have been run for these samples."""
        return self.parts[0].layer


def groups_by_length(
    waiting: Sequence[ActiveBatch], limit: BatchLimit
) -> Iterator[list[ActiveBatch]]:
    """Group batches at one layer so that the padding costs less than running them separately.

    Parameters
    ----------
    waiting : sequence of ActiveBatch
    limit : BatchLimit

    Yields
    ------
    list of ActiveBatch
        The longest first.
    """
    group: list[ActiveBatch] = []
    n = filled = width = 0
    for active in sorted(waiting, key=lambda part: -part.width):
        n += active.n_windows
        filled += active.n_windows * active.width
        padding = n * width - filled
        if group and (n > limit.size(width) or padding > limit.calls):
            yield group
            group, n, filled = [], active.n_windows, active.n_windows * active.width
        if not group:
            width = active.width
        group.append(active)
    if group:
        yield group


Choice = Callable[[Sequence[Group], int], Group]


class SampleTooLargeError(MemoryError):
    """A single sample does not fit in memory; the scheduler has dropped it.

    Attributes
    ----------
    slots : ndarray of shape (1,)
        Slot of the sample.
    """

    def __init__(self, message: str, slots: NDArray[np.intp]) -> None:
        super().__init__(message)
        self.slots = slots


class SampleFailedError(RuntimeError):
    """A sample cannot be run; the scheduler has dropped it. The reason is the `__cause__`.

    Attributes
    ----------
    slots : ndarray of shape (1,)
        Slot of the sample.
    """

    def __init__(self, slots: NDArray[np.intp]) -> None:
        super().__init__("a sample could not be read")
        self.slots = slots


def catch_up(groups: Sequence[Group], now: int, most: int) -> Group:
    """Return the group to run next: the one at the lowest layer.

    Samples at low layers catch up with those that wait at higher ones, and are merged with them;
    most samples exit at low layers. To bound the waiting time, the oldest group goes first once
    its oldest sample entered at least `most` runs ago. `python -m benchmarks.serving_order`
    compares this order with others.

    Parameters
    ----------
    groups : sequence of Group
        At least one.
    now : int
        Number of layer runs so far.
    most : int
        Maximum age, in layer runs, at which a sample is still overtaken. With 0, the oldest
        samples always go first.

    Returns
    -------
    Group
    """
    first = min(groups, key=lambda group: (group.oldest, -group.layer))
    if now - first.oldest >= most:
        return first
    return min(groups, key=lambda group: (group.layer, group.oldest))


class ContinuousScheduler:
    """Run samples until they exit, one layer of one batch at a time; new ones can enter in between.

    `BatchScheduler` does the same for a call whose samples are all known from the start.

    Parameters
    ----------
    step : Step
        Runs a batch through a layer.
    limit : BatchLimit
        Maximum size of a batch.
    choose : callable
        Takes the waiting groups and the number of layer runs so far, and returns the group to run.

    Attributes
    ----------
    n_samples : int
        Number of samples that have entered and not exited.
    n_runs : int
        Number of layer runs so far, each of one batch.
    n_samples_run : int
        Number of samples in these batches, summed over the runs.

    Notes
    -----
    Not thread-safe. A batch that does not fit in memory is split in halves; this warns once.
    """

    def __init__(self, step: Step, limit: BatchLimit, choose: Choice) -> None:
        self._step = step
        self._limit = limit
        self._choose = choose
        self._waiting: dict[int, list[ActiveBatch]] = {}
        # Number of layer runs before the sample in each slot entered.
        self._entered = np.zeros(0, np.int64)
        self._warned = False
        self.n_runs = 0
        self.n_samples_run = 0

    @property
    def n_samples(self) -> int:
        """Number of samples that have entered and not exited."""
        return sum(len(part.rows) for parts in self._waiting.values() for part in parts)

    @property
    def takes_more(self) -> bool:
        """Whether there is room for more samples before the first layer."""
        entered = self._waiting.get(0, [])
        if not entered:
            return True
        batches = sum(part.n_windows / self._limit.size(part.width) for part in entered)
        return batches < _ENTERED_BATCHES

    def enter(self, samples: EncodedSamples, slots: NDArray[np.intp]) -> None:
        """Add samples; if this fails, none of them is added.

        Parameters
        ----------
        samples : EncodedSamples
        slots : ndarray of shape (n,)
            Number of each sample in the exit rule.

        Raises
        ------
        MemoryError
            If a single sample does not fit in memory.
        """
        if slots.max() >= len(self._entered):
            self._entered = np.resize(self._entered, 2 * int(slots.max()) + 1)
        self._entered[slots] = self.n_runs
        with torch.inference_mode():
            batches = batches_by_length(samples.lengths, self._limit, samples.windows)
            # Embed all samples before the first one is added: either all enter or none.
            started = [part for rows in batches for part in self._started(samples, rows)]
        for active in started:
            self._put(replace(active, rows=slots[active.rows]))

    def _started(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> list[ActiveBatch]:
        """Return embedded samples, in several batches if they do not fit in memory as one."""
        try:
            return [self._step.start(samples, rows)]
        except (RuntimeError, MemoryError) as error:
            check_can_be_halved(error, len(rows))
        self._make_room(len(rows), len(rows))
        halves = np.array_split(rows, 2)
        return [part for half in halves for part in self._started(samples, half)]

    def advance(self) -> NDArray[np.intp]:
        """Run one layer of one batch.

        Returns
        -------
        ndarray of int
            Slots of the samples that exited. The exit rule records their predictions.

        Raises
        ------
        SampleTooLargeError
            If a single sample does not fit in memory. All other samples are unchanged.
        """
        groups = [group for layer in sorted(self._waiting) for group in self._groups(layer)]
        if not groups:
            return np.empty(0, np.intp)
        active = self._taken(self._choose(groups, self.n_runs))
        self.n_runs += 1
        self.n_samples_run += len(active.rows)
        try:
            with torch.inference_mode():
                above = self._step.advance(active)
        except (RuntimeError, MemoryError) as error:
            _check_can_be_halved(error, active.rows)
        else:
            if above is None:
                return active.rows
            self._put(above)
            return np.setdiff1d(active.rows, above.rows, assume_unique=True)
        self._make_room(len(active.rows), active.n_windows)
        for half in active.halves():
            self._put(half)
        return np.empty(0, np.intp)

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Remove samples that should not be run any further."""
        for layer, parts in list(self._waiting.items()):
            left = [_without(part, slots) for part in parts]
            self._keep(layer, [part for part in left if len(part.rows)])

    def _groups(self, layer: int) -> Iterator[Group]:
        for parts in groups_by_length(self._waiting[layer], self._limit):
            yield Group(parts, min(int(self._entered[part.rows].min()) for part in parts))

    def _taken(self, group: Group) -> ActiveBatch:
        """Remove a group from the waiting batches and return it as one batch."""
        taken = {id(part) for part in group.parts}
        left = [part for part in self._waiting[group.layer] if id(part) not in taken]
        self._keep(group.layer, left)
        with torch.inference_mode():
            return ActiveBatch.merge(group.parts)

    def _put(self, active: ActiveBatch) -> None:
        self._waiting.setdefault(active.layer, []).append(active)

    def _keep(self, layer: int, parts: list[ActiveBatch]) -> None:
        if parts:
            self._waiting[layer] = parts
        else:
            self._waiting.pop(layer, None)

    def _make_room(self, n_samples: int, n_windows: int) -> None:
        torch.cuda.empty_cache()
        self._limit = self._limit.at_most(max(1, n_windows // 2))
        if not self._warned:
            self._warned = True
            warn_out_of_memory(n_samples)


def _check_can_be_halved(error: Exception, slots: NDArray[np.intp]) -> None:
    try:
        check_can_be_halved(error, len(slots))
    except MemoryError as too_large:
        raise SampleTooLargeError(str(too_large), slots) from error


def _without(active: ActiveBatch, slots: NDArray[np.intp]) -> ActiveBatch:
    left = np.flatnonzero(~np.isin(active.rows, slots))
    if len(left) == len(active.rows):
        return active
    with torch.inference_mode():
        return active.take(left)
