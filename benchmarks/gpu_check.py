"""BERT-base on a GPU against transformers at full depth, in under a minute.

python -m benchmarks.gpu_check

Prints the median milliseconds of interleaved rounds, one line per precision and batch size, with
captured graphs and without, and the speed-up over transformers at mean exit M/3 and at the last
layer.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._measure import interleaved, medians
from benchmarks._models import encode, engine_of, prepared, samples
from benchmarks._report import describe, machine
from benchmarks._rivals import FullDepth

# Batch size, samples, rounds.
SETTINGS = ((1, 12, 3), (16, 512, 3), ("auto", 4096, 2))
WARM_UPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=45, help="begin nothing after this time")
    args = parser.parse_args()
    began = time.perf_counter()
    print(describe(machine(args.device)), flush=True)
    estimator = prepared("bert", args.device, "float32")
    for precision in ("float32", "bfloat16"):
        estimator.set_params(precision=precision)
        rival = FullDepth(estimator, getattr(torch, precision), args.device)
        for batch_size, n, rounds in SETTINGS:
            if time.perf_counter() - began > args.seconds:
                print(f"{precision}, batch {batch_size}: not measured, out of time")
                continue
            found = medians(interleaved(competitors(estimator, rival, batch_size, n), rounds))
            print(line(f"{precision}, batch {batch_size}, {n} texts", found), flush=True)


def competitors(
    estimator: Any, rival: FullDepth, batch_size: int | str, n: int
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, warmed up: graphs are captured for shapes that come up again."""
    encoded, n_layers = encode(estimator, samples("bert", n)), estimator.n_layers_
    third = forced_exits(n, n_layers, n_layers / 3, encoded.lengths)
    last = np.full(n, n_layers)
    runs = {
        "transformers": functools.partial(rival.proba, encoded, batch_size),
        "mean exit M/3": functools.partial(dynamic, estimator, encoded, batch_size, third),
        "M/3, no graphs": functools.partial(_plain, estimator, encoded, batch_size, third),
        "exits at M": functools.partial(dynamic, estimator, encoded, batch_size, last),
    }
    for run in runs.values():
        for _ in range(WARM_UPS):
            run()
    return runs


def _plain(estimator: Any, encoded: Any, batch_size: int | str, schedule: np.ndarray) -> None:
    """Run the engine kernel by kernel."""
    engine = engine_of(estimator)
    graphs, engine._graphs = engine._graphs, None
    try:
        dynamic(estimator, encoded, batch_size, schedule)
    finally:
        engine._graphs = graphs


def line(title: str, found: dict[str, float]) -> str:
    """Return milliseconds and speed-ups as a line of a table."""
    times = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in found.items())
    speedups = [
        f"{found['transformers'] / found[name]:.2f}x" for name in ("mean exit M/3", "exits at M")
    ]
    return f"{title}: {times}; speed-up {speedups[0]} at mean exit M/3, {speedups[1]} at M"


if __name__ == "__main__":
    main()
