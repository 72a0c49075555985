"""Run the graphs of two backbones; the second only for the samples that need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._backbone import at_the_layer, run_layers
from ._folder import Batch, Folder
from ._rule import Exited, Floats, Rule, Visited
from ._samples import Samples, batches_of
from ._texts import TextReader
from ._walk import Walk

__all__ = ["Cases", "TwoTowers", "read_cases"]

TOWERS = ("text", "image")
# What the towers read; the image tower reads pixels.
_PIXELS = "pixel_values"


class Cases:
    """Encoded texts with images, of which either may be missing.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        What the towers read of every sample; what stands where a cell is missing is not looked at.
    present : ndarray of shape (n, 2), bool
        Whether there is a text, and an image.
    """

    def __init__(self, arrays: Mapping[str, Any], present: NDArray[np.bool_]) -> None:
        self.both = Samples(arrays)
        self.present = np.asarray(present, bool)
        if self.present.shape != (len(self.both), 2) or not self.present.any(axis=1).all():
            raise ValueError(
                f"present must have the shape ({len(self.both)}, 2), whether there is a text and "
                "an image, one of them at least."
            )

    def __len__(self) -> int:
        return len(self.both)

    def of_tower(self, tower: str, numbers: NDArray[np.intp]) -> Samples:
        """Return what one tower reads of some samples."""
        arrays = self.both.arrays.items()
        return Samples(
            {
                name: part[numbers]
                for name, part in arrays
                if (name == _PIXELS) == (tower == "image")
            }
        )


def read_cases(X: Sequence[Any], reader: TextReader) -> Cases:
    """Return pairs of a text, or None, and pixels (channels, height, width), or None, as cases."""
    present = np.array([[text is not None, image is not None] for text, image in X])
    texts = reader.read(["" if text is None else text for text, _ in X])
    shown = [np.asarray(image, np.float32) for _, image in X if image is not None]
    blank = np.zeros_like(shown[0]) if shown else None
    if blank is None:
        return Cases(texts.arrays, present)
    images = [blank if image is None else np.asarray(image, np.float32) for _, image in X]
    return Cases({**texts.arrays, _PIXELS: np.stack(images)}, present)


class TwoTowers:
    """Runs samples that two backbones read.

    Parameters
    ----------
    folder : Folder
    rule : Rule
        Counts exits through both.
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
        """Return whether the text tower ran for samples, and whether the image tower did."""
        reached = np.stack([np.ones(len(present), bool), exit_layer > self._n_first], axis=1)
        return self.in_order(self.in_order(present) & reached)

    def exits_of(self, cases: Cases, batch_size: int) -> Iterator[Exited]:
        """Yield samples as they exit, by their numbers."""
        if self._folder.document["layer"] is not None:
            yield from self._at_the_layer(cases, batch_size)
            return
        has_first, has_second = self.in_order(cases.present).T
        handed = _HandOver(self._n_first, self._after)
        starting = np.flatnonzero(has_first & has_second)
        yield from self._run_first(cases, starting, batch_size, handed)
        yield from self._run_first(cases, np.flatnonzero(has_first & ~has_second), batch_size)
        numbers, states, visited = handed.all(self._rule, self._n_features)
        yield from self._run_second(cases, numbers, states, visited, batch_size)
        without = np.flatnonzero(~has_first)
        yield from self._run_second(cases, without, None, Visited(self._rule), batch_size)

    def _run_first(
        self,
        cases: Cases,
        numbers: NDArray[np.intp],
        batch_size: int,
        handed: _HandOver | None = None,
    ) -> Iterator[Exited]:
        """Run samples through the first tower, in which they end or are handed over."""
        samples = cases.of_tower(self._first, numbers)
        last = self._n_first if handed is None else self._n_layers
        for rows in batches_of(samples, batch_size):
            walk = Walk(self._folder, samples.batch(rows), f"{self._first}_")
            if handed is not None:
                handed.begin(numbers[rows])
            visited = Visited(self._rule)
            for exited in run_layers(walk, self._rule, visited, last, hands_over=handed):
                yield replace(exited, rows=numbers[rows][exited.rows])

    def _run_second(
        self,
        cases: Cases,
        numbers: NDArray[np.intp],
        states: Floats | None,
        visited: Visited,
        batch_size: int,
    ) -> Iterator[Exited]:
        """Run samples through the second tower, with what the first left of them, if it did."""
        samples = cases.of_tower(self._second, numbers)
        for rows in batches_of(samples, batch_size):
            batch = samples.batch(rows) | {"context": self._context(states, rows)}
            walk = Walk(self._folder, batch, f"{self._second}_")
            memory = visited.take(rows)
            for exited in run_layers(
                walk, self._rule, memory, self._n_layers, n_before=self._n_first
            ):
                yield replace(exited, rows=numbers[rows][exited.rows])

    def _context(self, states: Floats | None, rows: NDArray[np.intp]) -> Floats:
        """Return what the heads of the second tower read beside their layers."""
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
                f"X[{row}] has no {self._first}, and the exported layer {layer} is one of the "
                f"{self._first} tower, which reads nothing else; expected a layer above "
                f"{self._n_first}, or samples with both."
            )
        for rows in batches_of(cases.both, batch_size):
            batch: Batch = cases.both.batch(rows) | {"present": present[rows]}
            exited = at_the_layer(self._folder, self._rule, batch)
            # One without a second cell is predicted by the last exit of the first tower.
            yield replace(exited, rows=rows[exited.rows])


class _HandOver:
    """What the samples take along that go on from the first tower to the second.

    Parameters
    ----------
    last : int
        Layer of the first tower from which all go on.
    after : int or None
        So many exits in a row have to predict the same for a sample to go on earlier.
    """

    def __init__(self, last: int, after: int | None) -> None:
        self._last = last
        self._after = after
        self._numbers: list[NDArray[np.intp]] = []
        self._states: list[Floats] = []
        self._visited: list[Visited] = []
        self._batch = np.empty(0, np.intp)
        self._predicted = np.empty((0, 0), np.int64)
        self._agreeing = np.empty(0, np.int64)

    def begin(self, numbers: NDArray[np.intp]) -> None:
        """Begin a batch of samples with some numbers."""
        self._batch = numbers
        self._predicted = np.empty((len(numbers), 0), np.int64)
        self._agreeing = np.zeros(len(numbers), np.int64)

    def goes_on(self, walk: Walk, proba: list[Floats]) -> NDArray[np.bool_]:
        """Return which samples of a walk go on, if they do not exit."""
        if self._after is None:
            return np.full(len(walk.samples), walk.layer == self._last)
        predicted = np.stack([part.argmax(axis=1) for part in proba], axis=1)
        if walk.layer == 1:
            self._predicted = np.full((len(self._batch), predicted.shape[1]), -1)
        rows = walk.samples
        same = (predicted == self._predicted[rows]).all(axis=1)
        self._agreeing[rows] = np.where(same, self._agreeing[rows] + 1, 1)
        self._predicted[rows] = predicted
        settled: NDArray[np.bool_] = self._agreeing[rows] >= self._after
        return settled | (walk.layer == self._last)

    def note(self, walk: Walk, going: NDArray[np.intp], state: Floats, visited: Visited) -> None:
        """Note that some of the samples of a walk go on."""
        if len(going):
            self._numbers.append(self._batch[walk.samples[going]])
            self._states.append(state[going])
            self._visited.append(visited.take(going))

    def all(self, rule: Rule, n_features: int) -> tuple[NDArray[np.intp], Floats, Visited]:
        """Return the numbers of all samples that went on, their states, what is remembered."""
        if not self._numbers:
            return np.empty(0, np.intp), np.empty((0, n_features), np.float32), Visited(rule)
        visited = Visited.join(rule, self._visited)
        return np.concatenate(self._numbers), np.concatenate(self._states), visited
