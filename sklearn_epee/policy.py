"""Exit policies on arrays: entropies, patience counters, exit layers, ensembles and joint exits.

A multi-exit network predicts every sample M times, once after each of its layers. An exit policy
reads these staged probabilities and decides at which layer each sample exits: at the first layer
whose normalized entropy is below ``tau``, or whose patience counter has reached ``patience``; at
the last layer if there is none. The two rules and their combination are those of EPEE [1]_. Layers
are numbered from 1.

The patience counter starts at 1, so ``patience=1`` always exits at the first layer and
``patience=M`` never exits before the last one. PABEE [2]_ and its descendants count agreements
from 0: their patience ``p`` is ``p + 1`` here.

Several tasks on one backbone exit together, by a rule that joins their entropies and counters. So
do several labels, each of which is there or not: with ``multilabel=True`` the last axis holds the
probability of each label, entropies are joined, and patience counts layers that agree on the whole
set of predicted labels.

This module needs NumPy alone. It is the reference that the inference engine is tested against, and
it applies any policy to probabilities computed once.

References
----------
.. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
   arXiv:2503.02053.
.. [2] "BERT Loses Patience: Fast and Robust Inference with Early Exit",
   Advances in Neural Information Processing Systems 33 (2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._exits.checks import JOINT_EXITS, as_array, check_patience, check_tau
from ._exits.rule import label_entropies, normalized_entropy, patience_counters
from ._exits.staged import StagedPredictions

__all__ = [
    "JOINT_EXITS",
    "PolicyResult",
    "apply_policy",
    "exit_layers",
    "normalized_entropy",
    "patience_counters",
    "stack_layers",
]


class PolicyResult(NamedTuple):
    """Predictions under an exit policy, one row per sample.

    Attributes
    ----------
    exit_layer : ndarray of shape (n_samples,), dtype int64
        The layer at which each sample exits, from 1 to M.
    proba : ndarray of shape (n_samples, n_classes)
        The predicted class probabilities: those of the exit, or the ensemble of the visited exits.
    entropy : ndarray of shape (n_samples,)
        Normalized entropy of the exit's own probabilities, the one that was compared with ``tau``.
        It is not the entropy of an ensemble.
    prediction : ndarray of shape (n_samples,), dtype int64
        Column of the largest predicted probability, the first one on ties.

    Notes
    -----
    With several tasks `proba` is a list with one array per task, and `entropy` and `prediction`
    have the shape (n_samples, n_tasks). With several labels `proba`, `entropy` and `prediction`
    have the shape (n_samples, n_labels), and `prediction` is 1 for a label that is predicted.
    """

    exit_layer: NDArray[np.int64]
    proba: NDArray[np.floating] | list[NDArray[np.floating]]
    entropy: NDArray[np.floating]
    prediction: NDArray[np.int64]


def stack_layers(layers: Iterable[Any]) -> NDArray[Any] | list[NDArray[Any]]:
    """Return what classifiers yield layer by layer as one array, samples first.

    `staged_predict_proba` and `staged_predict` yield all samples of layer 1, then of layer 2, and
    so on. Policies on arrays, and `from_predictions` of the displays, read layers within samples.

    Parameters
    ----------
    layers : iterable of array-like of shape (n_samples, ...), or of lists of such arrays
        One for each layer, as those generators yield them. Lists hold an array for each task.

    Returns
    -------
    ndarray of shape (n_samples, n_layers, ...), or list of such arrays
        One array for each task, where there are several.

    Raises
    ------
    TypeError
        If `layers` cannot be iterated.
    ValueError
        If there is none, or they have not all the same shape.

    Examples
    --------
    >>> from sklearn_epee.policy import exit_layers, stack_layers
    >>> layers = [[[0.6, 0.4], [0.9, 0.1]], [[0.2, 0.8], [1.0, 0.0]]]  # of two samples
    >>> staged = stack_layers(iter(layers))
    >>> staged[0].tolist()  # of the first sample
    [[0.6, 0.4], [0.2, 0.8]]
    >>> exit_layers(staged, tau=0.5)
    array([2, 1])
    """
    of_one = isinstance(layers, np.ndarray) and layers.ndim == 0
    if of_one or isinstance(layers, (str, bytes, dict)) or not isinstance(layers, Iterable):
        raise TypeError(
            "layers must be an iterable with an array for each layer, such as what "
            f"staged_predict_proba returns; got {layers!r:.100} of type {type(layers).__name__}."
        )
    found = list(layers)
    if not found:
        raise ValueError("layers must hold at least one layer; got none.")
    if all(_holds_tasks(layer) for layer in found):
        if len({len(layer) for layer in found}) > 1:
            raise ValueError(
                "layers must hold lists of as many tasks each; got lists of "
                f"{[len(layer) for layer in found]!r:.200}."
            )
        return [_stacked(task) for task in zip(*found, strict=True)]
    return _stacked(found)


def _holds_tasks(layer: Any) -> bool:
    """Return whether a layer is a list of arrays, not an array as nested lists."""
    first = layer[0] if isinstance(layer, list) and layer else None
    return isinstance(first, np.ndarray) and first.ndim > 1


def _stacked(layers: Sequence[Any]) -> NDArray[Any]:
    """Return arrays of all samples, one a layer, as one array, samples first."""
    arrays = [as_array("layers", layer) for layer in layers]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or () in shapes:
        raise ValueError(
            "layers must hold arrays of the same samples, all of one shape; got the shapes "
            f"{[array.shape for array in arrays]!r:.200}."
        )
    return np.stack(arrays, axis=1)


def exit_layers(
    proba: ArrayLike | Sequence[ArrayLike],
    tau: float,
    patience: int | None = None,
    *,
    min_exit_layer: int = 1,
    joint_exit: str = "all",
    multilabel: bool = False,
    label_thresholds: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Return the exit layer of each sample.

    It is the first layer m >= `min_exit_layer` with H_m < `tau` or P_m >= `patience`, and M if
    there is none.
    The comparison with `tau` is strict, so ``tau=0`` applies the patience rule alone, and
    ``patience=M`` the entropy rule alone.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_layers, n_classes), or list of such arrays
        Class probabilities after every layer; a list holds those of several tasks, which may
        have different classes. With `multilabel` one array of shape (n_samples, n_layers,
        n_labels), the probability of each label. NaN in all classes says that a sample does not
        have an exit (of an input that is missing): it exits at one that it has, the last of them at
        the latest, and counters run over these alone.
    tau : float in [0, inf)
        Entropy threshold. Compared in float64, whatever the type of `proba`, so that
        the threshold that counts is the one that was given.
    patience : int >= 1, default=None
        Number of consecutive layers that must agree, the first of them included; PABEE's
        patience plus 1. None means M. A patience above M never fires.
    min_exit_layer : int, default=1
        The first layer at which samples may exit. Counters run from layer 1 all the same. Above M
        all samples exit at the last layer.
    joint_exit : {"all", "any", "mean"}, default="all"
        Which layer several tasks exit at: the first at which every task t may exit, having
        H_tm < `tau` or P_tm >= `patience`; the first at which some task may; or the first at
        which the mean of H_tm over the tasks is below `tau`, or at which the last `patience`
        layers agree in the predictions of all tasks. For one task they are the same. With
        `multilabel` it joins the entropies of the labels, the largest, the smallest or the mean of
        which is compared with `tau`; patience counts the layers that agree on the whole set of
        predicted labels.
    multilabel : bool, default=False
        Whether `proba` holds the probabilities of several labels, any number of which may be there.
        The entropy of a label is that of "there" and "not there".
    label_thresholds : float or array-like of shape (n_labels,), default=None
        Above which probability, in [0, 1], a label is predicted; None is 0.5. Thresholds decide
        which layers agree. Only with `multilabel`.

    Returns
    -------
    exit_layer : ndarray of shape (n_samples,), dtype int64
        From 1 to M.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.policy import exit_layers
    >>> proba = np.array(
    ...     [[[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]], [[0.4, 0.6], [0.99, 0.01], [0.8, 0.2]]]
    ... )
    >>> exit_layers(proba, tau=0.1)
    array([3, 2])
    >>> exit_layers(proba, tau=0.0, patience=2)
    array([2, 3])
    >>> exit_layers(proba, tau=0.1, min_exit_layer=3)
    array([3, 3])

    Two tasks exit together:

    >>> exit_layers([proba, proba[::-1]], tau=0.1, joint_exit="all")
    array([3, 3])
    >>> exit_layers([proba, proba[::-1]], tau=0.1, joint_exit="any")
    array([2, 2])

    Two labels; the second one is as good as certain at once, the first one changes sides:

    >>> labels = np.array([[[0.6, 0.01], [0.4, 0.01], [0.45, 0.01]]])
    >>> exit_layers(labels, tau=0.1, joint_exit="any", multilabel=True)
    array([1])
    >>> exit_layers(labels, tau=0.1, patience=2, multilabel=True)
    array([3])
    >>> exit_layers(labels, tau=0.1, patience=2, multilabel=True, label_thresholds=[0.3, 0.5])
    array([2])
    """
    threshold = check_tau(tau)
    staged = _staged(
        proba, multilabel, label_thresholds, joint_exit=joint_exit, min_exit_layer=min_exit_layer
    )
    return staged.exit_layers(threshold, check_patience(patience, staged.n_layers))


def apply_policy(
    proba: ArrayLike | Sequence[ArrayLike],
    tau: float,
    patience: int | None = None,
    exit_ensemble: str | None = None,
    exit_loss_weights: Any = "ascending",
    *,
    min_exit_layer: int = 1,
    joint_exit: str = "all",
    multilabel: bool = False,
    label_thresholds: ArrayLike | None = None,
) -> PolicyResult:
    """Predict every sample as dynamic inference would, from staged probabilities.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_layers, n_classes), or list of such arrays
        Class probabilities after every layer; a list holds those of several tasks. With
        `multilabel` the probability of each label, (n_samples, n_layers, n_labels). NaN where a
        sample does not have an exit, see :func:`exit_layers`.
    tau : float in [0, inf)
        Entropy threshold, see :func:`exit_layers`.
    patience : int >= 1, default=None
        Number of consecutive layers that must agree, see :func:`exit_layers`.
    exit_ensemble : {None, "mean", "weighted"}, default=None
        None returns the exit's own probabilities; "mean" the mean over the visited
        exits, from layer 1 to the exit; "weighted" their mean weighted with
        `exit_loss_weights`. The exit layers do not depend on it.
    exit_loss_weights : {"ascending", "uniform", "descending"} or array-like of shape \
            (n_layers,), default="ascending"
        Read for ``exit_ensemble="weighted"`` only. "ascending" weights layer m by m, its
        relative inference cost; "descending" by M + 1 - m; "uniform" by 1. An array holds finite
        weights >= 0, not all zero. Where all visited exits have weight 0 the exit's own
        probabilities are returned.
    min_exit_layer : int, default=1
        The first layer at which samples may exit, see :func:`exit_layers`.
    joint_exit : {"all", "any", "mean"}, default="all"
        How several tasks, or several labels, exit together, see :func:`exit_layers`.
    multilabel : bool, default=False
        Whether `proba` holds the probabilities of several labels, see :func:`exit_layers`.
    label_thresholds : float or array-like of shape (n_labels,), default=None
        Above which probability a label is predicted; None is 0.5. Only with `multilabel`.

    Returns
    -------
    result : PolicyResult
        Named tuple of `exit_layer`, `proba`, `entropy` and `prediction`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053.

    Examples
    --------
    >>> from sklearn_epee.policy import apply_policy
    >>> proba = [[[0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]]
    >>> result = apply_policy(proba, tau=0.0, patience=2, exit_ensemble="mean")
    >>> result.exit_layer
    array([3])
    >>> result.proba
    array([[0.3, 0.7]])

    Several labels:

    >>> apply_policy([[[0.9, 0.2, 0.7]]], tau=0.5, multilabel=True).prediction
    array([[1, 0, 1]])
    """
    threshold = check_tau(tau)
    staged = _staged(
        proba,
        multilabel,
        label_thresholds,
        exit_ensemble,
        exit_loss_weights,
        joint_exit=joint_exit,
        min_exit_layer=min_exit_layer,
    )
    exits = staged.exit_layers(threshold, check_patience(patience, staged.n_layers))
    predicted, rows = staged.proba_at(exits), np.arange(len(exits))
    if multilabel:
        entropies = label_entropies(staged.head_proba[0][rows, exits - 1])
        return PolicyResult(exits, predicted[0], entropies, staged.predictions[rows, exits - 1])
    entropies = staged.entropies[rows, exits - 1]
    entropies = entropies.astype(np.result_type(*staged.head_proba))
    columns = np.stack([part.argmax(axis=1) for part in predicted], axis=1).astype(np.int64)
    if not _is_tasks(proba):
        return PolicyResult(exits, predicted[0], entropies[:, 0], columns[:, 0])
    return PolicyResult(exits, predicted, entropies, columns)


def _staged(
    proba: Any,
    multilabel: bool,
    label_thresholds: Any,
    exit_ensemble: str | None = None,
    exit_loss_weights: Any = "ascending",
    *,
    joint_exit: str,
    min_exit_layer: int,
) -> StagedPredictions:
    """Return staged predictions of tasks, or of several labels."""
    if not isinstance(multilabel, (bool, np.bool_)):
        raise TypeError(
            f"multilabel must be a bool; got {multilabel!r} of type {type(multilabel).__name__}."
        )
    combined = exit_ensemble, exit_loss_weights, joint_exit
    if multilabel:
        return StagedPredictions.from_labels(
            proba, *combined, label_thresholds, min_exit_layer=min_exit_layer
        )
    if label_thresholds is not None:
        raise ValueError(
            "label_thresholds are for several labels, which need multilabel=True; got "
            f"label_thresholds={label_thresholds!r:.100} and multilabel=False."
        )
    return StagedPredictions.from_proba(_as_tasks(proba), *combined, min_exit_layer=min_exit_layer)


def _as_tasks(proba: Any) -> Sequence[ArrayLike]:
    """Return the staged probabilities of every task, of which there may be one."""
    return proba if _is_tasks(proba) else [proba]


def _is_tasks(proba: Any) -> bool:
    """Return whether it is a list of staged probabilities, not one array as nested lists."""
    if not isinstance(proba, (list, tuple)) or not proba:
        return False
    depth, inner = 0, proba[0]
    while isinstance(inner, (list, tuple)) and inner:
        depth, inner = depth + 1, inner[0]
    return depth + np.ndim(inner) == 3
