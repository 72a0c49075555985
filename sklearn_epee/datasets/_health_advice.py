"""Load health advice: the strength of advice in sentences of medical papers."""

import os
from pathlib import Path
from typing import Any

from sklearn.model_selection import train_test_split

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._download import RemoteFile
from sklearn_epee.datasets._loading import FETCHER_CONSTRAINTS, LOADER_CONSTRAINTS
from sklearn_epee.datasets._source import Source, Table
from sklearn_epee.datasets._tables import read_columns

_DESCR = """Health advice: the strength of advice in sentences of medical papers

Sentences that give no, weak or strong advice. Columns of the frame: text, label, section
(structured_abstract, discussion or unstructured_abstract) and pmid.

Classes: 3. Rows (train / dev / test): 8,662 / 1,083 / 1,083.

Source: https://github.com/junwang4/detecting-health-advice, data/annotations_*.csv, without
repeated sentences and sentences with two labels; split 80/10/10, seeded and stratified.
Licence: none stated by the source.
Citation: Li, Y., Wang, J., Yu, B.: Detecting health advice in medical research literature.
EMNLP 2021.
"""

_COLUMNS = ("text", "label", "section", "pmid")
_SECTIONS = ("structured_abstract", "discussion", "unstructured_abstract")
_LABELS = {"0": "none", "1": "weak", "2": "strong"}


def _find(folder: Path) -> Path | None:
    there = all((folder / f"annotations_{section}.csv").is_file() for section in _SECTIONS)
    return folder if there else None


def _read(folder: Path, part: str) -> Table:
    rows = _sentences(folder)
    labels = [row[1] for row in rows]
    train, rest = train_test_split(range(len(rows)), test_size=0.2, stratify=labels, random_state=0)
    dev, test = train_test_split(
        rest, test_size=0.5, stratify=[labels[row] for row in rest], random_state=0
    )
    chosen = [rows[row] for row in {"train": train, "dev": dev, "test": test}[part]]
    return {name: [row[i] for row in chosen] for i, name in enumerate(_COLUMNS)}


def _sentences(folder: Path) -> list[tuple[str, str, str, str]]:
    """Return the sentences of all sections, each once, without those that have two labels."""
    rows: dict[str, tuple[str, str, str, str]] = {}
    labels: dict[str, set[str]] = {}
    for section in _SECTIONS:
        path = folder / f"annotations_{section}.csv"
        table, lines = read_columns(path, ("label", "pmid", "sentence"))
        for i, line in enumerate(lines):
            if table["label"][i] not in _LABELS:
                raise ValueError(
                    f"{path}, line {line}: the label must be 0, 1 or 2; got {table['label'][i]!r}."
                )
            text, label = table["sentence"][i].strip(), _LABELS[table["label"][i]]
            rows.setdefault(text, (text, label, section, table["pmid"][i]))
            labels.setdefault(text, set()).add(label)
    return [row for text, row in rows.items() if len(labels[text]) == 1]


_SOURCE = Source(
    page="https://github.com/junwang4/detecting-health-advice",
    files="annotations_structured_abstract.csv, annotations_discussion.csv and "
    "annotations_unstructured_abstract.csv (data)",
    parts=("train", "dev", "test"),
    find=_find,
    read=_read,
    remote=tuple(
        RemoteFile(
            "https://raw.githubusercontent.com/junwang4/detecting-health-advice/"
            f"7c304faaf4b20cdc6bbd384e2be4e779d4aa63ad/data/annotations_{section}.csv",
            f"annotations_{section}.csv",
        )
        for section in _SECTIONS
    ),
)

_HEALTH_ADVICE = TextSet(
    name="health_advice",
    columns=_COLUMNS,
    target_names=(
        "none",
        "strong",
        "weak",
    ),
    description=_DESCR,
    source=_SOURCE,
    group_of=str,
    grouped_by="pmid",
)


@validate_params(LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_health_advice(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load sentences of medical papers with the strength of their advice (classification).

    The classes are no, weak and strong advice [1]_.

    Nothing is downloaded: the files must be there; :func:`fetch_health_advice` downloads them.
    The source's own files are
    `annotations_{structured_abstract,discussion,unstructured_abstract}.csv` in the folder
    `health_advice`. Repeated sentences and sentences with two labels are left out, and the rest
    is split 80/10/10, stratified (``train_test_split`` with ``random_state=0``).

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `health_advice/{train,dev,test}.csv.gz`, or the source's own files in
        its folder `health_advice`. By default the environment variable `SKLEARN_EPEE_DATA`
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
        - `target_names`: ndarray of shape (3,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `groups`: ndarray of shape (n_samples,), the articles (PubMed);
        - `frame`: DataFrame with the columns `text`, `label`, `section`, `pmid` if
          `as_frame`; otherwise None;
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
    .. [1] Li, Y., Wang, J., Yu, B.: Detecting health advice in medical research literature.
       EMNLP 2021.

    Examples
    --------
    >>> from sklearn_epee.datasets import load_health_advice
    >>> X, y = load_health_advice(subset="dev", return_X_y=True)
    >>> len(X), y[0].item()
    (1083, 'none')
    """
    return load_text_set(
        _HEALTH_ADVICE,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )


@validate_params(FETCHER_CONSTRAINTS, prefer_skip_nested_validation=True)
def fetch_health_advice(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Download health advice if necessary, and load it (classification).

    As :func:`load_health_advice`, with the source's own files downloaded first where none
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
        As :func:`load_health_advice` returns it.

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
    >>> from sklearn_epee.datasets import fetch_health_advice
    >>> X, y = fetch_health_advice(subset="dev", return_X_y=True)
    >>> len(X) == len(y)
    True
    """
    return load_text_set(
        _HEALTH_ADVICE,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
    )
