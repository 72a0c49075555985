"""Load backbones from a folder, a hub id or a configuration, and check that all weights fit."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sklearn_epee._compat import is_out_of_memory
from sklearn_epee._nn.backbones._adapter import BackboneAdapter
from sklearn_epee._nn.backbones._finite import not_finite
from sklearn_epee._nn.backbones._folder import files_of, is_local, leaves_folder
from sklearn_epee._nn.backbones._generic import GenericAdapter
from sklearn_epee._nn.backbones._generic_check import TOLERANCE, differences, with_noise
from sklearn_epee._nn.backbones._paper import PAPER_HEADS
from sklearn_epee._nn.backbones._registry import adapter_class_for, own_families
from sklearn_epee._nn.backbones._timm import (
    TimmAdapter,
    is_timm,
    open_clip_config,
    read_timm_config,
    read_timm_weights,
    require_timm,
    with_sizes,
)
from sklearn_epee._nn.backbones._validation import (
    MAX_LAYERS,
    check_forward,
    check_values,
)

__all__ = ["empty_backbone", "enlarge_vocabulary", "load_backbone", "load_config"]

# Exceptions of transformers, safetensors and torch for damaged files and other configurations.
_READ_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
    StrictDataclassError,
)

# Parameters that the forward pass of an adapter does not use.
_UNUSED = ("pooler", "embeddings.mask_token")

# Far more than in any published checkpoint.
_MAX_LABELS = 10**6

# Buffers that older versions of transformers saved.
_OLD_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|relative_position_index|rotary_emb\.inv_freq)$"
    r"|(^|\.)attn\.(masked_)?bias$"
)


def load_config(source: str | os.PathLike[str] | PretrainedConfig, kind: str) -> PretrainedConfig:
    """Return the configuration of a backbone, validated.

    Parameters
    ----------
    source : str, path-like or transformers.PretrainedConfig
        A checkpoint folder, a hub id, or a configuration object, which is returned unchanged. For a
        whole CLIP model, the configuration of the vision tower is returned.
    kind : {"text", "image"}
        Input of the backbone.

    Returns
    -------
    transformers.PretrainedConfig
        Configuration of a known family.

    Raises
    ------
    TypeError
        If `source` is none of the above.
    ValueError
        If there is no configuration there or it cannot be read, the family is unknown or of the
        other kind (the message lists the known ones), or an option of it is not supported.

    Examples
    --------
    >>> from transformers import ViTConfig
    >>> from sklearn_epee._nn.backbones import load_config
    >>> load_config(ViTConfig(), "image").model_type
    'vit'
    >>> load_config(ViTConfig(), "text")
    Traceback (most recent call last):
    ...
    ValueError: backbone: 'vit' is a family for images; expected one of the known text families: ...
    """
    if isinstance(source, PretrainedConfig):
        config = source
        adapter_class = adapter_class_for(config.model_type, kind)
        if issubclass(adapter_class, TimmAdapter):
            config = with_sizes(copy.deepcopy(config))
    elif isinstance(source, str | os.PathLike):
        adapter_class, config = _read_config(source, kind)
    else:
        raise TypeError(
            "backbone must be a folder, a hub id or a transformers configuration, "
            f"got {type(source).__name__}."
        )
    config = getattr(config, "vision_config", config)
    _check_config(adapter_class, config)
    check_values(config, adapter_class, _where(source, config))
    return config


def _check_config(adapter_class: type[BackboneAdapter], config: PretrainedConfig) -> None:
    try:
        adapter_class.check_config(config)
    except ValueError as error:
        if not issubclass(adapter_class, GenericAdapter):
            raise
        raise ValueError(f"{error} {own_families(adapter_class.kind)}") from error


def load_backbone(source: str | os.PathLike[str] | PretrainedConfig, kind: str) -> PreTrainedModel:
    """Return the base model of a checkpoint, or one with fresh weights from a configuration.

    Parameters
    ----------
    source : str, path-like or transformers.PretrainedConfig
        A checkpoint folder or a hub id: its pretrained weights. A configuration object: fresh
        weights, drawn from torch's global generator with its own `initializer_range`.
    kind : {"text", "image"}
        What the backbone is to read.

    Returns
    -------
    transformers.PreTrainedModel
        In float32 and evaluation mode, on the CPU, without pooler and task heads.

    Raises
    ------
    TypeError
        If `source` is of another type.
    ValueError
        If the configuration is refused (see `load_config`) or no network can be made from it, there
        are no weights or they cannot be read or are not finite, keys are missing or of another
        shape, or there are keys that are neither the backbone's nor a known task head's. The
        message lists the keys.

    Notes
    -----
    A checkpoint whose keys carry a prefix that transformers does not know (one saved from a wrapper
    class, for example) would otherwise load as random weights, silently.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> from sklearn_epee._nn.backbones import load_backbone
    >>> config = BertConfig(
    ...     vocab_size=20,
    ...     hidden_size=8,
    ...     num_hidden_layers=2,
    ...     num_attention_heads=2,
    ...     intermediate_size=16,
    ... )
    >>> type(load_backbone(config, "text")).__name__
    'BertModel'
    """
    config = load_config(source, kind)
    adapter_class = adapter_class_for(config.model_type, kind)
    if isinstance(source, PretrainedConfig):
        with _build_failure(_where(source, config)):
            model = _build(adapter_class, config)
    else:
        model = _read_weights(source, adapter_class, config)
    model.eval()
    if issubclass(adapter_class, GenericAdapter):
        _prove(adapter_class, with_noise(model) if isinstance(source, PretrainedConfig) else model)
        return model
    with _build_failure(_where(source, config)):
        check_forward(adapter_class(model))
    return model


def empty_backbone(config: PretrainedConfig) -> PreTrainedModel:
    """Return the architecture of a configuration without weights.

    Parameters
    ----------
    config : transformers.PretrainedConfig
        Of one of the known families.

    Returns
    -------
    transformers.PreTrainedModel
        In float32 and evaluation mode. Its parameters are on the meta device, without memory, to
        be replaced by ``load_state_dict(weights, assign=True)``; buffers that a state dict does
        not carry (position ids) are right. torch's random generator is not advanced.

    Raises
    ------
    ValueError
        If the configuration is refused (see `load_config`).

    Examples
    --------
    >>> from transformers import BertConfig
    >>> from sklearn_epee._nn.backbones import empty_backbone, load_backbone
    >>> config = BertConfig(
    ...     vocab_size=20,
    ...     hidden_size=8,
    ...     num_hidden_layers=2,
    ...     num_attention_heads=2,
    ...     intermediate_size=16,
    ... )
    >>> model = empty_backbone(config)
    >>> model.load_state_dict(load_backbone(config, "text").state_dict(), assign=True)
    <All keys matched successfully>
    """
    adapter_class = adapter_class_for(config.model_type)
    config = load_config(config, adapter_class.kind)
    if issubclass(adapter_class, GenericAdapter):
        # Its buffers may be computed from floats, with any function.
        with torch.random.fork_rng([]):
            return _build(adapter_class, config).eval()
    with _FloatsWithoutMemory():
        return _build(adapter_class, config).eval()


def enlarge_vocabulary(model: PreTrainedModel, n_tokens: int) -> None:
    """Add embeddings to a text backbone, in place, for tokens that were added to a tokenizer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        As returned by `load_backbone`.
    n_tokens : int
        Number of embeddings afterwards. The new ones are drawn, from torch's global generator,
        with the mean and the covariance of the others.
    """
    with _quiet():
        model.resize_token_embeddings(n_tokens)


class _FloatsWithoutMemory(TorchFunctionMode):
    """Within the block, create float tensors on the meta device and do not initialize them.

    Integers, which are position ids and the like, are made as usual. Only this thread is affected,
    unlike by `transformers.initialization.no_init_weights`, during which a network that another
    thread makes would be left without weights.
    """

    _factories = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn})
    # By name, because transformers replaces torch's functions while it creates a model.
    _fillers = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_"})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        dtype = kwargs.get("dtype")
        if func in self._factories and (dtype is None or dtype.is_floating_point):
            kwargs["device"] = "meta"
        if getattr(func, "__name__", None) in self._fillers:
            # Initialization has no effect on the meta device, but would take most of the time.
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _prove(adapter_class: type[GenericAdapter], model: PreTrainedModel) -> None:
    """Raise if the generic adapter gives other results than the model, or the model fails."""
    try:
        adapter = adapter_class(model)
        check_forward(adapter)
        together, alone = differences(adapter)
        if not max(together, alone) <= TOLERANCE:
            padded = "in a batch with padding, " if alone <= TOLERANCE else ""
            raise ValueError(
                f"{padded}its last hidden state differs from the model's own by up to "
                f"{max(together, alone):.2g}, where at most {TOLERANCE:g} is expected"
            )
    except _READ_ERRORS as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
        reason = reason.removeprefix("backbone: ")
        if not isinstance(error, ValueError):
            reason = f"its layers cannot be called one by one ({type(error).__name__}: {reason})"
        raise ValueError(
            f"backbone: a {adapter_class.family} model of this configuration cannot be run layer "
            f"by layer by the generic adapter: {reason}. {own_families(adapter_class.kind)}"
        ) from error


def _build(adapter_class: type[BackboneAdapter], config: PretrainedConfig) -> PreTrainedModel:
    # Adapters compute attention themselves; do not load the kernel that the configuration names.
    model = getattr(transformers, adapter_class.auto_class).from_config(
        _own_config(adapter_class, config),
        dtype=torch.float32,
        attn_implementation=adapter_class.attention,
        trust_remote_code=False,
        **adapter_class.model_options,
    )
    return model.float()


def _own_config(adapter_class: type[BackboneAdapter], config: PretrainedConfig) -> PretrainedConfig:
    """Return a copy of a configuration for a model, which may modify it."""
    own = copy.deepcopy(config)
    for name, value in adapter_class.config_options.items():
        setattr(own, name, value)
    return own


def _describe(source: str | os.PathLike[str]) -> str:
    """Describe a source, for the start of an error message."""
    return f"backbone: the {_kind(source)} {os.fspath(source)!r}"


def _where(source: str | os.PathLike[str] | PretrainedConfig, config: PretrainedConfig) -> str:
    """Describe the source of a configuration."""
    if isinstance(source, PretrainedConfig):
        return f"the {type(config).__name__}"
    return f"config.json of the {_kind(source)} {os.fspath(source)!r}"


def _kind(source: str | os.PathLike[str]) -> str:
    return "folder" if is_local(source) else "hub id"


def _read_config(
    source: str | os.PathLike[str], kind: str
) -> tuple[type[BackboneAdapter], PretrainedConfig]:
    """Read `config.json` of a folder or a hub repository."""
    where = _describe(source)
    if raw := open_clip_config(source):
        adapter_class = adapter_class_for(TimmAdapter.family, kind)
        require_timm()
        with _quiet(), _read_failure(source, "configuration"):
            return adapter_class, read_timm_config(source, raw)
    if is_local(source) and "config.json" not in files_of(source):
        problem = "has no config.json" if files_of(source) else "does not exist or is empty"
        raise ValueError(f"{where} {problem}; expected a checkpoint in transformers' format.")
    with _quiet(), _read_failure(source, "configuration"):
        if is_local(source):
            _check_object(Path(source) / "config.json")
        raw, _ = PretrainedConfig.get_config_dict(os.fspath(source))
    # transformers creates a name for each label, here and when it reads the tokenizer.
    for name, most in (("num_hidden_layers", MAX_LAYERS), ("num_labels", _MAX_LABELS)):
        if isinstance(raw.get(name), (int, float)) and raw[name] > most:
            raise ValueError(
                f"{where}: {name}={raw[name]} in config.json; expected at most {most}."
            )
    model_type = TimmAdapter.family if is_timm(raw) else raw.get("model_type")
    adapter_class = adapter_class_for(model_type, kind)
    whole = adapter_class.tower_of if model_type == adapter_class.family else None
    name = whole or adapter_class.config_class
    if issubclass(adapter_class, TimmAdapter):
        require_timm()
    with _quiet(), _read_failure(source, "configuration"):
        if issubclass(adapter_class, TimmAdapter):
            return adapter_class, read_timm_config(source, raw)
        return adapter_class, getattr(transformers, name).from_dict(raw)


def _check_object(path: Path) -> None:
    found = type(json.loads(path.read_text(encoding="utf-8"))).__name__
    if found != "dict":
        raise ValueError(f"config.json holds a {found}, not an object")


def _read_weights(
    source: str | os.PathLike[str], adapter_class: type[BackboneAdapter], config: PretrainedConfig
) -> PreTrainedModel:
    with _quiet(), _read_failure(source, "weights"):
        if is_local(source):
            _check_shards(Path(source))
        load = _load_timm if issubclass(adapter_class, TimmAdapter) else _load_pretrained
        model, report = load(source, adapter_class, config)
    heads: Collection[str] = adapter_class.head_keys
    if issubclass(adapter_class, GenericAdapter):
        heads = _foreign_parts(model, report["unexpected_keys"])
    heads = (*heads, PAPER_HEADS)
    _check_report(source, adapter_class, (heads, model.base_model_prefix), report)
    if spoilt := not_finite(model.state_dict()):
        raise ValueError(
            f"{_describe(source)} holds weights that are NaN or infinite "
            f"({len(spoilt)}): {_listed(spoilt)}."
        )
    return model


def _load_pretrained(
    source: str | os.PathLike[str], adapter_class: type[BackboneAdapter], config: PretrainedConfig
) -> tuple[Any, dict[str, Any]]:
    model_class = getattr(transformers, adapter_class.model_class)
    loaded: tuple[Any, dict[str, Any]] = model_class.from_pretrained(
        os.fspath(source),
        config=_own_config(adapter_class, config),
        dtype=torch.float32,
        attn_implementation=adapter_class.attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,
        **adapter_class.model_options,
    )
    return loaded


def _load_timm(
    source: str | os.PathLike[str], adapter_class: type[BackboneAdapter], config: PretrainedConfig
) -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint of timm, of transformers' wrapper or of open_clip; their keys differ."""
    with torch.random.fork_rng([]):
        model = _build(adapter_class, config)
    patterns = ["*.json", "*.safetensors", "*.bin"]
    folder = source
    if not is_local(source):
        folder = snapshot_download(str(source), allow_patterns=patterns)
    return model, read_timm_weights(folder, model)


def _foreign_parts(model: PreTrainedModel, keys: Iterable[str]) -> set[str]:
    """Return the first parts of keys that are not in the model: heads and other towers."""
    own = {name for name, _ in model.named_children()}
    own |= {name for name, _ in model.named_parameters(recurse=False)}
    prefix = f"{type(model).base_model_prefix}."
    return {key.removeprefix(prefix).partition(".")[0] for key in keys} - own


def _check_shards(folder: Path) -> None:
    """Raise if an index of weight files names files outside of the folder."""
    for path in sorted(folder.glob("*.index.json")):
        shards = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        for name in sorted(set(shards)):
            if leaves_folder(name):
                raise ValueError(f"{path.name} names {name!r}, which is outside the folder")


def _check_report(
    source: str | os.PathLike[str],
    adapter_class: type[BackboneAdapter],
    known: tuple[Collection[str], str],
    report: dict[str, Any],
) -> None:
    """Raise if loading left out a weight of the backbone or a key of the checkpoint.

    `known` are the names of heads, and the prefix that the backbone has in models with heads.
    """
    heads, prefix = known
    missing = [key for key in report["missing_keys"] if not _starts_with(key, _UNUSED, prefix)]
    unexpected = [
        key
        for key in report["unexpected_keys"]
        if not _starts_with(key, heads, prefix) and not _OLD_BUFFERS.search(key)
    ]
    mismatched = [
        f"{key} {tuple(found)} instead of {tuple(expected)}"
        for key, found, expected in report["mismatched_keys"]
    ]
    problems = [
        f"{label} ({len(keys)}): {_listed(keys)}."
        for label, keys in (
            ("Keys of the backbone are missing", missing),
            ("Keys have other shapes than in config.json", mismatched),
            ("Keys belong neither to the backbone nor to a known head", unexpected),
        )
        if keys
    ]
    problems.extend(str(message) for message in report.get("error_msgs") or ())
    if problems:
        raise ValueError(
            f"{_describe(source)} does not hold the weights of a {adapter_class.family} backbone. "
            + " ".join(problems)
        )


def _starts_with(key: str, names: Iterable[str], prefix: str) -> bool:
    """Return whether a key starts with one of the names, with or without the model's prefix."""
    bare = key.removeprefix(f"{prefix}.")
    return any(bare == name or bare.startswith(f"{name}.") for name in names)


def _listed(keys: Iterable[str], limit: int = 8) -> str:
    ordered = sorted(keys)
    more = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _read_failure(source: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Replace errors of reading a checkpoint by a ValueError that says what to do."""
    try:
        yield
    except _READ_ERRORS as error:
        if is_out_of_memory(error):
            raise
        advice = (
            f"Expected the complete {what} of a checkpoint in transformers' format."
            if is_local(source)
            else "Without a network, pass the path of a local checkpoint folder instead."
        )
        # The first line is the error; the rest is often advice about another library.
        reason = (str(error).strip() or "the file ends too early").splitlines()[0]
        raise ValueError(
            f"{_describe(source)}: could not read the {what}{_files(source, what)} "
            f"({type(error).__name__}: {reason}). {advice}"
        ) from error


@contextlib.contextmanager
def _build_failure(where: str) -> Iterator[None]:
    """Replace errors of creating a network from a configuration by a ValueError."""
    try:
        yield
    except _READ_ERRORS as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"backbone: no network that runs can be made from {where} "
            f"({type(error).__name__}: {reason}). Check the values of the configuration."
        ) from error


def _files(source: str | os.PathLike[str], what: str) -> str:
    """Return the files of a folder that are read, for an error message."""
    endings = {
        "configuration": ("config.json",),
        "weights": (".safetensors", ".bin", ".index.json"),
    }
    names = [name for name in files_of(source) if name.endswith(endings[what])]
    return f" from {_listed(names)}" if names else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' reports and progress bars; problems are raised as errors."""
    verbosity = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar:
            transformers_logging.enable_progress_bar()
