"""Compare reading long notes in windows with truncating them.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and a folder with all-MiniLM-L6-v2:

    python -m benchmarks.long_notes --minilm FOLDER

A note consists of at least 3,000 characters of sentences without advice from the health advice data
set. A third of the notes contain nothing else; in the others, one sentence at a random place gives
strong or weak advice, which makes three classes. Sentences of training notes are from the training
part, those of test notes from the test part. The classifier is first trained on single sentences,
and then continues (warm start) with notes, once for each way to read them.

Printed are the accuracy of every layer on the test notes; the largest speed-up ratio of all
policies within .01 of the accuracy at full depth; and that of the policies that are at least as
accurate as truncated notes at full depth. Policies are chosen on the test notes, in the same way
for all.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks._data import staged_probabilities
from benchmarks._report import describe, machine
from sklearn_epee import EPEEClassifier, policy, speedup_ratio
from sklearn_epee._nn.long_texts import long_texts_of
from sklearn_epee.datasets import load_health_advice

CHARACTERS = 3000
CLASSES = np.array(["none", "strong", "weak"])
WAYS = ("truncate", "head_tail", "windows")


def long_notes(subset: str, n: int, seed: int) -> tuple[list[str], np.ndarray, float]:
    """Return notes and classes, and the mean number of characters of a note."""
    bunch = load_health_advice(subset=subset)
    texts, labels = np.asarray(bunch.data, dtype=object), np.asarray(bunch.target)
    rng = np.random.default_rng(seed)
    neutral = texts[labels == "none"]
    advice = {name: rng.permutation(texts[labels == name]) for name in CLASSES if name != "none"}
    y = CLASSES[np.arange(n) % len(CLASSES)]
    notes = []
    for i, name in enumerate(y):
        sentences: list[str] = []
        while sum(map(len, sentences)) < CHARACTERS:
            sentences.append(str(rng.choice(neutral)))
        if name != "none":
            chosen = advice[name][(i // len(CLASSES)) % len(advice[name])]
            sentences.insert(int(rng.integers(len(sentences) + 1)), str(chosen))
        notes.append(" ".join(sentences))
    return notes, y, float(np.mean([len(note) for note in notes]))


def fit_on_sentences(arguments: argparse.Namespace) -> EPEEClassifier:
    """Fine-tune all-MiniLM-L6-v2 on single sentences, with equally frequent classes."""
    bunch = load_health_advice(subset="train")
    labels, rng = np.asarray(bunch.target), np.random.default_rng(arguments.seed)
    each = arguments.n_sentences // len(CLASSES)
    rows = [rng.choice(np.flatnonzero(labels == name), each, replace=False) for name in CLASSES]
    model = EPEEClassifier(
        arguments.minilm,
        long_texts="windows",
        max_length=arguments.max_length,
        pooling=arguments.pooling,
        max_epochs=2,
        warm_start=True,
        random_state=arguments.seed,
        memory=None,
    )
    chosen = np.concatenate(rows)
    return model.fit([bunch.data[row] for row in chosen], labels[chosen])


def read_as(model: EPEEClassifier, way: str) -> EPEEClassifier:
    """Return a copy that reads long texts in another way.

    Sentences fit in one row, so that it is the classifier that a fit in this way would have left.
    """
    twin = copy.deepcopy(model).set_params(long_texts=way)
    length = twin._preprocessor.max_length
    twin._preprocessor.long_texts = long_texts_of(way, length, None, twin.max_windows, 2)
    return twin


def front(proba: np.ndarray, codes: np.ndarray) -> list[tuple[float, float]]:
    """Return accuracy and speed-up ratio of policies over the whole range of tau and patience."""
    n_layers, found = proba.shape[1], []
    entropies = policy.normalized_entropy(proba)
    for patience in range(1, n_layers + 1):
        for tau in [0.0, *np.quantile(entropies, np.linspace(0.01, 1, 100))]:
            exits = policy.apply_policy(proba, float(tau), patience)
            accuracy = float(np.mean(exits.proba.argmax(1) == codes))
            found.append((accuracy, speedup_ratio(exits.exit_layer, n_layers)))
    return found


def ratio_at(found: list[tuple[float, float]], accuracy: float) -> str:
    """Return the largest ratio of policies with at least an accuracy, and its accuracy."""
    good = [(ratio, kept) for kept, ratio in found if kept >= accuracy]
    return f"{max(good)[0]:.3f} ({max(good)[1]:.3f})" if good else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--n-sentences", type=int, default=1200)
    parser.add_argument("--n-train", type=int, default=72)
    parser.add_argument("--n-test", type=int, default=90)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--pooling", default="attention")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*texts are longer than")
    train, test = (
        long_notes(subset, n, arguments.seed)
        for subset, n in (("train", arguments.n_train), ("test", arguments.n_test))
    )
    print(
        f"{describe(machine('cpu'))}\n\nFirst {arguments.n_sentences} sentences, then "
        f"{arguments.n_train} training and {arguments.n_test} test "
        f"notes of {test[2]:.0f} characters on average, rows of {arguments.max_length} tokens, "
        f"{arguments.epochs} epochs, pooling {arguments.pooling!r}, seed {arguments.seed}.\n"
    )
    print(
        "| long_texts | accuracy of layers 1 to M | ratio (accuracy) within .01 of full depth "
        "| ... as accurate as truncated at full depth | training, s |"
    )
    print("| --- | --- | --- | --- | --- |")
    on_sentences = fit_on_sentences(arguments)
    truncated = None
    for way in arguments.ways:
        started = time.process_time()
        model = read_as(on_sentences, way).set_params(max_epochs=arguments.epochs, batch_size=8)
        model.fit(*train[:2])
        seconds = time.process_time() - started
        proba = staged_probabilities(model, test[0])
        codes = np.searchsorted(model.classes_, test[1])
        truncated = print_row(way, proba, codes, truncated, seconds)


def print_row(
    way: str, proba: np.ndarray, codes: np.ndarray, truncated: float | None, seconds: float
) -> float | None:
    """Print the results of one way of reading; return the accuracy of truncated notes, if known."""
    by_layer = (proba.argmax(2) == codes[:, None]).mean(axis=0)
    truncated = float(by_layer[-1]) if way == "truncate" else truncated
    found = front(proba, codes)
    layers = " ".join(f"{value:.3f}" for value in by_layer)
    as_truncated = "" if truncated is None else ratio_at(found, truncated)
    within = ratio_at(found, float(by_layer[-1]) - 0.01)
    print(f"| {way} | {layers} | {within} | {as_truncated} | {seconds:.0f} |", flush=True)
    return truncated


if __name__ == "__main__":
    main()
