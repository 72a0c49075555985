"""Interface of the backbone adapters: embed, keys and values, rows, pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

__all__ = ["AttentionParts", "BackboneAdapter", "LayerParts", "LinearWeights"]


class AttentionParts(NamedTuple):
    """The parts of one layer's self-attention, as the family's own modules."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: float


class LinearWeights(NamedTuple):
    """Weights of an affine map x -> x W' + b."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor | None

    @classmethod
    def of(cls, module: nn.Module) -> LinearWeights:
        """Return the weights of a linear module; that of GPT-2 keeps its weight transposed."""
        weight: Any = module.weight
        bias: Any = module.bias
        return cls(weight.T if isinstance(module, Conv1D) else weight, bias)

    def scaled(self, factor: Tensor | float) -> LinearWeights:
        """Return the map with its output multiplied by a number, or each output by its own."""
        factor = torch.as_tensor(factor, dtype=self.weight.dtype, device=self.weight.device)
        bias = None if self.bias is None else self.bias * factor
        return LinearWeights(self.weight * factor.reshape(-1, 1), bias)


class LayerParts(NamedTuple):
    """Parts of a layer of the usual structure, with which it can be run without its modules.

    Pre-norm: ``x + out(attend(norm_1(x)))``, then ``x + down(activation(up(norm_2(x))))``.
    Post-norm: ``norm_1(x + out(attend(x)))``, then ``norm_2(x + down(activation(up(x))))``.
    """

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    out: LinearWeights
    up: LinearWeights
    down: LinearWeights
    norm_1: nn.LayerNorm
    norm_2: nn.LayerNorm
    activation: nn.Module
    pre_norm: bool


class BackboneAdapter(ABC):
    """Computes a transformer family layer by layer and row by row.

    An adapter holds a reference to a transformers base model and computes with that model's
    own modules. It owns no weights and no closures over modules, so that it can be copied and
    pickled together with the model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The base model of the family, without a task head.

    Raises
    ------
    ValueError
        If the model's configuration asks for something the adapter does not compute.

    Notes
    -----
    Layers are numbered from 1. `rows` over all positions is the whole layer: each row of a
    transformer layer depends on the other positions only through their keys and values.

    Examples
    --------
    >>> import torch
    >>> from transformers import BertConfig
    >>> from sklearn_epee._nn.backbones import adapter_for, load_backbone
    >>> config = BertConfig(
    ...     vocab_size=20,
    ...     hidden_size=8,
    ...     num_hidden_layers=2,
    ...     num_attention_heads=2,
    ...     intermediate_size=16,
    ... )
    >>> adapter = adapter_for(load_backbone(config, "text"))
    >>> batch = {
    ...     "input_ids": torch.tensor([[2, 5, 3]]),
    ...     "attention_mask": torch.ones(1, 3, dtype=torch.long),
    ... }
    >>> hidden, mask = adapter.embed(batch)
    >>> k, v = adapter.keys_values(1, hidden)
    >>> first_row = adapter.rows(1, hidden[:, :1], k, v, mask, positions=torch.tensor([[0]]))
    >>> torch.allclose(first_row, adapter.layer(1, hidden, mask)[:, :1], atol=1e-6)
    True
    """

    family: ClassVar[str]
    kind: ClassVar[Literal["text", "image"]]
    causal: ClassVar[bool] = False
    config_class: ClassVar[str]
    """Name of the transformers class that configures the family."""
    model_class: ClassVar[str]
    """Name of the transformers class of the base model."""
    model_options: ClassVar[Mapping[str, Any]] = {}
    """Keyword arguments that keep unused parts out of the base model."""
    head_keys: ClassVar[tuple[str, ...]] = ()
    """Patterns of checkpoint keys that belong to task heads of the family, which are not loaded."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.check_config(model.config)
        # Any: the modules of the families differ, and no type describes their attributes.
        self.model: Any = model

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        """Refuse a configuration with an option that this adapter does not compute.

        Parameters
        ----------
        config : transformers.PretrainedConfig
            A configuration of this family.

        Raises
        ------
        ValueError
            If it is a decoder with cross attention, for example, or its positions are relative.
        """
        unsupported = {"add_cross_attention": False, "position_embedding_type": "absolute"}
        if not cls.causal:
            unsupported["is_decoder"] = False
        for option, expected in unsupported.items():
            value = getattr(config, option, None)
            if value is not None and value != expected:
                raise ValueError(
                    f"backbone: {option}={value!r} is not supported for the {cls.family} family; "
                    f"expected {option}={expected!r}."
                )

    @property
    def n_layers(self) -> int:
        """Number of transformer layers, M."""
        return int(self.model.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def max_length(self) -> int | None:
        """The longest sequence in tokens that the positions allow; None for images."""
        return None

    @abstractmethod
    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embedded positions of a batch, which the first layer reads.

        Parameters
        ----------
        batch : mapping of str to Tensor
            Texts: `input_ids` and `attention_mask`, (n, t) integers, and where the family has them
            `token_type_ids`. Images: `pixel_values`, (n, c, h, w) floats.

        Returns
        -------
        hidden : Tensor of shape (n, t, d)
            Embedded positions, in the model's dtype.
        mask : Tensor of shape (n, t), bool
            True at real tokens, False at padding.

        Raises
        ------
        ValueError
            If the sequence is longer than the positions allow, or the image's size or number of
            channels does not fit.
        """

    @abstractmethod
    def _blocks(self) -> nn.ModuleList:
        """Return the model's own layer modules, in order."""

    @abstractmethod
    def _attention_parts(self, block: Any) -> AttentionParts:
        """Return the projections of a block's self-attention."""

    @abstractmethod
    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        """Return a block's output from what it attended: projection, feed-forward, norms."""

    @abstractmethod
    def _parts(self, block: Any) -> LayerParts | None:
        """Return the parts of a block; None where it has another structure."""

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:  # noqa: ARG002 - pre-norm
        """Return what the projections read: the hidden state, in pre-norm families its norm."""
        return hidden

    def _block(self, layer: int) -> Any:
        if not 1 <= layer <= self.n_layers:
            raise ValueError(f"layer must be from 1 to {self.n_layers}, got {layer}.")
        return self._blocks()[layer - 1]

    def _split_heads(self, projected: Tensor) -> Tensor:
        n, t, _ = projected.shape
        return projected.view(n, t, self.model.config.num_attention_heads, -1).transpose(1, 2)

    def _query(self, block: Any, normed: Tensor) -> Tensor:
        return self._split_heads(self._attention_parts(block).query(normed))

    def _key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._attention_parts(block)
        return self._split_heads(parts.key(normed)), self._split_heads(parts.value(normed))

    def _query_key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._query(block, normed), *self._key_value(block, normed)

    def _attention_dropout(self, block: Any) -> float:
        return self._attention_parts(block).dropout

    def _attention_maps(self, block: Any) -> tuple[LinearWeights, LinearWeights, LinearWeights]:
        """Return the maps to queries, keys and values."""
        parts = self._attention_parts(block)
        return (
            LinearWeights.of(parts.query),
            LinearWeights.of(parts.key),
            LinearWeights.of(parts.value),
        )

    def layer_parts(self, layer: int) -> LayerParts | None:
        """Return the parts of one layer, with which it can be run without its modules.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.

        Returns
        -------
        LayerParts or None
            Views of the model's own weights, with the scale of the attention in the query. None
            if the layer has another structure; `rows` computes it all the same.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        parts = self._parts(self._block(layer))
        if parts is None:
            return None
        head_dim = parts.query.weight.shape[0] // self.model.config.num_attention_heads
        return parts._replace(query=parts.query.scaled(self._scale(layer, head_dim)))

    def _scale(self, layer: int, head_dim: int) -> float:  # noqa: ARG002 - GPT-2 can scale by layer
        return float(head_dim**-0.5)

    def keys_values(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of one layer for all positions.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.
        hidden : Tensor of shape (n, t, d)
            What the layer reads.

        Returns
        -------
        k, v : Tensors of shape (n, heads, t, head_dim)
            To be passed to `rows`.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        block = self._block(layer)
        return self._key_value(block, self._attention_input(block, hidden))

    def rows(  # noqa: PLR0917 - what a layer is made of, in the order it is made
        self,
        layer: int,
        hidden_rows: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Return the output of one layer at the given positions.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.
        hidden_rows : Tensor of shape (n, r, d)
            What the layer reads, at the given positions only.
        k, v : Tensors of shape (n, heads, t, head_dim)
            Keys and values of all positions.
        mask : Tensor of shape (n, t), bool
            True at real tokens.
        positions : Tensor of shape (n, r), int64, default=None
            Where the rows are in the sequence. None: all positions, in order.

        Returns
        -------
        Tensor of shape (n, r, d)
            The layer's output for those rows.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        block = self._block(layer)
        query = self._query(block, self._attention_input(block, hidden_rows))
        attended = self._attend(layer, block, (query, k, v), mask, positions)
        return self._finish(block, attended, hidden_rows)

    def layer(self, layer: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the output of one layer at all positions.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.
        hidden : Tensor of shape (n, t, d)
            What the layer reads.
        mask : Tensor of shape (n, t), bool
            True at real tokens.

        Returns
        -------
        Tensor of shape (n, t, d)
            As `rows` over all positions, with the layer's input normalized and projected once.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        block = self._block(layer)
        projected = self._query_key_value(block, self._attention_input(block, hidden))
        return self._finish(block, self._attend(layer, block, projected, mask, None), hidden)

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """Return hidden states of any layer as a head reads them.

        Parameters
        ----------
        hidden_rows : Tensor of shape (..., d)
            Output of a layer.

        Returns
        -------
        Tensor of shape (..., d)
            Through the model's final LayerNorm in pre-norm families, unchanged in the others.
        """
        return hidden_rows

    def _attend(
        self,
        layer: int,
        block: Any,
        projected: tuple[Tensor, Tensor, Tensor],
        mask: Tensor,
        positions: Tensor | None,
    ) -> Tensor:
        """Return the scaled dot-product attention with heads joined, (n, r, d)."""
        query, k, v = projected
        allowed, is_causal = self.allowed(mask, positions)
        attended = functional.scaled_dot_product_attention(
            query,
            k,
            v,
            attn_mask=allowed,
            dropout_p=self._attention_dropout(block) if block.training else 0.0,
            is_causal=is_causal,
            scale=self._scale(layer, query.shape[-1]),
        )
        return attended.transpose(1, 2).flatten(2)

    def allowed(self, mask: Tensor, positions: Tensor | None = None) -> tuple[Tensor | None, bool]:
        """Return which keys a query may attend to, as torch's attention reads it.

        Parameters
        ----------
        mask : Tensor of shape (n, t), bool
            True at real tokens.
        positions : Tensor of shape (n, r), int64, default=None
            Where the queries are. None: at all positions, in order.

        Returns
        -------
        allowed : Tensor that broadcasts to (n, heads, r, t), bool, or None
            True where a query attends to a key; None where it attends to all, or as `is_causal`
            says.
        is_causal : bool
            Whether each query attends to the keys up to its own.
        """
        # Reading the mask of another device would stall its queue; there it is always passed.
        readable = mask.device.type == "cpu"
        full = self.kind == "image" or (readable and bool(mask.all()))
        if not self.causal:
            return (None if full else mask[:, None, None, :]), False
        if full and positions is None:
            return None, True
        return self._causal_allowed(mask, positions), False

    @staticmethod
    def _causal_allowed(mask: Tensor, positions: Tensor | None) -> Tensor:
        keys = torch.arange(mask.shape[1], device=mask.device)
        queries = keys.expand(mask.shape) if positions is None else positions
        earlier = keys <= queries[:, :, None]
        # Padding sees itself: a row without any key would be NaN and spread through its value.
        itself = keys == queries[:, :, None]
        return ((earlier & mask[:, None, :]) | itself)[:, None]
