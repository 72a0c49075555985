"""Detect missing values in lists, arrays and tables: None, NaN, NaT and pandas' NA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN, NaT or pandas' NA: these do not equal themselves."""
    equal = label is not None and label == label  # noqa: PLR0124
    return not (isinstance(equal, (bool, np.bool_)) and equal)


def is_missing_cell(value: Any) -> bool:
    """Return whether a cell of a table is missing; cells can be any object, such as an array."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)
