"""Measure whether to initialize the heads' dense layers with the pooler of a BERT-like checkpoint.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.pooler_start FOLDER phee git --n-train 300 --seeds 0 1 2

Every head has a randomly initialized dense layer with tanh. BERT, RoBERTa, MPNet and others have
the same layer as their pooler, trained on the first position of the last layer. Here the dense
layer of every head is initialized with it; nothing else differs. The table is printed, and written
to ``results/pooler_start.md`` with ``--write``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from benchmarks._data import load
from sklearn_epee import EPEEClassifier

RESULTS = Path(__file__).parent / "results" / "pooler_start.md"
STARTS = ("drawn", "pooler")


class PoolerStart(EPEEClassifier):
    """A classifier whose heads are initialized with the checkpoint's pooler."""

    def _build(self, *given, **options):
        preprocessor, network = super()._build(*given, **options)
        with (
            safe_open(Path(self.backbone) / "model.safetensors", framework="pt") as weights,
            torch.no_grad(),
        ):
            for head in network.heads:
                head.dense.weight.copy_(weights.get_tensor("pooler.dense.weight"))
                head.dense.bias.copy_(weights.get_tensor("pooler.dense.bias"))
        return preprocessor, network


def some(name, subset, n, seed=0):
    """Return n samples of a part, drawn at random."""
    X, y = load(name, subset)
    rows = np.random.default_rng(seed).permutation(len(y))[:n]
    return [X[row] for row in rows], y[rows]


def accuracies(args, name, pooling, start, seed):
    """Train once; return the accuracy of every exit on the test data."""
    estimator = {"drawn": EPEEClassifier, "pooler": PoolerStart}[start](
        args.backbone,
        pooling=pooling,
        max_epochs=args.max_epochs,
        max_length=args.max_length,
        random_state=seed,
        precision="float32",
        memory=None,
    )
    estimator.fit(*some(name, "train", args.n_train, seed))
    X, y = some(name, "test", args.n_test)
    return (np.stack(list(estimator.staged_predict(X))) == y).mean(1)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--n-train", type=int, default=300)
    parser.add_argument("--n-test", type=int, default=300)
    parser.add_argument("--max-epochs", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=80)
    parser.add_argument("--poolings", nargs="+", default=["cls", "mean"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help=f"add to {RESULTS.name}")
    return parser.parse_args()


def lines(args):
    """Yield the lines of the table, as they are measured."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "sklearn_epee"))
    yield (
        f"\n{args.backbone.name}, {args.n_train} training texts of at most {args.max_length} "
        f"tokens, {args.max_epochs} epochs, {args.n_test} test texts, seeds "
        f"{', '.join(map(str, args.seeds))}. {packages}.\n"
    )
    yield "| data | pooling | dense layers | mean accuracy of layers 1 to M | layer M, each seed |"
    yield "| --- " * 5 + "|"
    for name, pooling, start in itertools.product(args.names, args.poolings, STARTS):
        runs = [accuracies(args, name, pooling, start, seed) for seed in args.seeds]
        means = " ".join(f"{statistics.fmean(layer):.3f}" for layer in zip(*runs, strict=True))
        last = " ".join(f"{run[-1]:.3f}" for run in runs)
        yield f"| {name} | {pooling} | {start} | {means} | {last} |"


def main():
    args = parse()
    torch.set_num_threads(1)
    printed = []
    for line in lines(args):
        print(line, flush=True)
        printed.append(line)
    if args.write:
        RESULTS.parent.mkdir(exist_ok=True)
        before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        title = "" if before else "# The pooler of a checkpoint as a start for the heads\n"
        RESULTS.write_text(before + title + "\n".join(printed) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
