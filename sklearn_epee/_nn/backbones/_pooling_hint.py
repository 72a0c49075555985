"""Read the pooling of a sentence-transformers checkpoint from its files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import PretrainedConfig

from sklearn_epee._nn.backbones._folder import leaves_folder

__all__ = ["checkpoint_pooling"]

_MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
}


def checkpoint_pooling(source: str | os.PathLike[str] | PretrainedConfig) -> str | None:
    """Return the pooling of a sentence-transformers checkpoint.

    Parameters
    ----------
    source : str, path-like or transformers.PretrainedConfig
        A folder or a hub id. A configuration object says nothing about pooling.

    Returns
    -------
    {"cls", "mean", "last"} or None
        None if the checkpoint does not specify it, combines several modes or uses another one.

    Raises
    ------
    ValueError
        If `modules.json` names a folder outside the checkpoint.

    References
    ----------
    .. [1] Reimers and Gurevych, "Sentence-BERT", 2019; the files `modules.json` and
       `1_Pooling/config.json` of the sentence-transformers library.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> from sklearn_epee._nn.backbones import checkpoint_pooling
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "1_Pooling").mkdir()
    >>> text = json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    >>> _ = (folder / "1_Pooling" / "config.json").write_text(text)
    >>> checkpoint_pooling(folder)
    'mean'
    """
    if isinstance(source, PretrainedConfig):
        return None
    modules = _read_json(source, "modules.json")
    folders = ["1_Pooling"]
    if isinstance(modules, list):
        folders = [
            str(module.get("path"))
            for module in modules
            if isinstance(module, dict) and str(module.get("type", "")).endswith(".Pooling")
        ]
    if len(folders) != 1:
        return None
    if leaves_folder(folders[0]):
        raise ValueError(
            f"backbone={os.fspath(source)!r}: modules.json names the folder {folders[0]!r}, which "
            "is outside the checkpoint."
        )
    return _mode(_read_json(source, f"{folders[0]}/config.json"))


def _mode(pooling: Any) -> str | None:
    """Return the only mode that is enabled in a pooling configuration; None if there are others."""
    if not isinstance(pooling, dict):
        return None
    named = pooling.get("pooling_mode")
    if isinstance(named, str):
        return _MODES.get(named)
    prefix = "pooling_mode_"
    on = [
        name.removeprefix(prefix)
        for name, value in pooling.items()
        if name.startswith(prefix) and value
    ]
    return _MODES.get(on[0]) if len(on) == 1 else None


def _read_json(source: str | os.PathLike[str], name: str) -> Any:
    """Read a JSON file of a folder or a hub repository; None if it cannot be read."""
    try:
        path = Path(source) / name
        if not Path(source).is_dir():
            path = Path(hf_hub_download(os.fspath(source), name))
        return json.loads(path.read_text(encoding="utf-8"))
    except (HfHubHTTPError, OSError, ValueError):
        return None
