"""Read tables of text files, CSV or TSV, as columns of str."""

from __future__ import annotations

import csv
import gzip
import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.missing import is_missing
from sklearn_epee.datasets._paths import expanded

# csv's own limit on a field, 128 KiB, is less than a long clinical note.
_MAX_FIELD_LENGTH = 2**27
_limit_lock = threading.Lock()


@contextmanager
def long_fields() -> Iterator[None]:
    """Raise the field size limit of csv, which is global, inside the block."""
    with _limit_lock:
        before = csv.field_size_limit(_MAX_FIELD_LENGTH)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def existing_file(path: str | os.PathLike[str], argument: str = "path") -> Path:
    """Return the path of a file that exists.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    """
    found = expanded(path)
    try:
        exists = found.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a null in it
        exists = False
    if not exists:
        raise FileNotFoundError(f"{argument}: there is no file {str(path)[:300]!r}.")
    return found


def read_columns(
    path: Path, columns: Sequence[str], *, delimiter: str | None = None, encoding: str = "utf-8"
) -> tuple[dict[str, list[str]], list[int]]:
    """Return some columns of a CSV or TSV file, and the line at which each row ends.

    Parameters
    ----------
    path : Path
        May be compressed with gzip (``.gz``).
    columns : sequence of str
        Names in the first row.
    delimiter : str or None, default=None
        None takes tabs for ``.tsv`` and ``.tab``, and commas for all others.
    encoding : str, default="utf-8"

    Returns
    -------
    columns : dict of str to list of str
    lines : list of int

    Raises
    ------
    ValueError
        If the file is not as described; the message names it, and the line.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if delimiter is None:
        delimiter = "\t" if {".tsv", ".tab"} & set(suffixes) else ","
    try:
        with long_fields(), _opened(path, encoding) as file:
            return _columns_of(path, file, columns, delimiter)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not in the encoding {encoding!r}: {error}. Pass the encoding of the file, "
            "such as 'latin-1' or 'cp1252'."
        ) from error
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r} is not known: {error}.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a gzip file that can be read: {error}.") from error


def _opened(path: Path, encoding: str) -> TextIO:
    # A byte order mark, as written by Windows programs, is not part of the first name.
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _columns_of(
    path: Path, file: Iterable[str], columns: Sequence[str], delimiter: str
) -> tuple[dict[str, list[str]], list[int]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    lines: list[int] = []
    try:
        header = next(reader, [])
        places = {column: _place(path, header, column, delimiter) for column in columns}
        table: dict[str, list[str]] = {column: [] for column in columns}
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected {len(header)} fields, as in the "
                    f"first row; got {len(row)}. A field that holds the delimiter must be quoted."
                )
            for column, place in places.items():
                table[column].append(row[place])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: no valid CSV: {error}.") from error
    if not lines:
        raise ValueError(f"{path} must have at least one row below its header; got none.")
    return table, lines


def _place(path: Path, header: list[str], column: str, delimiter: str) -> int:
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise ValueError(f"{path} has the column {column!r} several times; expected it once.")
    hint = ""
    if len(header) == 1:
        others = [mark for mark in (",", ";", "\t", "|") if mark in header[0] and mark != delimiter]
        hint = f" Give delimiter={others[0]!r} if that separates the columns." if others else ""
    raise ValueError(f"{path} has no column {column!r}; got the columns {header}.{hint}")


def labels_of(table: dict[str, list[Any]], label: str | Sequence[str], place: Any) -> NDArray[Any]:
    """Return the labels of a table: one column, or one column for each of several.

    Several columns with only 0 and 1 are an indicator of several labels, in which values can be
    missing. Others keep their types.

    Parameters
    ----------
    table : dict of str to list
    label : str or sequence of str
    place : callable
        Returns the description of a row for messages, given its number.

    Raises
    ------
    ValueError
        If a label is empty or missing, or a column contains both strings and numbers.
    """
    names = [label] if isinstance(label, str) else list(label)
    for name in names:
        _check_complete(table[name], "label", name, place, may_lack=len(names) > 1)
    columns = [_as_array(table[name], name) for name in names]
    if isinstance(label, str):
        return columns[0]
    if len({column.dtype.kind in "biuf" for column in columns}) == 1:
        found = np.stack(columns, axis=1)
        is_indicator = found.dtype.kind == "U" and np.isin(found, ["0", "1"]).all()
        return found.astype(np.int64) if is_indicator else found
    mixed = np.empty((len(columns[0]), len(columns)), dtype=object)
    for number, column in enumerate(columns):
        mixed[:, number] = column.tolist()
    return mixed


def groups_of(values: list[Any], name: str, place: Any) -> NDArray[Any]:
    """Return the groups in a column of a table.

    Parameters
    ----------
    values : list
    name : str
        Name of the column.
    place : callable
        Returns the description of a row for messages, given its number.

    Raises
    ------
    ValueError
        If a group is empty or missing, as all such rows would be one group, or the column contains
        both strings and numbers.
    """
    _check_complete(values, "group", name, place)
    return _as_array(values, name)


def _check_complete(
    values: list[Any], what: str, name: str, place: Any, *, may_lack: bool = False
) -> None:
    """Raise if strings are empty or values missing; with `may_lack`, numbers may be missing."""
    may_lack = may_lack and not any(isinstance(value, str) for value in values)
    for number, value in enumerate(values):
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{place(number)}: the {what} {name!r} is empty.")
        if not may_lack and is_missing(value):
            raise ValueError(f"{place(number)}: the {what} {name!r} is missing: {value!r}.")


def _as_array(values: list[Any], name: str) -> NDArray[Any]:
    """Convert the values of a column to an array, without converting numbers to strings."""
    found = np.array(values)
    if found.dtype.kind == "U" and not all(isinstance(value, str) for value in values):
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(f"path: the column {name!r} mixes {kinds}; expected one type.")
    return found
