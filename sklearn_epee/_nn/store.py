"""Trained networks kept for reuse, so that a search over tau and patience trains each one once."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import joblib
from filelock import FileLock
from transformers.utils import cached_file

from sklearn_epee import _version

from .fingerprint import NoFingerprintError, fingerprint
from .network_file import DamagedError, LazyNetwork, open_entry, to_parts

Trained = TypeVar("Trained")

_PREFIX = "sklearn-epee-"
# The temporary store may fill this much, and never more than half of what the disk has free.
TEMPORARY_BYTES = 16 * 2**30
_SHAPING_PACKAGES = ("torch", "transformers", "tokenizers", "skorch", "numpy")


@dataclass(frozen=True)
class NetworkStore:
    """A folder of trained networks, shared by processes.

    Parameters
    ----------
    folder : Path
        Made when the first network is kept.
    max_bytes : int or None
        The networks used longest ago go when more than this is kept; None keeps all.
    """

    folder: Path
    max_bytes: int | None = None

    def fetch_or_train(
        self,
        key: str,
        train: Callable[[], LazyNetwork[Trained]],
        worth_keeping: Callable[[LazyNetwork[Trained]], bool],
    ) -> LazyNetwork[Trained]:
        """Give the network of a key, training it if it is not there.

        Processes that ask for the same key wait for the one that trains.

        Parameters
        ----------
        key : str
            Fingerprint of everything that shapes the training.
        train : callable
            Makes the network.
        worth_keeping : callable
            Tells whether a result may be kept (an interrupted training is not).

        Returns
        -------
        LazyNetwork
            What ``train`` returned, now or on an earlier call.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"memory: the folder {str(self.folder)!r} for trained networks cannot be made "
                f"({error}); pass memory= a folder that can be written to, or None."
            ) from error
        with FileLock(self.folder / f"{key}.lock"):
            found = self._open(key)
            if found is not None:
                return found
            trained = train()
            if worth_keeping(trained):
                self._keep(key, trained)
            return trained

    def _open(self, key: str) -> LazyNetwork[Any] | None:
        path = self.folder / f"{key}.network"
        try:
            held = open_entry(path)
        except FileNotFoundError:
            return None
        except DamagedError:
            warnings.warn(
                f"The stored network {path.name} is damaged; it is discarded and trained again.",
                RuntimeWarning,
                stacklevel=2,
            )
            path.unlink(missing_ok=True)
            return None
        # Another process may have made room in the meantime.
        with suppress(FileNotFoundError):
            _mark_as_used(path)
        return held

    def _keep(self, key: str, trained: LazyNetwork[Any]) -> None:
        parts = to_parts(trained)
        if not self._make_room(sum(map(len, parts))):
            return
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        _mark_as_used(Path(name))
        # Renaming is atomic: a killed process leaves no half-written network under a key.
        Path(name).replace(self.folder / f"{key}.network")

    def _make_room(self, needed: int) -> bool:
        if self.max_bytes is None:
            return True
        free = shutil.disk_usage(self.folder).free
        kept = self._networks_by_age()
        total = sum(size for _, size in kept)
        allowed = min(self.max_bytes, (free + total) // 2)
        if needed > allowed:
            warnings.warn(
                f"A trained network of {needed / 2**20:.0f} MiB does not fit into the temporary "
                f"store ({allowed / 2**20:.0f} MiB); a search will train it again for every "
                "policy. Pass memory= a folder with enough room.",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        for path, size in kept:
            if total + needed <= allowed:
                break
            # Windows keeps files that are open.
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
                total -= size
        return True

    def _networks_by_age(self) -> list[tuple[Path, int]]:
        found = []
        for path in self.folder.glob("*.network"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_atime_ns, path, status.st_size))
        return [(path, size) for _, path, size in sorted(found)]


def _mark_as_used(path: Path) -> None:
    # The time of the last change stays: it tells whether a file has been verified.
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def store_for(memory: Any, folder: Path | None) -> NetworkStore | None:
    """Turn the ``memory`` parameter into a store.

    Parameters
    ----------
    memory : "auto", str, path-like, joblib.Memory or None
    folder : Path or None
        Temporary folder handed down from the process that cloned the estimator.

    Returns
    -------
    NetworkStore or None
        None trains every time.

    Raises
    ------
    TypeError
        If ``memory`` is none of these.
    """
    if memory is None:
        return None
    if isinstance(memory, str) and memory == "auto":
        # An unfitted clone that was saved, or sent to another machine, outlives its folder.
        if folder is None or not _has_living_owner(folder):
            folder = temporary_folder()
        return NetworkStore(folder, TEMPORARY_BYTES)
    if isinstance(memory, joblib.Memory):
        return None if memory.location is None else store_for(memory.location, folder)
    if isinstance(memory, (str, os.PathLike)):
        return NetworkStore(Path(memory) / "sklearn_epee")
    raise TypeError(
        f"memory={memory!r} is not understood; expected 'auto', a folder, a joblib.Memory or None."
    )


@functools.cache
def temporary_folder() -> Path:
    """Name this process's temporary store; the folder is made when it is first used.

    It goes away when the process ends. Folders left by killed processes are swept here.
    """
    _sweep()
    owner = os.getpid()
    folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{owner}-{secrets.token_hex(8)}"
    atexit.register(_remove, folder, owner)
    return folder


def _remove(folder: Path, owner: int) -> None:
    # A forked child inherits this handler, but the folder is its parent's.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        if not _has_living_owner(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _has_living_owner(folder: Path) -> bool:
    owner = folder.name.removeprefix(_PREFIX).split("-")[0]
    return not owner.isdigit() or _is_alive(int(owner))


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        # There signal 0 is not a question. The system cleans its temporary folder by itself.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        # It exists and is not ours, or the system cannot tell: leave its folder alone.
        return True
    return True


def training_key(parts: dict[str, Any]) -> str | None:
    """Fingerprint everything that shapes a training; None if a part cannot be fingerprinted."""
    try:
        return fingerprint({"versions": _versions(), **parts})
    except NoFingerprintError as error:
        warnings.warn(
            "A parameter holds something that cannot be fingerprinted, so the trained network is "
            f"not kept and a search will train it again for every exit policy: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@functools.cache
def _versions() -> tuple[str, ...]:
    return (_version.__version__, *map(version, _SHAPING_PACKAGES))


def source_identity(source: Any) -> Any:
    """Say what a checkpoint, config, tokenizer or processor is, independent of where it lies.

    Parameters
    ----------
    source : None, str, path-like or object of transformers

    Returns
    -------
    object
        Something that `training_key` can fingerprint.
    """
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return folder_digest(path) if path.is_dir() else _hub_identity(str(source))
    backend = getattr(source, "backend_tokenizer", None)
    if backend is not None:
        return backend.to_str(), sorted(map(str, source.init_kwargs.items()))
    if hasattr(source, "to_json_string"):
        return type(source).__qualname__, source.to_json_string()
    return source


def _hub_identity(name: str) -> str:
    """Give a hub id with the commit it stands for now; the id alone if the hub is out of reach."""
    try:
        config = cached_file(
            name,
            "config.json",
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        # Not a valid id: loading the backbone will say so.
        return name
    # The hub's cache names a folder after each commit.
    return name if config is None else f"{name}@{Path(config).parent.name}"


def folder_digest(folder: Path) -> str:
    """Fingerprint the content of the files of a checkpoint folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(_file_digest(str(path), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_digest(path: str, size: int, changed: int) -> bytes:  # noqa: ARG001 - part of the cache key
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
