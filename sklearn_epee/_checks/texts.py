"""Validate texts and pairs of texts in all accepted forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrow import without_arrow
from .messages import shown
from .missing import is_missing_cell

Text = str | tuple[str, str]

_TEXTS = (
    "a list, tuple, array or Series of str, or pairs of str as an (n, 2) array, a two-column frame "
    "or a list of pairs"
)


def as_texts(X: Any) -> list[Text]:
    """Convert texts or pairs of texts to a list of str or of tuples of two str.

    Parameters
    ----------
    X : list, tuple, ndarray, pandas or polars Series or DataFrame, pyarrow column or table

    Returns
    -------
    list of str or list of tuple of str

    Raises
    ------
    TypeError
        If an element is not a text; the message says which.
    ValueError
        If there are no texts, or texts and pairs are mixed.
    """
    X = without_arrow(X)
    _check_columns(X)
    rows = _rows_of(X)
    if not rows:
        raise ValueError(
            f"X holds no texts (0 sample(s)) while a minimum of 1 is required; expected {_TEXTS}."
        )
    if isinstance(rows[0], str):
        return [as_text(row, f"X[{i}]") for i, row in enumerate(rows)]
    return [_pair(row, i) for i, row in enumerate(rows)]


def is_paired(texts: Sequence[Text]) -> bool:
    """Return whether texts are pairs."""
    return isinstance(texts[0], tuple)


def _check_columns(X: Any) -> None:
    """Raise for a data frame that has more columns than the two of pairs."""
    columns = list(X.columns) if hasattr(X, "columns") else []
    if len(columns) > 2:
        raise TypeError(
            f"X is a data frame with {len(columns)} columns, {shown(columns)}; expected one column "
            f"of texts, or two of pairs. Select them, such as X[{columns[0]!r}]."
        )


def _rows_of(X: Any) -> list[Any]:
    if isinstance(X, (str, bytes)):
        raise TypeError(f"X is a single {type(X).__name__}; expected {_TEXTS}. Wrap it in a list.")
    if hasattr(X, "iter_rows"):
        rows = list(X.iter_rows())
    elif hasattr(X, "itertuples"):
        rows = list(X.itertuples(index=False, name=None))
    elif isinstance(X, np.ndarray):
        rows = _array_rows(X)
    elif hasattr(X, "to_list"):
        rows = X.to_list()
    elif isinstance(X, Iterable) and not isinstance(X, (Mapping, Set)):
        rows = list(X)
    else:
        raise TypeError(f"X is of type {type(X).__name__}; expected {_TEXTS}.")
    # A frame or array with one column contains single texts.
    if rows and all(isinstance(row, tuple) and len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    return rows


def _array_rows(X: NDArray[Any]) -> list[Any]:
    if X.ndim not in (1, 2):
        raise ValueError(f"X is an array of shape {X.shape}; expected {_TEXTS}.")
    return X.tolist() if X.ndim == 1 else [tuple(row) for row in X.tolist()]


def as_text(value: Any, place: str) -> str:
    """Convert a text to a str; raise if it is not valid Unicode.

    Parameters
    ----------
    value : str
    place : str
        How messages refer to the text.

    Raises
    ------
    TypeError, ValueError
        If it is not a text, or not valid Unicode.
    """
    if isinstance(value, str):
        return check_encodable(str.__str__(value), place)  # str() of an Enum is its name
    hint = " Missing texts can be given as the empty string ''." if is_missing_cell(value) else ""
    raise TypeError(
        f"{place} is {shown(value)} of type {type(value).__name__}, not a text; "
        f"expected {_TEXTS}.{hint}"
    )


def check_encodable(text: str, place: str) -> str:
    """Return a text; raise if it is not valid Unicode."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{place} is {shown(text)}, which is not valid Unicode ({error}); read it again "
                "with the right encoding, or with errors='replace'."
            ) from error
    return text


def _pair(value: Any, i: int) -> tuple[str, str]:
    if i and isinstance(value, str):
        raise ValueError(f"X mixes pairs and single texts: X[0] is a pair, X[{i}] is {value!r}.")
    if not (isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim)):
        as_text(value, f"X[{i}]")
    if len(value) != 2:
        raise TypeError(
            f"X[{i}] is a {type(value).__name__} of {len(value)} elements; expected {_TEXTS}."
        )
    return as_text(value[0], f"X[{i}][0]"), as_text(value[1], f"X[{i}][1]")
