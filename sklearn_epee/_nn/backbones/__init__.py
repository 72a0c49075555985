"""Adapters of the transformer families, and loading their checkpoints."""

from sklearn_epee._nn.backbones._adapter import BackboneAdapter
from sklearn_epee._nn.backbones._finite import not_finite
from sklearn_epee._nn.backbones._folder import damaged_json, is_local
from sklearn_epee._nn.backbones._generic_check import check_first_layers
from sklearn_epee._nn.backbones._loading import (
    empty_backbone,
    enlarge_vocabulary,
    load_backbone,
    load_config,
)
from sklearn_epee._nn.backbones._paper import PaperHeads, read_paper_heads
from sklearn_epee._nn.backbones._parts import LayerParts, LinearWeights, RMSWeights
from sklearn_epee._nn.backbones._pooling_hint import checkpoint_pooling
from sklearn_epee._nn.backbones._positions import (
    AttentionBias,
    Rotary,
    for_each_head,
    joined_scores_mask,
    near_keys,
)
from sklearn_epee._nn.backbones._registry import adapter_class_for, adapter_for, known_families
from sklearn_epee._nn.backbones._row_subset import RowSubset
from sklearn_epee._nn.backbones._timm import processor_settings as timm_processor_settings

__all__ = [
    "AttentionBias",
    "BackboneAdapter",
    "LayerParts",
    "LinearWeights",
    "PaperHeads",
    "RMSWeights",
    "Rotary",
    "RowSubset",
    "adapter_class_for",
    "adapter_for",
    "check_first_layers",
    "checkpoint_pooling",
    "damaged_json",
    "empty_backbone",
    "enlarge_vocabulary",
    "for_each_head",
    "is_local",
    "joined_scores_mask",
    "known_families",
    "load_backbone",
    "load_config",
    "near_keys",
    "not_finite",
    "read_paper_heads",
    "timm_processor_settings",
]
