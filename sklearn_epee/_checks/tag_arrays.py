"""Distinguish tags of words from labels of several tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

_TAG = re.compile(r"O|[BIESLU](?:-.+)?")
_ROWS = (list, tuple, np.ndarray)


def refuse_tags(y: Any, name: str) -> None:
    """Raise if y contains tags of words instead of labels of samples.

    Lists of tags with equal lengths would be taken for the labels of several tasks, and others for
    several labels per sample.

    Parameters
    ----------
    y : Any
        The caller's y.
    name : str
        Name of the estimator, for the message.

    Raises
    ------
    ValueError
        If the rows of y only contain tags such as "O", "B-Drug" and "I-Drug".
    """
    if holds_tags(y):
        raise ValueError(
            f"y holds lists of tags ('O', 'B-...', 'I-...'), one per word, but {name} needs labels "
            "of samples. For tags or spans of words use EPEETokenClassifier."
        )


def holds_tags(y: Any) -> bool:
    """Return whether y is nested and only contains tags, some of which start a span."""
    marked = False
    for tag in _tags_in(y):
        if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
            return False
        marked = marked or tag[:2] in ("B-", "I-", "S-")
    return marked


def _tags_in(y: Any) -> Iterator[Any]:
    """Yield the elements of the rows of y, or None for an element that is not a row."""
    values = getattr(y, "values", None)
    rows = values if isinstance(values, np.ndarray) else y  # of a Series or a frame
    if not isinstance(rows, _ROWS) or getattr(rows, "ndim", 1) == 0:
        return
    for row in rows:
        if isinstance(row, _ROWS) and getattr(row, "ndim", 1) == 1:
            yield from row
        else:
            yield None
