"""Pooling of a layer's hidden states for the heads, and which poolings a family allows."""

from __future__ import annotations

import torch
from torch import Tensor

from .backbones import BackboneAdapter
from .batch_layout import BatchLayout


def check_pooling(pooling: str, adapter: BackboneAdapter) -> None:
    """Refuse a pooling that makes no sense for a family.

    Raises
    ------
    ValueError
        ``"cls"`` with a causal decoder, whose position 0 sees only itself, or with a family
        without a class token; ``"entity"`` with a causal decoder, in which the mark before an
        entity does not see the entity; ``"last"`` or ``"entity"`` with images.
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

    From (w, t, d) to (n, d). The positions of all windows of a sample count alike.
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
        True at real positions; the others weigh exactly 0.
    query : Tensor of shape (d,), float32

    Returns
    -------
    Tensor of shape (n, d), float32

    References
    ----------
    Lin et al., "A structured self-attentive sentence embedding", arXiv 1703.03130, with one row of
    attention and the score of a plain product, scaled as in transformers.
    """
    return attended_mean_over_samples(hidden, BatchLayout(mask), query)


def attended_mean_over_samples(hidden: Tensor, layout: BatchLayout, query: Tensor) -> Tensor:
    """Return `attended_mean` over the positions of all windows of each sample, as if in one row.

    From hidden states (w, t, d) of n samples to (n, d), in float32.
    """
    hidden = hidden.float()
    # Sums of products, not a matrix product: autocast leaves them in float32, and a sample's sum
    # does not depend on how many share its batch.
    scores = (hidden * query).sum(-1) * query.shape[0] ** -0.5
    scores = scores.masked_fill(~layout.mask, torch.finfo(scores.dtype).min)
    means = (hidden * torch.softmax(scores, dim=1).unsqueeze(-1)).sum(1)
    if layout.windows is None:
        return means
    # A window weighs what its positions weigh together in a softmax over those of all windows.
    shares = layout.shares(torch.logsumexp(scores, dim=1))
    return layout.summed(means * shares.unsqueeze(1))


def last_real_positions(mask: Tensor) -> Tensor:
    """Return the index of the last real token of each row, under either padding side."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (mask.long() * positions).argmax(dim=1)
