"""Softmax attention on a CPU whose results do not depend on the rest of the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .backbones import AttentionBias, for_each_head, joined_scores_mask, near_keys

# Bytes of attention scores that are computed at a time; more would not fit the processor's caches.
_SCORES_BYTES = 16 * 2**20
# The scores of a single sample are computed at once up to this number of bytes.
_SCORES_BYTES_OF_ONE = 4 * _SCORES_BYTES
# Number of scores that are converted to float32 at a time: few enough to stay in the processor's
# caches, and for the allocator to reuse their memory.
_FLOATS_TOGETHER = 2**19
_FEW_SCORES = 2**16
# Queries of local attention are grouped in multiples of this number.
_NEIGHBORS = 64
# Width of the widest SIMD vector of float32.
_KEYS_TOGETHER = 16
# torch does not use oneDNN for bfloat16 products of up to this number of multiplications.
_SMALL_PRODUCT = 16**3


class Neighborhood(NamedTuple):
    """Keys that queries attend to in local attention, if the queries are all positions in order."""

    mask: Tensor
    """(n, t), bool: True at real positions."""
    window: int
    """Positions attend to positions at a distance below it."""
    is_causal: bool
    """Whether they only attend to earlier positions."""

    @property
    def _reach(self) -> int:
        return self.window - 1 + -(self.window - 1) % _NEIGHBORS

    @property
    def _step(self) -> int:
        return max(_NEIGHBORS, self._reach)

    def spares(self, length: int) -> bool:
        """Return whether a sequence is so long that computing it in blocks saves time."""
        return length > self._step + 2 * self._reach

    def blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield blocks of queries, a range of keys for each, and a mask of allowed keys.

        Keys begin at multiples of the SIMD width, so that sums are the same as without blocks.
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
    """Keys that the queries of one call attend to, and the positions of the queries."""

    allowed: Tensor | None = None
    """Broadcasts to (n, heads, r, t), bool: True if a query attends to a key; None for all."""
    is_causal: bool = False
    """Whether each query only attends to keys up to its own position."""
    bias: AttentionBias | None = None
    """Added to the scores."""
    positions: Tensor | None = None
    """(n, r), positions of the queries, for the bias; None: all positions, in order."""
    neighborhood: Neighborhood | None = None
    """Used instead of all other fields in long sequences with local attention."""
    unseen: Tensor | None = None
    """Used instead of `allowed` for float32 scores: added to them, 0 or -inf."""

    def part(self, samples: slice, queries: slice) -> Seen:
        """Return this object for some queries of some samples; with a bias, for all queries."""
        positions = None if self.positions is None else self.positions[samples]
        return self._replace(
            allowed=_part(self.allowed, samples, queries),
            positions=positions,
            unseen=_part(self.unseen, samples, queries),
        )


def _part(mask: Tensor | None, samples: slice, queries: slice) -> Tensor | None:
    if mask is None:
        return None
    if mask.ndim == 4 and mask.shape[0] > 1:
        mask = mask[samples]
    return mask[..., queries, :] if _is_by_query(mask) else mask


def _is_by_query(mask: Tensor) -> bool:
    return mask.ndim >= 2 and mask.shape[-2] > 1


def attend(query: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    """Return the softmax attention of scaled queries, (n, heads, r, head_dim).

    On a CPU, the bfloat16 result of a query is bitwise independent of the number of other queries,
    samples and masked keys.

    Parameters
    ----------
    query : Tensor of shape (n, heads, r, head_dim)
        After the rotary embedding.
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
    n_queries, n_keys = query.shape[2], k.shape[2]
    # Add masked keys, so that the softmax always sums whole SIMD vectors, for any padding.
    more_keys = n_keys + -n_keys % _KEYS_TOGETHER
    more_queries = _enough_queries(query)
    unseen = _unseen(_as_mask(seen.allowed, seen.is_causal, k), n_keys, more_keys)
    if unseen is not None and _is_by_query(unseen):
        unseen = _padded(unseen, more_queries - n_queries)
    k, v = _padded(k, more_keys - n_keys), _padded(v, more_keys - n_keys)
    query = _padded(query, more_queries - n_queries)
    seen = seen._replace(allowed=None, is_causal=False, unseen=unseen)
    attend_part = functools.partial(_attend_by_products, shape=(n_queries, n_keys))
    return _attend_in_parts(attend_part, query, k, v, seen)[:, :, :n_queries]


def _attend_in_parts(
    attend_part: Callable[[Tensor, Tensor, Tensor, Seen], Tensor],
    query: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Seen,
) -> Tensor:
    """Compute attention for a few samples at a time, so that scores stay in the caches."""
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


def _powers_of_two(n: int, most: int) -> Iterator[slice]:
    """Yield slices of n samples, of at most `most`, whose sizes are powers of two.

    oneDNN compiles a product for every size, so few different sizes are used.
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


def _unseen(allowed: Tensor | None, n_keys: int, more_keys: int) -> Tensor | None:
    """Return the term added to float32 scores: -inf at masked keys; None if there are none."""
    if allowed is None:
        return _missing_keys(n_keys, more_keys) if more_keys > n_keys else None
    unseen = torch.full((*allowed.shape[:-1], more_keys), -torch.inf, device=allowed.device)
    unseen[..., :n_keys].masked_fill_(allowed, 0.0)
    return unseen


@functools.lru_cache(maxsize=256)
def _missing_keys(n_keys: int, more_keys: int) -> Tensor:
    unseen = torch.zeros(1, 1, 1, more_keys)
    unseen[..., n_keys:] = -torch.inf
    return unseen


def _enough_queries(query: Tensor) -> int:
    """Round a number of queries up, because oneDNN compiles a product for every number.

    The result is also large enough for torch to use oneDNN.
    """
    _, heads, n_queries, head_dim = query.shape
    least = _SMALL_PRODUCT // (heads * head_dim * _KEYS_TOGETHER) + 1
    return max(least, n_queries if n_queries == 1 else n_queries + -n_queries % _KEYS_TOGETHER)


def _padded(part: Tensor, missing: int) -> Tensor:
    """Append zeros at some more positions to a tensor (..., t, width)."""
    return functional.pad(part, (0, 0, 0, missing)) if missing else part


def _attend_by_products(
    query: Tensor, k: Tensor, v: Tensor, seen: Seen, shape: tuple[int, int]
) -> Tensor:
    """Compute attention with matrix products; ``shape`` is the number of real queries and keys."""
    # torch's scaled_dot_product_attention is half as fast in bfloat16, and its order of summation
    # depends on the padding.
    scores = torch.matmul(query, k.transpose(-1, -2))
    if seen.bias is not None:
        scores[:, :, : shape[0], : shape[1]] += seen.bias.of(query, k, seen.positions, *shape)
    return torch.matmul(_softmax(scores, seen.unseen), v)


def _softmax(scores: Tensor, unseen: Tensor | None) -> Tensor:
    """Compute the softmax of bfloat16 scores over the keys, in place.

    `torch.softmax` in bfloat16 takes twice as long on such short rows; but with several threads,
    the overhead of additional calls is larger for few scores. Both give bitwise equal results,
    computed in float32.
    """
    n, heads, n_queries, n_keys = scores.shape
    few = scores.numel() <= _FEW_SCORES and torch.get_num_threads() > 1
    if few and _rounds_like_float32():
        if unseen is not None:
            scores.masked_fill_(unseen < 0, -torch.inf)
        return torch.softmax(scores, dim=-1)
    together = max(1, _FLOATS_TOGETHER // (n_queries * n_keys))
    for samples in _slices(n, max(1, together // heads)):
        added = _part(unseen, samples, slice(None))
        for some_heads in _slices(heads, together):
            part = scores[samples, some_heads]
            exact = part.float()
            if added is not None:
                exact += added
            part.copy_(torch.softmax(exact, dim=-1))
    return scores


@functools.cache
def _rounds_like_float32() -> bool:
    """Return whether torch's bfloat16 softmax is bitwise equal to the rounded float32 softmax."""
    generator = torch.Generator().manual_seed(0)
    lengths = (_KEYS_TOGETHER, 3 * _KEYS_TOGETHER, 8 * _KEYS_TOGETHER)
    for length in lengths:
        scores = torch.randn(64, length, generator=generator).mul_(3).to(torch.bfloat16)
        scores[::2, -5:] = -torch.inf
        rounded = torch.softmax(scores.float(), dim=-1).to(torch.bfloat16)
        if not torch.equal(torch.softmax(scores, dim=-1), rounded):
            return False
    return True


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
        # torch processes queries in blocks; an incomplete block would be summed in another order.
        # With padding to a full block, the result is bitwise the same.
        query = functional.pad(query, (0, 0, 0, missing))
        if allowed is not None and allowed.ndim >= 2 and allowed.shape[-2] > 1:
            allowed = functional.pad(allowed, (0, 0, 0, missing), value=True)
    attended = functional.scaled_dot_product_attention(
        query, k, v, attn_mask=allowed, is_causal=is_causal, scale=1.0
    )
    return attended[:, :, :n_queries]


def _query_block(length: int) -> int:
    """Return the number of queries that torch's attention on a CPU processes at a time."""
    if length < 192:
        return 32
    return 64 if length < 768 else 256
