"""Run a trained backbone on a CPU with packed weights instead of its torch modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .backbones import (
    AttentionBias,
    BackboneAdapter,
    LayerParts,
    LinearWeights,
    RMSWeights,
    Rotary,
    RowSubset,
)
from .fast_attention import Neighborhood, Seen, attend
from .int8_linear import InputScale, Int8Product, RowRounder
from .packed_linear import Product, make_product, rounded


class LayerwiseBackbone(Protocol):
    """Interface of a backbone for the engine; `BackboneAdapter` implements it."""

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embedded batch, (n, t, d), and the mask of real positions, (n, t)."""
        ...

    def keys_values(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a layer for all positions, (n, heads, t, head_dim)."""
        ...

    def rows(  # noqa: PLR0917 - as the adapter's
        self,
        layer: int,
        hidden_rows: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Return the output of a layer at some positions, (n, r, d)."""
        ...

    def row_subset(  # noqa: PLR0917 - as the adapter's
        self, layer: int, hidden_rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, at: RowSubset
    ) -> Tensor:
        """Return the output at positions whose number may differ between samples, (R, d)."""
        ...

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """Return hidden states ready for a head."""
        ...


class LayerScales(NamedTuple):
    """8-bit scales of the inputs of a layer's products; None: the product is not in 8 bits."""

    attention: InputScale | None = None
    """Input of the query, key and value projections."""
    out: InputScale | None = None
    """Input of the attention's output projection."""
    up: InputScale | None = None
    """Input of the feed-forward (and of its gate, if it has one)."""
    down: InputScale | None = None
    """Input of the last product of the feed-forward, after the activation."""


class LayerReaders(NamedTuple):
    """Functions applied to the inputs of a layer's products; names as in `LayerScales`."""

    attention: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]


class LayerInput(NamedTuple):
    """Input of a layer at some positions, in the forms that its products need."""

    hidden: Tensor
    """(n, r, d)"""
    flat: Tensor
    """All positions as rows of a matrix, with unused rows at the end."""
    rows: Tensor
    """The same rows, normalized and rounded, as input of the attention's projections."""


class FastLayer:
    """One transformer layer, computed with a few matrix products.

    Parameters
    ----------
    parts : LayerParts
        The query projection includes the scale of the attention scores.
    n_heads, n_key_heads : int
        Number of heads of the queries, and of keys and values.
    dtype : torch.dtype
        Data type of everything that is not in 8 bits.
    scales : LayerScales, default=LayerScales()
        8-bit scales; None in it for products that are not in 8 bits.

    Attributes
    ----------
    readers : LayerReaders
        Round the inputs of the products, or return them unchanged.
    out, down : Product
        The two products whose results are added to the residual stream.
    """

    def __init__(
        self,
        parts: LayerParts,
        n_heads: int,
        n_key_heads: int,
        dtype: torch.dtype,
        scales: LayerScales = LayerScales(),  # noqa: B008 - immutable
    ) -> None:
        self._n_heads = n_heads
        self._n_key_heads = n_key_heads
        self._pre_norm = parts.pre_norm
        self._query = _product(parts.query, dtype, scales.attention)
        # Separate products instead of one with a wide weight, so that each result is contiguous in
        # memory, in the order in which the attention reads it.
        self._key = _product(parts.key, dtype, scales.attention)
        self._value = _product(parts.value, dtype, scales.attention)
        self.out = _product(parts.out, dtype, scales.out)
        # In a gated feed-forward, the activation is applied to the gate.
        inner = parts.up if parts.gate is None else parts.gate
        next_scale = scales.down if parts.gate is None else None
        self._activated = _product(inner, dtype, scales.up, parts.activation, next_scale)
        self._up = None if parts.gate is None else _product(parts.up, dtype, scales.up)
        self.down = _product(parts.down, dtype, scales.down)
        readers = LayerReaders(*(_reader(scale) for scale in scales))
        rounds = isinstance(self._activated, Int8Product) and self._activated.rounds
        self.readers = readers._replace(down=_unchanged) if rounds else readers
        self._norm_1 = _normalizer(parts.norm_1, dtype)
        self._norm_2 = _normalizer(parts.norm_2, dtype)
        self._query_norm = _normalizer(parts.query_norm, dtype)
        self._key_norm = _normalizer(parts.key_norm, dtype)

    def read(self, hidden: Tensor) -> LayerInput:
        """Return the input of the attention's projections at some positions, (n, r, d)."""
        flat = flat_rows(hidden)
        return LayerInput(hidden, flat, self.readers.attention(self._normalized(flat)))

    def keys_values(self, read: LayerInput, rotary: Rotary | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values of the positions, (n, n_key_heads, r, head_dim)."""
        k = self._key_norm(split_heads(self._key(read.rows), read.hidden, self._n_key_heads))
        v = split_heads(self._value(read.rows), read.hidden, self._n_key_heads)
        return (k if rotary is None else rotary.rotate(k)), v

    def rows(
        self, read: LayerInput, k: Tensor, v: Tensor, seen: Seen, rotary: Rotary | None = None
    ) -> Tensor:
        """Return the output of the layer at the positions, (n, r, d)."""
        hidden = read.hidden
        query = self._query_norm(split_heads(self._query(read.rows), hidden, self._n_heads))
        query = query if rotary is None else rotary.rotate(query)
        attended = flat_rows(attend(query, k, v, seen).transpose(1, 2).flatten(2))
        above = self._finish(attended, read.flat)
        return above[: hidden.shape[0] * hidden.shape[1]].view_as(hidden)

    def row_subset(  # noqa: PLR0917 - as `rows`
        self,
        hidden_rows: Tensor,
        k: Tensor,
        v: Tensor,
        seen: Seen,
        at: RowSubset,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Return the output of the layer at the positions `at`, (R, d)."""
        flat = flat_rows(hidden_rows.unsqueeze(0))
        n_rows = len(hidden_rows)
        query = at.fill_up(self._query(self.readers.attention(self._normalized(flat)))[:n_rows])
        query = self._query_norm(query.unflatten(-1, (self._n_heads, -1)).transpose(1, 2))
        query = query if rotary is None else rotary.rotate(query)
        attended = at.pick(attend(query, k, v, seen).transpose(1, 2).flatten(2))
        return self._finish(flat_rows(attended.unsqueeze(0)), flat)[:n_rows]

    def _normalized(self, rows: Tensor) -> Tensor:
        return self._norm_1(rows) if self._pre_norm else rows

    def _finish(self, attended: Tensor, rows: Tensor) -> Tensor:
        rows = self.out.added(self.readers.out(attended), rows)
        if self._pre_norm:
            return self.down.added(self._expanded(self._norm_2(rows)), rows)
        rows = self._norm_1(rows)
        return self._norm_2(self.down.added(self._expanded(rows), rows))

    def _expanded(self, rows: Tensor) -> Tensor:
        rows = self.readers.up(rows)
        activated = self._activated.activated(rows)
        expanded = activated if self._up is None else activated.mul_(self._up(rows))
        return self.readers.down(expanded)


class FastBackbone:
    """A backbone on a CPU whose layers all have the standard structure (`LayerParts`).

    Parameters
    ----------
    adapter : BackboneAdapter
        Adapter of the trained model, in float32. Its embeddings and its final norm are used
        unchanged; the weights of its layers are copied.
    layers : list of LayerParts
        One per layer.
    dtype : torch.dtype
        Data type of the layers, except for 8-bit products.
    scales : sequence of LayerScales, default=None
        One per layer.

    Attributes
    ----------
    layers : list of FastLayer
        One per layer; layers that share their weights are the same object.
    """

    def __init__(
        self,
        adapter: BackboneAdapter,
        layers: list[LayerParts],
        dtype: torch.dtype,
        scales: Sequence[LayerScales] | None = None,
    ) -> None:
        self._adapter = adapter
        self._dtype = dtype
        self._tables = _PositionTables(adapter, dtype)
        # Layers that share their weights share the copy.
        shared: dict[int, FastLayer] = {}
        self.layers: list[FastLayer] = []
        heads = adapter.n_heads, adapter.n_key_heads
        for parts, of_layer in zip(layers, scales or [LayerScales()] * len(layers), strict=True):
            # Layers are recognized by their norm: it is a module of the model, or was created for
            # this layer only.
            key = id(parts.norm_2)
            if key not in shared:
                shared[key] = FastLayer(parts, *heads, dtype, of_layer)
            self.layers.append(shared[key])
        # The last input of `keys_values`, because `rows` is usually called next for the same one.
        self._last: tuple[FastLayer, LayerInput] | None = None

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `BackboneAdapter.embed`."""
        hidden, mask = self._adapter.embed(batch)
        return hidden.to(self._dtype), mask

    def keys_values(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `BackboneAdapter.keys_values`."""
        length = hidden.shape[1]
        rotary = self._tables.rotary(layer, length)
        rotary = None if rotary is None else rotary.at(None, length)
        of_layer = self.layers[layer - 1]
        read = of_layer.read(hidden)
        # Assigned at once, because threads may share the backbone.
        self._last = of_layer, read
        return of_layer.keys_values(read, rotary)

    def rows(  # noqa: PLR0917 - as the adapter's
        self,
        layer: int,
        hidden_rows: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See `BackboneAdapter.rows`."""
        length = k.shape[2]
        rotary = self._tables.rotary(layer, length)
        rotary = None if rotary is None else rotary.at(positions, hidden_rows.shape[1])
        seen = self._seen(layer, mask, positions)
        read = self._read(self.layers[layer - 1], hidden_rows)
        return self.layers[layer - 1].rows(read, k, v, seen, rotary)

    def _read(self, layer: FastLayer, hidden: Tensor) -> LayerInput:
        """Return the input of a layer; that of the last `keys_values` call is reused."""
        last = self._last
        if last is None or last[0] is not layer or last[1].hidden is not hidden:
            return layer.read(hidden)
        self._last = None
        return last[1]

    def row_subset(  # noqa: PLR0917 - as the adapter's
        self, layer: int, hidden_rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, at: RowSubset
    ) -> Tensor:
        """See `BackboneAdapter.row_subset`."""
        rotary = self._tables.rotary(layer, k.shape[2])
        rotary = None if rotary is None else rotary.at(at.positions, at.positions.shape[1])
        seen = self._seen(layer, mask, at.positions)
        return self.layers[layer - 1].row_subset(hidden_rows, k, v, seen, at, rotary)

    def _seen(self, layer: int, mask: Tensor, positions: Tensor | None) -> Seen:
        bias = self._tables.bias(layer, mask.shape[1])
        window = self._adapter.window(layer)
        if window is not None and positions is None and bias is None:
            neighborhood = Neighborhood(mask, window, self._adapter.causal)
            if neighborhood.spares(mask.shape[1]):
                return Seen(neighborhood=neighborhood)
        return Seen(*self._adapter.allowed(mask, positions, layer), bias, positions)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """See `BackboneAdapter.pool`; in float32."""
        return self._adapter.pool(hidden_rows.float())


class _PositionTables:
    """Cache of rotary angles and attention biases by position.

    Parameters
    ----------
    adapter : BackboneAdapter
    dtype : torch.dtype
        Data type of the tables.
    """

    # Minimum length of a table, so that it can be reused for longer texts.
    _LEAST = 128

    def __init__(self, adapter: BackboneAdapter, dtype: torch.dtype) -> None:
        self._adapter = adapter
        self._dtype = dtype
        # Two threads may compute the same table; one of them is kept.
        self._rotary: dict[Hashable, tuple[int, Rotary]] = {}
        self._bias: dict[int, AttentionBias | None] = {}

    def rotary(self, layer: int, length: int) -> Rotary | None:
        """Return rotary angles for at least the positions of a sequence; None if there are none."""
        name = self._adapter.rotary(layer)
        if name is None:
            return None
        made_for, angles = self._rotary.get(name, (0, None))
        if angles is None or not self._serves(made_for, length):
            made_for = self._enough(length)
            angles = self._adapter.rotary_angles(name, made_for).to(self._dtype)
            self._rotary[name] = made_for, angles
        return angles

    def bias(self, layer: int, length: int) -> AttentionBias | None:
        """Return the term that is added to the attention scores; None if there is none."""
        known = self._bias.get(layer)
        if known is None and layer in self._bias:
            return None
        if known is None or not known.fits(length):
            made = self._adapter.attention_bias(layer, self._enough(length))
            known = self._bias[layer] = None if made is None else made.to(self._dtype)
        return known

    def _serves(self, made_for: int, length: int) -> bool:
        return length == made_for if self._adapter.kind == "image" else length <= made_for

    def _enough(self, length: int) -> int:
        """Return a number of positions that is sufficient for somewhat longer sequences, too."""
        if self._adapter.kind == "image":
            return length
        return max(self._LEAST, 1 << (length - 1).bit_length())


def fast_backbone(
    adapter: BackboneAdapter, dtype: torch.dtype, scales: Sequence[LayerScales] | None = None
) -> FastBackbone | None:
    """Return a fast version of a backbone; None if a layer does not have the standard structure.

    Parameters
    ----------
    adapter : BackboneAdapter
        On a CPU, in float32, in evaluation mode.
    dtype : torch.dtype
    scales : sequence of LayerScales, default=None
        8-bit scales, one per layer.

    Returns
    -------
    FastBackbone or None
    """
    parts = usual_layers(adapter)
    return None if parts is None else FastBackbone(adapter, parts, dtype, scales)


def usual_layers(adapter: BackboneAdapter) -> list[LayerParts] | None:
    """Return the parts of all layers; None if a layer does not have the standard structure."""
    parts = [adapter.layer_parts(layer) for layer in range(1, adapter.n_layers + 1)]
    usual = [part for part in parts if part is not None]
    return usual if len(usual) == len(parts) else None


def split_heads(rows: Tensor, hidden: Tensor, n_heads: int) -> Tensor:
    """Return the rows of the positions of ``hidden``, split into heads."""
    n, t, _ = hidden.shape
    return rows[: n * t].view(n, t, n_heads, -1).transpose(1, 2)


def flat_rows(hidden: Tensor) -> Tensor:
    """Return all positions as rows, with unused rows at the end, (r, d).

    Their number is `rounded`, so that the products have few different sizes.
    """
    n, t, width = hidden.shape
    rows = rounded(n * t)
    if rows == n * t:
        return hidden.reshape(rows, width)
    room = hidden.untyped_storage().nbytes() // hidden.element_size() - hidden.storage_offset()
    if hidden.is_contiguous() and room >= rows * width:
        return hidden.as_strided((rows, width), (width, 1))  # unused rows of the layer below
    flat = hidden.new_empty((rows, width))
    flat[: n * t].view(n, t, width).copy_(hidden)
    flat[n * t :].zero_()
    return flat


def _normalizer(
    norm: torch.nn.LayerNorm | RMSWeights | None, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Return a norm as a function; the identity if there is no norm."""
    if norm is None:
        return _unchanged
    weight = None if norm.weight is None else norm.weight.detach().to(dtype)
    if isinstance(norm, RMSWeights):
        return functools.partial(
            functional.rms_norm, normalized_shape=norm.weight.shape, weight=weight, eps=norm.eps
        )
    return functools.partial(
        functional.layer_norm,
        normalized_shape=norm.normalized_shape,
        weight=weight,
        bias=None if norm.bias is None else norm.bias.detach().to(dtype),
        eps=norm.eps,
    )


def _product(
    affine: LinearWeights,
    dtype: torch.dtype,
    scale: InputScale | None,
    activation: Callable[[Tensor], Tensor] | None = None,
    rounded_for: InputScale | None = None,
) -> Product:
    if scale is None:
        return make_product(affine, dtype, activation)
    return Int8Product(affine, scale, dtype, activation, rounded_for)


def _reader(scale: InputScale | None) -> Callable[[Tensor], Tensor]:
    return _unchanged if scale is None else RowRounder(scale)


def _unchanged(rows: Tensor) -> Tensor:
    return rows
