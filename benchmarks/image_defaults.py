"""Measure the defaults of pretrained image backbones: accuracy of each layer on the test part.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and a checkpoint's folder:

    python -m benchmarks.image_defaults FOLDER breastmnist --image-size 112 --max-epochs 3

Every training prints one Markdown row as soon as it is done.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score

from benchmarks._data import load
from sklearn_epee import EPEEImageClassifier


def measure(args, *, name, pooling, rate, head_rate, seed):
    """Train once and return the cells of its row."""
    model = EPEEImageClassifier(
        args.backbone,
        image_size=args.image_size,
        pooling=pooling,
        learning_rate=rate or "auto",
        head_learning_rate=head_rate or "auto",
        max_epochs=args.max_epochs or "auto",
        random_state=seed,
        memory=None,
    )
    start = time.perf_counter()
    model.fit(*load(name, "train"))
    seconds = time.perf_counter() - start
    X, y = load(name, "test")
    labels = np.stack(list(model.staged_predict(X)))
    layers = " ".join(f"{accuracy:.3f}" for accuracy in (labels == y).mean(1))
    balanced = balanced_accuracy_score(y, labels[-1])
    rates = f"{rate or 'auto'} / {head_rate or 'auto'}"
    cells = (name, pooling, rates, model.n_iter_, seed, layers, f"{balanced:.3f}")
    return [*map(str, cells), f"{seconds:.0f}"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument(
        "--max-epochs", type=int, default=None, help="the package's own if left out"
    )
    parser.add_argument("--poolings", nargs="+", default=["cls", "mean", "cls+mean"])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[None])
    parser.add_argument("--head-learning-rates", nargs="+", type=float, default=[None])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    return parser.parse_args()


def main():
    args = parse()
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "sklearn_epee"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"{args.backbone.name}, {args.image_size or 'its own'} pixels. {packages}; {device}, "
          f"{torch.get_num_threads()} threads.\n")  # fmt: skip
    print("| data | pooling | learning rates | epochs | seed | accuracy of layers 1 to M | "
          "balanced accuracy of layer M | seconds |")  # fmt: skip
    print("| --- " * 8 + "|", flush=True)
    choices = {
        "seed": args.seeds,
        "name": args.names,
        "rate": args.learning_rates,
        "head_rate": args.head_learning_rates,
        "pooling": args.poolings,
    }
    for chosen in itertools.product(*choices.values()):
        cells = measure(args, **dict(zip(choices, chosen, strict=True)))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
