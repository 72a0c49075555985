"""One trained network in a file: written with a checksum, read when it is first needed."""

from __future__ import annotations

import hashlib
import os
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import cloudpickle

from .forks import ForkSafeLock

Trained = TypeVar("Trained")
Buffer = bytes | memoryview

_DIGEST_SIZE = hashlib.sha256().digest_size
_LENGTH_SIZE = 8
# Weights begin at multiples of this, where vector instructions read them best.
_ALIGNMENT = 64
# Files that may be open for networks which nobody has asked for yet; systems allow about 1,000.
_MOST_WAITING = 128

_waiting: weakref.WeakSet[LazyNetwork[Any]] = weakref.WeakSet()
_verified: set[tuple[int, int, int, int]] = set()


class DamagedError(Exception):
    """The content of a file is not what was written."""


class LazyNetwork(Generic[Trained]):
    """A trained network and what is known of it without reading it.

    A search over exit policies fits an estimator for every policy and fold, and most of them are
    asked for nothing but a score that is known already: their networks are never read.

    Parameters
    ----------
    summary : object
        What the owner wants to know of the network before it is read.
    read : callable
        Gives the network; called once at most.
    """

    def __init__(self, summary: Any, read: Callable[[], Trained]) -> None:
        self.summary = summary
        self._read: Callable[[], Trained] | None = read
        self._lock = ForkSafeLock()

    def get(self) -> Trained:
        """Give the network, reading it at the first call.

        Raises
        ------
        RuntimeError
            If its file was damaged after it had been verified.
        """
        with self._lock:
            if self._read is not None:
                self._trained = self._read()
                self._read = None
                _waiting.discard(self)
        return self._trained

    def __reduce__(self) -> tuple[Callable[..., LazyNetwork[Trained]], tuple[Any, Trained]]:
        return ready, (self.summary, self.get())


def ready(summary: Any, trained: Trained) -> LazyNetwork[Trained]:
    """Hold a network that is in memory."""
    return LazyNetwork(summary, lambda: trained)


def to_parts(held: LazyNetwork[Any]) -> list[Buffer]:
    """Turn a network into the parts of a file, without copying its weights."""
    outside: list[pickle.PickleBuffer] = []
    # cloudpickle: also tokenizers and processors whose class a notebook or a script defines.
    payload = cloudpickle.dumps(held.get(), protocol=5, buffer_callback=outside.append)
    weights = [buffer.raw() for buffer in outside]
    sizes = [weight.nbytes for weight in weights]
    head = cloudpickle.dumps((held.summary, payload, sizes), protocol=5)
    parts: list[Buffer] = [len(head).to_bytes(_LENGTH_SIZE, "little"), head]
    position = _DIGEST_SIZE + _LENGTH_SIZE + len(head)
    for weight in weights:
        gap = -position % _ALIGNMENT
        parts += [bytes(gap), weight]
        position += gap + weight.nbytes
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return [digest.digest(), *parts]


def open_entry(path: Path) -> LazyNetwork[Any]:
    """Hold the network of a file, which may be renamed or removed from then on.

    Parameters
    ----------
    path : Path

    Returns
    -------
    LazyNetwork

    Raises
    ------
    FileNotFoundError
        If there is none.
    DamagedError
        If its content is not what was written.
    """
    file = _OpenFile(path)
    if file.identity not in _verified:
        content = _checked(file.read())
        _verified.add(file.identity)
        return LazyNetwork(_head(content)[0], lambda: _decode(content))
    size = _LENGTH_SIZE + int.from_bytes(file.read(_DIGEST_SIZE, _LENGTH_SIZE), "little")
    summary = pickle.loads(file.read(_DIGEST_SIZE, size)[_LENGTH_SIZE:])[0]  # noqa: S301 - verified
    held: LazyNetwork[Any] = LazyNetwork(summary, lambda: _decode_again(path, file))
    if len(_waiting) < _MOST_WAITING:
        _waiting.add(held)
    else:
        held.get()
    return held


class _OpenFile:
    """A file that stays readable after its name has gone, until this object goes."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._number)
        status = os.fstat(self._number)
        self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, start: int = 0, size: int | None = None) -> bytearray:
        """Read some bytes, or all from a position on."""
        content = bytearray(max(0, self.identity[2] - start) if size is None else size)
        with open(self._number, "rb", buffering=0, closefd=False) as file:
            file.seek(start)
            view = memoryview(content)
            while view and (n_read := file.readinto(view)):
                view = view[n_read:]
        return content


def _decode_again(path: Path, file: _OpenFile) -> Any:
    try:
        return _decode(_checked(file.read()))
    except DamagedError as error:
        raise RuntimeError(
            f"The stored network {path.name} was damaged while it was in use; fit again."
        ) from error


def _checked(content: bytearray) -> bytearray:
    view = memoryview(content)
    if hashlib.sha256(view[_DIGEST_SIZE:]).digest() != view[:_DIGEST_SIZE]:
        raise DamagedError
    return content


def _head(content: bytearray) -> tuple[Any, bytes, list[int], int]:
    """Summary, pickle and sizes of the weights, and the position at which the head ends."""
    view = memoryview(content)[_DIGEST_SIZE:]
    size = int.from_bytes(view[:_LENGTH_SIZE], "little")
    head = pickle.loads(view[_LENGTH_SIZE : _LENGTH_SIZE + size])  # noqa: S301 - verified
    return *head, _DIGEST_SIZE + _LENGTH_SIZE + size


def _decode(content: bytearray) -> Any:
    _, payload, sizes, position = _head(content)
    view = memoryview(content)
    weights = []
    for size in sizes:
        position += -position % _ALIGNMENT
        weights.append(view[position : position + size])
        position += size
    return pickle.loads(payload, buffers=weights)  # noqa: S301 - verified
