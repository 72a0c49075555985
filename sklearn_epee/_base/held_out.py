"""The rows that a fit holds out to watch its training: in proportion, and groups as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from sklearn_epee._checks.tasks import strata

# Draws of groups, of which the one is taken that comes nearest to the proportions.
_DRAWS = 10

Rows = NDArray[np.intp]


def hold_out(
    labels: NDArray[np.int64],
    fraction: float,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> tuple[Rows, Rows]:
    """Return the rows to learn from and those held out, drawn in proportion.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_tasks), int64
    fraction : float
        Fraction held out.
    seed : int
    groups : ndarray of shape (n_samples,), int64, or None, default=None
        Numbers from 0; the samples of a group stay together.

    Returns
    -------
    train, valid : ndarray of int
        Ascending.

    Raises
    ------
    ValueError
        If a class would be lost for learning.
    """
    rows = np.arange(len(labels))
    if not fraction:
        return rows, rows[:0]
    if groups is not None:
        held_out = _groups_held_out(labels, groups, fraction, seed)
        return rows[~held_out], rows[held_out]
    try:
        train, valid = train_test_split(
            rows, test_size=fraction, stratify=strata(labels), random_state=seed
        )
    except ValueError as error:
        raise ValueError(_cannot_hold_out(fraction, len(rows), str(error))) from error
    if not _all_classes_in(labels, train):
        reason = "A class would have no sample left to learn from."
        raise ValueError(_cannot_hold_out(fraction, len(rows), reason))
    return np.sort(train), np.sort(valid)


def _groups_held_out(
    labels: NDArray[np.int64], groups: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Return which samples are held out, with their groups: the best of some draws."""
    counts = _counts(labels, groups)
    wanted = fraction * counts.sum(0)
    if not (counts < counts.sum(0)).all(1).any():
        raise ValueError(
            f"validation_fraction={fraction} cannot hold out any of the {len(counts)} groups: "
            "each holds all samples of a class, of which none would be left to learn from. "
            "Give more groups, or set validation_fraction=0 and early_stopping=False."
        )
    rng = np.random.RandomState(seed)
    draws = [_draw(counts, wanted, rng.permutation(len(counts))) for _ in range(_DRAWS)]
    held: NDArray[np.bool_] = min(draws, key=lambda held: _distance(counts[held].sum(0), wanted))
    return held[groups]


def _draw(
    counts: NDArray[np.float64], wanted: NDArray[np.float64], order: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return which groups are held out, where they are met in an order.

    One is held out if that brings the number of samples held out of each class nearer to what is
    wanted, and leaves samples of every class to learn from. Where every group is more than was
    asked for, it is the one that is least so.
    """
    held, found, total = np.zeros(len(counts), dtype=bool), np.zeros(len(wanted)), counts.sum(0)
    possible = [group for group in order if (counts[group] < total).all()]
    for group in possible:
        more = found + counts[group]
        if (more < total).all() and _distance(more, wanted) < _distance(found, wanted):
            held[group], found = True, more
    if not held.any():
        held[min(possible, key=lambda group: _distance(counts[group], wanted))] = True
    return held


def _counts(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many samples each group has of each class, the classes of all tasks in a row."""
    parts = []
    for column in labels.reshape(len(labels), -1).T:
        part = np.zeros((groups.max() + 1, column.max() + 1))
        np.add.at(part, (groups, column), 1)
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _distance(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    # Relative to what is wanted by a class, so that rare classes count; the square of a number of
    # samples over their expectation, as in a chi-square test.
    return float(((found - wanted) ** 2 / wanted).sum())


def _all_classes_in(labels: NDArray[np.int64], rows: Rows) -> bool:
    columns = labels.reshape(len(labels), -1).T
    return all(len(np.unique(column[rows])) == len(np.unique(column)) for column in columns)


def _cannot_hold_out(fraction: float, n_samples: int, reason: str) -> str:
    return (
        f"validation_fraction={fraction} cannot hold out a part of "
        f"{n_samples} samples in which every class is present: {reason} Give more samples "
        "of the small classes, or set validation_fraction=0 and early_stopping=False."
    )
