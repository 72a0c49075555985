"""Run the graphs of one backbone; samples exit layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch, Folder
from ._rule import Exited, Floats, Rule, Visited
from ._samples import Samples, batches_of
from ._walk import Walk

__all__ = ["HandsOver", "OneBackbone", "at_the_layer", "run_layers"]


class HandsOver(Protocol):
    """Takes samples that go on elsewhere."""

    def goes_on(self, walk: Walk, proba: list[Floats]) -> NDArray[np.bool_]:
        """Return which samples of a walk go on elsewhere, if they do not exit."""
        ...

    def note(self, walk: Walk, going: NDArray[np.intp], state: Floats, visited: Visited) -> None:
        """Note that some of the samples of a walk go on elsewhere."""
        ...


def run_layers(
    walk: Walk,
    rule: Rule,
    visited: Visited,
    last: int,
    *,
    n_before: int = 0,
    hands_over: HandsOver | None = None,
) -> Iterator[Exited]:
    """Run a batch to its exits, and yield them by numbers within the batch.

    Parameters
    ----------
    walk : Walk
    rule : Rule
    visited : Visited
        What is remembered of its samples so far.
    last : int
        Where all that are left exit.
    n_before : int, default=0
        Exits before the first layer of this backbone.
    hands_over : HandsOver, default=None
        Takes samples that do not exit; None: there is no elsewhere.
    """
    while len(walk.samples):
        logits, *states = walk.advance()
        layer = walk.layer + n_before
        proba = rule.probabilities(logits)
        visited.see(layer, proba)
        entropies = rule.entropies(proba)
        leaves = np.ones(len(logits), bool)
        if layer < last:
            leaves = rule.exits(entropies, visited.agreeing)
        if leaves.any():
            combined = [part[leaves] for part in visited.combined(proba)]
            yield Exited(walk.samples[leaves], layer, combined, entropies[leaves])
        if hands_over is not None:
            goes = hands_over.goes_on(walk, proba) & ~leaves
            hands_over.note(walk, np.flatnonzero(goes), states[0], visited)
            leaves |= goes
        if leaves.all():
            return
        if leaves.any():
            kept = np.flatnonzero(~leaves)
            visited = visited.take(kept)
            walk.keep(kept)


def at_the_layer(folder: Folder, rule: Rule, batch: Batch) -> Exited:
    """Return all samples of a batch, which exit at the one layer that was exported."""
    (logits,) = folder.run("layer.onnx", batch)
    proba = rule.probabilities(logits)
    layer = int(folder.document["layer"])
    return Exited(np.arange(len(logits)), layer, proba, rule.entropies(proba))


class OneBackbone:
    """Runs samples that one backbone reads.

    Parameters
    ----------
    folder : Folder
    rule : Rule
    """

    def __init__(self, folder: Folder, rule: Rule) -> None:
        self._folder = folder
        self._rule = rule

    def exits_of(self, samples: Samples, batch_size: int) -> Iterator[Exited]:
        """Yield samples as they exit, by their numbers."""
        for numbers in batches_of(samples, batch_size):
            for exited in self._exits_of(samples.batch(numbers)):
                yield replace(exited, rows=numbers[exited.rows])

    def _exits_of(self, batch: Batch) -> Iterator[Exited]:
        if self._folder.document["layer"] is not None:
            yield at_the_layer(self._folder, self._rule, batch)
            return
        walk = Walk(self._folder, batch)
        n_layers = self._folder.document["n_layers"]
        yield from run_layers(walk, self._rule, Visited(self._rule), n_layers)
