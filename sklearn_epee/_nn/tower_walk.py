"""Continuous batching for two transformers: samples can join while others are under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import Exits
from .layer_walk import LayerWalk, SampleFailedError
from .pairs import EncodedPairs, SamplesWithContext
from .row_policies import RowPolicyRule
from .tower_rules import HandedOver

_NOBODY = np.empty(0, np.intp)


class TowerPolicies:
    """The exit policies of samples, through both towers and, without a second cell, the first.

    Parameters
    ----------
    both, alone : RowPolicyRule
        Which record predictions in the same place.
    """

    def __init__(self, both: RowPolicyRule, alone: RowPolicyRule) -> None:
        self._rules = both, alone

    @property
    def out(self) -> Exits:
        """Where predictions are recorded, by number."""
        return self._rules[0].out

    def set_policy(self, numbers: int | NDArray[np.intp], tau: float, patience: int) -> None:
        """Let the samples that have these numbers next exit by a policy."""
        for rule in self._rules:
            rule.set_policy(numbers, tau, patience)


class TowerWalk:
    """Runs samples through two towers, one layer of one batch at a time, while others come in.

    It has the interface of `LayerWalk` and consists of three, which take turns: for samples with
    both inputs in the first tower, for samples with the first input only, and for all samples in
    the second tower. The second input of a sample is only encoded when the first tower hands the
    sample over.

    Parameters
    ----------
    first, alone, second : LayerWalk
    handed : HandedOver
        Where the rule of `first` notes which samples go on.
    contexts : callable
        Takes the numbers of samples that enter the second tower and returns what its heads read
        beside their layers.
    """

    def __init__(
        self,
        first: LayerWalk,
        alone: LayerWalk,
        second: LayerWalk,
        handed: HandedOver,
        contexts: Callable[[NDArray[np.intp]], Tensor],
    ) -> None:
        self._first, self._alone, self._second = first, alone, second
        self._turns = deque([first, alone, second])
        self._handed = handed
        self._contexts = contexts
        # Of each sample in the first tower that may go on: the pairs it is one of, and which.
        self._pairs: dict[int, tuple[EncodedPairs, int]] = {}
        # Samples that the second tower could not take, which are still to be told of.
        self._failed: dict[int, Exception] = {}

    @property
    def n_samples(self) -> int:
        """Samples that have entered and not exited."""
        return sum(walk.n_samples for walk in self._turns) + len(self._failed)

    @property
    def n_runs(self) -> int:
        """Layers run so far, each of one batch."""
        return sum(walk.n_runs for walk in self._turns)

    @property
    def n_samples_run(self) -> int:
        """Samples in these batches, all together."""
        return sum(walk.n_samples_run for walk in self._turns)

    @property
    def takes_more(self) -> bool:
        """Whether the samples before the first layer of each tower fill less than some batches."""
        return all(walk.takes_more for walk in self._turns)

    def enter(self, samples: EncodedPairs, slots: NDArray[np.intp]) -> None:
        """Take samples in, all or none.

        Parameters
        ----------
        samples : EncodedPairs
        slots : ndarray of shape (n,)
            Under which numbers the exit rules know them.

        Raises
        ------
        MemoryError
            If the memory does not suffice for a single sample.
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
        """Run one layer of one batch of the walk whose turn it is.

        Returns
        -------
        ndarray of int
            Slots of the samples that exited.

        Raises
        ------
        SampleFailedError
            If a sample could not enter the second tower, and has left the walk.
        SampleTooLargeError
            If the memory does not suffice for a single sample. The others are as they were.
        """
        if self._failed:
            slot, error = self._failed.popitem()
            raise SampleFailedError(np.array([slot], np.intp)) from error
        walk = self._next_walk()
        if walk is None:
            return _NOBODY
        left = walk.advance()
        if walk is not self._first:
            return left
        goes_on = self._handed.layers[left] > 0
        going = {int(slot): self._pairs[int(slot)] for slot in left[goes_on]}
        for slot in left.tolist():
            del self._pairs[slot]
        self._hand_over(going)
        return left[~goes_on]

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Take samples out that are not to be run any further."""
        for walk in self._turns:
            walk.drop(slots)
        for slot in slots.tolist():
            self._pairs.pop(slot, None)
            self._failed.pop(slot, None)

    def _next_walk(self) -> LayerWalk | None:
        """Return the next walk in turn that has samples, None if there is none."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if self._turns[-1].n_samples:
                return self._turns[-1]
        return None

    def _hand_over(self, going: dict[int, tuple[EncodedPairs, int]]) -> None:
        """Let samples enter the second tower; one that cannot be read fails by itself."""
        by_pairs: dict[int, list[int]] = {}
        for slot, (samples, _) in going.items():
            by_pairs.setdefault(id(samples), []).append(slot)
        for slots in by_pairs.values():
            samples = going[slots[0]][0]
            rows = np.array([going[slot][1] for slot in slots], np.intp)
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
        walk: LayerWalk,
        samples: EncodedPairs,
        slots: NDArray[np.intp],
        selected: NDArray[np.bool_],
    ) -> None:
        if selected.any():
            walk.enter(samples.first_of(np.flatnonzero(selected)), slots[selected])

    def _enter_second(
        self, samples: EncodedPairs, rows: NDArray[np.intp], slots: NDArray[np.intp]
    ) -> None:
        """Let some of the samples enter the second tower."""
        if len(rows):
            inputs = SamplesWithContext(samples.second_of(rows), self._contexts(slots), slots)
            self._second.enter(inputs, slots)
