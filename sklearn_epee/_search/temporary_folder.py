"""The temporary store of a process, created at the first clone and removed at exit.

A process owns its folder by holding a lock on a file beside it. A lock ends with its process and,
unlike a process number, is valid across containers and machines that share the file system.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import tempfile
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = "sklearn-epee-"
# Folders of this process, with the file descriptors of their locks.
_owned: dict[Path, int] = {}


@functools.cache
def temporary_folder() -> Path | None:
    """Return the temporary store of this process, created at the first call.

    The first call also removes the folders of processes that were killed.

    Returns
    -------
    Path or None
        None, with a warning, if no folder can be created.
    """
    try:
        _sweep()
        return _make_folder()
    except OSError as error:
        warnings.warn(
            f"No temporary folder for trained networks can be created ({error}), so a search "
            "trains again for every policy. Pass memory= a folder that can be written to.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def has_owner(folder: Path) -> bool:
    """Return whether the process that created a temporary store is still running."""
    if folder in _owned:
        return True
    try:
        descriptor = os.open(_lock_file(folder), os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        # It belongs to another user, so it must not be removed.
        return True
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _make_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{secrets.token_hex(8)}"
    # Lock before the folder is created, so that no other process sees it without an owner.
    descriptor = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    _lock(descriptor)
    folder.mkdir(mode=0o700)
    _owned[folder] = descriptor
    atexit.register(_remove, folder)
    return folder


def _remove(folder: Path) -> None:
    # A forked child inherits this handler, but not the ownership of the folder.
    if folder in _owned:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_file(folder).unlink(missing_ok=True)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Without the lock file, it is unknown whether the folder has an owner.
        if folder.is_dir() and _lock_file(folder).exists() and not has_owner(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _lock_file(folder).unlink(missing_ok=True)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _lock(descriptor: int) -> bool:
    """Try to lock an open file; return whether it succeeded. Always False without `fcntl`."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _forget_parents_folder() -> None:
    # The child shares the open file and its lock, and must not release it.
    _owned.clear()
    temporary_folder.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_folder)
