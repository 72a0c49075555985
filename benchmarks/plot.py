"""Draw the wall-clock speed-up against the layer-count factor from a results file.

    python -m benchmarks.plot --out FOLDER

reads ``results.json`` in the folder and writes ``speedup.png`` and ``speedup.svg`` there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks._rows_throughput import arithmetic_limit

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

N_LAYERS = 12
MAX_FACTOR = 4.4
# Colors of the palette of Okabe and Ito, with different markers.
STYLES = {
    ("BERT-base", "cls"): ("#0072B2", "o"),
    ("ALBERT-base", "cls"): ("#009E73", "s"),
    ("GPT-2", "last"): ("#D55E00", "^"),
    ("ViT-base", "cls"): ("#CC79A7", "D"),
    ("BERT-base", "mean"): ("#56B4E9", "v"),
}


def points(results: dict[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    """Return settings and values of lines with a speed-up, batches sized by the package."""
    for name, row in results["rows"].items():
        if not name.startswith(prefix):
            continue
        for line in row["lines"]:
            if "speedup" in line["values"] and line["settings"].get("batch_size") == "auto":
                yield {**line["settings"], **line["values"]}


def plot_speedups(results: dict[str, Any]) -> Figure:
    """Draw points per family, the diagonal and the arithmetic limit, one panel per precision.

    Parameters
    ----------
    results : dict
        Content of ``results.json``.

    Returns
    -------
    matplotlib Figure
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 5), layout="constrained", sharex=True, sharey=True
    )
    for ax, precision in zip(axes, ("float32", "bfloat16"), strict=True):
        draw_precision(ax, results, precision)
    axes[0].set_ylabel("wall-clock speed-up over transformers at full depth")
    figure.suptitle("What is saved on the clock, batch size auto")
    entries = {
        label: line
        for ax in axes
        for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=2)
    return figure


def draw_precision(ax: Axes, results: dict[str, Any], precision: str) -> None:
    """Draw the points of one precision."""
    _draw_lines(ax)
    forced = list(points(results, "throughput"))
    for (backbone, pooling), (colour, marker) in STYLES.items():
        chosen = [p for p in forced if (p["backbone"], p["pooling"]) == (backbone, pooling)]
        label = f"{backbone}, {pooling} pooling, forced exits"
        _draw_points(ax, chosen, precision, color=colour, marker=marker, lw=0.8, label=label)
    for name, marker in (("phee", "*"), ("health_advice", "P")):
        chosen = list(points(results, f"real-exits-{name}"))
        label = f"all-MiniLM-L6-v2, {name}, real exits"
        _draw_points(ax, chosen, precision, color="black", marker=marker, ls="", label=label)
    ax.set(
        title=precision,
        xlabel="layer-count factor, M / mean exit",
        xlim=(0.8, MAX_FACTOR),
        ylim=(0, None),
    )
    ax.grid(alpha=0.3)


def _draw_lines(ax: Axes) -> None:
    factors = np.linspace(1, MAX_FACTOR, 100)
    limit = arithmetic_limit(N_LAYERS, N_LAYERS / factors)
    ax.plot(factors, factors, color="0.4", lw=1, label="layer count")
    ax.plot(factors, limit, color="0.4", lw=1, ls="--", label="arithmetic limit, M = 12")


def _draw_points(ax: Axes, found: list[dict[str, Any]], precision: str, **style: Any) -> None:
    chosen = sorted(
        (point["layer_count_factor"], point["speedup"])
        for point in found
        if point["precision"] == precision
    )
    if chosen:
        ax.plot(*zip(*chosen, strict=True), **style)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    suffix = "" if args.device == "cpu" else f"-{args.device}"
    results = json.loads((args.out / f"results{suffix}.json").read_text())
    figure = plot_speedups(results)
    for kind in ("png", "svg"):
        figure.savefig(args.out / f"speedup{suffix}.{kind}", dpi=150)


if __name__ == "__main__":
    main()
