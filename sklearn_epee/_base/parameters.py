"""Parameters that the estimators share: their constraints, and the training plan."""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any

import joblib
import torch

from sklearn_epee._checks.parameters import PRECISIONS
from sklearn_epee._compat import Interval, StrOptions
from sklearn_epee._exits.checks import (
    check_exit_ensemble,
    check_exit_loss_weights,
    check_joint_exit,
    check_min_exit_layer,
    check_patience,
    check_tau,
)
from sklearn_epee._nn.devices import prediction_dtype, resolve_device, training_dtype
from sklearn_epee._nn.head_init import HEAD_INITS
from sklearn_epee._nn.heads import HEADS, label_heads
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.recipes import EXIT_TRAININGS, check_teacher
from sklearn_epee._nn.training import TrainingPlan, check_callbacks
from sklearn_epee._nn.training_defaults import TrainingDefaults

MAX_GRAD_NORM = 1.0
# Larger than any batch: for the plan of a network that is not trained.
MANY_SAMPLES = 2**31
_AUTO = StrOptions({"auto"})
# For the estimators with this parameter.
HEAD_INIT_CONSTRAINT = [StrOptions(set(HEAD_INITS))]

PARAMETER_CONSTRAINTS: dict[str, Any] = {
    # The exit policy can be changed after `fit`, so it is checked separately.
    "tau": "no_validation",
    "patience": "no_validation",
    "min_exit_layer": "no_validation",
    "exit_ensemble": "no_validation",
    "joint_exit": "no_validation",
    "pooling": [StrOptions({"auto", "cls", "mean", "cls+mean", "last", "attention"})],
    "head": [StrOptions(set(HEADS))],
    "exit_loss_weights": [StrOptions({"ascending", "uniform", "descending"}), "array-like"],
    "exit_training": [StrOptions(set(EXIT_TRAININGS))],
    "max_epochs": [_AUTO, Interval(Integral, 1, None, closed="left")],
    "batch_size": [_AUTO, Interval(Integral, 1, None, closed="left")],
    "learning_rate": [_AUTO, Interval(Real, 0, None, closed="neither")],
    "head_learning_rate": [_AUTO, Interval(Real, 0, None, closed="neither")],
    "weight_decay": [_AUTO, Interval(Real, 0, None, closed="left")],
    "warmup_ratio": [Interval(Real, 0, 1, closed="left")],
    "dropout": [_AUTO, Interval(Real, 0, 1, closed="left")],
    "class_weight": [StrOptions({"balanced"}), dict, list, None],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "early_stopping": ["boolean"],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "callbacks": [list, tuple, None],
    "gradient_checkpointing": ["boolean"],
    "warm_start": ["boolean"],
    "predict_batch_size": [_AUTO, Interval(Integral, 1, None, closed="left")],
    "device": [str, torch.device],
    "precision": [StrOptions(set(PRECISIONS))],
    "memory": [str, os.PathLike, joblib.Memory, None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}

# Parameters that do not affect the training. All others are part of the key of a stored network.
NOT_SHAPING = frozenset({
    "tau", "patience", "min_exit_layer", "exit_ensemble", "joint_exit", "token_exit",
    "label_thresholds", "transition_weight",
    "predict_batch_size", "memory", "verbose", "device", "precision", "random_state", "warm_start",
})  # fmt: skip


def check_parameters(estimator: Any) -> None:
    """Check parameters beyond `PARAMETER_CONSTRAINTS`.

    Raises
    ------
    TypeError, ValueError
        If the exit policy, the device or the callbacks are invalid, the device does not support
        the precision, or early stopping is used without held-out samples.
    """
    check_tau(estimator.tau)
    check_patience(estimator.patience)
    check_min_exit_layer(estimator.min_exit_layer)
    check_exit_ensemble(getattr(estimator, "exit_ensemble", None))
    check_joint_exit(estimator.joint_exit)
    prediction_dtype(estimator.precision, resolve_device(estimator.device))
    check_callbacks(estimator.callbacks)
    if estimator.early_stopping and not estimator.validation_fraction:
        raise ValueError(
            "early_stopping=True needs held-out samples: set validation_fraction above 0 "
            "(0.1 holds out a tenth of the training data)."
        )


def training_plan(
    estimator: Any,
    defaults: TrainingDefaults,
    n_samples: int,
    network: MultiExitNetwork,
    seed: int,
) -> TrainingPlan:
    """Return the training plan given by the parameters of an estimator.

    Parameters
    ----------
    estimator : BaseEPEEClassifier
    defaults : TrainingDefaults
        Values of "auto".
    n_samples : int
        Number of training samples.
    network : MultiExitNetwork
        The network to train.
    seed : int

    Returns
    -------
    TrainingPlan
    """
    batch_size = min(given(estimator.batch_size, defaults.batch_size), n_samples)
    learning_rate = given(estimator.learning_rate, defaults.rate_of(network))
    exit_weights = check_exit_loss_weights(estimator.exit_loss_weights, network.n_layers)
    check_teacher(estimator.exit_training, exit_weights)
    device = resolve_device(estimator.device)
    epochs = defaults.epochs(n_samples, max(network.class_counts), batch_size)
    head_rate = defaults.head_rate(learning_rate, shared_by_labels=bool(label_heads(network)))
    return TrainingPlan(
        max_epochs=given(estimator.max_epochs, epochs),
        batch_size=batch_size,
        learning_rate=learning_rate,
        head_learning_rate=given(estimator.head_learning_rate, head_rate),
        weight_decay=given(estimator.weight_decay, defaults.weight_decay),
        warmup_ratio=estimator.warmup_ratio,
        max_grad_norm=MAX_GRAD_NORM,
        exit_weights=exit_weights,
        device=device,
        dtype=training_dtype(estimator.precision, device),
        seed=seed,
        early_stopping=estimator.early_stopping,
        n_iter_no_change=estimator.n_iter_no_change,
        gradient_checkpointing=bool(estimator.gradient_checkpointing),
        exit_training=estimator.exit_training,
        head_init=getattr(estimator, "head_init", "random"),
        callbacks=list(estimator.callbacks or []),
        verbose=int(estimator.verbose),
    )


def given(value: Any, default: Any) -> Any:
    """Return a parameter, or the default if it is "auto"."""
    return default if isinstance(value, str) and value == "auto" else value
