"""Load Drug Review: patients' reviews of drugs, with ratings."""

import html
import os
from pathlib import Path
from typing import Any

from sklearn_epee._compat import StrOptions, validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._loading import LOADER_CONSTRAINTS
from sklearn_epee.datasets._source import Source, Table, first_existing
from sklearn_epee.datasets._tables import read_columns

_DESCR = """Drug Review (Drugs.com): what patients wrote of their drugs

Reviews with a rating from 1 to 10; the label is "negative" for a rating of at most 4 and "positive"
for one of at least 7, as the authors of the data split ratings, and reviews with 5 and 6 are left
out. Columns of the frame: text, label, drug, condition, rating, date and useful_count. HTML
entities in reviews are resolved, and the quotation marks around them removed. The same review may
stand at several drugs, and in both parts.

Classes: 2.

Source: https://archive.ics.uci.edu/dataset/462, drugsComTrain_raw.tsv and drugsComTest_raw.tsv; the
split is the source's.
Licence: see the page of the source.
Citation: Graesser, F., Kallumadi, S., Malberg, H., Zaunseder, S.: Aspect-based sentiment analysis
of drug reviews applying cross-domain and cross-data learning. Digital Health 2018, 121-125.
"""
_COLUMNS = ("text", "label", "drug", "condition", "rating", "date", "useful_count")
_IN_SOURCE = ("review", "rating", "drugName", "condition", "rating", "date", "usefulCount")
_NEGATIVE, _POSITIVE = 4, 7


def _find(folder: Path) -> Path | None:
    names = [name for part in ("train", "test") for name in _names(part)]
    return None if first_existing(folder, *names) is None else folder


def _names(part: str) -> tuple[str, str]:
    name = f"drugsCom{part.capitalize()}_raw.tsv"
    return name, f"{name}.gz"


def _read(folder: Path, part: str) -> Table:
    path = first_existing(folder, *_names(part))
    if path is None:
        raise FileNotFoundError(f"The file {str(folder / _names(part)[0])!r} is missing.")
    table, lines = read_columns(path, tuple(dict.fromkeys(_IN_SOURCE)), delimiter="\t")
    labels = [
        _label(path, line, rating) for line, rating in zip(lines, table["rating"], strict=True)
    ]
    kept = [row for row, label in enumerate(labels) if label]
    columns = {
        column: [table[name][row] for row in kept]
        for column, name in zip(_COLUMNS, _IN_SOURCE, strict=True)
    }
    columns["text"] = [_cleaned(text) for text in columns["text"]]
    columns["label"] = [labels[row] for row in kept]
    return columns


def _label(path: Path, line: int, rating: str) -> str:
    try:
        value = float(rating)
    except ValueError:
        value = 0
    if not 1 <= value <= 10:
        raise ValueError(f"{path}, line {line}: the rating must be from 1 to 10; got {rating!r}.")
    return "negative" if value <= _NEGATIVE else "positive" if value >= _POSITIVE else ""


def _cleaned(review: str) -> str:
    text = html.unescape(review).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    return text


_DRUG_REVIEWS = TextSet(
    name="drug_reviews",
    columns=_COLUMNS,
    target_names=("negative", "positive"),
    description=_DESCR,
    source=Source(
        page="https://archive.ics.uci.edu/dataset/462",
        files="drugsComTrain_raw.tsv and drugsComTest_raw.tsv",
        parts=("train", "test"),
        find=_find,
        read=_read,
    ),
)


@validate_params(
    LOADER_CONSTRAINTS | {"subset": [StrOptions({"train", "test", "all"})]},
    prefer_skip_nested_validation=True,
)
def load_drug_reviews(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load Drug Review, reviews of drugs with two classes of ratings (classification).

    The label is "negative" for a rating of at most 4 and "positive" for one of at least 7; the rest
    is left out [1]_.

    Nothing is downloaded: get ``drugsComTrain_raw.tsv`` and ``drugsComTest_raw.tsv`` from the UCI
    repository (https://archive.ics.uci.edu/dataset/462), and put them into the folder
    `drug_reviews`.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        The part to load; "all" is train and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `drug_reviews/drugsCom{Train,Test}_raw.tsv`, which may be compressed
        with gzip, or `drug_reviews/{train,test}.csv.gz`. By default the environment variable
        `SKLEARN_EPEE_DATA` names it.
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
        - `groups`: None, as the source does not tell patients;
        - `frame`: DataFrame with the columns `text`, `label`, `drug`, `condition`, `rating`,
          `date`, `useful_count` if `as_frame`; otherwise None;
        - `DESCR`: str, with the source and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, a parameter is not as
        described, or a file lacks columns or has rows or ratings that are not as expected.
    FileNotFoundError
        If the folder or a file in it does not exist.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Graesser, F., Kallumadi, S., Malberg, H., Zaunseder, S.: Aspect-based sentiment analysis
       of drug reviews applying cross-domain and cross-data learning. Digital Health 2018, 121-125.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sklearn_epee.datasets import load_drug_reviews
    >>> header = ["", "drugName", "condition", "review", "rating", "date", "usefulCount"]
    >>> row = ["7", "Aspirin", "Headache", "It doesn&#039;t help.", "2.0", "May 1, 2012", "3"]
    >>> with tempfile.TemporaryDirectory() as home:
    ...     file = pathlib.Path(home, "drug_reviews", "drugsComTrain_raw.tsv")
    ...     file.parent.mkdir()
    ...     _ = file.write_text(chr(10).join(map(chr(9).join, [header, row])))
    ...     load_drug_reviews(data_home=home, return_X_y=True)
    (["It doesn't help."], array(['negative'], dtype='<U8'))
    """
    return load_text_set(
        _DRUG_REVIEWS,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )
