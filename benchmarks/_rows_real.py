"""Rows on real exits: all-MiniLM-L6-v2 fine-tuned on real data, in both precisions."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

import sklearn_epee
from benchmarks._forced_exits import dynamic
from benchmarks._measure import interleaved
from benchmarks._models import NotMeasuredError, data_set, encode
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._rows_throughput import FULL, speedup_line
from benchmarks._suite import Row, Settings
from sklearn_epee import EPEEClassifier, speedup_ratio

# Numbers of training texts and epochs, for a few minutes on two cores.
TRAINING = {"phee": (2898, 3), "health_advice": (4000, 2)}
TAUS = (0.1, 0.02, 0.3)
BATCH_SIZES = (1, 7, "auto")
N_FOR_BATCHES = 300
# Exceptions that pickles of other versions of the package can raise.
UNREADABLE = (AttributeError, ImportError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


def fine_tuned(settings: Settings, name: str) -> Any:
    """Return MiniLM fine-tuned on a data set; it is trained once and cached in a folder."""
    if settings.minilm is None or not settings.minilm.exists():
        raise NotMeasuredError("no folder of all-MiniLM-L6-v2; give it with --minilm")
    n, n_epochs = TRAINING[name]
    version = f"{sklearn_epee.__version__}-torch-{torch.__version__}"
    path = settings.cache / f"minilm-{name}-{n}-{n_epochs}-{version}.joblib"
    estimator = _kept(path, data_set(name, "test")[0][:2])
    if estimator is None:
        estimator = _fine_tune(settings.minilm, name, n, n_epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        joblib.dump(estimator, path)
    return estimator


def _kept(path: Path, texts: list[str]) -> Any:
    """Return the estimator in a file, or None if there is none that works."""
    if not path.exists():
        return None
    try:
        estimator = joblib.load(path)
        estimator.predict(texts)
    except UNREADABLE as error:
        print(f"trained again, {path.name} was written by another version: {error!r}")
        return None
    return estimator


def _fine_tune(checkpoint: Path, name: str, n: int, n_epochs: int) -> Any:
    X, y = data_set(name, "train")
    chosen = np.random.default_rng(0).permutation(len(X))[:n]
    estimator = EPEEClassifier(checkpoint, max_epochs=n_epochs, memory=None, random_state=0)
    return estimator.fit([X[row] for row in chosen], y[chosen])


def real_exits(settings: Settings, *, name: str) -> Iterator[Line]:
    """Measure accuracy, ratio and time at several thresholds, then the effect of precision."""
    estimator = fine_tuned(settings, name).set_params(device=settings.device)
    texts, y = data_set(name, "test")
    encoded = encode(estimator, texts)
    found: dict[tuple[str, float], Any] = {}
    for precision in ("float32", "bfloat16"):
        estimator.set_params(precision=precision)
        competitors = {FULL: _full_depth(settings, estimator, precision, encoded)}
        for tau in TAUS:
            competitors[f"tau {tau}"] = functools.partial(_at_tau, estimator, tau, encoded, "auto")
            found[precision, tau] = _at_tau(estimator, tau, encoded, "auto")
        full = estimator.classes_[competitors[FULL]().argmax(axis=1)]
        seconds = interleaved(competitors, settings.repetitions, warm_up=False)
        for tau in TAUS:
            times = {FULL: seconds[FULL], "ours": seconds[f"tau {tau}"]}
            line = speedup_line(
                estimator, f"all-MiniLM-L6-v2 on {name}", "auto",
                found[precision, tau].exit_layer, times,
            )  # fmt: skip
            yield _with_scores(line, tau, scores(estimator, found[precision, tau], y, full))
    for tau in TAUS:
        yield _precision_line(name, tau, found["float32", tau], found["bfloat16", tau])
    yield from _batch_lines(estimator, name, texts[:N_FOR_BATCHES])


def _full_depth(settings: Settings, estimator: Any, precision: str, encoded: Any) -> Any:
    rival = FullDepth(estimator, getattr(torch, precision), settings.device)
    return functools.partial(rival.proba, encoded, "auto")


def _at_tau(estimator: Any, tau: float, encoded: Any, batch_size: int | str) -> Any:
    return dynamic(estimator.set_params(tau=tau), encoded, batch_size)


def scores(estimator: Any, exits: Any, y: np.ndarray, full: np.ndarray) -> dict[str, float]:
    """Return the accuracy of the exits and at full depth, and the speed-up ratio."""
    labels = estimator.classes_[exits.proba.argmax(axis=1)]
    return {
        "accuracy": float((labels == y).mean()),
        "accuracy_full_depth": float((full == y).mean()),
        "ratio": float(speedup_ratio(exits.exit_layer, estimator.n_layers_)),
    }


def _with_scores(line: Line, tau: float, found: dict[str, float]) -> Line:
    return replace(
        line,
        configuration=f"{line.configuration}, tau {tau}",
        measured=f"accuracy {found['accuracy']:.3f} (transformers at full depth "
        f"{found['accuracy_full_depth']:.3f}), ratio {found['ratio']:.2f}; {line.measured}",
        settings={**line.settings, "tau": tau},
        values={**line.values, **found},
    )


def _precision_line(name: str, tau: float, exact: Any, rounded: Any) -> Line:
    labels = float((exact.proba.argmax(1) != rounded.proba.argmax(1)).mean())
    exits = float((exact.exit_layer != rounded.exit_layer).mean())
    return Line(
        f"all-MiniLM-L6-v2 on {name}, tau {tau}, bfloat16 against float32, {len(exact.exit_layer)} "
        "texts",
        f"{labels:.2%} of the predictions and {exits:.2%} of the exits differ",
        settings={"tau": tau},
        values={"labels_differ": labels, "exits_differ": exits},
    )


def _batch_lines(estimator: Any, name: str, texts: list[str]) -> Iterator[Line]:
    """Yield lines on whether exits or predictions depend on the batches."""
    encoded = encode(estimator, texts)
    for precision in ("float32", "bfloat16"):
        estimator.set_params(precision=precision)
        first, *others = [_at_tau(estimator, TAUS[0], encoded, size) for size in BATCH_SIZES]
        exits = max(int((first.exit_layer != other.exit_layer).sum()) for other in others)
        labels = max(int((first.proba.argmax(1) != o.proba.argmax(1)).sum()) for o in others)
        moved = max(float(np.abs(first.proba - other.proba).max()) for other in others)
        yield Line(
            f"all-MiniLM-L6-v2 on {name}, {precision}, tau {TAUS[0]}, batches of 7 and auto "
            f"against 1, {len(texts)} texts",
            f"at most {exits} exits and {labels} predictions differ, probabilities by {moved:.1g}",
            settings={"precision": precision, "batch_sizes": list(BATCH_SIZES)},
            values={"exits_differ": exits, "labels_differ": labels, "proba_differ": moved},
        )


ROWS = [
    Row(
        f"real-exits-{name}",
        f"all-MiniLM-L6-v2 fine-tuned on {name}, real exits",
        functools.partial(real_exits, name=name),
        in_quick=False,
    )
    for name in TRAINING
]
