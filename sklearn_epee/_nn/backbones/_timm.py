"""Adapter of timm's vision transformers, through transformers' wrapper of timm."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel, TimmWrapperConfig

from sklearn_epee._nn.backbones._folder import files_of, read_weights
from sklearn_epee._nn.backbones._image import _ImageAdapter
from sklearn_epee._nn.backbones._parts import AttentionParts, LayerParts, LinearWeights

__all__ = [
    "TimmAdapter",
    "is_timm",
    "open_clip_config",
    "processor_settings",
    "read_timm_config",
    "read_timm_weights",
    "require_timm",
    "with_sizes",
]

_OPEN_CLIP = "open_clip_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Prefixes of the keys of the vision trunk in open_clip, and of the model in the wrapper.
_TRUNK, _WRAPPED = "visual.trunk.", "timm_model."
_HEADS = ("head.", "head_dist.")
# Options of the wrapper that it also passes to timm.
_SET_BY_WRAPPER = ("num_classes",)
_PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
# Interpolation modes by Pillow's numbers.
_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_PARTS_OF_A_BLOCK = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}


class TimmAdapter(_ImageAdapter):
    """timm's VisionTransformer (pre-norm, queries, keys and values in one matrix)."""

    family = "timm_wrapper"
    config_class = "TimmWrapperConfig"
    model_class = "TimmWrapperModel"
    # timm uses it anyway; setting it avoids a warning.
    attention = "sdpa"

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        """Raise if timm is not installed."""
        super().check_config(config)
        require_timm()

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        vit: Any = model.timm_model
        _check_architecture(vit, model.config.architecture)
        self.has_class_token = vit.cls_token is not None

    def _projection(self) -> nn.Conv2d:
        projection: nn.Conv2d = self.model.timm_model.patch_embed.proj
        return projection

    def _check_interpolation(self, size: list[int]) -> None:
        if not self.model.timm_model.dynamic_img_size:
            config = self.model.config
            raise ValueError(
                f"image_size: this timm backbone was made for images of {config.image_size} "
                f'pixels, got {size[0]}x{size[1]}; put "dynamic_img_size": true into model_args of '
                "its config.json to have its positions interpolated."
            )

    def _embed_pixels(self, pixels: Tensor, interpolate: bool) -> Tensor:  # noqa: ARG002 - done inside
        vit = self.model.timm_model
        hidden: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pixels))))
        return hidden

    def _blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.model.timm_model.blocks
        return blocks

    def _attention_parts(self, block: Any) -> AttentionParts:
        fused = block.attn.qkv
        return AttentionParts(fused, fused, fused, block.attn.attn_drop.p)

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        normed: Tensor = block.norm1(hidden)
        return normed

    def _query(self, block: Any, normed: Tensor) -> Tensor:
        weights = LinearWeights.of(block.attn.qkv).chunk(3)[0]
        query: Tensor = block.attn.q_norm(self._split_heads(functional.linear(normed, *weights)))
        return query

    def _key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        maps = LinearWeights.of(block.attn.qkv).chunk(3)[1:]
        key, value = (self._split_heads(functional.linear(normed, *weights)) for weights in maps)
        return block.attn.k_norm(key), value

    def _query_key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = map(self._split_heads, block.attn.qkv(normed).chunk(3, dim=-1))
        return block.attn.q_norm(query), block.attn.k_norm(key), value

    def _attention_maps(self, block: Any) -> tuple[LinearWeights, LinearWeights, LinearWeights]:
        query, key, value = LinearWeights.of(block.attn.qkv).chunk(3)
        return query, key, value

    def _parts(self, block: Any) -> LayerParts | None:
        attention, mlp = block.attn, block.mlp
        between = (attention.q_norm, attention.k_norm, attention.norm, mlp.norm)
        if not all(isinstance(module, nn.Identity) for module in between):
            return None
        return LayerParts(
            *self._attention_maps(block),
            out=_scaled(attention.proj, block.ls1),
            up=LinearWeights.of(mlp.fc1),
            down=_scaled(mlp.fc2, block.ls2),
            norm_1=block.norm1,
            norm_2=block.norm2,
            activation=mlp.act,
            pre_norm=True,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        attention = block.attn
        projected = attention.proj_drop(attention.proj(attention.norm(attended)))
        hidden = residual + block.drop_path1(block.ls1(projected))
        above: Tensor = hidden + block.drop_path2(block.ls2(block.mlp(block.norm2(hidden))))
        return above

    def pool(self, hidden_rows: Tensor) -> Tensor:
        # timm puts the last norm before or after its own pooling; one of the two does nothing.
        vit = self.model.timm_model
        normed: Tensor = vit.fc_norm(vit.norm(hidden_rows))
        return normed


def _scaled(module: nn.Module, scale: Any) -> LinearWeights:
    weights = LinearWeights.of(module)
    return weights if isinstance(scale, nn.Identity) else weights.scaled(scale.gamma)


def _check_architecture(vit: Any, name: str) -> None:
    """Raise if a model is not a VisionTransformer with plain blocks."""
    if type(vit).__name__ != "VisionTransformer":
        raise ValueError(
            f"backbone: the timm architecture {name!r} is a {type(vit).__name__}; expected a "
            "VisionTransformer, for example 'vit_base_patch16_224'."
        )
    for block in vit.blocks:
        if not _is_plain(block):
            parts = [type(part).__name__ for part in (block, *block.children())]
            raise ValueError(
                f"backbone: the timm architecture {name!r} is built of {', '.join(parts)}; "
                "expected timm's plain Block of Attention and Mlp."
            )


def _is_plain(block: Any) -> bool:
    """Return whether a block only computes attention and then a feed-forward."""
    return (
        type(block).__name__ == "Block"
        and {name for name, _ in block.named_children()} == _PARTS_OF_A_BLOCK
        and type(block.attn).__name__ == "Attention"
        and getattr(block.attn, "gate", None) is None
        and type(block.mlp).__name__ == "Mlp"
    )


def read_timm_config(source: str | os.PathLike[str], raw: Mapping[str, Any]) -> PretrainedConfig:
    """Return the configuration of a timm model from the content of its file.

    Parameters
    ----------
    source : str or path-like
        For messages.
    raw : mapping
        Of timm's `config.json` or of open_clip's `open_clip_config.json`.

    Returns
    -------
    TimmWrapperConfig
        With the sizes of the architecture, under the names that other families have.

    Raises
    ------
    ImportError
        If timm is not installed.
    ValueError
        If open_clip's file does not name a timm model.
    """
    values = dict(_from_open_clip(source, raw) if "model_cfg" in raw else raw)
    arguments = dict(values.get("model_args") or {})
    values["model_args"] = {k: v for k, v in arguments.items() if k not in _SET_BY_WRAPPER}
    # The head is not used.
    values |= {"label_names": [], "num_classes": 0}
    values.pop("model_type", None)
    return with_sizes(TimmWrapperConfig.from_dict(values))


def with_sizes(config: PretrainedConfig) -> PretrainedConfig:
    """Set the sizes of the architecture in a wrapper's configuration, and return it."""
    if hasattr(config, "num_hidden_layers"):
        return config
    timm = require_timm()
    try:
        with torch.device("meta"):
            vit = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"backbone: timm cannot make {config.architecture!r} with "
            f"model_args={config.model_args!r}: {error}"
        ) from error
    _check_architecture(vit, config.architecture)
    config.hidden_size = vit.embed_dim
    config.num_hidden_layers = len(vit.blocks)
    config.num_attention_heads = vit.blocks[0].attn.num_heads
    config.num_channels = vit.patch_embed.proj.in_channels
    config.image_size = list(vit.patch_embed.img_size)
    config.patch_size = list(vit.patch_embed.patch_size)
    given = {k: v for k, v in (getattr(config, "pretrained_cfg", None) or {}).items() if v}
    own = {name: vit.pretrained_cfg.get(name) for name in _PREPROCESSING}
    config.pretrained_cfg = own | given
    return config


def require_timm() -> Any:
    """Return timm.

    Raises
    ------
    ImportError
        If it cannot be imported; the message says what to install.
    """
    try:
        import timm  # noqa: PLC0415 - an extra
    except (ImportError, RuntimeError) as error:  # torchvision of another version than torch needs
        raise ImportError(
            f"backbone: this is a timm model, and timm cannot be imported ({error}). Install it "
            "with pip install 'sklearn_epee[timm]', with a torchvision that fits your torch."
        ) from error
    return timm


def _from_open_clip(source: str | os.PathLike[str], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the timm configuration of the vision trunk of an open_clip model."""
    vision = raw["model_cfg"].get("vision_cfg") or {}
    if not vision.get("timm_model_name"):
        raise ValueError(
            f"backbone: {os.fspath(source)!r}: the vision model in {_OPEN_CLIP} is not one of timm "
            "(timm_model_name is missing), and open_clip's own are not supported; expected a timm "
            "model, or a CLIP checkpoint in transformers' format."
        )
    size = vision.get("image_size", 224)
    return {
        "architecture": vision["timm_model_name"],
        "model_args": {"img_size": size},
        "pretrained_cfg": dict(raw.get("preprocess_cfg") or {}) | {"input_size": [3, size, size]},
    }


def processor_settings(source: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the image preprocessing of a timm or open_clip checkpoint.

    Parameters
    ----------
    source : str or path-like
        A folder or a hub id.

    Returns
    -------
    dict or None
        Settings of an image processor of transformers; None of any other checkpoint.
    """
    try:
        raw = open_clip_config(source) or PretrainedConfig.get_config_dict(os.fspath(source))[0]
    except (OSError, ValueError):
        return None
    if not is_timm(raw):
        return None
    wanted = read_timm_config(source, raw).pretrained_cfg
    _, height, width = wanted["input_size"]
    share = wanted.get("crop_pct") or 1.0
    squashes = wanted.get("crop_mode") == "squash" or wanted.get("resize_mode") == "squash"
    shorter = math.floor(min(height, width) / share)
    crop = {"height": height, "width": width}
    return {
        "do_resize": True,
        "size": crop if squashes else {"shortest_edge": shorter},
        "resample": _RESAMPLE.get(wanted.get("interpolation", "bicubic"), 3),
        "do_center_crop": not squashes,
        "crop_size": crop,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(wanted["mean"]),
        "image_std": list(wanted["std"]),
        "do_convert_rgb": True,
    }


def is_timm(raw: Mapping[str, Any]) -> bool:
    """Return whether the content of a configuration file is timm's or open_clip's."""
    is_plain = "architecture" in raw and "model_type" not in raw
    return is_plain or "model_cfg" in raw or raw.get("model_type") == TimmAdapter.family


def open_clip_config(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the content of open_clip's configuration; None if the folder has none."""
    if _OPEN_CLIP not in files_of(folder):
        return None
    content: dict[str, Any] = json.loads((Path(folder) / _OPEN_CLIP).read_text(encoding="utf-8"))
    return content


def read_timm_weights(folder: str | os.PathLike[str], model: PreTrainedModel) -> dict[str, Any]:
    """Load the weights of a folder into a wrapped timm model; return keys that do not match.

    Parameters
    ----------
    folder : str or path-like
        Of timm, of transformers' wrapper, or of open_clip.
    model : TimmWrapperModel

    Returns
    -------
    dict
        As transformers reports a load.
    """
    is_open_clip = _OPEN_CLIP in files_of(folder)
    found = dict(read_weights(folder, _OPEN_CLIP_WEIGHTS if is_open_clip else _WEIGHTS))
    prefix = _TRUNK if is_open_clip else _WRAPPED
    if is_open_clip or any(name.startswith(prefix) for name in found):
        inside = {name: part for name, part in found.items() if name.startswith(prefix)}
        found = {name.removeprefix(prefix): part for name, part in inside.items()}
    vit: Any = model.timm_model
    own = vit.state_dict()
    fitting = {name: w for name, w in found.items() if name in own and w.shape == own[name].shape}
    vit.load_state_dict({name: weight.float() for name, weight in fitting.items()}, strict=False)
    both = own.keys() & found.keys()
    return {
        "missing_keys": sorted(own.keys() - found.keys()),
        "unexpected_keys": sorted(
            name for name in found.keys() - own.keys() if not name.startswith(_HEADS)
        ),
        "mismatched_keys": [
            (name, tuple(found[name].shape), tuple(own[name].shape))
            for name in sorted(both - fitting.keys())
        ],
    }
