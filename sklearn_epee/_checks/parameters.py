"""Check parameters and arguments that scikit-learn's constraints cannot express."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from .messages import shown

PRECISIONS = ("auto", "float32", "bfloat16", "int8")


def check_layer(layer: int, n_layers: int) -> int:
    """Return a layer counted from 1, given one counted from the start or from the end (-1)."""
    if isinstance(layer, bool) or not isinstance(layer, Integral):
        raise TypeError(f"layer must be an integer; got {layer!r} of type {type(layer).__name__}.")
    resolved = int(layer) + n_layers + 1 if layer < 0 else int(layer)
    if not 1 <= resolved <= n_layers:
        raise ValueError(
            f"layer={layer} does not exist; this network has layers 1 to {n_layers} "
            f"(or -{n_layers} to -1, counted from the end)."
        )
    return resolved


def check_prediction_batch(size: Any) -> int | str:
    """Check and return `predict_batch_size`.

    Raises
    ------
    ValueError
    """
    if isinstance(size, str) and size == "auto":
        return size
    if isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1:
        return int(size)
    raise ValueError(
        f"predict_batch_size={shown(size)} is not valid; expected 'auto' or an integer >= 1."
    )


def check_precision(precision: Any) -> str:
    """Check and return `precision`.

    Raises
    ------
    ValueError
    """
    if isinstance(precision, str) and precision in PRECISIONS:
        return precision
    names = ", ".join(map(repr, PRECISIONS))
    raise ValueError(f"precision={shown(precision)} is unknown; expected one of {names}.")
