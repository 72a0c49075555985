"""Estimate the time that 8-bit products save, from their sizes and not from a clock.

A product takes a time that grows with its work, and one for the call; rows that are rounded first
take a time of their own. In small products of few rows the calls cost more than 8 bits save.
"""

from __future__ import annotations

from collections.abc import Sequence

from .backbones import LayerParts, LinearWeights

# Microseconds on two cores that multiply bytes and bfloat16 numbers by AVX-512, fitted to products
# of 4 to 2,048 rows with 384 to 3,072 columns. Only what they are to each other matters.
_PER_MFLOP = {"bfloat16": 2.6, "int8": 1.35}
_PER_PRODUCT = {"bfloat16": 16.0, "int8": 22.0}
_PER_ROUNDING, _PER_ROUNDED_NUMBER = 8.5, 0.0002
# Rows of a full batch.
_FULL = 2048


def layer_products(parts: LayerParts) -> dict[str, list[LinearWeights]]:
    """Return the products of a layer by what they read; names as in `LayerScales`."""
    ups = [parts.up] if parts.gate is None else [parts.gate, parts.up]
    return {
        "attention": [parts.query, parts.key, parts.value],
        "out": [parts.out],
        "up": ups,
        "down": [parts.down],
    }


def layer_gains(parts: LayerParts, n_positions: float, rounds_down: bool) -> dict[str, float]:
    """Return which share of the time of a layer's products 8 bits save, product by product.

    Parameters
    ----------
    parts : LayerParts
    n_positions : float
        Of a sample, on average.
    rounds_down : bool
        Whether what the last product reads is rounded by the product that makes it.

    Returns
    -------
    dict of str to float
        The mean of the shares for a sample by itself and for a full batch. Below 0 where rounding
        costs more than it saves.
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
