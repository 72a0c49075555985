"""Risks that a guarantee can bound: losses of every sample at every exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.missing import is_missing
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.staged import Floats, Integers

from ._p_values import betting, binomial

NAMED_RISKS = (
    "accuracy_drop",
    "disagreement",
    "error",
    "brier_increase",
    "proba_change",
    "brier_score",
)
_OF_PROBA = ("brier_increase", "proba_change", "brier_score")
# Takes true labels, labels predicted at an exit, and at full depth; returns losses in [0, 1].
LossFunction = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Any]


@dataclass(frozen=True)
class Risk:
    """Losses whose mean is the risk of a policy.

    Attributes
    ----------
    losses : ndarray of shape (n_samples, n_layers), float64
        Loss of each sample if it exits at each layer.
    concerned : ndarray of shape (n_samples,), bool
        The samples over which the mean is taken.
    description : str
        For messages.
    is_binary : bool
        Whether losses are 0 or 1.
    is_relative : bool
        Whether the risk is 0 at full depth by definition.
    """

    losses: Floats
    concerned: NDArray[np.bool_]
    description: str
    is_binary: bool = False
    is_relative: bool = False

    def p_value(self, losses: Floats, bound: float, level: float, seen: Floats) -> float:
        """Return a p-value of "the mean loss on new data is above the bound".

        If losses are 0 or 1, the p-value of the exact binomial test, otherwise that of betting.
        These need the fewest samples (``benchmarks/risk_control.py``).

        Parameters
        ----------
        losses : ndarray of shape (n,)
            In random order.
        bound, level : float
        seen : ndarray
            Losses that are not tested, see :func:`._p_values.betting`.

        Returns
        -------
        float
            1 if there are no losses.
        """
        if not len(losses):
            return 1.0
        if self.is_binary:
            return binomial(losses, bound)
        return betting(losses, bound, level, seen)


def check_risk(risk: Any) -> None:
    """Raise if `risk` is neither a known name, nor ("miss", label), nor a callable.

    Raises
    ------
    ValueError
        The message lists all options.
    """
    is_miss = isinstance(risk, tuple) and len(risk) == 2 and risk[0] == "miss"
    if not (is_miss or callable(risk) or (isinstance(risk, str) and risk in NAMED_RISKS)):
        raise ValueError(
            "risk must be 'accuracy_drop', 'disagreement', 'error', 'brier_increase', "
            "'proba_change', 'brier_score', ('miss', label) or a callable; "
            f"got {risk!r}."
        )


def check_risk_groups(risk_groups: Any, n_samples: int) -> NDArray[Any]:
    """Return the group of each sample as an array, or raise.

    Raises
    ------
    ValueError
        If there is not one label for each sample, or a label is missing.
    TypeError
        If the labels have types that cannot be compared with each other.
    """
    # NumPy would convert numbers, None and NaN to strings if there are strings.
    labels = np.asarray(
        risk_groups, dtype=object if isinstance(risk_groups, (list, tuple)) else None
    )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    if labels.shape != (n_samples,):
        raise ValueError(
            "risk_groups must hold one label for each of the "
            f"{n_samples} samples; got an array of shape {labels.shape}."
        )
    missing = [row for row, label in enumerate(labels.tolist()) if is_missing(label)]
    if missing:
        raise ValueError(
            f"risk_groups must hold a label for every sample, but {len(missing)} are missing, the "
            f"first at row {missing[0]}. Give these samples a group of their own, such as "
            "'unknown', or leave them out."
        )
    try:
        set(labels.tolist())
        np.unique(labels)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise TypeError(
            "risk_groups must hold labels of one type, such as strings or integers; got the types "
            f"{kinds}."
        ) from error
    return labels


def risk_of(
    risk: str | tuple[str, Any] | LossFunction,
    predictions: Integers,
    codes: Integers,
    tasks: Tasks,
    proba: Sequence[NDArray[np.floating]] = (),
) -> Risk:
    """Return the losses of a named or callable risk.

    Parameters
    ----------
    risk : str in `NAMED_RISKS`, ("miss", label) or callable
    predictions : ndarray of shape (n_samples, n_layers, n_tasks), int
        Column of the class predicted at every layer; for several labels, whether each label is
        predicted. A prediction counts as correct, or as equal to another one, if it is so in all
        tasks, or labels.
    codes : ndarray of shape (n_samples, n_tasks), int
        Column of the true class; for several labels, whether the sample has each label.
    tasks : Tasks
    proba : sequence of ndarray of shape (n_samples, n_layers, n_classes)
        Probabilities predicted at every layer, one array per task. Only used by the risks of
        probabilities.

    Returns
    -------
    Risk

    Raises
    ------
    ValueError
        If a label is unknown, or a callable does not return losses in [0, 1].
    """
    all_samples = np.ones(len(codes), dtype=bool)
    if callable(risk):
        losses = _called(risk, predictions, codes, tasks)
        return Risk(losses, all_samples, "the given risk")
    if risk in _OF_PROBA:
        return _risk_of_proba(str(risk), codes, tasks, proba)
    is_known = codes >= 0  # negative codes are missing labels
    wrong = _any_task((predictions != codes[:, np.newaxis]) & is_known[:, np.newaxis])
    judged = _judged(is_known)
    if risk == "error":
        return Risk(wrong, judged, "the error rate", is_binary=True)
    if risk == "disagreement":
        differs = _any_task(predictions != predictions[:, -1:])
        name = "the disagreement with full depth"
        return Risk(differs, all_samples, name, is_binary=True, is_relative=True)
    if risk == "accuracy_drop":
        drop = wrong - wrong[:, -1:]
        name = "the accuracy drop against full depth"
        return Risk(drop, judged, name, is_relative=True)
    return _miss(risk[1], predictions, codes, tasks)


def _miss(label: Any, predictions: Integers, codes: Integers, tasks: Tasks) -> Risk:
    """Return the miss rate of a class, or a label, over the samples that have it."""
    code = _code_of(label, np.asarray(tasks.classes))
    if tasks.multilabel:
        missed = np.asarray(predictions[..., code] != 1, dtype=np.float64)
        name = f"the miss rate of label {label!r}"
        return Risk(missed, codes[:, code] == 1, name, is_binary=True)
    of_label = codes[:, 0] == code
    wrong = _any_task(predictions != codes[:, np.newaxis])
    return Risk(wrong, of_label, f"the miss rate of class {label!r}", is_binary=True)


def _risk_of_proba(
    risk: str, codes: Integers, tasks: Tasks, proba: Sequence[NDArray[np.floating]]
) -> Risk:
    """Return a risk of probabilities: half the squared distance to the truth, or to full depth.

    For several tasks, the mean over the tasks; for several labels, the mean squared difference over
    the known labels of a sample.
    """
    all_samples = np.ones(len(codes), dtype=bool)
    if risk == "proba_change":
        losses = _distances(proba, [task[:, -1:] for task in proba], None, tasks)
        return Risk(losses, all_samples, "the change of probabilities", is_relative=True)
    known = codes >= 0
    truth = [np.maximum(codes, 0)[:, np.newaxis]]
    if not tasks.multilabel:
        truth = [
            np.eye(len(classes))[codes[:, task]][:, np.newaxis]
            for task, classes in enumerate(tasks.each)
        ]
    score = _distances(proba, truth, known, tasks)
    if risk == "brier_score":
        return Risk(score, _judged(known), "the Brier score")
    name = "the increase of the Brier score against full depth"
    return Risk(score - score[:, -1:], _judged(known), name, is_relative=True)


def _judged(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which samples have a known label; without one, any prediction would be correct."""
    return np.asarray(known.any(axis=1))


def _distances(
    proba: Sequence[NDArray[np.floating]],
    others: Sequence[NDArray[Any]],
    known: NDArray[np.bool_] | None,
    tasks: Tasks,
) -> Floats:
    """Return distances in [0, 1] between probabilities, (n_samples, n_layers)."""
    pairs = zip(proba, others, strict=True)
    squares = [(task.astype(np.float64) - other) ** 2 for task, other in pairs]
    if not tasks.multilabel:
        # In half precision, probabilities may slightly exceed 1.
        return np.minimum(np.mean([square.sum(axis=2) / 2 for square in squares], axis=0), 1.0)
    counts = np.ones(squares[0].shape[::2]) if known is None else known.astype(np.float64)
    total = (squares[0] * counts[:, np.newaxis]).sum(axis=2)
    losses: Floats = np.minimum(total / np.maximum(counts.sum(axis=1), 1)[:, np.newaxis], 1.0)
    return losses


def _any_task(differs: NDArray[np.bool_]) -> Floats:
    """Return 1 where a prediction differs in any task, else 0, of shape (n_samples, n_layers)."""
    losses: Floats = np.asarray(differs.any(axis=2), dtype=np.float64)
    return losses


def _code_of(label: Any, classes: NDArray[Any]) -> int:
    names = classes.tolist()
    if not np.isscalar(label) or label not in names:
        raise ValueError(f"risk=('miss', {label!r}) names no class; there are {names}.")
    return names.index(label)


def _called(risk: LossFunction, predictions: Integers, codes: Integers, tasks: Tasks) -> Floats:
    y = _labels(tasks, codes)
    layers = [_labels(tasks, layer) for layer in np.moveaxis(predictions, 1, 0)]
    columns = [checked_losses(risk(y, labels, layers[-1]), len(y)) for labels in layers]
    return np.column_stack(columns)


def _labels(tasks: Tasks, codes: Integers) -> NDArray[Any]:
    """Return labels, (n_samples,) or (n_samples, n_tasks), from columns (n_samples, n_tasks)."""
    return tasks.decode(codes if tasks.several else codes[:, 0])


def checked_losses(losses: Any, n_samples: int) -> Floats:
    """Check the losses returned by a callable risk: shape (n_samples,), in [0, 1]."""
    array = np.asarray(losses)
    if array.shape != (n_samples,) or array.dtype.kind not in "biuf":
        raise ValueError(
            f"A callable risk must return {n_samples} numbers, one loss a sample; got an array of "
            f"shape {array.shape} and dtype {array.dtype}."
        )
    array = array.astype(np.float64)
    if not ((array >= 0) & (array <= 1)).all():  # false for NaN too
        raise ValueError(
            "A callable risk must return losses between 0 and 1; got values from "
            f"{array.min()} to {array.max()}."
        )
    return array
