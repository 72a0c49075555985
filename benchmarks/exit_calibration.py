"""Measure what calibrating the exits changes: likelihood, calibration error, the speed-up front.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.exit_calibration --data phee health_advice

all-MiniLM-L6-v2 is fine-tuned on the training part as for the rows on real exits of the suite, and
kept in the same cache. The exits are calibrated on the validation part; likelihood and calibration
error are those of the test part. For every wanted speed-up ratio the policy is chosen on the
validation part and measured on the test part. One way to choose uses the validation part for both
("all"), the other one half of it to calibrate and the other half to choose ("halves"), for fairness
towards the uncalibrated exits, which choose on the same half; the mean over 10 draws is given.
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
    """Predictions that are there already, whose exits can be calibrated."""

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


def print_losses(name, answers):
    """Print negative log-likelihood and calibration error on the test part, exit by exit."""
    n_layers = answers.proba.shape[1]
    codes = answers.codes[answers.test]
    layers = " | ".join(str(layer) for layer in range(1, n_layers + 1))
    print(f"\n| {name}, test part | {layers} | mean |")
    print("| --- |" + " --- |" * (n_layers + 1))
    for method in METHODS:
        proba = answers.calibrated(method, answers.dev).proba[answers.test].astype(np.float64)
        nll = -np.log(proba[np.arange(len(codes)), :, codes]).mean(axis=0)
        ece = Reliability.of(proba, codes).error
        for title, values in (("NLL", nll), ("ECE", ece)):
            row = " | ".join(f"{value:.4f}" for value in [*values, np.mean(values)])
            print(f"| {title}, {method} | {row} |")
    full = np.mean(answers.proba[answers.test, -1].argmax(axis=1) == codes)
    print(f"\nAccuracy at full depth, uncalibrated: {full:.4f}")


def choices(answers, method, ratio):
    """Give accuracy and ratio on the test part, of each way to share out the validation part."""
    calibrated = answers.calibrated(method, answers.dev)
    yield "all", np.array([calibrated.tuned(ratio, answers.dev)])
    draws = StratifiedShuffleSplit(N_DRAWS, test_size=0.5, random_state=0)
    halves = draws.split(answers.dev, answers.codes[answers.dev])
    found = [answers.calibrated(method, first).tuned(ratio, second) for first, second in halves]
    yield "halves", np.array(found)


def print_front(name, answers):
    """Print what the chosen policies come to on the test part."""
    columns = " | ".join(f"ratio >= {ratio}" for ratio in RATIOS)
    print(f"\n| {name}, accuracy @ ratio on the test part | {columns} |")
    print("| --- |" + " --- |" * len(RATIOS))
    for method in METHODS:
        cells = {"all": [], "halves": []}
        for ratio in RATIOS:
            for way, found in choices(answers, method, ratio):
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
        answers = staged(fine_tuned(settings, name), name)
        print_losses(name, answers)
        print_front(name, answers)


if __name__ == "__main__":
    main()
