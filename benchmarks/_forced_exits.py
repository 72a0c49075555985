"""Forced exits: networks with random weights exit at layers that were drawn beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks._models import encode, engine_of
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.exit_rules import Decision, DynamicRule, ExitPolicy, Exits, ExitState


class ForcedExits(DynamicRule):
    """Samples exit at the layers of a schedule; everything else runs as under the policy.

    Parameters
    ----------
    policy : ExitPolicy
        With ``tau`` above 0.
    n_layers : int
        Number of layers M.
    out : Exits
        Where predictions are recorded.
    schedule : ndarray of shape (n,), int64
        Exit layers.
    """

    def __init__(self, policy: ExitPolicy, n_layers: int, out: Exits, schedule: np.ndarray) -> None:
        super().__init__(policy, n_layers, out)
        self._schedule = schedule

    def decide(
        self, layer: int, proba: torch.Tensor, rows: np.ndarray, state: ExitState | None
    ) -> Decision:
        """Record the predictions of the samples that exit at this layer."""
        state = self._remember(layer, proba, state)
        entropy = self._entropy(proba)
        exits = None
        if layer < self.last_layer:
            self._exits(layer, entropy, state)
            exits = torch.from_numpy(self._schedule[rows] <= layer).to(proba.device)
        return Decision(self._settle(layer, rows, exits, (proba, entropy), state), state)


def run_forced(
    engine: Engine,
    policy: ExitPolicy,
    encoded: Any,
    batch_size: int | str,
    schedule: np.ndarray,
) -> Exits:
    """Run an engine with forced exits.

    Parameters
    ----------
    engine : Engine
    policy : ExitPolicy
        The engine keeps statistics of exits for each policy; runs with the same ``tau`` share them.
    encoded : EncodedSamples
    batch_size : int or "auto"
    schedule : ndarray of shape (n,), int64
        Exit layers.

    Returns
    -------
    Exits
    """
    out = Exits.empty(len(encoded), engine.n_columns)
    engine.run(encoded, ForcedExits(policy, engine.n_layers, out, schedule), batch_size)
    return out


def dynamic(
    estimator: Any,
    encoded: Any,
    batch_size: int | str,
    schedule: np.ndarray | None = None,
    tau: float | None = None,
) -> Exits:
    """Run the engine alone on encoded samples, with the policy's exits or with forced ones.

    Parameters
    ----------
    estimator : EPEEClassifier or EPEEImageClassifier
    encoded : EncodedSamples
    batch_size : int or "auto"
    schedule : ndarray of shape (n,), default=None
        Exit layers to force.
    tau : float, default=None
        With a schedule, a threshold other than the estimator's. None: runs with the same mean exit
        share the engine's statistics of exits.

    Returns
    -------
    Exits
    """
    engine, policy = engine_of(estimator), estimator._policy(estimator._state)
    if schedule is None:
        return engine.dynamic(encoded, policy, batch_size)
    tau = float(schedule.mean()) / estimator.n_layers_ if tau is None else tau
    return run_forced(engine, replace(policy, tau=tau), encoded, batch_size, schedule)


def predict_on_schedule(estimator: Any, X: Any, schedule: np.ndarray) -> np.ndarray:
    """Predict as ``predict(X)``, with forced exits."""
    exits = dynamic(estimator, encode(estimator, X), estimator._prediction_batch(), schedule)
    return estimator.classes_[exits.proba.argmax(axis=1)]


def forced_exits(
    n: int, n_layers: int, mean_exit: float, lengths: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Draw exit layers with a given mean and the largest entropy.

    Parameters
    ----------
    n : int
        Number of samples.
    n_layers : int
        Layers M; exits are from 1 to M.
    mean_exit : float
        Wanted mean, 1 to M; the sum is rounded to an integer.
    lengths : ndarray of shape (n,) or None, default=None
        If given, exits are assigned such that the mean weighted by length is nearly the same as the
        unweighted mean.
    seed : int, default=0

    Returns
    -------
    ndarray of shape (n,), int64

    Notes
    -----
    The distribution of largest entropy among those on 1..M with this mean: proportional to
    ``ratio ** layer``. Many samples exit early and a few go all the way, as with real exits.
    """
    layers = np.arange(1, n_layers + 1)
    rng = np.random.default_rng(seed)
    exits = rng.choice(layers, size=n, p=_broadest(layers, mean_exit))
    missing = round(mean_exit * n) - int(exits.sum())
    while missing:
        step = int(np.sign(missing))
        movable = np.flatnonzero((exits + step >= 1) & (exits + step <= n_layers))
        chosen = rng.permutation(movable)[: abs(missing)]
        exits[chosen] += step
        missing -= step * len(chosen)
    if lengths is None:
        return exits
    deals = [rng.permutation(exits) for _ in range(200)]
    return min(deals, key=lambda deal: abs(np.average(deal, weights=lengths) - exits.mean()))


def _broadest(layers: np.ndarray, mean: float) -> np.ndarray:
    """Return probabilities proportional to ratio ** layer with a given mean, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        weights = np.exp(middle * (layers - (layers[-1] if middle > 0 else layers[0])))
        proba = weights / weights.sum()
        if proba @ layers < mean:
            low = middle
        else:
            high = middle
    return proba
