"""Inference of token classifiers: sentences exit as a whole, or word by word."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from .batch_scheduler import BatchScheduler, Step
from .continuous_scheduler import ContinuousScheduler, catch_up
from .exit_rules import DynamicRule, ExitPolicy, ExitRule, Exits
from .inference_token_network import InferenceTokenNetwork
from .int8_calibration import Int8Scales, find_scales
from .joint_exit_rules import JointRule
from .layer_step import LayerStep
from .prediction_batches import batch_limit, batches_by_length
from .row_first import RowCosts, RowFirst
from .row_policies import RowPolicyRule
from .sentence_rules import SentenceRecordingRule, SentenceRule
from .token_exits import EncodedSentences, TokenExits
from .token_network import TokenExitNetwork
from .token_step import TokenStep
from .word_numbers import WordNumbers, WordSlots
from .word_records import WordRecords


class TokenEngine:
    """Runs a trained token classification network in prediction.

    Parameters
    ----------
    network : TokenExitNetwork
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
        Number of classes K, of all layers of spans together.

    Notes
    -----
    Batches and their merging are the same as in `Engine`. If sentences exit as a whole, a
    `LayerStep` runs the layers. If words exit one by one, a `TokenStep` does; words that have
    exited are still attended to but no longer computed. No CUDA graphs are captured.
    """

    def __init__(
        self,
        network: TokenExitNetwork,
        dtype: torch.dtype = torch.float32,
        scales: Int8Scales | None = None,
    ) -> None:
        self._placed = InferenceTokenNetwork(network, dtype, scales)
        self.n_layers: int = network.n_layers
        self._class_counts: tuple[int, ...] = tuple(network.class_counts)
        self.n_columns = sum(self._class_counts)
        self._dtype = dtype
        costs = RowCosts(timed=self._placed.device.type == "cpu")
        self._row_first = RowFirst(self.n_layers, costs)

    @staticmethod
    def find_scales(network: TokenExitNetwork, samples: EncodedSentences) -> Int8Scales:
        """Return the 8-bit scales of a network's layers; see `Engine.find_scales`."""
        return find_scales(network.adapter, samples)

    def dynamic(
        self, samples: EncodedSentences, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> TokenExits:
        """Return exit layers and predictions of words under an exit policy.

        Parameters
        ----------
        samples : EncodedSentences
        policy : ExitPolicy
            With ``token_exit="sentence"``, the words of a sentence exit together, by `joint_exit`
            over all words and layers of spans; with ``"token"`` each word exits separately, by
            `joint_exit` over its layers of spans.
        batch_size : int or "auto"

        Returns
        -------
        TokenExits
        """
        n_tasks = len(self._class_counts)
        out = TokenExits.empty(samples, self.n_layers, self.n_columns, n_tasks)
        if policy.token_exit == "token":
            rule = JointRule(policy, self.n_layers, out.words, self._class_counts)
            self.run_words(samples, rule, out, batch_size)
        else:
            words = WordNumbers.in_order(samples.word_counts)
            joint = SentenceRule(policy, self.n_layers, out.words, self._class_counts, words)
            self.run_sentences(samples, joint, batch_size)
            out.sample_exit_layer[:] = out.exit_layer[words.starts]
            out.rows_computed[:] = samples.lengths * out.sample_exit_layer
        return out

    def budgeted(
        self, samples: EncodedSentences, layer: int, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of one exit; layers above it do not run.

        Parameters
        ----------
        samples : EncodedSentences
        layer : int
            Layer, counted from 1.
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (W, K), float32
            Sentence after sentence. With several layers of spans, K is the sum of their classes.
        """
        return self._recorded(samples, layer, layer, batch_size)[:, 0]

    def staged(
        self, samples: EncodedSentences, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Return the probabilities of all exits, from one pass in which no word exits.

        Parameters
        ----------
        samples : EncodedSentences
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (W, M, K), float32
            Sentence after sentence. With several layers of spans, K is the sum of their classes.
        """
        return self._recorded(samples, 1, self.n_layers, batch_size)

    def run_sentences(
        self, samples: EncodedSentences, rule: ExitRule, batch_size: int | str = "auto"
    ) -> None:
        """Run sentences that exit as a whole; the rule records the predictions of their words.

        Parameters
        ----------
        samples : EncodedSentences
        rule : ExitRule
            Its samples are sentences; probabilities have a row for each of their words.
        batch_size : int or "auto"

        Raises
        ------
        MemoryError
            If a single sentence does not fit in memory.
        """
        self._run(samples, LayerStep(self._placed, rule, self._row_first), batch_size)

    def run_words(
        self,
        samples: EncodedSentences,
        rule: DynamicRule,
        out: TokenExits,
        batch_size: int | str = "auto",
    ) -> None:
        """Run sentences whose words exit one by one; the rule records their predictions.

        Parameters
        ----------
        samples : EncodedSentences
        rule : DynamicRule
            Its samples are words. It records to ``out.words``.
        out : TokenExits
            Results; exit layers of sentences and computed rows are recorded here.
        batch_size : int or "auto"

        Raises
        ------
        MemoryError
            If a single sentence does not fit in memory.
        """
        words = WordNumbers.in_order(samples.word_counts)
        self._run(samples, TokenStep(self._placed, rule, words, out.rows_computed), batch_size)
        if len(samples):
            out.sample_exit_layer[:] = np.maximum.reduceat(out.exit_layer, words.starts)

    def scheduler(
        self, widest: ExitPolicy, capacity: int, batch_size: int | str = "auto"
    ) -> tuple[ContinuousScheduler, WordRecords]:
        """Return a scheduler that sentences can enter at any time.

        Parameters
        ----------
        widest : ExitPolicy
            The policy with the largest `tau` and the smallest `patience` of all sentences. Its
            `token_exit` says whether the words of a sentence exit together or one by one.
        capacity : int
            Maximum number of sentences that have entered and not exited.
        batch_size : int or "auto"

        Returns
        -------
        scheduler : ContinuousScheduler
        records : WordRecords
            Takes the exit policy of each sentence and records the predictions of its words.
        """
        words, n_tasks = WordSlots(capacity), len(self._class_counts)
        out = Exits(
            np.empty((0, self.n_columns), np.float32),
            np.empty(0, np.int64),
            np.empty((0, n_tasks), np.float32),
        )
        settings, rows_computed = (widest, self.n_layers, out, self._class_counts), None
        step: Step
        if widest.token_exit == "token":
            rule = RowPolicyRule(JointRule(*settings), out)
            rows_computed = np.zeros(capacity, np.int64)
            step = TokenStep(self._placed, rule, words, rows_computed)
        else:
            rule = RowPolicyRule(SentenceRule(*settings, words), out)
            step = LayerStep(self._placed, rule, self._row_first)
        limit = batch_limit(batch_size, self._placed.device, self._dtype)
        scheduler = ContinuousScheduler(step, limit, partial(catch_up, most=self.n_layers))
        return scheduler, WordRecords(rule, words, rows_computed)

    def _recorded(
        self, samples: EncodedSentences, first: int, last: int, batch_size: int | str
    ) -> NDArray[np.float32]:
        shape = int(samples.word_counts.sum()), last - first + 1, self.n_columns
        out = np.empty(shape, np.float32)
        words = WordNumbers.in_order(samples.word_counts)
        rule = SentenceRecordingRule(first, last, out, words)
        self.run_sentences(samples, rule, batch_size)
        return out

    def _run(self, samples: EncodedSentences, step: Step, batch_size: int | str) -> None:
        limit = batch_limit(batch_size, self._placed.device, self._dtype)
        with torch.inference_mode():
            BatchScheduler(step, limit).run(samples, batches_by_length(samples.lengths, limit))
