"""Tokenize lists of words, and find the tokens of every word."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from sklearn_epee._checks.messages import level_of_caller

from .long_texts import special_tokens_around
from .texts import TextTokenizer, call_tokenizer, chunks_of_texts, tokenize, windows_of_texts
from .word_batches import EncodedWords, PlacedWords

Words = Sequence[str]

# The `sample_form` of lists of words.
WORDS = "words"
_PREDICTED_OUTSIDE = "They are predicted 'O'."


class Pieces(NamedTuple):
    """The pieces of one text, including special tokens.

    Attributes
    ----------
    ids : ndarray of shape (t,), int32
    owners : ndarray of shape (t,), int64
        Word of each piece; -1 for special tokens.
    starts : ndarray of shape (t,), bool
        Whether each piece is the first one of its word.
    """

    ids: NDArray[np.int32]
    owners: NDArray[np.int64]
    starts: NDArray[np.bool_]


class WordTokenizer(TextTokenizer):
    """Convert lists of words to token ids, with the positions of the words.

    The words of a text are joined by blanks, so that a text and the list of its words are the same
    input for a network. Pieces are assigned to words by the character offsets of fast tokenizers;
    slow tokenizers, which have no offsets, tokenize each word separately.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    max_length : int
        Maximum number of tokens, including special tokens; longer texts are truncated on the
        `truncation_side` of the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().__init__(tokenizer, max_length, n_segments=0, reads_pairs=False)

    @property
    def sample_form(self) -> str:  # type: ignore[override]
        """Form of the samples: lists of words."""
        return WORDS

    def encode(self, texts: Sequence[Words]) -> EncodedWords:
        """Return the token ids of training texts; warn once of words that are not read.

        Parameters
        ----------
        texts : sequence of sequences of str

        Returns
        -------
        EncodedWords
        """
        return self._encoded(texts, "They are left out of the loss.")

    def encode_to_predict(self, texts: Sequence[Words]) -> EncodedWords:
        """Return the token ids of a few texts; warn once of words that are not read.

        Parameters
        ----------
        texts : sequence of sequences of str

        Returns
        -------
        EncodedWords
        """
        return self._encoded(texts, _PREDICTED_OUTSIDE)

    def _encoded(self, texts: Sequence[Words], outcome: str) -> EncodedWords:
        placed = self._placed(texts)
        self._warn_of_unread(_unread(placed), outcome)
        return EncodedWords(placed, self.tokenizer.pad_token_id or 0)

    def encode_for_training(self, texts: Sequence[Words]) -> EncodedWords:
        """Return the token ids of training texts, without random augmentation."""
        return self.encode(texts)

    def encode_in_windows(self, texts: Sequence[Words]) -> Iterator[EncodedWords]:
        """Yield the token ids of texts in parts of some thousands, to limit memory use.

        Parameters
        ----------
        texts : sequence of sequences of str

        Yields
        ------
        EncodedWords
            The next texts in order.
        """
        counts = np.zeros(4, dtype=np.int64)
        for window in windows_of_texts(texts):
            placed = self._placed(window)
            counts += _unread(placed)
            yield EncodedWords(placed, self.tokenizer.pad_token_id or 0)
        self._warn_of_unread(counts, _PREDICTED_OUTSIDE)

    def _warn_of_unread(self, counts: NDArray[np.int64], outcome: str) -> None:
        """Warn of truncated words, and of words without pieces."""
        n_long, n_truncated, n_empty, n_texts = counts.tolist()
        if n_truncated:
            warnings.warn(
                f"{n_long} of {n_texts} texts are longer than max_length={self.max_length} tokens; "
                f"{n_truncated} of their words are not read. {outcome}",
                UserWarning,
                stacklevel=level_of_caller(),
            )
        if n_empty:
            warnings.warn(
                f"The tokenizer makes no token of {n_empty} words (they are empty, or of "
                f"characters that it removes), so that they are not read. {outcome}",
                UserWarning,
                stacklevel=level_of_caller(),
            )

    def _placed(self, texts: Sequence[Words]) -> list[PlacedWords]:
        """Return token ids of texts with the positions of their words, truncated if too long."""
        placed = []
        for words, pieces in zip(texts, self._pieces(texts), strict=True):
            kept = self._kept(pieces)
            placed.append(PlacedWords.from_pieces(*pieces, kept, len(words)))
        return placed

    def _pieces(self, texts: Sequence[Words]) -> Iterator[Pieces]:
        if not self.tokenizer.is_fast:
            yield from pieces_word_by_word(self.tokenizer, texts)
            return
        for chunk in chunks_of_texts(texts):
            joined = [" ".join(words) for words in chunk]
            encodings = call_tokenizer(self.tokenizer, joined, truncation=False).encodings or []
            for words, encoding in zip(chunk, encodings, strict=True):
                yield pieces_by_characters(words, encoding)

    def _kept(self, pieces: Pieces) -> NDArray[np.intp]:
        """Return the positions to keep: special tokens, and as many others as fit."""
        of_text = np.flatnonzero(pieces.owners >= 0)
        special = np.flatnonzero(pieces.owners < 0)
        room = self.max_length - len(special)
        if len(of_text) <= room:
            return np.arange(len(pieces.ids))
        from_left = self.tokenizer.truncation_side == "left"
        return np.union1d(special, of_text[len(of_text) - room :] if from_left else of_text[:room])


def _unread(placed: Iterable[PlacedWords]) -> NDArray[np.int64]:
    """Count truncated texts, truncated words, words without pieces, and texts."""
    counts = [
        (text.n_truncated > 0, text.n_truncated, (~text.is_read).sum() - text.n_truncated, 1)
        for text in placed
    ]
    return np.array(counts, dtype=np.int64).reshape(-1, 4).sum(0)


def pieces_by_characters(words: Words, encoding: Encoding) -> Pieces:
    """Return the pieces of words that were joined by blanks.

    Parameters
    ----------
    words : sequence of str
    encoding : Encoding
        Encoding of the joined text by a fast tokenizer, including special tokens.
    """
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    ends = np.cumsum(lengths + 1) - 1
    begins = ends - lengths
    special = np.array([part is None for part in encoding.sequence_ids], dtype=bool)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    # Use the last character of a piece, because the first one may be the blank before the word.
    last = offsets[:, 1] - 1
    owners = np.searchsorted(begins, last, side="right") - 1
    of_word = ~special & (offsets[:, 1] > offsets[:, 0])
    in_word = of_word & (last < ends[owners]) if len(words) else of_word
    # A piece that is only a blank belongs to the next word.
    owners = np.where(in_word, owners, np.minimum(owners + 1, len(words) - 1))
    owners = np.where(special, -1, owners)
    return Pieces(np.array(encoding.ids, dtype=np.int32), owners, _first_pieces(owners, in_word))


def pieces_word_by_word(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Words]
) -> Iterator[Pieces]:
    """Yield the pieces of texts from a tokenizer without character offsets."""
    before, after = special_tokens_around(tokenizer, tokenize)
    distinct = sorted({word for words in texts for word in words})
    found = tokenize(
        tokenizer,
        distinct,
        truncation=False,
        add_special_tokens=False,
        return_token_type_ids=False,
    )["input_ids"] if distinct else []  # fmt: skip
    ids_of = dict(zip(distinct, found, strict=True))
    around = tokenize(tokenizer, ["a"], truncation=False, return_token_type_ids=False)
    prefix, suffix = around["input_ids"][0][:before], around["input_ids"][0]
    suffix = suffix[len(suffix) - after :]
    for words in texts:
        parts = [ids_of[word] for word in words]
        counts = [before, *map(len, parts), after]
        owners = np.repeat([-1, *range(len(words)), -1], counts)
        ids = [*prefix, *(number for part in parts for number in part), *suffix]
        yield Pieces(np.array(ids, dtype=np.int32), owners, _first_pieces(owners, owners >= 0))


def _first_pieces(owners: NDArray[np.int64], in_word: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which pieces are the first of their word, among those with a character of it."""
    places = np.flatnonzero(in_word)[::-1]
    first = np.full(owners.max(initial=-1) + 1, -1, dtype=np.int64)
    # Of several pieces of a word, the last one that is assigned is the first one of the text.
    first[owners[places]] = places
    starts = np.zeros(len(owners), dtype=bool)
    starts[first[first >= 0]] = True
    return starts
