"""Draw the wall-clock speed-up against the layer-count factor from a results file.

    python -m benchmarks.plot --out FOLDER

reads ``results.json`` of the folder and writes ``speedup.png`` and ``speedup.svg`` beside it.
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
from matplotlib.lines import Line2D

N_LAYERS = 12
LARGEST_FACTOR = 4.4
# From the colour-blind safe palette of Okabe and Ito.
COLOURS = {
    "BERT-base": "#0072B2",
    "ALBERT-base": "#009E73",
    "GPT-2": "#D55E00",
    "ViT-base": "#CC79A7",
}
REAL = "#000000"


def points(results: dict[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    """Give settings and values of lines with a speed-up, batches sized by the package."""
    for name, row in results["rows"].items():
        if not name.startswith(prefix):
            continue
        for line in row["lines"]:
            if "speedup" in line["values"] and line["settings"].get("batch_size") == "auto":
                yield {**line["settings"], **line["values"]}


def plot_speedups(results: dict[str, Any], ax: Axes | None = None) -> Axes:
    """Draw points per family and precision, the diagonal and the arithmetic limit.

    Parameters
    ----------
    results : dict
        Content of ``results.json``.
    ax : matplotlib Axes or None, default=None

    Returns
    -------
    matplotlib Axes
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 5.5), layout="constrained")
    _draw_lines(ax)
    _draw_forced(ax, list(points(results, "throughput")))
    _draw_real(ax, list(points(results, "real-exits")))
    ax.set(
        xlabel="layer-count factor, M / mean exit",
        ylabel="wall-clock speed-up over transformers at full depth",
        title="What is saved on the clock (batch size auto)",
        xlim=(0.8, None),
        ylim=(0.8, None),
    )
    ax.grid(alpha=0.3)
    ax.legend(handles=_legend(ax), loc="upper left", frameon=False, fontsize=9)
    return ax


def _draw_lines(ax: Axes) -> None:
    factors = np.linspace(1, LARGEST_FACTOR, 100)
    ax.plot(factors, factors, color="0.5", lw=1, label="layer count")
    ax.plot(
        factors,
        arithmetic_limit(N_LAYERS, N_LAYERS / factors),
        color="0.5",
        lw=1,
        ls="--",
        label=f"arithmetic limit, one pooled row (M = {N_LAYERS})",
    )


def _draw_forced(ax: Axes, found: list[dict[str, Any]]) -> None:
    groups = [(backbone, precision) for backbone in COLOURS for precision in _FILL]
    for place, (backbone, precision) in enumerate(groups):
        for point in found:
            if (point["backbone"], point["precision"]) != (backbone, precision):
                continue
            # Side by side: the forced factors are the same everywhere.
            shift = 0.02 * (place - (len(groups) - 1) / 2)
            ax.plot(
                point["layer_count_factor"] + shift,
                point["speedup"],
                marker="s" if point["pooling"] == "mean" else "o",
                color=COLOURS[backbone],
                fillstyle=_FILL[precision],
                ls="",
            )


_FILL = {"float32": "full", "bfloat16": "none"}


def _draw_real(ax: Axes, found: list[dict[str, Any]]) -> None:
    for point in found:
        ax.plot(
            point["layer_count_factor"],
            point["speedup"],
            marker="*",
            ms=9,
            color=REAL,
            fillstyle=_FILL[point["precision"]],
            ls="",
        )


def _legend(ax: Axes) -> list[Line2D]:
    lines = list(ax.get_lines()[:2])
    for backbone, colour in COLOURS.items():
        lines.append(Line2D([], [], color=colour, marker="o", ls="", label=backbone))
    lines.extend([
        Line2D([], [], color=REAL, marker="*", ms=9, ls="", label="all-MiniLM-L6-v2, real exits"),
        Line2D([], [], color="0.4", marker="s", ls="", label="mean pooling (whole layers)"),
        Line2D([], [], color="0.4", marker="o", ls="", label="filled: float32"),
        Line2D([], [], color="0.4", marker="o", fillstyle="none", ls="", label="open: bfloat16"),
    ])  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    suffix = "" if args.device == "cpu" else f"-{args.device}"
    results = json.loads((args.out / f"results{suffix}.json").read_text())
    figure = plot_speedups(results).figure
    for kind in ("png", "svg"):
        figure.savefig(args.out / f"speedup{suffix}.{kind}", dpi=150)


if __name__ == "__main__":
    main()
