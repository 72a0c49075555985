"""Linear maps of the logits of exits, fitted to held-out samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning

from sklearn_epee._exits.staged import Floats, Integers

# Scales are the inverse of temperatures, so that both methods have the same bounds.
_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.05, 20.0
_MAX_SHIFT = 20.0
# Smaller improvements of the loss are ignored, such as for an exit with uniform probabilities.
_MIN_GAIN = 1e-9


@dataclass(frozen=True)
class ExitMaps:
    """Linear maps of the logits of every exit: z becomes ``matrix @ z + shift``.

    Attributes
    ----------
    matrix : ndarray of shape (n_layers, n_classes, n_classes), float64
    shift : ndarray of shape (n_layers, n_classes), float64
    """

    matrix: Floats
    shift: Floats

    @classmethod
    def unchanged(cls, n_layers: int, n_classes: int) -> Self:
        """Return identity maps."""
        return cls.from_temperatures(np.ones(n_layers), n_classes)

    @classmethod
    def from_temperatures(cls, temperatures: Floats, n_classes: int) -> Self:
        """Return the maps that divide the logits of every exit by its temperature, (n_layers,)."""
        matrix = np.eye(n_classes) / temperatures[:, np.newaxis, np.newaxis]
        return cls(matrix, np.zeros((len(temperatures), n_classes)))

    @classmethod
    def from_scales(cls, scales: Floats, shifts: Floats) -> Self:
        """Return the maps that scale and shift centered logits, both (n_layers, n_classes)."""
        n_classes = scales.shape[1]
        # Log-probabilities are logits up to a constant; centering removes it.
        centering = np.eye(n_classes) - 1 / n_classes
        return cls(scales[:, :, np.newaxis] * centering, shifts)

    def log_proba(self, log_proba: Floats) -> Floats:
        """Return mapped log-probabilities, (n_samples, n_layers, n_classes)."""
        mapped = np.einsum("mkj,nmj->nmk", self.matrix, log_proba) + self.shift
        return log_softmax(mapped, axis=2)


def fit_temperature(log_proba: Floats, codes: Integers, weights: Floats) -> float:
    """Return the temperature of one exit that minimizes the negative log-likelihood.

    Parameters
    ----------
    log_proba : ndarray of shape (n_samples, n_classes), float64
    codes : ndarray of shape (n_samples,), int
    weights : ndarray of shape (n_samples,), float64

    Returns
    -------
    float
        From 0.05 to 20; 1 if no other temperature is better, or there are no samples.
    """
    if not len(codes):
        return 1.0
    true = log_proba[np.arange(len(codes)), codes]

    def nll(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        losses = logsumexp(inverse * log_proba, axis=1) - inverse * true
        return float(np.average(losses, weights=weights))

    # The loss is convex in 1/T, so it has one minimum in log T, too.
    found = minimize_scalar(
        nll,
        bounds=(np.log(_LOWEST_TEMPERATURE), np.log(_HIGHEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if nll(0.0) - found.fun > _MIN_GAIN else 1.0


def fit_scales(
    log_proba: Floats, codes: Integers, weights: Floats, start: float
) -> tuple[Floats, Floats]:
    """Return a scale and a shift for each class of one exit that minimize the same loss.

    Parameters
    ----------
    log_proba : ndarray of shape (n_samples, n_classes), float64
    codes : ndarray of shape (n_samples,), int
    weights : ndarray of shape (n_samples,), float64
    start : float
        Initial scale of all classes.

    Returns
    -------
    scales, shifts : ndarray of shape (n_classes,), float64
        For logits that are centered over the classes. The mean of the shifts is 0. Without
        samples, the scales are `start` and the shifts are 0.
    """
    n_classes = log_proba.shape[1]
    if not len(codes):
        return np.full(n_classes, start), np.zeros(n_classes)
    centered = log_proba - log_proba.mean(axis=1, keepdims=True)
    shares = weights / weights.sum()
    is_true = codes[:, np.newaxis] == np.arange(n_classes)

    def nll_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        logits = parameters[:n_classes] * centered + parameters[n_classes:]
        losses = logsumexp(logits, axis=1) - logits[is_true]
        error = (softmax(logits, axis=1) - is_true) * shares[:, np.newaxis]
        gradient = np.concatenate([(error * centered).sum(axis=0), error.sum(axis=0)])
        return float(shares @ losses), gradient

    scale_bounds = (1 / _HIGHEST_TEMPERATURE, 1 / _LOWEST_TEMPERATURE)
    found = minimize(
        nll_and_gradient,
        np.repeat([start, 0.0], n_classes),
        jac=True,
        method="L-BFGS-B",
        bounds=[scale_bounds] * n_classes + [(-_MAX_SHIFT, _MAX_SHIFT)] * n_classes,
        options={"maxiter": 1000, "ftol": 1e-10},
    )
    scales, shifts = found.x[:n_classes], found.x[n_classes:]
    return scales, shifts - shifts.mean()


def warn_at_bounds(found: Mapping[str, Any]) -> None:
    """Warn of exits with calibration parameters at a bound."""
    at_bound: set[int] = set()
    for name, values in found.items():
        if name == "n_parameters_":
            continue
        lowest, highest = _LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE
        if name == "shifts_":
            lowest, highest = -_MAX_SHIFT, _MAX_SHIFT
        outside = (values < lowest * 1.001) | (values > highest * 0.999)
        at_bound.update(np.flatnonzero(outside.reshape(len(values), -1).any(axis=1)) + 1)
    if at_bound:
        layers = sorted(int(layer) for layer in at_bound)
        warnings.warn(
            f"The calibration of the exits {layers} ended at a bound: on these samples each of "
            "them separates classes without error, or is as good as blind. Give more samples to "
            "calibrate on; 'temperature' needs fewer of them than 'vector'.",
            ConvergenceWarning,
            stacklevel=4,
        )
