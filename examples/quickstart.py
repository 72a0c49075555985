"""
Early exit in a few lines.
==========================

Without arguments this script needs no download and takes three to five minutes on two
cores: it trains a text classifier on generated notes about dietary supplements and an image
classifier on scikit-learn's handwritten digits, and shows what exiting early costs in
accuracy and saves in layers::

    python examples/quickstart.py

With ``--data`` it does the same on a real data set, trained on its training part and
reported on its test part, nothing being chosen there::

    python examples/quickstart.py --data phee --data-home DIR --backbone FOLDER-OR-ID

Each network is trained once. `tau` and `patience` act when it predicts, so `set_params`
moves it along the trade-off.
"""  # noqa: D205 - the gallery reads the underlined first line as the title

import argparse
import os
import platform
import time
import warnings
from collections import Counter

import numpy as np
import sklearn
import torch
import transformers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sklearn_epee
from sklearn_epee import EPEEClassifier, EPEEImageClassifier, exit_scores
from sklearn_epee import datasets as epee_datasets

TEXT_SETS = ("phee", "git", "ddi2013", "health_advice")
IMAGE_SETS = ("pneumoniamnist", "breastmnist", "pathmnist_subset")

# A sample exits at the first layer whose normalized entropy is below tau, or at which `patience`
# consecutive layers agree. tau=0 uses patience alone, patience=None uses entropy alone.
POLICIES = (
    {"tau": 0.01, "patience": None},
    {"tau": 0.1, "patience": None},
    {"tau": 0.3, "patience": None},
    {"tau": 0.0, "patience": 2},
    {"tau": 0.0, "patience": 3},
    {"tau": 0.1, "patience": 3},
    {"tau": 0.3, "patience": 2},
)
FULL_DEPTH = {"tau": 0.0, "patience": None}


# %%
# Data
# ----


def make_notes(random_state):
    """Sentences in which words alone do not tell who takes what."""
    X, y = epee_datasets.make_supplement_notes(8000, random_state=random_state)
    return train_test_split(X, y, test_size=1000, stratify=y, random_state=random_state)


def make_digits(random_state):
    """Images of 8 x 8 pixels."""
    digits = load_digits()
    return train_test_split(
        digits.images,
        digits.target,
        test_size=0.25,
        stratify=digits.target,
        random_state=random_state,
    )


def load_real(name, data_home, max_train, random_state):
    """Return the training part, subsampled on request, and the test part."""
    load = getattr(epee_datasets, f"load_{name}")
    X_train, y_train = load(subset="train", data_home=data_home, return_X_y=True)
    X_test, y_test = load(subset="test", data_home=data_home, return_X_y=True)
    if max_train is not None and max_train < len(y_train):
        X_train, y_train = subsample(X_train, y_train, max_train, random_state)
    return X_train, X_test, y_train, y_test


def subsample(X, y, n_samples, random_state):
    """Draw `n_samples` at random, without replacement."""
    rows = np.random.RandomState(random_state).permutation(len(y))[:n_samples]
    return [X[i] for i in rows] if isinstance(X, list) else X[rows], y[rows]


# %%
# Train once, exit as you like
# ----------------------------


def fit(classifier, X, y):
    start = time.perf_counter()
    classifier.fit(X, y)
    n_epochs = classifier.n_iter_
    print(f"trained {len(y)} samples, {n_epochs} epochs, {time.perf_counter() - start:.0f} s\n")
    return classifier


def print_exits(classifier, X, y):
    """Print one row a policy; the network stays as it is."""
    n_layers = classifier.n_layers_
    majority = Counter(y.tolist()).most_common(1)[0][1] / len(y)
    print(f"{len(y)} test samples, {n_layers} layers, majority class {majority:.3f}\n")
    policies = (FULL_DEPTH, *POLICIES)
    with warnings.catch_warnings():
        # Every pass over the same texts would repeat how many of them are truncated.
        warnings.filterwarnings("ignore", message=".*longer than max_length")
        rows = [exit_scores(classifier.set_params(**policy), X, y) for policy in policies]
    header = f"{'tau':>6} {'patience':>8} {'accuracy':>9} {'macro-F1':>9}"
    print(f"{header} {'speed-up ratio':>15} {'factor':>7} {'mean exit layer':>16}")
    for policy, scores in zip(policies, rows, strict=True):
        print_row(policy, scores, n_layers)
    print()


def print_row(policy, scores, n_layers):
    full = policy == FULL_DEPTH
    tau = "full" if full else f"{policy['tau']:g}"
    patience = "depth" if full else policy["patience"] or f"{n_layers} (M)"
    print(
        f"{tau:>6} {patience:>8} {scores['accuracy']:>9.3f} {scores['macro_f1']:>9.3f} "
        f"{scores['speedup']:>15.3f} {1 / (1 - scores['speedup']):>6.2f}x "
        f"{scores['mean_exit_layer']:>16.2f}"
    )


def print_layers(classifier, X, y):
    """Print the scores of every layer's head on its own."""
    accuracies = [np.mean(labels == y) for labels in classifier.staged_predict(X)]
    print("accuracy of each layer:", " ".join(f"{accuracy:.3f}" for accuracy in accuracies), "\n")


# %%
# Putting it together
# -------------------


def run(title, classifier, data):
    X_train, X_test, y_train, y_test = data
    print(f"{title}\n{'-' * len(title)}")
    fit(classifier, X_train, y_train)
    print_layers(classifier, X_test, y_test)
    print_exits(classifier, X_test, y_test)


def run_embedded(settings, random_state):
    notes = make_notes(random_state)
    run("Notes about dietary supplements", EPEEClassifier(**settings), notes)
    digits = make_digits(random_state)
    # They are learned long before the default number of epochs is over.
    run("Handwritten digits", EPEEImageClassifier(**{"max_epochs": 15, **settings}), digits)


def run_real(arguments, settings):
    data = load_real(
        arguments.data, arguments.data_home, arguments.max_train, arguments.random_state
    )
    kind = EPEEClassifier if arguments.data in TEXT_SETS else EPEEImageClassifier
    backbone = arguments.backbone or "a compact one, from scratch"
    run(f"{arguments.data}, backbone {backbone}", kind(arguments.backbone, **settings), data)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Train an early-exit classifier and show accuracy against speed-up.",
    )
    parser.add_argument(
        "--data",
        choices=TEXT_SETS + IMAGE_SETS,
        help="a real data set; without it, generated notes and handwritten digits",
    )
    parser.add_argument(
        "--data-home",
        metavar="DIR",
        help="folder of the real data sets (default: the variable SKLEARN_EPEE_DATA)",
    )
    parser.add_argument(
        "--backbone",
        metavar="FOLDER-OR-ID",
        help="pretrained checkpoint (default: a compact architecture, from scratch)",
    )
    parser.add_argument(
        "--max-train", type=int, metavar="N", help="train on at most N samples of a real set"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs (default: chosen by size)")
    parser.add_argument("--random-state", type=int, default=0, metavar="SEED")
    arguments = parser.parse_args()
    check_arguments(parser, arguments)
    return arguments


def check_arguments(parser, arguments):
    for option in ("data_home", "backbone", "max_train"):
        if arguments.data is None and getattr(arguments, option) is not None:
            parser.error(f"--{option.replace('_', '-')} needs --data")
    for option in ("max_train", "epochs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1, got {value}")


def print_versions():
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    modules = (sklearn_epee, sklearn, torch, transformers)
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    print(f"Python {platform.python_version()}, {versions}")
    print(f"{platform.system()}, {os.cpu_count()} cores, {device}\n")


def main():
    arguments = parse_arguments()
    start = time.perf_counter()
    print_versions()
    settings = {"random_state": arguments.random_state, "verbose": 1}
    if arguments.epochs is not None:
        settings["max_epochs"] = arguments.epochs
    if arguments.data is None:
        run_embedded(settings, arguments.random_state)
    else:
        run_real(arguments, settings)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
