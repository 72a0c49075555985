"""Calibrate 8-bit rounding: find scales for the inputs of a backbone's products on samples.

One pass over some training samples notes the range of every column. For every product several ways
to share the difficulty between rows and weights are tried on rows of that pass, and the one that
changes the outcome least is kept; a product that changes too much even so, or that 8 bits do not
make faster, is left as it is.
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

# Products whose outcome moves by more than this, as a share of a row's distance from the mean row,
# stay as they are. The row is the outcome, or what it is added to and the outcome together.
MAX_ERROR = 0.025
# Rows of which each product is tried.
_ROWS = 256
# How much of a column's range is put into its weights: s = range ** share / weight ** (1 - share).
# None: all columns are rounded alike.
_SHARES = (0.5, 0.75, 0.9, 1.0, None)
# Products that save no more than this share of their layer's time stay as they are.
LEAST_GAIN = 0.0
# Of the root mean square of all rows' distances from their mean, what a row's counts as at least.
_LEAST_DISTANCE = 0.01
# Rounded values are put around the middle, with some room for rows beyond those seen.
_MIDDLE, _REACH = 127.5, 122.0


@dataclass(frozen=True)
class Int8Scales:
    """Which products of a backbone are made of 8-bit numbers, and how their rows are rounded.

    Attributes
    ----------
    layers : tuple of LayerScales
        One a layer.
    errors : tuple of dict of str to float
        Of each layer by how much each product's outcome moved on the samples, as a share of the
        distance of a row from the mean row; names as in `LayerScales`. One object for layers that
        share their weights.
    gains : tuple of dict of str to float
        Of each layer which share of its products' time each saves (`int8_cost`). Empty once it is
        decided what is rounded.
    """

    layers: tuple[LayerScales, ...]
    errors: tuple[dict[str, float], ...]
    gains: tuple[dict[str, float], ...] = ()

    @property
    def n_rounded(self) -> int:
        """How many groups of products are rounded."""
        return sum(scale is not None for layer in self.layers for scale in layer)

    def rounded(self) -> list[tuple[int, str]]:
        """Return the groups that are rounded, as numbers of layers, from 0, and names.

        Layers that share their weights are one: the first of them.
        """
        return [
            (number, name)
            for number, layer in enumerate(self.layers)
            if self._first(number) == number
            for name in layer._fields
            if getattr(layer, name) is not None
        ]

    def only(self, groups: Collection[tuple[int, str]]) -> Int8Scales:
        """Return the same with no others rounded than some of the groups that `rounded` returns."""
        layers = [
            layer._replace(**{
                name: None for name in layer._fields if (self._first(number), name) not in groups
            })
            for number, layer in enumerate(self.layers)
        ]  # fmt: skip
        return replace(self, layers=tuple(layers))

    def gain(self, number: int, name: str) -> float:
        """Return the time that rounding a group of `rounded` saves, in layers that all run.

        Of the layers that share its weights, each counts by the share of the exits at or above it.
        """
        n = len(self.layers)
        shares = (1 - later / n for later in range(n) if self._first(later) == number)
        return self.gains[number][name] * sum(shares)

    def _first(self, number: int) -> int:
        """Return the number of the first layer that has the weights of one."""
        return next(i for i, errors in enumerate(self.errors) if errors is self.errors[number])


class NotPackableError(ValueError):
    """The layers of a backbone are not built so that their products can be exchanged."""


def check_packable_backbone(adapter: BackboneAdapter) -> None:
    """Refuse a backbone whose layers can only be run as a whole.

    Raises
    ------
    NotPackableError
    """
    if usual_layers(adapter) is None:
        raise NotPackableError(
            "precision='int8' needs layers whose products are known one by one; those of the "
            f"backbone family {adapter.model.config.model_type!r} can only be run as a whole. "
            "Expected 'auto', 'float32' or 'bfloat16'."
        )


@torch.inference_mode()
def find_scales(adapter: BackboneAdapter, samples: EncodedSamples) -> Int8Scales:
    """Return how the rows of a backbone's products are rounded, from some samples.

    Parameters
    ----------
    adapter : BackboneAdapter
        Of the trained model: on a CPU, in float32, in evaluation mode. Unchanged.
    samples : EncodedSamples
        Training samples. Without any, as a second tower may have it, nothing is rounded.

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
    """Return how the rows of a layer are rounded, how far its products move, what they gain."""
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
    """Return how the rows of some products are best rounded, and by how much the products move.

    With ``within``, the product that makes the rows can round them.
    """
    trial = _Trial(seen.rows, affines, None if seen.sums is None else seen.sums.rows)
    if within:
        common = _common_scale(seen)
        error = trial.error(common)
        # Costs nothing, so that another way need not be better.
        if error <= MAX_ERROR:
            return error, common
    tried = [(trial.error(scale), scale) for scale in _candidates(seen, affines)]
    return min(tried, key=lambda pair: pair[0])


def _candidates(seen: _Recorder, affines: Sequence[LinearWeights]) -> Iterator[InputScale]:
    """Yield ways to round rows column by column."""
    reach = (seen.high - seen.low).div(2)
    # A column that never changes takes no room.
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
    """Return the way to round all columns alike, in which zero is a whole number."""
    low, high = min(0.0, float(seen.low.min())), max(0.0, float(seen.high.max()))
    factor = MOST / max(high - low, 1e-8)
    alike = np.full(len(seen.mean), factor, np.float32)
    zero = np.full(len(seen.mean), round(-low * factor), np.float32)
    return InputScale(alike, zero, seen.mean.numpy(), is_common=True)


class _Trial:
    """Products of some rows, to which those of rounded rows are compared.

    Parameters
    ----------
    rows : Tensor of shape (r, in), float32
    affines : sequence of LinearWeights
        That read the rows.
    sums : Tensor of shape (r, out), float32, default=None
        What the rows of the one product become where they are added to others.
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
        """Return by how much the products move: the one that moves most.

        As a share of the distance of a row from the mean row, root mean square over the rows: in
        trained networks a few rows are a hundred times as large as the rest, and the sum over all
        would be theirs.
        """
        # What a product rounds within itself has not been rounded to bfloat16 before.
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
    """Return how far rows lie from their mean."""
    apart = (rows - rows.mean(dim=0) if len(rows) > 1 else rows).norm(dim=1)
    # A row that happens to lie at the mean is no measure.
    return apart.maximum(_LEAST_DISTANCE * apart.square().mean().sqrt() + 1e-12)


# ------------------------------------------------------------------------- what the products read


class _Recorder:
    """Notes the range and the mean of the columns that it is shown, and keeps some rows.

    Attributes
    ----------
    low, high, mean : Tensor of shape (in,), float32
    rows : Tensor of shape (r, in), float32
    sums : _Recorder or None
        Shown what becomes of the same rows where the product's outcome is added to others.
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
        """Note the rows, and return them as they are."""
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
        # At random: every so-many-th row might be the same position of each sample.
        n_kept = -(-len(seen) // self._every)
        self._kept.append(seen[torch.randperm(len(seen), generator=self._generator)[:n_kept]])
        self._n_rows += len(seen)
        return rows

    @property
    def rows(self) -> Tensor:
        return torch.cat(self._kept)


class _NotedSum:
    """A product whose sums with other rows are shown to a recorder."""

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
    """Run samples through all layers; return each with what its products read."""
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
            # They keep the same rows as those before them: all draw them alike.
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
