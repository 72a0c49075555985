"""Adapters of the image families: ViT, DeiT, ViT-MAE, CLIP and SigLIP vision, DINOv2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sklearn_epee._nn.backbones._adapter import (
    AttentionParts,
    BackboneAdapter,
    LayerParts,
    LinearWeights,
)

__all__ = [
    "CLIPVisionAdapter",
    "DeiTAdapter",
    "Dinov2Adapter",
    "Dinov2WithRegistersAdapter",
    "SiglipVisionAdapter",
    "ViTAdapter",
    "ViTMAEAdapter",
]


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Return a configured size as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class _ImageAdapter(BackboneAdapter):
    """Shared by the image families: pixel batches, patches, other image sizes."""

    kind: ClassVar[Literal["text", "image"]] = "image"

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pixels = batch["pixel_values"]
        interpolate = self._check_pixels(pixels)
        hidden = self._embed_pixels(pixels.to(self._projection().weight.dtype), interpolate)
        return hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)

    def _projection(self) -> nn.Conv2d:
        """Return the convolution that embeds patches."""
        return self.model.embeddings.patch_embeddings.projection

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:
        return self.model.embeddings(pixels, interpolate_pos_encoding=interpolate)

    def _check_pixels(self, pixels: Tensor) -> bool:
        """Validate pixels; return whether position encodings must be interpolated."""
        config = self.model.config
        _, channels, *size = pixels.shape
        patch = _pair(config.patch_size)
        if channels != config.num_channels:
            raise ValueError(
                f"pixel_values has {channels} channels; this {self.family} backbone expects "
                f"{config.num_channels}."
            )
        if any(side < step or side % step for side, step in zip(size, patch, strict=True)):
            raise ValueError(
                f"image_size: images of {size[0]}x{size[1]} pixels cannot be split into patches of "
                f"{patch[0]}x{patch[1]}; expected a height and a width that are multiples of the "
                "patch size."
            )
        if tuple(size) == _pair(config.image_size):
            return False
        self._check_interpolation(size)
        return True

    def _check_interpolation(self, size: list[int]) -> None:
        config = self.model.config
        height, width = _pair(config.image_size)
        if height != width or not isinstance(config.patch_size, int):
            raise ValueError(
                f"image_size: this {self.family} backbone was made for images of {height}x{width} "
                f"pixels with patch_size={config.patch_size!r}, got {size[0]}x{size[1]}. Position "
                "encodings are interpolated to other sizes only where the configured image is "
                "square and patch_size is one number."
            )


class ViTAdapter(_ImageAdapter):
    """Vision Transformer (Dosovitskiy et al., 2021)."""

    family = "vit"
    config_class = "ViTConfig"
    model_class = "ViTModel"
    model_options: ClassVar[Mapping[str, Any]] = {"add_pooling_layer": False}
    head_keys: ClassVar[tuple[str, ...]] = (
        "classifier",
        "pooler",
        "decoder",
        "embeddings.mask_token",
    )

    def _blocks(self) -> nn.ModuleList:
        return self.model.layers

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention
        return AttentionParts(
            attention.q_proj, attention.k_proj, attention.v_proj, attention.attention_dropout
        )

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.layernorm_before(hidden)

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attention.o_proj),
            up=LinearWeights.of(block.mlp.fc1),
            down=LinearWeights.of(block.mlp.fc2),
            norm_1=block.layernorm_before,
            norm_2=block.layernorm_after,
            activation=block.mlp.activation_fn,
            pre_norm=True,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = residual + block.dropout(block.attention.o_proj(attended))
        return hidden + block.dropout(block.mlp(block.layernorm_after(hidden)))

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.layernorm(hidden_rows)


class DeiTAdapter(ViTAdapter):
    """DeiT (Touvron et al., 2021): ViT with a distillation token at position 1."""

    family = "deit"
    config_class = "DeiTConfig"
    model_class = "DeiTModel"
    head_keys: ClassVar[tuple[str, ...]] = (
        "classifier",
        "cls_classifier",
        "distillation_classifier",
        "pooler",
        "decoder",
        "embeddings.mask_token",
    )


class ViTMAEAdapter(ViTAdapter):
    """The encoder of a masked autoencoder (He et al., 2022), with all patches in order.

    The masking, and the shuffling that comes with it, belong to its pretraining.
    """

    family = "vit_mae"
    config_class = "ViTMAEConfig"
    model_class = "ViTMAEModel"
    model_options: ClassVar[Mapping[str, Any]] = {}
    head_keys: ClassVar[tuple[str, ...]] = ("decoder", "classifier", "pooler")

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:
        embeddings = self.model.embeddings
        patches = embeddings.patch_embeddings(pixels)
        positions = (
            embeddings.interpolate_pos_encoding(patches, *pixels.shape[2:])
            if interpolate
            else embeddings.position_embeddings
        )
        first = (embeddings.cls_token + positions[:, :1]).expand(pixels.shape[0], -1, -1)
        return torch.cat([first, patches + positions[:, 1:]], dim=1)


class CLIPVisionAdapter(_ImageAdapter):
    """The vision tower of CLIP (Radford et al., 2021)."""

    family = "clip"
    tower_of = "CLIPConfig"
    config_class = "CLIPVisionConfig"
    model_class = "CLIPVisionModel"
    head_keys: ClassVar[tuple[str, ...]] = (
        "text_model",
        "text_projection",
        "visual_projection",
        "logit_scale",
        "classifier",
    )

    def _projection(self) -> nn.Conv2d:
        return self.model.embeddings.patch_embedding

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:
        # The spelling of transformers.
        return self.model.pre_layrnorm(super()._embed_pixels(pixels, interpolate))

    def _blocks(self) -> nn.ModuleList:
        return self.model.encoder.layers

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.self_attn
        return AttentionParts(
            attention.q_proj, attention.k_proj, attention.v_proj, attention.dropout
        )

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.layer_norm1(hidden)

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.self_attn.out_proj),
            up=LinearWeights.of(block.mlp.fc1),
            down=LinearWeights.of(block.mlp.fc2),
            norm_1=block.layer_norm1,
            norm_2=block.layer_norm2,
            activation=block.mlp.activation_fn,
            pre_norm=True,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = residual + block.self_attn.out_proj(attended)
        return hidden + block.mlp(block.layer_norm2(hidden))

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.post_layernorm(hidden_rows)


class SiglipVisionAdapter(CLIPVisionAdapter):
    """The vision tower of SigLIP (Zhai et al., 2023), which has no class token."""

    family = "siglip"
    tower_of = "SiglipConfig"
    config_class = "SiglipVisionConfig"
    model_class = "SiglipVisionModel"
    # Its own head uses attention pooling, and is trained for captions.
    config_options: ClassVar[Mapping[str, Any]] = {"vision_use_head": False}
    has_class_token = False
    head_keys: ClassVar[tuple[str, ...]] = (
        "head",
        "text_model",
        "logit_scale",
        "logit_bias",
        "classifier",
    )

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:
        return self.model.embeddings(pixels, interpolate_pos_encoding=interpolate)


class Dinov2Adapter(_ImageAdapter):
    """DINOv2 (Oquab et al., 2024): ViT with LayerScale, and stochastic depth in training."""

    family = "dinov2"
    config_class = "Dinov2Config"
    model_class = "Dinov2Model"
    head_keys: ClassVar[tuple[str, ...]] = ("classifier",)

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:  # noqa: ARG002 - done inside
        return self.model.embeddings(pixels)

    def _blocks(self) -> nn.ModuleList:
        return self.model.encoder.layer

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention
        if hasattr(attention, "q_proj"):
            return AttentionParts(
                attention.q_proj, attention.k_proj, attention.v_proj, attention.attention_dropout
            )
        inner = attention.attention
        return AttentionParts(inner.query, inner.key, inner.value, inner.dropout_prob)

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.norm1(hidden)

    @staticmethod
    def _out_projection(attention: Any) -> nn.Module:
        # In older versions of transformers, the projection is in a separate module.
        return attention.o_proj if hasattr(attention, "o_proj") else attention.output.dense

    def _parts(self, block: Any) -> LayerParts | None:
        out = LinearWeights.of(self._out_projection(block.attention))
        gate, up, down, activation = self._feed_forward(block.mlp)
        return LayerParts(
            *self._attention_maps(block),
            out=out.scaled(block.layer_scale1.lambda1),
            up=up,
            down=down.scaled(block.layer_scale2.lambda1),
            norm_1=block.norm1,
            norm_2=block.norm2,
            activation=activation,
            pre_norm=True,
            gate=gate,
        )

    @staticmethod
    def _feed_forward(
        mlp: Any,
    ) -> tuple[LinearWeights | None, LinearWeights, LinearWeights, nn.Module]:
        """Return gate, up, down and activation; only the giant model has a gate."""
        if hasattr(mlp, "fc1"):
            activation = getattr(mlp, "activation_fn", None) or mlp.activation
            return None, LinearWeights.of(mlp.fc1), LinearWeights.of(mlp.fc2), activation
        if hasattr(mlp, "gate_proj"):
            gate, up = LinearWeights.of(mlp.gate_proj), LinearWeights.of(mlp.up_proj)
            return gate, up, LinearWeights.of(mlp.down_proj), mlp.act_fn
        # In older versions of transformers, gate and up are one layer.
        gate, up = LinearWeights.of(mlp.weights_in).chunk(2)
        return gate, up, LinearWeights.of(mlp.weights_out), nn.SiLU()

    @classmethod
    def _project_attended(cls, attention: Any, attended: Tensor) -> Tensor:
        projected = cls._out_projection(attention)(attended)
        return projected if hasattr(attention, "o_proj") else attention.output.dropout(projected)

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        projected = self._project_attended(block.attention, attended)
        hidden = residual + block.drop_path(block.layer_scale1(projected))
        expanded = block.layer_scale2(block.mlp(block.norm2(hidden)))
        return hidden + block.drop_path(expanded)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.layernorm(hidden_rows)


class Dinov2WithRegistersAdapter(Dinov2Adapter):
    """DINOv2 with register tokens between the class token and the patches (Darcet et al., 2024)."""

    family = "dinov2_with_registers"
    config_class = "Dinov2WithRegistersConfig"
    model_class = "Dinov2WithRegistersModel"
