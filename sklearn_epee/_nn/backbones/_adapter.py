"""Interface of the backbone adapters: embed, keys and values, rows, pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sklearn_epee._nn.backbones._parts import (
    AttentionParts,
    LayerParts,
    LinearWeights,
    RMSWeights,
)
from sklearn_epee._nn.backbones._positions import (
    AttentionBias,
    Rotary,
    for_each_head,
    joined_scores_mask,
    near_keys,
)
from sklearn_epee._nn.backbones._row_subset import RowSubset
from sklearn_epee._nn.backbones._training_attention import attention

__all__ = [
    "FIXED_ROTARY",
    "AttentionParts",
    "BackboneAdapter",
    "LayerParts",
    "LinearWeights",
    "RMSWeights",
]


# Rotary positions, by transformers' names, whose angles are the same in every sequence.
FIXED_ROTARY = ("default", "linear", "llama3", "yarn")


class BackboneAdapter(ABC):
    """Runs the models of a transformer family layer by layer and row by row.

    An adapter has a reference to a transformers base model and uses the model's own modules. It has
    no weights or closures of its own, so it can be copied and pickled together with the model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The base model of the family, without a task head.

    Raises
    ------
    ValueError
        If the model's configuration has an option that the adapter does not support.

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
    rows_apart: ClassVar[bool] = True
    """Whether `rows` at a few positions costs less than at all of them."""
    config_class: ClassVar[str]
    """Name of the transformers class that configures the family."""
    model_class: ClassVar[str]
    """Name of the transformers class of the base model."""
    model_options: ClassVar[Mapping[str, Any]] = {}
    """Keyword arguments that keep unused parts out of the base model."""
    config_options: ClassVar[Mapping[str, Any]] = {}
    """Values of the configuration that keep unused parts out of the base model."""
    tower_of: ClassVar[str | None] = None
    """Name of the transformers configuration class of the whole model, if this is a part of it."""
    has_class_token: bool = True
    """Whether position 0 represents the whole sample."""
    auto_class: ClassVar[str] = "AutoModel"
    """Name of the transformers class that creates the base model from a configuration."""
    attention: ClassVar[str] = "eager"
    """Attention implementation of the model's own layers; most adapters compute their own."""
    needed_sizes: ClassVar[tuple[str, ...]] = ()
    """Sizes that a configuration must have; if empty, those of the kind (text or image)."""
    head_keys: ClassVar[tuple[str, ...]] = ()
    """Patterns of checkpoint keys of the family's task heads, which are not loaded."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.check_config(model.config)
        # Any: the modules of the families differ, and no type describes their attributes.
        self.model: Any = model

    @classmethod
    def check_config(cls, config: PretrainedConfig) -> None:
        """Raise if a configuration has an option that this adapter does not support.

        Parameters
        ----------
        config : transformers.PretrainedConfig
            A configuration of this family.

        Raises
        ------
        ValueError
            For example if it is a decoder with cross attention, or has relative positions.
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

    @classmethod
    def check_rotary(cls, parameters: Mapping[str, Any] | None) -> None:
        """Raise for rotary positions whose angles depend on the length of a sequence.

        Parameters
        ----------
        parameters : mapping of str to object
            One entry of the configuration's `rope_parameters`.

        Raises
        ------
        ValueError
            If there are none, or their type does not have fixed angles.
        """
        kind = (parameters or {}).get("rope_type")
        if kind not in FIXED_ROTARY:
            raise ValueError(
                f"backbone: rope_type={kind!r} is not supported for the {cls.family} family; "
                f"expected one of {', '.join(FIXED_ROTARY)}."
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
    def n_heads(self) -> int:
        """Number of attention heads of the queries."""
        return int(self.model.config.num_attention_heads)

    @property
    def n_key_heads(self) -> int:
        """Number of heads of keys and values; groups of query heads may share one."""
        return int(getattr(self.model.config, "num_key_value_heads", None) or self.n_heads)

    @property
    def max_length(self) -> int | None:
        """Maximum length of a sequence in tokens; None for images."""
        return None

    def set_image_size(self, size: tuple[int, int]) -> None:  # noqa: B027 - most do not need it
        """Set the size of the images in the model's configuration.

        Parameters
        ----------
        size : tuple of int
            Height and width in pixels. Only needed by families whose layers use the patch grid.
        """

    @abstractmethod
    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embedded positions of a batch, the input of the first layer.

        Parameters
        ----------
        batch : mapping of str to Tensor
            Texts: `input_ids` and `attention_mask`, (n, t) integers, and `token_type_ids` if the
            family has them. Images: `pixel_values`, (n, c, h, w) floats.

        Returns
        -------
        hidden : Tensor of shape (n, t, d)
            Embedded positions, in the model's dtype.
        mask : Tensor of shape (n, t), bool
            True at real tokens, False at padding.

        Raises
        ------
        ValueError
            If the sequence is too long, or the image has another size or number of channels than
            the backbone supports.
        """

    @abstractmethod
    def _blocks(self) -> nn.ModuleList:
        """Return the model's own layer modules, in order."""

    @abstractmethod
    def _attention_parts(self, block: Any) -> AttentionParts:
        """Return the projections of a block's self-attention."""

    @abstractmethod
    def _finish(self, block: Any, attended: Tensor, residual: Tensor) -> Tensor:
        """Return a block's output, given its attention: output projection, feed-forward, norms."""

    @abstractmethod
    def _parts(self, block: Any) -> LayerParts | None:
        """Return the parts of a block; None if it has another structure."""

    def _attention_input(self, block: Any, hidden: Tensor) -> Tensor:  # noqa: ARG002 - pre-norm
        """Return the input of the projections: the hidden state, normalized if pre-norm."""
        return hidden

    def _block(self, layer: int) -> Any:
        if not 1 <= layer <= self.n_layers:
            raise ValueError(f"layer must be from 1 to {self.n_layers}, got {layer}.")
        return self._blocks()[layer - 1]

    def rotary(self, layer: int) -> Hashable | None:  # noqa: ARG002 - layers may differ
        """Return a name for the rotary angles of a layer; None if it has none.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.

        Returns
        -------
        hashable or None
            For `rotary_angles`. Layers with the same name share their angles.
        """
        return None

    def rotary_angles(self, name: Hashable, length: int) -> Rotary:
        """Return the rotary angles of positions.

        Parameters
        ----------
        name : hashable
            As returned by `rotary`.
        length : int
            Number of positions. Positions of texts count from 0, regardless of padding, because
            only differences matter; the angles of a longer sequence start with those of a shorter
            one. The angles of images may depend on the number of positions.

        Returns
        -------
        Rotary
            Of ``length`` positions, in float32, on the model's device.
        """
        raise NotImplementedError

    def attention_bias(self, layer: int, length: int) -> AttentionBias | None:  # noqa: ARG002
        """Return the position bias that is added to a layer's attention scores; None if none.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.
        length : int
            Maximum length of the sequences; for images, the number of positions.

        Returns
        -------
        AttentionBias or None
            Computed from the model's weights, with gradients. Either all layers have one or none.
        """
        return None

    def window(self, layer: int) -> int | None:  # noqa: ARG002 - layers may differ
        """Return the window of a layer's local attention; None for attention to all positions.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.

        Returns
        -------
        int or None
            Positions attend to positions at a distance below this number; in causal families only
            to earlier ones.
        """
        return None

    def _split_heads(self, projected: Tensor, n_heads: int | None = None) -> Tensor:
        n, t, _ = projected.shape
        return projected.view(n, t, n_heads or self.n_heads, -1).transpose(1, 2)

    def _query(self, block: Any, normed: Tensor) -> Tensor:
        parts = self._attention_parts(block)
        query = self._split_heads(parts.query(normed))
        return query if parts.query_norm is None else parts.query_norm(query)

    def _key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._attention_parts(block)
        key = self._split_heads(parts.key(normed), self.n_key_heads)
        value = self._split_heads(parts.value(normed), self.n_key_heads)
        return (key if parts.key_norm is None else parts.key_norm(key)), value

    def _query_key_value(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._query(block, normed), *self._key_value(block, normed)

    def _attention_dropout(self, block: Any) -> float:
        return self._attention_parts(block).dropout

    def _attention_maps(self, block: Any) -> tuple[LinearWeights, LinearWeights, LinearWeights]:
        """Return the weights of the query, key and value projections."""
        parts = self._attention_parts(block)
        return (
            LinearWeights.of(parts.query),
            LinearWeights.of(parts.key),
            LinearWeights.of(parts.value),
        )

    def _rotated(
        self, layer: int, heads: Tensor, length: int, positions: Tensor | None = None
    ) -> Tensor:
        """Return queries or keys of a sequence, with the rotary embedding if the layer has one."""
        name = self.rotary(layer)
        if name is None:
            return heads
        return self.rotary_angles(name, length).at(positions, heads.shape[2]).rotate(heads)

    def layer_parts(self, layer: int) -> LayerParts | None:
        """Return the parts of one layer, which are sufficient to run it without its modules.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.

        Returns
        -------
        LayerParts or None
            Views of the model's weights; the query includes the scale of the attention scores. None
            if the layer has another structure; `rows` supports it nevertheless.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        parts = self._parts(self._block(layer))
        if parts is None:
            return None
        head_dim = parts.query.weight.shape[0] // self.n_heads
        return parts.with_query_scaled(self._scale(layer, head_dim))

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
        k, v : Tensors of shape (n, n_key_heads, t, head_dim)
            To be passed to `rows`.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        block = self._block(layer)
        k, v = self._key_value(block, self._attention_input(block, hidden))
        return self._rotated(layer, k, hidden.shape[1]), v

    def rows(  # noqa: PLR0917 - the inputs of a layer
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
        k, v : Tensors of shape (n, n_key_heads, t, head_dim)
            Keys and values of all positions.
        mask : Tensor of shape (n, t), bool
            True at real tokens.
        positions : Tensor of shape (n, r), int64, default=None
            Positions of the rows in the sequence. None: all positions, in order.

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
        query = self._rotated(layer, query, k.shape[2], positions)
        attended = self._attend(layer, block, (query, k, v), mask, positions)
        return self._finish(block, attended, hidden_rows)

    def row_subset(  # noqa: PLR0917 - as `rows`
        self, layer: int, hidden_rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, at: RowSubset
    ) -> Tensor:
        """Return the output of one layer at positions whose number may differ between samples.

        Parameters
        ----------
        layer : int
            From 1 to `n_layers`.
        hidden_rows : Tensor of shape (R, d)
            What the layer reads, at these positions only.
        k, v : Tensors of shape (n, n_key_heads, t, head_dim)
            Keys and values of all positions.
        mask : Tensor of shape (n, t), bool
            True at real tokens.
        at : RowSubset
            Positions of the rows.

        Returns
        -------
        Tensor of shape (R, d)
            The layer's output for those rows.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        block = self._block(layer)
        rows = hidden_rows.unsqueeze(0)
        query = self._query(block, self._attention_input(block, rows))
        query = at.fill_up(query.transpose(1, 2).flatten(2).squeeze(0))
        query = self._rotated(layer, self._split_heads(query), k.shape[2], at.positions)
        attended = at.pick(self._attend(layer, block, (query, k, v), mask, at.positions))
        return self._finish(block, attended.unsqueeze(0), rows).squeeze(0)

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
            Equal to `rows` over all positions, but the input is normalized and projected only once.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        block = self._block(layer)
        query, k, v = self._query_key_value(block, self._attention_input(block, hidden))
        query, k = (self._rotated(layer, heads, hidden.shape[1]) for heads in (query, k))
        return self._finish(block, self._attend(layer, block, (query, k, v), mask, None), hidden)

    @property
    def has_final_norm(self) -> bool:
        """Whether `pool` changes hidden states."""
        return type(self).pool is not BackboneAdapter.pool

    def pool(self, hidden_rows: Tensor) -> Tensor:
        """Prepare hidden states of any layer for a head.

        Parameters
        ----------
        hidden_rows : Tensor of shape (..., d)
            Output of a layer.

        Returns
        -------
        Tensor of shape (..., d)
            After the model's final LayerNorm in pre-norm families, unchanged in the others.
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
        """Return the scaled dot-product attention with concatenated heads, (n, r, d)."""
        query, k, v = projected
        allowed, is_causal = self.allowed(mask, positions, layer)
        scale = self._scale(layer, query.shape[-1])
        bias = self.attention_bias(layer, k.shape[2])
        if bias is not None:
            added = bias.of(query * scale, k, positions, query.shape[2], k.shape[2])
            added = added.to(query.dtype)
            allowed, is_causal = joined_scores_mask(added, allowed, k.shape[2], is_causal)
        attended = attention(
            query,
            for_each_head(k, self.n_heads),
            for_each_head(v, self.n_heads),
            mask=allowed,
            dropout=self._attention_dropout(block) if block.training else 0.0,
            is_causal=is_causal,
            scale=scale,
        )
        return attended.transpose(1, 2).flatten(2)

    def allowed(
        self, mask: Tensor, positions: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor | None, bool]:
        """Return the attention mask, in the form of `scaled_dot_product_attention`.

        Parameters
        ----------
        mask : Tensor of shape (n, t), bool
            True at real tokens.
        positions : Tensor of shape (n, r), int64, default=None
            Positions of the queries. None: all positions, in order.
        layer : int, default=None
            Layer, whose attention may be local (see `window`). None: attention is not local.

        Returns
        -------
        allowed : Tensor that broadcasts to (n, heads, r, t), bool, or None
            True if a query attends to a key. None if it attends to all keys, or `is_causal` is
            sufficient.
        is_causal : bool
            Whether each query attends to the keys up to its own.
        """
        # Reading the mask on a GPU would synchronize with it, so there the mask is always passed.
        readable = mask.device.type == "cpu"
        full = self.kind == "image" or (readable and bool(mask.all()))
        window = None if layer is None else self.window(layer)
        if window is not None and window < mask.shape[1]:
            return near_keys(mask, positions, self.causal, window), False
        if not self.causal:
            return (None if full else mask[:, None, None, :]), False
        if full and positions is None:
            return None, True
        return near_keys(mask, positions, self.causal, None), False
