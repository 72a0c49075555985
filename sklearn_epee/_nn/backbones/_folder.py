"""Files of a checkpoint folder: what they name, and which of them are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath

__all__ = ["damaged_json", "files_of", "leaves_folder"]


def leaves_folder(name: str) -> bool:
    """Return whether a path that a checkpoint's file names would lead out of its folder."""
    path = PurePath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name


def files_of(source: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the files of a folder; none where there is no such folder."""
    try:
        return sorted(path.name for path in Path(source).iterdir() if path.is_file())
    except (OSError, ValueError):  # not there, too long a name, a name that no file can have
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
