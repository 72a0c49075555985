"""A network as graphs of ONNX: the embedding, and one graph for each layer with its head.

Graphs are traced, which writes down what was computed for one batch. Every graph is therefore run
on batches of other sizes and compared with the network; a family whose layers depend on a size in
a way that a trace does not see is refused.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .backbones import AttentionBias, near_keys
from .batch_layout import ENTITY_POSITIONS, BatchLayout
from .network import MultiExitNetwork
from .pooling import last_real_positions

_OPSET = 17
# Largest difference of hidden states and logits on batches of other sizes.
_TOLERANCE = 1e-3
_SEQUENCE = {0: "n", 1: "t"}


class CannotExportError(ValueError):
    """A network of which no graphs can be made; the message says why."""


class _Layout(BatchLayout):
    """A layout whose rows are gathered in a way that a trace follows to other batch sizes."""

    def rows_read(self, hidden: Tensor) -> Tensor:
        """Return the hidden states that the heads read."""
        read: Any = self.read
        return hidden.gather(1, read.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


class _BiasByPosition:
    """A bias that is looked up position by position, which a trace follows to other lengths."""

    def __init__(self, bias: AttentionBias) -> None:
        self._bias = bias

    def of(self, query: Tensor, k: Tensor, _: Tensor | None, n_queries: int, n_keys: int) -> Tensor:
        """Return what is added to the scores; see `AttentionBias.of`."""
        positions = torch.arange(k.shape[2], device=k.device).unsqueeze(0)
        return self._bias.of(query, k, positions, n_queries, n_keys)


class _Part(nn.Module):
    """Shared by the graphs: a network whose adapter does not look at values."""

    def __init__(self, network: MultiExitNetwork) -> None:
        super().__init__()
        self.network = network
        adapter: Any = copy.copy(network.adapter)
        vars(adapter).update(allowed=self._allowed, attention_bias=self._attention_bias)
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

    def logits(
        self, layer: int, hidden: Tensor, below: Tensor, mask: Tensor, read: Tensor | None
    ) -> Tensor:
        """Return the logits of the head of a layer."""
        pooling = self.network.pooling
        if pooling in ("cls", "cls+mean"):
            read = torch.zeros_like(mask[:, :1], dtype=torch.long)
        elif pooling == "last":
            read = last_real_positions(mask).unsqueeze(1)
        layout = _Layout(mask, read)
        return self.network.exit_logits(layer, hidden, below, layout, self.adapter.pool)


class _Embedding(_Part):
    def __init__(self, network: MultiExitNetwork, names: list[str]) -> None:
        super().__init__(network)
        self._names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = dict(zip(self._names, inputs, strict=True))
        batch.pop(ENTITY_POSITIONS, None)
        hidden: Tensor = self.adapter.embed(batch)[0]
        return hidden


class _Layer(_Part):
    def __init__(self, network: MultiExitNetwork, layer: int) -> None:
        super().__init__(network)
        self._layer = layer

    def forward(
        self, hidden: Tensor, attention_mask: Tensor, entity_positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mask = attention_mask.bool()
        above = self.adapter.layer(self._layer, hidden, mask)
        return above, self.logits(self._layer, above, hidden, mask, entity_positions)


class _FixedLayer(_Embedding):
    def __init__(self, network: MultiExitNetwork, names: list[str], layer: int) -> None:
        super().__init__(network, names)
        self._layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = dict(zip(self._names, inputs, strict=True))
        read = batch.pop(ENTITY_POSITIONS, None)
        hidden, mask = self.adapter.embed(batch)
        below = hidden
        for layer in range(1, self._layer + 1):
            below, hidden = hidden, self.adapter.layer(layer, hidden, mask)
        return self.logits(self._layer, hidden, below, mask, read)


def write_stages(
    network: MultiExitNetwork, batches: list[Mapping[str, Tensor]], folder: Path
) -> list[str]:
    """Write the embedding and every layer with its head, and return the names of the files.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on the CPU, in float32.
    batches : list of dict of str to Tensor
        What the graphs read, of three sizes; the first is traced, the others are compared.
    folder : Path
        A folder.

    Raises
    ------
    CannotExportError
        If the network cannot be traced, or a graph does not compute what the network does.
    """
    names = list(batches[0])
    embedding = _Embedding(network, names)
    states = [_states(embedding, batch) for batch in batches]
    _write(
        embedding,
        [list(batch.values()) for batch in batches],
        names,
        ["hidden"],
        folder,
        "embed.onnx",
    )
    files = ["embed.onnx"]
    for layer in range(1, network.n_layers + 1):
        part = _Layer(network, layer)
        name = f"layer_{layer}.onnx"
        _write(
            part,
            [list(s.values()) for s in states],
            list(states[0]),
            ["above", "logits"],
            folder,
            name,
        )
        with torch.no_grad():
            states = [{**s, "hidden": part(*s.values())[0]} for s in states]
        files.append(name)
    return files


def write_layer(
    network: MultiExitNetwork, layer: int, batches: list[Mapping[str, Tensor]], folder: Path
) -> list[str]:
    """Write one graph from what the backbone reads to the logits of a layer; as `write_stages`."""
    names = list(batches[0])
    part = _FixedLayer(network, names, layer)
    _write(
        part, [list(batch.values()) for batch in batches], names, ["logits"], folder, "layer.onnx"
    )
    return ["layer.onnx"]


@torch.no_grad()
def _states(embedding: _Embedding, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the first layer reads of a batch."""
    hidden = embedding(*batch.values())
    mask = batch.get("attention_mask", torch.ones(hidden.shape[:2], dtype=torch.long))
    read = {name: part for name, part in batch.items() if name == ENTITY_POSITIONS}
    return {"hidden": hidden, "attention_mask": mask, **read}


@torch.no_grad()
def _write(  # noqa: PLR0917 - a graph, its batches, its names and where it goes
    part: nn.Module,
    inputs: list[list[Tensor]],
    names: list[str],
    outputs: list[str],
    folder: Path,
    file: str,
) -> None:
    """Trace a part on the first of some inputs, write it, and compare it on the others."""
    axes = {name: _axes(name) for name in (*names, *outputs)}
    path = str(folder / file)
    try:
        with warnings.catch_warnings():
            # What a trace may miss is compared below.
            warnings.simplefilter("ignore")
            # The exporter of torch 2.6 and later takes half a minute for each layer.
            torch.onnx.export(
                part.eval(),
                tuple(inputs[0]),
                path,
                dynamo=False,
                input_names=names,
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=_OPSET,
            )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CannotExportError(f"{file}: torch cannot trace it ({reason})") from error
    _compare(part, inputs, names, path, file)


def _axes(name: str) -> dict[int, str]:
    if name in ("logits", ENTITY_POSITIONS, "pixel_values"):
        return {0: "n"}
    return _SEQUENCE


def _compare(
    part: nn.Module, inputs: list[list[Tensor]], names: list[str], path: str, file: str
) -> None:
    import onnxruntime  # noqa: PLC0415 - an optional package

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    read = {one.name for one in session.get_inputs()}
    for given in inputs:
        feed = {n: x.numpy() for n, x in zip(names, given, strict=True) if n in read}
        try:
            found = session.run(None, feed)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise CannotExportError(f"{file} does not run on other sizes ({reason})") from error
        expected = part(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        mask = _mask_of(names, given)
        for own, theirs in zip(expected, found, strict=True):
            difference = np.abs(own.numpy() - theirs)
            if own.ndim == 3 and mask is not None:
                difference = difference[mask]
            scale = max(1.0, float(own.abs().max()))
            if not difference.max(initial=0.0) <= _TOLERANCE * scale:
                raise CannotExportError(
                    f"{file} differs from the network by up to {difference.max():.2g} on other "
                    "sizes than those it was traced with"
                )


def _mask_of(names: list[str], given: list[Tensor]) -> Any:
    if "attention_mask" not in names:
        return None
    return given[names.index("attention_mask")].bool().numpy()
