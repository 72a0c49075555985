"""Continuous batching for two towers: new samples can enter between two layers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .continuous_scheduler import ContinuousScheduler, SampleFailedError
from .exit_rules import Exits
from .pairs import EncodedPairs, SamplesWithContext
from .row_policies import RowPolicyRule
from .tower_rules import HandedOver

_NOBODY = np.empty(0, np.intp)


class TowerPolicies:
    """Exit policies of samples that go through both towers or only through the first.

    Parameters
    ----------
    both : RowPolicyRule
        Covers the exits of both towers.
    alone : RowPolicyRule
        Covers the exits of the first tower, for samples without a second input. Records
        predictions in the same arrays as `both`.
    """

    def __init__(self, both: RowPolicyRule, alone: RowPolicyRule) -> None:
        self._rules = both, alone

    @property
    def out(self) -> Exits:
        """The recorded predictions, by sample number."""
        return self._rules[0].out

    def set_policy(self, numbers: int | NDArray[np.intp], tau: float, patience: int) -> None:
        """Set the exit policy of the samples that use these numbers next."""
        for rule in self._rules:
            rule.set_policy(numbers, tau, patience)


class TowerScheduler:
    """Run samples through two towers, one layer of one batch at a time.

    Has the interface of `ContinuousScheduler` and consists of three of them, which take turns. The
    second input of a sample is only encoded when the first tower hands the sample over.

    Parameters
    ----------
    first : ContinuousScheduler
        Runs the first tower for samples that have both inputs.
    alone : ContinuousScheduler
        Runs the first tower for samples that have only the first input.
    second : ContinuousScheduler
        Runs the second tower.
    handed : HandedOver
        Records which samples the first tower handed over; filled by the rule of `first`.
    contexts : callable
        Takes the numbers of samples that enter the second tower and returns their context: the
        additional input of its heads.
    """

    def __init__(
        self,
        first: ContinuousScheduler,
        alone: ContinuousScheduler,
        second: ContinuousScheduler,
        handed: HandedOver,
        contexts: Callable[[NDArray[np.intp]], Tensor],
    ) -> None:
        self._first, self._alone, self._second = first, alone, second
        self._turns = deque([first, alone, second])
        self._handed = handed
        self._contexts = contexts
        # By slot, the input of each sample that the first tower may hand over: encoded pairs and
        # the row of the sample in them.
        self._pairs: dict[int, tuple[EncodedPairs, int]] = {}
        # By slot, errors of samples that could not enter the second tower; `advance` raises them.
        self._failed: dict[int, Exception] = {}

    @property
    def n_samples(self) -> int:
        """Number of samples that have entered and not exited."""
        return sum(scheduler.n_samples for scheduler in self._turns) + len(self._failed)

    @property
    def n_runs(self) -> int:
        """Number of layer runs so far, each of one batch."""
        return sum(scheduler.n_runs for scheduler in self._turns)

    @property
    def n_samples_run(self) -> int:
        """Number of samples in these batches, summed over the runs."""
        return sum(scheduler.n_samples_run for scheduler in self._turns)

    @property
    def takes_more(self) -> bool:
        """Whether there is room for more samples before the first layer of each tower."""
        return all(scheduler.takes_more for scheduler in self._turns)

    def enter(self, samples: EncodedPairs, slots: NDArray[np.intp]) -> None:
        """Add samples; if this fails, none of them is added.

        Parameters
        ----------
        samples : EncodedPairs
        slots : ndarray of shape (n,)
            Number of each sample in the exit rules.

        Raises
        ------
        MemoryError
            If a single sample does not fit in memory.
        """
        has_first, has_second = samples.present.T
        self._handed.forget(slots)
        try:
            self._enter_first(self._alone, samples, slots, has_first & ~has_second)
            self._enter_second(samples, np.flatnonzero(~has_first), slots[~has_first])
            self._enter_first(self._first, samples, slots, has_first & has_second)
        except BaseException:
            self.drop(slots)
            raise
        for row in np.flatnonzero(has_first & has_second).tolist():
            self._pairs[int(slots[row])] = samples, row

    def advance(self) -> NDArray[np.intp]:
        """Run one layer of one batch, by the scheduler whose turn it is.

        Returns
        -------
        ndarray of int
            Slots of the samples that exited.

        Raises
        ------
        SampleFailedError
            If a sample could not enter the second tower and was dropped.
        SampleTooLargeError
            If a single sample does not fit in memory. All other samples are unchanged.
        """
        if self._failed:
            slot, error = self._failed.popitem()
            raise SampleFailedError(np.array([slot], np.intp)) from error
        scheduler = self._next_scheduler()
        if scheduler is None:
            return _NOBODY
        left = scheduler.advance()
        if scheduler is not self._first:
            return left
        # For the first tower alone, samples that are handed over have exited, too.
        continues = self._handed.layers[left] > 0
        continuing = {int(slot): self._pairs[int(slot)] for slot in left[continues]}
        for slot in left.tolist():
            del self._pairs[slot]
        self._hand_over(continuing)
        return left[~continues]

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Remove samples that should not be run any further."""
        for scheduler in self._turns:
            scheduler.drop(slots)
        for slot in slots.tolist():
            self._pairs.pop(slot, None)
            self._failed.pop(slot, None)

    def _next_scheduler(self) -> ContinuousScheduler | None:
        """Return the next scheduler in turn that has samples; None if all are empty."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if self._turns[-1].n_samples:
                return self._turns[-1]
        return None

    def _hand_over(self, continuing: dict[int, tuple[EncodedPairs, int]]) -> None:
        """Add samples to the second tower; if some cannot be read, only those fail."""
        by_pairs: dict[int, list[int]] = {}
        for slot, (samples, _) in continuing.items():
            by_pairs.setdefault(id(samples), []).append(slot)
        for slots in by_pairs.values():
            samples = continuing[slots[0]][0]
            rows = np.array([continuing[slot][1] for slot in slots], np.intp)
            self._enter_or_fail(samples, rows, np.array(slots, np.intp))

    def _enter_or_fail(
        self, samples: EncodedPairs, rows: NDArray[np.intp], slots: NDArray[np.intp]
    ) -> None:
        try:
            self._enter_second(samples, rows, slots)
        except Exception as error:  # noqa: BLE001 - the request of the sample fails with it
            if len(slots) == 1:
                self._failed[int(slots[0])] = error
                return
            for i in range(len(slots)):
                self._enter_or_fail(samples, rows[i : i + 1], slots[i : i + 1])

    @staticmethod
    def _enter_first(
        scheduler: ContinuousScheduler,
        samples: EncodedPairs,
        slots: NDArray[np.intp],
        selected: NDArray[np.bool_],
    ) -> None:
        if selected.any():
            scheduler.enter(samples.first_of(np.flatnonzero(selected)), slots[selected])

    def _enter_second(
        self, samples: EncodedPairs, rows: NDArray[np.intp], slots: NDArray[np.intp]
    ) -> None:
        """Add some of the samples to the second tower."""
        if len(rows):
            inputs = SamplesWithContext(samples.second_of(rows), self._contexts(slots), slots)
            self._second.enter(inputs, slots)
