"""Measure the effect of calibrated exits on likelihood, calibration error and speed-up.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.exit_calibration --data phee health_advice

all-MiniLM-L6-v2 is fine-tuned on the training part as for the rows on real exits of the suite, and
stored in the same cache. The exits are calibrated on the validation part; likelihood and
calibration error are for the test part. For several speed-up ratios, the policy is chosen on the
validation part and measured on the test part. "all" uses the whole validation part both to
calibrate and to choose. "halves" uses one half to calibrate and the other half to choose, for a
fair comparison with uncalibrated exits, whose policy is chosen on the same half; it is the mean
over 10 draws.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import StratifiedShuffleSplit

from benchmarks.__main__ import parse_args as suite_args
from benchmarks.__main__ import settings_from
from benchmarks._data import staged_probabilities
from benchmarks._models import data_set
from benchmarks._report import describe, machine
from benchmarks._rows_real import TRAINING, fine_tuned
from benchmarks._rows_tuning import Answered
from sklearn_epee import ExitCalibratedClassifier, TunedExitPolicyClassifierCV, speedup_ratio
from sklearn_epee._exits.reliability import Reliability

RATIOS = (0.3, 0.5, 0.6, 0.7)
METHODS = ("none", "temperature", "vector")
N_DRAWS = 10


class Mapped(Answered):
    """A classifier with given predictions, whose exits can be calibrated."""

    def map_exit_logits(self, matrix, shift):
        """Return a copy with other logits at every exit."""
        log_proba = np.log(np.maximum(self.proba, np.finfo(np.float32).tiny))
        logits = np.einsum("mkj,nmj->nmk", matrix, log_proba) + shift
        proba = np.exp(logits - logits.max(axis=2, keepdims=True))
        twin = Mapped((proba / proba.sum(axis=2, keepdims=True)).astype(np.float32))
        return twin.fit(None, None)


@dataclass(frozen=True)
class Predictions:
    """Staged probabilities of the validation part and, below them, of the test part."""

    proba: np.ndarray
    codes: np.ndarray
    n_dev: int

    @property
    def dev(self):
        """Rows of the validation part."""
        return np.arange(self.n_dev)

    @property
    def test(self):
        """Rows of the test part."""
        return np.arange(self.n_dev, len(self.codes))

    def calibrated(self, method, rows):
        """Calibrate the exits on some rows of the validation part."""
        if method == "none":
            return self
        inner = FrozenEstimator(Mapped(self.proba).fit(None, None))
        found = ExitCalibratedClassifier(inner, method=method).fit(rows, self.codes[rows])
        return replace(self, proba=found.estimator_.estimator.proba)

    def tuned(self, ratio, rows):
        """Choose a policy on some rows of the validation part; accuracy and ratio on the test."""
        inner = FrozenEstimator(Mapped(self.proba).fit(None, None))
        tuned = TunedExitPolicyClassifierCV(inner, min_speedup=ratio, scoring="accuracy")
        tuned.fit(rows, self.codes[rows])
        found = tuned.predict_with_exits(self.test)
        accuracy = np.mean(found.labels == self.codes[self.test])
        return accuracy, speedup_ratio(found.exit_layer, self.proba.shape[1])


def staged(estimator, name):
    parts = [data_set(name, subset) for subset in ("dev", "test")]
    proba = [staged_probabilities(estimator, X) for X, _ in parts]
    codes = np.searchsorted(estimator.classes_, np.concatenate([y for _, y in parts]))
    return Predictions(np.concatenate(proba), codes, len(parts[0][1]))


def print_losses(name, predictions):
    """Print negative log-likelihood and calibration error on the test part, exit by exit."""
    n_layers = predictions.proba.shape[1]
    codes = predictions.codes[predictions.test]
    layers = " | ".join(str(layer) for layer in range(1, n_layers + 1))
    print(f"\n| {name}, test part | {layers} | mean |")
    print("| --- |" + " --- |" * (n_layers + 1))
    for method in METHODS:
        proba = (
            predictions.calibrated(method, predictions.dev)
            .proba[predictions.test]
            .astype(np.float64)
        )
        nll = -np.log(proba[np.arange(len(codes)), :, codes]).mean(axis=0)
        ece = Reliability.of(proba, codes).error
        for title, values in (("NLL", nll), ("ECE", ece)):
            row = " | ".join(f"{value:.4f}" for value in [*values, np.mean(values)])
            print(f"| {title}, {method} | {row} |")
    full = np.mean(predictions.proba[predictions.test, -1].argmax(axis=1) == codes)
    print(f"\nAccuracy at full depth, uncalibrated: {full:.4f}")


def choices(predictions, method, ratio):
    """Return accuracy and ratio on the test part, for each use of the validation part."""
    calibrated = predictions.calibrated(method, predictions.dev)
    yield "all", np.array([calibrated.tuned(ratio, predictions.dev)])
    draws = StratifiedShuffleSplit(N_DRAWS, test_size=0.5, random_state=0)
    halves = draws.split(predictions.dev, predictions.codes[predictions.dev])
    found = [predictions.calibrated(method, first).tuned(ratio, second) for first, second in halves]
    yield "halves", np.array(found)


def print_front(name, predictions):
    """Print the results of the chosen policies on the test part."""
    columns = " | ".join(f"ratio >= {ratio}" for ratio in RATIOS)
    print(f"\n| {name}, accuracy @ ratio on the test part | {columns} |")
    print("| --- |" + " --- |" * len(RATIOS))
    for method in METHODS:
        cells = {"all": [], "halves": []}
        for ratio in RATIOS:
            for way, found in choices(predictions, method, ratio):
                accuracy, speedup = found.mean(axis=0)
                spread = f" (sd {found[:, 0].std():.4f})" if way == "halves" else ""
                cells[way].append(f"{accuracy:.4f}{spread} @ {speedup:.3f}")
        for way, row in cells.items():
            print(f"| {method}, {way} | {' | '.join(row)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", nargs="+", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--cache", type=Path, default=None, help="keeps fine-tuned estimators")
    arguments = parser.parse_args()
    settings = settings_from(suite_args([]))
    if arguments.cache is not None:
        settings = replace(settings, cache=arguments.cache)
    warnings.filterwarnings("ignore", message=".*longer than max_length.*")
    print(f"{describe(machine('cpu'))}, scipy {version('scipy')}")
    for name in arguments.data:
        predictions = staged(fine_tuned(settings, name), name)
        print_losses(name, predictions)
        print_front(name, predictions)


if __name__ == "__main__":
    main()
