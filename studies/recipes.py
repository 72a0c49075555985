"""Compare ways to train the exits, at equal training time, on small parts of real data.

Run from the repository root:

    python -m studies.recipes --data-home DIR --checkpoints DIR

`DIR` of the checkpoints has a folder all-MiniLM-L6-v2. Every run trains one network, chooses on
validation data the policy of best accuracy at a speed-up ratio of at least 0.52, and reads it on
the test data. Runs are jobs as those of the whole study: kept one by one and not repeated. The
results of all are written to ``results/recipes.json`` and ``.md``; ``--report`` does no more than
that, and ``--docs`` writes the committed tables into ``docs/training_recipes.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import describe
from benchmarks.training_recipes import MIN_SPEEDUP, tuned
from sklearn_epee.exceptions import ClassRecallWarning
from sklearn_epee.policy import apply_policy
from studies import recipe_networks as networks
from studies.exits import fitted, staged
from studies.jobs import Folder, Job, Kind, Work, is_done
from studies.report import replaced_block
from studies.sets import Part, Parts, score_all

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "training_recipes.md"
DOCS_BLOCK = "<!-- begin: python -m studies.recipes --docs -->", "<!-- end -->"
BACKBONE = "all-MiniLM-L6-v2"
BASE = "joint"


@dataclass(frozen=True)
class Size:
    """How much of a data set is used, and for how long; None: all of it, the package's epochs."""

    n_train: int | None
    n_epochs: int | None
    n_dev: int | None = 400


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
FULL = Size(None, None, None)
# Heads that read all positions of a layer cannot spare its other rows, as those of marks do.
UNMARKED = ("phee", "health_advice")

RECIPES = {
    BASE: Recipe("the package's default"),
    "regression start": Recipe(
        "heads begin as the logistic regression on what they read of the untrained backbone",
        options={"head_init": "regression"},
    ),
    "bottleneck heads": Recipe(
        "heads with a residual map through a quarter of the width in front",
        options={"head": "bottleneck"},
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
HEADS = ("regression start", BASE)
OTHERS = (
    "bottleneck heads", "decayed rates", "low-rank updates", "distillation, T=4",
    "twice the epochs", "last exit first, 0.2", "attention heads",
)  # fmt: skip
ROUNDS = [
    (("git", "health_advice", "phee"), HEADS, 0),
    (("health_advice",), OTHERS, 0),
    (("phee",), OTHERS, 0),
    (SHORT, HEADS, 1),
    (("git",), (*OTHERS, "gradient equilibrium"), 0),
    (("git", *SHORT), HEADS, 1),
    (("git", *SHORT), tuple(RECIPES), 0),
    (("git", *SHORT), tuple(RECIPES), 1),
]


def jobs(full: bool = False) -> list[Job]:
    """Return every run once, in the order of doing; the kind of a job is its recipe.

    Parameters
    ----------
    full : bool, default=False
        On all training samples for the package's number of epochs, instead of on small parts.
    """
    found = [
        Job(data, BACKBONE, seed, recipe, tuple(vars(FULL if full else SIZES[data]).items()))
        for names, recipes, seed in ROUNDS
        for recipe in recipes
        for data in names
        if applies(recipe, data)
    ]
    return list(dict.fromkeys(found))


def applies(recipe: str, data: str) -> bool:
    """Return whether a recipe can be run on a data set."""
    sets = RECIPES[recipe].sets
    return sets is None or data in sets


def make(recipe: Recipe, backbone: Any, seed: int, n_epochs: int | None, **options: Any) -> Any:
    """Return the unfitted classifier of a recipe."""
    if n_epochs is None and recipe.longer != 1:
        raise ValueError(f"{recipe.what}: needs a number of epochs to multiply.")
    model = recipe.estimator(
        backbone,
        max_epochs="auto" if n_epochs is None else round(recipe.longer * n_epochs),
        callbacks=[kind(*arguments) for kind, arguments in recipe.callbacks],
        memory=None,
        random_state=seed,
        **{**recipe.options, **options},
    )
    if recipe.network is not None:
        model.network_class = recipe.network
    return model


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Train a network by a recipe and keep what every exit says of dev and test."""
    size = Size(**dict(job.options))
    model = make(RECIPES[job.kind], folder.backbone, job.seed, size.n_epochs)
    model, cost = fitted(model, parts.train)
    dev = parts.dev if size.n_dev is None else some(parts.dev, size.n_dev)
    proba = {
        f"{name}_proba": staged(model, part, len(parts.classes))
        for name, part in (("dev", dev), ("test", parts.test))
    }
    folder.save_predictions(**proba, dev_y=dev.y, test_y=parts.test.y)
    return cost


def some(part: Part, n: int) -> Part:
    """Return some samples of a part, drawn with seed 0."""
    rows = np.sort(np.random.default_rng(0).permutation(len(part.y))[:n])
    return Part([part.X[row] for row in rows], part.y[rows])


KINDS = {recipe: Kind(run, lambda *_: True) for recipe in RECIPES}


# ------------------------------------------------------------------------------------- the scores


def finished(out: Path) -> list[dict[str, Any]]:
    """Return what all runs so far come to, with what of the test part they get right."""
    everything = [*jobs(), *jobs(full=True)]
    return [scored(job, out / job.name) for job in everything if is_done(out, job)]


def scored(job: Job, folder: Path) -> dict[str, Any]:
    """Return the scores of a run: every layer's, and those of the policy chosen on dev."""
    result = json.loads((folder / "result.json").read_text())
    with np.load(folder / "predictions.npz") as kept:
        dev, dev_y, test, test_y = (
            kept[name] for name in ("dev_proba", "dev_y", "test_proba", "test_y")
        )
    with warnings.catch_warnings():
        # Classes that a policy loses show in its macro-F1.
        warnings.simplefilter("ignore", ClassRecallWarning)
        policy = tuned(dev, dev_y, test, test_y)
    predictions = apply_policy(test, policy["tau"], policy["patience"]).prediction
    by_layer = test.argmax(axis=2)
    return {
        "data": job.data,
        "recipe": job.kind,
        "seed": job.seed,
        "is_full": job.option("n_train") is None,
        **{name: result[name] for name in ("n_train", "n_epochs", "n_test", "machine")},
        "training_cpu_seconds": result["training_cpu_seconds"],
        "layers": [score_all(job.data, test_y, layer) for layer in by_layer.T],
        "policy": policy | score_all(job.data, test_y, predictions),
        "right": predictions == test_y,
        "layers_right": by_layer == test_y[:, None],
    }


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


def report(out: Path, folder: Path) -> None:
    """Write the results of all runs so far."""
    runs = finished(out)
    folder.mkdir(parents=True, exist_ok=True)
    plain = [{name: part for name, part in run.items() if "right" not in name} for run in runs]
    for suffix, text in (
        ("json", json.dumps({"runs": plain}, indent=1)),
        ("md", markdown(runs)),
    ):
        (folder / f"recipes.{suffix}").write_text(text.rstrip() + "\n")


READING = f"""\
all-MiniLM-L6-v2; accuracies and macro-F1 of all test samples, in percent, means over the seeds.
"policy" is the one of best accuracy on 400 validation samples at a speed-up ratio of at
least {MIN_SPEEDUP} there, "ratio" its ratio on the test part. "to joint" is the policy's accuracy
less that of joint training's policy with the same seeds, "early" the mean accuracy of the exits of
the first half less that of joint training, "to full joint" the policy's accuracy less that of joint
training's last exit (0 or more reaches the aim). Behind ± is the paired standard error of the test
samples, in brackets the range over the seeds; bold are differences with all seeds on one side that
are more than two standard errors. Single seeds are never bold. "fit s" are CPU seconds of the
training, on one thread of a machine that others used at the same time."""


def markdown(runs: list[dict[str, Any]]) -> str:
    """Render the runs as one table a data set."""
    machines = dict.fromkeys(describe(run["machine"]) for run in runs)
    command = "Command: `python -m studies.recipes --data-home DIR --checkpoints DIR`."
    what = [f"- {name}: {recipe.what}." for name, recipe in RECIPES.items()]
    tables = [
        line
        for is_full in (False, True)
        for name in SIZES
        for line in table_of(name, [run for run in runs if run["is_full"] == is_full])
    ]
    return "\n".join([*machines, "", command, "", READING, "", *what, *tables])


def table_of(name: str, runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of one data set's table."""
    here = [run for run in runs if run["data"] == name]
    base = {run["seed"]: run for run in here if run["recipe"] == BASE}
    if not base:
        return
    first = here[0]
    whole = ", all training samples" if first["is_full"] else ""
    yield (
        f"\n## {name}{whole}\n\n{first['n_train']} training samples, {first['n_epochs']} epochs, "
        f"{len(first['right'])} test samples.\n"
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
    layers = [[layer["accuracy"] for layer in row["layers"]] for row in rows]
    half = len(layers[0]) // 2
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
        " ".join(f"{100 * part:.1f}" for part in np.mean(layers, axis=0)),
        f"{100 * policy['accuracy']:.1f}",
        f"{100 * policy['macro_f1']:.1f}",
        f"{policy['ratio']:.2f}",
        "" if recipe == BASE else str(to_joint),
        "" if recipe == BASE else str(early),
        str(to_full),
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def docs(results: Path = RESULTS) -> str:
    """Return what the page of recipes shows of the results: how to read them, and tables."""
    text = (results / "recipes.md").read_text()
    tables = text[text.index("\n## ") :].replace("\n## ", "\n### ")
    return f"{READING}\n{tables}"


def write_docs(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the tables into the page of recipes."""
    page.write_text(replaced_block(page.read_text(), docs(results), DOCS_BLOCK))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data-home", type=Path, help="default: SKLEARN_EPEE_DATA names it")
    parser.add_argument("--checkpoints", type=Path, help=f"has a folder {BACKBONE}")
    out = Path(tempfile.gettempdir()) / "sklearn-epee-recipes"
    parser.add_argument("--out", type=Path, default=out, help=f"folder of all runs ({out})")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--sets", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument(
        "--full", action="store_true", help="on all training samples, the package's epochs"
    )
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no more then")
    parser.add_argument("--report", action="store_true", help="write the results, run nothing")
    parser.add_argument("--docs", action="store_true", help="write results into docs, no more")
    given = parser.parse_args(arguments)
    if given.docs:
        write_docs(given.results)
        return 0
    warnings.filterwarnings("ignore", message=".*longer than max_length.*")
    failed: list[Job] = []
    if not given.report:
        until = time.time() + 60 * given.minutes
        wanted = [
            job for job in jobs(given.full) if job.data in given.sets and job.kind in given.recipes
        ]
        work = Work(wanted, given.out, given.data_home, given.checkpoints, until, kinds=KINDS)
        failed = work.run()
    report(given.out, given.results)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
