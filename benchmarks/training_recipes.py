"""Measure training recipes: accuracy at full depth and of a policy that saves half of the layers.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.training_recipes --minilm FOLDER

Every run trains one network on a part of the training data (`SETS`), chooses on the validation data
the policy with the best accuracy at a speed-up ratio of at least 0.52, and reports on the test
data. Runs are ordered in rounds (`ROUNDS`); finished runs are stored and not repeated. Start the
command again to continue, or several times at once to share the work. After every run the results
of all are written to ``results/training_recipes.json`` and ``.md``; ``--report`` only does that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

from benchmarks._data import IMAGES, load, staged_probabilities
from benchmarks._report import describe, machine
from benchmarks._rows_tuning import Answered
from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    TunedExitPolicyClassifierCV,
    speedup_ratio,
)

RESULTS = Path(__file__).parent / "results"
MIN_SPEEDUP = 0.52
N_FOR_CLOCK = 128
N_CLOCK_ROUNDS = 3


@dataclass(frozen=True)
class Set:
    """Numbers of samples and epochs for a data set; None: all samples, default epochs.

    `balanced` leaves out training samples of the largest class beyond the number of all others.
    `data` is the data set, where that is not the key in `SETS`.
    """

    n_train: int | None
    n_epochs: int | None
    n_dev: int | None = None
    n_test: int | None = None
    balanced: bool = False
    data: str | None = None


SETS = {
    "phee": Set(1500, 3),
    "git": Set(2400, 5),
    "health_advice": Set(1200, 3),
    "ddi2013": Set(1500, 3, 400, 1000, balanced=True),
    "pneumoniamnist": Set(None, 5),
    "breastmnist": Set(None, 30),
    "pathmnist_subset": Set(None, 40),
    "phee, default length": Set(None, None, data="phee"),
    "git, default length": Set(None, None, data="git"),
    "health_advice, default length": Set(None, None, data="health_advice"),
    "ddi2013, default length": Set(None, None, balanced=True, data="ddi2013"),
}
# Variants; each differs from the first in one parameter.
VARIANTS = {
    "joint": {},
    "mixed": {"exit_training": "mixed"},
    "distillation": {"exit_training": "distillation"},
    "mixed+distillation": {"exit_training": "mixed+distillation"},
    "detached": {"exit_training": "detached"},
    "attention": {"pooling": "attention"},
    "uniform": {"exit_loss_weights": "uniform"},
    "descending": {"exit_loss_weights": "descending"},
    # A policy of ratio 0.52 lets most samples exit at layers 2 to 4.
    "weights 1 3 3 2 1 6": {"exit_loss_weights": [1, 3, 3, 2, 1, 6]},
    "cls+mean": {"pooling": "cls+mean"},
    "cls": {"pooling": "cls"},
}
MAIN = ("joint", "distillation", "weights 1 3 3 2 1 6", "mixed")
MOST = ("phee", "health_advice", "pneumoniamnist", "breastmnist", "pathmnist_subset")
# Data sets, variants and seed, in the order of the runs.
ROUNDS = [
    (("git, default length",), MAIN[:3], 0),
    (("phee, default length", "health_advice, default length"), ("joint",), 0),
    (("ddi2013, default length",), ("joint",), 0),
    (("git, default length",), MAIN[:3], 1),
    (("phee, default length", "health_advice, default length"), ("joint",), 1),
    (("ddi2013, default length",), ("weights 1 3 3 2 1 6",), 0),
    (("git, default length",), MAIN[:3], 2),
    (("phee, default length", "health_advice, default length"), ("joint",), 2),
    (("ddi2013, default length",), ("joint", "weights 1 3 3 2 1 6"), 1),
    (("phee, default length", "health_advice, default length"), ("weights 1 3 3 2 1 6",), 0),
    (("phee, default length", "health_advice, default length"), ("weights 1 3 3 2 1 6",), 1),
    (("ddi2013, default length",), ("distillation",), 0),
    (MOST, MAIN, 0),
    (("phee", "health_advice", "pneumoniamnist"), ("attention",), 0),
    (("phee",), ("mixed+distillation", "detached", "uniform"), 0),
    (("git",), MAIN[:3], 0),
    (MOST[:3], MAIN, 1),
    (("ddi2013",), MAIN[:2], 0),
    (("health_advice",), ("uniform", "descending", "mixed+distillation", "detached"), 0),
    (("phee",), ("descending", "cls+mean", "cls"), 0),
    (MOST[3:], MAIN, 1),
    (("health_advice",), ("cls+mean", "cls"), 0),
    (("git",), ("mixed",), 0),
    (("git",), MAIN[:3], 1),
    (MOST, MAIN[:3], 2),
    (MOST[3:], ("attention",), 0),
    (MOST[2:], ("uniform", "descending", "detached", "mixed+distillation"), 0),
    (MOST, ("attention", "descending"), 1),
    (MOST, ("mixed",), 2),
    (MOST, ("attention", "descending"), 2),
]


def data_of(name):
    return SETS[name].data or name


def part_of(name, subset, n, seed, *, balanced=False):
    """Return samples and labels of a part, or a random subset."""
    name = data_of(name)
    X, y = load(name, subset)
    rows = np.random.default_rng(seed).permutation(len(y))
    if balanced:
        classes, counts = np.unique(y, return_counts=True)
        largest = y[rows] == classes[counts.argmax()]
        kept = ~largest | (np.cumsum(largest) <= np.sort(counts)[:-1].sum())
        rows = rows[kept]
    rows = np.sort(rows[:n])
    if name in IMAGES:
        return np.asarray(X)[rows], y[rows]
    return [X[row] for row in rows], y[rows]


def trained(name, variant, seed, minilm):
    """Train one network; return the estimator and the cost."""
    size = SETS[name]
    X, y = part_of(name, "train", size.n_train, seed, balanced=size.balanced)
    options = {"max_epochs": size.n_epochs or "auto", "memory": None, "random_state": seed}
    if name in IMAGES:
        model = EPEEImageClassifier(**options, **VARIANTS[variant])
    else:
        model = EPEEClassifier(minilm, **options, **VARIANTS[variant])
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(X, y)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    n_epochs = len(model.history_)
    return model, {"n_train": len(y), "n_epochs": n_epochs, "training_seconds": seconds}


def staged(model, X, y):
    """Return the probabilities of every exit and the columns of the true labels."""
    return staged_probabilities(model, X), np.searchsorted(model.classes_, y)


def tuned(dev, codes_dev, test, codes_test):
    """Choose a policy on dev, by the package's exact search, and measure it on test."""
    both = Answered(np.concatenate([dev, test])).fit(None, None)
    search = TunedExitPolicyClassifierCV(
        FrozenEstimator(both), min_speedup=MIN_SPEEDUP, scoring="accuracy"
    )
    search.fit(np.arange(len(dev)), codes_dev)
    found = search.predict_with_exits(np.arange(len(dev), len(dev) + len(test)))
    return {
        "tau": float(search.best_tau_),
        "patience": int(search.best_patience_),
        "dev_accuracy": float(search.best_score_),
        "accuracy": float(np.mean(found.labels == codes_test)),
        "ratio": float(speedup_ratio(found.exit_layer, dev.shape[1])),
    }


def clocked(model, X, policy):
    """Time `predict` under the policy and at full depth in turns; return wall and CPU seconds."""
    policies = {"full": {"tau": 0.0, "patience": None}, "policy": policy}
    seconds = defaultdict(lambda: defaultdict(list))
    for turn in range(1 + N_CLOCK_ROUNDS):
        for title, parameters in policies.items():
            model.set_params(**parameters)
            wall, cpu = time.perf_counter(), time.process_time()
            model.predict(X)
            if turn:  # the first is cold
                seconds[title]["wall"].append(time.perf_counter() - wall)
                seconds[title]["cpu"].append(time.process_time() - cpu)
    return {
        title: {c: statistics.median(s) for c, s in by.items()} for title, by in seconds.items()
    }


def measure(name, variant, seed, minilm):
    """Run one training and evaluation."""
    size = SETS[name]
    model, found = trained(name, variant, seed, minilm)
    X_dev, y_dev = part_of(name, "dev", size.n_dev, 0)
    X, y = part_of(name, "test", size.n_test, 0)
    (dev, codes_dev), (test, codes) = staged(model, X_dev, y_dev), staged(model, X, y)
    policy = tuned(dev, codes_dev, test, codes)
    chosen = {key: policy[key] for key in ("tau", "patience")}
    return {
        "data": name,
        "variant": variant,
        "seed": seed,
        "size": asdict(size),
        **found,
        "n_test": len(codes),
        "layers": (test.argmax(2) == codes[:, None]).mean(axis=0).tolist(),
        "policy": policy,
        "seconds": clocked(model, X[:N_FOR_CLOCK], chosen),
        "machine": machine("cpu"),
    }


# ------------------------------------------------------------------------------------- the queue


def tasks():
    """Yield data set, variant and seed of every run, in order."""
    for names, variants, seed in ROUNDS:
        for name in names:
            for variant in variants:
                yield name, variant, seed


def claimed(path):
    """Claim a run for this process; False if it is finished or runs in another process."""
    if path.exists():
        return False
    claim = path.with_suffix(".claim")
    try:
        with claim.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        if _lives(int(claim.read_text() or os.getpid())):
            return False
        claim.write_text(str(os.getpid()))
    return True


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def path_of(cache, name, variant, seed):
    words = f"{name}-{variant}-{seed}".replace(",", "").replace(" ", "_")
    return cache / f"{words}.json"


def work(cache, minilm, until):
    """Run open runs until a given time."""
    cache.mkdir(parents=True, exist_ok=True)
    for task in tasks():
        if time.time() > until:
            break
        path = path_of(cache, *task)
        if not claimed(path):
            continue
        found = measure(*task, minilm)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(found, indent=1))
        draft.replace(path)
        print(*task, found["layers"], found["policy"], found["training_seconds"], flush=True)
        report(cache)


# ------------------------------------------------------------------------------------ the report


def report(cache):
    """Write the results of all runs so far."""
    paths = [path_of(cache, *task) for task in tasks()]
    runs = [json.loads(path.read_text()) for path in paths if path.exists()]
    RESULTS.mkdir(exist_ok=True)
    for suffix, text in (("json", json.dumps({"runs": runs}, indent=1)), ("md", markdown(runs))):
        draft = RESULTS / f"training_recipes.{suffix}.{os.getpid()}"
        draft.write_text(text.rstrip() + "\n")
        draft.replace(RESULTS / f"training_recipes.{suffix}")


def markdown(runs):
    """Render the runs: sizes, then a table for each data set."""
    machines = {describe(run["machine"]): None for run in runs}
    command = "Command: `python -m benchmarks.training_recipes --minilm FOLDER`."
    tables = [table for name in SETS for table in tables_of(name, runs)]
    summaries = [
        *summary(
            "Parts of the training data, few epochs", [n for n in SETS if n == data_of(n)], runs
        ),
        *summary("All training data, default epochs", [n for n in SETS if n != data_of(n)], runs),
    ]
    return "\n".join([*machines, "", command, "", READING, *summaries, *tables])


READING = f"""\
Accuracies are of the test part, in percent, means over the seeds. "full depth" is the last exit;
"policy" the one of best accuracy on the validation part at a speed-up ratio of at least
{MIN_SPEEDUP} there, "ratio" its ratio on the test part. "to joint" is the mean difference of the
policy's accuracy to that of joint training with the same seeds, followed by the range over seeds;
"to full joint" that to joint training's full depth: 0 or more reaches the aim. "clock" is the time
of `predict` at full depth over that by the policy, of the process's CPU and of the wall (medians in
turns; other processes shared the machine), and "fit" the CPU seconds of the training. All runs
of a set train for the same number of epochs. One standard error of an accuracy is given with every
set."""


def summary(title, names, runs):
    """Yield a table of all variants and some sets, with the distance of each from the target."""
    yield (
        f"\n## {title}\n\nAccuracy of the policy less that of joint training at full depth, same "
        "seeds, in points; in brackets the number of seeds.\n"
    )
    yield f"| variant | {' | '.join(data_of(name) for name in names)} |"
    yield "| --- |" + " --- |" * len(names)
    joint = {(r["data"], r["seed"]): r["layers"][-1] for r in runs if r["variant"] == "joint"}
    for variant in VARIANTS:
        cells = []
        for name in names:
            rows = [run for run in runs if (run["data"], run["variant"]) == (name, variant)]
            far = [
                run["policy"]["accuracy"] - joint[name, run["seed"]]
                for run in rows
                if (name, run["seed"]) in joint
            ]
            cells.append(f"{100 * statistics.mean(far):+.1f} ({len(far)})" if far else "")
        if any(cells):
            yield f"| {variant} | {' | '.join(cells)} |"


def tables_of(name, runs):
    """Yield the lines of one data set's table."""
    here = [run for run in runs if run["data"] == name]
    if not here:
        return
    size = SETS[name]
    n_test, n_epochs = here[0]["n_test"], size.n_epochs or here[0]["n_epochs"]
    joint = [run for run in here if run["variant"] == "joint"]
    full = statistics.mean(run["layers"][-1] for run in joint or here)
    error = 100 * (full * (1 - full) / n_test) ** 0.5
    what = "all-MiniLM-L6-v2" if name not in IMAGES else "compact ViT from scratch"
    note = ", as many of the largest class as of all others" if size.balanced else ""
    yield (
        f"\n## {name}\n\n{what}, {here[0]['n_train']} training samples{note}, "
        f"{n_epochs} epochs, {n_test} test samples (standard error {error:.1f}).\n"
    )
    yield (
        "| variant | seeds | layers 1 to 6 | full depth | policy | ratio | to joint | "
        "to full joint | clock, CPU | clock, wall | fit s |"
    )
    yield "| --- |" + " --- |" * 10
    for variant in VARIANTS:
        rows = [run for run in here if run["variant"] == variant]
        if rows:
            yield row_of(variant, rows, {run["seed"]: run for run in joint})


def row_of(variant, rows, joint):
    """Render one variant of one data set."""
    pairs = [(row, joint[row["seed"]]) for row in rows if row["seed"] in joint]
    to_joint = [r["policy"]["accuracy"] - j["policy"]["accuracy"] for r, j in pairs]
    to_full = [r["policy"]["accuracy"] - j["layers"][-1] for r, j in pairs]
    quotients = {
        clock: statistics.mean(
            r["seconds"]["full"][clock] / r["seconds"]["policy"][clock] for r in rows
        )
        for clock in ("cpu", "wall")
    }
    cells = [
        variant,
        str(len(rows)),
        " ".join(f"{100 * part:.1f}" for part in np.mean([row["layers"] for row in rows], axis=0)),
        f"{100 * statistics.mean(row['layers'][-1] for row in rows):.1f}",
        f"{100 * statistics.mean(row['policy']['accuracy'] for row in rows):.1f}",
        f"{statistics.mean(row['policy']['ratio'] for row in rows):.2f}",
        "" if variant == "joint" else difference(to_joint),
        difference(to_full),
        f"{quotients['cpu']:.2f}",
        f"{quotients['wall']:.2f}",
        f"{statistics.mean(row['training_seconds']['cpu'] for row in rows):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def difference(values):
    if not values:
        return "not measured"
    mean = f"{100 * statistics.mean(values):+.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):+.1f} to {100 * max(values):+.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sklearn_epee"
    parser.add_argument("--cache", type=Path, default=cache / "recipes", help="keeps single runs")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after these")
    parser.add_argument(
        "--report", action="store_true", help="write the results again, run nothing"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*longer than max_length.*")
    if arguments.report:
        report(arguments.cache)
    else:
        work(arguments.cache, arguments.minilm, time.time() + 60 * arguments.minutes)


if __name__ == "__main__":
    main()
