"""Run the graphs of two towers; the second one only for the samples that need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._backbone import at_the_layer, run_layers
from ._folder import Batch, Folder
from ._forward_pass import ForwardPass
from ._rule import Exited, Floats, Rule, RuleState
from ._samples import Samples, batches_of
from ._texts import TextReader

__all__ = ["Cases", "TwoTowers", "read_cases"]

TOWERS = ("text", "image")
# Input of the image tower; all others are those of the text tower.
_PIXELS = "pixel_values"


class Cases:
    """Encoded texts with images, either of which may be missing.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Inputs of both towers for every sample; values of missing inputs are not used.
    present : ndarray of shape (n, 2), bool
        Whether there is a text, and an image.
    """

    def __init__(self, arrays: Mapping[str, Any], present: NDArray[np.bool_]) -> None:
        self.both = Samples(arrays)
        self.present = np.asarray(present, bool)
        if self.present.shape != (len(self.both), 2) or not self.present.any(axis=1).all():
            raise ValueError(
                f"present must have the shape ({len(self.both)}, 2), with True for an existing "
                "text and image; every sample needs at least one of them."
            )

    def __len__(self) -> int:
        return len(self.both)

    def of_tower(self, tower: str, numbers: NDArray[np.intp]) -> Samples:
        """Return the inputs of one tower for some samples."""
        arrays = self.both.arrays.items()
        return Samples(
            {
                name: part[numbers]
                for name, part in arrays
                if (name == _PIXELS) == (tower == "image")
            }
        )


def read_cases(X: Sequence[Any], reader: TextReader, n_before: int = 0) -> Cases:
    """Encode pairs of a text or None, and pixels (channels, height, width) or None."""
    present = np.array([[text is not None, image is not None] for text, image in X])
    texts = reader.read(["" if text is None else text for text, _ in X], n_before)
    shown = [np.asarray(image, np.float32) for _, image in X if image is not None]
    blank = np.zeros_like(shown[0]) if shown else None
    if blank is None:
        return Cases(texts.arrays, present)
    images = [blank if image is None else np.asarray(image, np.float32) for _, image in X]
    return Cases({**texts.arrays, _PIXELS: np.stack(images)}, present)


class TwoTowers:
    """Runs samples through two towers.

    Parameters
    ----------
    folder : Folder
    rule : Rule
        Covers the exits of both towers.
    """

    def __init__(self, folder: Folder, rule: Rule) -> None:
        towers = folder.document["towers"]
        self._folder = folder
        self._rule = rule
        self._first, self._second = towers["names"]
        self._n_first, n_second = towers["n_layers"]
        self._n_layers = self._n_first + n_second
        self._after = towers["hand_over_after"]
        self._n_features = towers["n_features"]

    def in_order(self, columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return columns of texts and images in the order in which the towers run."""
        return columns[:, [TOWERS.index(name) for name in (self._first, self._second)]]

    def towers_run(
        self, present: NDArray[np.bool_], exit_layer: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return for each sample whether the text tower and whether the image tower ran."""
        reached = np.stack([np.ones(len(present), bool), exit_layer > self._n_first], axis=1)
        return self.in_order(self.in_order(present) & reached)

    def exits_of(self, cases: Cases, batch_size: int) -> Iterator[Exited]:
        """Yield samples as they exit, by their indices."""
        if self._folder.document["layer"] is not None:
            yield from self._at_the_layer(cases, batch_size)
            return
        has_first, has_second = self.in_order(cases.present).T
        handed = _HandOver(self._n_first, self._after)
        starting = np.flatnonzero(has_first & has_second)
        yield from self._run_first(cases, starting, batch_size, handed)
        yield from self._run_first(cases, np.flatnonzero(has_first & ~has_second), batch_size)
        numbers, states, rule_state = handed.all(self._rule, self._n_features)
        yield from self._run_second(cases, numbers, states, rule_state, batch_size)
        without = np.flatnonzero(~has_first)
        yield from self._run_second(cases, without, None, RuleState(self._rule), batch_size)

    def _run_first(
        self,
        cases: Cases,
        numbers: NDArray[np.intp],
        batch_size: int,
        handed: _HandOver | None = None,
    ) -> Iterator[Exited]:
        """Run samples through the first tower, in which they exit or are handed over."""
        samples = cases.of_tower(self._first, numbers)
        last = self._n_first if handed is None else self._n_layers
        for rows in batches_of(samples, batch_size):
            forward = ForwardPass(self._folder, samples.batch(rows), f"{self._first}_")
            if handed is not None:
                handed.begin(numbers[rows])
            rule_state = RuleState(self._rule)
            for exited in run_layers(forward, self._rule, rule_state, last, hand_over=handed):
                yield replace(exited, rows=numbers[rows][exited.rows])

    def _run_second(
        self,
        cases: Cases,
        numbers: NDArray[np.intp],
        states: Floats | None,
        rule_state: RuleState,
        batch_size: int,
    ) -> Iterator[Exited]:
        """Run samples through the second tower, with their states of the first, if any."""
        samples = cases.of_tower(self._second, numbers)
        for rows in batches_of(samples, batch_size):
            batch = samples.batch(rows) | {"context": self._context(states, rows)}
            forward = ForwardPass(self._folder, batch, f"{self._second}_")
            own_state = rule_state.take(rows)
            for exited in run_layers(
                forward, self._rule, own_state, self._n_layers, n_before=self._n_first
            ):
                yield replace(exited, rows=numbers[rows][exited.rows])

    def _context(self, states: Floats | None, rows: NDArray[np.intp]) -> Floats:
        """Return the context, the additional input of the second tower's heads."""
        shape = (len(rows), self._n_features)
        given = np.zeros(shape, np.float32) if states is None else states[rows]
        known = np.full((len(rows), 1), states is not None)
        context: Floats
        (context,) = self._folder.run("hand_over.onnx", {"state": given, "known": known})
        return context

    def _at_the_layer(self, cases: Cases, batch_size: int) -> Iterator[Exited]:
        present = self.in_order(cases.present)
        layer = int(self._folder.document["layer"])
        if layer <= self._n_first and not present[:, 0].all():
            row = int(present[:, 0].argmin())
            raise ValueError(
                f"X[{row}] has no {self._first}, but the exported layer {layer} belongs to the "
                f"{self._first} tower, which needs it; expected a layer above {self._n_first}, or "
                "samples with both."
            )
        for rows in batches_of(cases.both, batch_size):
            batch: Batch = cases.both.batch(rows) | {"present": present[rows]}
            exited = at_the_layer(self._folder, self._rule, batch)
            # Samples without the second input are predicted by the last exit of the first tower.
            yield replace(exited, rows=rows[exited.rows])


class _HandOver:
    """Collects the samples that are handed over to the second tower, with their states.

    Parameters
    ----------
    last : int
        Last layer of the first tower, after which all remaining samples are handed over.
    after : int or None
        Number of consecutive exits that have to predict the same for an earlier hand-over.
    """

    def __init__(self, last: int, after: int | None) -> None:
        self._last = last
        self._after = after
        self._numbers: list[NDArray[np.intp]] = []
        self._states: list[Floats] = []
        self._rule_states: list[RuleState] = []
        self._batch = np.empty(0, np.intp)
        self._predicted = np.empty((0, 0), np.int64)
        self._agreeing = np.empty(0, np.int64)

    def begin(self, numbers: NDArray[np.intp]) -> None:
        """Start a new batch, given by the indices of its samples."""
        self._batch = numbers
        self._predicted = np.empty((len(numbers), 0), np.int64)
        self._agreeing = np.zeros(len(numbers), np.int64)

    def selects(self, forward: ForwardPass, proba: list[Floats]) -> NDArray[np.bool_]:
        """Return which samples are handed over if they do not exit."""
        if self._after is None:
            return np.full(len(forward.samples), forward.layer == self._last)
        predicted = np.stack([part.argmax(axis=1) for part in proba], axis=1)
        if forward.layer == 1:
            self._predicted = np.full((len(self._batch), predicted.shape[1]), -1)
        rows = forward.samples
        same = (predicted == self._predicted[rows]).all(axis=1)
        self._agreeing[rows] = np.where(same, self._agreeing[rows] + 1, 1)
        self._predicted[rows] = predicted
        settled: NDArray[np.bool_] = self._agreeing[rows] >= self._after
        return settled | (forward.layer == self._last)

    def add(
        self, forward: ForwardPass, chosen: NDArray[np.intp], states: Floats, rule_state: RuleState
    ) -> None:
        """Take over the chosen samples, given by their indices in the forward pass."""
        if len(chosen):
            self._numbers.append(self._batch[forward.samples[chosen]])
            self._states.append(states[chosen])
            self._rule_states.append(rule_state.take(chosen))

    def all(self, rule: Rule, n_features: int) -> tuple[NDArray[np.intp], Floats, RuleState]:
        """Return the indices, states and rule states of all samples that were handed over."""
        if not self._numbers:
            return np.empty(0, np.intp), np.empty((0, n_features), np.float32), RuleState(rule)
        rule_state = RuleState.join(rule, self._rule_states)
        return np.concatenate(self._numbers), np.concatenate(self._states), rule_state
