"""Read rows of a text with two entities: tuples, dicts, frames, arrays, spaCy documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_epee._checks.arrow import without_arrow
from sklearn_epee._checks.messages import SampleError, shown
from sklearn_epee._checks.missing import is_missing_cell
from sklearn_epee._checks.texts import as_texts

from .mentions import Mention, checked_type, read_mention

ROWS = (
    "tuples (text, span1, span2), dicts or a frame with columns for these, where a span is (start, "
    "end) in characters"
)
Column = str | tuple[str, str]
_MAX_FIELDS = 5


@dataclass(frozen=True)
class Columns:
    """Keys or columns of the parts of a row in dicts and frames.

    Parameters
    ----------
    text : str
    spans : tuple of two str or pairs of str
        A column of spans, or one of starts and one of ends, for each entity.
    types : tuple of two str
    others : str
    """

    text: str
    spans: tuple[Column, Column]
    types: tuple[str, str]
    others: str


@dataclass(frozen=True)
class MentionRow:
    """A text with its two entities.

    Parameters
    ----------
    text : str
    entities : tuple of two Mention
    others : tuple of Mention, or None
        Other mentions in the text; None if they are not given.
    """

    text: str
    entities: tuple[Mention, Mention]
    others: tuple[Mention, ...] | None


def read_rows(X: Any, columns: Columns) -> list[MentionRow]:
    """Return rows of texts with two entities each.

    Parameters
    ----------
    X : list, tuple, ndarray, pandas or polars DataFrame
    columns : Columns

    Returns
    -------
    list of MentionRow

    Raises
    ------
    TypeError
        If X is not a sequence of rows.
    ValueError
        If there are no rows, or one is not as described; the message gives its number.
    """
    rows = [_read(row, number, columns) for number, row in enumerate(_rows_of(without_arrow(X)))]
    if not rows:
        raise ValueError(
            f"X holds no rows (0 sample(s)) while a minimum of 1 is required; expected {ROWS}."
        )
    return rows


def _rows_of(X: Any) -> Iterator[Any]:
    if isinstance(X, (str, bytes, Mapping, Set)) or not isinstance(X, Iterable):
        raise TypeError(f"X is of type {type(X).__name__}; expected {ROWS}.")
    if hasattr(X, "iter_rows"):
        return iter(X.iter_rows(named=True))
    if hasattr(X, "itertuples") and hasattr(X, "columns"):
        names = list(X.columns)
        values = X.itertuples(index=False, name=None)
        return (dict(zip(names, row, strict=True)) for row in values)
    return iter(X)


def _read(row: Any, number: int, columns: Columns) -> MentionRow:
    text, spans, types, others = (
        _from_mapping(row, number, columns)
        if isinstance(row, Mapping)
        else _from_sequence(row, number)
    )
    text = _text(text, number)
    mentions = [
        read_mention(span, f"span{i}", text, number) for i, span in enumerate(spans, start=1)
    ]
    for i, entity_type in enumerate(types):
        if not is_missing_cell(entity_type):
            known = checked_type(entity_type, f"span{i + 1}", number)
            mentions[i] = Mention(mentions[i].pieces, known)
    found = None if is_missing_cell(others) else tuple(_others(others, text, number))
    return MentionRow(text, (mentions[0], mentions[1]), found)


def _from_mapping(
    row: Mapping[str, Any], number: int, columns: Columns
) -> tuple[Any, list[Any], list[Any], Any]:
    wanted = [columns.text]
    for span in columns.spans:
        wanted += [span] if isinstance(span, str) else list(span)
    missing = [name for name in wanted if name not in row]
    if missing:
        raise SampleError(
            number,
            f"has no {', '.join(map(repr, missing))}, but {shown(list(row))}; name the columns in "
            "the parameters text, span1 and span2.",
        )
    spans = [
        row[span] if isinstance(span, str) else (row[span[0]], row[span[1]])
        for span in columns.spans
    ]
    return (
        row[columns.text],
        spans,
        [row.get(name) for name in columns.types],
        row.get(columns.others),
    )


def _from_sequence(row: Any, number: int) -> tuple[Any, list[Any], list[Any], Any]:
    is_sequence = isinstance(row, (tuple, list, np.ndarray))
    if not is_sequence or not 3 <= len(row) <= _MAX_FIELDS:
        raise SampleError(
            number,
            f"is {shown(row)}; expected {ROWS}, optionally followed by (type1, type2) and others.",
        )
    fields: list[Any] = [*row, *[None] * (_MAX_FIELDS - len(row))]
    text, first, second, types, others = fields
    if is_missing_cell(types):
        types = (None, None)
    if not isinstance(types, (tuple, list, np.ndarray)) or len(types) != 2:
        raise SampleError(number, f"has {shown(types)} as types; expected (type1, type2) or None.")
    return text, [first, second], list(types), others


def _text(text: Any, number: int) -> str:
    """Return the text of a row, or that of a document."""
    if not isinstance(text, str) and isinstance(getattr(text, "text", None), str):
        text = text.text
    try:
        return str(as_texts([text])[0]) if isinstance(text, str) else _refuse(text, number)
    except ValueError as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(number, str(error).removeprefix("X[0] ")) from error


def _refuse(text: Any, number: int) -> str:
    raise SampleError(
        number,
        f"has {shown(text)} of type {type(text).__name__} as its text; expected a str, or a "
        "document with the attribute text.",
    )


def _others(others: Any, text: str, number: int) -> Iterator[Mention]:
    if not isinstance(others, Iterable) or isinstance(others, (str, bytes, Mapping)):
        raise SampleError(number, f"has {shown(others)} as others; expected a list of spans.")
    for span in others:
        yield read_mention(span, "others", text, number)
