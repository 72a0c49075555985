"""Rows on the exact search over all policies, given the probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import f1_score, make_scorer
from sklearn.utils import Bunch

from benchmarks._measure import interleaved, medians
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee.model_selection import TunedExitPolicyClassifierCV
from sklearn_epee.policy import apply_policy


class Answered(ClassifierMixin, BaseEstimator):
    """A fitted early-exit classifier with given probabilities, to time the tuning alone.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_layers, n_classes), float32
        X contains indices of its rows.
    tau : float, default=0.1
    patience : int or None, default=None
    """

    def __init__(self, proba: np.ndarray, tau: float = 0.1, patience: int | None = None) -> None:
        self.proba = proba
        self.tau = tau
        self.patience = patience

    def fit(self, X: Any, y: Any) -> Answered:  # noqa: ARG002
        """Do nothing."""
        self.classes_ = np.arange(self.proba.shape[2])
        self.n_layers_ = self.proba.shape[1]
        return self

    def staged_predict_proba(self, X: Any) -> Iterator[np.ndarray]:
        """Return the probabilities of every layer."""
        yield from self.proba[np.asarray(X)].transpose(1, 0, 2)

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels under the policy."""
        return self.predict_with_exits(X).labels

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return labels and exit layers by the policy."""
        found = apply_policy(self.proba[np.asarray(X)], self.tau, self.patience)
        return Bunch(labels=self.classes_[found.prediction], exit_layer=found.exit_layer)


def made_up_probabilities(n: int, n_layers: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that get more confident with depth, and mostly matching labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n)
    sureness = np.linspace(0.5, 4, n_layers)[:, None] * rng.gamma(2, 0.5, (n, 1, 1))
    logits = rng.normal(size=(n, n_layers, n_classes)) + sureness * np.eye(n_classes)[y][:, None]
    return softmax(logits, axis=-1).astype(np.float32), y


def tuning(settings: Settings) -> Iterator[Line]:
    """Time the tuning on 50,000 samples, 12 exits and 3 classes, without forward passes."""
    n = 5_000 if settings.quick else 50_000
    proba, y = made_up_probabilities(n, 12, 3)
    rows = np.arange(n)
    estimator = Answered(proba).fit(rows, y)

    scores = {
        "accuracy": "accuracy",
        "f1_macro": "f1_macro",
        "micro-F1 without class 0": make_scorer(f1_score, labels=[1, 2], average="micro"),
    }
    for name, scoring in scores.items():
        tuner = TunedExitPolicyClassifierCV(estimator, cv="prefit", refit=False, scoring=scoring)
        seconds = interleaved({"tuning": lambda t=tuner: t.fit(rows, y)}, settings.repetitions)
        found = medians(seconds)["tuning"]
        yield Line(
            f"{n:,} samples, 12 exits, 3 classes, every threshold and patience, {name}",
            f"{found:.2f} s",
            "<= 1 s",
            found <= 1,
            settings={"n_samples": n, "scoring": name},
            values={"seconds": found},
            seconds=seconds,
        )


class AnsweredLabels(Answered):
    """The same for several labels."""

    multilabel_ = True
    target_type = "multilabel"

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return labels and exit layers by the policy."""
        proba = self.proba[np.asarray(X)]
        found = apply_policy(proba, self.tau, self.patience, multilabel=True)
        return Bunch(labels=found.prediction, exit_layer=found.exit_layer)


def tuning_of_labels(settings: Settings) -> Iterator[Line]:
    """Time the tuning on 10,000 samples, 12 exits and 15 labels, without forward passes."""
    n = 1_000 if settings.quick else 10_000
    rng = np.random.default_rng(0)
    y = (rng.random((n, 15)) < np.geomspace(0.02, 0.6, 15)).astype(np.int64)
    sureness = np.linspace(0.5, 4, 12)[:, None] * rng.gamma(2, 0.5, (n, 1, 1))
    logits = rng.normal(size=(n, 12, 15)) + sureness * (2 * y[:, None] - 1)
    estimator = AnsweredLabels(expit(logits).astype(np.float32))
    rows = np.arange(n)
    estimator.fit(rows, y)
    for scoring in ("accuracy", "f1_micro", "f1_macro"):
        tuner = TunedExitPolicyClassifierCV(estimator, cv="prefit", refit=False, scoring=scoring)
        seconds = interleaved({"tuning": lambda t=tuner: t.fit(rows, y)}, settings.repetitions)
        found = medians(seconds)["tuning"]
        yield Line(
            f"{n:,} samples, 12 exits, 15 labels, every threshold and patience, {scoring}",
            f"{found:.2f} s",
            "<= 3 s",
            found <= 3,
            settings={"n_samples": n, "scoring": scoring},
            values={"seconds": found},
            seconds=seconds,
        )


ROWS = [
    Row("tuning", "Exact tuning of the exit policy, after the forward passes", tuning),
    Row(
        "labels-tuning",
        "Exact tuning of the exit policy of several labels, after the forward passes",
        tuning_of_labels,
    ),
]
