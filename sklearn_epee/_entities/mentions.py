"""Read mentions of entities in a text from spans in all accepted forms."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from sklearn_epee._checks.messages import SampleError, shown
from sklearn_epee._checks.missing import is_missing_cell

SPAN = (
    "(start, end) or (start, end, type) in characters, a list of such pairs for the pieces of one "
    "mention, a dict with 'start' and 'end', or an object with start_char and end_char"
)
_TYPE_KEYS = ("type", "label", "entity_type")
# Characters that belong to the one before them, in addition to combining ones.
_JOINED = {"\u200d", "\ufe0e", "\ufe0f"}


@dataclass(frozen=True)
class Mention:
    """A mention of an entity.

    Parameters
    ----------
    pieces : tuple of (int, int)
        Characters [start, end) of each piece, ascending.
    entity_type : str or None
    """

    pieces: tuple[tuple[int, int], ...]
    entity_type: str | None = None

    @property
    def whole(self) -> Mention:
        """The same mention from its first to its last character."""
        return Mention(((self.pieces[0][0], self.pieces[-1][1]),), self.entity_type)


def read_mention(span: Any, name: str, text: str, row: int) -> Mention:
    """Convert a span of a text to a mention.

    Parameters
    ----------
    span : tuple, list, ndarray, dict or object
        See `SPAN`.
    name : str
        Name of the span in messages.
    text : str
    row : int
        Number of the row, for messages.

    Returns
    -------
    Mention

    Raises
    ------
    SampleError
        If it is not a valid span of the text.
    """
    found, entity_type = _pieces(span)
    if not found:
        raise SampleError(row, f"has {name}={shown(span)}; expected {SPAN}.")
    pieces = sorted(_checked(piece, name, text, row) for piece in found)
    for (_, stop), (start, _) in pairwise(pieces):
        if start < stop:
            raise SampleError(
                row,
                f"has {name}={shown(span)}, of which two pieces overlap; expected separate pieces.",
            )
    return Mention(tuple(pieces), checked_type(entity_type, name, row))


def _pieces(span: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Return start and end of every piece, and the type; no pieces if it is not a span."""
    if hasattr(span, "start_char") and hasattr(span, "end_char"):
        return [(span.start_char, span.end_char)], getattr(span, "label_", None) or None
    if isinstance(span, Mapping):
        found = [span[key] for key in _TYPE_KEYS if key in span]
        pieces = [(span["start"], span["end"])] if {"start", "end"} <= span.keys() else []
        return pieces, found[0] if found else None
    if isinstance(span, np.ndarray):
        span = span.tolist()
    if not isinstance(span, Sequence) or isinstance(span, (str, bytes)):
        return [], None
    parts, entity_type = list(span), None
    if parts and (isinstance(parts[-1], str) or is_missing_cell(parts[-1])):
        entity_type = parts.pop()
    if len(parts) == 2 and not any(_is_pair(part) for part in parts):
        return [(parts[0], parts[1])], entity_type
    if len(parts) == 1 or all(_is_pair(part) for part in parts):
        return _inner_pieces(parts, entity_type)
    return [], None


def _inner_pieces(parts: list[Any], entity_type: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Return the pieces of a list of pairs, or of such a list with a type."""
    if len(parts) == 1 and not _is_pair(parts[0]):
        inner, inner_type = _pieces(parts[0])
        return inner, inner_type if entity_type is None else entity_type
    return [(part[0], part[1]) for part in parts], entity_type


def _is_pair(value: Any) -> bool:
    is_sequence = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))
    return is_sequence and len(value) == 2 and not any(_is_sequence(part) for part in value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (Sequence, np.ndarray))


def _checked(piece: tuple[Any, Any], name: str, text: str, row: int) -> tuple[int, int]:
    """Return a piece as two int; raise if they are not offsets in the text."""
    for offset in piece:
        if not isinstance(offset, Integral) or isinstance(offset, (bool, np.bool_)):
            hint = ""
            if isinstance(offset, (float, np.floating)):
                hint = " A missing value in one row makes the whole column of a frame floats."
            raise SampleError(
                row,
                f"has {name}={shown(piece)}, which are not two integers; expected {SPAN}.{hint}",
            )
    start, end = (int(offset) for offset in piece)
    if not 0 <= start < end <= len(text):
        wrong = (
            "is empty" if start == end else "is reversed" if start > end else "is outside the text"
        )
        raise SampleError(
            row,
            f"has {name}=({start}, {end}), which {wrong}; expected 0 <= start < end <= "
            f"{len(text)}, the number of characters of {shown(text)}.",
        )
    for offset in (start, end):
        if offset < len(text) and _continues(text[offset]):
            raise SampleError(
                row,
                f"has {name}=({start}, {end}), which splits the character "
                f"{text[offset - 1 : offset + 1]!r}; expected offsets that count Python's "
                "characters, not bytes or UTF-16 units.",
            )
    return start, end


def _continues(character: str) -> bool:
    return unicodedata.combining(character) != 0 or character in _JOINED


def checked_type(entity_type: Any, name: str, row: int) -> str | None:
    """Return the type of an entity, None if there is none.

    Raises
    ------
    SampleError
        If it cannot be written in a mark.
    """
    if is_missing_cell(entity_type):
        return None
    is_text = isinstance(entity_type, str) and bool(entity_type.strip())
    if not is_text or set(entity_type) & set("[]\r\n"):
        raise SampleError(
            row,
            f"has {shown(entity_type)} as the type of {name}; expected a str without brackets and "
            "line breaks.",
        )
    return str(entity_type)
