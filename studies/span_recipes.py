"""Training recipes for spans: how a classifier of words is trained, and the spans that it finds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.events import KINDS as EVENT_KINDS
from studies.events import Network, run_with, span_f1
from studies.jobs import Folder, Job, Kind
from studies.policies import best_that_saves, cuts_beside, equal_cost
from studies.recipe_runs import FAST_RATIO, Recipe, Run, areas_of
from studies.sets import SETS, Parts
from studies.span_rules import SPAN_RULES, SpanNetwork

DEFAULTS = "events"
DATA = tuple(name for name, about in SETS.items() if about.kind == "spans")

RECIPES = {
    "bottleneck heads": Recipe(
        "heads with a residual block of a quarter of the width in front",
        {"head": "bottleneck"},
    ),
    "attention heads": Recipe(
        "heads with a layer of attention, in which what is pooled reads all positions",
        {"head": "attention"},
    ),
    "uniform weights": Recipe(
        "all exits have the same weight in the loss", {"exit_loss_weights": "uniform"}
    ),
    "descending weights": Recipe(
        "the first exits have the largest weights in the loss", {"exit_loss_weights": "descending"}
    ),
    "bottleneck heads, uniform weights": Recipe(
        "both", {"head": "bottleneck", "exit_loss_weights": "uniform"}
    ),
    "attention heads, uniform weights": Recipe(
        "both", {"head": "attention", "exit_loss_weights": "uniform"}
    ),
    "distillation": Recipe(
        "exits learn half from the last one, at temperature 2", {"exit_training": "distillation"}
    ),
    "head rate x 3": Recipe(
        "three times the default learning rate of the heads", {"head_learning_rate": 3e-3}
    ),
}


def run(job: Job, parts: Parts, folder: Folder, recipe: Recipe) -> dict[str, Any]:
    """Train a network by a recipe and save what every exit and every policy does."""
    return run_with(job, parts, folder, **recipe.parameters)


KINDS = {DEFAULTS: EVENT_KINDS[DEFAULTS]} | {
    name: Kind(partial(run, recipe=recipe), EVENT_KINDS[DEFAULTS].applies, needs=(DEFAULTS,))
    for name, recipe in RECIPES.items()
}


def read(data: str, seed: int, folder: Path) -> Run:  # noqa: ARG001 - as for classes
    """Read a trained network, and choose its policy on dev.

    Raises
    ------
    ValueError
        If no policy saves enough.
    """
    network = Network.read(folder)
    full = float(span_f1(network.dev_counts[:, -1]))
    on_dev = network.ratios("dev"), network.scores("dev"), full
    policy, fast = best_that_saves(*on_dev), best_that_saves(*on_dev, min_ratio=FAST_RATIO)
    if policy is None or fast is None:
        raise ValueError(f"{folder}: no policy saves enough.")
    ratio = float(network.ratios("test")[policy])
    cuts = cuts_beside(folder, network.n_layers, "test_counts")
    cut_layers = equal_cost(cuts, network.n_layers * (1 - ratio))
    of_words = SpanNetwork.read(folder)
    return Run(
        seed,
        json.loads((folder / "result.json").read_text()),
        {
            "tau": float(network.tau[policy]),
            "patience": int(network.patience[policy]),
            "joint_exit": str(network.joint_exit[policy]),
            "ratio": ratio,
            "cut_layers": cut_layers,
        },
        _sums(network.counts("test", policy)),
        _sums(network.counts("test", fast)),
        _sums(network.test_counts.astype(np.int64)),
        None if of_words is None else areas_of(of_words, SPAN_RULES["epee"]),
        None if cut_layers is None else _sums(cuts[cut_layers].astype(np.int64)),
    )


def _sums(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what sentences add to numerator and denominator of F1, from counts (..., 3)."""
    return np.stack([2 * counts[..., 0], counts[..., 1] + counts[..., 2]], axis=-1)
