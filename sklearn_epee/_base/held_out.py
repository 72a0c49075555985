"""Hold out validation rows in `fit`: stratified, with groups kept together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from sklearn_epee._checks.tasks import strata

# Number of random draws of groups, of which the best stratified one is used.
_DRAWS = 10

Rows = NDArray[np.intp]


def hold_out(
    labels: NDArray[np.int64],
    fraction: float,
    seed: int,
    groups: NDArray[np.int64] | None = None,
    names: NDArray[Any] | None = None,
) -> tuple[Rows, Rows]:
    """Split rows into training rows and held-out rows, stratified by class.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_tasks), int64
    fraction : float
        Fraction to hold out.
    seed : int
    groups : ndarray of shape (n_samples,), int64, or None, default=None
        Numbers from 0; the samples of a group stay together.
    names : ndarray of shape (n_classes,) or None, default=None
        Names of the classes of a single task, for error messages.

    Returns
    -------
    train, valid : ndarray of int
        Ascending.

    Raises
    ------
    ValueError
        If a class would have no training sample.
    """
    rows = np.arange(len(labels))
    if not fraction:
        return rows, rows[:0]
    if groups is not None:
        held_out = _groups_held_out(_counts(labels, groups), groups, fraction, seed)
        return rows[~held_out], rows[held_out]
    try:
        train, valid = train_test_split(
            rows, test_size=fraction, stratify=strata(labels), random_state=seed
        )
    except ValueError as error:
        reason = _alone(labels, names) or f"{error}."
        raise ValueError(_cannot_hold_out(fraction, len(rows), reason)) from error
    if not _all_classes_in(labels, train):
        reason = "A class would have no training sample left."
        raise ValueError(_cannot_hold_out(fraction, len(rows), reason))
    return np.sort(train), np.sort(valid)


def hold_out_labels(
    codes: NDArray[np.int64],
    fraction: float,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> tuple[Rows, Rows]:
    """Split rows into training rows and held-out rows, stratified by every label.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int64
        1 where a sample has a label.
    fraction, seed, groups
        Those of `hold_out`.

    Returns
    -------
    train, valid : ndarray of int
        Ascending.

    Raises
    ------
    ValueError
        If no sample can be held out, or none would be left.
    """
    rows = np.arange(len(codes))
    if not fraction:
        return rows, rows[:0]
    has = codes == 1
    if groups is None:
        held_out = _in_proportion(has, fraction, np.random.RandomState(seed))
    else:
        counts = np.zeros((groups.max() + 1, has.shape[1]))
        np.add.at(counts, groups, has)
        # A label that only one group has cannot be stratified.
        counts = counts[:, np.count_nonzero(counts, axis=0) > 1]
        sizes = np.bincount(groups).astype(np.float64)
        counts = np.column_stack([sizes, counts])
        held_out = _groups_held_out(counts, groups, fraction, seed)
    if held_out.all() or not held_out.any():
        reason = "Too few of them would be left in one of the parts."
        raise ValueError(_cannot_hold_out(fraction, len(rows), reason))
    return rows[~held_out], rows[held_out]


def _in_proportion(
    has: NDArray[np.bool_], fraction: float, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Return which samples are held out, by iterative stratification.

    See Sechidis et al., "On the stratification of multi-label data" (2011): in every step, the
    samples of the label with the fewest remaining samples are distributed.
    """
    held, placed = np.zeros(len(has), dtype=bool), np.zeros(len(has), dtype=bool)
    wanted, left, learned = fraction * has.sum(0), has.sum(0), has.sum(0)
    while left.any():
        label = int(np.where(left > 0, left, len(has) + 1).argmin())
        rows = rng.permutation(np.flatnonzero(has[:, label] & ~placed))
        more = wanted[label] - np.count_nonzero(has[:, label] & held)
        # Randomly rounded up or down, but at least one training sample remains.
        n_held = int(np.clip(np.floor(more + rng.rand()), 0, min(len(rows), learned[label] - 1)))
        held[rows[:n_held]], placed[rows] = True, True
        learned = learned - has[rows[:n_held]].sum(0)
        left = left - has[rows].sum(0)
    n_missing = int(np.ceil(fraction * len(has))) - np.count_nonzero(held)
    for row in rng.permutation(np.flatnonzero(~held)):
        # First samples without labels, then any that is not the last training sample of a label.
        if n_missing > 0 and not placed[row]:
            held[row], n_missing = True, n_missing - 1
    for row in rng.permutation(np.flatnonzero(~held)):
        if n_missing > 0 and (learned[has[row]] > 1).all():
            held[row], n_missing, learned = True, n_missing - 1, learned - has[row]
    return held


def _groups_held_out(
    counts: NDArray[np.float64], groups: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Return which samples are held out, as whole groups: the best of several random draws."""
    wanted = fraction * counts.sum(0)
    if not (counts < counts.sum(0)).all(1).any():
        raise ValueError(
            f"validation_fraction={fraction} cannot hold out any of the {len(counts)} groups: "
            "each contains all samples of a class, so no training sample of it would be left. "
            "Give more groups, or set validation_fraction=0 and early_stopping=False."
        )
    rng = np.random.RandomState(seed)
    draws = [_draw(counts, wanted, rng.permutation(len(counts))) for _ in range(_DRAWS)]
    held: NDArray[np.bool_] = min(draws, key=lambda held: _distance(counts[held].sum(0), wanted))
    return held[groups]


def _draw(
    counts: NDArray[np.float64], wanted: NDArray[np.float64], order: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return which groups are held out if they are considered in a given order.

    A group is held out if this brings the numbers of held-out samples per class closer to the
    wanted ones and leaves training samples of every class. If every group is too large, the best
    single group is held out.
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
    """Return the number of samples of each class of all tasks in each group."""
    parts = []
    for column in labels.reshape(len(labels), -1).T:
        part = np.zeros((groups.max() + 1, column.max() + 1))
        np.add.at(part, (groups, column), 1)
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _distance(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    # The chi-square statistic: squared differences are divided by the wanted numbers, so that rare
    # classes count.
    return float(((found - wanted) ** 2 / wanted).sum())


def _all_classes_in(labels: NDArray[np.int64], rows: Rows) -> bool:
    columns = labels.reshape(len(labels), -1).T
    return all(len(np.unique(column[rows])) == len(np.unique(column)) for column in columns)


def _alone(labels: NDArray[np.int64], names: NDArray[Any] | None) -> str:
    """Return a sentence about classes with a single sample; empty if there are none."""
    if names is None or labels.ndim > 1:
        return ""
    alone = names[np.bincount(labels, minlength=len(names)) == 1]
    return (
        f"There is a single sample of each of the classes {alone.tolist()}." if len(alone) else ""
    )


def _cannot_hold_out(fraction: float, n_samples: int, reason: str) -> str:
    return (
        f"validation_fraction={fraction} cannot hold out a part of "
        f"{n_samples} samples in which every class is present: {reason} Give more samples "
        "of the small classes, or set validation_fraction=0 and early_stopping=False."
    )
