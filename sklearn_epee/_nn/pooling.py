"""Pooling of a layer's hidden states for the heads, and which poolings a family allows."""

from __future__ import annotations

import torch
from torch import Tensor

from .backbones import BackboneAdapter
from .batch_layout import BatchLayout


def check_pooling(pooling: str, adapter: BackboneAdapter) -> None:
    """Raise if a pooling is not suitable for a family.

    Raises
    ------
    ValueError
        For ``"cls"`` with a causal decoder, whose position 0 only attends to itself, or with a
        family without a class token; for ``"entity"`` with a causal decoder, in which the mark
        before an entity does not attend to the entity; for ``"last"`` or ``"entity"`` with images.
    """
    if adapter.causal and pooling in ("cls", "cls+mean"):
        raise ValueError(
            f"pooling={pooling!r} reads position 0, which in a causal decoder such as "
            f"{adapter.family!r} sees only itself; use pooling='last', 'mean' or 'auto'."
        )
    if adapter.causal and pooling == "entity":
        raise ValueError(
            "pooling='entity' reads the marks in front of two entities, which in a causal decoder "
            f"such as {adapter.family!r} see neither the entities nor what follows; use "
            "pooling='last', which sees the whole text, 'mean' or 'auto'."
        )
    if adapter.kind == "image" and pooling == "entity":
        raise ValueError(
            f"pooling='entity' reads marks in texts, not images ({adapter.family!r}); use "
            "pooling='cls', 'mean', 'cls+mean' or 'auto'."
        )
    if adapter.kind == "image" and pooling == "last":
        raise ValueError(
            f"pooling='last' reads the last token, which images do not have ({adapter.family!r}); "
            + (
                "use pooling='cls', 'mean', 'cls+mean' or 'auto'."
                if adapter.has_class_token
                else "use pooling='mean', 'attention' or 'auto'."
            )
        )
    if not adapter.has_class_token and pooling in ("cls", "cls+mean"):
        raise ValueError(
            f"pooling={pooling!r} reads the class token, which {adapter.family!r} does not have: "
            "its position 0 is the patch in a corner; use pooling='mean', 'attention' or 'auto'."
        )


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real positions, (n, t, d) and (n, t) -> (n, d), in float32."""
    return mean_over_samples(hidden, BatchLayout(mask))


def mean_over_samples(hidden: Tensor, layout: BatchLayout) -> Tensor:
    """Return the mean over the real positions of each sample, in float32.

    From (w, t, d) to (n, d). The positions of all windows of a sample have the same weight.
    """
    weights = layout.mask.unsqueeze(-1).float()
    totals, counts = (hidden.float() * weights).sum(1), weights.sum(1)
    return layout.summed(totals) / layout.summed(counts).clamp_min(1.0)


def attended_mean(hidden: Tensor, mask: Tensor, query: Tensor) -> Tensor:
    """Return the mean over the real positions, weighted by their attention to a query.

    The attention weights are the softmax of the scaled dot products with the query.

    Parameters
    ----------
    hidden : Tensor of shape (n, t, d)
    mask : Tensor of shape (n, t), bool
        True at real positions; the others have weight 0.
    query : Tensor of shape (d,), float32

    Returns
    -------
    Tensor of shape (n, d), float32

    References
    ----------
    Lin et al., "A structured self-attentive sentence embedding", arXiv 1703.03130, with one
    attention row and scaled dot products as scores.
    """
    return attended_mean_over_samples(hidden, BatchLayout(mask), query)


def attended_mean_over_samples(hidden: Tensor, layout: BatchLayout, query: Tensor) -> Tensor:
    """Return `attended_mean` over the positions of all windows of each sample.

    From hidden states (w, t, d) of n samples to (n, d), in float32.
    """
    hidden = hidden.float()
    # Not a matrix product, so that autocast keeps float32, and the result of a sample does not
    # depend on the batch size.
    scores = (hidden * query).sum(-1) * query.shape[0] ** -0.5
    scores = scores.masked_fill(~layout.mask, torch.finfo(scores.dtype).min)
    means = (hidden * torch.softmax(scores, dim=1).unsqueeze(-1)).sum(1)
    if layout.windows is None:
        return means
    # The weight of a window is the sum of its positions' weights in a softmax over all windows.
    shares = layout.shares(torch.logsumexp(scores, dim=1))
    return layout.summed(means * shares.unsqueeze(1))


def last_real_positions(mask: Tensor) -> Tensor:
    """Return the index of the last real token of each row, for padding on either side."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (mask.long() * positions).argmax(dim=1)
