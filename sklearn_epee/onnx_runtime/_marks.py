"""Find the tokens of opening entity markers in texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._samples import Samples
from ._texts import TextReader, padded

__all__ = ["read_marked"]

# "[E1]", "[/E2]", or with the entity's type, "[E1:drug]".
_MARK = re.compile(r"\[(?P<closing>/?)E(?P<number>[12])(?::[^\[\]\r\n]+)?\]")
Pieces = list[tuple[int, int]]


def read_marked(texts: Sequence[Any], reader: TextReader, n_before: int = 0) -> Samples:
    """Return texts as samples with ``entity_positions``, (n, 2).

    Parameters
    ----------
    texts : sequence of str
    reader : TextReader
        A reader that does not truncate.
    n_before : int, default=0
        Number of texts before these, for error messages.

    Raises
    ------
    ValueError
        If an entity is not marked, or both do not fit into a row; the message names the text.
    """
    rows, positions = [], []
    longest = reader.settings["max_length"]
    encodings = reader.encodings(texts, n_before)
    for number, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        try:
            entities = [_tokens(text, which, encoding) for which in "12"]
            kept = _kept(entities[0] + entities[1], encoding, longest)
        except ValueError as error:
            raise ValueError(f"X[{n_before + number}] {error}: {str(text)[:80]!r}.") from None
        rows.append([encoding.ids[place] for place in kept])
        positions.append(np.searchsorted(kept, [pieces[0][0] for pieces in entities]))
    arrays = padded(rows, reader.settings["pad_id"])
    return Samples({**arrays, "entity_positions": np.array(positions, np.int64)})


def _tokens(text: str, which: str, encoding: Any) -> Pieces:
    """Return the first token and the end of each part of an entity."""
    opened: int | None = None
    pieces: Pieces = []
    for mark in _MARK.finditer(text):
        if mark["number"] != which:
            continue
        if not mark["closing"]:
            opened = mark.start() if opened is None else opened
        elif opened is not None:
            pieces.append((opened, mark.end()))
            opened = None
    if not pieces:
        raise ValueError(f"does not have the marks [E{which}] and [/E{which}] around an entity")
    found = []
    for start, stop in pieces:
        first, last = encoding.char_to_token(start), encoding.char_to_token(stop - 1)
        if first is None or last is None:
            raise ValueError(f"has a mark that the tokenizer drops ([E{which}])")
        found.append((first, last + 1))
    return found


def _kept(pieces: Pieces, encoding: Any, longest: int) -> NDArray[np.intp]:
    """Return the positions that are kept of a text: both entities, and the tokens near them."""
    n = len(encoding.ids)
    if n <= longest:
        return np.arange(n)
    of_text = np.array([part is not None for part in encoding.sequence_ids])
    room = longest - int((~of_text).sum())
    needed = np.zeros(n, bool)
    for start, stop in pieces:
        needed[start:stop] = True
    if needed.sum() > room:
        raise ValueError(
            f"does not fit: its two entities have {needed.sum()} tokens, but there is only room "
            f"for {room}"
        )
    places = np.flatnonzero(needed)
    if places[-1] + 1 - places[0] <= room:
        places = np.arange(places[0], places[-1] + 1)
    candidates = np.flatnonzero(of_text)
    distance = np.abs(candidates[:, np.newaxis] - places).min(axis=1)
    nearest = candidates[np.argsort(distance, kind="stable")[:room]]
    return np.union1d(np.flatnonzero(~of_text), nearest)
