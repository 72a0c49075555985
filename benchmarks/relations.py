"""Compare poolings for texts with two marked entities: scores by layer, and the front.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and the folder of all-MiniLM-L6-v2:

    python -m benchmarks.relations FOLDER --data git --n-train 1200
    python -m benchmarks.relations FOLDER --data git
    python -m benchmarks.relations FOLDER --data ddi2013

Every run trains one network (`POOLINGS`), scores every exit on the test part, and chooses on the
dev part the policies (tau at quantiles of the entropies, every patience) with the best score at
some speed-up ratios. Runs can be split with ``--poolings`` and ``--seed``; each is cached in the
folder ``--cache``. After every run the results of all are written to ``results/relations.json`` and
``.md``; ``--report`` only does that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from benchmarks._data import load, staged_probabilities
from benchmarks._report import describe, machine
from sklearn_epee import EPEEClassifier, speedup_ratio
from sklearn_epee.policy import apply_policy, normalized_entropy

RESULTS = Path(__file__).parent / "results"
POOLINGS = {
    "mean": {"pooling": "mean"},
    "cls": {"pooling": "cls"},
    "entity": {"pooling": "entity"},
    "entity, tokens": {"pooling": "entity", "entity_marks": "tokens"},
}
WORDS = {
    "mean": "text marks, mean",
    "cls": "text marks, [CLS]",
    "entity": "text marks, starts of both",
    "entity, tokens": "new tokens, starts of both",
}
NEGATIVE = {"ddi2013": "false"}
RATIOS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
N_TAUS = 40


def part_of(name, subset, n, seed):
    """Return texts and labels of a part, or a random subset."""
    X, y = load(name, subset)
    rows = np.sort(np.random.default_rng(seed).permutation(len(y))[:n])
    return [X[row] for row in rows], y[rows]


def scores_of(name):
    """Return the scores of a data set; the first one chooses policies."""
    scores = {
        "accuracy": accuracy_score,
        "macro-F1": lambda y, found: f1_score(y, found, average="macro", zero_division=0),
    }
    if name not in NEGATIVE:
        return scores

    def micro(y, found):
        positive = sorted(set(y) - {NEGATIVE[name]})
        return f1_score(y, found, labels=positive, average="micro", zero_division=0)

    return {f"micro-F1 without {NEGATIVE[name]}": micro, **scores}


def measure(pooling, options):
    """Run one training and evaluation."""
    name, seed = options.data, options.seed
    X, y = part_of(name, "train", options.n_train, seed)
    model = EPEEClassifier(
        options.minilm,
        max_epochs=options.epochs,
        memory=None,
        random_state=seed,
        **POOLINGS[pooling],
    )
    cpu = time.process_time()
    model.fit(X, y)
    cpu = time.process_time() - cpu
    parts = [part_of(name, subset, None, 0) for subset in ("dev", "test")]
    (dev, test), (y_dev, y_test) = (
        [staged_probabilities(model, texts) for texts, _ in parts],
        [labels for _, labels in parts],
    )
    scores = scores_of(name)
    predicted = model.classes_[test.argmax(2)]
    return {
        "data": name,
        "pooling": pooling,
        "n_train": len(y),
        "epochs": options.epochs,
        "seed": seed,
        "n_dev": len(y_dev),
        "n_test": len(y_test),
        "tokens": float(model._preprocessor.encode(parts[1][0]).lengths.mean()),
        "training_cpu_seconds": cpu,
        "layers": {
            title: [float(score(y_test, found)) for found in predicted.T]
            for title, score in scores.items()
        },
        "front": front(
            Staged(dev, y_dev, model.classes_),
            Staged(test, y_test, model.classes_),
            next(iter(scores.values())),
        ),
        "machine": machine("cpu"),
    }


@dataclass(frozen=True)
class Staged:
    """The probabilities of every exit, the true labels and the classes."""

    proba: np.ndarray
    y: np.ndarray
    classes: np.ndarray

    def answered(self, tau, patience, score):
        """Return the speed-up ratio and the score of a policy."""
        found = apply_policy(self.proba, tau, patience)
        ratio = speedup_ratio(found.exit_layer, self.proba.shape[1])
        return float(ratio), float(score(self.y, self.classes[found.proba.argmax(1)]))


def front(dev, test, score):
    """Choose policies on dev and measure them on test."""
    taus = np.quantile(normalized_entropy(dev.proba), np.linspace(0, 1, N_TAUS))
    tried = []
    for tau in (0.0, *taus):
        for patience in range(1, dev.proba.shape[1] + 1):
            ratio, found = dev.answered(tau, patience, score)
            tried.append((found, ratio, float(tau), patience))
    chosen = []
    for least in RATIOS:
        allowed = [policy for policy in tried if policy[1] >= least]
        if allowed:
            _, _, tau, patience = max(allowed)
            ratio, found = test.answered(tau, patience, score)
            chosen.append(
                {"least": least, "tau": tau, "patience": patience, "ratio": ratio, "score": found}
            )
    return chosen


# ------------------------------------------------------------------------------------ the report


def key_of(run):
    return run["data"], run["n_train"], run["epochs"], run["pooling"], run["seed"]


def runs_in(cache):
    """Return all runs in the cache or in the results."""
    results = RESULTS / "relations.json"
    kept = json.loads(results.read_text())["runs"] if results.exists() else []
    kept += [json.loads(path.read_text()) for path in cache.glob("*.json")]
    runs = {key_of(run): run for run in kept}
    order = list(POOLINGS)
    # git first, the smallest first.
    return sorted(
        runs.values(),
        key=lambda r: (r["data"] != "git", r["n_train"], order.index(r["pooling"]), r["seed"]),
    )


def write(path, text):
    draft = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    draft.write_text(text.rstrip() + "\n")
    draft.replace(path)


def report(cache):
    """Write the results of all runs so far."""
    runs = runs_in(cache)
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / "relations.json", json.dumps({"runs": runs}, indent=1))
    text = markdown(runs)
    write(RESULTS / "relations.md", text)
    return text


READING = """\
all-MiniLM-L6-v2, joint loss. Scores are of the test part. "front": of the policies (tau, patience)
those of best score on the dev part at a speed-up ratio of at least the number in the column, and
behind it the ratio reached on the test part. The policies are chosen by the first score of each
set. "tokens" are those of a test text, "fit" the CPU seconds of the training (other processes
shared the machine)."""


def markdown(runs):
    """Render the runs: two tables for each data set and size."""
    # Runs of several commits are of one machine.
    machines = {re.sub(r", commit [\w-]+", "", describe(run["machine"])): None for run in runs}
    command = "Command: `python -m benchmarks.relations FOLDER --data NAME --n-train N`."
    lines = ["# Relations: what heads read", "", *machines, "", command, "", READING]
    for group in sorted({(r["data"] != "git", r["data"], r["n_train"], r["epochs"]) for r in runs}):
        of_group = [r for r in runs if (r["data"], r["n_train"], r["epochs"]) == group[1:]]
        lines += tables(of_group)
    return "\n".join(lines)


def tables(runs):
    first = runs[0]
    yield (
        f"\n## {first['data']}, {first['n_train']:,} training texts, {first['epochs']} epochs, "
        f"{first['n_test']:,} tests\n"
    )
    for title in first["layers"]:
        yield f"| marks, what heads read | seed | {title} of layers 1 to 6 | tokens | fit |"
        yield "| --- | --- | --- | --- | --- |"
        for run in runs:
            layers = " ".join(short(score) for score in run["layers"][title])
            yield (
                f"| {WORDS[run['pooling']]} | {run['seed']} | {layers} | {run['tokens']:.0f} "
                f"| {run['training_cpu_seconds']:.0f} s |"
            )
        yield ""
    columns = " | ".join(f"{least:g}" for least in RATIOS)
    yield f"| front, {next(iter(first['layers']))} at a ratio of | seed | {columns} |"
    yield "| --- | --- |" + " --- |" * len(RATIOS)
    for run in runs:
        found = {point["least"]: point for point in run["front"]}
        cells = " | ".join(
            f"{short(found[least]['score'])} ({short(found[least]['ratio'])})"
            if least in found
            else "none"
            for least in RATIOS
        )
        yield f"| {WORDS[run['pooling']]} | {run['seed']} | {cells} |"


def short(score):
    return f"{score:.3f}".removeprefix("0")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("minilm", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", choices=("git", "ddi2013"), default="git")
    parser.add_argument("--n-train", type=int, help="training texts; all of them by default")
    parser.add_argument("--poolings", nargs="+", choices=list(POOLINGS), default=list(POOLINGS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="write the results again")
    default = Path(tempfile.gettempdir()) / "sklearn-epee-relations"
    parser.add_argument("--cache", type=Path, default=default)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for pooling in [] if options.report else options.poolings:
        words = (options.data, options.n_train or "all", options.epochs, pooling, options.seed)
        path = options.cache / ("-".join(str(w).replace(", ", "+") for w in words) + ".json")
        if not path.exists():
            run = measure(pooling, options)
            write(path, json.dumps(run, indent=1))
        report(options.cache)
    print(report(options.cache))


if __name__ == "__main__":
    main()
