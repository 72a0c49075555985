"""Positions in the attention: rotary embeddings, and biases that are added to the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "AttentionBias",
    "DisentangledBias",
    "RelativeBias",
    "Rotary",
    "TableBias",
    "for_each_head",
    "joined_scores_mask",
    "near_keys",
]


class Rotary(NamedTuple):
    """Rotary angles of the positions of a sequence, for queries and keys.

    Components c and c + head_dim / 2 of a head are rotated as the coordinates of a point.

    References
    ----------
    Su et al., "RoFormer: Enhanced transformer with rotary position embedding", arXiv 2104.09864.
    """

    cos: Tensor
    """(t, head_dim / 2), or (n, r, head_dim / 2) if positions differ between samples. Positions
    that are not rotated have 1 here and 0 in ``sin``."""
    sin: Tensor

    @classmethod
    def of_frequencies(cls, frequencies: Tensor, length: int, scale: float = 1.0) -> Rotary:
        """Return the angles of the positions 0 to ``length - 1``, in float32.

        Parameters
        ----------
        frequencies : Tensor of shape (head_dim / 2,)
            Angle from one position to the next, in radians.
        length : int
        scale : float, default=1.0
            Factor of both tables.
        """
        steps = torch.arange(length, device=frequencies.device, dtype=torch.float32)
        angles = steps[:, None] * frequencies.float()
        return cls(angles.cos() * scale, angles.sin() * scale)

    def at(self, positions: Tensor | None, n_rows: int) -> Rotary:
        """Return the angles of some rows.

        Parameters
        ----------
        positions : Tensor of shape (n, r), int64, or None
            None: the first ``n_rows`` positions.
        n_rows : int
        """
        if positions is None:
            return Rotary(self.cos[:n_rows], self.sin[:n_rows])
        return Rotary(self.cos[positions], self.sin[positions])

    def to(self, dtype: torch.dtype) -> Rotary:
        """Return the angles in another precision."""
        return Rotary(self.cos.to(dtype), self.sin.to(dtype))

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate queries or keys, (n, heads, r, head_dim), at these r positions."""
        cos, sin = (part.to(heads.dtype).unsqueeze(-3) for part in self)
        first, second = heads.chunk(2, dim=-1)
        return torch.cat(
            [
                torch.addcmul(first * cos, second, sin, value=-1),
                torch.addcmul(second * cos, first, sin),
            ],
            dim=-1,
        )


class AttentionBias(ABC):
    """Term that is added to the attention scores, the products of queries and keys."""

    @abstractmethod
    def of(
        self, query: Tensor, k: Tensor, positions: Tensor | None, n_queries: int, n_keys: int
    ) -> Tensor:
        """Return the bias, which broadcasts to (n, heads, n_queries, n_keys).

        Parameters
        ----------
        query : Tensor of shape (n, heads, r, head_dim)
            Including the scale of the scores.
        k : Tensor of shape (n, heads, t, head_dim)
        positions : Tensor of shape (n, n_queries), int64, or None
            Positions of the queries. None: the first positions, in order.
        n_queries, n_keys : int
            Numbers of real queries and keys; further ones are padding.
        """

    @abstractmethod
    def fits(self, length: int) -> bool:
        """Return whether the bias can be used for sequences of a length."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> AttentionBias:
        """Return the bias in another precision."""


class RelativeBias(AttentionBias):
    """A number for each distance between query and key and each head.

    Parameters
    ----------
    by_distance : Tensor of shape (heads, 2 T - 1)
        Entry T - 1 + d is for keys d positions after the query.
    """

    def __init__(self, by_distance: Tensor) -> None:
        self._by_distance = by_distance

    def of(
        self,
        query: Tensor,  # noqa: ARG002 - the same whatever is compared
        k: Tensor,  # noqa: ARG002
        positions: Tensor | None,
        n_queries: int,
        n_keys: int,
    ) -> Tensor:
        table = self._by_distance
        middle = table.shape[1] // 2
        if positions is None:
            # Row i uses the window that starts i entries before the middle.
            windows = table[:, middle - n_queries + 1 : middle + n_keys].unfold(1, n_keys, 1)
            return windows.flip(1).unsqueeze(0)
        keys = torch.arange(n_keys, device=table.device)
        return table[:, keys - positions.unsqueeze(-1) + middle].transpose(0, 1)

    def fits(self, length: int) -> bool:
        return length <= self._by_distance.shape[1] // 2 + 1

    def to(self, dtype: torch.dtype) -> RelativeBias:
        return RelativeBias(self._by_distance.to(dtype))


class TableBias(AttentionBias):
    """A number for each pair of positions and each head, for sequences of one length.

    Parameters
    ----------
    table : Tensor of shape (heads, t, t)
        By query, then by key.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table

    def of(
        self,
        query: Tensor,  # noqa: ARG002 - the same whatever is compared
        k: Tensor,  # noqa: ARG002
        positions: Tensor | None,
        n_queries: int,
        n_keys: int,
    ) -> Tensor:
        if positions is None:
            return self._table[:, :n_queries, :n_keys].unsqueeze(0)
        return self._table[:, positions, :n_keys].transpose(0, 1)

    def fits(self, length: int) -> bool:
        return length == self._table.shape[1]

    def to(self, dtype: torch.dtype) -> TableBias:
        return TableBias(self._table.to(dtype))


class DisentangledBias(AttentionBias):
    """Products of queries with embeddings of the distance, and of keys with others.

    Parameters
    ----------
    keys : Tensor of shape (heads, 2 T - 1, head_dim) or None
        Multiplied with queries: entry T - 1 + d is for keys d positions after the query.
    queries : Tensor of shape (heads, 2 T - 1, head_dim) or None
        Multiplied with keys, scaled: entry T - 1 + d is for queries d positions after the key.

    References
    ----------
    He et al., "DeBERTa: Decoding-enhanced BERT with disentangled attention", arXiv 2006.03654.
    """

    def __init__(self, keys: Tensor | None, queries: Tensor | None) -> None:
        self._keys = keys
        self._queries = queries

    def of(
        self, query: Tensor, k: Tensor, positions: Tensor | None, n_queries: int, n_keys: int
    ) -> Tensor:
        terms = []
        if self._keys is not None:
            terms.append(_to_positions(query, self._keys, positions, (n_queries, n_keys)))
        if self._queries is not None:
            terms.append(_from_positions(k, self._queries, positions, (n_queries, n_keys)))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def fits(self, length: int) -> bool:
        table = self._queries if self._keys is None else self._keys
        return table is not None and length <= table.shape[1] // 2 + 1

    def to(self, dtype: torch.dtype) -> DisentangledBias:
        return DisentangledBias(
            *(None if part is None else part.to(dtype) for part in (self._keys, self._queries))
        )


def _to_positions(
    query: Tensor, table: Tensor, positions: Tensor | None, shape: tuple[int, int]
) -> Tensor:
    """Return the products of queries with the embedded distance of each key."""
    n_queries, n_keys = shape
    if positions is not None:
        products = query @ _around(table, n_keys, n_keys).transpose(-1, -2)
        columns = torch.arange(n_keys, device=query.device) - positions.unsqueeze(-1) + n_keys - 1
        columns = columns.unsqueeze(1).expand(*query.shape[:2], -1, -1)
        return products[:, :, :n_queries].gather(-1, columns)
    # There is one column per distance; the keys of a row are consecutive columns, which start one
    # column earlier in each row.
    products = query @ _around(table, n_queries, n_keys).transpose(-1, -2)
    return _diagonals(products, n_queries, n_keys, first=n_queries - 1)


def _from_positions(
    k: Tensor, table: Tensor, positions: Tensor | None, shape: tuple[int, int]
) -> Tensor:
    """Return the products of keys with the embedded distance of each query."""
    n_queries, n_keys = shape
    if positions is not None:
        products = k @ _around(table, n_keys, n_keys).transpose(-1, -2)
        keys = torch.arange(n_keys, device=k.device).unsqueeze(-1)
        columns = positions.unsqueeze(-2) - keys + n_keys - 1
        columns = columns.unsqueeze(1).expand(*k.shape[:2], -1, -1)
        return products[:, :, :n_keys].gather(-1, columns).transpose(-1, -2)
    products = k @ _around(table, n_keys, n_queries).transpose(-1, -2)
    return _diagonals(products, n_keys, n_queries, first=n_keys - 1).transpose(-1, -2)


def _around(table: Tensor, n_before: int, n_after: int) -> Tensor:
    """Return the entries of the distances from ``1 - n_before`` to ``n_after - 1``."""
    middle = table.shape[1] // 2
    return table[:, middle - n_before + 1 : middle + n_after]


def _diagonals(products: Tensor, n_rows: int, n_columns: int, first: int) -> Tensor:
    """Return a view whose row i contains the columns from ``first - i`` on."""
    products = products.contiguous()
    *outer, row, column = products.stride()
    return products.as_strided(
        (*products.shape[:-2], n_rows, n_columns),
        (*outer, row - column, column),
        products.storage_offset() + first * column,
    )


def near_keys(
    mask: Tensor, positions: Tensor | None, is_causal: bool, window: int | None
) -> Tensor:
    """Return which keys are within the window of a query and, if causal, not after it.

    Parameters
    ----------
    mask : Tensor of shape (n, t), bool
        True at real positions.
    positions : Tensor of shape (n, r) or (1, r), int64, or None
        Positions of the queries. None: all positions, in order.
    is_causal : bool
    window : int or None
        Keys must be at a distance below it; None: any distance.

    Returns
    -------
    Tensor of shape (n, 1, r, t), bool
    """
    n_keys = mask.shape[1]
    if positions is None:
        near = torch.ones(n_keys, n_keys, dtype=torch.bool, device=mask.device)
        near = near if window is None else near.triu(1 - window)
        near = near.tril(0 if is_causal else n_keys if window is None else window - 1)
        itself = torch.eye(n_keys, dtype=torch.bool, device=mask.device)
    else:
        before = positions[:, :, None] - torch.arange(n_keys, device=mask.device)
        itself = before == 0
        near = before >= 0 if is_causal else torch.ones_like(itself)
        near = near if window is None else near & (before.abs() < window)
    # Padding attends to itself: the softmax of a row without any key would be NaN.
    return ((near & mask[:, None, :]) | itself)[:, None]


def joined_scores_mask(
    bias: Tensor | None, allowed: Tensor | None, n_keys: int, is_causal: bool
) -> tuple[Tensor | None, bool]:
    """Combine a bias and a mask to one mask for torch's attention; also return `is_causal`."""
    if bias is None:
        return allowed, is_causal
    if is_causal:
        allowed = torch.ones(n_keys, n_keys, dtype=torch.bool, device=bias.device).tril()
    if allowed is None:
        return bias, False
    return bias.masked_fill(~allowed, float("-inf")), False


def for_each_head(shared: Tensor, n_heads: int) -> Tensor:
    """Repeat keys or values that query heads share, so that there is one per query head."""
    repeats = n_heads // shared.shape[1]
    return shared if repeats == 1 else shared.repeat_interleave(repeats, dim=1)
