"""Compare ways to train the exits, at equal training time, on small parts of real data.

Run from the repository root:

    python -m studies.recipes --data-home DIR --checkpoints DIR

`DIR` of the checkpoints has a folder all-MiniLM-L6-v2. Every run trains one network, chooses on
validation data the policy of best accuracy at a speed-up ratio of at least 0.52, and reads it on
the test data. Runs are kept one by one and not repeated: start the command again to go on. The
results of all are written to ``results/recipes.json`` and ``.md``; ``--report`` does no more than
that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks._report import describe, machine
from benchmarks.training_recipes import MIN_SPEEDUP, claimed, part_of, staged, tuned
from sklearn_epee.policy import apply_policy
from studies import recipe_networks as networks

RESULTS = Path(__file__).parent / "results"
BACKBONE = "all-MiniLM-L6-v2"
BASE = "joint"


@dataclass(frozen=True)
class Size:
    """How much of a data set is used, and for how long."""

    n_train: int
    n_epochs: int
    n_dev: int = 400


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Parameters
    ----------
    what : str
        What it does, in words.
    estimator : type of RecipeClassifier
    network : type of MultiExitNetwork or None
        None: that of the estimator.
    options : dict
        Parameters of the estimator.
    callbacks : tuple of (type of Callback, tuple)
        Made anew for each run.
    longer : float
        Multiplies the number of epochs.
    sets : tuple of str or None
        Sets it can be run on; None: all.
    """

    what: str
    estimator: type[networks.RecipeClassifier] = networks.RecipeClassifier
    network: type[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[tuple[type[Any], tuple[Any, ...]], ...] = ()
    longer: float = 1.0
    sets: tuple[str, ...] | None = None


SIZES = {
    "phee": Size(600, 3),
    "health_advice": Size(600, 3),
    "git": Size(1200, 4),
}
# Heads that read all positions of a layer cannot spare its other rows, as those of marks do.
UNMARKED = ("phee", "health_advice")
REGRESSION = (networks.HeadsFromRegression, ())

RECIPES = {
    BASE: Recipe("the package's default"),
    "regression start": Recipe(
        "heads begin as the logistic regression on what they read of the untrained backbone",
        callbacks=(REGRESSION,),
    ),
    "bottleneck heads": Recipe(
        "heads with a residual map through a quarter of the width in front",
        network=networks.BottleneckNetwork,
    ),
    "decayed rates": Recipe(
        "each layer learns at 0.8 of the rate of the one above",
        network=networks.DecayedRatesNetwork,
    ),
    "distillation": Recipe(
        "exits learn half from the last one, at temperature 2",
        options={"exit_training": "distillation"},
    ),
    "distillation, T=4": Recipe(
        "the same at temperature 4",
        options={"exit_training": "distillation"},
        callbacks=((networks.TeacherTemperature, (4.0,)),),
    ),
    "last exit first, 0.2": Recipe(
        "the last exit alone for a fifth of the steps, one schedule",
        callbacks=((networks.LastExitForAWhile, (0.2,)),),
    ),
    "low-rank updates": Recipe(
        "the backbone learns updates of rank 16 alone, merged at the end",
        estimator=networks.LowRankClassifier,
        callbacks=((networks.MergeAtEnd, ()),),
    ),
    "gradient equilibrium": Recipe(
        "every layer gets the mean of the gradients of the exits above it",
        network=networks.EquilibriumNetwork,
    ),
    "attention heads": Recipe(
        "heads with a layer of attention, four learned queries beside the mean",
        network=networks.AttentionNetwork,
        options={"pooling": "attention"},
        sets=UNMARKED,
    ),
    "twice the epochs": Recipe("the default for twice the time", longer=2.0),
}

# Sets, recipes and seeds, in the order of doing; what comes first says most.
SHORT = ("phee", "health_advice")
HEADS = (BASE, "regression start")
ROUNDS = [
    (("git", *SHORT), HEADS, 0),
    (SHORT, ("bottleneck heads", "decayed rates", "low-rank updates", "distillation, T=4"), 0),
    (SHORT, ("last exit first, 0.2", "attention heads", "twice the epochs"), 0),
    (("git",), ("bottleneck heads", "decayed rates"), 0),
    (("git", *SHORT), HEADS, 1),
    (("git",), ("twice the epochs", "low-rank updates", "distillation, T=4"), 0),
    (("git", *SHORT), tuple(RECIPES), 0),
    (("git", *SHORT), tuple(RECIPES), 1),
]


@dataclass(frozen=True)
class Task:
    """One run: a data set, a recipe and a seed."""

    data: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """A file-safe name, which says how much of the data the run saw."""
        size = SIZES[self.data]
        words = f"{self.data}-{size.n_train}x{size.n_epochs}-{self.recipe}-{self.seed}"
        return words.replace(",", "").replace(" ", "_").replace("=", "")


def tasks() -> Iterator[Task]:
    """Yield every run once, in the order of doing."""
    seen = set()
    for names, recipes, seed in ROUNDS:
        for recipe in recipes:
            for data in names:
                task = Task(data, recipe, seed)
                sets = RECIPES[recipe].sets
                if task not in seen and (sets is None or data in sets):
                    seen.add(task)
                    yield task


def make(recipe: Recipe, backbone: Any, seed: int, n_epochs: int, **options: Any) -> Any:
    """Return the unfitted classifier of a recipe."""
    model = recipe.estimator(
        backbone,
        max_epochs=round(recipe.longer * n_epochs),
        callbacks=[kind(*arguments) for kind, arguments in recipe.callbacks],
        memory=None,
        random_state=seed,
        **{**recipe.options, **options},
    )
    if recipe.network is not None:
        model.network_class = recipe.network
    return model


def measure(task: Task, backbone: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Do one run: what was found, and the probabilities it was found with."""
    size, recipe = SIZES[task.data], RECIPES[task.recipe]
    X, y = part_of(task.data, "train", size.n_train, task.seed)
    model = make(recipe, backbone, task.seed, size.n_epochs)
    start = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - start
    dev, dev_y = staged(model, *part_of(task.data, "dev", size.n_dev, 0))
    test, test_y = staged(model, *part_of(task.data, "test", None, 0))
    found = {
        "data": task.data,
        "recipe": task.recipe,
        "seed": task.seed,
        "n_train": len(y),
        "n_epochs": len(model.history_),
        "training_cpu_seconds": seconds,
        "machine": machine("cpu"),
    }
    arrays = {"dev": dev, "dev_y": dev_y, "test": test, "test_y": test_y}
    return found | scores(**arrays), arrays


def scores(
    dev: NDArray[Any], dev_y: NDArray[Any], test: NDArray[Any], test_y: NDArray[Any]
) -> dict[str, Any]:
    """Return scores of every layer and of the policy chosen on dev, on test."""
    policy = tuned(dev, dev_y, test, test_y)
    predictions = apply_policy(test, policy["tau"], policy["patience"]).prediction
    by_layer = test.argmax(axis=2)
    return {
        "layers": (by_layer == test_y[:, None]).mean(axis=0).tolist(),
        "layers_macro_f1": [_macro_f1(test_y, layer) for layer in by_layer.T],
        "policy": policy | {"macro_f1": _macro_f1(test_y, predictions)},
    }


def _macro_f1(y: NDArray[Any], predicted: NDArray[Any]) -> float:
    return float(f1_score(y, predicted, average="macro", zero_division=0))


# ------------------------------------------------------------------------------------- the queue


def work(cache: Path, backbone: Any, until: float) -> None:
    """Do runs that nobody has done, until a time of the clock."""
    cache.mkdir(parents=True, exist_ok=True)
    for task in tasks():
        path = cache / f"{task.name}.json"
        if time.time() > until:
            break
        if not claimed(path):
            continue
        found, arrays = measure(task, backbone)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(found, indent=1))
        draft.replace(path)
        layers = " ".join(f"{100 * part:.1f}" for part in found["layers"])
        policy = found["policy"]
        print(f"{task.name}: {layers}; {policy}", flush=True)  # noqa: T201


def finished(cache: Path) -> list[dict[str, Any]]:
    """Return what was found in all runs so far."""
    paths = [cache / f"{task.name}.json" for task in tasks()]
    return [_with_hits(path) for path in paths if path.exists()]


def _with_hits(path: Path) -> dict[str, Any]:
    """Return what was found in a run, and on which test samples its policy is right."""
    found: dict[str, Any] = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as kept:
        test, test_y = kept["test"], kept["test_y"]
    policy = found["policy"]
    right = apply_policy(test, policy["tau"], policy["patience"]).prediction == test_y
    return found | {"right": right, "layers_right": test.argmax(axis=2) == test_y[:, None]}


# ------------------------------------------------------------------------------------ the report


@dataclass(frozen=True)
class Difference:
    """How far one recipe is from another on the same test samples, mean over the same seeds.

    Parameters
    ----------
    mean, error : float
        Error is that of the test samples, paired; the choice of a policy and the few seeds are not
        in it.
    each : list of float
        Of every seed.
    """

    mean: float
    error: float
    each: list[float]

    @property
    def is_beyond_noise(self) -> bool:
        """Whether all seeds are on one side, and the mean is twice its error from 0."""
        one_side = min(self.each) > 0 or max(self.each) < 0
        return len(self.each) > 1 and one_side and abs(self.mean) > 2 * self.error

    def __str__(self) -> str:
        text = f"{100 * self.mean:+.1f} ± {100 * self.error:.1f}"
        if len(self.each) > 1:
            text += f" ({100 * min(self.each):+.1f}, {100 * max(self.each):+.1f})"
        return f"**{text}**" if self.is_beyond_noise else text


def difference(rows: list[NDArray[Any]], others: list[NDArray[Any]]) -> Difference:
    """Return the difference of paired hits, one array a seed, (n,) or shares of hits."""
    pairs = [
        row.astype(float) - other.astype(float) for row, other in zip(rows, others, strict=True)
    ]
    mean = np.mean(pairs, axis=0)
    error = float(mean.std(ddof=1) / len(mean) ** 0.5)
    return Difference(float(mean.mean()), error, [float(pair.mean()) for pair in pairs])


def report(cache: Path, folder: Path) -> None:
    """Write the results of all runs so far."""
    runs = finished(cache)
    folder.mkdir(exist_ok=True)
    plain = [{name: part for name, part in run.items() if "right" not in name} for run in runs]
    for suffix, text in (
        ("json", json.dumps({"runs": plain}, indent=1)),
        ("md", markdown(runs)),
    ):
        (folder / f"recipes.{suffix}").write_text(text.rstrip() + "\n")


READING = f"""\
all-MiniLM-L6-v2; accuracies and macro-F1 of all test samples, in percent, means over the seeds.
"policy" is the one of best accuracy on 400 validation samples at a speed-up ratio of at least
{MIN_SPEEDUP} there, "ratio" its ratio on the test part. "to joint" is the policy's accuracy less
that of joint training's policy with the same seeds, "to full joint" less joint training's last
exit (0 or more reaches the aim), "early" the mean accuracy of the exits of the first half less that
of joint training. Behind ± is the paired standard error of the test samples, in brackets the range
over the seeds; bold are differences with all seeds on one side that are more than two standard
errors. Single seeds are never bold. "fit s" are CPU seconds of the training, on one thread of a
machine that others used at the same time: what they say is that a recipe costs about as much as
joint training, or not."""


def markdown(runs: list[dict[str, Any]]) -> str:
    """Render the runs as one table a data set."""
    machines = dict.fromkeys(describe(run["machine"]) for run in runs)
    command = "Command: `python -m studies.recipes --data-home DIR --checkpoints DIR`."
    what = [f"- {name}: {recipe.what}." for name, recipe in RECIPES.items()]
    tables = [line for name in SIZES for line in table_of(name, runs)]
    return "\n".join([*machines, "", command, "", READING, "", *what, *tables])


def table_of(name: str, runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of one data set's table."""
    here = [run for run in runs if run["data"] == name]
    base = {run["seed"]: run for run in here if run["recipe"] == BASE}
    if not base:
        return
    size, n_test = SIZES[name], len(here[0]["right"])
    yield (
        f"\n## {name}\n\n{size.n_train} training samples, {size.n_epochs} epochs, "
        f"{n_test} test samples.\n"
    )
    yield (
        "| recipe | seeds | layers 1 to M | policy | macro-F1 | ratio | to joint | early | "
        "to full joint | fit s |"
    )
    yield "| --- |" + " --- |" * 9
    for recipe in RECIPES:
        rows = [run for run in here if run["recipe"] == recipe and run["seed"] in base]
        if rows:
            yield row_of(recipe, rows, [base[run["seed"]] for run in rows])


def row_of(recipe: str, rows: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    """Render one recipe on one data set."""
    half = len(rows[0]["layers"]) // 2
    policy = {
        key: statistics.mean(row["policy"][key] for row in rows)
        for key in ("accuracy", "macro_f1", "ratio")
    }
    right = [row["right"] for row in rows]
    to_joint = difference(right, [row["right"] for row in base])
    to_full = difference(right, [row["layers_right"][:, -1] for row in base])
    early = difference(
        *([r["layers_right"][:, :half].mean(1) for r in side] for side in (rows, base))
    )
    seconds = statistics.mean(row["training_cpu_seconds"] for row in rows)
    cells = [
        recipe,
        str(len(rows)),
        " ".join(f"{100 * part:.1f}" for part in np.mean([row["layers"] for row in rows], axis=0)),
        f"{100 * policy['accuracy']:.1f}",
        f"{100 * policy['macro_f1']:.1f}",
        f"{policy['ratio']:.2f}",
        "" if recipe == BASE else str(to_joint),
        "" if recipe == BASE else str(early),
        str(to_full),
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data-home", type=Path, help="default: the package's data folder")
    parser.add_argument("--checkpoints", type=Path, help=f"has a folder {BACKBONE}")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sklearn_epee"
    parser.add_argument("--cache", type=Path, default=cache / "recipe_screen")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after these")
    parser.add_argument("--report", action="store_true", help="write the results, run nothing")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message=".*longer than max_length.*")
    if given.data_home:
        os.environ["SKLEARN_EPEE_DATA"] = str(given.data_home)
    if not given.report:
        if given.checkpoints is None:
            parser.error("--checkpoints is needed, but for --report")
        work(given.cache, given.checkpoints / BACKBONE, time.time() + 60 * given.minutes)
    report(given.cache, given.results)


if __name__ == "__main__":
    main()
