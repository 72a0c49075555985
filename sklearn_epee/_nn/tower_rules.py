"""Exit rules within one of two towers, and the state passed from the first to the second."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import Decision, ExitRule, ExitState
from .tasks import task_predictions


class HandedOver:
    """Samples that were handed over to the second tower, with their state and the rule's state.

    Parameters
    ----------
    n : int
        Number of samples, including those that are never handed over.
    width : int
        Width of the states.

    Attributes
    ----------
    layers : ndarray of shape (n,), int64
        Layer at which a sample was handed over; 0 if it was not.
    states : ndarray of shape (n, width), float32
        Pooled state of the last layer of the first tower that was run.
    """

    def __init__(self, n: int, width: int) -> None:
        self.layers = np.zeros(n, np.int64)
        self.states = np.zeros((n, width), np.float32)
        self._remembered: dict[str, NDArray[Any]] = {}

    def note(self, numbers: NDArray[np.intp], layer: int, state: ExitState | None) -> None:
        """Record that samples are handed over, with the rule's state for them."""
        self.layers[numbers] = layer
        for name, part in _parts(state).items():
            values = part.cpu().numpy()
            if name not in self._remembered:
                shape = (len(self.layers), *values.shape[1:])
                self._remembered[name] = np.zeros(shape, values.dtype)
            self._remembered[name][numbers] = values

    def forget(self, numbers: NDArray[np.intp]) -> None:
        """Reset samples whose numbers are reused."""
        self.layers[numbers] = 0
        for values in self._remembered.values():
            values[numbers] = 0

    def remembered(self, numbers: NDArray[np.intp], device: torch.device) -> ExitState | None:
        """Return the rule's state for samples; zeros for those that had no first input."""
        if not self._remembered:
            return None
        parts: dict[str, Any] = {
            name: torch.from_numpy(values[numbers]).to(device)
            for name, values in self._remembered.items()
        }
        return ExitState(**{"total": None} | parts)


def _parts(state: ExitState | None) -> dict[str, Tensor]:
    if state is None:
        return {}
    found = {part.name: getattr(state, part.name) for part in fields(state)}
    return {name: part for name, part in found.items() if part is not None}


class TowerRule:
    """The part of an exit rule over both towers that concerns one of them.

    Parameters
    ----------
    rule : ExitRule
        Covers the exits of both towers; uses the caller's numbers of the samples.
    numbers : ndarray of shape (n,)
        The caller's numbers of the samples that run through this tower.
    n_before : int
        Number of exits before the first one of this tower.
    last_layer : int
        Layer of this tower at which all remaining samples exit.

    Attributes
    ----------
    last_layer, rates_key
        See `ExitRule`.
    numbers : ndarray of shape (n,)
    """

    def __init__(
        self, rule: ExitRule, numbers: NDArray[np.intp], n_before: int, last_layer: int
    ) -> None:
        self.last_layer = last_layer
        self.rates_key: Hashable | None = None
        if rule.rates_key is not None:
            self.rates_key = (n_before, last_layer, rule.rates_key)
        self.numbers = numbers
        self._rule = rule
        self._n_before = n_before

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
        return self._rule.reads(layer + self._n_before)

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        return self._rule.may_exit(layer + self._n_before)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of the samples that exit at a layer; see `ExitRule`."""
        return self._rule.decide(layer + self._n_before, proba, self.numbers[rows], state)


class FirstTowerRule(TowerRule):
    """Samples exit by a rule, or are handed over at the last layer or when predictions are stable.

    Parameters
    ----------
    rule : ExitRule
        Does not force samples to exit in the first tower.
    numbers : ndarray of shape (n,)
    last_layer : int
        Number of layers M1 of the tower.
    settles : Settling or None
        Finds the samples that are handed over early; None: there are none.
    handed : HandedOver
        Records the samples that are handed over.
    """

    def __init__(
        self,
        rule: ExitRule,
        numbers: NDArray[np.intp],
        last_layer: int,
        settles: Settling | None,
        handed: HandedOver,
    ) -> None:
        super().__init__(rule, numbers, 0, last_layer)
        self._settles = settles
        self._handed = handed

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
        return self._settles is not None or layer == self.last_layer or super().reads(layer)

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer, or be handed over."""
        settles = self._settles is not None and self._settles.after <= layer
        return settles or layer == self.last_layer or super().may_exit(layer)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of samples that exit, and the samples that are handed over."""
        decision = Decision(None, state)
        if super().reads(layer):
            decision = super().decide(layer, proba, rows, state)
        is_handed = np.full(len(rows), layer == self.last_layer)
        if self._settles is not None:
            is_handed |= self._settles.at(layer, proba, rows)
        remaining = decision.remaining
        if remaining is None:
            if not is_handed.any():
                return decision
            remaining = np.arange(len(rows))
        handed = remaining[is_handed[remaining]]
        if len(handed):
            index = torch.from_numpy(handed).to(proba.device)
            kept = None if decision.state is None else decision.state.take(index)
            self._handed.note(self.numbers[rows[handed]], layer, kept)
        return Decision(remaining[~is_handed[remaining]], decision.state)

    def keep_states(self, layer: int, rows: NDArray[np.intp], states: Tensor) -> None:
        """Store the states of the samples of a batch that are handed over at a layer."""
        numbers = self.numbers[rows]
        handed = np.flatnonzero(self._handed.layers[numbers] == layer)
        if len(handed):
            self._handed.states[numbers[handed]] = states.cpu().numpy()[handed]


class Settling:
    """Finds samples for which a number of consecutive exits predict the same classes.

    Parameters
    ----------
    after : int
        Number of consecutive exits that have to agree in all tasks.
    counts : tuple of int
        Number of classes of every task.
    n : int
        Number of samples of the call.
    """

    def __init__(self, after: int, counts: tuple[int, ...], n: int) -> None:
        self.after = after
        self._counts = counts
        self._predicted = np.zeros((n, len(counts)), np.int64)
        self._agreeing = np.zeros(n, np.int64)

    def at(self, layer: int, proba: Tensor, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Update with the probabilities of a layer; return which samples are settled."""
        predicted = task_predictions(proba, self._counts).cpu().numpy()
        same = (predicted == self._predicted[rows]).all(axis=1) & (layer > 1)
        self._agreeing[rows] = np.where(same, self._agreeing[rows] + 1, 1)
        self._predicted[rows] = predicted
        settled: NDArray[np.bool_] = self._agreeing[rows] >= self.after
        return settled


class SecondTowerRule(TowerRule):
    """The exit rule in the second tower, which continues from its state in the first.

    Parameters
    ----------
    rule, numbers, n_before, last_layer
        See `TowerRule`.
    handed : HandedOver
        States of the samples from the first tower.
    """

    def __init__(
        self,
        rule: ExitRule,
        numbers: NDArray[np.intp],
        n_before: int,
        last_layer: int,
        handed: HandedOver,
    ) -> None:
        super().__init__(rule, numbers, n_before, last_layer)
        self.handed = handed
