"""Tell tags of words from labels of several tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

_TAG = re.compile(r"O|[BIESLU](?:-.+)?")
_ROWS = (list, tuple, np.ndarray)


def refuse_tags(y: Any, name: str) -> None:
    """Raise if y holds a tag for every word of each sample, instead of labels of the samples.

    Lists of tags of equal lengths would pass for the labels of several tasks, and others for
    several labels a sample.

    Parameters
    ----------
    y : Any
        As the caller gave it.
    name : str
        Of the estimator, for the message.

    Raises
    ------
    ValueError
        If the rows of y hold nothing but tags such as "O", "B-Drug" and "I-Drug".
    """
    if holds_tags(y):
        raise ValueError(
            f"y holds lists of tags ('O', 'B-...', 'I-...'), one tag a word; {name} takes labels "
            "of whole samples. For tags or spans of words use EPEETokenClassifier."
        )


def holds_tags(y: Any) -> bool:
    """Return whether y is nested and holds nothing but tags, of which some start a span."""
    marked = False
    for tag in _tags_in(y):
        if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
            return False
        marked = marked or tag[:2] in ("B-", "I-", "S-")
    return marked


def _tags_in(y: Any) -> Iterator[Any]:
    """Yield what is in the rows of y, or None for a row that is none."""
    values = getattr(y, "values", None)
    rows = values if isinstance(values, np.ndarray) else y  # of a Series or a frame
    if not isinstance(rows, _ROWS) or getattr(rows, "ndim", 1) == 0:
        return
    for row in rows:
        if isinstance(row, _ROWS) and getattr(row, "ndim", 1) == 1:
            yield from row
        else:
            yield None
