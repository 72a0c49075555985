"""Estimators that only have the first layers of a fitted one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from sklearn_epee._exits.checks import check_n_layers
from sklearn_epee._nn.first_layers import first_layers
from sklearn_epee._nn.training import untrained_net

from .fitted import FittedState, as_lazy_network
from .parameters import MANY_SAMPLES, training_plan


def with_first_layers(estimator: Any, n_layers: Any) -> Any:
    """Return a fitted copy of an estimator that only has its first layers.

    Parameters
    ----------
    estimator : BaseEPEEEstimator
        Fitted.
    n_layers : int

    Raises
    ------
    TypeError, ValueError
        If `n_layers` is not a number of layers, the exit of the last of them was not trained, or
        the backbone cannot be shortened.
    """
    state = estimator._fitted()
    n_layers, available = check_n_layers(n_layers), state.summary.n_layers
    if n_layers > available:
        raise ValueError(
            f"n_layers must be at most {available}, the number of layers of this estimator; got "
            f"{n_layers}."
        )
    weights = state.summary.exit_weights[:n_layers].copy()
    if weights[-1] == 0:
        raise ValueError(
            f"n_layers={n_layers}: the exit of layer {n_layers} was not trained, because its "
            "exit_loss_weights are 0."
        )
    trained = state.trained
    network = first_layers(trained.net.module_, n_layers)
    shorter = copy.copy(estimator)
    if not isinstance(estimator.exit_loss_weights, str):
        shorter.set_params(exit_loss_weights=np.asarray(estimator.exit_loss_weights)[:n_layers])
    on_cpu = copy.copy(shorter).set_params(device="cpu")
    plan = training_plan(on_cpu, estimator._training_defaults(), MANY_SAMPLES, network, seed=0)
    net = untrained_net(network, plan)
    net.history_, net.stopped_by_ = copy.copy(trained.net.history_), trained.net.stopped_by_
    reader = estimator._preprocessor_for_layers(trained.preprocessor, n_layers)
    lazy = as_lazy_network(reader, net, weights)
    shorter._adopt(FittedState(lazy, state.tasks, None, type(estimator)._engine))
    return shorter
