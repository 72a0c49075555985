"""Row on the cost of a text by number of texts, length, layers and classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._measure import interleaved, medians
from benchmarks._models import FAMILIES, encode, new_estimator, prepared, real_texts
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.batching import EncodedTexts

FAMILY = "minilm"


def scaling(settings: Settings) -> Iterator[Line]:
    """Measure ms per text at mean exit M/3, varying one quantity at a time."""
    n = 48 if settings.quick else 200
    yield _line(settings, "texts N", *_numbers_of_texts(settings))
    yield _line(settings, "tokens a text", *_lengths(settings))
    yield _line(settings, "layers M", *_depths(settings, n))
    yield _line(settings, "classes K", *_classes(settings, n))


Variants = tuple[dict[int, Callable[[], Any]], dict[int, int]]


def _on_schedule(estimator: Any, encoded: Any) -> Callable[[], Any]:
    n_layers = estimator.n_layers_
    schedule = forced_exits(len(encoded), n_layers, n_layers / 3, encoded.lengths)
    return functools.partial(dynamic, estimator, encoded, "auto", schedule)


def _numbers_of_texts(settings: Settings) -> Variants:
    estimator = prepared(FAMILY, settings.device, settings.fast_precision())
    counts = (48, 96) if settings.quick else (100, 200, 400, 800, 1600)
    runs = {n: _on_schedule(estimator, encode(estimator, real_texts(n))) for n in counts}
    return runs, {n: n for n in counts}


def _lengths(settings: Settings) -> Variants:
    estimator = prepared(FAMILY, settings.device, settings.fast_precision())
    lengths = (16, 64) if settings.quick else (16, 32, 64, 128, 256, 512)
    n_tokens = 1024 if settings.quick else 16 * 512
    counts = {length: n_tokens // length for length in lengths}
    runs = {n: _on_schedule(estimator, _constant(n, counts[n])) for n in lengths}
    return runs, counts


def _constant(length: int, n: int) -> EncodedTexts:
    """Return texts of random tokens, all of one length."""
    ids = np.random.default_rng(0).integers(5, 1000, n * length).astype(np.int32)
    return EncodedTexts(ids, np.full(n, length, np.int64), None, 0)


def _depths(settings: Settings, n: int) -> Variants:
    depths = (3, 6) if settings.quick else (3, 6, 12, 24)
    runs = {}
    for depth in depths:
        config = FAMILIES[FAMILY].config()
        config.num_hidden_layers = depth
        runs[depth] = _variant(settings, n, config=config)
    return runs, dict.fromkeys(depths, n)


def _classes(settings: Settings, n: int) -> Variants:
    classes = (2, 10) if settings.quick else (2, 10, 100, 1000)
    return (
        {k: _variant(settings, n, n_classes=k) for k in classes},
        dict.fromkeys(classes, n),
    )


def _variant(settings: Settings, n: int, **options: Any) -> Callable[[], Any]:
    estimator = new_estimator(FAMILIES[FAMILY], "cls", **options)
    estimator.set_params(device=settings.device, precision=settings.fast_precision())
    return _on_schedule(estimator, encode(estimator, real_texts(n)))


def _line(
    settings: Settings,
    varied: str,
    runs: Mapping[int, Callable[[], Any]],
    counts: Mapping[int, int],
) -> Line:
    seconds = interleaved({str(value): run for value, run in runs.items()}, settings.repetitions)
    found = medians(seconds)
    milliseconds = {value: 1000 * found[str(value)] / counts[value] for value in runs}
    return Line(
        f"MiniLM-sized BERT, cls, {settings.fast_precision()}, mean exit M/3, {varied}: "
        + ", ".join(map(str, runs)),
        ", ".join(f"{cost:.2f}" for cost in milliseconds.values()) + " ms a text",
        settings={"varied": varied, "n_samples": {str(k): n for k, n in counts.items()}},
        values={str(value): cost for value, cost in milliseconds.items()},
        seconds=seconds,
    )


ROWS = [Row("scaling", "Cost against N, sequence length, layers and classes", scaling)]
