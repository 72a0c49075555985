"""The known model families, and the adapter of a model or a configuration."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from sklearn_epee._nn.backbones._adapter import BackboneAdapter
from sklearn_epee._nn.backbones._decoder import (
    BioGptAdapter,
    GemmaAdapter,
    LlamaAdapter,
    MistralAdapter,
    Qwen2Adapter,
    Qwen3Adapter,
)
from sklearn_epee._nn.backbones._encoders import (
    DebertaV2Adapter,
    MegatronBertAdapter,
    ModernBertAdapter,
    MPNetAdapter,
)
from sklearn_epee._nn.backbones._generic import generic_adapter_class
from sklearn_epee._nn.backbones._image import (
    CLIPVisionAdapter,
    DeiTAdapter,
    Dinov2Adapter,
    Dinov2WithRegistersAdapter,
    SiglipVisionAdapter,
    ViTAdapter,
    ViTMAEAdapter,
)
from sklearn_epee._nn.backbones._image_grid import BeitAdapter, Dinov3Adapter
from sklearn_epee._nn.backbones._text import (
    AlbertAdapter,
    BertAdapter,
    CamembertAdapter,
    DistilBertAdapter,
    ElectraAdapter,
    GPT2Adapter,
    RobertaAdapter,
    XLMRobertaAdapter,
)
from sklearn_epee._nn.backbones._timm import TimmAdapter

__all__ = ["adapter_class_for", "adapter_for", "known_families", "own_families"]

_ADAPTERS: tuple[type[BackboneAdapter], ...] = (
    BertAdapter,
    RobertaAdapter,
    ElectraAdapter,
    DistilBertAdapter,
    AlbertAdapter,
    MPNetAdapter,
    XLMRobertaAdapter,
    CamembertAdapter,
    MegatronBertAdapter,
    ModernBertAdapter,
    DebertaV2Adapter,
    GPT2Adapter,
    BioGptAdapter,
    LlamaAdapter,
    MistralAdapter,
    Qwen2Adapter,
    Qwen3Adapter,
    GemmaAdapter,
    ViTAdapter,
    DeiTAdapter,
    CLIPVisionAdapter,
    Dinov2Adapter,
    Dinov2WithRegistersAdapter,
    Dinov3Adapter,
    SiglipVisionAdapter,
    BeitAdapter,
    ViTMAEAdapter,
    TimmAdapter,
)

# Vision towers have their own model types; all other model types are the names of the families.
_BY_MODEL_TYPE = {adapter.family: adapter for adapter in _ADAPTERS} | {
    f"{adapter.family}_vision_model": adapter for adapter in _ADAPTERS if adapter.tower_of
}


def known_families(kind: str | None = None) -> list[str]:
    """List the backbone families that have an adapter.

    Parameters
    ----------
    kind : {"text", "image"}, default=None
        Which estimator they are for. None: all.

    Returns
    -------
    list of str
        Their names, which are transformers' model types.

    Raises
    ------
    ValueError
        If the kind is another word.

    Examples
    --------
    >>> from sklearn_epee._nn.backbones import known_families
    >>> known_families("text")[:4]
    ['bert', 'roberta', 'electra', 'distilbert']
    """
    if kind not in (None, "text", "image"):
        raise ValueError(f"kind must be 'text', 'image' or None, got {kind!r}.")
    return [adapter.family for adapter in _ADAPTERS if kind in (None, adapter.kind)]


def adapter_class_for(model_type: Any, kind: str | None = None) -> type[BackboneAdapter]:
    """Return the adapter class of a transformers model type, of the given kind.

    Families of transformers without a dedicated adapter get the generic one.
    """
    adapter: type[BackboneAdapter] | None = None
    if isinstance(model_type, str):
        adapter = _BY_MODEL_TYPE.get(model_type) or _generic(model_type, kind)
    expected = " ".join(filter(None, ["one of the known", kind, "families:"]))
    expected += " " + ", ".join(known_families(kind))
    if adapter is None:
        raise ValueError(f"backbone: unknown family {model_type!r}; expected {expected}.")
    if kind not in (None, adapter.kind):
        raise ValueError(
            f"backbone: {model_type!r} is a family for {adapter.kind}s; expected {expected}."
        )
    return adapter


def _generic(model_type: str, kind: str | None) -> type[BackboneAdapter] | None:
    try:
        return generic_adapter_class(model_type)
    except ValueError as error:
        raise ValueError(f"{error} {own_families(kind)}") from error


def own_families(kind: str | None) -> str:
    """Return the last sentence of the error about a model of another family."""
    return f"Families with a dedicated adapter: {', '.join(known_families(kind))}."


def adapter_for(model: PreTrainedModel) -> BackboneAdapter:
    """Wrap a transformers base model in the adapter of its family.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        As returned by `load_backbone` or `empty_backbone`.

    Returns
    -------
    BackboneAdapter
        It computes with the model's own modules.

    Raises
    ------
    ValueError
        If the family is unknown, the model is not the family's base model (but has a task head, for
        example), or its configuration has an option that is not supported.

    Examples
    --------
    >>> from transformers import ViTConfig
    >>> from sklearn_epee._nn.backbones import adapter_for, load_backbone
    >>> config = ViTConfig(
    ...     image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=3, num_attention_heads=2
    ... )
    >>> adapter = adapter_for(load_backbone(config, "image"))
    >>> adapter.family, adapter.n_layers, adapter.hidden_size
    ('vit', 3, 8)
    """
    adapter_class = adapter_class_for(_model_type(model.config))
    if type(model).__name__ != adapter_class.model_class:
        raise ValueError(
            f"backbone: expected the base model {adapter_class.model_class} of the "
            f"{adapter_class.family} family, got {type(model).__name__}."
        )
    return adapter_class(model)


def _model_type(config: PretrainedConfig) -> str:
    return str(getattr(config, "model_type", "") or "")
