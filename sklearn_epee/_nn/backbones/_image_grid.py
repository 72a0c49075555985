"""Adapters of image families whose layers use the patch grid: BEiT and DINOv3."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_epee._nn.backbones._adapter import AttentionParts, LayerParts, LinearWeights
from sklearn_epee._nn.backbones._image import Dinov2Adapter, ViTAdapter, _ImageAdapter, _pair
from sklearn_epee._nn.backbones._positions import AttentionBias, Rotary, TableBias

__all__ = ["BeitAdapter", "Dinov3Adapter"]

# Attribute of a configuration for the size of the images in pixels, if it is not the default.
_READ_SIZE = "read_image_size"


class _GridAdapter(_ImageAdapter):
    """Base class of families whose layers need the grid of patches.

    A layer only knows the number of positions. If it matches the image size of `set_image_size` or
    of the configuration, the grid is that of these images; otherwise it is a square.
    """

    def set_image_size(self, size: tuple[int, int]) -> None:
        setattr(self.model.config, _READ_SIZE, list(size))

    @property
    def _n_prefix(self) -> int:
        """Number of positions before those of the patches."""
        return 1

    def _grid(self, n_positions: int) -> tuple[int, int]:
        """Return the numbers of rows and columns of patches of an image."""
        config, n_patches = self.model.config, n_positions - self._n_prefix
        patch = _pair(config.patch_size)
        for size in (getattr(config, _READ_SIZE, None), config.image_size):
            if size is not None:
                height, width = (s // p for s, p in zip(_pair(size), patch, strict=True))
                if height * width == n_patches:
                    return height, width
        side = math.isqrt(n_patches)
        return side, side

    def _check_pixels(self, pixels: Tensor) -> bool:
        interpolate = super()._check_pixels(pixels)
        height, width = pixels.shape[2:]
        patch = _pair(self.model.config.patch_size)
        grid = height // patch[0], width // patch[1]
        if self._grid(grid[0] * grid[1] + self._n_prefix) != grid:
            raise ValueError(
                f"image_size: this {self.family} backbone is not configured for images of "
                f"{height}x{width} pixels; expected its configured size or a square."
            )
        return interpolate


class BeitAdapter(_GridAdapter, ViTAdapter):
    """BEiT (Bao et al., 2022): ViT with an attention bias by the relative position of patches.

    Checkpoints that classify by the mean over the patches normalize after it; here each position
    is normalized so.
    """

    family = "beit"
    config_class = "BeitConfig"
    model_class = "BeitModel"
    # In checkpoints with mean pooling, the last norm is part of the pooler.
    model_options: ClassVar[Mapping[str, Any]] = {"add_pooling_layer": True}
    head_keys: ClassVar[tuple[str, ...]] = (
        "classifier",
        "lm_head",
        "layernorm",
        "embeddings.mask_token",
    )

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:  # noqa: ARG002 - done inside
        return self.model.embeddings(pixels)

    def attention_bias(self, layer: int, length: int) -> AttentionBias | None:
        tables = (self.model.shared_position_bias, self._block(layer).relative_position_bias)
        grid = self._grid(length)
        biases = [_position_bias(table, grid) for table in tables if table is not None]
        return TableBias(sum(biases[1:], biases[0])) if biases else None

    def _parts(self, block: Any) -> LayerParts | None:
        parts = super()._parts(block)
        if parts is None or not isinstance(block.lambda_1, Tensor):
            return parts
        return parts._replace(
            out=parts.out.scaled(block.lambda_1), down=parts.down.scaled(block.lambda_2)
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        projected = block.lambda_1 * block.dropout(block.attention.o_proj(attended))
        hidden = residual + block.drop_path(projected)
        expanded = block.lambda_2 * block.dropout(block.mlp(block.layernorm_after(hidden)))
        return hidden + block.drop_path(expanded)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        norm = self.model.pooler.layernorm
        return (self.model.layernorm if norm is None else norm)(hidden_rows)


class Dinov3Adapter(_GridAdapter, Dinov2Adapter):
    """DINOv3 (Siméoni et al., 2025): rotary embeddings of the patches' positions.

    The angles are those of prediction in training too, where the original moves them at random
    (`pos_embed_shift`, `pos_embed_jitter`, `pos_embed_rescale`).
    """

    family = "dinov3_vit"
    config_class = "DINOv3ViTConfig"
    model_class = "DINOv3ViTModel"

    @property
    def _n_prefix(self) -> int:
        return 1 + int(self.model.config.num_register_tokens)

    def _projection(self) -> nn.Conv2d:
        return self.model.embeddings.patch_embeddings

    def _check_interpolation(self, size: list[int]) -> None:
        """Accept any size, because there are no position embeddings to interpolate."""

    def rotary(self, layer: int) -> Hashable | None:  # noqa: ARG002 - all layers alike
        return "all"

    def rotary_angles(self, name: Hashable, length: int) -> Rotary:  # noqa: ARG002 - the only one
        config = self.model.config
        head_dim = config.hidden_size // config.num_attention_heads
        device = self.model.embeddings.cls_token.device
        grid = self._grid(length)
        return _patch_angles(self._n_prefix, grid, head_dim, config.rope_theta, device)

    def _blocks(self) -> nn.ModuleList:
        return self.model.model.layer

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention
        return AttentionParts(
            attention.q_proj, attention.k_proj, attention.v_proj, attention.dropout
        )

    @staticmethod
    def _feed_forward(
        mlp: Any,
    ) -> tuple[LinearWeights | None, LinearWeights, LinearWeights, nn.Module]:
        gate = LinearWeights.of(mlp.gate_proj) if hasattr(mlp, "gate_proj") else None
        return gate, LinearWeights.of(mlp.up_proj), LinearWeights.of(mlp.down_proj), mlp.act_fn

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.norm(hidden_rows)


def _position_bias(module: Any, grid: tuple[int, int]) -> Tensor:
    """Return BEiT's attention bias for a grid of patches, (heads, t, t).

    The same as the module's own call, which takes its indices to the device each time.
    """
    table = module.relative_position_bias_table
    made_for, wanted = ([2 * side - 1 for side in sides] for sides in (module.window_size, grid))
    between, of_class = table[:-3], table[-3:]
    if made_for[::-1] != wanted:
        # As in transformers, which uses the height of the table as its width.
        image = between.view(1, *made_for[::-1], -1).permute(0, 3, 1, 2)
        image = functional.interpolate(image, size=wanted, mode="bilinear")
        between = image.permute(0, 2, 3, 1).flatten(0, 2)
    index = _relative_index(module.generate_relative_position_index, grid, table.device)
    return torch.cat([between, of_class])[index].permute(2, 0, 1)


@functools.lru_cache(maxsize=16)
def _relative_index(generate: Any, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the row of the table for each pair of positions, (t, t)."""
    # A tensor that is created in inference mode could not be used in training.
    with torch.inference_mode(mode=False):
        index: Tensor = generate(grid).clone().to(device)
    return index


def _patch_angles(
    n_prefix: int, grid: tuple[int, int], head_dim: int, base: float, device: torch.device
) -> Rotary:
    """Return the rotary angles of the centers of patches, from -1 to 1 in each direction.

    The positions before the patches are not rotated.
    """
    steps = torch.arange(0, 1, 4 / head_dim, dtype=torch.float32, device=device)
    frequencies = 2 * math.pi / base**steps
    rows, columns = (
        2 * (torch.arange(0.5, n, dtype=torch.float32, device=device) / n) - 1 for n in grid
    )
    along = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = (along[:, :, None] * frequencies).flatten(1)
    still = angles.new_zeros(n_prefix, angles.shape[1])
    angles = torch.cat([still, angles])
    return Rotary(angles.cos(), angles.sin())
