"""Inference of networks that predict words: sentences exit whole, or word by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from .batch_scheduler import BatchScheduler, Step
from .batching import EncodedSamples
from .exit_rules import DynamicRule, ExitPolicy, ExitRule, Exits
from .int8_calibration import Int8Scales, find_scales
from .joint_exit_rules import JointRule
from .layer_step import LayerStep
from .placed_token_network import PlacedTokenNetwork
from .prediction_batches import batch_limit, batches_by_length
from .row_first import RowCosts, RowFirst
from .sentence_rules import SentenceRecordingRule, SentenceRule
from .token_network import TokenExitNetwork
from .token_step import TokenStep


class EncodedSentences(EncodedSamples, Protocol):
    """Encoded sentences whose words are predicted; `EncodedWords` are.

    A batch has ``"word_rows"``, ``"word_positions"`` and ``"piece_words"`` beside what the
    backbone reads.

    Attributes
    ----------
    word_counts : ndarray of shape (n,), int64
        Words of each sentence, at least one.
    """

    word_counts: NDArray[np.int64]


@dataclass(frozen=True)
class TokenExits:
    """Where words exited and with which prediction, in the caller's order.

    Words lie sentence after sentence, W in all.

    Attributes
    ----------
    proba : ndarray of shape (W, K), float32
        With several layers of spans, K is the sum of their classes.
    exit_layer : ndarray of shape (W,), int64
    entropy : ndarray of shape (W, T), float32
        Normalized entropy of the exit's own head, one column per layer of spans.
    word_counts : ndarray of shape (n,), int64
        Words of each sentence.
    sample_exit_layer : ndarray of shape (n,), int64
        Layer at which the last word of each sentence exited.
    rows_computed : ndarray of shape (n,), int64
        Positions of each sentence that its layers computed, special tokens included, summed over
        the layers.
    rows_total : ndarray of shape (n,), int64
        The same at full depth: positions times M.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]
    word_counts: NDArray[np.int64]
    sample_exit_layer: NDArray[np.int64]
    rows_computed: NDArray[np.int64]
    rows_total: NDArray[np.int64]

    @classmethod
    def empty(
        cls, samples: EncodedSentences, n_layers: int, n_columns: int, n_tasks: int
    ) -> TokenExits:
        """Return arrays for the predictions of some sentences, to be filled."""
        n_words = int(samples.word_counts.sum())
        return cls(
            np.empty((n_words, n_columns), np.float32),
            np.empty(n_words, np.int64),
            np.empty((n_words, n_tasks), np.float32),
            samples.word_counts,
            np.empty(len(samples), np.int64),
            np.zeros(len(samples), np.int64),
            samples.lengths * n_layers,
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return the predictions of consecutive sentences as one."""
        if len(parts) == 1:
            return parts[0]
        names = [part.name for part in fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    @property
    def words(self) -> Exits:
        """What is predicted of words, for an exit rule to fill."""
        return Exits(self.proba, self.exit_layer, self.entropy)

    @property
    def speedup(self) -> float:
        """The share of rows that were saved: 1 - sum(rows_computed) / sum(rows_total)."""
        total = int(self.rows_total.sum())
        return 1.0 - int(self.rows_computed.sum()) / total if total else 0.0


class TokenEngine:
    """Runs a trained network that predicts words.

    Parameters
    ----------
    network : TokenExitNetwork
        In evaluation mode, on its device. Never modified, so threads may share it.
    dtype : torch.dtype, default=torch.float32
        What the layers compute in; heads and entropies are float32.
    scales : Int8Scales, default=None
        On a CPU, which products of the layers are those of 8-bit numbers.

    Attributes
    ----------
    n_layers : int
        Number of layers M.
    n_columns : int
        Number of classes K, of all layers of spans together.

    Notes
    -----
    Batches, their merging and the layers are those of `Engine`. Sentences that exit whole are
    samples of a `LayerStep`; word by word they go through a `TokenStep`, in which words that have
    exited are read but no longer computed. No graphs are captured on a GPU.
    """

    def __init__(
        self,
        network: TokenExitNetwork,
        dtype: torch.dtype = torch.float32,
        scales: Int8Scales | None = None,
    ) -> None:
        self._placed = PlacedTokenNetwork(network, dtype, scales)
        self.n_layers: int = network.n_layers
        self._class_counts: tuple[int, ...] = tuple(network.class_counts)
        self.n_columns = sum(self._class_counts)
        self._dtype = dtype
        costs = RowCosts(timed=self._placed.device.type == "cpu")
        self._row_first = RowFirst(self.n_layers, costs)

    @staticmethod
    def find_scales(network: TokenExitNetwork, samples: EncodedSentences) -> Int8Scales:
        """Return how a network's layers are rounded to 8 bits; see `Engine.find_scales`."""
        return find_scales(network.adapter, samples)

    def dynamic(
        self, samples: EncodedSentences, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> TokenExits:
        """Return where words exit by a policy, and with which prediction.

        Parameters
        ----------
        samples : EncodedSentences
        policy : ExitPolicy
            Its `token_exit` says whether the words of a sentence exit together, by `joint_exit`
            over all words and layers of spans, or each by itself, by `joint_exit` over its layers
            of spans.
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
            joint = SentenceRule(
                policy, self.n_layers, out.words, self._class_counts, samples.word_counts
            )
            self.run_sentences(samples, joint, batch_size)
            out.sample_exit_layer[:] = out.exit_layer[_word_starts(samples)]
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
        """Return the probabilities of every exit, from one pass in which no word has exited.

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
        """Run sentences that exit whole; the rule records the predictions of their words.

        Parameters
        ----------
        samples : EncodedSentences
        rule : ExitRule
            Its samples are sentences; probabilities have a row for each of their words.
        batch_size : int or "auto"

        Raises
        ------
        MemoryError
            If the memory does not suffice for a single sentence.
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
            Where exits of sentences and rows are recorded.
        batch_size : int or "auto"

        Raises
        ------
        MemoryError
            If the memory does not suffice for a single sentence.
        """
        starts = _word_starts(samples)
        step = TokenStep(self._placed, rule, starts, out.rows_computed)
        self._run(samples, step, batch_size)
        if len(samples):
            out.sample_exit_layer[:] = np.maximum.reduceat(out.exit_layer, starts)

    def _recorded(
        self, samples: EncodedSentences, first: int, last: int, batch_size: int | str
    ) -> NDArray[np.float32]:
        shape = int(samples.word_counts.sum()), last - first + 1, self.n_columns
        out = np.empty(shape, np.float32)
        rule = SentenceRecordingRule(first, last, out, samples.word_counts)
        self.run_sentences(samples, rule, batch_size)
        return out

    def _run(self, samples: EncodedSentences, step: Step, batch_size: int | str) -> None:
        limit = batch_limit(batch_size, self._placed.device, self._dtype)
        with torch.inference_mode():
            BatchScheduler(step, limit).run(samples, batches_by_length(samples.lengths, limit))


def _word_starts(samples: EncodedSentences) -> NDArray[np.int64]:
    """Return the number of the first word of each sentence."""
    return np.cumsum(samples.word_counts) - samples.word_counts
