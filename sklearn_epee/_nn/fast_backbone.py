"""A trained backbone on a CPU: the adapter's four operations without modules, weights packed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
    SomeRows,
    for_each_head,
    joined_scores_mask,
    near_keys,
)
from .int8_linear import InputScale, Int8Product, RowRounder
from .packed_linear import Product, make_product

# Bytes of attention scores made at a time; beyond the processor's caches they cost more.
_SCORES_BYTES = 16 * 2**20
# Bytes of a single sample's scores up to which they are made at once.
_SCORES_BYTES_OF_ONE = 4 * _SCORES_BYTES
# Queries of a local attention go together in multiples of this.
_NEIGHBORS = 64
# Width of the widest vector a processor adds at once, in float32.
_KEYS_TOGETHER = 16
# Multiplications up to which torch does not hand a bfloat16 product to oneDNN.
_SMALL_PRODUCT = 16**3


class LayerwiseBackbone(Protocol):
    """What the engine needs of a backbone; adapters have it."""

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

    def some_rows(  # noqa: PLR0917 - as the adapter's
        self, layer: int, hidden_rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, at: SomeRows
    ) -> Tensor:
        """Return the same at positions of which each sample may have another number, (R, d)."""
        ...

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """Return hidden states ready for a head."""
        ...


class Neighborhood(NamedTuple):
    """What the queries of a local attention see, where they are all positions in order."""

    mask: Tensor
    """(n, t), bool: True at real positions."""
    window: int
    """Positions see those at a distance below it."""
    is_causal: bool
    """Whether they see earlier ones only."""

    @property
    def _reach(self) -> int:
        return self.window - 1 + -(self.window - 1) % _NEIGHBORS

    @property
    def _step(self) -> int:
        return max(_NEIGHBORS, self._reach)

    def spares(self, length: int) -> bool:
        """Return whether a sequence is so long that queries are better taken block by block."""
        return length > self._step + 2 * self._reach

    def blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield consecutive queries, the keys among which theirs are, and which of these they see.

        Keys begin at multiples of the width of the widest vectors, as in a sequence taken whole.
        """
        length = self.mask.shape[1]
        for start in range(0, length, self._step):
            stop = min(length, start + self._step)
            first = max(0, start - self._reach)
            last = stop if self.is_causal else min(length, stop + self._reach)
            positions = torch.arange(start - first, stop - first, device=self.mask.device)[None]
            near = near_keys(self.mask[:, first:last], positions, self.is_causal, self.window)
            yield slice(start, stop), slice(first, last), near


class Seen(NamedTuple):
    """What the queries of one call see of the keys, and where they stand."""

    allowed: Tensor | None = None
    """Broadcasts to (n, heads, r, t), bool: True where a query sees a key; None for all."""
    is_causal: bool = False
    """Whether each query sees the keys up to its own."""
    bias: AttentionBias | None = None
    """Added to the scores."""
    positions: Tensor | None = None
    """(n, r), where the queries stand, for the bias; None: at all positions, in order."""
    neighborhood: Neighborhood | None = None
    """Takes the place of all the others in a long sequence."""

    def part(self, samples: slice, queries: slice) -> Seen:
        """Return the same for some queries of some samples; with a bias, for all their queries."""
        allowed, positions = self.allowed, self.positions
        if allowed is not None and allowed.ndim == 4 and len(allowed) > 1:
            allowed = allowed[samples]
        if allowed is not None and allowed.ndim >= 2 and allowed.shape[-2] > 1:
            allowed = allowed[..., queries, :]
        positions = None if positions is None else positions[samples]
        return Seen(allowed, self.is_causal, self.bias, positions)


class LayerScales(NamedTuple):
    """How the rows that the products of a layer read are rounded to 8 bits; None: they are not."""

    attention: InputScale | None = None
    """What queries, keys and values are made of."""
    out: InputScale | None = None
    """What the attention found."""
    up: InputScale | None = None
    """What the feed-forward reads, with a gate or without."""
    down: InputScale | None = None
    """What its activation made."""


class LayerReaders(NamedTuple):
    """What is done to the rows that the products of a layer read; names as in `LayerScales`."""

    attention: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]


class FastLayer:
    """One transformer layer as a handful of products.

    Parameters
    ----------
    parts : LayerParts
        The scale of the attention is in the query already.
    n_heads, n_key_heads : int
        Heads of the queries, and of keys and values.
    dtype : torch.dtype
        What is computed in where nothing is rounded to 8 bits.
    scales : LayerScales, default=LayerScales()
        Says which products are those of 8-bit numbers.

    Attributes
    ----------
    readers : LayerReaders
        Round the rows, or leave them as they are.
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
        # Apart, not as one product with a wide weight: each lands in memory of its own, in the
        # order in which the attention reads it.
        self._key = _product(parts.key, dtype, scales.attention)
        self._value = _product(parts.value, dtype, scales.attention)
        self._out = _product(parts.out, dtype, scales.out)
        # With a gate, the activation is the gate's.
        inner = parts.up if parts.gate is None else parts.gate
        next_scale = scales.down if parts.gate is None else None
        self._activated = _product(inner, dtype, scales.up, parts.activation, next_scale)
        self._up = None if parts.gate is None else _product(parts.up, dtype, scales.up)
        self._down = _product(parts.down, dtype, scales.down)
        readers = LayerReaders(*(_reader(scale, dtype) for scale in scales))
        rounds = isinstance(self._activated, Int8Product) and self._activated.rounds
        self.readers = readers._replace(down=_unchanged) if rounds else readers
        self._norm_1 = _normalizer(parts.norm_1, dtype)
        self._norm_2 = _normalizer(parts.norm_2, dtype)
        self._query_norm = _normalizer(parts.query_norm, dtype)
        self._key_norm = _normalizer(parts.key_norm, dtype)

    def keys_values(self, hidden: Tensor, rotary: Rotary | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values of all positions, (n, n_key_heads, t, head_dim)."""
        rows = self.readers.attention(self._read(_flat(hidden)))
        k = self._key_norm(_split(self._key(rows), hidden, self._n_key_heads))
        v = _split(self._value(rows), hidden, self._n_key_heads)
        return (k if rotary is None else rotary.rotate(k)), v

    def rows(
        self, hidden: Tensor, k: Tensor, v: Tensor, seen: Seen, rotary: Rotary | None = None
    ) -> Tensor:
        """Return the output of the layer at the positions of ``hidden``, (n, r, d)."""
        flat = _flat(hidden)
        read = self.readers.attention(self._read(flat))
        query = self._query_norm(_split(self._query(read), hidden, self._n_heads))
        query = query if rotary is None else rotary.rotate(query)
        attended = _flat(attend(query, k, v, seen).transpose(1, 2).flatten(2))
        return self._finish(attended, flat)[: hidden.shape[0] * hidden.shape[1]].view_as(hidden)

    def some_rows(  # noqa: PLR0917 - as `rows`
        self,
        hidden_rows: Tensor,
        k: Tensor,
        v: Tensor,
        seen: Seen,
        at: SomeRows,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Return the output of the layer at the positions `at`, (R, d)."""
        flat = _flat(hidden_rows.unsqueeze(0))
        n_rows = len(hidden_rows)
        query = at.fill_up(self._query(self.readers.attention(self._read(flat)))[:n_rows])
        query = self._query_norm(query.unflatten(-1, (self._n_heads, -1)).transpose(1, 2))
        query = query if rotary is None else rotary.rotate(query)
        attended = at.pick(attend(query, k, v, seen).transpose(1, 2).flatten(2))
        return self._finish(_flat(attended.unsqueeze(0)), flat)[:n_rows]

    def _read(self, rows: Tensor) -> Tensor:
        return self._norm_1(rows) if self._pre_norm else rows

    def _finish(self, attended: Tensor, rows: Tensor) -> Tensor:
        rows = self._out.added(self.readers.out(attended), rows)
        if self._pre_norm:
            return self._down.added(self._expanded(self._norm_2(rows)), rows)
        rows = self._norm_1(rows)
        return self._norm_2(self._down.added(self._expanded(rows), rows))

    def _expanded(self, rows: Tensor) -> Tensor:
        rows = self.readers.up(rows)
        activated = self._activated.activated(rows)
        expanded = activated if self._up is None else activated.mul_(self._up(rows))
        return self.readers.down(expanded)


class FastBackbone:
    """A backbone whose layers all have the usual plan, on a CPU.

    Parameters
    ----------
    adapter : BackboneAdapter
        Of the trained model, in float32. Its embeddings and its last norm are used as they are;
        the weights of its layers are copied.
    layers : list of LayerParts
        One a layer.
    dtype : torch.dtype
        What the layers compute in, but for products of 8-bit numbers.
    scales : sequence of LayerScales, default=None
        One a layer, of those that have such products.

    Attributes
    ----------
    layers : list of FastLayer
        One a layer, and one object for layers that share their weights.
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
            # The norm is the model's own module, or was made for this layer alone.
            key = id(parts.norm_2)
            if key not in shared:
                shared[key] = FastLayer(parts, *heads, dtype, of_layer)
            self.layers.append(shared[key])

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `BackboneAdapter.embed`."""
        hidden, mask = self._adapter.embed(batch)
        return hidden.to(self._dtype), mask

    def keys_values(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `BackboneAdapter.keys_values`."""
        length = hidden.shape[1]
        rotary = self._tables.rotary(layer, length)
        rotary = None if rotary is None else rotary.at(None, length)
        return self.layers[layer - 1].keys_values(hidden, rotary)

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
        return self.layers[layer - 1].rows(hidden_rows, k, v, seen, rotary)

    def some_rows(  # noqa: PLR0917 - as the adapter's
        self, layer: int, hidden_rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, at: SomeRows
    ) -> Tensor:
        """See `BackboneAdapter.some_rows`."""
        rotary = self._tables.rotary(layer, k.shape[2])
        rotary = None if rotary is None else rotary.at(at.positions, at.positions.shape[1])
        seen = self._seen(layer, mask, at.positions)
        return self.layers[layer - 1].some_rows(hidden_rows, k, v, seen, at, rotary)

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
    """What an adapter makes of positions, kept for the next call.

    Parameters
    ----------
    adapter : BackboneAdapter
    dtype : torch.dtype
        What the tables are turned into.
    """

    # The shortest text for which tables are made, to serve longer ones too.
    _LEAST = 128

    def __init__(self, adapter: BackboneAdapter, dtype: torch.dtype) -> None:
        self._adapter = adapter
        self._dtype = dtype
        # Two threads may make the same, of which one is kept.
        self._rotary: dict[Hashable, tuple[int, Rotary]] = {}
        self._bias: dict[int, AttentionBias | None] = {}

    def rotary(self, layer: int, length: int) -> Rotary | None:
        """Return the angles of the positions of a sequence, or of more; None for none."""
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
        """Return what is added to the scores of a sequence; None for nothing."""
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
        """Return a number of positions that serves sequences a little longer as well."""
        if self._adapter.kind == "image":
            return length
        return max(self._LEAST, 1 << (length - 1).bit_length())


def fast_backbone(
    adapter: BackboneAdapter, dtype: torch.dtype, scales: Sequence[LayerScales] | None = None
) -> FastBackbone | None:
    """Return a backbone taken apart into products; None where a layer is built to another plan.

    Parameters
    ----------
    adapter : BackboneAdapter
        On a CPU, in float32, in evaluation mode.
    dtype : torch.dtype
    scales : sequence of LayerScales, default=None
        One a layer: which products are those of 8-bit numbers.

    Returns
    -------
    FastBackbone or None
    """
    parts = usual_layers(adapter)
    return None if parts is None else FastBackbone(adapter, parts, dtype, scales)


def usual_layers(adapter: BackboneAdapter) -> list[LayerParts] | None:
    """Return the parts of all layers of a backbone; None where a layer is built to another plan."""
    parts = [adapter.layer_parts(layer) for layer in range(1, adapter.n_layers + 1)]
    usual = [part for part in parts if part is not None]
    return usual if len(usual) == len(parts) else None


def attend(query: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    """Return the softmax attention of queries that are scaled already, (n, heads, r, head_dim).

    On a CPU a query's outcome in bfloat16 depends, to the bit, on its own sample alone: not on
    how many queries, samples or masked keys stand beside it.

    Parameters
    ----------
    query : Tensor of shape (n, heads, r, head_dim)
        Rotated already.
    k, v : Tensors of shape (n, n_key_heads, t, head_dim)
    seen : Seen
    """
    if seen.neighborhood is not None:
        blocks = [
            attend(query[:, :, queries], k[:, :, keys], v[:, :, keys], Seen(near))
            for queries, keys, near in seen.neighborhood.blocks()
        ]
        return _joined(blocks, dim=2)
    k, v = for_each_head(k, query.shape[1]), for_each_head(v, query.shape[1])
    if query.dtype == torch.float32 or query.device.type != "cpu":
        if seen.bias is None:
            return _attend_in_one(query, k, v, seen.allowed, seen.is_causal)
        return _attend_in_parts(_attend_with_bias, query, k, v, seen)
    shape = query.shape[2], k.shape[2]
    allowed = _as_mask(seen.allowed, seen.is_causal, k)
    k, v, allowed = _with_more_keys(k, v, allowed)
    query, allowed = _with_more_queries(query, allowed)
    seen = seen._replace(allowed=allowed, is_causal=False)
    attend_part = functools.partial(_attend_by_products, shape=shape)
    return _attend_in_parts(attend_part, query, k, v, seen)[:, :, : shape[0]]


def _attend_in_parts(
    attend_part: Callable[[Tensor, Tensor, Tensor, Seen], Tensor],
    query: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Seen,
) -> Tensor:
    """Attend for a few samples at a time, so that their scores stay in the processor's caches."""
    n, heads, n_queries, _ = query.shape
    bytes_of_query = heads * k.shape[2] * query.element_size()
    together = n_queries
    if n_queries * bytes_of_query > _SCORES_BYTES_OF_ONE and seen.bias is None:
        together = max(_KEYS_TOGETHER, 1 << ((_SCORES_BYTES // bytes_of_query).bit_length() - 1))
    n_samples = max(1, _SCORES_BYTES // (together * bytes_of_query))
    samples = []
    for at in _powers_of_two(n, n_samples):
        blocks = [
            attend_part(query[at, :, rows], k[at], v[at], seen.part(at, rows))
            for rows in _slices(n_queries, together)
        ]
        samples.append(_joined(blocks, dim=2))
    return _joined(samples, dim=0)


def _slices(n: int, step: int) -> Iterator[slice]:
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _split(rows: Tensor, hidden: Tensor, n_heads: int) -> Tensor:
    """Return the rows of the positions of ``hidden``, cut into heads."""
    n, t, _ = hidden.shape
    return rows[: n * t].view(n, t, n_heads, -1).transpose(1, 2)


def _flat(hidden: Tensor) -> Tensor:
    """Return all positions as rows, with rows nobody reads at the end, (r, d).

    oneDNN compiles a product for every number of rows it meets and keeps the latest thousand;
    batches from which samples exit have more sizes than that. So the numbers are rounded.
    """
    n, t, width = hidden.shape
    rows = _rounded(n * t)
    if rows == n * t:
        return hidden.reshape(rows, width)
    room = hidden.untyped_storage().nbytes() // hidden.element_size() - hidden.storage_offset()
    if hidden.is_contiguous() and room >= rows * width:
        return hidden.as_strided((rows, width), (width, 1))  # the layer below left them there
    flat = hidden.new_empty((rows, width))
    flat[: n * t].view(n, t, width).copy_(hidden)
    flat[n * t :].zero_()
    return flat


def _rounded(n: int) -> int:
    """Return a number of rows rounded up to one of a hundred, by a few per cent at most."""
    step = 4 if n <= 64 else 16 if n <= 512 else 64
    return n + -n % step


def _powers_of_two(n: int, most: int) -> Iterator[slice]:
    """Yield parts of n samples, of sizes that come up again.

    A product is compiled for each size.
    """
    start = 0
    while start < n:
        size = 1 << (min(n - start, most).bit_length() - 1)
        yield slice(start, start + size)
        start += size


def _as_mask(allowed: Tensor | None, is_causal: bool, k: Tensor) -> Tensor | None:
    if not is_causal:
        return allowed
    t = k.shape[2]
    return torch.ones(t, t, dtype=torch.bool, device=k.device).tril()


def _with_more_keys(
    k: Tensor, v: Tensor, allowed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return more keys, unseen, so that a softmax sums whole vectors whatever the padding."""
    missing = -k.shape[2] % _KEYS_TOGETHER
    if not missing:
        return k, v, allowed
    if allowed is None:
        allowed = torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool, device=k.device)
    more_keys = (0, 0, 0, missing)
    return (
        functional.pad(k, more_keys),
        functional.pad(v, more_keys),
        functional.pad(allowed, (0, missing)),
    )


def _with_more_queries(query: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return more queries, which nobody reads, up to a size that comes up again.

    So few that torch would not hand their product to oneDNN are made more as well.
    """
    _, heads, n_queries, head_dim = query.shape
    least = _SMALL_PRODUCT // (heads * head_dim * _KEYS_TOGETHER) + 1
    wanted = max(least, n_queries if n_queries == 1 else n_queries + -n_queries % _KEYS_TOGETHER)
    missing = wanted - n_queries
    if not missing:
        return query, allowed
    if allowed is not None and allowed.ndim >= 2 and allowed.shape[-2] > 1:
        allowed = functional.pad(allowed, (0, 0, 0, missing), value=True)
    return functional.pad(query, (0, 0, 0, missing)), allowed


def _attend_by_products(
    query: Tensor, k: Tensor, v: Tensor, seen: Seen, shape: tuple[int, int]
) -> Tensor:
    """Attend by torch's products; of queries and keys only so many are real as ``shape`` says."""
    # torch's own attention is half as fast in bfloat16, and sums in an order that depends on the
    # padding.
    scores = torch.matmul(query, k.transpose(-1, -2))
    if seen.bias is not None:
        scores[:, :, : shape[0], : shape[1]] += seen.bias.of(query, k, seen.positions, *shape)
    if seen.allowed is not None:
        scores.masked_fill_(~seen.allowed, float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1), v)


def _attend_with_bias(query: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    n_queries, n_keys = query.shape[2], k.shape[2]
    bias = None
    if seen.bias is not None:
        bias = seen.bias.of(query, k, seen.positions, n_queries, n_keys)
    mask, is_causal = joined_scores_mask(bias, seen.allowed, n_keys, seen.is_causal)
    return _attend_in_one(query, k, v, mask, is_causal)


def _attend_in_one(
    query: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool
) -> Tensor:
    n_queries, n_keys = query.shape[2], k.shape[2]
    missing = min(_query_block(n_keys), n_keys) - n_queries
    if query.device.type == "cpu" and missing > 0:
        # torch takes queries in blocks, and a few by themselves would be summed in another order
        # than at the head of their block. Filled up, the outcome is the same to the bit.
        query = functional.pad(query, (0, 0, 0, missing))
        if allowed is not None and allowed.ndim >= 2 and allowed.shape[-2] > 1:
            allowed = functional.pad(allowed, (0, 0, 0, missing), value=True)
    attended = functional.scaled_dot_product_attention(
        query, k, v, attn_mask=allowed, is_causal=is_causal, scale=1.0
    )
    return attended[:, :, :n_queries]


def _query_block(length: int) -> int:
    """Return the number of queries torch's attention on a CPU takes at a time."""
    if length < 192:
        return 32
    return 64 if length < 768 else 256


def _normalizer(
    norm: torch.nn.LayerNorm | RMSWeights | None, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Return a norm as a function, which leaves its argument as it is where there is no norm."""
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


def _reader(scale: InputScale | None, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return _unchanged if scale is None else RowRounder(scale, dtype)


def _unchanged(rows: Tensor) -> Tensor:
    return rows
