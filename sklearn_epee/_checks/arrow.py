"""Convert pyarrow columns and tables, without importing pyarrow."""

from __future__ import annotations

from typing import Any


def without_arrow(X: Any) -> Any:
    """Convert a pyarrow column to a list and a pyarrow table to a data frame; else return X.

    Parameters
    ----------
    X : object
        Columns are ``pyarrow.Array`` and ``ChunkedArray``, tables ``Table`` and ``RecordBatch``.

    Returns
    -------
    object

    Raises
    ------
    ImportError
        If X is a table and pandas is not installed.
    """
    if not _is_arrow(X) or not hasattr(X, "to_pylist"):
        return X
    return X.to_pandas() if hasattr(X, "schema") else X.to_pylist()


def without_arrow_table(y: Any) -> Any:
    """Convert a pyarrow table to a data frame; return other objects unchanged.

    Raises
    ------
    ImportError
        If y is a table and pandas is not installed.
    """
    return y.to_pandas() if _is_arrow(y) and hasattr(y, "schema") else y


def _is_arrow(X: Any) -> bool:
    return type(X).__module__.partition(".")[0] == "pyarrow"
