"""Resolve paths given by users."""

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder that "~" stands for, or as it is where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of a user who does not exist
        return Path(path)
