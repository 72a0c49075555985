"""Common parts of the pictures of the study: titles, colors, panels, axes and files.

Every picture has a caption and an alternative text. Colors are those of Okabe and Ito, and every
line has its own marker, so that no picture depends on color alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from studies.exit_rules import RULES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, YELLOW, GREEN, PINK, SKY, RED, GRAY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777", "#000000",
)  # fmt: skip
DPI = 110
COLUMNS = 3
FACTORS = (1, 1.2, 1.5, 2, 3, 4, 6, 12)
PAPER_GAIN = (0.3, 1.7)
PAPER_FACTOR = 2.1

# Color and marker of each exit rule; they differ between the rules of a picture.
STYLES = {
    "epee": (GREEN, "^"),
    "epee_calibrated": (PINK, "D"),
    "epee_mean": (BLACK, "d"),
    "entropy": (BLUE, "o"),
    "max_probability": (YELLOW, "v"),
    "margin": (SKY, "P"),
    "patience": (RED, "s"),
    "pcee": (SKY, "P"),
    "beem": (YELLOW, "v"),
    "voting": (BLUE, "X"),
    "gate": (PINK, "D"),
    "gate_no_loss": (YELLOW, "v"),
    "gate_same": (BLUE, "o"),
    "oracle": (GRAY, "."),
}
SCORE_NAMES = {
    "accuracy": "accuracy",
    "micro_f1": "micro-F1 without “false”",
    "macro_f1": "macro-F1",
    "span_f1": "F1 of spans",
}


@dataclass(frozen=True)
class Picture:
    """A picture with its caption and alternative text.

    Attributes
    ----------
    name : str
        Name of its file, without suffix.
    caption : str
    alt : str
        Alternative text.
    draw : callable
        Returns the matplotlib figure.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[], Figure]

    @cached_property
    def png(self) -> bytes:
        """Return the picture in at most 256 colors, on white."""
        from matplotlib import pyplot as plt  # noqa: PLC0415 - only drawing needs it

        figure = self.draw()
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=DPI, facecolor="white")
        plt.close(figure)
        small = Image.open(raw).convert("RGB").quantize(255, dither=Image.Dither.NONE)
        packed = io.BytesIO()
        small.save(packed, format="png", optimize=True)
        return packed.getvalue()


def rule_name(rule: str) -> str:
    """Return the title of a rule."""
    return RULES[rule].title if rule in RULES else rule.replace("_", " ")


def counted(number: int, word: str) -> str:
    """Return a number with a noun, in the plural if necessary."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def title_of(cell: dict[str, Any]) -> str:
    """Return the title of a cell: data set, backbone, and options that are not the default."""
    return ", ".join([cell["data"], cell["backbone"], *cell["notes"]])


# ------------------------------------------------------------------------------ parts of pictures


def panels(
    cells: Sequence[dict[str, Any]],
    draw: Callable[[Axes, dict[str, Any]], None],
    *,
    columns: int = COLUMNS,
    legend: bool = True,
) -> Figure:
    """Draw one panel per cell, with a common legend."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    size = (4.1 * columns + 0.4, 3.4 * rows + 0.6)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax, cell in zip(grid.flat, cells, strict=False):
        draw(ax, cell)
        ax.set_title("\n".join([", ".join([cell["data"], cell["backbone"]]), *cell["notes"]]))
        ax.title.set_fontsize(10)
    for unused in grid.flat[len(cells) :]:
        unused.remove()
    if legend:
        _legend_below(figure, grid.flat[: len(cells)])
    return figure


def _legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = max(1, min(4, int(figure.get_figwidth() / 2.9)))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns,
        fontsize=9, frameon=False,
    )  # fmt: skip


def _factor_axis(ax: Axes) -> None:
    """Add an axis with the factor above an axis of ratios, whose limits are set."""
    low, high = ax.get_xlim()
    above = ax.secondary_xaxis("top", functions=(_factor, _ratio))
    shown: list[float] = []
    for factor in FACTORS:
        ratio = 1 - 1 / factor
        far = not shown or ratio - (1 - 1 / shown[-1]) > 0.09 * (high - low)
        if low <= ratio <= high and far:
            shown.append(factor)
    above.minorticks_off()
    above.set_xticks(shown, labels=[f"{factor:g}x" for factor in shown])
    above.tick_params(labelsize=8)


def _factor(ratio: Any) -> Any:
    return 1 / np.maximum(1 - np.asarray(ratio, dtype=float), 1e-6)


def _ratio(factor: Any) -> Any:
    return 1 - 1 / np.maximum(np.asarray(factor, dtype=float), 1e-6)


def score_label(cell: dict[str, Any]) -> str:
    """Return the label of the main score of a cell."""
    return SCORE_NAMES.get(cell["main_score"], cell["main_score"].replace("_", " "))


def finish_ratios(ax: Axes, cell: dict[str, Any]) -> None:
    """Label an axis of ratios and draw the score at full depth."""
    ax.axhline(cell["layers"]["main"][-1], color="0.4", lw=1, ls=":", label="full depth")
    ax.set(xlabel="speed-up ratio (layers saved)", ylabel=score_label(cell))
    ax.set_xlim(-0.02, 1 - 1 / cell["n_layers"] + 0.02)
    ax.grid(alpha=0.3)
    _factor_axis(ax)


def draw_fronts(ax: Axes, cell: dict[str, Any], rules: Sequence[str]) -> None:
    """Draw the fronts of rules: settings chosen on dev, scores on test."""
    for place, name in enumerate(rules):
        front = cell["fronts"].get(name)
        if front is None:
            continue
        color, marker = STYLES[name]
        ax.plot(
            front["ratio"], front["score"], color=color, marker=marker, markersize=5,
            markevery=(place, max(5, len(rules))), label=rule_name(name),
            lw=1.6 if name == "epee" else 1.1, ls=":" if name == "oracle" else "-",
            zorder=3 if name == "epee" else 2,
        )  # fmt: skip
    finish_ratios(ax, cell)


def near_full(ax: Axes, values: Iterable[float], full: float) -> None:
    """Limit an axis to scores near that of the full depth, where rules differ."""
    values = [value for value in values if value > full - 0.15]
    if values:
        ax.set_ylim(min(values) - 0.01, max(values) + 0.012)


def first_words(words: Sequence[str], most: int = 4) -> str:
    """Return the first sentences, and the number of others, which are in the tables."""
    left = len(words) - most
    more = [f"{left} more are in the tables."] if left > 0 else []
    return " ".join([*words[:most], *more])


def having(cells: Iterable[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Return the cells that have a value for every key."""
    return [cell for cell in cells if all(cell.get(key) for key in keys)]


def file_name(cell: dict[str, Any]) -> str:
    """Return a file name for a cell."""
    words = [cell["data"], cell["backbone"], *cell["notes"]]
    return "-".join(re.sub(r"\W+", "_", word) for word in words)
