"""Load PHEE: types of pharmacovigilance events in sentences of case reports."""

import os
from pathlib import Path
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._download import RemoteFile
from sklearn_epee.datasets._loading import FETCHER_CONSTRAINTS, LOADER_CONSTRAINTS
from sklearn_epee.datasets._source import Source, Table, first_existing, json_lines

_DESCR = """PHEE: types of pharmacovigilance events in sentences of case reports

Sentences of medical case reports; the label is the type of the first event that a sentence tells
of. Columns of the frame: text, label, trigger (the trigger of that event), events (the types of
all events, "|" between them) and id.

Classes: 2. Rows (train / dev / test): 2,898 / 961 / 968.

Source: https://github.com/ZhaoyueSun/PHEE, data/json; the split is the source's.
Licence: MIT (licence of the repository).
Citation: Sun, Z., Li, J., Pergola, G., Wallace, B. C., John, B., Greene, N., Kim, J., He, Y.:
PHEE: A dataset for pharmacovigilance event extraction from text. EMNLP 2022.
"""

_COLUMNS = ("text", "label", "trigger", "events", "id")
_DIGESTS = {
    "train": "a2d6cbdae3d95cb3a7e13439164c002041061f6f9823608af483c82d17a31f2b",
    "dev": "e1e24c0dfbe6f624e590a26d294f3082d0142ffc28b9da56761f1dd45e96aa53",
    "test": "ca7e24a88f62e8201583e14f206cd4df5c543acc627abd195bea4df8acd9afdf",
}


def find_files(folder: Path) -> dict[str, Path] | None:
    """Return the source's own files in a folder by the part they are; None if none is there."""
    found = {part: _file(folder, part) for part in ("train", "dev", "test")}
    there = {part: path for part, path in found.items() if path is not None}
    return there or None


def _file(folder: Path, part: str) -> Path | None:
    names = (f"{part}.json", f"{part}.json.gz")
    return first_existing(folder, *names, *(f"source/{name}" for name in names))


def article_of(sentence: str) -> str:
    """Return the article that a sentence is of, by its id, such as 10907391_3."""
    return sentence.partition("_")[0]


def _read(files: dict[str, Path], part: str) -> Table:
    if part not in files:
        raise FileNotFoundError(f"The file {part}.json is missing beside {sorted(files.values())}.")
    rows = [_row(files[part], number, found) for number, found in json_lines(files[part])]
    return {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}


def _row(path: Path, number: int, found: dict[str, Any]) -> tuple[str, ...]:
    try:
        events = [event for part in found["annotations"] for event in part["events"]]
        types = [event["event_type"] for event in events]
        trigger = " ".join(piece for mention in events[0]["Trigger"]["text"] for piece in mention)
        return found["context"], types[0], trigger, "|".join(types), found["id"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path}, line {number}: expected a sentence with events, as in PHEE; {error!r}."
        ) from error


SOURCE = Source(
    page="https://github.com/ZhaoyueSun/PHEE",
    files="train.json, dev.json and test.json (data/json)",
    parts=("train", "dev", "test"),
    find=find_files,
    read=_read,
    remote=tuple(
        RemoteFile(
            "https://raw.githubusercontent.com/ZhaoyueSun/PHEE/"
            f"41489b08675d0b63a1eb7cd4f2d1946952833eb1/data/json/{part}.json",
            f"{part}.json",
            f"sha256:{digest}",
        )
        for part, digest in _DIGESTS.items()
    ),
)

_PHEE = TextSet(
    name="phee",
    columns=_COLUMNS,
    target_names=(
        "Adverse_event",
        "Potential_therapeutic_event",
    ),
    description=_DESCR,
    source=SOURCE,
    group_of=article_of,
    grouped_by="id",
)


@validate_params(LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_phee(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load PHEE, the types of pharmacovigilance events in case reports (classification).

    The label is the type of the first event in a sentence [1]_.

    Nothing is downloaded: the files must be there; :func:`fetch_phee` downloads them. The
    source's own files are `{train,dev,test}.json`, which may be compressed with gzip or lie in
    a folder `source`, in the folder `phee`.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `phee/{train,dev,test}.csv.gz`, or the source's own files in
        its folder `phee`. By default the environment variable `SKLEARN_EPEE_DATA`
        names it.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str (or Series), of length n_samples, the texts;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str;
        - `target_names`: ndarray of shape (2,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `groups`: ndarray of shape (n_samples,), the articles;
        - `frame`: DataFrame with the columns `text`, `label`, `trigger`, `events`, `id`
          if `as_frame`; otherwise None;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, if a parameter is
        not as described, or if a file lacks columns, has rows of
        another length than its header or has unknown labels.
    FileNotFoundError
        If the folder or a file in it does not exist.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Sun, Z., Li, J., Pergola, G., Wallace, B. C., John, B., Greene, N., Kim, J., He,
       Y.: PHEE: A dataset for pharmacovigilance event extraction from text. EMNLP 2022.

    Examples
    --------
    >>> from sklearn_epee.datasets import load_phee
    >>> X, y = load_phee(subset="dev", return_X_y=True)
    >>> len(X), y[0].item()
    (961, 'Adverse_event')
    """
    return load_text_set(
        _PHEE,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )


@validate_params(FETCHER_CONSTRAINTS, prefer_skip_nested_validation=True)
def fetch_phee(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Download phee if necessary, and load it (classification).

    As :func:`load_phee`, with the source's own files downloaded first where none
    are there. An interrupted download is resumed by the next call.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder into which sets are downloaded, each into a folder of its own. By default the
        environment variable `SKLEARN_EPEE_DATA` names it, otherwise it is `~/sklearn_epee_data`.
    download_if_missing : bool, default=True
        If False, raise an error if files are missing.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_phee` returns it.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If a parameter is not as described, or a file is not as expected.
    FileNotFoundError
        If files are missing and `download_if_missing` is False.
    OSError
        If a file cannot be downloaded; the message says where to get it and where to put it.
    ImportError
        If `as_frame` is True and pandas is not installed.

    Examples
    --------
    >>> from sklearn_epee.datasets import fetch_phee
    >>> X, y = fetch_phee(subset="dev", return_X_y=True)
    >>> len(X) == len(y)
    True
    """
    return load_text_set(
        _PHEE,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
    )
