"""Save the parts of a network in a folder, and rebuild it from an untrusted folder.

Before memory is allocated, all sizes are compared with the weights in the files, so that a
configuration cannot request more memory than the files need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sklearn_epee.exceptions import ModelFolderError

from .backbones import adapter_class_for, load_config, not_finite
from .network import MultiExitNetwork, aligned_copy, config_from_dict
from .token_network import TokenExitNetwork
from .two_towers import TwoTowerNetwork

_KINDS: dict[str, Any] = {
    "exits": MultiExitNetwork,
    "words": TokenExitNetwork,
    "towers": TwoTowerNetwork,
}
# Largest numbers in a configuration; sizes of vocabularies are the largest ones.
_MAX_INT = 2**24
_MAX_FLOAT = 10**12
# Parts of the names of options that are numbers of modules.
_COUNTS = ("layer", "group", "expert", "depth", "block", "stage", "num_labels", "num_hidden")
_FORBIDDEN = ("auto_map", "quantization_config", "trust_remote_code")
_TOWERS = ("first", "second")


@dataclass(frozen=True)
class TensorPlace:
    """The file of some weights, and the prefix of their names in the network."""

    prefix: str
    file: str


def kind_of(network: Any) -> str:
    """Return the name of a network's class, as it is saved in documents."""
    return next(name for name, cls in _KINDS.items() if type(network) is cls)


def recipe_document(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a recipe that are saved in a document; others are saved elsewhere."""
    elsewhere = ("config", "network", "n_classes", "towers")
    document = {name: value for name, value in recipe.items() if name not in elsewhere}
    if "towers" in recipe:
        document["towers"] = [recipe_document(tower) for tower in recipe["towers"]]
    return document


# ----------------------------------------------------------------------------------- weights


def places(folders: list[str], heads: str) -> list[TensorPlace]:
    """Return the files of the weights of a network, those of the backbones first.

    Parameters
    ----------
    folders : list of str
        Folders of the backbones, in the order of the towers.
    heads : str
        Name of the file with all other weights.
    """
    prefixes = ["backbone."] if len(folders) == 1 else [f"{tower}.backbone." for tower in _TOWERS]
    backbones = zip(prefixes, folders, strict=True)
    return [TensorPlace(prefix, f"{folder}/model.safetensors") for prefix, folder in backbones] + [
        TensorPlace("", heads)
    ]


def split_weights(
    network: torch.nn.Module, where: list[TensorPlace]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the name of every file and its weights, on the CPU and without shared memory.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite.
    """
    state = {name: part.detach().cpu() for name, part in network.state_dict().items()}
    if spoilt := not_finite(state):
        raise ValueError(f"Weights are NaN or infinite in {', '.join(sorted(spoilt)[:4])}.")
    seen: set[int] = set()
    for place in where:
        names = [name for name in state if name.startswith(place.prefix)]
        weights = {}
        for name in names:
            weight = state.pop(name).contiguous()
            shared = weight.data_ptr() in seen
            seen.add(weight.data_ptr())
            weights[name.removeprefix(place.prefix)] = weight.clone() if shared else weight
        yield place.file, weights


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights in the same format as transformers."""
    save_file(weights, path, metadata={"format": "pt"})


class WeightFiles:
    """Weights in files; names, shapes and types are known before the weights are read.

    Parameters
    ----------
    paths : dict of str to Path
        Paths of the files by their names.
    where : list of TensorPlace

    Attributes
    ----------
    names : list of str
        Names of the weights in the network.
    """

    def __init__(self, paths: Mapping[str, Path], where: list[TensorPlace]) -> None:
        self._files = {place: safe_open(paths[place.file], framework="pt") for place in where}
        self.names = [
            place.prefix + name
            for place, file in self._files.items()
            for name in file.keys()  # noqa: SIM118
        ]

    def read(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights, after checking that they are those of a network.

        Parameters
        ----------
        expected : dict of str to Tensor
            State dict of the network on the meta device.

        Raises
        ------
        ModelFolderError
            If a weight is missing, unknown, has another shape or type, or is not finite.
        """
        if set(self.names) != set(expected) or len(self.names) != len(expected):
            different = sorted(set(self.names) ^ set(expected))
            raise ModelFolderError(
                f"its weights are not those of its configuration: {', '.join(different[:4])}"
                f"{' and others' if len(different) > 4 else ''} on one side only. They may have "
                "been written by a version of transformers with other names"
            )
        weights: dict[str, Tensor] = {}
        for place, file in self._files.items():
            for name in file.keys():  # noqa: SIM118
                self._check_shape(file, name, expected[place.prefix + name])
        for place, file in self._files.items():
            for name in file.keys():  # noqa: SIM118
                weights[place.prefix + name] = aligned_copy(file.get_tensor(name))
        if spoilt := not_finite(weights):
            raise ModelFolderError(f"weights are NaN or infinite in {', '.join(spoilt[:4])}")
        return weights

    @staticmethod
    def _check_shape(file: Any, name: str, expected: Tensor) -> None:
        tensor = file.get_slice(name)
        shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
        if shape != tuple(expected.shape) or _TYPES.get(dtype) != expected.dtype:
            wanted = f"{expected.dtype} {tuple(expected.shape)}".removeprefix("torch.")
            raise ModelFolderError(f"{name} is {dtype} {shape}, where {wanted} is expected")


_TYPES = {"F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool, "I32": torch.int32,
          "F64": torch.float64, "U8": torch.uint8}  # fmt: skip


# ------------------------------------------------------------------------------------ network


def checked_config(document: Mapping[str, Any], kind: str, n_weights: int) -> dict[str, Any]:
    """Return the dictionary of a configuration from a file, after checking its numbers.

    Parameters
    ----------
    document : dict
    kind : {"text", "image"}
    n_weights : int
        Number of weights in the files, an upper bound of the number of layers.

    Raises
    ------
    ModelFolderError, ValueError
    """
    for name in _FORBIDDEN:
        if document.get(name) is not None:
            raise ModelFolderError(f"config.json has {name!r}; code in a folder is never run")
    if not isinstance(document.get("model_type"), str):
        raise ModelFolderError("config.json has no model_type")
    _check_numbers("config.json", document, n_weights + 64)
    adapter_class_for(document["model_type"], kind)
    return dict(document)


def _check_numbers(name: str, value: Any, max_count: int) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _check_numbers(str(key), part, max_count)
    elif isinstance(value, list):
        if len(value) > 10**5:
            raise ModelFolderError(f"config.json has {len(value)} values of {name[:40]!r}")
        for part in value:
            _check_numbers(name, part, max_count)
    elif _is_number(value) and not abs(value) <= _max_number(name, value, max_count):
        raise ModelFolderError(f"config.json has the invalid value {name[:40]}={value!r:.40}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _max_number(name: str, value: float, max_count: int) -> int:
    """Return the largest allowed value of an option of a configuration."""
    if isinstance(value, float):
        return _MAX_FLOAT
    return max_count if any(word in name for word in _COUNTS) else _MAX_INT


def make_network(
    kind: str,
    document: Mapping[str, Any],
    configs: list[dict[str, Any]],
    n_classes: Any,
    files: WeightFiles,
) -> Any:
    """Return a network from a recipe, configurations and weights that were read from a folder.

    Parameters
    ----------
    kind : str
        As `kind_of` returns it.
    document : dict
        As `recipe_document` returns it.
    configs : list of dict
        Configurations of the backbones, see `checked_config`.
    n_classes : int, tuple of int or LabelCount
    files : WeightFiles

    Returns
    -------
    Module
        In evaluation mode.

    Raises
    ------
    ModelFolderError, ValueError
    """
    cls = _KINDS.get(kind)
    if cls is None:
        raise ModelFolderError(f"a network of the kind {kind[:40]!r} is not known")
    if kind == "towers":
        pairs = zip(document["towers"], configs, strict=True)
        towers = [_recipe(part, config, n_classes, False) for part, config in pairs]
        recipe = {**document, "towers": towers}
    else:
        recipe = _recipe(document, configs[0], n_classes, kind == "words")
    # First on the meta device, which allocates no memory, also not for position ids.
    with torch.device("meta"):
        expected = cls.from_recipe(recipe, files.names).state_dict()
    weights = files.read(expected)
    network = cls.from_recipe(recipe, files.names)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _recipe(
    document: Mapping[str, Any], config: dict[str, Any], n_classes: Any, words: bool
) -> dict[str, Any]:
    recipe = {**document, "config": config, "n_classes": n_classes}
    return recipe | {"network": TokenExitNetwork} if words else recipe


def config_for_file(config: Any) -> dict[str, Any]:
    """Return all values of a configuration, for ``config.json``."""
    values = config.to_dict()
    # The folder of the checkpoint is not part of the network.
    values.pop("_name_or_path", None)
    return values


def config_object(document: Mapping[str, Any], kind: str) -> Any:
    """Return the configuration of a document, validated."""
    return load_config(config_from_dict(checked_config(document, kind, 1000)), kind)
