"""Validate texts with images, of which one may be missing, in all accepted forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrow import without_arrow
from .images import ImageForm, as_images
from .messages import shown
from .missing import is_missing_cell
from .texts import as_text

# A text and an image (h, w, c), of which one may be None.
Case = tuple[str | None, Any]

_CASES = (
    "a data frame with the columns text_column and image_column, or a list of pairs (text, image), "
    "with None or NaN for a missing text or image"
)


def as_cases(
    X: Any, text_column: str, image_column: str, form: ImageForm | None = None
) -> list[Case]:
    """Convert texts with images to a list of pairs, with None for a missing text or image.

    Parameters
    ----------
    X : pandas or polars DataFrame, list, tuple or ndarray of shape (n, 2) of objects
    text_column, image_column : str
        Columns of a frame.
    form : ImageForm or None, default=None
        Form of the training images, to which pixels are converted.

    Returns
    -------
    list of (str or None, image or None)
        Images as in `as_images`.

    Raises
    ------
    TypeError
        If a text or image has a wrong type; the message says which.
    ValueError
        If there are no rows, a frame lacks a column, a row has neither text nor image, or
        `as_images` does not accept an image.
    """
    rows = _rows_of(without_arrow(X), text_column, image_column)
    if not rows:
        raise ValueError(
            f"X holds no texts with images (0 sample(s)) while a minimum of 1 is required; "
            f"expected {_CASES}."
        )
    texts = [_text_or_none(text, i) for i, (text, _) in enumerate(rows)]
    present_rows = [i for i, (_, image) in enumerate(rows) if not is_missing_cell(image)]
    for i in sorted(set(range(len(rows))) - set(present_rows)):
        if texts[i] is None:
            raise ValueError(
                f"X[{i}] has neither a text nor an image; expected at least one of them."
            )
    images: list[Any] = [None] * len(rows)
    if present_rows:
        given = [rows[i][1] for i in present_rows]
        for i, image in zip(present_rows, as_images(given, None, form, present_rows), strict=True):
            images[i] = image
    return list(zip(texts, images, strict=True))


def present_cells(cases: Sequence[Case]) -> NDArray[np.bool_]:
    """Return whether each case has a text and an image, (n, 2)."""
    return np.array([[part is not None for part in case] for case in cases])


def texts_of(cases: Sequence[Case]) -> list[str]:
    """Return the texts of the cases that have one."""
    return [text for text, _ in cases if text is not None]


def images_of(cases: Sequence[Case]) -> list[Any]:
    """Return the images of the cases that have one."""
    return [image for _, image in cases if image is not None]


def check_both_kinds(cases: Sequence[Case], estimator: str) -> None:
    """Raise if no training case has a text, or none an image.

    Raises
    ------
    ValueError
    """
    for name, found, alone in (
        ("text", texts_of(cases), "EPEEImageClassifier"),
        ("image", images_of(cases), "EPEEClassifier"),
    ):
        if not found:
            raise ValueError(
                f"X has no {name} in any of its {len(cases)} rows, but {estimator} needs texts and "
                f"images for training. Use {alone} without {name}s."
            )


def _rows_of(X: Any, text_column: str, image_column: str) -> list[tuple[Any, Any]]:
    if hasattr(X, "columns") and hasattr(X, "shape"):
        return _frame_rows(X, text_column, image_column)
    if isinstance(X, (str, bytes, Mapping, Set)) or not isinstance(X, Iterable):
        raise TypeError(f"X is of type {type(X).__name__}; expected {_CASES}.")
    if isinstance(X, np.ndarray) and (X.dtype != object or X.ndim not in (1, 2)):
        raise TypeError(f"X is an array of shape {X.shape} and type {X.dtype}; expected {_CASES}.")
    return [_pair(row, i) for i, row in enumerate(X)]


def _frame_rows(X: Any, text_column: str, image_column: str) -> list[tuple[Any, Any]]:
    """Return the rows of a data frame."""
    columns = list(X.columns)
    for argument, name in (("text_column", text_column), ("image_column", image_column)):
        if name not in columns:
            raise ValueError(
                f"{argument}={name!r} is not a column of X, which has {shown(columns)}; expected "
                "the name of one of them."
            )
    texts, images = (
        column.to_list() if hasattr(column, "to_list") else list(column)
        for column in (X[text_column], X[image_column])
    )
    return list(zip(texts, images, strict=True))


def _pair(row: Any, i: int) -> tuple[Any, Any]:
    is_pair = isinstance(row, (tuple, list)) or (
        isinstance(row, np.ndarray) and row.dtype == object and row.ndim == 1
    )
    if not is_pair or len(row) != 2:
        raise TypeError(
            f"X[{i}] is {shown(row)} of type {type(row).__name__}, not a pair (text, image); "
            f"expected {_CASES}."
        )
    return row[0], row[1]


def _text_or_none(value: Any, i: int) -> str | None:
    """Return a text, or None if it is missing, empty or blank."""
    if is_missing_cell(value):
        return None
    if not isinstance(value, str):
        raise TypeError(
            f"The text of X[{i}] is of type {type(value).__name__}; expected a str, or None or NaN "
            "if it is missing."
        )
    return as_text(value, f"the text of X[{i}]") if value.strip() else None
