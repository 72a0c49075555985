"""Read the heads of a checkpoint of the paper's code: shared pooler, one classifier per layer."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_epee._nn.backbones._folder import read_weights

__all__ = ["PAPER_HEADS", "PaperHeads", "read_paper_heads"]

# First part of the keys of the classifiers after the layers.
PAPER_HEADS = "classifiers"
_CLASSIFIER = re.compile(rf"^{PAPER_HEADS}\.(\d+)\.(weight|bias)$")
# Prefix of the model, and for BERT-like models the name of the linear layer in the pooler.
_POOLER = re.compile(r"^(?:\w+\.)?pooler\.(?:dense\.)?(weight|bias)$")
_NAMES = ("model.safetensors", "pytorch_model.bin")


class PaperHeads(NamedTuple):
    """Heads of all layers."""

    weights: list[Tensor]
    """One (K, d) per layer."""
    biases: list[Tensor]
    """One (K,) per layer."""
    pooler: tuple[Tensor, Tensor] | None
    """Weight (d, d) and bias (d,) of the dense layer that all heads share, or None."""


def read_paper_heads(folder: str | os.PathLike[str], n_layers: int) -> PaperHeads:
    """Return the heads of a folder that the paper's code wrote.

    Parameters
    ----------
    folder : str or path-like
    n_layers : int
        Number of layers of its backbone.

    Returns
    -------
    PaperHeads

    Raises
    ------
    ValueError
        If the folder has no weights, or not one classifier a layer, all of one shape.

    References
    ----------
    The paper's code follows that of Zhou et al., "BERT Loses Patience", arXiv:2006.04152.
    """
    classifiers: dict[str, dict[int, Tensor]] = {"weight": {}, "bias": {}}
    pooler: dict[str, Tensor] = {}
    for key, weight in read_weights(folder, _NAMES, _is_wanted):
        if found := _CLASSIFIER.match(key):
            classifiers[found[2]][int(found[1])] = weight.float()
        elif found := _POOLER.match(key):
            pooler[found[1]] = weight.float()
    weights = _one_a_layer(classifiers["weight"], n_layers, folder)
    biases = classifiers["bias"] or {
        i: torch.zeros(len(weight)) for i, weight in enumerate(weights)
    }
    shared = (pooler["weight"], pooler["bias"]) if len(pooler) == 2 else None
    heads = PaperHeads(weights, _one_a_layer(biases, n_layers, folder), shared)
    _check_shapes(heads, folder)
    return heads


def _one_a_layer(
    found: dict[int, Tensor], n_layers: int, folder: str | os.PathLike[str]
) -> list[Tensor]:
    if sorted(found) != list(range(n_layers)):
        numbers = f"numbers {sorted(found)}" if found else "none"
        raise ValueError(
            f"folder={os.fspath(folder)!r}: expected one classifier after each of the {n_layers} "
            f"layers, {PAPER_HEADS}.0 to {PAPER_HEADS}.{n_layers - 1} as the paper's code writes "
            f"them, found {numbers}. To start from the backbone alone, pass it as backbone=."
        )
    return [found[number] for number in range(n_layers)]


def _check_shapes(heads: PaperHeads, folder: str | os.PathLike[str]) -> None:
    shapes = {tuple(weight.shape) for weight in heads.weights}
    sizes = {len(bias) for bias in heads.biases}
    if len(shapes) > 1 or sizes != {len(heads.weights[0])}:
        raise ValueError(
            f"folder={os.fspath(folder)!r}: expected classifiers of one shape, got weights of "
            f"{sorted(shapes)} and biases of {sorted(sizes)}."
        )
    everything = [*heads.weights, *heads.biases, *(heads.pooler or ())]
    if not all(torch.isfinite(part).all() for part in everything):
        raise ValueError(f"folder={os.fspath(folder)!r}: its heads hold NaN or infinity.")


def _is_wanted(key: str) -> bool:
    return bool(_CLASSIFIER.match(key) or _POOLER.match(key))
