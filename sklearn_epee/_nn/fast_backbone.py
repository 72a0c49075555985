"""A trained backbone on a CPU: the adapter's four operations without modules, weights packed."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .backbones import BackboneAdapter, LayerParts
from .packed_linear import make_product

# Bytes of attention scores made at a time; beyond the processor's caches they cost more.
_SCORES_BYTES = 16 * 2**20
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

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """Return hidden states ready for a head."""
        ...


class FastLayer:
    """One transformer layer as a handful of products.

    Parameters
    ----------
    parts : LayerParts
        The scale of the attention is in the query already.
    n_heads : int
    dtype : torch.dtype
    """

    def __init__(self, parts: LayerParts, n_heads: int, dtype: torch.dtype) -> None:
        self._n_heads = n_heads
        self._pre_norm = parts.pre_norm
        self._query = make_product(parts.query, dtype)
        # Apart, not as one product with a wide weight: each lands in memory of its own, in the
        # order in which the attention reads it.
        self._key = make_product(parts.key, dtype)
        self._value = make_product(parts.value, dtype)
        self._out = make_product(parts.out, dtype)
        self._up = make_product(parts.up, dtype, parts.activation)
        self._down = make_product(parts.down, dtype)
        self._norm_1 = _normalizer(parts.norm_1, dtype)
        self._norm_2 = _normalizer(parts.norm_2, dtype)

    def keys_values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of all positions, (n, heads, t, head_dim)."""
        rows = self._read(_flat(hidden))
        return self._split(self._key(rows), hidden), self._split(self._value(rows), hidden)

    def rows(
        self, hidden: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool
    ) -> Tensor:
        """Return the output of the layer at the positions of ``hidden``, (n, r, d)."""
        flat = _flat(hidden)
        query = self._split(self._query(self._read(flat)), hidden)
        attended = _flat(attend(query, k, v, allowed, is_causal).transpose(1, 2).flatten(2))
        return self._finish(attended, flat)[: hidden.shape[0] * hidden.shape[1]].view_as(hidden)

    def _read(self, rows: Tensor) -> Tensor:
        return self._norm_1(rows) if self._pre_norm else rows

    def _split(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """Return the rows of the positions of ``hidden``, cut into heads."""
        n, t, _ = hidden.shape
        return rows[: n * t].view(n, t, self._n_heads, -1).transpose(1, 2)

    def _finish(self, attended: Tensor, rows: Tensor) -> Tensor:
        rows = self._out.added(attended, rows)
        if self._pre_norm:
            return self._down.added(self._up.activated(self._norm_2(rows)), rows)
        rows = self._norm_1(rows)
        return self._norm_2(self._down.added(self._up.activated(rows), rows))


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
        What the layers compute in.
    """

    def __init__(
        self, adapter: BackboneAdapter, layers: list[LayerParts], dtype: torch.dtype
    ) -> None:
        self._adapter = adapter
        self._dtype = dtype
        n_heads = int(adapter.model.config.num_attention_heads)
        # Layers that share their weights share the copy.
        shared: dict[int, FastLayer] = {}
        self._layers = []
        for parts in layers:
            key = id(parts.norm_1)
            if key not in shared:
                shared[key] = FastLayer(parts, n_heads, dtype)
            self._layers.append(shared[key])

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `BackboneAdapter.embed`."""
        hidden, mask = self._adapter.embed(batch)
        return hidden.to(self._dtype), mask

    def keys_values(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See `BackboneAdapter.keys_values`."""
        return self._layers[layer - 1].keys_values(hidden)

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
        allowed, is_causal = self._adapter.allowed(mask, positions)
        return self._layers[layer - 1].rows(hidden_rows, k, v, allowed, is_causal)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """See `BackboneAdapter.pool`; in float32."""
        return self._adapter.pool(hidden_rows.float())


def fast_backbone(adapter: BackboneAdapter, dtype: torch.dtype) -> FastBackbone | None:
    """Return a backbone taken apart into products; None where a layer is built to another plan.

    Parameters
    ----------
    adapter : BackboneAdapter
        On a CPU, in float32, in evaluation mode.
    dtype : torch.dtype

    Returns
    -------
    FastBackbone or None
    """
    parts = [adapter.layer_parts(layer) for layer in range(1, adapter.n_layers + 1)]
    usual = [part for part in parts if part is not None]
    return FastBackbone(adapter, usual, dtype) if len(usual) == len(parts) else None


def attend(query: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool) -> Tensor:
    """Return the softmax attention of queries that are scaled already, (n, heads, r, head_dim).

    On a CPU a query's outcome in bfloat16 depends, to the bit, on its own sample alone: not on
    how many queries, samples or masked keys stand beside it.

    Parameters
    ----------
    query : Tensor of shape (n, heads, r, head_dim)
    k, v : Tensors of shape (n, heads, t, head_dim)
    allowed : Tensor that broadcasts to (n, heads, r, t), bool, or None
        True where a query sees a key.
    is_causal : bool
        Whether each query sees the keys up to its own.
    """
    if query.dtype == torch.float32 or query.device.type != "cpu":
        return _attend_in_one(query, k, v, allowed, is_causal)
    n_queries = query.shape[2]
    allowed = _as_mask(allowed, is_causal, k)
    k, v, allowed = _with_more_keys(k, v, allowed)
    query, allowed = _with_more_queries(query, allowed)
    scores_bytes = query.shape[1] * query.shape[2] * k.shape[2] * query.element_size()
    parts = [
        _attend_by_products(query[at], k[at], v[at], _part_of(allowed, at))
        for at in _powers_of_two(len(query), max(1, _SCORES_BYTES // scores_bytes))
    ]
    attended = parts[0] if len(parts) == 1 else torch.cat(parts)
    return attended[:, :, :n_queries]


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


def _attend_by_products(query: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    # torch's own attention is half as fast in bfloat16, and sums in an order that depends on the
    # padding.
    scores = torch.matmul(query, k.transpose(-1, -2))
    if allowed is not None:
        scores.masked_fill_(~allowed, float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1), v)


def _attend_in_one(
    query: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool
) -> Tensor:
    n_queries, n_keys = query.shape[2], k.shape[2]
    alone = n_queries == 1 and n_keys > 1 and query.device.type == "cpu"
    if alone:
        # torch takes queries in blocks, and one by itself would be summed in another order than
        # at the head of its block. Filled up, the outcome is the same to the bit.
        query = functional.pad(query, (0, 0, 0, min(_query_block(n_keys), n_keys) - 1))
    attended = functional.scaled_dot_product_attention(
        query, k, v, attn_mask=allowed, is_causal=is_causal, scale=1.0
    )
    return attended[:, :, :1] if alone else attended


def _query_block(length: int) -> int:
    """Return the number of queries torch's attention on a CPU takes at a time."""
    if length < 192:
        return 32
    return 64 if length < 768 else 256


def _part_of(allowed: Tensor | None, samples: slice) -> Tensor | None:
    if allowed is None or allowed.ndim < 4 or len(allowed) == 1:
        return allowed
    return allowed[samples]


def _normalizer(norm: torch.nn.LayerNorm, dtype: torch.dtype) -> functools.partial[Tensor]:
    weight, bias = norm.weight, norm.bias
    return functools.partial(
        functional.layer_norm,
        normalized_shape=norm.normalized_shape,
        weight=None if weight is None else weight.detach().to(dtype),
        bias=None if bias is None else bias.detach().to(dtype),
        eps=norm.eps,
    )
