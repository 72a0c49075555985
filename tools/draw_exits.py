"""Draw the picture of the home page: exits of samples, and accuracy against speed-up on PHEE.

    python tools/draw_exits.py

reads ``studies/results/study.json`` and writes ``docs/exits.png``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parent.parent
DATA, BACKBONE = "phee", "all-MiniLM-L6-v2"
N_LAYERS = 6
# Colors of the palette of Okabe and Ito.
BLUE, GREEN, ORANGE, GREY = "#0072B2", "#009E73", "#D55E00", "#666666"
NOTES = (
    ("Stopped fish oil.", 1, GREEN),
    ("Asked whether ginkgo helps;\nwill think about it.", 3, BLUE),
    ("Denies taking St. John's wort\nsince March, but refilled it.", 6, ORANGE),
)


def draw_layers(ax: Axes) -> None:
    """Draw three notes that exit at three layers."""
    for layer in range(1, N_LAYERS + 1):
        ax.add_patch(
            FancyBboxPatch(
                (0, layer - 0.3), 4.2, 0.6, boxstyle="round,pad=0.02", facecolor="#eef2f6",
                edgecolor=GREY,
            )
        )  # fmt: skip
        ax.text(-0.15, layer, f"layer {layer}", ha="right", va="center", fontsize=9, color=GREY)
    for number, (note, exit_layer, color) in enumerate(NOTES):
        x = 0.6 + 1.5 * number
        ax.plot([x, x], [0.2, exit_layer], color=color, lw=3, solid_capstyle="round")
        ax.add_patch(
            FancyArrowPatch(
                (x, exit_layer), (4.75, exit_layer), arrowstyle="-|>", mutation_scale=14, lw=2,
                color=color,
            )
        )  # fmt: skip
        ax.text(4.85, exit_layer, note, va="center", fontsize=9, color=color)
    ax.text(2.1, -0.15, "three notes enter", ha="center", fontsize=9, color=GREY)
    ax.set(
        xlim=(-1, 8.6), ylim=(-0.4, N_LAYERS + 0.6), title="Each sample exits where a head is sure"
    )
    ax.axis("off")


def draw_tradeoff(ax: Axes, cell: dict[str, Any]) -> None:
    """Draw the test accuracy of policies, against networks cut to their first layers."""
    front = cell["fronts"]["epee"]
    ax.plot(front["ratio"], front["score"], color=BLUE, lw=2.5, label="one network, every policy")
    cut = sorted(
        (point["layers"], point["scores"]["accuracy"])
        for point in cell["points"]
        if point["kind"].startswith("cut")
    )
    ax.plot(
        [1 - layers / N_LAYERS for layers, _ in cut], [score for _, score in cut], "s",
        color=ORANGE, label="first layers alone, one network each",
    )  # fmt: skip
    ax.axhline(cell["accuracy"][-1], color=GREY, ls=":", label="full depth")
    ax.set(
        xlabel="share of layers saved",
        ylabel="test accuracy",
        title=f"PHEE, {BACKBONE}, {cell['n_test']} test sentences",
    )
    ax.grid(alpha=0.25)
    ax.legend(loc="lower left", fontsize=9)


def main() -> None:
    """Draw and save the picture."""
    study = json.loads((ROOT / "studies/results/study.json").read_text(encoding="utf-8"))
    (cell,) = (
        cell
        for cell in study["cells"]
        if (cell["data"], cell["backbone"], cell["options"]) == (DATA, BACKBONE, {})
    )
    plt.rcParams |= {"axes.titlesize": 10, "axes.labelsize": 10}
    figure, axes = plt.subplots(
        1, 2, figsize=(9.5, 3.6), width_ratios=(1.25, 1), layout="constrained"
    )
    draw_layers(axes[0])
    draw_tradeoff(axes[1], cell)
    figure.savefig(ROOT / "docs/exits.png", dpi=150)


if __name__ == "__main__":
    main()
