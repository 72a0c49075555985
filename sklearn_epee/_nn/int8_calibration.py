"""Calibrate 8-bit rounding: find scales for the inputs of a backbone's products on samples.

One pass over some training samples records the range of every input column. For every product,
several ways to distribute the range between inputs and weights (as in SmoothQuant) are tried on
recorded rows, and the one with the smallest error is kept. A product is not rounded if its error is
still too large, or if 8 bits do not make it faster.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .backbones import BackboneAdapter, LayerParts, LinearWeights
from .batch_layout import backbone_inputs
from .batching import EncodedSamples, positions_of
from .fast_backbone import FastLayer, LayerReaders, LayerScales, fast_backbone, usual_layers
from .int8_cost import layer_gains, layer_products
from .int8_linear import MOST, InputScale, RoundedWeight, RowRounder
from .packed_linear import PlainProduct, Product, fused_activation
from .prediction_batches import batch_limit, batches_by_length

# Largest error of a rounded product: the change of an output row, relative to the distance of the
# row from the mean row. For products that are added to the residual stream, the row is that sum.
MAX_ERROR = 0.025
# Number of rows on which each product is tried.
_ROWS = 256
# How much of a column's range is moved to its weights: s = range ** share / weight ** (1 - share).
# None: all columns have the same scale.
_SHARES = (0.5, 0.75, 0.9, 1.0, None)
# A product is only rounded if it saves more than this share of its layer's time.
LEAST_GAIN = 0.0
# Lower bound of a row's distance from the mean row, relative to the root mean square of all rows.
_LEAST_DISTANCE = 0.01
# Recorded values are mapped to this middle plus or minus this reach, which leaves some room for
# larger values in other rows.
_MIDDLE, _REACH = 127.5, 122.0


@dataclass(frozen=True)
class Int8Scales:
    """8-bit scales of the products of a backbone.

    Attributes
    ----------
    layers : tuple of LayerScales
        One per layer.
    errors : tuple of dict of str to float
        For each layer, the error of each product on the samples, see `MAX_ERROR`; names as in
        `LayerScales`. Layers that share their weights have the same dict object.
    gains : tuple of dict of str to float
        For each layer, the share of its products' time that each product saves (`int8_cost`).
        Empty after the products to round have been chosen.
    """

    layers: tuple[LayerScales, ...]
    errors: tuple[dict[str, float], ...]
    gains: tuple[dict[str, float], ...] = ()

    @property
    def n_rounded(self) -> int:
        """Number of groups of products that are rounded."""
        return sum(scale is not None for layer in self.layers for scale in layer)

    def rounded(self) -> list[tuple[int, str]]:
        """Return the groups that are rounded, as pairs of a layer (from 0) and a name.

        Of layers that share their weights, only the first is listed.
        """
        return [
            (number, name)
            for number, layer in enumerate(self.layers)
            if self._first(number) == number
            for name in layer._fields
            if getattr(layer, name) is not None
        ]

    def only(self, groups: Collection[tuple[int, str]]) -> Int8Scales:
        """Return scales that only round some of the groups that `rounded` returns."""
        layers = [
            layer._replace(**{
                name: None for name in layer._fields if (self._first(number), name) not in groups
            })
            for number, layer in enumerate(self.layers)
        ]  # fmt: skip
        return replace(self, layers=tuple(layers))

    def gain(self, number: int, name: str) -> float:
        """Return the time that rounding a group of `rounded` saves, in units of a layer's time.

        Each layer that shares its weights is weighted by the share of the exits at or above it.
        """
        n = len(self.layers)
        shares = (1 - later / n for later in range(n) if self._first(later) == number)
        return self.gains[number][name] * sum(shares)

    def _first(self, number: int) -> int:
        """Return the first layer that has the same weights as a layer."""
        return next(i for i, errors in enumerate(self.errors) if errors is self.errors[number])


class NotPackableError(ValueError):
    """The layers of a backbone cannot be split into matrix products."""


def check_packable_backbone(adapter: BackboneAdapter) -> None:
    """Raise if the layers of a backbone can only be run as a whole.

    Raises
    ------
    NotPackableError
    """
    if usual_layers(adapter) is None:
        raise NotPackableError(
            "precision='int8' needs layers that can be split into matrix products; those of the "
            f"backbone family {adapter.model.config.model_type!r} can only be run as a whole. "
            "Expected 'auto', 'float32' or 'bfloat16'."
        )


@torch.inference_mode()
def find_scales(adapter: BackboneAdapter, samples: EncodedSamples) -> Int8Scales:
    """Return the 8-bit scales of a backbone, measured on some samples.

    Parameters
    ----------
    adapter : BackboneAdapter
        Adapter of the trained model: on a CPU, in float32, in evaluation mode. Not modified.
    samples : EncodedSamples
        Training samples. If there are none (possible for a second tower), nothing is rounded.

    Returns
    -------
    Int8Scales

    Raises
    ------
    NotPackableError
        If the layers can only be run as a whole.
    """
    check_packable_backbone(adapter)
    if not len(samples):
        unknown = dict.fromkeys(LayerScales._fields, float("nan"))
        return Int8Scales((LayerScales(),) * adapter.n_layers, (unknown,) * adapter.n_layers)
    recorders = _record(adapter, samples)
    n_positions = float(positions_of(samples).mean())
    found: dict[int, tuple[LayerScales, dict[str, float], dict[str, float]]] = {}
    layers = []
    for parts, (layer, seen) in zip(usual_layers(adapter) or [], recorders, strict=True):
        if id(layer) not in found:
            found[id(layer)] = _layer_scales(parts, seen, n_positions)
        layers.append(found[id(layer)])
    return Int8Scales(*(tuple(column) for column in zip(*layers, strict=True)))


def _layer_scales(
    parts: LayerParts, seen: Mapping[str, _Recorder], n_positions: float
) -> tuple[LayerScales, dict[str, float], dict[str, float]]:
    """Return scales, errors and gains of the products of a layer."""
    found = {
        name: _best(seen[name], affines, within=name == "down" and parts.gate is None)
        for name, affines in layer_products(parts).items()
    }
    within = found["down"][1].is_common and fused_activation(parts.activation) is not None
    gains = layer_gains(parts, n_positions, rounds_down=within)
    scales = {
        name: scale if error <= MAX_ERROR and gains[name] > LEAST_GAIN else None
        for name, (error, scale) in found.items()
    }
    return LayerScales(**scales), {name: error for name, (error, _) in found.items()}, gains


def _best(
    seen: _Recorder, affines: Sequence[LinearWeights], within: bool
) -> tuple[float, InputScale]:
    """Return the smallest error of some products with a common input, and the scale that gives it.

    With ``within``, the product that computes the input can round it.
    """
    trial = _Trial(seen.rows, affines, None if seen.sums is None else seen.sums.rows)
    if within:
        common = _common_scale(seen)
        error = trial.error(common)
        # This scale takes no additional time, so others are not tried.
        if error <= MAX_ERROR:
            return error, common
    tried = [(trial.error(scale), scale) for scale in _candidates(seen, affines)]
    return min(tried, key=lambda pair: pair[0])


def _candidates(seen: _Recorder, affines: Sequence[LinearWeights]) -> Iterator[InputScale]:
    """Yield scales with different distributions of the range between inputs and weights."""
    reach = (seen.high - seen.low).div(2)
    # A constant column needs no range; avoid a division by 0.
    reach = reach.clamp_min(1e-4 * float(reach.max()) + 1e-8)
    middle = (seen.high + seen.low).div(2)
    weight = torch.stack([affine.weight.abs().amax(dim=0) for affine in affines]).amax(dim=0)
    weight = weight.float().clamp_min(1e-4 * float(weight.max()) + 1e-8)
    for share in _SHARES:
        stretch = torch.ones_like(reach)
        if share is not None:
            stretch = reach**share / weight ** (1 - share)
        widest = float((reach / stretch).max())
        factor = (_REACH / (widest * stretch)).bfloat16().float()
        shift = (_MIDDLE - middle * factor).round()
        yield InputScale(factor.numpy(), shift.numpy(), seen.mean.numpy())


def _common_scale(seen: _Recorder) -> InputScale:
    """Return a scale that is the same for all columns and maps 0 to an integer."""
    low, high = min(0.0, float(seen.low.min())), max(0.0, float(seen.high.max()))
    factor = MOST / max(high - low, 1e-8)
    alike = np.full(len(seen.mean), factor, np.float32)
    zero = np.full(len(seen.mean), round(-low * factor), np.float32)
    return InputScale(alike, zero, seen.mean.numpy(), is_common=True)


class _Trial:
    """Compare products of rounded rows with exact ones.

    Parameters
    ----------
    rows : Tensor of shape (r, in), float32
    affines : sequence of LinearWeights
        Linear layers that read the rows.
    sums : Tensor of shape (r, out), float32, default=None
        For a product that is added to the residual stream: the sums.
    """

    def __init__(
        self, rows: Tensor, affines: Sequence[LinearWeights], sums: Tensor | None = None
    ) -> None:
        self._rows = rows
        self._affines = affines
        plain = (PlainProduct(affine, torch.float32, None) for affine in affines)
        self._exact = [product(rows) for product in plain]
        self._distances = [_distances(exact if sums is None else sums) for exact in self._exact]

    def error(self, scale: InputScale) -> float:
        """Return the largest error of the products.

        The error is relative to the distance of each row from the mean row, root mean square over
        the rows: in trained networks a few rows are a hundred times as large as the others, and
        would dominate a sum over all rows.
        """
        # If a product rounds its own output, it has not been rounded to bfloat16 before.
        dtype = torch.float32 if scale.is_common else torch.bfloat16
        rounded = RowRounder(scale)(self._rows.to(dtype))
        errors = []
        for affine, exact, distances in zip(
            self._affines, self._exact, self._distances, strict=True
        ):
            moved = RoundedWeight(affine, scale)(rounded) - exact
            shares = moved.norm(dim=1) / distances
            errors.append(float(shares.square().mean().sqrt()))
        return max(errors)


def _distances(rows: Tensor) -> Tensor:
    """Return the distances of rows from their mean, with a lower bound."""
    apart = (rows - rows.mean(dim=0) if len(rows) > 1 else rows).norm(dim=1)
    # The distance of a row that happens to be near the mean is no suitable denominator.
    return apart.maximum(_LEAST_DISTANCE * apart.square().mean().sqrt() + 1e-12)


# ------------------------------------------------------------------- recording inputs of products


class _Recorder:
    """Record range and mean of the columns of rows, and keep a random part of the rows.

    Attributes
    ----------
    low, high, mean : Tensor of shape (in,), float32
    rows : Tensor of shape (r, in), float32
    sums : _Recorder or None
        Records the sums, for a product that is added to the residual stream.
    """

    def __init__(self, real: Callable[[], Tensor], every: int) -> None:
        self._real = real
        self._every = every
        self._kept: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(0)
        self._n_rows = 0
        self._total: Tensor | None = None
        self.sums: _Recorder | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Record rows, and return them unchanged."""
        real = self._real()
        seen = rows[: len(real)][real].float()
        low, high, total = seen.amin(dim=0), seen.amax(dim=0), seen.sum(dim=0)
        if self._total is not None:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
            total = total + self._total
        self.low: Tensor = low
        self.high: Tensor = high
        self._total = total
        self.mean: Tensor = total / (self._n_rows + len(seen))
        # Rows are chosen at random: with a fixed step they might be the same position of every
        # sample.
        n_kept = -(-len(seen) // self._every)
        self._kept.append(seen[torch.randperm(len(seen), generator=self._generator)[:n_kept]])
        self._n_rows += len(seen)
        return rows

    @property
    def rows(self) -> Tensor:
        return torch.cat(self._kept)


class _NotedSum:
    """A product whose sums with other rows are recorded."""

    def __init__(self, product: Product, recorder: _Recorder) -> None:
        self._product = product
        self._recorder = recorder

    def __call__(self, rows: Tensor) -> Tensor:
        """See `Product`."""
        return self._product(rows)

    def activated(self, rows: Tensor) -> Tensor:
        """See `Product`."""
        return self._product.activated(rows)

    def added(self, rows: Tensor, other: Tensor) -> Tensor:
        """See `Product`."""
        return self._recorder(self._product.added(rows, other))


def _record(
    adapter: BackboneAdapter, samples: EncodedSamples
) -> list[tuple[FastLayer, dict[str, _Recorder]]]:
    """Run samples through all layers; return each layer with the recorders of its products."""
    fast = fast_backbone(adapter, torch.float32)
    if fast is None:
        raise NotPackableError
    real = torch.ones(0, dtype=torch.bool)
    every = max(1, int(positions_of(samples).sum()) // _ROWS)
    recorders: dict[int, dict[str, _Recorder]] = {}
    for layer in fast.layers:
        if id(layer) not in recorders:
            new = {name: _Recorder(lambda: real, every) for name in LayerReaders._fields}
            recorders[id(layer)] = new
            layer.readers = LayerReaders(**new)
            # Recorders keep the same rows, because their random generators have the same seed.
            new["out"].sums, new["down"].sums = (_Recorder(lambda: real, every) for _ in range(2))
            layer.out = _NotedSum(layer.out, new["out"].sums)
            layer.down = _NotedSum(layer.down, new["down"].sums)
    for rows in batches_by_length(samples.lengths, batch_limit("auto"), samples.windows):
        hidden, mask = fast.embed(backbone_inputs(samples.batch(rows)))
        real = mask.flatten()
        for number in range(1, adapter.n_layers + 1):
            keys_values = fast.keys_values(number, hidden)
            hidden = fast.rows(number, hidden, *keys_values, mask)
    return [(layer, recorders[id(layer)]) for layer in fast.layers]
