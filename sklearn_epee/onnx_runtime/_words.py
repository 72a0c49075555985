"""Find words among tokens, and spans among tags."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._samples import Samples
from ._texts import TextReader, padded

__all__ = ["Sentence", "Sentences", "Tags", "read_sentences"]

Span = tuple[int, int, str]

# Replaces every character that belongs to the one before it.
_MARK = "\u0301"
# Numbers, letters with digits behind them, and any other character.
_WORD = re.compile(
    rf"\d+(?:[.,]\d+)*{_MARK}*|(?:[^\W\d_]{_MARK}*)(?:[^\W_]{_MARK}*)*|[^\s\0]{_MARK}*"
)
# The log probability of a tag of probability 0.
_LOG_OF_ZERO = -1e6


@dataclass(frozen=True)
class Sentence:
    """The words of a text or of a list, and the place of each, in characters or in words."""

    words: list[str]
    places: list[tuple[int, int]]

    @classmethod
    def of(cls, given: Any) -> Sentence:
        """Return a text or a list of words as a sentence."""
        if isinstance(given, str):
            places = [found.span() for found in _WORD.finditer("".join(map(_plain, given)))]
            return cls([given[start:stop] for start, stop in places], places)
        words = [str(word) for word in given]
        return cls(words, [(place, place + 1) for place in range(len(words))])


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "M" or character in "\u00ad\u200c\u200d":
        return _MARK
    return " " if category in ("Cc", "Cf") else character


@dataclass(frozen=True)
class Sentences:
    """Encoded sentences.

    Attributes
    ----------
    samples : Samples
        Sentences with at least one word that is read, with ``word_starts`` and ``piece_words``,
        (n, t).
    rows : ndarray of shape (n,)
        Their indices among all sentences.
    sentences : list of Sentence
        All sentences.
    is_read : ndarray of bool
        Whether each word is read, sentence after sentence.
    """

    samples: Samples
    rows: NDArray[np.intp]
    sentences: list[Sentence]
    is_read: NDArray[np.bool_]

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any]) -> Sentences:
        """Return sentences that the caller encoded; all their words are read."""
        samples = Samples(arrays)
        for name in ("word_starts", "piece_words"):
            if name not in samples.arrays:
                raise ValueError(f"X has no {name}, which is needed to find the words.")
        counts = samples.arrays["word_starts"].sum(axis=1)
        sentences = [Sentence.of([""] * n) for n in counts]
        return cls(
            samples, np.arange(len(samples)), sentences, np.ones(int(counts.sum()), np.bool_)
        )


def read_sentences(given: Sequence[Any], reader: TextReader, n_before: int = 0) -> Sentences:
    """Encode texts or lists of words; `n_before` is the number of those before, for messages.

    Raises
    ------
    TypeError
        If one is neither a text nor a list of words.
    ValueError
        If one is not valid Unicode.
    """
    for row, one in enumerate(given):
        is_list = isinstance(one, (list, tuple)) or (isinstance(one, np.ndarray) and one.ndim == 1)
        words = one if is_list else [one]
        if unknown := [word for word in words if not isinstance(word, str)]:
            raise TypeError(
                f"X[{n_before + row}] has {repr(unknown[0])[:80]} of type "
                f"{type(unknown[0]).__name__}; expected a text or a list of words."
            )
    sentences = [Sentence.of(one) for one in given]
    texts = [" ".join(sentence.words) for sentence in sentences]
    encoded = reader.encodings(texts, n_before)
    pieces = [
        _pieces(sentence.words, part, reader.settings)
        for sentence, part in zip(sentences, encoded, strict=True)
    ]
    is_read = [part.is_read for part in pieces]
    rows = np.array([row for row, read in enumerate(is_read) if read.any()], np.intp)
    kept = [pieces[row] for row in rows]
    arrays = padded([part.ids for part in kept], reader.settings["pad_id"])
    mask = arrays["attention_mask"].astype(bool)
    owners = np.full(mask.shape, -1, np.int64)
    starts = np.zeros(mask.shape, np.bool_)
    if kept:
        owners[mask] = np.concatenate([part.owners for part in kept])
        starts[mask] = np.concatenate([part.starts for part in kept])
    samples = Samples({**arrays, "piece_words": owners, "word_starts": starts})
    return Sentences(samples, rows, sentences, np.concatenate([np.empty(0, np.bool_), *is_read]))


@dataclass(frozen=True)
class _Pieces:
    """The pieces of a sentence that are kept; words that are read are numbered from 0."""

    ids: list[int]
    owners: NDArray[np.int64]
    starts: NDArray[np.bool_]
    is_read: NDArray[np.bool_]


def _pieces(words: Sequence[str], encoding: Any, settings: Mapping[str, Any]) -> _Pieces:
    """Assign each piece to a word, by the last character of the piece."""
    lengths = np.array([len(word) for word in words], np.int64)
    stops = np.cumsum(lengths + 1) - 1
    special = np.array([part is None for part in encoding.sequence_ids], np.bool_)
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    last = offsets[:, 1] - 1
    owners = np.searchsorted(stops - lengths, last, side="right") - 1
    in_word = ~special & (offsets[:, 1] > offsets[:, 0])
    if len(words):
        in_word &= last < stops[owners]
    # A piece that ends with a blank belongs to the next word.
    owners = np.where(in_word, owners, np.minimum(owners + 1, len(words) - 1))
    owners = np.where(special, -1, owners)
    starts = np.zeros(len(owners), np.bool_)
    inside = np.flatnonzero(in_word)
    starts[inside[np.unique(owners[inside], return_index=True)[1]]] = True
    kept = _kept(special, settings)
    return _numbered(encoding.ids, owners, starts, kept, len(words))


def _kept(special: NDArray[np.bool_], settings: Mapping[str, Any]) -> NDArray[np.intp]:
    """Return the positions that are kept: all special tokens, and as much text as fits."""
    of_text = np.flatnonzero(~special)
    room = settings["max_length"] - int(special.sum())
    if len(of_text) > room:
        left = settings["truncation_side"] == "left"
        of_text = of_text[len(of_text) - room :] if left else of_text[:room]
    return np.union1d(np.flatnonzero(special), of_text)


def _numbered(
    ids: Sequence[int],
    owners: NDArray[np.int64],
    starts: NDArray[np.bool_],
    kept: NDArray[np.intp],
    n_words: int,
) -> _Pieces:
    owners, starts = owners[kept], starts[kept]
    is_read = np.zeros(n_words, np.bool_)
    is_read[owners[starts]] = True
    number = np.append(np.where(is_read, np.cumsum(is_read) - 1, -1), -1)
    return _Pieces([ids[place] for place in kept], number[owners], starts, is_read)


class Tags:
    """The tags of one layer of spans.

    Parameters
    ----------
    names : ndarray of shape (K,), str
    scheme : {"IOB2", "BIOES", "IO"}
    transitions : dict, default=None
        Scores of tags after other tags, and which tags may end a sentence. None: each word gets its
        most probable tag.
    """

    def __init__(
        self, names: NDArray[Any], scheme: str, transitions: Mapping[str, Any] | None = None
    ) -> None:
        self._names = names
        self._begins = {"IOB2": "B", "BIOES": "BS", "IO": "I"}[scheme]
        self._ends_by_tag = scheme == "BIOES"
        self._scores: NDArray[np.float64] | None = None
        if transitions is not None:
            rows = [[-np.inf if x is None else x for x in row] for row in transitions["scores"]]
            self._scores = np.array(rows, np.float64)
            self._may_end = np.array(transitions["may_end"], np.bool_)

    def of_words(self, proba: NDArray[np.float32]) -> list[str]:
        """Return the tags of the words of a sentence."""
        if self._scores is None or not len(proba):
            codes = proba.argmax(axis=1)
        else:
            codes = self._best_sequence(proba, self._scores)
        found: list[str] = self._names[codes].tolist()
        return found

    def _best_sequence(
        self, proba: NDArray[np.float32], scores: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Return the most probable valid sequence of tags, by the Viterbi algorithm."""
        likely = np.full(proba.shape, _LOG_OF_ZERO)
        np.log(proba, out=likely, where=proba > 0)
        best, came_from = likely[0] + scores[-1], []
        for of_word in likely[1:]:
            sums = best[:, np.newaxis] + scores[:-1]
            came_from.append(sums.argmax(axis=0))
            best = sums.max(axis=0) + of_word
        last = np.where(self._may_end, best, -np.inf)
        tags = [int(last.argmax())]
        for before in reversed(came_from):
            tags.append(int(before[tags[-1]]))
        return np.array(tags[::-1], np.intp)

    def spans(self, tags: Sequence[str], places: Sequence[tuple[int, int]]) -> list[Span]:
        """Decode tags of words to spans, in the units of the words' places."""
        parts = [(tag[:1], tag[2:] or "_") for tag in tags]
        spans: list[Span] = []
        start = 0
        while start < len(parts):
            stop = self._stop_of_span(parts, start)
            if stop:
                spans.append((places[start][0], places[stop - 1][1], parts[start][1]))
            start = max(stop, start + 1)
        return spans

    def _stop_of_span(self, parts: list[tuple[str, str]], start: int) -> int:
        """Return the end of the span that starts at a word; 0 if none does."""
        prefix, label = parts[start]
        if prefix not in self._begins:
            return 0
        stop = start + 1
        if prefix == "S":
            return stop
        while parts[stop : stop + 1] == [("I", label)]:
            stop += 1
        if not self._ends_by_tag:
            return stop
        return stop + 1 if parts[stop : stop + 1] == [("E", label)] else 0
