"""Insert entity markers into a text, and shorten long texts around them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.entity_marks import (
    closing_mark,
    kept_around,
    marked_entities,
    opening_mark,
)

from .mentions import Mention

# Kinds of edits, in their order at one place.
_CLOSING, _OPENING, _REPLACING = 0, 1, 2
_WORD = re.compile(r"\S+\s*|\s+")


def marked_text(
    text: str,
    entities: tuple[Mention, Mention],
    others: Iterable[Mention] = (),
    blind: str | None = None,
    typed: bool = False,
) -> str:
    """Return a text with marks around two entities.

    Parameters
    ----------
    text : str
    entities : tuple of two Mention
        Entities; each of their pieces gets marks.
    others : iterable of Mention
        Mentions that are replaced by `blind` if they do not overlap an entity.
    blind : str or None
    typed : bool
        Whether marks contain the types.

    Returns
    -------
    str
    """
    edits: list[tuple[tuple[int, ...], int, int, str]] = []
    for number, entity in enumerate(entities, start=1):
        entity_type = entity.entity_type if typed else None
        for start, end in entity.pieces:
            # If spans have the same start, the longer one is outside; if they are equal, the first.
            outer_first = (start, _OPENING, -end, number)
            edits.append((outer_first, start, start, f"{opening_mark(number, entity_type)} "))
            inner_first = (end, _CLOSING, -start, -number)
            edits.append((inner_first, end, end, f" {closing_mark(number, entity_type)}"))
    if blind is not None:
        for start, end in _apart(others, entities):
            edits.append(((start, _REPLACING), start, end, blind))
    parts, done = [], 0
    for _, start, end, new in sorted(edits):
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])


def _apart(others: Iterable[Mention], entities: tuple[Mention, Mention]) -> list[tuple[int, int]]:
    """Return the merged pieces of other mentions that do not overlap an entity, ascending."""
    taken = [entity.whole.pieces[0] for entity in entities]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(other.whole.pieces[0] for other in others):
        if any(start < stop and begin < end for begin, stop in taken):
            continue
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def shortened(text: str, max_length: int) -> str | None:
    """Shorten a marked text to whole words around both entities; None if these do not fit.

    Parameters
    ----------
    text : str
        Text with marks around two entities.
    max_length : int
        Maximum number of characters.
    """
    if len(text) <= max_length:
        return text
    entities = marked_entities(text)
    if isinstance(entities, str):
        raise RuntimeError(f"A marked text {entities}.")  # noqa: TRY004 - cannot be
    words = [(word.start(), word.end()) for word in _WORD.finditer(text)]
    starts, ends = np.array(words).T
    pieces = [_words_of(piece, starts, ends) for entity in entities for piece in entity.pieces]
    # There is no blank after the last word.
    kept = kept_around(ends - starts, pieces, max_length + 1)
    if kept is None:
        return None
    short = "".join(text[starts[word] : ends[word]] for word in kept).strip()
    return short if len(short) <= max_length else None


def _words_of(
    piece: tuple[int, int], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[int, int]:
    """Return the first word of a piece of a text, and the word after its last."""
    first = int(np.searchsorted(ends, piece[0], side="right"))
    return first, int(np.searchsorted(starts, piece[1], side="left"))
