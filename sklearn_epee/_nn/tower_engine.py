"""Inference through two towers; the second one only runs for the samples that need it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .active_batch import ActiveBatch
from .batch_layout import BatchLayout
from .batching import EncodedSamples
from .engine import Engine
from .exit_rules import ExitPolicy, ExitRule, Exits, ExitState, RecordingRule, VisitedRule
from .inference_network import InferenceNetwork
from .int8_calibration import Int8Scales, find_scales
from .joint_exit_rules import dynamic_rule
from .layer_step import LayerStep
from .network import MultiExitNetwork
from .pairs import EncodedPairs, SamplesWithContext
from .row_policies import RowPolicyRule
from .tower_rules import FirstTowerRule, HandedOver, SecondTowerRule, Settling, TowerRule
from .tower_scheduler import TowerPolicies, TowerScheduler
from .two_towers import TwoTowerNetwork, state_of


class TowerEngine:
    """Runs a trained network with two towers in prediction.

    Parameters
    ----------
    network : TwoTowerNetwork
        In evaluation mode, on its device. Never modified, so threads may share it.
    dtype : torch.dtype, default=torch.float32
        Data type of the layers; heads and entropies are float32.
    scales : tuple of two Int8Scales, default=None
        On a CPU: 8-bit scales of each tower.

    Attributes
    ----------
    n_layers : int
        Number of layers of both towers, M1 + M2.
    n_columns : int
        Number of classes K, of all tasks together.

    Notes
    -----
    One exit rule covers the exits of both towers. For a sample that exits in the first tower, the
    input of the second one is not even encoded. Each tower has an `Engine` with its own batches.
    The state of the first tower and the state of the exit rule are handed over to the second.

    Staged probabilities are NaN at exits that a sample does not have: those of a tower whose input
    is missing, and those of the first tower after an early hand-over. With these NaNs, the array
    functions of `sklearn_epee.policy` make the same decisions as this engine.
    """

    def __init__(
        self,
        network: TwoTowerNetwork,
        dtype: torch.dtype = torch.float32,
        scales: tuple[Int8Scales, Int8Scales] | None = None,
    ) -> None:
        self._network = network
        of_first, of_second = scales or (None, None)
        self._first = _FirstEngine(network.first, dtype, of_first)
        self._second = _SecondEngine(network.second, dtype, of_second)
        self.n_layers = network.n_layers
        self.n_columns = network.n_columns
        self._border = network.first.n_layers
        self._counts = network.class_counts

    @staticmethod
    def find_scales(
        network: TwoTowerNetwork, samples: EncodedPairs
    ) -> tuple[Int8Scales, Int8Scales]:
        """Return the 8-bit scales of the layers of each tower; see `Engine.find_scales`."""
        first, second = (np.flatnonzero(there) for there in samples.present.T)
        return (
            find_scales(network.first.adapter, samples.first_of(first)),
            find_scales(network.second.adapter, samples.second_of(second)),
        )

    def dynamic(
        self, samples: EncodedPairs, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> Exits:
        """Return exit layers and predictions of samples under an exit policy.

        Parameters
        ----------
        samples : EncodedPairs
        policy : ExitPolicy
        batch_size : int or "auto"

        Returns
        -------
        Exits
        """
        out = Exits.empty(len(samples), self.n_columns, len(self._counts))
        both, alone = (
            dynamic_rule(policy, n, out, self._counts) for n in (self.n_layers, self._border)
        )
        handed = self.run(samples, both, self.n_layers, batch_size)
        self._run_first(samples, ~samples.present[:, 1], alone, self._border, batch_size)
        return replace(out, own=self._available_exits(samples.present, handed.layers))

    def budgeted(
        self, samples: EncodedPairs, layer: int, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of one exit; layers above it do not run.

        Parameters
        ----------
        samples : EncodedPairs
        layer : int
            From 1 to M1 + M2. For a sample without this exit, the last earlier exit that it has is
            used, or else its first one.
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, K), float32
            With several tasks side by side, K is the sum of their classes.
        """
        if layer <= self._border:
            return self._within_first(samples, layer, batch_size)
        out = np.empty((len(samples), 1, self.n_columns), np.float32)
        self.run(samples, RecordingRule(layer, layer, out), layer, batch_size)
        first_rule = RecordingRule(self._border, self._border, out)
        self._run_first(samples, ~samples.present[:, 1], first_rule, self._border, batch_size)
        return out[:, 0]

    def staged(self, samples: EncodedPairs, batch_size: int | str = "auto") -> NDArray[np.float32]:
        """Return the probabilities of all exits, from one pass.

        Parameters
        ----------
        samples : EncodedPairs
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, M1 + M2, K), float32
            NaN where a sample does not have an exit.
        """
        out = np.full((len(samples), self.n_layers, self.n_columns), np.nan, np.float32)
        self.run(samples, RecordingRule(1, self.n_layers, out), self.n_layers, batch_size)
        first_rule = RecordingRule(1, self._border, out)
        self._run_first(samples, ~samples.present[:, 1], first_rule, self._border, batch_size)
        return out

    def visited(
        self, samples: EncodedPairs, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of the exits that samples reach under an exit policy.

        Parameters
        ----------
        samples : EncodedPairs
        policy : ExitPolicy
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, M1 + M2, K), float32
            NaN above a sample's exit, and where it does not have an exit.
        """
        proba = np.full((len(samples), self.n_layers, self.n_columns), np.nan, np.float32)
        out = Exits.empty(len(samples), self.n_columns, len(self._counts))
        both, alone = (
            VisitedRule(dynamic_rule(policy, n, out, self._counts), proba)
            for n in (self.n_layers, self._border)
        )
        self.run(samples, both, self.n_layers, batch_size)
        self._run_first(samples, ~samples.present[:, 1], alone, self._border, batch_size)
        return proba

    def _within_first(
        self, samples: EncodedPairs, layer: int, batch_size: int | str
    ) -> NDArray[np.float32]:
        """Return the probabilities of an exit of the first tower, see `budgeted`."""
        has_first, has_second = samples.present.T
        n, early = len(samples), self._network.hands_over_early
        # With early hand-over, the last exit of a sample can be below `layer`, so record all exits.
        out = np.full((n, layer if early else 1, self.n_columns), np.nan, np.float32)
        rule = RecordingRule(1 if early else layer, layer, out)
        if early:
            self._start(samples, has_first & has_second, rule, layer, batch_size)
            has_first = has_first & ~has_second
        self._run_first(samples, has_first, rule, layer, batch_size)
        own = _last_own(out)
        without = np.flatnonzero(~samples.present[:, 0])
        beginning = np.empty((n, 1, self.n_columns), np.float32)
        next_exit = RecordingRule(self._border + 1, self._border + 1, beginning)
        second_rule = SecondTowerRule(next_exit, without, self._border, 1, self._no_hand_over(n))
        self._run_second(samples, second_rule, batch_size)
        own[without] = beginning[without, 0]
        return own

    def scheduler(
        self, widest: ExitPolicy, capacity: int, batch_size: int | str = "auto"
    ) -> tuple[TowerScheduler, TowerPolicies]:
        """Return a scheduler of both towers that samples can enter at any time.

        See `Engine.scheduler`.

        Parameters
        ----------
        widest : ExitPolicy
        capacity : int
        batch_size : int or "auto"

        Returns
        -------
        scheduler : TowerScheduler
        policies : TowerPolicies
            Takes the exit policy of each sample and records the predictions.
        """
        out = Exits.empty(capacity, self.n_columns, len(self._counts))
        both, alone = (
            RowPolicyRule(dynamic_rule(widest, n, out, self._counts), out)
            for n in (self.n_layers, self._border)
        )
        numbers, border, handed = np.arange(capacity), self._border, self._no_hand_over(capacity)
        first_rule = FirstTowerRule(both, numbers, border, self._settling(capacity), handed)
        second_rule = SecondTowerRule(both, numbers, border, self.n_layers - border, handed)
        scheduler = TowerScheduler(
            self._first.scheduler_for(first_rule, batch_size),
            self._first.scheduler_for(TowerRule(alone, numbers, 0, border), batch_size),
            self._second.scheduler_for(second_rule, batch_size),
            handed,
            partial(self._contexts, handed),
        )
        return scheduler, TowerPolicies(both, alone)

    # -------------------------------------------------------------------------- tower by tower

    def run(
        self, samples: EncodedPairs, rule: ExitRule, last: int, batch_size: int | str
    ) -> HandedOver:
        """Run the samples that have a second input to their exits, up to exit `last`.

        Returns
        -------
        HandedOver
            Which samples the first tower handed over, and at which layer.
        """
        has_first, has_second = samples.present.T
        border = self._border
        handed = self._start(samples, has_first & has_second, rule, border, batch_size)
        numbers = np.flatnonzero(has_second & (~has_first | (handed.layers > 0)))
        second_rule = SecondTowerRule(rule, numbers, border, last - border, handed)
        self._run_second(samples, second_rule, batch_size)
        return handed

    def _start(
        self,
        samples: EncodedPairs,
        selected: NDArray[np.bool_],
        rule: ExitRule,
        last: int,
        batch_size: int | str,
    ) -> HandedOver:
        """Run samples through the first tower; return the states of those that are handed over."""
        handed, numbers = self._no_hand_over(len(samples)), np.flatnonzero(selected)
        if len(numbers):
            settling = self._settling(len(numbers))
            first_rule = FirstTowerRule(rule, numbers, last, settling, handed)
            self._first.run(samples.first_of(numbers), first_rule, batch_size)
        return handed

    def _settling(self, n: int) -> Settling | None:
        """Return the detector of early hand-overs for n samples; None if there are none."""
        if not self._network.hands_over_early:
            return None
        return Settling(self._network.hand_over_after or 0, self._counts, n)

    def _run_first(
        self,
        samples: EncodedPairs,
        selected: NDArray[np.bool_],
        rule: ExitRule,
        last: int,
        batch_size: int | str,
    ) -> None:
        """Run samples that only go through the first tower."""
        numbers = np.flatnonzero(selected)
        if len(numbers):
            first_rule = TowerRule(rule, numbers, 0, last)
            self._first.run(samples.first_of(numbers), first_rule, batch_size)

    def _run_second(
        self, samples: EncodedPairs, second_rule: SecondTowerRule, batch_size: int | str
    ) -> None:
        """Run the samples of a rule through the second tower."""
        numbers = second_rule.numbers
        if len(numbers):
            contexts = self._contexts(second_rule.handed, numbers)
            inputs = SamplesWithContext(samples.second_of(numbers), contexts, numbers)
            self._second.run(inputs, second_rule, batch_size)

    @torch.inference_mode()
    def _contexts(self, handed: HandedOver, numbers: NDArray[np.intp]) -> Tensor:
        """Return the contexts of samples, the additional input of the second tower's heads."""
        network = self._network
        states = torch.from_numpy(handed.states[numbers]).to(network.no_context.device)
        known = torch.from_numpy(handed.layers[numbers] > 0).unsqueeze(1)
        return torch.where(known, network.contexts(states).cpu(), network.no_context.cpu())

    def _available_exits(
        self, present: NDArray[np.bool_], handed_from: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which exits samples have, (n, M1 + M2); `handed_from` is 0 if not handed over."""
        own = np.repeat(present, (self._border, self.n_layers - self._border), axis=1)
        layers = np.arange(1, self.n_layers + 1)
        skipped = (layers > handed_from[:, np.newaxis]) & (layers <= self._border)
        own[skipped & (handed_from > 0)[:, np.newaxis]] = False
        return own

    def _no_hand_over(self, n: int) -> HandedOver:
        return HandedOver(n, self._network.first.n_features)


class _FirstEngine(Engine):
    """Engine of the first tower; keeps the pooled states of the samples that are handed over."""

    @staticmethod
    def _place(
        network: MultiExitNetwork, dtype: torch.dtype, scales: Int8Scales | None
    ) -> InferenceNetwork:
        return _PlacedFirst(network, dtype, scales)

    def _step(self, rule: ExitRule) -> LayerStep:
        return _FirstStep(self._placed, rule, self._row_first, self._graphs)


class _SecondEngine(Engine):
    """Engine of the second tower, in which the exit rule continues from its state in the first."""

    def _step(self, rule: ExitRule) -> LayerStep:
        return _SecondStep(self._placed, rule, self._row_first, self._graphs)


class _PlacedFirst(InferenceNetwork):
    """Network of the first tower; appends the pooled states to the logits of an exit."""

    def exit_logits(self, layer: int, hidden: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return logits and states of an exit from its layer's output, (n, K + c) float32."""
        return self._with_states(layer, self._pooled(layer, hidden, below, layout), layout)

    def row_logits(self, layer: int, rows: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return logits and states of an exit from the rows that it reads, (n, K + c) float32."""
        return self._with_states(layer, self._pooled_rows(layer, rows, below, layout), layout)

    def _with_states(self, layer: int, pooled: Tensor, layout: BatchLayout) -> Tensor:
        logits = self._classify(layer, pooled, layout)
        return torch.cat([logits, state_of(pooled)], dim=1)


class _FirstStep(LayerStep):
    """One layer of the first tower for a batch."""

    def _decide(
        self, active: ActiveBatch, logits: Tensor
    ) -> tuple[NDArray[np.intp] | None, ExitState | None]:
        n_columns = self._placed.network.n_columns
        decision = super()._decide(active, logits[:, :n_columns])
        if isinstance(self._rule, FirstTowerRule):
            self._rule.keep_states(active.layer + 1, active.rows, logits[:, n_columns:])
        return decision


class _SecondStep(LayerStep):
    """One layer of the second tower for a batch."""

    def start(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> ActiveBatch:
        """Return some samples, embedded, with the state of the exit rule from the first tower."""
        active = super().start(samples, rows)
        if not isinstance(self._rule, SecondTowerRule) or not isinstance(
            samples, SamplesWithContext
        ):
            return active
        state = self._rule.handed.remembered(samples.numbers[rows], self._placed.device)
        return replace(active, state=state)


def _last_own(out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the last probabilities of each sample that are not NaN, (n, M, K) -> (n, K)."""
    known = ~np.isnan(out[:, :, 0])
    last = out.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return out[np.arange(len(out)), last]
