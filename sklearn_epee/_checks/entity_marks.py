"""Find the marks around two entities in texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .messages import SampleError, shown
from .texts import Text

# "[E1]", "[/E2]", or with the entity's type, "[E1:drug]", "[/E1:drug]".
MARK = re.compile(r"\[(?P<closing>/?)E(?P<number>[12])(?::(?P<type>[^\[\]\r\n]+))?\]")
EXPECTED_MARKS = "'[E1] ... [/E1]' and '[E2] ... [/E2]', as EntityMarker writes them"


@dataclass(frozen=True)
class MarkedEntity:
    """One entity of a text.

    Parameters
    ----------
    pieces : tuple of (int, int)
        For each piece of the entity, in order: the first character of its opening mark, and the
        character after its closing mark.
    """

    pieces: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """First character of the first opening mark."""
        return self.pieces[0][0]


def opening_mark(number: int, entity_type: str | None = None) -> str:
    """Return the mark before entity 1 or 2."""
    return f"[E{number}]" if entity_type is None else f"[E{number}:{entity_type}]"


def closing_mark(number: int, entity_type: str | None = None) -> str:
    """Return the mark after entity 1 or 2."""
    return f"[/{opening_mark(number, entity_type)[1:]}"


def marked_entities(text: str) -> tuple[MarkedEntity, MarkedEntity] | str:
    """Return both marked entities of a text, or a message (str) if a mark is missing."""
    open_at: dict[str, int] = {}
    pieces: dict[str, list[tuple[int, int]]] = {"1": [], "2": []}
    for mark in MARK.finditer(text):
        number = mark["number"]
        if not mark["closing"]:
            open_at.setdefault(number, mark.start())
        elif number in open_at:
            pieces[number].append((open_at.pop(number), mark.end()))
    for number, found in pieces.items():
        if not found and number in open_at:
            return f"has no closing mark [/E{number}] after [E{number}]"
        if not found:
            return f"has no mark [E{number}]"
    return MarkedEntity(tuple(pieces["1"])), MarkedEntity(tuple(pieces["2"]))


def carry_marks(texts: Sequence[Text]) -> bool:
    """Return whether all texts are single texts with marks around both entities."""
    return all(isinstance(text, str) and carries_marks(text) for text in texts)


def carries_marks(text: str) -> bool:
    """Return whether a text has marks around both entities."""
    return not isinstance(marked_entities(text), str)


def check_marks(texts: Sequence[Text], wanted_by: str) -> None:
    """Raise if texts do not have marks around both entities.

    Parameters
    ----------
    texts : sequence of str or of pairs of str
    wanted_by : str
        What requires the marks, for messages.

    Raises
    ------
    ValueError
        If the texts are pairs, or a mark is missing; the message gives the number of the text.
    """
    for row, text in enumerate(texts):
        if isinstance(text, tuple):
            raise ValueError(  # noqa: TRY004 - the values of texts, not their type
                f"{wanted_by} reads single texts with marks around two entities, but X holds pairs "
                f"of texts; expected {EXPECTED_MARKS}."
            )
        found = marked_entities(text)
        if isinstance(found, str):
            reason = f"{found}: {shown(text)}. {wanted_by} expects {EXPECTED_MARKS}."
            raise SampleError(row, reason)


def marks_in(texts: Sequence[str]) -> list[str]:
    """Return the unique marks in texts, sorted."""
    return sorted({mark.group() for text in texts for mark in MARK.finditer(text)})


def kept_around(
    lengths: NDArray[np.int64], pieces: Sequence[tuple[int, int]], room: int
) -> NDArray[np.intp] | None:
    """Return which tokens, or words, of a long text are kept around its entities.

    If everything from the first entity to the last fits, it is kept, with as many tokens before it
    as after it. Otherwise the tokens nearest to an entity are kept.

    Parameters
    ----------
    lengths : ndarray of shape (n,), int
        Length of each token.
    pieces : sequence of (int, int)
        Start (inclusive) and end (exclusive) of the tokens that must be kept.
    room : int
        Maximum total length of the kept tokens.

    Returns
    -------
    ndarray of int, or None
        Ascending; None if the pieces do not fit.
    """
    needed = np.zeros(len(lengths), dtype=bool)
    for start, stop in pieces:
        needed[start:stop] = True
    if lengths[needed].sum() > room:
        return None
    first, stop = int(needed.argmax()), len(needed) - int(needed[::-1].argmax())
    if lengths[first:stop].sum() <= room:
        needed[first:stop] = True
    distance = _distances(needed)
    nearest = np.argsort(distance, kind="stable")
    fits = np.cumsum(lengths[nearest]) <= room
    return np.sort(nearest[: len(fits) if fits.all() else int(fits.argmin())])


def _distances(needed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the distance of each token from the nearest needed one."""
    places = np.flatnonzero(needed)
    tokens = np.arange(len(needed))
    after = np.searchsorted(places, tokens).clip(max=len(places) - 1)
    before = (after - 1).clip(min=0)
    distances: NDArray[np.int64] = np.minimum(
        abs(places[after] - tokens), abs(tokens - places[before])
    )
    return distances
