"""Files of a checkpoint folder: their names, contents, and which are damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = ["damaged_json", "files_of", "is_local", "leaves_folder", "read_weights"]


def is_local(source: str | os.PathLike[str]) -> bool:
    """Return whether the name of a checkpoint is the path of a folder, not a hub id."""
    text = os.fspath(source)
    if isinstance(source, os.PathLike) or text.startswith((".", "/", "~", "\\")):
        return True
    try:
        return Path(text).exists()
    except OSError:  # a name that is too long
        return False


def leaves_folder(name: str) -> bool:
    """Return whether a path in a checkpoint's file leads out of the checkpoint's folder."""
    path = PurePath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name


def files_of(source: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the files of a folder; empty if there is no such folder."""
    try:
        return sorted(path.name for path in Path(source).iterdir() if path.is_file())
    except (OSError, ValueError):  # no such folder, or an invalid name
        return []


def damaged_json(source: str | os.PathLike[str]) -> str:
    """Return a part of a message that names the JSON files of a folder that cannot be read."""
    names = [name for name in files_of(source) if name.endswith(".json")]
    damaged = [name for name in names if not _is_json(Path(source) / name)]
    return f" Damaged: {', '.join(damaged)}." if damaged else ""


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return True


def read_weights(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    is_wanted: Callable[[str], bool] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a folder with their keys.

    Parameters
    ----------
    folder : str or path-like
    names : sequence of str
        Names of the file that holds them, the preferred one first; its parts may have an index.
    is_wanted : callable, default=None
        Says of a key whether its weight is read; None reads all.

    Yields
    ------
    key : str
    weight : Tensor

    Raises
    ------
    ValueError
        If there is no such file, or one cannot be read.
    """
    for path in _weight_files(Path(folder), names):
        try:
            yield from _weights_of(path, is_wanted or bool)
        except (SafetensorError, RuntimeError, ValueError, OSError, EOFError, LookupError) as error:
            reason = (str(error).strip() or "the file ends too early").splitlines()[0]
            raise ValueError(
                f"folder={os.fspath(folder)!r}: could not read the weights from {path.name} "
                f"({type(error).__name__}: {reason})."
            ) from error


def _weights_of(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for key in filter(is_wanted, file.keys()):
                yield key, file.get_tensor(key)
        return
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in filter(is_wanted, state):
        yield key, state[key]


def _weight_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files that hold the weights: one, or those that an index names."""
    present = files_of(folder)
    for name in names:
        if name in present:
            return [folder / name]
        if f"{name}.index.json" in present:
            index = json.loads((folder / f"{name}.index.json").read_text(encoding="utf-8"))
            shards = sorted(set(index["weight_map"].values()))
            if outside := [shard for shard in shards if leaves_folder(shard)]:
                raise ValueError(f"{name}.index.json names {outside[0]!r}, outside the folder.")
            return [folder / shard for shard in shards]
    raise ValueError(
        f"folder={str(folder)!r} holds no weights; expected a file {' or '.join(names)}."
    )
