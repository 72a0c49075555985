"""Adapters of causal decoders: Llama and similar families, and BioGPT."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from sklearn_epee._nn.backbones._adapter import (
    FIXED_ROTARY,
    AttentionParts,
    LayerParts,
    LinearWeights,
    RMSWeights,
)
from sklearn_epee._nn.backbones._positions import Rotary
from sklearn_epee._nn.backbones._text import TextAdapter

__all__ = [
    "BioGptAdapter",
    "GemmaAdapter",
    "LlamaAdapter",
    "MistralAdapter",
    "Qwen2Adapter",
    "Qwen3Adapter",
]


class LlamaAdapter(TextAdapter):
    """Llama (Touvron et al., 2023): causal, pre-norm, rotary positions, grouped heads, a gate."""

    family = "llama"
    causal = True
    config_class = "LlamaConfig"
    model_class = "LlamaModel"
    has_token_types = False
    head_keys: ClassVar[tuple[str, ...]] = ("lm_head", "score", "classifier", "qa_outputs")

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        super().check_config(config)
        rotary = getattr(config, "rope_parameters", None) or {}
        kind = rotary.get("rope_type", "default")
        if kind not in FIXED_ROTARY:
            raise ValueError(
                f"backbone: rope_type={kind!r} is not supported for the {cls.family} family; "
                f"expected one of {', '.join(FIXED_ROTARY)}. With others a token's position "
                "depends on how long the longest text of its batch is."
            )
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        if not (isinstance(shared, int) and shared >= 1 and heads % shared == 0):
            raise ValueError(
                f"backbone: num_key_value_heads={shared!r} is not supported for the {cls.family} "
                f"family; expected a divisor of num_attention_heads={heads}."
            )

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, mask = self._inputs(batch)
        return self.model.embed_tokens(inputs["input_ids"]), mask

    def rotary(self, layer: int) -> Hashable | None:  # noqa: ARG002 - all layers alike
        return "all"

    def rotary_angles(self, name: Hashable, length: int) -> Rotary:  # noqa: ARG002 - the only one
        module = self.model.rotary_emb
        return Rotary.of_frequencies(module.inv_freq, length, module.attention_scaling)

    def _blocks(self) -> nn.ModuleList:
        return self.model.layers

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.self_attn
        return AttentionParts(
            attention.q_proj, attention.k_proj, attention.v_proj, attention.attention_dropout
        )

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.input_layernorm(hidden)

    @staticmethod
    def _norm_weights(norm: Any) -> RMSWeights:
        return RMSWeights(norm.weight, norm.variance_epsilon)

    def _parts(self, block: Any) -> LayerParts | None:
        attention, norm = self._attention_parts(block), self._norm_weights
        query_norm, key_norm = attention.query_norm, attention.key_norm
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.self_attn.o_proj),
            up=LinearWeights.of(block.mlp.up_proj),
            down=LinearWeights.of(block.mlp.down_proj),
            norm_1=norm(block.input_layernorm),
            norm_2=norm(block.post_attention_layernorm),
            activation=block.mlp.act_fn,
            pre_norm=True,
            gate=LinearWeights.of(block.mlp.gate_proj),
            query_norm=None if query_norm is None else norm(query_norm),
            key_norm=None if key_norm is None else norm(key_norm),
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = residual + block.self_attn.o_proj(attended)
        return hidden + block.mlp(block.post_attention_layernorm(hidden))

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.norm(hidden_rows)


class MistralAdapter(LlamaAdapter):
    """Mistral (Jiang et al., 2023): Llama with sliding-window attention."""

    family = "mistral"
    config_class = "MistralConfig"
    model_class = "MistralModel"

    def window(self, layer: int) -> int | None:  # noqa: ARG002 - all layers alike
        return self.model.config.sliding_window


class Qwen2Adapter(LlamaAdapter):
    """Qwen 2 (Yang et al., 2024): Llama with biases, and local attention in some layers."""

    family = "qwen2"
    config_class = "Qwen2Config"
    model_class = "Qwen2Model"

    def window(self, layer: int) -> int | None:
        config = self.model.config
        is_local = config.layer_types[layer - 1] == "sliding_attention"
        return config.sliding_window if is_local else None


class Qwen3Adapter(Qwen2Adapter):
    """Qwen 3 (Yang et al., 2025): Qwen 2 with a norm on each query and key."""

    family = "qwen3"
    config_class = "Qwen3Config"
    model_class = "Qwen3Model"

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.self_attn
        return (
            super()
            ._attention_parts(block)
            ._replace(query_norm=attention.q_norm, key_norm=attention.k_norm)
        )


class GemmaAdapter(LlamaAdapter):
    """Gemma (Gemma Team, 2024): Llama with scaled embeddings, and norms that multiply by 1 + w."""

    family = "gemma"
    config_class = "GemmaConfig"
    model_class = "GemmaModel"

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        super().check_config(config)
        if getattr(config, "use_bidirectional_attention", None):
            raise ValueError(
                "backbone: use_bidirectional_attention=True is not supported for the gemma "
                "family, whose tokens read those before them."
            )

    @staticmethod
    def _norm_weights(norm: Any) -> RMSWeights:
        return RMSWeights(1 + norm.weight, norm.eps)


class BioGptAdapter(TextAdapter):
    """BioGPT (Luo et al., 2022): causal, pre-norm, learned positions.

    Whole layers are never skipped in training (`layerdrop`), as each has an exit to be trained.
    """

    family = "biogpt"
    causal = True
    config_class = "BioGptConfig"
    model_class = "BioGptModel"
    has_token_types = False
    head_keys: ClassVar[tuple[str, ...]] = ("output_projection", "score", "classifier")

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, mask = self._inputs(batch)
        model = self.model
        # The module adds the offset at which its table of positions starts.
        positions = model.embed_positions(mask, position_ids=inputs["position_ids"])
        hidden = model.embed_tokens(inputs["input_ids"]) + positions
        return functional.dropout(hidden, model.dropout, model.training), mask

    def _blocks(self) -> nn.ModuleList:
        return self.model.layers

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.self_attn
        return AttentionParts(
            attention.q_proj, attention.k_proj, attention.v_proj, attention.dropout
        )

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.self_attn_layer_norm(hidden)

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.self_attn.out_proj),
            up=LinearWeights.of(block.fc1),
            down=LinearWeights.of(block.fc2),
            norm_1=block.self_attn_layer_norm,
            norm_2=block.final_layer_norm,
            activation=block.activation_fn,
            pre_norm=True,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        def dropped(rows: Tensor, p: float) -> Tensor:
            return functional.dropout(rows, p, block.training)

        hidden = residual + dropped(block.self_attn.out_proj(attended), block.dropout)
        expanded = block.activation_fn(block.fc1(block.final_layer_norm(hidden)))
        expanded = block.fc2(dropped(expanded, block.activation_dropout))
        return hidden + dropped(expanded, block.dropout)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.layer_norm(hidden_rows)
