"""Adapters of causal decoders: BioGPT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from sklearn_epee._nn.backbones._adapter import AttentionParts, LayerParts, LinearWeights
from sklearn_epee._nn.backbones._text import TextAdapter

__all__ = ["BioGptAdapter"]


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
        # The module adds what its table of positions begins with.
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
