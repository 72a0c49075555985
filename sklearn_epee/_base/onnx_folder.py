"""Export an estimator as a folder of ONNX graphs, which `sklearn_epee.onnx_runtime` runs."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sklearn_epee._checks.parameters import check_layer
from sklearn_epee._nn.batch_layout import ENTITY_POSITIONS
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.images import ImagePreprocessor
from sklearn_epee._nn.long_texts import Windows
from sklearn_epee._nn.marked_texts import MarkedTextTokenizer
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.network_parts import kind_of
from sklearn_epee._nn.onnx_export import CannotExportError
from sklearn_epee._nn.onnx_graphs import MEMBERS, write_layer, write_stages
from sklearn_epee._nn.onnx_towers import write_tower_layer, write_tower_stages
from sklearn_epee._nn.two_towers import TwoTowerNetwork

from .fitted import FittedState
from .onnx_document import (
    FORMAT,
    SCHEMA,
    Document,
    classes_document,
    policy_document,
    tags_document,
    towers_document,
    write_tokenizer,
)

DOCUMENT = "exits.json"
_PACKAGES = ("onnx", "onnxruntime")
# Rows and positions of the batches with which graphs are traced and compared. The last one is about
# as long as the inputs can be.
_LONGEST = 512
_SIZES = ((5, 7), (4, 11), (1, 3), (2, _LONGEST))
# For texts in windows: the number of windows of each sample in these batches.
_WINDOWS = ((3, 2), (1, 2, 1), (1,), (1, 1))

Batches = list[Mapping[str, Tensor]]


def export(
    name: str,
    state: FittedState,
    make_policy: Callable[[FittedState], ExitPolicy],
    folder: str | os.PathLike[str],
    layer: int | None,
    *,
    transition_weight: float = 0.0,
) -> None:
    """Write the graphs of a fitted estimator and their document into a folder.

    Parameters
    ----------
    name : str
        Name of the estimator's class, for error messages.
    state : FittedState
    make_policy : callable
        Returns the exit policy of the estimator.
    folder : str or path-like
    layer : int or None
        The only layer to export; None for all layers, with exits.
    transition_weight : float, default=0.0
        Parameter of a token classifier.

    Raises
    ------
    ImportError
        If a package is missing.
    ValueError
        If the estimator cannot be exported.
    FileExistsError
        If the folder is not empty.
    """
    _check_packages()
    network, reader = state.trained.net.module_, state.trained.preprocessor
    document = {
        "format": FORMAT,
        "schema": SCHEMA,
        **_kind_document(network, reader, state.tasks, transition_weight),
        "policy": policy_document(make_policy(state)),
    }
    network = network.to_inference_copy(torch.device("cpu"), torch.float32)
    only_layer = None if layer is None else check_layer(layer, network.n_layers)
    _check_layer_of_towers(network, only_layer)
    place = _empty_folder(folder)
    try:
        document |= {
            "graphs": _write_graphs(network, reader, only_layer, place),
            "n_layers": network.n_layers if only_layer is None else 1,
            "layer": only_layer,
            "texts": write_tokenizer(getattr(reader, "text", reader), place),
        }
        (place / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except BaseException as error:  # also when interrupted, as a partial export is useless
        for path in place.iterdir():
            path.unlink()
        if not isinstance(error, CannotExportError):
            raise
        raise ValueError(
            f"{name} with a backbone of {_families(network)} and pooling={network.pooling!r} "
            f"cannot be exported to ONNX: {error}."
        ) from error


def _kind_document(network: Any, reader: Any, tasks: Any, transition_weight: float) -> Document:
    """Return the description of samples and classes."""
    kind = kind_of(network)
    document = {"kind": kind, "windows": _has_windows(reader)}
    if kind == "words":
        return document | tags_document(tasks, transition_weight)
    document |= classes_document(tasks)
    if kind == "towers":
        document["towers"] = towers_document(network, reader.form)
    return document


def _check_layer_of_towers(network: Any, layer: int | None) -> None:
    """Raise for a layer of the first tower that samples can skip by early hand-over."""
    if layer is None or not isinstance(network, TwoTowerNetwork) or not network.hands_over_early:
        return
    if layer <= network.n_first_layers:
        raise ValueError(
            f"layer={layer} is in the first tower, whose layers samples can skip because of "
            f"hand_over_after={network.hand_over_after}; expected None or a layer of the second "
            f"tower, above {network.n_first_layers}."
        )


def _write_graphs(network: Any, reader: Any, only_layer: int | None, place: Path) -> list[str]:
    """Write the graphs of a network with one or two backbones; return the names of the files."""
    if isinstance(network, TwoTowerNetwork):
        readers: dict[str, Any] = {"text": reader.text, "image": reader.image}
        names: tuple[str, str] = reader.form.towers
        first, second = (
            _batches(tower, readers[name])
            for tower, name in zip(network.towers, names, strict=True)
        )
        if only_layer is None:
            return write_tower_stages(network, names, (first, second), place)
        return write_tower_layer(network, only_layer, (first, second), place)
    batches = _batches(network, reader)
    if only_layer is None:
        return write_stages(network, batches, place)
    return write_layer(network, only_layer, batches, place)


def _families(network: Any) -> str:
    towers = network.towers if isinstance(network, TwoTowerNetwork) else [network]
    names = " and ".join(repr(tower.adapter.family) for tower in towers)
    return f"the {'families' if len(towers) > 1 else 'family'} {names}"


def _empty_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path of an empty folder, which is created if it does not exist."""
    place = Path(folder).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileExistsError(
            f"folder={str(place)!r} is not empty; expected an empty folder, or one that does not "
            "exist yet."
        )
    place.mkdir(parents=True, exist_ok=True)
    return place


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"export_onnx needs {' and '.join(missing)}: pip install 'sklearn_epee[onnx]'."
        )


def _has_windows(reader: Any) -> bool:
    return isinstance(getattr(reader, "long_texts", None), Windows)


def _batches(network: MultiExitNetwork, reader: Any) -> Batches:
    """Return batches of random samples of several sizes."""
    batches = [_batch(network, reader, n, t) for n, t in _SIZES]
    if not _has_windows(reader):
        return batches
    return [
        {**batch, MEMBERS: _members(windows)}
        for batch, windows in zip(batches, _WINDOWS, strict=True)
    ]


def _members(windows: tuple[int, ...]) -> Tensor:
    """Return a matrix (n, w) that is 1 if a window belongs to a sample."""
    return torch.eye(len(windows)).repeat_interleave(torch.tensor(windows), dim=1)


def _batch(network: MultiExitNetwork, reader: Any, n: int, t: int) -> Mapping[str, Tensor]:
    """Return a batch of random samples of a size; all but the first text are padded."""
    generator = torch.Generator().manual_seed(n)
    if isinstance(reader, ImagePreprocessor):
        shape = (n, network.backbone.config.num_channels, *reader.size)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    t = min(t, reader.max_length)
    vocabulary = int(network.backbone.config.vocab_size)
    mask = torch.ones(n, t, dtype=torch.long)
    mask[1:, t // 2 + 1 :] = 0
    batch = {
        "input_ids": torch.randint(vocabulary, (n, t), generator=generator),
        "attention_mask": mask,
    }
    if reader.settings["n_segments"] > 1:
        batch["token_type_ids"] = torch.randint(2, (n, t), generator=generator)
    if isinstance(reader, MarkedTextTokenizer):
        batch[ENTITY_POSITIONS] = torch.tensor([[0, min(1, t - 1)]]).expand(n, -1).contiguous()
    return batch
