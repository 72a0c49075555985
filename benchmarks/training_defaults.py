"""Measure training settings on real data: accuracy per layer, and of policies chosen on dev.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.training_defaults phee git --backbone FOLDER --set learning_rate=5e-5

Every run prints one Markdown row: test accuracy of each layer, then test accuracy, macro-F1 and
speed-up of the default policy and of the policy with the best dev score at a speed-up of 0.3.
"""

from __future__ import annotations

import argparse
import ast
import platform
import time
from importlib.metadata import version

import torch
from sklearn.metrics import accuracy_score, f1_score

from benchmarks._data import IMAGES, load, staged_probabilities
from sklearn_epee import EPEEClassifier, EPEEImageClassifier, speedup_ratio
from sklearn_epee.policy import apply_policy

TAUS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
MIN_SPEEDUP = 0.3


def scores(model, proba, y, tau, patience):
    result = apply_policy(proba, tau, patience)
    labels = model.classes_[result.prediction]
    return (
        accuracy_score(y, labels),
        f1_score(y, labels, average="macro"),
        speedup_ratio(result.exit_layer, model.n_layers_),
    )


def best_policy(model, proba, y):
    """Return the policy with the best dev accuracy + macro-F1 at a speed-up."""
    best = None
    for tau in TAUS:
        for patience in range(1, model.n_layers_ + 1):
            accuracy, macro_f1, speedup = scores(model, proba, y, tau, patience)
            found = (accuracy + macro_f1, speedup, tau, patience)
            if speedup >= MIN_SPEEDUP and (best is None or found > best):
                best = found
    return best[2:]


def measure(name, args, seed):
    options = dict(args.set)
    estimator = EPEEImageClassifier if name in IMAGES else EPEEClassifier
    model = estimator(args.backbone, random_state=seed, memory=None, **options)
    X, y = load(name, "train")
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    dev, y_dev = load(name, "dev")
    test, y_test = load(name, "test")
    on_test = staged_probabilities(model, test)
    layers = (model.classes_[on_test.argmax(2)] == y_test[:, None]).mean(0)
    tau, patience = best_policy(model, staged_probabilities(model, dev), y_dev)
    default = scores(model, on_test, y_test, model.tau, model.patience)
    chosen = scores(model, on_test, y_test, tau, patience)
    cells = [
        name,
        str(seed),
        " ".join(f"{accuracy:.3f}" for accuracy in layers),
        "{:.3f} / {:.3f} at {:.2f}".format(*default),
        "{:.3f} / {:.3f} at {:.2f} (tau {}, patience {})".format(*chosen, tau, patience),
        str(model.n_iter_),
        f"{seconds:.0f}",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def option(text):
    key, _, value = text.partition("=")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", type=option, nargs="*", default=[], metavar="NAME=VALUE")
    return parser.parse_args()


def main():
    args = parse_args()
    packages = ("torch", "transformers", "skorch", "scikit-learn")
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)
    )
    print(f"backbone: {'pretrained' if args.backbone else 'from scratch'}; settings: {args.set}")
    print("| data | seed | layers | default policy | chosen on dev | epochs | fit s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in args.seeds:
        for name in args.data:
            measure(name, args, seed)


if __name__ == "__main__":
    main()
