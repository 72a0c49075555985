"""Training recipes for classes: how texts or images are learned, and what is then predicted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies import recipe_networks as networks
from studies.exit_rules import Network
from studies.exits import KINDS as EXIT_KINDS
from studies.exits import classifier, fitted, staged
from studies.jobs import Folder, Job, Kind
from studies.policies import best_that_saves, chosen, cuts_beside
from studies.recipe_runs import FAST_RATIO, Recipe, Run, areas_of
from studies.rules import RULES, apply, network_of
from studies.sets import SETS, Parts, score_all

DEFAULTS = "exits"
DATA = tuple(name for name, about in SETS.items() if about.kind != "spans")
# Small parts of the training samples and few epochs, for what pays in short trainings.
SMALL = {
    "phee": {"n_train": 600, "n_epochs": 3},
    "health_advice": {"n_train": 600, "n_epochs": 3},
    "git": {"n_train": 1200, "n_epochs": 4},
}


@dataclass(frozen=True)
class ClassRecipe(Recipe):
    """A recipe of classifiers.

    Parameters
    ----------
    estimator : type of RecipeClassifier
        For texts; images have `EPEEImageClassifier`.
    network : type of MultiExitNetwork or None
        None: that of the estimator. With one of its own, a recipe is of texts alone.
    callbacks : tuple of (type of Callback, tuple)
        Constructed anew for each run.
    longer : float
        Factor of the number of epochs.
    """

    estimator: type[networks.RecipeClassifier] = networks.RecipeClassifier
    network: type[Any] | None = None
    callbacks: tuple[tuple[type[Any], tuple[Any, ...]], ...] = ()
    longer: float = 1.0

    @property
    def is_of_texts(self) -> bool:
        """Whether it only applies to texts."""
        return self.network is not None or self.estimator is not networks.RecipeClassifier


RECIPES = {
    "regression start": ClassRecipe(
        "heads start as the logistic regression on their inputs from the untrained backbone",
        {"head_init": "regression"},
    ),
    "bottleneck heads": ClassRecipe(
        "heads with a residual block of a quarter of the width in front",
        {"head": "bottleneck"},
    ),
    "attention heads": ClassRecipe(
        "heads with a layer of attention, in which what is pooled reads all positions",
        {"head": "attention"},
    ),
    "attention heads, distillation": ClassRecipe(
        "both", {"head": "attention", "exit_training": "distillation"}
    ),
    "decayed rates": ClassRecipe(
        "the learning rate of each layer is 0.8 of that of the layer above",
        network=networks.DecayedRatesNetwork,
    ),
    "low-rank updates": ClassRecipe(
        "only updates of rank 16 of the backbone are trained, and merged at the end",
        estimator=networks.LowRankClassifier,
        callbacks=((networks.MergeAtEnd, ()),),
    ),
    "distillation": ClassRecipe(
        "exits learn half from the last one, at temperature 2", {"exit_training": "distillation"}
    ),
    "distillation, T=4": ClassRecipe(
        "the same at temperature 4",
        {"exit_training": "distillation"},
        callbacks=((networks.TeacherTemperature, (4.0,)),),
    ),
    "last exit first, 0.2": ClassRecipe(
        "only the last exit is trained for the first fifth of the steps, with one schedule",
        callbacks=((networks.LastExitForAWhile, (0.2,)),),
    ),
    "gradient equilibrium": ClassRecipe(
        "each layer gets the mean of the gradients of the exits above it",
        network=networks.EquilibriumNetwork,
    ),
    "twice the epochs": ClassRecipe("the default, trained for twice as many epochs", longer=2.0),
}


def make(recipe: ClassRecipe, job: Job, backbone: Any, n_epochs: int | str, **options: Any) -> Any:
    """Return the unfitted classifier of a recipe.

    Parameters
    ----------
    recipe : ClassRecipe
    job : Job
        Its seed is that of the classifier.
    backbone : str, config or None
    n_epochs : int or "auto"
        Before `longer`.
    **options
        Further parameters of the classifier.
    """
    if recipe.longer != 1:
        n_epochs = round(recipe.longer * int(n_epochs))
    model = classifier(
        job,
        backbone,
        recipe.estimator,
        max_epochs=n_epochs,
        callbacks=[kind(*arguments) for kind, arguments in recipe.callbacks],
        **{**recipe.parameters, **options},
    )
    if recipe.network is not None:
        model.network_class = recipe.network
    return model


def run(job: Job, parts: Parts, folder: Folder, recipe: ClassRecipe) -> dict[str, Any]:
    """Train a network by a recipe and save the probabilities of every exit on dev and test."""
    # As many epochs as the defaults, whose number depends on the data.
    defaults = json.loads((folder.of(job.of_kind(DEFAULTS)) / "result.json").read_text())
    model, cost = fitted(make(recipe, job, folder.backbone, defaults["n_epochs"]), parts.train)
    dev, test = (staged(model, part, len(parts.classes)) for part in (parts.dev, parts.test))
    folder.save_predictions(dev_proba=dev, test_proba=test, dev_y=parts.dev.y, test_y=parts.test.y)
    return cost


def applies(data: str, backbone: str, recipe: ClassRecipe) -> bool:
    """Return whether a recipe can be used on a data set."""
    kinds = ("texts",) if recipe.is_of_texts else ("texts", "images")
    return SETS[data].kind in kinds and EXIT_KINDS[DEFAULTS].applies(data, backbone)


KINDS = {DEFAULTS: EXIT_KINDS[DEFAULTS]} | {
    name: Kind(partial(run, recipe=recipe), partial(applies, recipe=recipe), needs=(DEFAULTS,))
    for name, recipe in RECIPES.items()
}


def read(data: str, seed: int, folder: Path) -> Run:
    """Read a trained network, and choose its policy on dev.

    Raises
    ------
    ValueError
        If no policy saves enough.
    """
    network = network_of(data, folder)
    applied = apply(RULES["epee"], network)
    policy = chosen(network, applied, "saving")
    fast = chosen(network, applied, partial(best_that_saves, min_ratio=FAST_RATIO))
    if policy is None or fast is None:
        raise ValueError(f"{folder}: no policy saves enough.")
    layers = network.test.predictions[..., 0].T
    policy_sums, fast_sums, layer_sums = (
        _sums(network, predicted) for predicted in (policy.predicted, fast.predicted, layers)
    )
    cuts = cuts_beside(folder, network.n_layers)
    cut_layers = policy.equal_cost(cuts)
    about = {
        "tau": policy.tau,
        "patience": policy.patience,
        "ratio": policy.ratio,
        "cut_layers": cut_layers,
    }
    return Run(
        seed,
        json.loads((folder / "result.json").read_text()),
        about | score_all(data, network.test_y, policy.predicted),
        policy_sums,
        fast_sums,
        layer_sums.swapaxes(0, 1),
        areas_of(network, RULES["epee"]),
        None if cut_layers is None else _sums(network, cuts[cut_layers]),
    )


def _sums(network: Network, predicted: NDArray[np.int64]) -> NDArray[Any]:
    """Return what test samples add to numerator and denominator of the score."""
    return np.stack(network.score.counts(predicted, network.test_y), axis=-1)
