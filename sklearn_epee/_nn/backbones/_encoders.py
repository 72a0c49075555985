"""Adapters of encoders with relative or rotary positions, or with pre-norm layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from sklearn_epee._nn.backbones._adapter import AttentionParts, LayerParts, LinearWeights
from sklearn_epee._nn.backbones._positions import (
    AttentionBias,
    DisentangledBias,
    RelativeBias,
    Rotary,
)
from sklearn_epee._nn.backbones._text import BertAdapter, TextAdapter

__all__ = ["DebertaV2Adapter", "MPNetAdapter", "MegatronBertAdapter", "ModernBertAdapter"]


class MPNetAdapter(BertAdapter):
    """MPNet (Song et al., 2020): BERT with an attention bias that all layers share."""

    family = "mpnet"
    config_class = "MPNetConfig"
    model_class = "MPNetModel"
    has_token_types = False
    head_keys: ClassVar[tuple[str, ...]] = ("lm_head", "classifier", "qa_outputs", "pooler")

    # transformers uses this number regardless of the configuration.
    _BUCKETS = 32
    # The padding index of both embeddings; positions start after it.
    _PADDING = 1

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        super().check_config(config)
        buckets = getattr(config, "relative_attention_num_buckets", None)
        if not isinstance(buckets, int) or buckets < cls._BUCKETS:
            raise ValueError(
                f"backbone: relative_attention_num_buckets={buckets!r} is not supported for the "
                f"{cls.family} family; expected an integer of at least {cls._BUCKETS}."
            )

    @property
    def max_length(self) -> int | None:
        return int(self.model.config.max_position_embeddings) - self._PADDING - 1

    def _position_ids(self, mask: Tensor) -> Tensor:
        marks = mask.long()
        return marks.cumsum(dim=1) * marks + self._PADDING

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention.attn
        return AttentionParts(attention.q, attention.k, attention.v, attention.dropout.p)

    def attention_bias(self, layer: int, length: int) -> AttentionBias | None:  # noqa: ARG002
        encoder = self.model.encoder
        table = encoder.relative_attention_bias
        distances = torch.arange(1 - length, length, device=table.weight.device)
        buckets = encoder.relative_position_bucket(distances, num_buckets=self._BUCKETS)
        return RelativeBias(table(buckets).T)

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attention.attn.o),
            up=LinearWeights.of(block.intermediate.dense),
            down=LinearWeights.of(block.output.dense),
            norm_1=block.attention.LayerNorm,
            norm_2=block.output.LayerNorm,
            activation=block.intermediate.intermediate_act_fn,
            pre_norm=False,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        attention = block.attention
        hidden = attention.LayerNorm(attention.dropout(attention.attn.o(attended)) + residual)
        return block.output(block.intermediate(hidden), hidden)


class MegatronBertAdapter(BertAdapter):
    """Megatron-BERT (Shoeybi et al., 2019; GatorTron): pre-norm BERT with a final norm."""

    family = "megatron-bert"
    config_class = "MegatronBertConfig"
    model_class = "MegatronBertModel"

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.attention.ln(hidden)

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attention.output.dense),
            up=LinearWeights.of(block.intermediate.dense),
            down=LinearWeights.of(block.output.dense),
            norm_1=block.attention.ln,
            norm_2=block.ln,
            activation=block.intermediate.intermediate_act_fn,
            pre_norm=True,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = block.attention.output(attended, residual)
        return block.output(block.intermediate(block.ln(hidden)), hidden)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.encoder.ln(hidden_rows)


class ModernBertAdapter(TextAdapter):
    """ModernBERT (Warner et al., 2024): rotary positions, local layers, gated feed-forward.

    Neither a compiler nor flash attention is needed; an option of the configuration that asks for
    them has no effect.
    """

    family = "modernbert"
    config_class = "ModernBertConfig"
    model_class = "ModernBertModel"
    head_keys: ClassVar[tuple[str, ...]] = ("head", "decoder", "classifier")

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        super().check_config(config)
        for kind in sorted(set(config.layer_types)):
            cls.check_rotary(config.rope_parameters.get(kind))

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, mask = self._inputs(batch)
        return self.model.embeddings(input_ids=inputs["input_ids"]), mask

    def _blocks(self) -> nn.ModuleList:
        return self.model.layers

    def rotary(self, layer: int) -> Hashable | None:
        return str(self.model.config.layer_types[layer - 1])

    def rotary_angles(self, name: Hashable, length: int) -> Rotary:
        module = self.model.rotary_emb
        frequencies = getattr(module, f"{name}_inv_freq")
        return Rotary.of_frequencies(
            frequencies, length, getattr(module, f"{name}_attention_scaling")
        )

    def window(self, layer: int) -> int | None:
        config = self.model.config
        local = config.layer_types[layer - 1] == "sliding_attention"
        return int(config.sliding_window) + 1 if local else None

    def _attention_parts(self, block: Any) -> AttentionParts:
        fused = block.attn.Wqkv
        return AttentionParts(fused, fused, fused, block.attn.attention_dropout)

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.attn_norm(hidden)

    def _attention_maps(self, block: Any) -> tuple[LinearWeights, LinearWeights, LinearWeights]:
        query, key, value = LinearWeights.of(block.attn.Wqkv).chunk(3)
        return query, key, value

    def _query(self, block: Any, normed: Tensor) -> Tensor:
        query, _, _ = self._attention_maps(block)
        return self._split_heads(functional.linear(normed, *query))

    def _key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        fused, width = block.attn.Wqkv, self.hidden_size
        bias = None if fused.bias is None else fused.bias[width:]
        key, value = functional.linear(normed, fused.weight[width:], bias).chunk(2, dim=-1)
        return self._split_heads(key), self._split_heads(value)

    def _query_key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = block.attn.Wqkv(normed).chunk(3, dim=-1)
        return self._split_heads(query), self._split_heads(key), self._split_heads(value)

    def _parts(self, block: Any) -> LayerParts | None:
        gate, up = LinearWeights.of(block.mlp.Wi).chunk(2)
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attn.Wo),
            up=up,
            down=LinearWeights.of(block.mlp.Wo),
            # The input of the first layer is already normalized.
            norm_1=None if isinstance(block.attn_norm, nn.Identity) else block.attn_norm,
            norm_2=block.mlp_norm,
            activation=block.mlp.act,
            pre_norm=True,
            gate=gate,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = residual + block.attn.out_drop(block.attn.Wo(attended))
        return hidden + block.mlp(block.mlp_norm(hidden))

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.final_norm(hidden_rows)


class DebertaV2Adapter(BertAdapter):
    """DeBERTa versions 2 and 3 (He et al., 2021): disentangled attention."""

    family = "deberta-v2"
    config_class = "DebertaV2Config"
    model_class = "DebertaV2Model"
    model_options: ClassVar[Mapping[str, Any]] = {}
    head_keys: ClassVar[tuple[str, ...]] = (
        "cls",
        "lm_predictions",
        "mask_predictions",
        "pooler",
        "classifier",
        "qa_outputs",
        # Checkpoints may contain position embeddings even if the input does not use them.
        "embeddings.position_embeddings",
    )

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        super().check_config(config)
        if getattr(config, "conv_kernel_size", 0):
            raise ValueError(
                f"backbone: conv_kernel_size={config.conv_kernel_size!r} is not supported for the "
                f"{cls.family} family: a convolution makes a position depend on its neighbors' "
                "input. Expected 0, as in all checkpoints of version 3."
            )

    def _inputs(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        inputs, mask = super()._inputs(batch)
        if not self.model.config.type_vocab_size:
            del inputs["token_type_ids"]
        return inputs | {"mask": mask}, mask

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention.self
        return AttentionParts(
            attention.query_proj, attention.key_proj, attention.value_proj, attention.dropout.p
        )

    def _terms(self) -> list[str]:
        """Return which products with distance embeddings the attention has."""
        named = self.model.config.pos_att_type or []
        return [term for term in ("c2p", "p2c") if term in named]

    def _scale(self, layer: int, head_dim: int) -> float:
        return super()._scale(layer, head_dim * (1 + len(self._terms())))

    def attention_bias(self, layer: int, length: int) -> AttentionBias | None:
        attention, terms = self._block(layer).attention.self, self._terms()
        if not attention.relative_attention or not terms:
            return None
        # Entry d of the following tensors is for queries d - length + 1 positions after a key.
        embedded, entries = self._distances(attention, length)
        shared = attention.share_att_key
        keys = queries = None
        if "c2p" in terms:
            project = attention.key_proj if shared else attention.pos_key_proj
            keys = self._split_heads(project(embedded)[None])[0][:, entries.flip(0)]
        if "p2c" in terms:
            project = attention.query_proj if shared else attention.pos_query_proj
            queries = self._split_heads(project(embedded)[None])[0][:, entries]
            queries = queries * self._scale(layer, queries.shape[-1])
        return DisentangledBias(keys, queries)

    def _distances(self, attention: Any, length: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings of all buckets that occur, and the index of each distance."""
        span = attention.pos_ebd_size
        embeddings = self.model.encoder.get_rel_embedding()
        # Computed on the CPU, to avoid synchronizing with a GPU.
        furthest = int(self._buckets(attention, torch.tensor([length - 1])))
        first, last = max(0, span - furthest), min(2 * span - 1, span + furthest)
        distances = torch.arange(1 - length, length, device=embeddings.device)
        entries = self._buckets(attention, distances) + span
        used = attention.pos_dropout(embeddings[first : last + 1])
        return used, entries.clamp(first, last) - first

    @staticmethod
    def _buckets(attention: Any, distances: Tensor) -> Tensor:
        """Return the buckets of distances; buckets of large distances are logarithmic."""
        buckets, furthest = attention.position_buckets, attention.max_relative_positions
        if buckets <= 0 or furthest <= 0:
            return distances
        near = buckets // 2
        ratio = (distances.abs().clamp(min=near) / near).log()
        # A tensor, so that its logarithm is rounded in the same way as those of the distances.
        scale = torch.full((), (furthest - 1) / near, device=distances.device).log()
        far = (ratio / scale * (near - 1)).ceil() + near
        return torch.where(distances.abs() <= near, distances, (far * distances.sign()).long())
