"""Tokenize texts with entity markers: find the marker tokens, and shorten around them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding
from transformers import PreTrainedTokenizerBase

from sklearn_epee._checks.entity_marks import (
    EXPECTED_MARKS,
    MarkedEntity,
    kept_around,
    marked_entities,
    marks_in,
)
from sklearn_epee._checks.messages import SampleError, shown
from sklearn_epee._checks.texts import Text

from .batching import EncodedTexts
from .texts import TextTokenizer, call_tokenizer, chunks_of_texts

# `sample_form` of texts with marked entities.
MARKED = "marked"

Pieces = list[tuple[int, int]]


class MarkedTextTokenizer(TextTokenizer):
    """Convert texts with two marked entities to token ids and positions of the opening marks.

    The tokens of the marks are found by their characters, so marks need not be single tokens. Of a
    text that is too long, both entities are kept, and as many tokens around and between them as
    fit.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer, which knows the characters of its tokens.
    max_length : int
        Maximum number of tokens of a row, including special tokens.

    Raises
    ------
    ValueError
        If the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                "pooling='entity' finds the marks by the characters of their tokens, which "
                f"{type(tokenizer).__name__}, a tokenizer written in Python, does not provide; "
                "expected a fast tokenizer (a tokenizer.json), or another pooling."
            )
        super().__init__(tokenizer, max_length, n_segments=0, reads_pairs=False)

    @property
    def sample_form(self) -> str:  # type: ignore[override]
        """Property that samples must share with the training samples: marks."""
        return MARKED

    def _encode(self, texts: Sequence[Text]) -> tuple[EncodedTexts, int]:
        """Return token ids with the positions of the marks, and the number of truncated texts."""
        ids: list[NDArray[np.int32]] = []
        lengths: list[int] = []
        positions: list[list[int]] = []
        n_truncated = 0
        for chunk in chunks_of_texts(texts):
            encodings = call_tokenizer(self.tokenizer, chunk, truncation=False).encodings or []
            for text, encoding in zip(chunk, encodings, strict=True):
                row, read = self._row(len(lengths), str(text), encoding)
                n_truncated += len(encoding) > self.max_length
                lengths.append(len(row))
                positions.append(read)
                ids.append(np.array(row, dtype=np.int32))
        encoded = EncodedTexts(
            np.concatenate(ids),
            np.array(lengths, dtype=np.int64),
            None,
            self.tokenizer.pad_token_id or 0,
            entity_positions=np.array(positions, dtype=np.int64),
        )
        return encoded, n_truncated

    def _row(self, number: int, text: str, encoding: Encoding) -> tuple[list[int], list[int]]:
        """Return the token ids of a text, and the positions of both opening marks."""
        entities = marked_entities(text)
        if isinstance(entities, str):
            raise SampleError(number, f"{entities}: {shown(text)}.")
        pieces = [_tokens_of(number, text, entity, encoding) for entity in entities]
        read = [parts[0][0] for parts in pieces]
        if len(encoding) <= self.max_length:
            return encoding.ids, read
        kept = self._kept(number, pieces[0] + pieces[1], encoding)
        return [encoding.ids[i] for i in kept], np.searchsorted(kept, read).tolist()

    def _kept(self, number: int, pieces: Pieces, encoding: Encoding) -> NDArray[np.intp]:
        """Return the positions that are kept of a text that is too long."""
        of_text = np.array([sequence is not None for sequence in encoding.sequence_ids])
        first = int(of_text.argmax())
        room = self.max_length - int((~of_text).sum())
        inner = [(start - first, stop - first) for start, stop in pieces]
        lengths = np.ones(int(of_text.sum()), dtype=np.int64)
        chosen = kept_around(lengths, inner, room)
        if chosen is None:
            n_needed = len({token for start, stop in pieces for token in range(start, stop)})
            raise SampleError(
                number,
                f"does not fit: its two entities with their marks have {n_needed} tokens, of "
                f"which max_length={self.max_length} leaves room for {room}. Raise max_length, or "
                "shorten the entities.",
            )
        return np.union1d(np.flatnonzero(~of_text), chosen + first)

    def _unread(self) -> str:
        return (
            f"longer than max_length={self.max_length} tokens; the tokens farthest from both "
            "entities are not read."
        )


def _tokens_of(number: int, text: str, entity: MarkedEntity, encoding: Encoding) -> Pieces:
    """Return the token range (start, stop) of each part of an entity, including its marks.

    Raises
    ------
    SampleError
        If the tokenizer drops a mark.
    """
    pieces = []
    for start, stop in entity.pieces:
        first, last = encoding.char_to_token(start), encoding.char_to_token(stop - 1)
        if first is None or last is None:
            raise SampleError(
                number,
                f"has the mark {text[start : start + 4]!r}, which this tokenizer drops; use "
                "another tokenizer, or entity_marks='tokens'.",
            )
        pieces.append((first, last + 1))
    return pieces


def with_mark_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any]
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer in which the marks of some texts are single tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Not modified, because it may be the user's.
    texts : sequence of str
        Texts with marks.

    Returns
    -------
    PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        If there are no marks.
    """
    marks = marks_in([text for text in texts if isinstance(text, str)])
    if not marks:
        raise ValueError(
            f"entity_marks='tokens' finds no marks; expected texts with {EXPECTED_MARKS}."
        )
    tokenizer = copy.deepcopy(tokenizer)
    # Without `lstrip`, some tokenizers would make the blank before a mark a separate token.
    tokenizer.add_tokens([AddedToken(mark, lstrip=True, normalized=False) for mark in marks])
    return tokenizer
