"""Export a network as ONNX graphs: one for the embedding, and one per layer with its head.

Operations that an exported graph would fix to the size of one batch are replaced here by equivalent
ones: masks, positions that heads read, and the windows of long texts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .backbones import AttentionBias, near_keys
from .batch_layout import (
    CONTEXT,
    ENTITY_POSITIONS,
    WINDOWS,
    WORD_POSITIONS,
    WORD_ROWS,
    BatchLayout,
)
from .network import MultiExitNetwork
from .onnx_export import check_logits, write_graph
from .pooling import last_real_positions
from .token_network import TokenExitNetwork
from .two_towers import state_of

# Matrix (n, w) that is 1 where a row of the batch is a window of a sample.
MEMBERS = "members"
# Positions whose hidden states stay unchanged, (n, t): the words that have exited. Heads in which
# words read their sentence read these states.
FROZEN = "frozen"
# Inputs that the embedding does not read.
_OF_LAYERS = (ENTITY_POSITIONS, MEMBERS, CONTEXT, FROZEN)


class _Layout(BatchLayout):
    """A layout whose computations can be exported for other batch sizes.

    Parameters
    ----------
    mask, read, context
        See `BatchLayout`.
    members : Tensor of shape (n, w), float32, default=None
        1 where a row is a window of a sample, 0 elsewhere. None: each sample is a row.
    """

    members: Tensor | None

    def __init__(
        self,
        mask: Tensor,
        read: Tensor | None = None,
        context: Tensor | None = None,
        members: Tensor | None = None,
    ) -> None:
        # Not None, to mark that there are windows; their numbers are only known in the graph.
        windows = None if members is None else np.empty(0, np.int64)
        super().__init__(mask, read, windows, context)
        object.__setattr__(self, "members", members)

    def rows_read(self, hidden: Tensor) -> Tensor:
        """Return the hidden states that the heads read."""
        read: Any = self.read
        return hidden.gather(1, read.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))

    def summed(self, rows: Tensor) -> Tensor:
        """Return the sums over each sample's windows, (w, d) -> (n, d)."""
        return rows if self.members is None else self.members @ rows

    def repeated(self, rows: Tensor) -> Tensor:
        """Return the row of each sample once per window, (n, ...) -> (w, ...)."""
        if self.members is None:
            return rows
        return (self.members.T @ rows.flatten(1)).view(-1, *rows.shape[1:])

    def averaged(self, rows: Tensor) -> Tensor:
        """Return the means over each sample's windows, (w, d) -> (n, d)."""
        if self.members is None:
            return rows
        return self.summed(rows) / self.members.sum(1, keepdim=True)

    def shares(self, scores: Tensor) -> Tensor:
        """Return the softmax of the rows' scores within each sample, (w,) -> (w,)."""
        if self.members is None:
            return torch.ones_like(scores)
        own = torch.where(self.members > 0, scores, torch.finfo(scores.dtype).min)
        top = own.amax(1) @ self.members
        powers = torch.exp(scores - top)
        return powers / (self.members @ powers @ self.members)


class _BiasByPosition:
    """An attention bias that is looked up by position, which can be exported for other lengths."""

    def __init__(self, bias: AttentionBias) -> None:
        self._bias = bias

    def of(self, query: Tensor, k: Tensor, _: Tensor | None, n_queries: int, n_keys: int) -> Tensor:
        """Return the term that is added to the scores; see `AttentionBias.of`."""
        positions = torch.arange(k.shape[2], device=k.device).unsqueeze(0)
        return self._bias.of(query, k, positions, n_queries, n_keys)


class _Once:
    """Cache for a function that only depends on the size of images, which is fixed in a graph."""

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self._compute = compute
        self._found: Tensor | None = None

    def __call__(self, *given: Any, **named: Any) -> Tensor:
        if self._found is None:
            self._found = self._compute(*given, **named)
        return self._found


def _with_constant_positions(model: Any) -> Any:
    """Return an image model with the same weights whose position embeddings are a constant.

    transformers interpolates them to the size of the images when a graph is traced, and ONNX does
    not support all modes of interpolation.
    """
    embeddings: Any = getattr(model, "embeddings", None)
    if not hasattr(embeddings, "interpolate_pos_encoding"):
        return model
    model, embeddings = copy.copy(model), copy.copy(embeddings)
    embeddings.interpolate_pos_encoding = _Once(embeddings.interpolate_pos_encoding)
    vars(model)["_modules"] = model._modules | {"embeddings": embeddings}
    return model


class Backbone(nn.Module):
    """A network whose computations do not depend on the values of its inputs, with its exits.

    A batch has to be embedded before the export, so that position embeddings for images of its size
    are cached.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on the CPU, in float32.
    """

    def __init__(self, network: MultiExitNetwork) -> None:
        super().__init__()
        self.network = network
        adapter: Any = copy.copy(network.adapter)
        vars(adapter).update(allowed=self._allowed, attention_bias=self._attention_bias)
        if adapter.kind == "image":
            adapter.model = _with_constant_positions(adapter.model)
        self.adapter = adapter

    def _allowed(
        self, mask: Tensor, _: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor | None, bool]:
        adapter = self.network.adapter
        if adapter.kind == "image":
            return None, False
        window = None if layer is None else adapter.window(layer)
        if not adapter.causal and window is None:
            return mask[:, None, None, :], False
        positions = (mask.long().cumsum(1) * 0 + 1).cumsum(1)[:1] - 1
        return near_keys(mask, positions, adapter.causal, window), False

    def _attention_bias(self, layer: int, length: int) -> Any:
        adapter = self.network.adapter
        if adapter.kind == "image":
            return adapter.attention_bias(layer, int(length))
        bias = adapter.attention_bias(layer, adapter.max_length or int(length))
        return None if bias is None else _BiasByPosition(bias)

    def axes(self, batch: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
        """Return the dynamic axes of inputs and outputs."""
        rows = {0: "w" if MEMBERS in batch else "n"}
        # The number of positions of images is fixed.
        sequence = rows if self.network.adapter.kind == "image" else rows | {1: "t"}
        of_words = isinstance(self.network, TokenExitNetwork)
        return {
            **dict.fromkeys(("input_ids", "token_type_ids", "attention_mask"), sequence),
            **dict.fromkeys(("hidden", "above", FROZEN), sequence),
            "pixel_values": rows,
            ENTITY_POSITIONS: rows,
            MEMBERS: {0: "n", 1: "w"},
            CONTEXT: {0: "n"},
            "state": {0: "n"},
            "logits": sequence if of_words else {0: "n"},
        }

    @torch.no_grad()
    def logits_of_network(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of all exits as computed by the network itself, (n, M, K).

        For token classification, the logits of all tokens, (n, t, M, K).
        """
        given = {name: part for name, part in batch.items() if name not in (MEMBERS, FROZEN)}
        if MEMBERS in batch:
            given[WINDOWS] = batch[MEMBERS].sum(1).long()
        if not isinstance(self.network, TokenExitNetwork):
            return self.network(**given)
        n, t = batch["attention_mask"].shape
        places = {
            WORD_ROWS: torch.arange(n).repeat_interleave(t),
            WORD_POSITIONS: torch.arange(t).repeat(n),
        }
        return self.network(**given, **places).unflatten(0, (n, t))

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embedded positions of a batch, and its mask."""
        hidden, mask = self.adapter.embed(_some(batch, of_layers=False))
        return hidden, mask

    def layer(self, layer: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the output of a layer."""
        above: Tensor = self.adapter.layer(layer, hidden, mask)
        return above

    def exit(
        self, layer: int, hidden: Tensor, below: Tensor, mask: Tensor, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of a layer's head, and the pooled state."""
        network = self.network
        if isinstance(network, TokenExitNetwork):
            rows = self.adapter.pool(hidden)
            if network.head == "attention":
                rows = network.attention(layer).of_positions(rows, mask)
            logits = network.heads[layer - 1](rows.flatten(0, 1).float())
            return logits.unflatten(0, hidden.shape[:2]), rows
        read = batch.get(ENTITY_POSITIONS)
        if network.pooling in ("cls", "cls+mean"):
            read = torch.zeros_like(mask[:, :1], dtype=torch.long)
        elif network.pooling == "last":
            read = last_real_positions(mask).unsqueeze(1)
        layout = _Layout(mask, read, batch.get(CONTEXT), batch.get(MEMBERS))
        pooled = network.pooled(layer, hidden, below, layout, self.adapter.pool)
        return network.classify(layer, pooled, layout), state_of(pooled)


class Part(nn.Module):
    """Base class of exported modules, whose inputs are positional.

    Parameters
    ----------
    names : iterable of str
        Names of the inputs, in their order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._names = list(names)

    def named(self, inputs: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the inputs by their names."""
        return dict(zip(self._names, inputs, strict=True))


class _Embedding(Part):
    def __init__(self, backbone: Backbone, names: Iterable[str]) -> None:
        super().__init__(names)
        self.backbone = backbone

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.backbone.embed(self.named(inputs))[0]


class _Layer(Part):
    """A layer with its head; also returns the pooled state if the tower hands samples over."""

    def __init__(
        self, backbone: Backbone, layer: int, names: Iterable[str], hands_over: bool = False
    ) -> None:
        super().__init__(names)
        self.backbone = backbone
        self._layer = layer
        self._hands_over = hands_over

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        batch = self.named(inputs)
        hidden, mask = batch["hidden"], batch["attention_mask"].bool()
        above = self.backbone.layer(self._layer, hidden, mask)
        if FROZEN in batch:
            above = torch.where(batch[FROZEN].unsqueeze(-1), hidden, above)
        logits, state = self.backbone.exit(self._layer, above, hidden, mask, batch)
        return (above, logits, state) if self._hands_over else (above, logits)


class FixedLayer(Part):
    """The complete network from its inputs to the logits of one layer.

    Parameters
    ----------
    backbone : Backbone
    layer : int
        Layer, counted from 1.
    names : iterable of str
        Names of the inputs.
    """

    def __init__(self, backbone: Backbone, layer: int, names: Iterable[str]) -> None:
        super().__init__(names)
        self.backbone = backbone
        self._layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = self.named(inputs)
        hidden, mask = self.backbone.embed(batch)
        below = hidden
        for layer in range(1, self._layer + 1):
            below, hidden = hidden, self.backbone.layer(layer, hidden, mask)
        return self.backbone.exit(self._layer, hidden, below, mask, batch)[0]


def write_stages(
    network: MultiExitNetwork, batches: list[Mapping[str, Tensor]], folder: Path
) -> list[str]:
    """Write the embedding and every layer with its head, and return the names of the files.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on the CPU, in float32.
    batches : list of dict of str to Tensor
        Inputs of different sizes; graphs are exported with the first one and compared on all.
    folder : Path

    Raises
    ------
    CannotExportError
        If the network cannot be exported, or a graph gives other results.
    """
    if isinstance(network, TokenExitNetwork) and network.head == "attention":
        batches = [
            batch | {FROZEN: torch.zeros_like(batch["attention_mask"], dtype=torch.bool)}
            for batch in map(dict, batches)
        ]
    return write_tower(Backbone(network), batches, folder)


def write_layer(
    network: MultiExitNetwork, layer: int, batches: list[Mapping[str, Tensor]], folder: Path
) -> list[str]:
    """Write one graph from the inputs to the logits of a layer; see `write_stages`."""
    backbone = Backbone(network)
    part = FixedLayer(backbone, layer, batches[0])
    expected = [backbone.logits_of_network(batch)[..., layer - 1, :] for batch in batches]
    check_logits(part, batches, expected, None, "layer.onnx")
    write_graph(part, batches, ["logits"], backbone.axes(batches[0]), folder / "layer.onnx")
    return ["layer.onnx"]


def write_tower(
    backbone: Backbone,
    batches: list[Mapping[str, Tensor]],
    folder: Path,
    prefix: str = "",
    hands_over: bool = False,
) -> list[str]:
    """Write the graphs of one backbone and its exits; their names start with a prefix.

    Parameters
    ----------
    backbone : Backbone
    batches, folder
        As in `write_stages`.
    prefix : str, default=""
        Prefix of the names of the files.
    hands_over : bool, default=False
        Whether layers also return the pooled state, after the logits.

    Returns
    -------
    list of str
    """
    axes = backbone.axes(batches[0])
    read = [_some(batch, of_layers=False) for batch in batches]
    embedding = _Embedding(backbone, read[0])
    files = [f"{prefix}embed.onnx"]
    states = [_state(embedding, batch) for batch in batches]
    write_graph(embedding, read, ["hidden"], axes, folder / files[0])
    expected = [backbone.logits_of_network(batch) for batch in batches]
    outputs = ["above", "logits", *(["state"] if hands_over else [])]
    for layer in range(1, backbone.network.n_layers + 1):
        part = _Layer(backbone, layer, states[0], hands_over)
        files.append(f"{prefix}layer_{layer}.onnx")
        logits = [every[..., layer - 1, :] for every in expected]
        check_logits(part, states, logits, 1, files[-1])
        write_graph(part, states, outputs, axes, folder / files[-1])
        with torch.no_grad():
            states = [state | {"hidden": part(*state.values())[0]} for state in states]
    return files


@torch.no_grad()
def _state(embedding: _Embedding, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of the first layer for a batch."""
    hidden = embedding(*_some(batch, of_layers=False).values())
    mask = batch.get("attention_mask", torch.ones(hidden.shape[:2], dtype=torch.long))
    return {"hidden": hidden, "attention_mask": mask, **_some(batch, of_layers=True)}


def _some(batch: Mapping[str, Tensor], *, of_layers: bool) -> dict[str, Tensor]:
    """Return the additional inputs of the layers in a batch, or those of the embedding."""
    return {name: part for name, part in batch.items() if (name in _OF_LAYERS) == of_layers}
