"""Measure on training samples how 8-bit rounding changes a trained network."""

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

# The thresholds at which changed exits are counted.
TAUS = (0.02, 0.1, 0.3)
# Samples that are measured, and positions of them, which images and long texts reach first.
_MAX_SAMPLES, _MIN_SAMPLES = 256, 32
_MAX_POSITIONS = 32768
# Of them, those on which layers are tried one by one.
FEW = 64
_CPU = torch.device("cpu")
# What products are called in reports, in the order of a layer.
_NAMES = {
    "attention": "queries, keys and values",
    "out": "attention output",
    "up": "feed-forward in",
    "down": "feed-forward out",
}


@dataclass(frozen=True)
class PrecisionReport:
    """What ``precision="int8"`` rounds, and what that changed on training samples.

    ``print(report)`` says it in words. All is measured against float32.

    Attributes
    ----------
    layers : list of dict of str to str
        Of each layer whether "attention" (queries, keys and values), "out" (the attention's output
        map), "up" and "down" (into and out of the feed-forward) are products in "int8" or in
        `rest`. Attention itself, norms and heads never are in int8.
    errors : list of dict of str to float
        By how much the outcome of each product moved when it was rounded, as a share of the
        distance of a row from the mean row. Above 0.025 a product is not rounded, and neither is
        one so small that 8 bits save nothing.
    rest : str
        Precision of what is not rounded, "bfloat16" or "float32".
    n_samples : int
        Training samples, or of words their number, that were measured.
    mean_change, largest_change : float
        Of the probabilities, as half the sum of the absolute differences of a task's classes, over
        all samples and exits. Above a mean of 0.002 more products were left as they are: those that
        save least time for what they change.
    changed_predictions : ndarray of shape (n_layers,)
        Share of the samples whose prediction changed, at each exit.
    changed_exits : dict of float to float
        Share of the samples that exit at another layer, at some values of `tau`.
    log_change : float
        By how much log probabilities change, as a share of their variation between samples (or of
        1, if they vary less), at the exit where they do most. Above 0.006, or 1.15 times what an
        exit changes by if nothing is rounded to 8 bits, more products were left as they are. NaN in
        reports made before it was measured; the mean over the exits in others of 0.1.0.
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
            f"{n_int8} of {n_all} groups of products are made of 8-bit numbers; all else in the "
            f"layers is {self.rest}, the heads are float32."
        )
        changed = (
            f"Measured on {self.n_samples} training samples against float32: probabilities change "
            f"by {self.mean_change:.4f} on average and {self.largest_change:.4f} at most, their "
            f"logarithms by {self.log_change:.2%} of their variation at the exit where most; "
            f"{self.changed_predictions[-1]:.2%} of the predictions change at the last exit and "
            f"{self.changed_predictions.max():.2%} at the exit where most do; exits change for "
            f"{exits}."
        )
        return "\n".join([rounded, changed, *self._kept_lines()])

    def _kept_lines(self) -> list[str]:
        """Return a line for each layer in which something is not rounded."""
        lines = []
        for number, (layer, errors) in enumerate(zip(self.layers, self.errors, strict=True), 1):
            kept = [
                f"{_NAMES[name]} (would move by {errors[name]:.1%})"
                for name, kind in layer.items()
                if kind != "int8"
            ]
            if kept:
                lines.append(f"Layer {number} keeps in {self.rest}: {', '.join(kept)}.")
        return lines


@dataclass(frozen=True)
class MeasuredInt8:
    """How the layers of a network are rounded to 8 bits, and what that changes."""

    scales: Any
    """Int8Scales, or one for each of two towers."""
    report: PrecisionReport


def some_samples(samples: Any, encode: Callable[[Any], Iterable[Any]], seed: int) -> Any:
    """Return samples to measure on, drawn at random: 256, and fewer if they are long.

    Parameters
    ----------
    samples : sequence
        Validated, at least one.
    encode : callable
        Returns encoded samples, part by part.
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
    """Return how many positions encoded samples have, in both towers where there are two."""
    if not isinstance(part, EncodedPairs):
        return int(positions_of(part).sum())
    first, second = (np.flatnonzero(present) for present in part.present.T)
    halves = part.first_of(first), part.second_of(second)
    return sum(int(positions_of(half).sum()) for half in halves if len(half))


def check_packable(network: Any) -> None:
    """Refuse a network, or one of two towers, whose layers can only be run as a whole."""
    for tower in getattr(network, "towers", (network,)):
        check_packable_backbone(tower.adapter)


def measure_int8(
    engine: Any,
    network: Any,
    samples: tuple[Sequence[Any], Sequence[Any]],
    tasks: Any,
    exit_weights: NDArray[np.float64],
) -> MeasuredInt8:
    """Return how a network is rounded to 8 bits, and what that changes.

    Parameters
    ----------
    engine : type
        Runs the network.
    network : nn.Module
        Trained. Never modified.
    samples : tuple of sequences of EncodedSamples
        Training samples, and a few of them, on which layers are tried one by one.
    tasks : Tasks, or what stands for it
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
    """Return the share of samples predicted otherwise in a task, or a label, at each exit."""
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
    """Return in which precision the products of each layer are."""
    return [
        {name: rest if scale is None else "int8" for name, scale in layer._asdict().items()}
        for tower in towers_of(scales)
        for layer in tower.layers
    ]
