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

# The temporary store may fill this much, and never more than half of what the disk has free.
TEMPORARY_BYTES = 16 * 2**30
_EXPECTED = "expected 'auto', a folder, a joblib.Memory or None"


@dataclass(frozen=True)
class NetworkStore:
    """A folder of trained networks, shared by processes.

    Keeping a network is an optimization: what cannot be kept leads to a warning, and training
    goes on.

    Parameters
    ----------
    folder : Path
        Made when the first network is trained.
    max_bytes : int, default=None
        The networks used longest ago go when more than this is kept. None keeps all, as in a
        folder of the user's own.
    """

    folder: Path
    max_bytes: int | None = None

    def fetch_or_train(
        self,
        key: str,
        train: Callable[[], LazyNetwork[Trained]],
        worth_keeping: Callable[[LazyNetwork[Trained]], bool],
    ) -> LazyNetwork[Trained]:
        """Return the network of a key, training it if it is not there.

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

        Raises
        ------
        ValueError
            If a folder of the user's own is not there and cannot be made.
        """
        # Without a lock, as networks are renamed into place: also in a folder that is read-only.
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
                # The temporary store; a warning that nothing can be kept comes when it is tried.
                return
            raise ValueError(
                f"memory: the folder {str(self.folder)!r} for trained networks cannot be made "
                f"({error}); pass memory= a folder that can be written to, or None."
            ) from error

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        lock = FileLock(self.folder / f"{key}.lock")
        try:
            lock.acquire()
        except (OSError, NotImplementedError):
            # No file can be made here, or the file system knows no locks: two processes that ask
            # for one network may then both train it.
            yield
            return
        try:
            yield
        finally:
            # The folder may have been removed meanwhile.
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
            # Not there, or not for us to read.
            return None
        # Another process may have made room in the meantime, or the folder is read-only.
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
            # What another process left half removed is in the way of a new name.
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
            # Windows keeps files that are open.
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
    # The time of the last change stays: it tells whether a file has been verified.
    os.utime(weights, ns=(time.time_ns(), weights.stat().st_mtime_ns))


def store_for(memory: Any, folder: Path | None) -> NetworkStore | None:
    """Return the store that the ``memory`` parameter stands for.

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
    TypeError, ValueError
        If ``memory`` is none of these.
    """
    if memory is None:
        return None
    if isinstance(memory, str) and memory == "auto":
        # An unfitted clone that was saved, or sent to another machine, outlives its folder.
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
