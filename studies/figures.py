"""Draw the figures of the paper from the results of `collect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_epee.plotting import ExitPolicyHeatmapDisplay, LayerwiseDisplay
from studies import comparisons
from studies.drawing import (
    BLACK,
    BLUE,
    COLUMNS,
    RED,
    Picture,
    draw_fronts,
    file_name,
    finish_ratios,
    first_words,
    having,
    panels,
    score_label,
    title_of,
)

OF_THE_PAPER = ("epee", "entropy", "patience")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pictures(study: dict[str, Any]) -> list[Picture]:
    """Return all pictures of the study for which there are data.

    Parameters
    ----------
    study : dict
        Result of `collect`.
    """
    makers = (
        comparisons.changes,
        comparisons.rivals,
        _tradeoffs,
        _layers,
        _grids,
        _degenerate,
        comparisons.areas,
        comparisons.fronts,
    )
    return [picture for make in makers for picture in make(study["cells"])]


def _tradeoffs(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw figures 1 and 4 of the paper."""
    shown = having(cells, "fronts")
    if not shown:
        return []

    def draw(ax: Axes, cell: dict[str, Any]) -> None:
        draw_fronts(ax, cell, OF_THE_PAPER)
        for policy in cell["policies"]:
            if policy["family"] == "epee" and policy["goal"] == "saving":
                ax.plot(
                    policy["ratio"], policy["score"], "*", color=BLACK, markersize=12,
                    markeredgecolor="white", zorder=5, label="chosen policy, ratio 0.52 and more",
                )  # fmt: skip

    alt = "Test score against speed-up ratio. " + first_words(
        [_tradeoff_words(cell) for cell in shown]
    )
    return [
        Picture(
            "tradeoff",
            "Test score against speed-up (the paper's figures 1 and 4): entropy only, patience "
            "only, and both. Of each, the policies that no other one beats on the validation part "
            "in both, read on the test part; between two of them scores are interpolated, as a mix "
            "of both would reach them. Means over seeds.",
            alt,
            lambda: panels(shown, draw),
        )
    ]


def _tradeoff_words(cell: dict[str, Any]) -> str:
    full = cell["layers"]["main"][-1]
    found = []
    for name in OF_THE_PAPER:
        front = cell["fronts"].get(name)
        if front is None:
            continue
        kept = [r for r, s in zip(front["ratio"], front["score"], strict=True) if s >= full - 0.01]
        words = {"epee": "both", "entropy": "entropy only", "patience": "patience only"}[name]
        found.append(f"{words} {max(kept):.2f}" if kept else f"{words} nowhere")
    return (
        f"{title_of(cell)}: full depth {full:.3f}; within one point of it up to a ratio of "
        f"{', '.join(found)}."
    )


def _layers(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw figure 3 of the paper."""
    if not cells:
        return []
    return [
        Picture(
            "layers",
            "Accuracy (left) and mean normalized entropy (right) of the exit after every layer, on "
            "the test part (the paper's figure 3); of spans, their F1. Means over seeds; "
            "the band is their range.",
            first_words([_layer_words(cell) for cell in cells]),
            lambda: panels(cells, _draw_layers, legend=False),
        )
    ]


def _draw_layers(ax: Axes, cell: dict[str, Any]) -> None:
    numbers = np.arange(1, cell["n_layers"] + 1)
    if cell.get("entropy"):
        display = LayerwiseDisplay(cell["accuracy"], cell["entropy"]).plot(ax)
        display.ax_.set_ylabel("accuracy (circles)", color=BLUE)
        display.entropy_ax_.set_ylabel("entropy (squares)", color=RED)
        low, high = cell["accuracy_low"], cell["accuracy_high"]
    else:
        ax.plot(numbers, cell["layers"]["main"], color=BLUE, marker="o")
        ax.set(xlabel="layer", ylabel=score_label(cell), xticks=numbers)
        ax.grid(alpha=0.3)
        low, high = cell["layers"]["low"], cell["layers"]["high"]
    if len(cell["seeds"]) > 1:
        ax.fill_between(numbers, low, high, color=BLUE, alpha=0.15, lw=0)


def _layer_words(cell: dict[str, Any]) -> str:
    scores = cell.get("accuracy") or cell["layers"]["main"]
    name = "accuracy" if cell.get("accuracy") else score_label(cell)
    words = (
        f"{title_of(cell)}: {name} {scores[0]:.3f} after the first layer, {max(scores):.3f} at "
        f"best after layer {int(np.argmax(scores)) + 1}, {scores[-1]:.3f} after the last"
    )
    if cell.get("entropy"):
        words += f"; entropy from {cell['entropy'][0]:.2f} to {cell['entropy'][-1]:.2f}"
    return words + "."


def _grids(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw figures 5 to 7 of the paper, one picture per cell."""
    return [_grid(cell) for cell in having(cells, "grid")]


def _grid(cell: dict[str, Any]) -> Picture:
    grid = cell["grid"]
    score = np.array(grid["score"])

    def draw() -> Figure:
        display = ExitPolicyHeatmapDisplay(
            grid["taus"], grid["patiences"], score, grid["ratio"], score_name=score_label(cell),
            name=title_of(cell),
        ).plot()  # fmt: skip
        return display.figure_

    best = np.unravel_index(score.argmax(), score.shape)
    ratio = grid["ratio"][best[0]][best[1]]
    return Picture(
        f"grid-{file_name(cell)}",
        f"{title_of(cell)}: {score_label(cell)} and speed-up of every tau with every patience on "
        "the test part (the paper's figures 5 to 7). Means over seeds.",
        f"Two maps over tau and patience. The best {score_label(cell)} on the test part, "
        f"{score.max():.3f}, is at tau {grid['taus'][best[1]]:g} and patience "
        f"{grid['patiences'][best[0]]}, with a speed-up ratio of {ratio:.2f}; the fastest policies "
        f"have {score[0].mean():.3f}.",
        draw,
    )


def _degenerate(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw figure 8 of the paper."""
    shown = having(cells, "degenerate")[:COLUMNS]
    if not shown:
        return []

    def draw(ax: Axes, cell: dict[str, Any]) -> None:
        for name, color in (("entropy", BLUE), ("patience", RED)):
            found = cell["degenerate"][name]
            words = f"{name} only"
            setting = "EPEE, patience M" if name == "entropy" else "EPEE, tau 0"
            ax.plot(found["ratio"], found["alone"], color=color, lw=5, alpha=0.3, label=words)
            ax.plot(
                found["ratio"], found["epee"], color=color, lw=1, marker="o", markersize=3,
                label=setting,
            )  # fmt: skip
        finish_ratios(ax, cell)

    n_decisions = sum(cell["degenerate"]["n_decisions"] for cell in shown)
    n_different = sum(cell["degenerate"]["n_different"] for cell in shown)
    return [
        Picture(
            "degenerate",
            "The two degenerate cases (the paper's figure 8): EPEE with patience M is the "
            "entropy rule (wide blue line under the thin one), EPEE with tau 0 is the patience "
            f"rule. {n_different} of {n_decisions:,} exits differ.",
            f"Thin lines of EPEE's two degenerate cases lie on the wide lines of the entropy rule "
            f"and the patience rule; {n_different} of {n_decisions:,} exits differ.",
            lambda: panels(shown, draw),
        )
    ]
