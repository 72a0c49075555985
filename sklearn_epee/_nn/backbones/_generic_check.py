"""Check that running a model layer by layer gives the same result as the model itself."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sklearn_epee._nn.backbones._adapter import BackboneAdapter
from sklearn_epee._nn.backbones._generic import GenericAdapter

__all__ = ["TOLERANCE", "check_first_layers", "differences", "with_noise"]

# Largest difference of values up to 1; larger values have larger rounding errors.
TOLERANCE = 1e-4
_LENGTHS = (9, 24)
# Largest change due to rounding; the influence of a token that is attended to is much larger.
_ROUNDING = 1e-6


@torch.no_grad()
def differences(adapter: GenericAdapter) -> tuple[float, float]:
    """Return the differences between running the layers one by one and running the model.

    Two random samples of different lengths are run through the layers in one padded batch; from the
    middle layer on, the shorter one is also run alone, as if the other one had exited. Then each is
    run alone. All results are compared with the model's last hidden state of each single sample.

    Parameters
    ----------
    adapter : GenericAdapter
        In evaluation mode.

    Returns
    -------
    together, alone : float
        The largest differences, relative to the largest value if that is above 1.

    Raises
    ------
    ValueError
        If the model returns another number of positions, or does not attend in the direction
        (causal or bidirectional) of its family.
    """
    samples = _random_samples(adapter)
    expected = [adapter.model(**sample)[0][0] for sample in samples]
    together, alone = _layer_by_layer(adapter, _joined(samples))
    pairs = [*zip(together, expected, strict=True), (alone, expected[0])]
    if any(len(found) < len(own) for found, own in pairs):
        raise ValueError("its layers read another number of positions than it returns")
    if adapter.kind == "text":
        _check_direction(adapter, samples[0])
    lonely = [_layer_by_layer(adapter, sample)[0][0] for sample in samples]
    return (
        max(_difference(found[: len(own)], own) for found, own in pairs),
        max(_difference(found, own) for found, own in zip(lonely, expected, strict=True)),
    )


@torch.no_grad()
def check_first_layers(whole: BackboneAdapter, part: BackboneAdapter) -> None:
    """Check that the layers of a model are the first ones of another.

    Only models without an adapter of their own are checked: of others it is known.

    Parameters
    ----------
    whole, part : BackboneAdapter
        Of the same family and with the same weights; `part` has fewer layers.

    Raises
    ------
    ValueError
        If their outputs differ.
    """
    if not isinstance(whole, GenericAdapter):
        return
    sample = _random_samples(whole)[1]
    (expected, mask), (hidden, _) = whole.embed(sample), part.embed(sample)
    for layer in range(1, part.n_layers + 1):
        expected, hidden = (
            adapter.layer(layer, states, mask.clone())
            for adapter, states in ((whole, expected), (part, hidden))
        )
    if not _difference(part.pool(hidden), whole.pool(expected)) <= TOLERANCE:
        raise ValueError(
            f"The layers of a {whole.family} model with {part.n_layers} layers are not the first "
            f"layers of one with {whole.n_layers}."
        )


def with_noise(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a fresh model with larger weights.

    With fresh weights, which are small or zero, the output of a layer hardly depends on the
    positions it attends to.
    """
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in twin.parameters():
            spread = 0.2 if weight.ndim < 2 else weight.shape[-1] ** -0.5
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=spread)
    return twin


def _random_samples(adapter: Any) -> list[dict[str, Tensor]]:
    """Return two samples, the shorter first."""
    generator = torch.Generator().manual_seed(0)
    if adapter.kind == "image":
        shape = adapter.pixel_shape
        return [{"pixel_values": torch.randn(1, *shape, generator=generator)} for _ in range(2)]
    config, most = adapter.model.config, adapter.max_length or _LENGTHS[-1]
    pad = getattr(config, "pad_token_id", None)
    usable = torch.tensor([token for token in range(config.vocab_size) if token != pad])
    samples = []
    for length in (min(most, length) for length in _LENGTHS):
        drawn = torch.randint(len(usable), (1, length), generator=generator)
        mask = torch.ones(1, length, dtype=torch.long)
        samples.append({"input_ids": usable[drawn], "attention_mask": mask})
    return samples


def _joined(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if "pixel_values" in samples[0]:
        return {"pixel_values": torch.cat([sample["pixel_values"] for sample in samples])}
    short, long = samples
    missing = long["input_ids"].shape[1] - short["input_ids"].shape[1]
    filled = {name: torch.nn.functional.pad(part, (0, missing)) for name, part in short.items()}
    return {name: torch.cat([filled[name], long[name]]) for name in long}


def _layer_by_layer(adapter: GenericAdapter, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the pooled output of both samples together, and of the shorter one alone.

    The shorter one is run alone from the middle layer on. Every layer gets a new mask object, so
    that recorded calls are not reused.
    """
    hidden, mask = adapter.embed(batch)
    length, middle = int(mask[0].sum()), (adapter.n_layers + 1) // 2
    for layer in range(1, middle + 1):
        hidden = adapter.layer(layer, hidden, mask.clone())
    alone = hidden[:1, :length]
    for layer in range(middle + 1, adapter.n_layers + 1):
        hidden = adapter.layer(layer, hidden, mask.clone())
        alone = adapter.layer(layer, alone, mask[:1, :length])
    return adapter.pool(hidden), adapter.pool(alone)[0]


def _difference(found: Tensor, own: Tensor) -> float:
    """Return the largest difference, relative to the largest value if that is above 1."""
    return float((found - own).abs().max() / own.abs().max().clamp(min=1))


def _check_direction(adapter: GenericAdapter, sample: dict[str, Tensor]) -> None:
    ids = sample["input_ids"].clone()
    ids[0, -1] = ids[0, 0] if ids[0, 0] != ids[0, -1] else ids[0, 1]
    first = _first_position(adapter, sample)
    difference = _difference(first, _first_position(adapter, {**sample, "input_ids": ids}))
    if (difference < _ROUNDING) != adapter.causal:
        known = "from left to right" if adapter.causal else "in both directions"
        raise ValueError(f"it does not read texts {known}, as its family is known to")


def _first_position(adapter: Any, batch: dict[str, Tensor]) -> Tensor:
    hidden, mask = adapter.embed(batch)
    for layer in range(1, adapter.n_layers + 1):
        hidden = adapter.layer(layer, hidden, mask)
    first: Tensor = hidden[0, 0]
    return first
