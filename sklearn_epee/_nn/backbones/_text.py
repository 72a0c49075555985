"""Adapters of text families: BERT, RoBERTa and variants, ELECTRA, DistilBERT, ALBERT, GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from sklearn_epee._nn.backbones._adapter import (
    AttentionParts,
    BackboneAdapter,
    LayerParts,
    LinearWeights,
)

__all__ = [
    "AlbertAdapter",
    "BertAdapter",
    "CamembertAdapter",
    "DistilBertAdapter",
    "ElectraAdapter",
    "GPT2Adapter",
    "RobertaAdapter",
    "TextAdapter",
    "XLMRobertaAdapter",
]


class TextAdapter(BackboneAdapter):
    """Shared by the text families: token batches, masks and positions."""

    kind: ClassVar[Literal["text", "image"]] = "text"
    has_token_types: ClassVar[bool] = True

    @property
    def max_length(self) -> int | None:
        return int(self.model.config.max_position_embeddings)

    def _inputs(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the embedding module's arguments and the mask of real tokens."""
        ids = batch["input_ids"]
        if self.max_length is not None and ids.shape[1] > self.max_length:
            raise ValueError(
                f"input_ids has {ids.shape[1]} tokens a row; this {self.family} backbone has "
                f"positions for at most {self.max_length}. Lower max_length."
            )
        attention_mask = batch.get("attention_mask")
        mask = (
            torch.ones_like(ids, dtype=torch.bool)
            if attention_mask is None
            else attention_mask.bool()
        )
        inputs = {"input_ids": ids, "position_ids": self._position_ids(mask)}
        if self.has_token_types:
            types = batch.get("token_type_ids")
            inputs["token_type_ids"] = torch.zeros_like(ids) if types is None else types
        return inputs, mask

    def _position_ids(self, mask: Tensor) -> Tensor:
        """Return the positions of the real tokens, counted from 0 for padding on either side."""
        return (mask.long().cumsum(dim=1) - 1).clamp(min=0)

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, mask = self._inputs(batch)
        return self.model.embeddings(**inputs), mask


class BertAdapter(TextAdapter):
    """BERT (Devlin et al., 2019)."""

    family = "bert"
    config_class = "BertConfig"
    model_class = "BertModel"
    model_options: ClassVar[Mapping[str, Any]] = {"add_pooling_layer": False}
    head_keys: ClassVar[tuple[str, ...]] = ("cls", "classifier", "qa_outputs", "pooler")

    def _blocks(self) -> nn.ModuleList:
        return self.model.encoder.layer

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention.self
        return AttentionParts(attention.query, attention.key, attention.value, attention.dropout.p)

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attention.output.dense),
            up=LinearWeights.of(block.intermediate.dense),
            down=LinearWeights.of(block.output.dense),
            norm_1=block.attention.output.LayerNorm,
            norm_2=block.output.LayerNorm,
            activation=block.intermediate.intermediate_act_fn,
            pre_norm=False,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = block.attention.output(attended, residual)
        return block.output(block.intermediate(hidden), hidden)


class RobertaAdapter(BertAdapter):
    """RoBERTa (Liu et al., 2019): BERT whose positions start after the padding index."""

    family = "roberta"
    config_class = "RobertaConfig"
    model_class = "RobertaModel"
    head_keys: ClassVar[tuple[str, ...]] = ("lm_head", "classifier", "qa_outputs", "pooler")

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        super().check_config(config)
        pad = config.pad_token_id
        if not isinstance(pad, int) or pad < 0:
            raise ValueError(
                f"backbone: pad_token_id={pad!r} is not supported for the {cls.family} family, "
                "whose positions start after it; expected an integer of at least 0."
            )

    @property
    def _padding_index(self) -> int:
        return int(self.model.embeddings.padding_idx)

    @property
    def max_length(self) -> int | None:
        return int(self.model.config.max_position_embeddings) - self._padding_index - 1

    def _position_ids(self, mask: Tensor) -> Tensor:
        marks = mask.long()
        return marks.cumsum(dim=1) * marks + self._padding_index


class XLMRobertaAdapter(RobertaAdapter):
    """XLM-RoBERTa (Conneau et al., 2020): RoBERTa in a hundred languages."""

    family = "xlm-roberta"
    config_class = "XLMRobertaConfig"
    model_class = "XLMRobertaModel"


class CamembertAdapter(RobertaAdapter):
    """CamemBERT (Martin et al., 2020): RoBERTa in French."""

    family = "camembert"
    config_class = "CamembertConfig"
    model_class = "CamembertModel"


class ElectraAdapter(BertAdapter):
    """ELECTRA (Clark et al., 2020): BERT with embeddings that may be narrower than the layers."""

    family = "electra"
    config_class = "ElectraConfig"
    model_class = "ElectraModel"
    model_options: ClassVar[Mapping[str, Any]] = {}
    head_keys: ClassVar[tuple[str, ...]] = (
        "discriminator_predictions",
        "generator_predictions",
        "generator_lm_head",
        "sequence_summary",
        "classifier",
        "qa_outputs",
    )

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, mask = super().embed(batch)
        project = getattr(self.model, "embeddings_project", None)
        return (hidden if project is None else project(hidden)), mask


class DistilBertAdapter(TextAdapter):
    """DistilBERT (Sanh et al., 2019): BERT's layers without segments."""

    family = "distilbert"
    config_class = "DistilBertConfig"
    model_class = "DistilBertModel"
    has_token_types = False
    head_keys: ClassVar[tuple[str, ...]] = (
        "vocab_transform",
        "vocab_layer_norm",
        "vocab_projector",
        "pre_classifier",
        "classifier",
        "qa_outputs",
    )

    def _blocks(self) -> nn.ModuleList:
        return self.model.transformer.layer

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention
        return AttentionParts(
            attention.q_lin, attention.k_lin, attention.v_lin, attention.dropout.p
        )

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attention.out_lin),
            up=LinearWeights.of(block.ffn.lin1),
            down=LinearWeights.of(block.ffn.lin2),
            norm_1=block.sa_layer_norm,
            norm_2=block.output_layer_norm,
            activation=block.ffn.activation,
            pre_norm=False,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        hidden = block.sa_layer_norm(block.attention.out_lin(attended) + residual)
        # ff_chunk is the feed-forward; the module's own forward would split the rows into chunks.
        return block.output_layer_norm(block.ffn.ff_chunk(hidden) + hidden)


class AlbertAdapter(TextAdapter):
    """ALBERT (Lan et al., 2020): groups of layers share their weights.

    Where a group repeats several layers (`inner_group_num`), each repetition counts as a layer, as
    in the hidden states that transformers returns.
    """

    family = "albert"
    config_class = "AlbertConfig"
    model_class = "AlbertModel"
    model_options: ClassVar[Mapping[str, Any]] = {"add_pooling_layer": False}
    head_keys: ClassVar[tuple[str, ...]] = (
        "predictions",
        "sop_classifier",
        "classifier",
        "qa_outputs",
        "pooler",
    )

    @property
    def n_layers(self) -> int:
        config = self.model.config
        return int(config.num_hidden_layers) * int(config.inner_group_num)

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, mask = super().embed(batch)
        return self.model.encoder.embedding_hidden_mapping_in(hidden), mask

    def _blocks(self) -> nn.ModuleList:
        return self.model.encoder.albert_layer_groups

    def _block(self, layer: int) -> Any:
        if not 1 <= layer <= self.n_layers:
            raise ValueError(f"layer must be from 1 to {self.n_layers}, got {layer}.")
        config = self.model.config
        step, inner = divmod(layer - 1, config.inner_group_num)
        group = int(step / (config.num_hidden_layers / config.num_hidden_groups))
        groups: Any = self._blocks()
        return groups[group].albert_layers[inner]

    def _attention_parts(self, block: Any) -> AttentionParts:
        attention = block.attention
        return AttentionParts(
            attention.query, attention.key, attention.value, attention.attention_dropout.p
        )

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attention.dense),
            up=LinearWeights.of(block.ffn),
            down=LinearWeights.of(block.ffn_output),
            norm_1=block.attention.LayerNorm,
            norm_2=block.full_layer_layer_norm,
            activation=block.activation,
            pre_norm=False,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        attention = block.attention
        projected = attention.output_dropout(attention.dense(attended))
        hidden = attention.LayerNorm(residual + projected)
        return block.full_layer_layer_norm(block.ff_chunk(hidden) + hidden)


class GPT2Adapter(TextAdapter):
    """GPT-2 (Radford et al., 2019): causal, pre-norm, queries, keys and values in one matrix.

    `token_type_ids` in a batch are not used: GPT-2's tokenizers do not make any.
    """

    family = "gpt2"
    causal = True
    config_class = "GPT2Config"
    model_class = "GPT2Model"
    has_token_types = False
    head_keys: ClassVar[tuple[str, ...]] = (
        "lm_head",
        "score",
        "multiple_choice_head",
        "classifier",
        "qa_outputs",
    )

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, mask = self._inputs(batch)
        model = self.model
        hidden = model.wte(inputs["input_ids"]) + model.wpe(inputs["position_ids"])
        return model.drop(hidden), mask

    def _blocks(self) -> nn.ModuleList:
        return self.model.h

    def _attention_parts(self, block: Any) -> AttentionParts:
        fused = block.attn.c_attn
        return AttentionParts(fused, fused, fused, block.attn.attn_dropout.p)

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        return block.ln_1(hidden)

    def _columns(self, block: Any, normed: Tensor, start: int, stop: int) -> Tensor:
        """Return the product with some columns of the joint query-key-value matrix."""
        fused = block.attn.c_attn
        flat = normed.reshape(-1, normed.shape[-1])
        product = torch.addmm(fused.bias[start:stop], flat, fused.weight[:, start:stop])
        return product.view(*normed.shape[:-1], stop - start)

    def _query(self, block: Any, normed: Tensor) -> Tensor:
        return self._split_heads(self._columns(block, normed, 0, self.hidden_size))

    def _key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        width = self.hidden_size
        key, value = self._columns(block, normed, width, 3 * width).split(width, dim=-1)
        return self._split_heads(key), self._split_heads(value)

    def _query_key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = block.attn.c_attn(normed).split(self.hidden_size, dim=-1)
        return self._split_heads(query), self._split_heads(key), self._split_heads(value)

    def _scale(self, layer: int, head_dim: int) -> float:
        config = self.model.config
        scale = head_dim**-0.5 if config.scale_attn_weights else 1.0
        return scale / layer if config.scale_attn_by_inverse_layer_idx else scale

    def _attention_maps(self, block: Any) -> tuple[LinearWeights, LinearWeights, LinearWeights]:
        fused = block.attn.c_attn
        weights = fused.weight.T.chunk(3)
        query, key, value = map(LinearWeights, weights, fused.bias.chunk(3))
        return query, key, value

    def _parts(self, block: Any) -> LayerParts | None:
        return LayerParts(
            *self._attention_maps(block),
            out=LinearWeights.of(block.attn.c_proj),
            up=LinearWeights.of(block.mlp.c_fc),
            down=LinearWeights.of(block.mlp.c_proj),
            norm_1=block.ln_1,
            norm_2=block.ln_2,
            activation=block.mlp.act,
            pre_norm=True,
        )

    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        attention = block.attn
        hidden = residual + attention.resid_dropout(attention.c_proj(attended))
        return hidden + block.mlp(block.ln_2(hidden))

    def pool(self, hidden_rows: Tensor) -> Tensor:
        return self.model.ln_f(hidden_rows)
