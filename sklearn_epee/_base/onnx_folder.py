"""An estimator as a folder of ONNX graphs, with what `sklearn_epee.onnx_runtime` needs to know."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_epee._checks.parameters import check_layer
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.images import ImagePreprocessor
from sklearn_epee._nn.marked_texts import MarkedTextTokenizer
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.onnx_graphs import CannotExportError, write_layer, write_stages
from sklearn_epee._nn.texts import TextTokenizer

from .fitted import FittedState

DOCUMENT = "exits.json"
_PACKAGES = ("onnx", "onnxruntime")
# Samples and positions of the batches that are traced, and compared.
_SIZES = ((2, 7), (3, 11), (1, 3))


def export(
    name: str,
    state: FittedState,
    make_policy: Callable[[FittedState], ExitPolicy],
    folder: str | os.PathLike[str],
    layer: int | None,
) -> None:
    """Write the graphs of a fit and their document into a folder.

    Parameters
    ----------
    name : str
        Of the estimator's class.
    state : FittedState
    make_policy : callable
        Returns the exit policy of the estimator.
    folder : str or path-like
    layer : int or None
        The only layer to export; None for all, with exits.

    Raises
    ------
    ImportError
        If a package is missing.
    ValueError
        If there are no graphs of such an estimator.
    FileExistsError
        If the folder holds something.
    """
    _check_packages()
    network = state.trained.net.module_
    reader = state.trained.preprocessor
    _check_kind(name, network, reader)
    policy = make_policy(state)
    network = network.to_inference_copy(torch.device("cpu"), torch.float32)
    place = _empty_folder(folder)
    batches = [_batch(network, reader, n, t) for n, t in _SIZES]
    only_layer = None if layer is None else check_layer(layer, network.n_layers)
    try:
        files = (
            write_stages(network, batches, place)
            if only_layer is None
            else write_layer(network, only_layer, batches, place)
        )
    except CannotExportError as error:
        for path in place.iterdir():
            path.unlink()
        family = network.adapter.family
        raise ValueError(
            f"{name} with a backbone of the family {family!r} and pooling={network.pooling!r} "
            f"cannot be exported to ONNX: {error}."
        ) from error
    document = {
        **_document(state, policy),
        "graphs": files,
        "n_layers": network.n_layers if only_layer is None else 1,
        "layer": only_layer,
        "texts": _write_tokenizer(reader, place),
    }
    (place / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _empty_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path of an empty folder, made if it is not there."""
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


def _check_kind(name: str, network: Any, reader: Any) -> None:
    """Refuse what the driver does not run."""
    if type(network) is not MultiExitNetwork:
        raise ValueError(
            f"{name} cannot be exported to ONNX: the driver runs one backbone whose samples exit "
            "as wholes. Export an EPEEClassifier or EPEEImageClassifier."
        )
    if getattr(reader, "long_texts", None) is not None:
        raise ValueError(
            "long_texts: the driver reads one row of tokens per text; expected "
            "long_texts='truncate'."
        )


def _batch(network: MultiExitNetwork, reader: Any, n: int, t: int) -> Mapping[str, Tensor]:
    """Return a batch of random samples of a size, the last of which are padded."""
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
        batch["entity_positions"] = torch.tensor([[0, min(1, t - 1)]]).expand(n, -1).contiguous()
    return batch


def _document(state: FittedState, policy: ExitPolicy) -> dict[str, Any]:
    """Return what the driver needs to know of classes and policy."""
    tasks = state.tasks
    multilabel = bool(tasks.multilabel)
    several = isinstance(tasks.classes, list)
    classes = tasks.classes if several else [tasks.classes]
    return {
        "format": "sklearn_epee.onnx",
        "schema": 1,
        "classes": [_array_document(part) for part in classes],
        "several_tasks": several,
        "multilabel": multilabel,
        "counts": list(tasks.counts),
        "policy": _policy_document(policy),
    }


def _array_document(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "values": array.tolist()}


def _policy_document(policy: Any) -> dict[str, Any]:
    thresholds = policy.label_thresholds
    return {
        "tau": float(policy.tau),
        "patience": int(policy.patience),
        "exit_ensemble": policy.exit_ensemble,
        "exit_weights": np.asarray(policy.exit_weights).tolist(),
        "joint_exit": policy.joint_exit,
        "label_thresholds": None if thresholds is None else np.asarray(thresholds).tolist(),
    }


def _write_tokenizer(reader: Any, folder: Path) -> dict[str, Any] | None:
    """Write the tokenizer's file, and return how texts are read; None where the caller does it."""
    if not isinstance(reader, TextTokenizer) or isinstance(reader, MarkedTextTokenizer):
        return None
    tokenizer = reader.tokenizer
    if not tokenizer.is_fast:
        return None
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    fillers = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return {
        "max_length": reader.max_length,
        "truncation_side": tokenizer.truncation_side,
        "pad_id": int(tokenizer.pad_token_id or 0),
        "filler_id": next((number for number in fillers if number is not None), 0),
        "token_types": reader.settings["n_segments"] > 1,
    }
