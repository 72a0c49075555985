"""BERT-base on a GPU against transformers at full depth, compiled and not, in about a minute.

python -m benchmarks.gpu_check

Prints the median milliseconds of interleaved rounds, one line per precision and batch size, with
captured graphs and without, and the speed-up over transformers at mean exits M/3, M/2 and M.
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
from benchmarks._rows_compiled import MEANS, Compiled
from benchmarks._rows_throughput import fraction
from sklearn_epee._nn import prediction_batches

# Batch size, samples, rounds.
SETTINGS = (("auto", 8192, 3), (64, 1024, 3), (16, 512, 3), (1, 12, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=45, help="begin nothing after this time")
    parser.add_argument("--positions", type=int, help='of batches "auto", instead of the default')
    parser.add_argument("--compiled", action="store_true", help="torch.compile as well, bfloat16")
    args = parser.parse_args()
    began = time.perf_counter()
    if args.positions is not None:
        prediction_batches.AUTO_POSITIONS[args.device] = args.positions
        prediction_batches._AUTO_CALLS = 0
    print(describe(machine(args.device)), flush=True)
    estimator = prepared("bert", args.device, "float32")
    for precision in ("bfloat16", "float32"):
        estimator.set_params(precision=precision)
        plain = FullDepth(estimator, getattr(torch, precision), args.device)
        rivals = {"transformers": plain}
        if args.compiled and precision == "bfloat16":
            rivals["compiled"] = Compiled(plain)
        for batch_size, n, rounds in SETTINGS:
            if time.perf_counter() - began > args.seconds:
                print(f"{precision}, batch {batch_size}: not measured, out of time")
                continue
            found = medians(interleaved(competitors(estimator, rivals, batch_size, n), rounds))
            print(line(f"{precision}, batch {batch_size}, {n} texts", found), flush=True)


def competitors(
    estimator: Any, rivals: dict[str, FullDepth], batch_size: int | str, n: int
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    encoded, n_layers = encode(estimator, samples("bert", n)), estimator.n_layers_
    exits = {
        f"mean exit {fraction(share)}": forced_exits(n, n_layers, share * n_layers, encoded.lengths)
        for share in MEANS
    }
    return {
        **{
            name: functools.partial(rival.proba, encoded, batch_size)
            for name, rival in rivals.items()
        },
        **{
            name: functools.partial(dynamic, estimator, encoded, batch_size, schedule)
            for name, schedule in exits.items()
        },
        "M/3, no graphs": functools.partial(
            _plain, estimator, encoded, batch_size, exits["mean exit M/3"]
        ),
    }


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
        f"{found[rival] / found[f'mean exit {fraction(share)}']:.2f}x {rival} at {fraction(share)}"
        for rival in ("transformers", "compiled")
        if rival in found
        for share in MEANS
    ]
    return f"{title}: {times}; {', '.join(speedups)}"


if __name__ == "__main__":
    main()
