"""Store trained networks, so that a search over tau and patience trains each one once."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
from filelock import FileLock

from .network_file import (
    WEIGHTS,
    DamagedError,
    LazyNetwork,
    NetworkFiles,
    open_network,
    size_on_disk,
)
from .temporary_folder import has_owner, temporary_folder

Trained = TypeVar("Trained")

# Maximum size of the temporary store; at most half of the free disk space is used.
TEMPORARY_BYTES = 16 * 2**30
_EXPECTED = "expected 'auto', a folder, a joblib.Memory or None"


@dataclass(frozen=True)
class NetworkStore:
    """A folder of trained networks, shared by processes.

    The store is an optimization: if a network cannot be stored, there is only a warning.

    Parameters
    ----------
    folder : Path
        Created when the first network is trained.
    max_bytes : int, default=None
        Maximum size; the least recently used networks are removed first. None: no limit, for a
        folder that the user chose.
    """

    folder: Path
    max_bytes: int | None = None

    def fetch_or_train(
        self,
        key: str,
        train: Callable[[], LazyNetwork[Trained]],
        worth_keeping: Callable[[LazyNetwork[Trained]], bool],
    ) -> LazyNetwork[Trained]:
        """Return the network of a key; train and store it if it is not in the store.

        If several processes need the same key, one trains and the others wait.

        Parameters
        ----------
        key : str
            Fingerprint of everything that affects the training.
        train : callable
            Trains the network.
        worth_keeping : callable
            Returns whether a result may be stored (not if the training was interrupted).

        Returns
        -------
        LazyNetwork
            The result of ``train``, of this call or an earlier one.

        Raises
        ------
        ValueError
            If a folder that the user chose does not exist and cannot be created.
        """
        # No lock is needed to read, because networks are renamed into place when they are complete.
        # So this also works in a read-only folder.
        found = self._open(key)
        if found is not None:
            return found
        self._make_folder()
        with self._locked(key):
            found = self._open(key)
            if found is not None:
                return found
            trained = train()
            if worth_keeping(trained):
                self._try_to_keep(key, trained)
            return trained

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            if self.max_bytes is not None:
                # The temporary store: storing a network will warn.
                return
            raise ValueError(
                f"memory: the folder {str(self.folder)!r} for trained networks cannot be created "
                f"({error}); pass memory= a folder that can be written to, or None."
            ) from error

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        lock = FileLock(self.folder / f"{key}.lock")
        try:
            lock.acquire()
        except (OSError, NotImplementedError):
            # The folder is read-only, or the file system does not support locks: several processes
            # may then train the same network.
            yield
            return
        try:
            yield
        finally:
            # The folder may have been removed in the meantime.
            with suppress(OSError):
                lock.release()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.network"

    def _open(self, key: str) -> LazyNetwork[Any] | None:
        path = self._path(key)
        try:
            network = open_network(path)
        except DamagedError:
            warnings.warn(
                f"The stored network {path.name} is damaged; it is discarded and trained again.",
                RuntimeWarning,
                stacklevel=2,
            )
            shutil.rmtree(path, ignore_errors=True)
            return None
        except OSError:
            # There is no such network, or no permission to read it.
            return None
        # Another process may have removed it to make room, or the folder is read-only.
        with suppress(OSError):
            _mark_as_used(path)
        return network

    def _try_to_keep(self, key: str, trained: LazyNetwork[Any]) -> None:
        try:
            self._keep(key, trained)
        except (OSError, pickle.PicklingError, TypeError) as error:
            place = "the temporary store" if self.max_bytes is not None else "the folder"
            warnings.warn(
                f"memory: the trained network cannot be kept in {place} {str(self.folder)!r} "
                f"({error}); a search will train it again for every policy. Pass memory= a folder "
                "with enough room that can be written to, or None.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _keep(self, key: str, trained: LazyNetwork[Any]) -> None:
        files = NetworkFiles(trained)
        if not self._make_room(files.size):
            return
        partial = Path(tempfile.mkdtemp(dir=self.folder, suffix=".partial"))
        try:
            files.write(partial)
            _mark_as_used(partial)
            # Another process may have removed only a part of it, which would block the renaming.
            shutil.rmtree(self._path(key), ignore_errors=True)
            # Renaming is atomic: a killed process leaves no half-written network under a key.
            partial.rename(self._path(key))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

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
            # Windows does not remove files that are open.
            shutil.rmtree(path, ignore_errors=True)
            total -= 0 if path.exists() else size
        return True

    def _networks_by_age(self) -> list[tuple[Path, int]]:
        found = []
        for path in self.folder.glob("*.network"):
            with suppress(OSError):
                found.append(((path / WEIGHTS).stat().st_atime_ns, path, size_on_disk(path)))
        return [(path, size) for _, path, size in sorted(found)]


def _mark_as_used(path: Path) -> None:
    weights = path / WEIGHTS
    # The modification time must not change: it is used to recognize verified files.
    os.utime(weights, ns=(time.time_ns(), weights.stat().st_mtime_ns))


def store_for(memory: Any, folder: Path | None) -> NetworkStore | None:
    """Return the store of the ``memory`` parameter.

    Parameters
    ----------
    memory : "auto", str, path-like, joblib.Memory or None
    folder : Path or None
        Temporary folder of the process that cloned the estimator.

    Returns
    -------
    NetworkStore or None
        None: every fit trains.

    Raises
    ------
    TypeError, ValueError
        If ``memory`` is invalid.
    """
    if memory is None:
        return None
    if isinstance(memory, str) and memory == "auto":
        # The folder may no longer exist, for example if an unfitted clone was pickled.
        if folder is None or not has_owner(folder):
            folder = temporary_folder()
        return None if folder is None else NetworkStore(folder, TEMPORARY_BYTES)
    if isinstance(memory, joblib.Memory):
        return None if memory.location is None else store_for(memory.location, folder)
    if isinstance(memory, (str, os.PathLike)):
        if not os.fspath(memory) or "\0" in str(memory):
            raise ValueError(f"memory={memory!r} cannot be the name of a folder; {_EXPECTED}.")
        return NetworkStore(Path(memory) / "sklearn_epee")
    raise TypeError(f"memory={memory!r} is not understood; {_EXPECTED}.")
