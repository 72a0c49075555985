"""The data sets of the study: their parts, with labels as codes, and their scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils import Bunch

from sklearn_epee import datasets
from studies.mentions import load_arguments, load_drugs

SUBSETS = ("train", "dev", "test")


@dataclass(frozen=True)
class DataSet:
    """Properties of a data set that are known before it is read.

    Parameters
    ----------
    load : callable
        The loader, from `sklearn_epee.datasets` or `studies.mentions`.
    kind : {"texts", "images", "spans"}
    main_score : {"accuracy", "micro_f1", "span_f1"}
        The score by which policies and rivals are chosen on the dev part.
    negative : str or None
        The class that "micro_f1" leaves out.
    options : dict
        Arguments of the loader, for the training part only.
    """

    load: Callable[..., Any]
    kind: str
    main_score: str = "accuracy"
    negative: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


SETS = {
    "ddi2013": DataSet(datasets.load_ddi2013, "texts", "micro_f1", "false"),
    "git": DataSet(datasets.load_git, "texts"),
    "phee": DataSet(datasets.load_phee, "texts"),
    "health_advice": DataSet(datasets.load_health_advice, "texts"),
    "breastmnist": DataSet(datasets.load_breastmnist, "images"),
    "pneumoniamnist": DataSet(datasets.load_pneumoniamnist, "images"),
    "pathmnist_subset": DataSet(datasets.load_pathmnist_subset, "images"),
    "phee_events": DataSet(
        datasets.load_phee_events, "spans", "span_f1", options={"discontinuous": "pieces"}
    ),
    "ddi2013_drugs": DataSet(load_drugs, "spans", "span_f1"),
    "git_arguments": DataSet(load_arguments, "spans", "span_f1"),
}
# Codes of negative classes, for functions that only have codes; checked by `load_parts`.
NEGATIVE_CODES = {"ddi2013": 2}


class Part(NamedTuple):
    """Samples and labels of one part of a data set.

    Texts are a list of str, images an array. Labels are codes, (n,) int64; for spans, a list of
    dict as in `load_phee_events`.
    """

    X: Any
    y: Any


@dataclass(frozen=True)
class Parts:
    """The parts of a data set.

    Parameters
    ----------
    train, dev, test : Part
    classes : ndarray of str of shape (K,)
        The class of each code. Empty for spans.
    kind : {"texts", "images", "spans"}
    main_score : str
    bunches : dict of str to Bunch
        For spans, the bunches of the loader, for scores: `all_spans`, and `events` if there are
        any.
    """

    train: Part
    dev: Part
    test: Part
    classes: NDArray[np.str_]
    kind: str
    main_score: str
    bunches: dict[str, Bunch] = field(default_factory=dict)


def load_parts(
    name: str,
    data_home: str | os.PathLike[str] | None = None,
    n_train: int | None = None,
    seed: int = 0,
    n_eval: int | None = None,
) -> Parts:
    """Return the parts of a data set.

    Parameters
    ----------
    name : str
        A key of `SETS`.
    data_home : path-like or None, default=None
        The folder of the data sets; None: that of the environment variable `SKLEARN_EPEE_DATA`.
    n_train : int or None, default=None
        Number of training samples, drawn at random; None: all.
    seed : int, default=0
        Seed for drawing training samples.
    n_eval : int or None, default=None
        Number of samples of dev and of test, drawn with seed 0; None: all.

    Returns
    -------
    Parts

    Raises
    ------
    FileNotFoundError
        If the data set is not in the folder.
    """
    about = SETS[name]
    bunches = {
        subset: about.load(
            subset=subset, data_home=data_home, **(about.options if subset == "train" else {})
        )
        for subset in SUBSETS
    }
    rows = {
        "train": _drawn(len(bunches["train"].data), n_train, seed),
        "dev": _drawn(len(bunches["dev"].data), n_eval, 0),
        "test": _drawn(len(bunches["test"].data), n_eval, 0),
    }
    if about.kind == "spans":
        return _parts_of_spans(about, {s: _rows_of(bunches[s], rows[s]) for s in SUBSETS})
    classes = np.unique(np.concatenate([bunches[subset].target for subset in SUBSETS]))
    if about.negative is not None and classes[NEGATIVE_CODES[name]] != about.negative:
        raise ValueError(f"{name}: class {NEGATIVE_CODES[name]} of {classes} is the negative one.")
    train, dev, test = (
        Part(
            _taken(bunches[subset].data, rows[subset]),
            np.searchsorted(classes, np.asarray(bunches[subset].target)[rows[subset]]),
        )
        for subset in SUBSETS
    )
    return Parts(train, dev, test, classes.astype(str), about.kind, about.main_score)


def _drawn(n: int, n_wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Return the indices of the rows that are used, ascending."""
    if n_wanted is None or n_wanted >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:n_wanted])


def _taken(data: Any, rows: NDArray[np.int64]) -> Any:
    return data[rows] if isinstance(data, np.ndarray) else [data[row] for row in rows]


def _rows_of(bunch: Bunch, rows: NDArray[np.int64]) -> Bunch:
    keys = [key for key in ("data", "target", "all_spans", "events") if key in bunch]
    taken = {key: _taken(bunch[key], rows) for key in keys}
    return Bunch(**bunch | taken)


def _parts_of_spans(about: DataSet, bunches: dict[str, Bunch]) -> Parts:
    train, dev, test = (Part(bunches[subset].data, bunches[subset].target) for subset in SUBSETS)
    return Parts(train, dev, test, np.array([], str), about.kind, about.main_score, bunches)


def score_all(
    name: str, y: NDArray[np.integer], predicted: NDArray[np.integer]
) -> dict[str, float]:
    """Return all scores of predicted codes.

    Parameters
    ----------
    name : str
        The data set, a key of `SETS`; not one of spans.
    y, predicted : ndarray of int of shape (n,)
        Codes of classes.

    Returns
    -------
    dict of str to float
        "accuracy" and "macro_f1", over the classes in `y` and `predicted`; for a data set with a
        negative class, also "micro_f1" over all other classes.
    """
    scores = {
        "accuracy": float(accuracy_score(y, predicted)),
        "macro_f1": float(f1_score(y, predicted, average="macro", zero_division=0)),
    }
    if name in NEGATIVE_CODES:
        right = (y == predicted) & (y != NEGATIVE_CODES[name])
        n_positive = np.sum(y != NEGATIVE_CODES[name]) + np.sum(predicted != NEGATIVE_CODES[name])
        scores["micro_f1"] = float(2 * right.sum() / max(n_positive, 1))
    return scores


def spread(
    proba: NDArray[np.floating], seen: NDArray[np.integer], n_classes: int
) -> NDArray[np.float32]:
    """Return probabilities with a column for every class of a data set.

    Parameters
    ----------
    proba : ndarray of shape (..., n_seen)
        Probabilities of a classifier that was trained on some of the classes only.
    seen : ndarray of int of shape (n_seen,)
        Codes of the columns, its ``classes_``.
    n_classes : int

    Returns
    -------
    ndarray of shape (..., n_classes), float32
        0 for the other classes.
    """
    every = np.zeros((*proba.shape[:-1], n_classes), np.float32)
    every[..., seen] = proba
    return every


def sets_in(data_home: str | os.PathLike[str] | None, names: Sequence[str]) -> list[str]:
    """Return the data sets that are available in a folder, in the given order."""
    return [name for name in names if _is_there(name, data_home)]


def _is_there(name: str, data_home: str | os.PathLike[str] | None) -> bool:
    try:
        SETS[name].load(subset="dev", data_home=data_home)
    except FileNotFoundError:
        return False
    return True
