"""Convert pyarrow columns and tables, without importing pyarrow."""

from __future__ import annotations

from typing import Any


def without_arrow(X: Any) -> Any:
    """Return a pyarrow column as a list, a pyarrow table as a data frame, anything else as it is.

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
    if type(X).__module__.partition(".")[0] != "pyarrow":
        return X
    if hasattr(X, "to_pylist") and not hasattr(X, "column_names") and not hasattr(X, "schema"):
        return X.to_pylist()
    return X.to_pandas() if hasattr(X, "to_pandas") else X
