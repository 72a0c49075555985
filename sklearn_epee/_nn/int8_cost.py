"""Estimate the time that 8-bit products save, from their sizes instead of measurements.

The time of a product is modeled as a part proportional to its operations plus a constant; rounding
the input adds to it. In small products of few rows, the constants are larger than the savings.
"""

from __future__ import annotations

from collections.abc import Sequence

from .backbones import LayerParts, LinearWeights

# Microseconds on two cores with AVX-512 instructions for bytes and bfloat16, fitted to products of
# 4 to 2,048 rows with 384 to 3,072 columns. Only their ratios matter.
_PER_MFLOP = {"bfloat16": 2.6, "int8": 1.35}
_PER_PRODUCT = {"bfloat16": 16.0, "int8": 22.0}
_PER_ROUNDING, _PER_ROUNDED_NUMBER = 8.5, 0.0002
# Number of rows of a full batch.
_FULL = 2048


def layer_products(parts: LayerParts) -> dict[str, list[LinearWeights]]:
    """Return the products of a layer, grouped by their input; names as in `LayerScales`."""
    ups = [parts.up] if parts.gate is None else [parts.gate, parts.up]
    return {
        "attention": [parts.query, parts.key, parts.value],
        "out": [parts.out],
        "up": ups,
        "down": [parts.down],
    }


def layer_gains(parts: LayerParts, n_positions: float, rounds_down: bool) -> dict[str, float]:
    """Return the share of the time of a layer's products that 8 bits save, for each group.

    Parameters
    ----------
    parts : LayerParts
    n_positions : float
        Mean number of positions of a sample.
    rounds_down : bool
        Whether the input of the last product is rounded by the product before it.

    Returns
    -------
    dict of str to float
        The mean of the shares for a single sample and for a full batch. Below 0 if rounding takes
        more time than it saves.
    """
    groups = layer_products(parts)
    gains = dict.fromkeys(groups, 0.0)
    for n_rows in (n_positions, _FULL):
        plain = {name: _time(products, n_rows, "bfloat16") for name, products in groups.items()}
        for name, products in groups.items():
            after = _time(products, n_rows, "int8")
            if not (rounds_down and name == "down"):
                width = products[0].weight.shape[1]
                after += _PER_ROUNDING + n_rows * width * _PER_ROUNDED_NUMBER
            gains[name] += (plain[name] - after) / sum(plain.values()) / 2
    return gains


def _time(products: Sequence[LinearWeights], n_rows: float, kind: str) -> float:
    work = sum(2e-6 * n_rows * product.weight.numel() for product in products)
    return work * _PER_MFLOP[kind] + len(products) * _PER_PRODUCT[kind]
