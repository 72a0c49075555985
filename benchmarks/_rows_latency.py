"""Rows on single samples, on a fixed layer, and on the overhead of `predict`."""

from __future__ import annotations

import functools
import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._measure import Seconds, interleaved, medians, quotient, timed, warmed_up
from benchmarks._models import FAMILIES, encode, engine_of, prepared, samples
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._rows_throughput import FULL, fraction, speedup_line
from benchmarks._suite import Row, Settings
from sklearn_epee.policy import apply_policy

PRECISIONS = ("float32", "bfloat16")
N_SINGLE = {"text": {"float32": 16, "bfloat16": 32}, "image": {"float32": 6, "bfloat16": 12}}
N_BUDGETED = {"text": {"float32": 48, "bfloat16": 96}, "image": {"float32": 16, "bfloat16": 32}}
BUDGETS = (1 / 4, 1 / 3, 1 / 2)
BUDGET_QUOTIENT = 1.15


def precisions(settings: Settings) -> tuple[str, ...]:
    return (settings.fast_precision(),) if settings.quick else PRECISIONS


def latency(settings: Settings, *, family: str) -> Iterator[Line]:
    """Measure one sample at a time, with rival and engine in turns on every sample."""
    for precision in precisions(settings):
        estimator = prepared(family, settings.device, precision)
        rival = FullDepth(estimator, getattr(torch, precision), settings.device)
        n = 4 if settings.quick else N_SINGLE[FAMILIES[family].kind][precision]
        singles = [encode(estimator, samples(family, n)[row : row + 1]) for row in range(n)]
        lengths = np.concatenate([single.lengths for single in singles])
        for share in (1 / 3,) if settings.quick else (1 / 3, 1 / 2, 1):
            mean_exit = share * estimator.n_layers_
            schedule = forced_exits(n, estimator.n_layers_, mean_exit, lengths)
            pairs = [
                {
                    FULL: functools.partial(rival.proba, single, 1),
                    "ours": functools.partial(
                        dynamic, estimator, single, 1, schedule[[row]], tau=share
                    ),
                }
                for row, single in enumerate(singles)
            ]
            seconds = one_by_one(pairs, settings.repetitions)
            yield _latency_line(estimator, family, schedule, seconds)


def one_by_one(pairs: Sequence[dict[str, Callable[[], Any]]], repetitions: int) -> Seconds:
    """Time competitors in turns on every sample; a repetition is the sum over the samples."""
    for pair in pairs:
        for run in pair.values():
            warmed_up(run)
    seconds: Seconds = {name: [] for name in pairs[0]}
    for _ in range(repetitions):
        gc.collect()
        rounds = [{name: timed(run) for name, run in pair.items()} for pair in pairs]
        for name, repeated in seconds.items():
            repeated.append(sum(found[name] for found in rounds))
    return seconds


def _latency_line(estimator: Any, family: str, schedule: np.ndarray, seconds: Seconds) -> Line:
    line = speedup_line(estimator, FAMILIES[family].title, 1, schedule, seconds)
    wanted = 0.8 if estimator.device == "cuda" else 1.0
    milliseconds = {name: 1000 * t / len(schedule) for name, t in medians(seconds).items()}
    times = f"{milliseconds['ours']:.1f} ms a sample, transformers {milliseconds[FULL]:.1f} ms; "
    return Line(
        line.configuration,
        times + line.measured,
        f"quotient >= {wanted:g}",
        line.values["quotient"] >= wanted,
        line.settings,
        {**line.values, "milliseconds": milliseconds["ours"]},
        line.seconds,
    )


def budgeted(settings: Settings, *, family: str) -> Iterator[Line]:
    """Measure predictions of layer m against the rival with all layers."""
    for precision in precisions(settings):
        estimator = prepared(family, settings.device, precision)
        rival = FullDepth(estimator, getattr(torch, precision), settings.device)
        n = 16 if settings.quick else N_BUDGETED[FAMILIES[family].kind][precision]
        n = settings.enough(n, "auto")
        encoded = encode(estimator, samples(family, n))
        layers = {share: round(share * estimator.n_layers_) for share in BUDGETS}
        competitors = {FULL: functools.partial(rival.proba, encoded, "auto")}
        for share, layer in layers.items():
            competitors[fraction(share)] = functools.partial(
                engine_of(estimator).budgeted, encoded, layer, "auto"
            )
        seconds = interleaved(competitors, settings.repetitions)
        for share, layer in layers.items():
            found = {FULL: seconds[FULL], "ours": seconds[fraction(share)]}
            yield _budget_line(estimator, family, n, layer, found)


def _budget_line(estimator: Any, family: str, n: int, layer: int, seconds: Seconds) -> Line:
    line = speedup_line(estimator, FAMILIES[family].title, "auto", np.full(n, layer), seconds)
    return Line(
        line.configuration.replace("mean exit", "layer"),
        line.measured,
        f"quotient >= {BUDGET_QUOTIENT}",
        line.values["quotient"] >= BUDGET_QUOTIENT,
        {**line.settings, "layer": layer},
        line.values,
        line.seconds,
    )


def strings(settings: Settings) -> Iterator[Line]:
    """Compare `predict` on strings with the engine alone, on a data set and on one text."""
    precision = settings.fast_precision()
    estimator = prepared("bert", settings.device, precision)
    estimator.set_params(tau=0.0, patience=patience_for(estimator, estimator.n_layers_ / 3))
    yield _many_strings(estimator, settings, 64 if settings.quick else 256)
    # With few layers, the overhead can be measured more precisely.
    yield _one_string(estimator.set_params(patience=1), 30 if settings.quick else 200)


def patience_for(estimator: Any, mean_exit: float) -> int:
    """Return the patience whose mean exit is nearest to a given one."""
    proba = engine_of(estimator).staged(encode(estimator, samples("bert", 32)), "auto")
    return min(
        range(1, estimator.n_layers_ + 1),
        key=lambda patience: abs(apply_policy(proba, 0.0, patience).exit_layer.mean() - mean_exit),
    )


def _many_strings(estimator: Any, settings: Settings, n: int) -> Line:
    texts = samples("bert", n)
    encoded = encode(estimator, texts)
    competitors = {
        "predict": lambda: estimator.predict(texts),
        "engine": lambda: dynamic(estimator, encoded, "auto"),
    }
    seconds = interleaved(competitors, max(settings.repetitions, 5))
    extra = quotient(seconds, "predict", "engine") - 1
    mean_exit = estimator.predict_exit_layer(texts).mean()
    return Line(
        f"BERT-base, {estimator.precision}, {n} texts, batch auto, mean exit {mean_exit:.1f}",
        f"predict takes {extra:.1%} more than the engine alone",
        "<= 10 %",
        extra <= 0.10,
        settings={"n_samples": n, "precision": estimator.precision},
        values={"extra": extra, "mean_exit": float(mean_exit)},
        seconds=seconds,
    )


def _one_string(estimator: Any, n: int) -> Line:
    """Time `predict` on one text, and its parts: the tokenizer and the engine."""
    seconds: Seconds = {"predict": [], "tokenizer": [], "engine": []}
    tokenizer = estimator._preprocessor.tokenizer
    for text in [*samples("bert", 5), *samples("bert", n)]:
        encoded = encode(estimator, [text])
        parts = {
            "predict": functools.partial(estimator.predict, [text]),
            "tokenizer": functools.partial(tokenizer, text),
            "engine": functools.partial(dynamic, estimator, encoded, "auto"),
        }
        for name, run in parts.items():
            seconds[name].append(timed(run))
    # The first runs are the warm-up.
    seconds = {name: values[5:] for name, values in seconds.items()}
    extra = [p - t - e for p, t, e in zip(*seconds.values(), strict=True)]
    found = {name: 1000 * value for name, value in medians(seconds).items()}
    overhead = 1000 * statistics.median(extra)
    return Line(
        f"BERT-base, {estimator.precision}, one text",
        f"{overhead:.2f} ms on top of tokenising ({found['tokenizer']:.2f} ms) and engine "
        f"({found['engine']:.2f} ms)",
        "<= 1 ms",
        overhead <= 1.0,
        settings={"n_samples": 1, "precision": estimator.precision},
        values={"overhead_ms": overhead, **{f"{name}_ms": v for name, v in found.items()}},
        seconds=seconds,
    )


ROWS = [
    *(
        Row(
            f"latency-{family}",
            f"Latency, {FAMILIES[family].title}, one sample at a time, exits as they come",
            functools.partial(latency, family=family),
            in_quick=family == "bert",
        )
        for family in ("bert", "albert", "gpt2", "vit")
    ),
    *(
        Row(
            f"budgeted-{family}",
            f"Budgeted mode, {FAMILIES[family].title}, against transformers at full depth",
            functools.partial(budgeted, family=family),
            in_quick=family == "bert",
        )
        for family in ("bert", "albert", "gpt2", "vit")
    ),
    Row("strings", "predict on strings against the engine alone", strings),
]
