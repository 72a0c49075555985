"""Axes, colors and ticks of the displays; imports matplotlib when drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which is safe for color-blind readers.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
OKABE_ITO = (BLUE, "#E69F00", GREEN, PURPLE, "#56B4E9", ORANGE, "#F0E442", "#000000")
COLORMAP = "cividis"

_MAX_LAYER_TICKS = 16
_FACTORS = (1, 1.1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 24, 48)
# Minimum distance of factor ticks, as a fraction of the axis, so that they do not overlap.
_LEAST_GAP = 0.07


def import_pyplot(display: object) -> Any:
    """Import matplotlib, or raise an error that says how to install it.

    Parameters
    ----------
    display : object
        The display that is drawn, for the message.

    Returns
    -------
    module
        ``matplotlib.pyplot``.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - only drawing needs it
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__}.plot needs matplotlib; install it with the extra 'plots': "
            "pip install 'sklearn_epee[plots]'"
        ) from error
    return plt


def own_or_new_axes(
    display: object, ax: Axes | None, figsize: tuple[float, float] = (6.4, 4.8)
) -> tuple[Any, Figure]:
    """Return the axes to draw in, and their figure."""
    plt = import_pyplot(display)
    if ax is None:
        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    if not hasattr(ax, "get_figure"):
        raise TypeError(f"ax must be a matplotlib Axes or None; got {type(ax).__name__}.")
    figure: Any = ax.get_figure()
    return ax, figure


def own_or_new_panels(
    display: object, ax: Any, n_panels: int, columns: int, panel: tuple[float, float]
) -> tuple[NDArray[Any], Figure]:
    """Return one axes per panel, in one or several rows, and their figure."""
    plt = import_pyplot(display)
    if ax is None:
        n_rows = -(-n_panels // columns)
        size = (panel[0] * columns, panel[1] * n_rows)
        figure, grid = plt.subplots(
            n_rows, columns, figsize=size, layout="constrained", squeeze=False
        )
        for unused in grid.flat[n_panels:]:
            unused.remove()
        return grid.ravel()[:n_panels], figure
    panels = np.asarray(ax, dtype=object).ravel()
    if len(panels) != n_panels or not all(hasattr(one, "get_figure") for one in panels):
        raise ValueError(
            f"ax must be None or hold {n_panels} matplotlib Axes, one per panel; got "
            f"{len(panels)} of the types {sorted({type(one).__name__ for one in panels})}."
        )
    return panels, panels[0].get_figure()


def number_layers(ax: Axes, n_layers: int, label: str = "layer") -> None:
    """Mark the layers 1 to M on the x axis."""
    step = 1 + (n_layers - 1) // _MAX_LAYER_TICKS
    ax.set_xticks(range(1, n_layers + 1, step))
    ax.set_xlim(0.5, n_layers + 0.5)
    ax.set_xlabel(label)


def factor_of(ratio: ArrayLike) -> NDArray[np.float64]:
    """Convert a speed-up ratio to a factor, 1 / (1 - ratio)."""
    # Matplotlib also converts values beyond the data, such as 1, where the factor is infinite.
    return 1 / np.maximum(1 - np.asarray(ratio, dtype=np.float64), 1e-6)


def ratio_of(factor: ArrayLike) -> NDArray[np.float64]:
    """Convert a factor to a speed-up ratio, 1 - 1 / factor."""
    return 1 - 1 / np.maximum(np.asarray(factor, dtype=np.float64), 1e-6)


def factor_ticks(lowest: float, highest: float) -> list[float]:
    """Return factors for ticks between two ratios, without overlap."""
    chosen: list[float] = []
    gap = _LEAST_GAP * (highest - lowest)
    for factor in _FACTORS:
        ratio = float(ratio_of(factor))
        is_inside = lowest - 1e-9 <= ratio <= highest + 1e-9
        if is_inside and (not chosen or ratio - float(ratio_of(chosen[-1])) >= gap):
            chosen.append(factor)
    return chosen


def add_factor_axis(ax: Axes, *, along: str = "x", place: str = "top") -> Any:
    """Add an axis with the factor, opposite to the axis with the speed-up ratio.

    Parameters
    ----------
    ax : Axes
        Its limits must be set already.
    along : {"x", "y"}
    place : {"top", "right", "left"}

    Returns
    -------
    SecondaryAxis
    """
    make: Any = ax.secondary_xaxis if along == "x" else ax.secondary_yaxis
    secondary: Any = make(place, functions=(factor_of, ratio_of))
    limits = ax.get_xlim() if along == "x" else ax.get_ylim()
    ticks = factor_ticks(*limits)
    secondary.minorticks_off()
    (secondary.set_xticks if along == "x" else secondary.set_yticks)(
        ticks, labels=[f"{tick:g}x" for tick in ticks]
    )
    set_label = secondary.set_xlabel if along == "x" else secondary.set_ylabel
    set_label("speed-up factor 1 / (1 - ratio)")
    return secondary
