"""Measure how 8-bit rounding changes the predictions of a trained network on training samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_epee._checks.tasks import split_columns
from sklearn_epee._exits.checks import check_label_thresholds, check_patience
from sklearn_epee._nn.batching import positions_of
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.int8_calibration import check_packable_backbone
from sklearn_epee._nn.pairs import EncodedPairs
from sklearn_epee._search.shared_predictions import exits_from

from .int8_choice import RoundedTrial, choose_rounded, towers_of
from .training_data import take

# Values of tau at which changed exits are counted.
TAUS = (0.02, 0.1, 0.3)
# Limits of the measured samples; images and long texts reach the limit of positions first.
_MAX_SAMPLES, _MIN_SAMPLES = 256, 32
_MAX_POSITIONS = 32768
# Number of samples on which layers are measured one by one.
FEW = 64
_CPU = torch.device("cpu")
# Names of products in reports, in their order within a layer.
_NAMES = {
    "attention": "queries, keys and values",
    "out": "attention output",
    "up": "feed-forward in",
    "down": "feed-forward out",
}


@dataclass(frozen=True)
class PrecisionReport:
    """Products that ``precision="int8"`` rounds, and the effect on predictions of training samples.

    ``print(report)`` gives a summary. All changes are relative to float32.

    Attributes
    ----------
    layers : list of dict of str to str
        For each layer, the precision of the matrix products "attention" (queries, keys and values),
        "out" (output projection of the attention), "up" and "down" (into and out of the
        feed-forward): "int8" or `rest`. Attention scores, norms and heads are never in int8.
    errors : list of dict of str to float
        For each layer, the change of the output of each product due to rounding, relative to the
        distance of a row from the mean row. A product is not rounded if its error is above 0.025,
        or if it is so small that 8 bits save no time.
    rest : str
        Precision of everything that is not rounded, "bfloat16" or "float32".
    n_samples : int
        Number of training samples that were measured; for token classifiers, of words.
    mean_change, largest_change : float
        Mean and largest change of the probabilities over all samples and exits, as half the sum of
        the absolute differences of a task's classes. If the mean was above 0.002, fewer products
        were rounded; those that save least time for their change were left out first.
    changed_predictions : ndarray of shape (n_layers,)
        Share of the samples whose prediction changed, at each exit.
    changed_exits : dict of float to float
        Share of the samples that exit at another layer, at some values of `tau`.
    log_change : float
        Change of log probabilities relative to their variation between samples (or to 1, if they
        vary less), at the exit where it is largest. If it was above 0.006, or above 1.15 times the
        change without 8-bit rounding, fewer products were rounded. NaN in reports that were created
        before it was measured; the mean over the exits in other reports of version 0.1.0.
    """

    layers: list[dict[str, str]]
    errors: list[dict[str, float]]
    rest: str
    n_samples: int
    mean_change: float
    largest_change: float
    changed_predictions: NDArray[np.float64]
    changed_exits: dict[float, float]
    log_change: float = float("nan")

    def __str__(self) -> str:
        n_int8 = sum(kind == "int8" for layer in self.layers for kind in layer.values())
        n_all = sum(map(len, self.layers))
        exits = ", ".join(
            f"{share:.2%} at tau={tau:g}" for tau, share in self.changed_exits.items()
        )
        rounded = (
            f"{n_int8} of {n_all} groups of products are computed in 8 bits; everything else in "
            f"the layers is {self.rest}, logits are computed in float32."
        )
        changed = (
            f"Measured on {self.n_samples} training samples against float32: probabilities change "
            f"by {self.mean_change:.4f} on average and {self.largest_change:.4f} at most, and "
            f"their logarithms by at most {self.log_change:.2%} of their variation at an exit; "
            f"{self.changed_predictions[-1]:.2%} of the predictions change at the last exit and at "
            f"most {self.changed_predictions.max():.2%} at any exit; exits change for {exits}."
        )
        return "\n".join([rounded, changed, *self._kept_lines()])

    def _kept_lines(self) -> list[str]:
        """Return a line for each layer with products that are not rounded."""
        lines = []
        for number, (layer, errors) in enumerate(zip(self.layers, self.errors, strict=True), 1):
            kept = [
                f"{_NAMES[name]} (would change by {errors[name]:.1%})"
                for name, kind in layer.items()
                if kind != "int8"
            ]
            if kept:
                lines.append(f"Layer {number} keeps in {self.rest}: {', '.join(kept)}.")
        return lines


@dataclass(frozen=True)
class MeasuredInt8:
    """8-bit scales of the layers of a network, and a report on their effect."""

    scales: Any
    """Int8Scales, or a tuple with those of two towers."""
    report: PrecisionReport


def some_samples(samples: Any, encode: Callable[[Any], Iterable[Any]], seed: int) -> Any:
    """Return random samples to measure on: 256, or fewer if they are long.

    Parameters
    ----------
    samples : sequence
        Validated, at least one.
    encode : callable
        Yields encoded samples in parts.
    seed : int

    Returns
    -------
    sequence
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(samples))[:_MAX_SAMPLES]
    first = take(samples, chosen[:_MIN_SAMPLES])
    positions = sum(map(_n_positions, encode(first)))
    n_samples = int(_MAX_POSITIONS * len(first) / max(1, positions))
    return take(samples, chosen[: max(_MIN_SAMPLES, n_samples)])


def _n_positions(part: Any) -> int:
    """Return the number of positions of encoded samples; with two towers, of both."""
    if not isinstance(part, EncodedPairs):
        return int(positions_of(part).sum())
    first, second = (np.flatnonzero(present) for present in part.present.T)
    halves = part.first_of(first), part.second_of(second)
    return sum(int(positions_of(half).sum()) for half in halves if len(half))


def check_packable(network: Any) -> None:
    """Raise if the layers of a network, or of a tower, can only be run as a whole."""
    for tower in getattr(network, "towers", (network,)):
        check_packable_backbone(tower.adapter)


def measure_int8(
    engine: Any,
    network: Any,
    samples: tuple[Sequence[Any], Sequence[Any]],
    tasks: Any,
    exit_weights: NDArray[np.float64],
) -> MeasuredInt8:
    """Choose the 8-bit scales of a network, and measure their effect.

    Parameters
    ----------
    engine : type
        Class of the engine that runs the network.
    network : nn.Module
        Trained. Never modified.
    samples : tuple of sequences of EncodedSamples
        Training samples, and a few of them, on which layers are measured one by one.
    tasks : Tasks or TagLayers
    exit_weights : ndarray of shape (M,)

    Returns
    -------
    MeasuredInt8
    """
    check_packable(network)
    placed = network.to_inference_copy(_CPU, torch.float32)
    every, few = ([part for part in parts if len(part)] for parts in samples)
    scales = engine.find_scales(placed, every[0])
    rest = prediction_dtype("auto", _CPU)
    trials = [RoundedTrial(engine, placed, rest, parts, tasks.counts) for parts in (every, few)]
    scales, change = choose_rounded(scales, *trials)
    exact, rounded = trials[0].exact, change.rounded
    report = PrecisionReport(
        layers=_kinds(scales, str(rest).removeprefix("torch.")),
        errors=[errors for tower in towers_of(scales) for errors in tower.errors],
        rest=str(rest).removeprefix("torch."),
        n_samples=len(exact),
        mean_change=change.mean,
        largest_change=change.largest,
        changed_predictions=_changed_predictions(exact, rounded, tasks.counts),
        changed_exits={
            tau: _changed_exits(exact, rounded, _policy(tau, tasks, exit_weights), tasks.counts)
            for tau in TAUS
        },
        log_change=float(change.of_logs.max()),
    )
    return MeasuredInt8(scales, report)


def _changed_predictions(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], counts: Sequence[int]
) -> NDArray[np.float64]:
    """Return the share of samples whose prediction changes in any task or label, at each exit."""
    own = ~np.isnan(exact[..., 0])
    pairs = zip(split_columns(exact, counts), split_columns(rounded, counts), strict=True)
    differ = np.any([a.argmax(axis=-1) != b.argmax(axis=-1) for a, b in pairs], axis=0) & own
    shares: NDArray[np.float64] = differ.sum(axis=0) / np.maximum(1, own.sum(axis=0))
    return shares


def _changed_exits(
    exact: NDArray[np.float32],
    rounded: NDArray[np.float32],
    policy: ExitPolicy,
    counts: Sequence[int],
) -> float:
    layers = [exits_from(proba, policy, counts).exit_layer for proba in (exact, rounded)]
    return float(np.mean(layers[0] != layers[1]))


def _policy(tau: float, tasks: Any, exit_weights: NDArray[np.float64]) -> ExitPolicy:
    thresholds = None
    if getattr(tasks, "multilabel", False):
        thresholds = check_label_thresholds(None, len(tasks.classes))
    return ExitPolicy(
        tau=tau,
        patience=check_patience(None, len(exit_weights)),
        exit_ensemble=None,
        exit_weights=exit_weights,
        label_thresholds=thresholds,
    )


def _kinds(scales: Any, rest: str) -> list[dict[str, str]]:
    """Return the precision of the products of each layer."""
    return [
        {name: rest if scale is None else "int8" for name, scale in layer._asdict().items()}
        for tower in towers_of(scales)
        for layer in tower.layers
    ]
