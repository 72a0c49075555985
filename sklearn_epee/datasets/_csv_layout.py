"""Load text sets, stored as `<name>/{train,dev,test}.csv.gz` or as in their source."""

import csv
import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._compat import check_pandas_support
from sklearn_epee.datasets._download import download_all
from sklearn_epee.datasets._loading import data_file, data_folder, subsets_of
from sklearn_epee.datasets._source import Source


@dataclass(frozen=True)
class TextSet:
    """Properties of a text set that are known before its files are read.

    Parameters
    ----------
    name : str
        Name of its folder.
    columns : tuple of str
        Columns of its files; the first two are "text" and "label".
    target_names : tuple of str
    description : str
    source : Source
    group_of : callable or None, default=None
        Returns the group of a row from the column that `grouped_by` names; None if there are no
        groups.
    grouped_by : str, default=""
    """

    name: str
    columns: tuple[str, ...]
    target_names: tuple[str, ...]
    description: str
    source: Source
    group_of: Callable[[str], str] | None = None
    grouped_by: str = ""


def load_text_set(
    text_set: TextSet,
    *,
    subset: str,
    data_home: str | os.PathLike[str] | None,
    as_frame: bool,
    return_X_y: bool,
    download_if_missing: bool = False,
) -> Any:
    """Load one text set as a `Bunch`, or as `(data, target)`."""
    table: dict[str, list[str]] = {}
    for columns in _parts(text_set, subset, data_home, download_if_missing):
        for column, values in columns.items():
            table.setdefault(column, []).extend(values)
    frame = None
    data: Any = table["text"]
    target: Any = np.array(table["label"])
    groups = None
    if text_set.group_of is not None:
        groups = np.array([text_set.group_of(value) for value in table[text_set.grouped_by]])
    if as_frame:
        pandas = check_pandas_support(f"load_{text_set.name} with as_frame=True")
        # Columns that only one part has (a later release may add some) are left out.
        full = {name: v for name, v in table.items() if len(v) == len(target)}
        frame = pandas.DataFrame(full)
        data, target = frame["text"], frame["label"]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=np.array(text_set.target_names),
        groups=groups,
        frame=frame,
        DESCR=text_set.description,
    )


def _parts(
    text_set: TextSet, subset: str, data_home: str | os.PathLike[str] | None, download: bool
) -> Iterator[dict[str, list[str]]]:
    """Yield the columns of each part, from the layout or from the files of the source."""
    source = text_set.source
    home = data_folder(data_home, create=download)
    folder = home / text_set.name
    laid_out = any((folder / f"{part}.csv.gz").is_file() for part in subsets_of(subset))
    if not laid_out and source.find(folder) is None and download:
        download_all(source.remote, folder, page=source.page)
    found = None if laid_out else source.find(folder)
    for part in subsets_of(subset, source.parts):
        if found is not None:
            yield _check_table(source.read(found, part), folder, text_set)
        else:
            by_hand = f"Or get {source.files} from {source.page}, into {str(folder)!r}."
            path = data_file(home, f"{text_set.name}/{part}.csv.gz", by_hand)
            yield _read_table(path, text_set)


def _read_table(path: Path, text_set: TextSet) -> dict[str, list[str]]:
    """Read one file into columns; raise if it does not have the expected layout."""
    rows = _read_rows(path)
    header = next(rows, [])
    missing = [column for column in text_set.columns if column not in header]
    if missing:
        raise ValueError(f"{path} must have the columns {missing}; got the columns {header}.")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise ValueError(f"{path} must have every column once; got {repeated} several times.")
    table: dict[str, list[str]] = {column: [] for column in header}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{path} must have {len(header)} fields in each row, as in its header; "
                f"got {len(row)} in row {number}."
            )
        for column, value in zip(header, row, strict=True):
            table[column].append(value)
    if not table["text"]:
        raise ValueError(f"{path} must have at least one row below its header; got none.")
    return _check_table(table, path, text_set)


def _check_table(
    table: dict[str, list[str]], path: Path, text_set: TextSet
) -> dict[str, list[str]]:
    unknown = sorted(set(table["label"]) - set(text_set.target_names))
    if unknown:
        raise ValueError(
            f"{path} must have labels among {list(text_set.target_names)}; got also {unknown}."
        )
    return table


def _read_rows(path: Path) -> Iterator[list[str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            yield from csv.reader(file, strict=True)
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a gzip-compressed UTF-8 CSV file; {error}.") from error
