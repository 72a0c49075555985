"""Check a configuration, and the network made from it, before training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from numbers import Integral, Real
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from sklearn_epee._nn.backbones._adapter import BackboneAdapter

__all__ = ["MAX_LAYERS", "check_forward", "check_values"]

_NEEDED = {
    "text": ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
             "max_position_embeddings"),
    "image": ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels"),
}  # fmt: skip
# Sizes that not every family has.
_OPTIONAL = ("intermediate_size", "embedding_size", "num_hidden_groups", "inner_group_num",
             "num_key_value_heads", "head_dim")  # fmt: skip
# One number, or height and width.
_SIDES = ("image_size", "patch_size")
_DEPTHS = ("num_hidden_layers", "num_hidden_groups", "inner_group_num")
# Larger numbers would take too long to create the modules.
MAX_LAYERS = 10_000
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation", "activation_function")


def check_values(config: PretrainedConfig, adapter: type[BackboneAdapter], where: str) -> None:
    """Raise if a configuration has a size below 1, or another value that cannot work.

    Parameters
    ----------
    config : transformers.PretrainedConfig
    adapter : type
        The adapter class of the family.
    where : str
        Where the configuration is from, for the message.

    Raises
    ------
    ValueError
        It names the option.
    """
    for name, expected in chain(_unusable_sizes(config, adapter), _unusable_options(config)):
        raise ValueError(
            f"backbone: {name}={getattr(config, name, None)!r} in {where}; expected {expected}."
        )


def _unusable_sizes(
    config: PretrainedConfig, adapter: type[BackboneAdapter]
) -> Iterator[tuple[str, str]]:
    """Yield the names of invalid sizes, and the expected values."""
    needed = adapter.needed_sizes or _NEEDED[adapter.kind]
    for name in (*needed, *_OPTIONAL):
        value = getattr(config, name, None)
        if not _is_size(value) and (value is not None or name in needed):
            yield name, "an integer of at least 1"
    for name in _SIDES if adapter.kind == "image" else ():
        value = getattr(config, name, None)
        if not (_is_size(value) or _is_pair(value)):
            yield name, "an integer of at least 1, or a height and a width"
    for name in _DEPTHS:
        value = getattr(config, name, None)
        if isinstance(value, (int, float)) and value > MAX_LAYERS:
            yield name, f"at most {MAX_LAYERS}"
    ratio = getattr(config, "mlp_ratio", 1)
    if not (isinstance(ratio, (int, float)) and config.hidden_size * ratio >= 1):
        yield "mlp_ratio", "a number above 0 that gives the feed-forward a width"
    if "num_attention_heads" in needed:
        yield from _unusable_heads(config)


def _unusable_heads(config: PretrainedConfig) -> Iterator[tuple[str, str]]:
    """Yield the names of sizes that do not match the number of attention heads."""
    heads = config.num_attention_heads
    if config.hidden_size % heads and not getattr(config, "head_dim", None):
        yield "hidden_size", f"a multiple of num_attention_heads={heads}"
    if heads % (getattr(config, "num_key_value_heads", None) or 1):
        yield "num_key_value_heads", f"a divisor of num_attention_heads={heads}"


def _unusable_options(config: PretrainedConfig) -> Iterator[tuple[str, str]]:
    """Yield the names of other invalid options, and the expected values."""
    for name, value in vars(config).items():
        if name in _ACTIVATIONS and isinstance(value, str) and value not in ACT2FN:
            yield name, f"one of {', '.join(sorted(ACT2FN))}"
        if "drop" in name and not _is_probability(value):
            yield name, "a probability from 0 to 1"
        if name == "pad_token_id" and not (value is None or isinstance(value, int)):
            yield name, "the number of a token or None"
        if name == "initializer_range" and not (isinstance(value, Real) and _is_spread(value)):
            yield name, "a finite number of at least 0"


def _is_size(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_size, value))


def _is_spread(value: Real) -> bool:
    return math.isfinite(value) and float(value) >= 0


def _is_probability(value: Any) -> bool:
    # Strings and flags may have "dropout" in their names, too; None means another option's value.
    return not isinstance(value, Real) or isinstance(value, bool) or 0 <= float(value) <= 1


@torch.no_grad()
def check_forward(adapter: BackboneAdapter) -> None:
    """Run the first and the last layer on one short sample, and raise if this fails.

    A configuration can hold values with which a network can be made but not run, or run in
    prediction but not in training.

    Raises
    ------
    ValueError
        If the output is not finite. Whatever the network raises gets through.
    """
    batch = _one_sample(adapter)
    with torch.random.fork_rng([]):
        for training in (True, False):
            adapter.model.train(training)
            hidden, mask = adapter.embed(batch)
            for layer in sorted({1, adapter.n_layers}):
                hidden = adapter.layer(layer, hidden, mask)
            if not torch.isfinite(adapter.pool(hidden)).all():
                raise ValueError("its output is NaN or infinite")


def _one_sample(adapter: BackboneAdapter) -> dict[str, torch.Tensor]:
    config = adapter.model.config
    if adapter.kind == "text":
        return {"input_ids": torch.zeros(1, min(2, adapter.max_length or 2), dtype=torch.long)}
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.zeros(1, config.num_channels, height, width)}
