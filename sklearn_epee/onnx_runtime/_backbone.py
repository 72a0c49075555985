"""Run the graphs of one backbone; samples exit layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch, Folder
from ._forward_pass import ForwardPass
from ._rule import Exited, Floats, Rule, RuleState
from ._samples import Samples, batches_of

__all__ = ["HandOverTarget", "OneBackbone", "at_the_layer", "run_layers"]


class HandOverTarget(Protocol):
    """Interface of what takes over samples of a batch that continue in another tower."""

    def selects(self, forward: ForwardPass, proba: list[Floats]) -> NDArray[np.bool_]:
        """Return which samples are handed over if they do not exit."""
        ...

    def add(
        self, forward: ForwardPass, chosen: NDArray[np.intp], states: Floats, rule_state: RuleState
    ) -> None:
        """Take over the chosen samples, given by their indices in the forward pass."""
        ...


def run_layers(
    forward: ForwardPass,
    rule: Rule,
    rule_state: RuleState,
    last: int,
    *,
    n_before: int = 0,
    hand_over: HandOverTarget | None = None,
) -> Iterator[Exited]:
    """Run a batch until all samples exit; yield them by their indices within the batch.

    Parameters
    ----------
    forward : ForwardPass
    rule : Rule
    rule_state : RuleState
        State of the rule for the samples.
    last : int
        The exit at which all remaining samples exit.
    n_before : int, default=0
        Number of exits before the first layer of this backbone.
    hand_over : HandOverTarget, default=None
        Takes over samples that continue in another tower. None: there is no other tower.
    """
    while len(forward.samples):
        logits, *states = forward.advance()
        layer = forward.layer + n_before
        proba = rule.probabilities(logits)
        rule_state.update(layer, proba)
        entropies = rule.entropies(proba)
        leaves = np.ones(len(logits), bool)
        if layer < last:
            leaves = rule.exits(layer, entropies, rule_state.agreeing)
        if leaves.any():
            combined = [part[leaves] for part in rule_state.combined(proba)]
            yield Exited(forward.samples[leaves], layer, combined, entropies[leaves])
        if hand_over is not None:
            handed = hand_over.selects(forward, proba) & ~leaves
            hand_over.add(forward, np.flatnonzero(handed), states[0], rule_state)
            leaves |= handed
        if leaves.all():
            return
        if leaves.any():
            kept = np.flatnonzero(~leaves)
            rule_state = rule_state.take(kept)
            forward.keep(kept)


def at_the_layer(folder: Folder, rule: Rule, batch: Batch) -> Exited:
    """Return all samples of a batch, which exit at the only exported layer."""
    (logits,) = folder.run("layer.onnx", batch)
    proba = rule.probabilities(logits)
    layer = int(folder.document["layer"])
    return Exited(np.arange(len(logits)), layer, proba, rule.entropies(proba))


class OneBackbone:
    """Runs samples through a single backbone.

    Parameters
    ----------
    folder : Folder
    rule : Rule
    """

    def __init__(self, folder: Folder, rule: Rule) -> None:
        self._folder = folder
        self._rule = rule

    def exits_of(self, samples: Samples, batch_size: int) -> Iterator[Exited]:
        """Yield samples as they exit, by their indices."""
        for numbers in batches_of(samples, batch_size):
            for exited in self._exits_of(samples.batch(numbers)):
                yield replace(exited, rows=numbers[exited.rows])

    def _exits_of(self, batch: Batch) -> Iterator[Exited]:
        if self._folder.document["layer"] is not None:
            yield at_the_layer(self._folder, self._rule, batch)
            return
        forward = ForwardPass(self._folder, batch)
        n_layers = self._folder.document["n_layers"]
        yield from run_layers(forward, self._rule, RuleState(self._rule), n_layers)
