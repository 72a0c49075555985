"""Load health advice: the strength of advice in sentences of medical papers."""

import os
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._loading import LOADER_CONSTRAINTS

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

_HEALTH_ADVICE = TextSet(
    name="health_advice",
    columns=("text", "label", "section", "pmid"),
    target_names=(
        "none",
        "strong",
        "weak",
    ),
    description=_DESCR,
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

    Nothing is downloaded: the files must be there.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `health_advice/{train,dev,test}.csv.gz`. By default the environment
        variable `SKLEARN_EPEE_DATA` names it.
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
