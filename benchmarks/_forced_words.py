"""Forced exits of words and sentences, at the same cost in rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks._forced_exits import forced_exits
from sklearn_epee._nn.exit_rules import Decision, ExitPolicy, ExitState
from sklearn_epee._nn.joint_exit_rules import JointRule
from sklearn_epee._nn.sentence_rules import SentenceRule
from sklearn_epee._nn.token_engine import TokenEngine, TokenExits
from sklearn_epee._nn.word_numbers import WordNumbers

# A policy under which every head runs.
POLICY = ExitPolicy(0.5, 99, None, np.ones(1))


class ForcedWords(JointRule):
    """Words exit at the layers of a schedule; everything else runs as under a policy."""

    schedule: np.ndarray

    def decide(
        self, layer: int, proba: torch.Tensor, rows: np.ndarray, state: ExitState | None
    ) -> Decision:
        """Record the predictions of the words that exit at this layer."""
        entropy, exits = self._entropy(proba), None
        if layer < self.last_layer:
            self._exits(layer, entropy, state)
            exits = torch.from_numpy(self.schedule[rows] <= layer).to(proba.device)
        return Decision(self._settle(layer, rows, exits, (proba, entropy), state), state)


class ForcedSentences(SentenceRule):
    """Sentences exit at the layers of a schedule, (n,)."""

    schedule: np.ndarray
    exits: torch.Tensor

    def decide(
        self, layer: int, proba: torch.Tensor, rows: np.ndarray, state: ExitState | None
    ) -> Decision:
        """Record the predictions of the sentences that exit at this layer."""
        self.exits = torch.from_numpy(self.schedule[rows] <= layer).to(proba.device)
        return super().decide(layer, proba, rows, state)

    def _together(self, *args: Any) -> torch.Tensor:
        super()._together(*args)
        return self.exits


def run_words(
    engine: TokenEngine, encoded: Any, batch_size: int | str, schedule: np.ndarray
) -> TokenExits:
    """Run an engine word by word with forced exits, (W,)."""
    out = _empty(engine, encoded)
    rule = ForcedWords(POLICY, engine.n_layers, out.words, engine._class_counts)
    rule.schedule = schedule
    engine.run_words(encoded, rule, out, batch_size)
    return out


def run_sentences(
    engine: TokenEngine, encoded: Any, batch_size: int | str, schedule: np.ndarray
) -> TokenExits:
    """Run an engine sentence by sentence with forced exits, (n,)."""
    out = _empty(engine, encoded)
    words = WordNumbers.in_order(encoded.word_counts)
    rule = ForcedSentences(POLICY, engine.n_layers, out.words, engine._class_counts, words)
    rule.schedule = schedule
    engine.run_sentences(encoded, rule, batch_size)
    return out


def _empty(engine: TokenEngine, encoded: Any) -> TokenExits:
    return TokenExits.empty(encoded, engine.n_layers, engine.n_columns, len(engine._class_counts))


def word_schedule(encoded: Any, n_layers: int, share: float) -> np.ndarray:
    """Draw exit layers of words for a given share of computed rows.

    Parameters
    ----------
    encoded : EncodedWords
    n_layers : int
    share : float
        Share of the rows at full depth.

    Returns
    -------
    ndarray of shape (W,), int64

    Notes
    -----
    The words of a sentence exit independently, so that in nearly all sentences at least one word
    runs through all layers. This is the hardest case for the engine, which keeps a sentence with
    its keys and values until its last word exits.
    """
    pieces = _pieces_of_words(encoded)
    low, high = 1.0, float(n_layers)
    schedule = np.full(len(pieces), n_layers)
    while high - low > 0.02 and share < 1:
        middle = (low + high) / 2
        schedule = forced_exits(len(pieces), n_layers, middle)
        found = rows_of_words(encoded, schedule, pieces).sum()
        if found > share * n_layers * encoded.lengths.sum():
            high = middle
        else:
            low = middle
    return schedule


def _pieces_of_words(encoded: Any) -> np.ndarray:
    """Return the number of positions of each word, (W,)."""
    owners = [
        encoded.batch(np.array([row]))["piece_words"][0].numpy() for row in range(len(encoded))
    ]
    counts = zip(owners, encoded.word_counts, strict=True)
    return np.concatenate([np.bincount(row[row >= 0], minlength=n) for row, n in counts])


def rows_of_words(encoded: Any, schedule: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Return the number of computed rows of each sentence, given exits of its words, (n,)."""
    starts = np.cumsum(encoded.word_counts) - encoded.word_counts
    special = encoded.lengths - np.add.reduceat(pieces, starts)
    last = np.maximum.reduceat(schedule, starts)
    return np.add.reduceat(pieces * schedule, starts) + special * last
