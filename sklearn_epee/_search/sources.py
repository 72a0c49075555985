"""Identify a checkpoint, configuration, tokenizer or processor by its content."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

# A checkpoint has a configuration; a tokenizer has one, or its vocabulary.
_LOADED = ("*config.json", "tokenizer*.json", "vocab*", "*.model")


def source_identity(source: Any) -> Any:
    """Return what identifies a checkpoint, config, tokenizer or processor, wherever it is stored.

    Parameters
    ----------
    source : None, str, path-like or object of transformers

    Returns
    -------
    object
        An object for `fingerprint`: the digest of a folder's files, the commit of a checkpoint on
        the hub, or the content of an object.
    """
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)):
        if not _is_folder(source):
            return _hub_identity(str(source))
        # Loading anything else raises an error. It may be a folder of many checkpoints, or the home
        # folder, whose files are not read.
        return folder_digest(Path(source)) if _may_load(Path(source)) else str(source)
    backend = getattr(source, "backend_tokenizer", None)
    if backend is not None:
        return type(source), backend.to_str(), sorted(map(str, source.init_kwargs.items()))
    if hasattr(source, "to_json_string"):
        return type(source), source.to_json_string()
    return source


def _is_folder(source: str | os.PathLike[str]) -> bool:
    try:
        return Path(source).is_dir()
    except OSError:
        # For example a name that is too long; loading the backbone raises an error.
        return False


def _may_load(folder: Path) -> bool:
    """Return whether a folder has a file that every checkpoint, tokenizer or processor has."""
    return any(any(folder.glob(pattern)) for pattern in _LOADED)


def _hub_identity(name: str) -> str:
    """Return a hub id with its current commit, or the id alone if no commit can be found."""
    try:
        # Requests the current commit, so that a checkpoint with a new commit is a different one.
        # Without a network, this returns the commit in the cache.
        config = hf_hub_download(name, "config.json")
    except (OSError, ValueError):
        # Not a valid id, or no such model; loading the backbone raises an error.
        return name
    # The hub's cache names a folder after each commit.
    return f"{name}@{Path(config).parent.name}"


def folder_digest(folder: Path) -> str:
    """Return a fingerprint of the content of the files of a checkpoint folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(os.fsencode(path.relative_to(folder).as_posix()))  # may not be UTF-8
            digest.update(file_digest(path))
    return digest.hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file; cached until the file changes."""
    status = path.stat()
    return _file_digest(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _file_digest(path: str, size: int, changed: int) -> bytes:  # noqa: ARG001 - part of the cache key
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
