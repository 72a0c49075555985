"""Load PHEE: types of pharmacovigilance events in sentences of case reports."""

import os
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._loading import LOADER_CONSTRAINTS

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

_PHEE = TextSet(
    name="phee",
    columns=("text", "label", "trigger", "events", "id"),
    target_names=(
        "Adverse_event",
        "Potential_therapeutic_event",
    ),
    description=_DESCR,
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

    Nothing is downloaded: the files must be there.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `phee/{train,dev,test}.csv.gz`. By default the environment
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
        - `target_names`: ndarray of shape (2,), the classes in sorted order, as in the
          `classes_` of a classifier;
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
