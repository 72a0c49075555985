"""Save the fitted state of an estimator as a folder without pickle, and load it.

In addition to the files of `_folders`, there is one folder per backbone, which transformers can
read (``config.json``, ``model.safetensors``, and the files of the tokenizer or image processor),
and ``heads.safetensors`` with all other weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.history import History
from transformers import PretrainedConfig

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._folders import (
    FITTED,
    Loading,
    NotSerializableError,
    Saving,
    decode,
    encode,
    field,
    integer_field,
    list_of,
)
from sklearn_epee._nn.backbones import is_local
from sklearn_epee._nn.heads import HEADS as HEAD_KINDS
from sklearn_epee._nn.network_parts import (
    WeightFiles,
    checked_config,
    config_for_file,
    config_object,
    kind_of,
    make_network,
    places,
    recipe_document,
    split_weights,
    write_weights,
)
from sklearn_epee._nn.text_image import TOWERS, CaseReader
from sklearn_epee._nn.training import untrained_net
from sklearn_epee._search import ready
from sklearn_epee._spans import valid_transitions
from sklearn_epee.exceptions import ModelFolderError

from .fitted import FittedState, as_lazy_network
from .int8_folder import int8_document, read_int8
from .parameters import MANY_SAMPLES, check_parameters, training_plan
from .preprocessor_folder import processor_of, read_preprocessor, tokenizer_of, write_preprocessor
from .tag_data import TagLayers

HEADS = "heads.safetensors"
CONFIG = "config.json"


def backbone_folders(preprocessor: Any) -> list[str]:
    """Return the names of the backbones' folders, in the order in which they run."""
    if isinstance(preprocessor, CaseReader):
        return [f"{name}_backbone" for name in preprocessor.form.towers]
    return ["backbone"]


# ----------------------------------------------------------------------------------- writing


def write_state(state: FittedState, saving: Saving) -> dict[str, Any]:
    """Write the files of a fit, and return a document of everything else."""
    trained = state.trained
    network = trained.net.module_
    folders = backbone_folders(trained.preprocessor)
    for folder, backbone in zip(folders, _backbones(network), strict=True):
        saving.writer.write_json(f"{folder}/{CONFIG}", config_for_file(backbone.config))
    for file, weights in split_weights(network, places(folders, HEADS)):
        write_weights(weights, saving.writer.path(file))
    return {
        "tasks": _tasks_document(state.tasks),
        "reader": write_preprocessor(trained.preprocessor, saving, folders),
        "network": {"kind": kind_of(network), "recipe": encode(recipe_document(network.recipe()))},
        "exit_weights": encode(np.asarray(state.summary.exit_weights)),
        "stopped_by": state.summary.stopped_by,
        "int8": int8_document(trained.int8, saving.store_array),
        "history": encode(
            [_serializable_part(epoch) for epoch in state.summary.history], saving.store_array
        ),
    }


def _backbones(network: Any) -> list[Any]:
    towers = getattr(network, "towers", (network,))
    return [tower.backbone for tower in towers]


def _serializable_part(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in epoch.items() if _is_serializable(value)}


def _is_serializable(value: Any) -> bool:
    """Return whether a value of the history can be saved; callbacks may record any object."""
    try:
        encode(value)
    except TypeError:
        return False
    return True


def _tasks_document(tasks: Any) -> dict[str, Any]:
    if isinstance(tasks, TagLayers):
        return {
            "kind": "tags",
            "scheme": tasks.scheme,
            "classes": encode(tasks.classes),
            "transition_counts": encode(tasks.transition_counts),
        }
    kind = "labels" if tasks.multilabel else "classes"
    try:
        return {"kind": kind, "classes": encode(tasks.classes)}
    except NotSerializableError as error:
        raise NotSerializableError(
            f"classes_ holds {error}, which cannot be saved without pickle; fit with labels that "
            "are strings, numbers or bools, such as y.astype(str), or save with joblib.dump."
        ) from error


def parameter_to_document(estimator: Any, name: str, value: Any) -> Any:
    """Return a parameter of an estimator in the form in which it is saved.

    Of a path, only the last part is saved, so that the file does not reveal the user's folders.
    """
    if isinstance(value, torch.device):
        return str(value)
    if name not in estimator._sources or value is None:
        return value
    if isinstance(value, PretrainedConfig):
        return ("config", config_for_file(value))
    if isinstance(value, (str, os.PathLike)):
        return Path(value).name if is_local(value) else str(value)
    return FITTED


# ----------------------------------------------------------------------------------- reading


def parameters_from_document(
    cls: Any, parameters: Mapping[str, Any], reader: Any
) -> dict[str, Any]:
    """Return the constructor parameters of an estimator from their saved form.

    Parameters
    ----------
    cls : type
    parameters : dict
        As `parameter_to_document` returns them.
    reader : object or None
        The fitted preprocessor; None for an estimator that is not fitted.
    """
    found = dict(parameters)
    for name in cls._sources:
        value = found.get(name)
        if isinstance(value, tuple) and value == FITTED:
            find = processor_of if name == "image_processor" else tokenizer_of
            found[name] = None if reader is None else find(reader)
        elif isinstance(value, tuple):
            kind = "image" if name == "image_backbone" else cls._kind
            if len(value) != 2 or value[0] != "config" or not isinstance(value[1], dict):
                raise ModelFolderError(f"the parameter {name!r} is not a configuration")
            found[name] = config_object(value[1], kind)
    return found


def read_state(
    cls: Any, parameters: Mapping[str, Any], document: Mapping[str, Any], loading: Loading
) -> tuple[Any, FittedState]:
    """Return an estimator with its parameters, and its fitted state, from a document and files.

    Raises
    ------
    ModelFolderError, ValueError, TypeError
        If the document and the files are invalid or do not match.
    """
    tasks = _read_tasks(field(document, "tasks", dict))
    folders = _folders_of(cls, field(document, "reader", dict))
    where = places(folders, HEADS)
    files = WeightFiles({place.file: loading.reader.path(place.file) for place in where}, where)
    configs = [
        checked_config(
            loading.reader.json_of(f"{folder}/{CONFIG}"), _kind_in(cls, folder), len(files.names)
        )
        for folder in folders
    ]
    network_document = field(document, "network", dict)
    recipe = _read_recipe(decode(network_document.get("recipe")), len(folders))
    kind = _kind_of_network(cls, field(network_document, "kind", str))
    network = make_network(kind, recipe, configs, tasks.n_classes, files)
    reader = read_preprocessor(document["reader"], loading, folders, _backbones(network), network)
    estimator = _make_estimator(cls, parameters, reader)
    state = _make_fitted_state(estimator, document, tasks, network, reader)
    int8 = read_int8(document.get("int8"), network, loading.load_array)
    if int8 is not None:
        state.network = ready(state.summary, replace(state.trained, int8=int8))
    return estimator, state


def _make_estimator(cls: Any, parameters: Mapping[str, Any], reader: Any) -> Any:
    """Return an estimator with validated parameters."""
    estimator = cls(**parameters_from_document(cls, parameters, reader))
    # A model trained on a GPU can be loaded on a machine without one, and a model with
    # precision="int8" on a processor without 8-bit products. Errors are raised in prediction.
    check = copy.copy(estimator).set_params(device="cpu")
    check._validate_params()
    if check.precision == "int8":
        check.set_params(precision="auto")
    check_parameters(check)
    return estimator


def _make_fitted_state(
    estimator: Any, document: Mapping[str, Any], tasks: Any, network: Any, reader: Any
) -> FittedState:
    exit_weights = _read_exit_weights(decode(document.get("exit_weights")), network.n_layers)
    check = copy.copy(estimator).set_params(device="cpu")
    defaults = estimator._training_defaults()
    net = untrained_net(network, training_plan(check, defaults, MANY_SAMPLES, network, seed=0))
    net.history_ = History(_read_history(decode(document.get("history"))))
    net.stopped_by_ = field(document, "stopped_by", (str, type(None)))
    lazy = as_lazy_network(reader, net, exit_weights)
    return FittedState(lazy, tasks, None, type(estimator)._engine)


def _folders_of(cls: Any, document: Mapping[str, Any]) -> list[str]:
    if cls._sources[0] != "text_backbone":
        return ["backbone"]
    towers = list_of(field(document, "towers", list))
    if sorted(map(str, towers)) != sorted(TOWERS):
        raise ModelFolderError(f"towers is {towers!r:.80}; expected {list(TOWERS)} in any order")
    return [f"{name}_backbone" for name in towers]


def _kind_in(cls: Any, folder: str) -> str:
    return "image" if folder == "image_backbone" else str(cls._kind)


def _kind_of_network(cls: Any, kind: str) -> str:
    expected = {"EPEETokenClassifier": "words", "EPEEMultimodalClassifier": "towers"}
    if kind != expected.get(cls.__name__, "exits"):
        raise ModelFolderError(f"{cls.__name__} cannot have a network of the kind {kind[:40]!r}")
    return kind


def _read_recipe(recipe: Any, n_backbones: int) -> dict[str, Any]:
    """Return the recipe of a network, with the type and range of each value checked."""
    if not isinstance(recipe, dict):
        raise ModelFolderError("the recipe of its network is not a dictionary")
    if n_backbones == 2:
        towers = list_of(recipe.get("towers"))
        if len(towers) != 2 or not set(recipe) <= {"towers", "hand_over_after", "context_dropout"}:
            raise ModelFolderError("the recipe of its network is invalid for two towers")
        after = field(recipe, "hand_over_after", (int, type(None)))
        if after is not None and not 1 <= after <= 2**20:
            raise ModelFolderError(f"hand_over_after is {after}; expected null or 1 to {2**20}")
        _fraction_field(recipe, "context_dropout")
        return {**recipe, "towers": [_read_recipe(tower, 1) for tower in towers]}
    if not set(recipe) <= {"pooling", "dropout", "context_size", "head"}:
        raise ModelFolderError(
            f"the recipe of its network has unknown keys: {sorted(map(str, recipe))!r:.120}"
        )
    field(recipe, "pooling", str)
    _fraction_field(recipe, "dropout")
    integer_field(recipe, "context_size", 0, 2**24)
    # Folders written before the parameter `head` existed do not have it.
    if (head := recipe.get("head", "linear")) not in HEAD_KINDS:
        raise ModelFolderError(f"heads of the kind {head!r:.40} are not known")
    return dict(recipe)


def _fraction_field(document: Mapping[str, Any], name: str) -> float:
    value = field(document, name, (float, int))
    if not 0 <= value <= 1:
        raise ModelFolderError(f"{name!r} is {value!r:.40}; expected a number from 0 to 1")
    return float(value)


def _read_tasks(document: Mapping[str, Any]) -> Any:
    kind, classes = field(document, "kind", str), decode(document.get("classes"))
    if kind == "tags":
        layers = classes if isinstance(classes, dict) else {"": classes}
        for tags in layers.values():
            _check_classes(tags)
        counts = decode(document.get("transition_counts"))
        found = TagLayers(classes, field(document, "scheme", str), counts)
        _check_counts(found)
        return found
    if kind not in ("classes", "labels"):
        raise ModelFolderError(f"tasks of the kind {kind[:40]!r} are unknown")
    for part in classes if isinstance(classes, list) else [classes]:
        _check_classes(part, kind == "labels")
    if isinstance(classes, list) and (kind == "labels" or len(classes) < 2):
        raise ModelFolderError(
            "classes is a list; expected an array, or the arrays of several tasks"
        )
    return Tasks(classes, kind == "labels")


def _check_classes(classes: Any, labels: bool = False) -> None:
    """Raise if classes are not a sorted array; the names of labels may be in any order."""
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or not len(classes):
        raise ModelFolderError("classes are not a 1D array with at least one class")
    if labels:  # names of several types cannot be sorted
        are_valid = len(set(classes.tolist())) == len(classes)
    else:
        are_valid = np.array_equal(np.unique(classes), classes)
    if not are_valid:
        raise ModelFolderError("classes are not sorted, or contain duplicates")


def _check_counts(tags: TagLayers) -> None:
    """Raise for tags that are invalid in the scheme, or transition counts of another shape."""
    for name, layer in tags.by_name.items():
        if layer.dtype.kind not in "UO" or not all(type(tag) is str for tag in layer.tolist()):
            raise ModelFolderError("tags are not strings")
        valid_transitions(layer.tolist(), tags.scheme)
        if tags.transition_counts is None:
            continue
        counts = tags.transition_counts[name]
        shape = (len(layer) + 1, len(layer))
        if not isinstance(counts, np.ndarray) or counts.dtype.kind != "f" or counts.shape != shape:
            raise ModelFolderError(f"transition_counts is not a float array of shape {shape}")
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ModelFolderError("transition_counts has values that are negative or not finite")


def _read_exit_weights(found: Any, n_layers: int) -> NDArray[np.float64]:
    is_array = isinstance(found, np.ndarray) and found.dtype == np.float64
    if not is_array or found.shape != (n_layers,) or not (np.isfinite(found) & (found >= 0)).all():
        raise ModelFolderError(f"exit_weights are not {n_layers} finite numbers >= 0 in float64")
    return found


def _read_history(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(epoch, dict) for epoch in found):
        raise ModelFolderError("history is not a list of dictionaries, one per epoch")
    return found
