"""Inference through the layers with an exit rule: dynamic, budgeted and staged."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from .batch_scheduler import BatchScheduler
from .batching import EncodedSamples
from .continuous_scheduler import ContinuousScheduler, catch_up
from .exit_rules import ExitPolicy, ExitRule, Exits, RecordingRule, VisitedRule
from .graphs import CudaCapture, LayerGraphs
from .inference_network import InferenceNetwork
from .int8_calibration import Int8Scales, find_scales
from .joint_exit_rules import dynamic_rule
from .layer_step import LayerStep
from .network import MultiExitNetwork
from .prediction_batches import batch_limit, batches_by_length, calls_in_positions
from .row_first import RowCosts, RowFirst
from .row_policies import RowPolicyRule


class Engine:
    """Runs a trained network in prediction.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on its device. Never modified, so threads may share it.
    dtype : torch.dtype, default=torch.float32
        Data type of the layers; heads and entropies are float32.
    scales : Int8Scales, default=None
        On a CPU: 8-bit scales of the layers' matrix products.

    Attributes
    ----------
    n_layers : int
        Number of layers M.
    n_columns : int
        Number of classes K, of all tasks together.

    Notes
    -----
    A call splits the samples into batches of similar length (`batches_by_length`). A
    `BatchScheduler` runs them layer by layer; a `LayerStep` runs one layer of a batch, and an exit
    rule decides which samples exit there and records their predictions.

    On a CPU, the layers run on copies of their weights in a layout for the processor
    (`fast_backbone`). On a GPU, small batches replay captured CUDA graphs (`LayerGraphs`).
    """

    def __init__(
        self,
        network: MultiExitNetwork,
        dtype: torch.dtype = torch.float32,
        scales: Int8Scales | None = None,
    ) -> None:
        self._placed = self._place(network, dtype, scales)
        self.n_layers = network.n_layers
        self.n_columns = network.n_columns
        self._class_counts = network.class_counts
        self._dtype = dtype
        device = self._placed.device
        on_gpu, timed = device.type == "cuda", device.type == "cpu"
        calls = calls_in_positions(device, dtype)
        costs = RowCosts(timed, calls=0 if timed else calls)
        self._row_first = RowFirst(network.n_layers, costs)
        pads_length = network.adapter.kind == "text"
        # Layers that can only be run as a whole prepare their arguments on the CPU, which a graph
        # cannot record.
        self._graphs = (
            LayerGraphs(
                self._placed.run_layer, pads_length, CudaCapture(device), max_positions=calls
            )
            if on_gpu and network.adapter.rows_apart
            else None
        )

    @staticmethod
    def _place(
        network: MultiExitNetwork, dtype: torch.dtype, scales: Int8Scales | None
    ) -> InferenceNetwork:
        return InferenceNetwork(network, dtype, scales)

    @staticmethod
    def find_scales(network: MultiExitNetwork, samples: EncodedSamples) -> Int8Scales:
        """Return the 8-bit scales of a network's layers; see `int8_calibration.find_scales`.

        Parameters
        ----------
        network : MultiExitNetwork
            In evaluation mode, on a CPU, in float32.
        samples : EncodedSamples
            Some of the training samples.

        Returns
        -------
        Int8Scales
        """
        return find_scales(network.adapter, samples)

    def _step(self, rule: ExitRule) -> LayerStep:
        return LayerStep(self._placed, rule, self._row_first, self._graphs)

    def dynamic(
        self, samples: EncodedSamples, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> Exits:
        """Return exit layers and predictions of samples under an exit policy.

        Parameters
        ----------
        samples : EncodedSamples
        policy : ExitPolicy
        batch_size : int or "auto"

        Returns
        -------
        Exits
        """
        out = Exits.empty(len(samples), self.n_columns, len(self._class_counts))
        self.run(samples, dynamic_rule(policy, self.n_layers, out, self._class_counts), batch_size)
        return out

    def budgeted(
        self, samples: EncodedSamples, layer: int, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of one exit; layers above it do not run.

        Parameters
        ----------
        samples : EncodedSamples
        layer : int
            Layer, counted from 1.
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, K), float32
            With several tasks side by side, K is the sum of their classes.
        """
        out = np.empty((len(samples), 1, self.n_columns), np.float32)
        self.run(samples, RecordingRule(layer, layer, out), batch_size)
        return out[:, 0]

    def staged(
        self, samples: EncodedSamples, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of all exits, from one pass.

        Parameters
        ----------
        samples : EncodedSamples
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, M, K), float32
            With several tasks side by side, K is the sum of their classes.
        """
        out = np.empty((len(samples), self.n_layers, self.n_columns), np.float32)
        self.run(samples, RecordingRule(1, self.n_layers, out), batch_size)
        return out

    def visited(
        self, samples: EncodedSamples, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of the exits that samples reach under an exit policy.

        Parameters
        ----------
        samples : EncodedSamples
        policy : ExitPolicy
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, M, K), float32
            NaN above a sample's exit.
        """
        proba = np.full((len(samples), self.n_layers, self.n_columns), np.nan, np.float32)
        out = Exits.empty(len(samples), self.n_columns, len(self._class_counts))
        rule = dynamic_rule(policy, self.n_layers, out, self._class_counts)
        self.run(samples, VisitedRule(rule, proba), batch_size)
        return proba

    def run(self, samples: EncodedSamples, rule: ExitRule, batch_size: int | str = "auto") -> None:
        """Run samples to their exits; the rule records their predictions.

        Parameters
        ----------
        samples : EncodedSamples
        rule : ExitRule
        batch_size : int or "auto"

        Raises
        ------
        MemoryError
            If a single sample does not fit in memory.
        """
        limit = batch_limit(batch_size, self._placed.device, self._dtype)
        batches = batches_by_length(samples.lengths, limit, samples.windows)
        with torch.inference_mode():
            BatchScheduler(self._step(rule), limit).run(samples, batches)

    def scheduler(
        self, widest: ExitPolicy, capacity: int, batch_size: int | str = "auto"
    ) -> tuple[ContinuousScheduler, RowPolicyRule]:
        """Return a scheduler that samples can enter at any time.

        Parameters
        ----------
        widest : ExitPolicy
            The policy with the largest `tau` and the smallest `patience` of all samples.
        capacity : int
            Maximum number of samples that have entered and not exited.
        batch_size : int or "auto"

        Returns
        -------
        scheduler : ContinuousScheduler
        rule : RowPolicyRule
            Takes the exit policy of each sample and records the predictions.
        """
        out = Exits.empty(capacity, self.n_columns, len(self._class_counts))
        rule = RowPolicyRule(dynamic_rule(widest, self.n_layers, out, self._class_counts), out)
        return self.scheduler_for(rule, batch_size), rule

    def scheduler_for(self, rule: ExitRule, batch_size: int | str = "auto") -> ContinuousScheduler:
        """Return a scheduler with an exit rule; see `scheduler`.

        Parameters
        ----------
        rule : ExitRule
            Identifies samples by slots, numbers that are reused.
        batch_size : int or "auto"
        """
        limit = batch_limit(batch_size, self._placed.device, self._dtype)
        return ContinuousScheduler(self._step(rule), limit, partial(catch_up, most=self.n_layers))
