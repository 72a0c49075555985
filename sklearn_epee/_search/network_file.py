"""One trained network in a folder: weights as safetensors, everything else as one small pickle.

``weights.safetensors`` contains the weights by name and, in its metadata, the checksums of both
files. ``network.pickle`` contains the summary, followed by everything except the weights. A folder
is renamed into place when it is complete, and is never changed afterwards.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import cloudpickle
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sklearn_epee._nn.forks import ForkSafeLock
from sklearn_epee._nn.network import RebuiltModule, aligned_copy, assemble_network, raw_bytes

Trained = TypeVar("Trained")

WEIGHTS = "weights.safetensors"
REST = "network.pickle"
# Device, inode, size and modification time of files whose checksums were verified.
_verified: set[tuple[int, ...]] = set()


class DamagedError(Exception):
    """The content of a file does not match its checksum."""


class LazyNetwork(Generic[Trained]):
    """A trained network that is read when it is first needed, with a summary that is available now.

    A search over exit policies fits an estimator for every policy and fold. Most of these
    estimators only have to return a score that is already known, so their networks are never read.

    Parameters
    ----------
    summary : object
        Facts about the network that are needed before it is read.
    read : callable
        Returns the network; called at most once.
    """

    def __init__(self, summary: Any, read: Callable[[], Trained]) -> None:
        self.summary = summary
        self._read: Callable[[], Trained] | None = read
        self._lock = ForkSafeLock()

    def get(self) -> Trained:
        """Return the network; the first call reads it.

        Raises
        ------
        RuntimeError
            If its file was damaged after it had been verified.
        """
        with self._lock:
            if self._read is not None:
                self._trained = self._read()
                self._read = None
        return self._trained

    def __reduce__(self) -> tuple[Callable[..., LazyNetwork[Trained]], tuple[Any, Trained]]:
        return ready, (self.summary, self.get())


def ready(summary: Any, trained: Trained) -> LazyNetwork[Trained]:
    """Wrap a network that is in memory."""
    return LazyNetwork(summary, lambda: trained)


class NetworkFiles:
    """A network in the form of the files in which it is stored.

    Parameters
    ----------
    network : LazyNetwork
    """

    def __init__(self, network: LazyNetwork[Any]) -> None:
        rest = io.BytesIO()
        # cloudpickle also supports tokenizers and processors whose class is defined in a notebook
        # or a script.
        cloudpickle.dump(network.summary, rest, protocol=5)
        pickler = _WithoutWeights(rest)
        pickler.dump(network.get())
        self._rest = rest.getbuffer()
        self._weights = pickler.weights()

    @property
    def size(self) -> int:
        """Number of bytes of weights and pickle."""
        weights = sum(weight.numel() * weight.element_size() for weight in self._weights.values())
        return len(self._rest) + weights

    def write(self, folder: Path) -> None:
        """Write the files into an empty folder.

        Raises
        ------
        OSError
            If the disk is full, for example; the folder is then incomplete.
        """
        checksums = {WEIGHTS: _weights_checksum(self._weights), REST: _checksum(self._rest)}
        (folder / REST).write_bytes(self._rest)
        try:
            save_file(_without_sharing(self._weights), folder / WEIGHTS, metadata=checksums)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def _without_sharing(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that do not share memory with each other, as safetensors requires."""
    seen: set[int] = set()
    separate = {}
    for name, weight in weights.items():
        address = weight.data_ptr()
        separate[name] = weight.clone() if address in seen else weight
        seen.add(address)
    return separate


def open_network(folder: Path) -> LazyNetwork[Any]:
    """Open the network of a folder; the folder may be renamed or removed afterwards.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    LazyNetwork

    Raises
    ------
    FileNotFoundError
        If the folder contains no network.
    DamagedError
        If a file does not match its checksum.
    """
    rest = io.BytesIO((folder / REST).read_bytes())
    identity = _identity(folder)
    weights = _WeightsFile(folder / WEIGHTS)
    if identity in _verified:
        summary = pickle.load(rest)  # noqa: S301 - verified
        return LazyNetwork(summary, lambda: _load(rest, _read_again(folder, weights)))
    if _checksum(rest.getbuffer()) != weights.checksums.get(REST):
        raise DamagedError
    tensors = weights.read()
    _verified.add(identity)
    summary = pickle.load(rest)  # noqa: S301 - verified
    return LazyNetwork(summary, lambda: _load(rest, tensors))


def size_on_disk(folder: Path) -> int:
    """Return the number of bytes of the network in a folder."""
    return sum((folder / name).stat().st_size for name in (WEIGHTS, REST))


class _WithoutWeights(cloudpickle.Pickler):
    """Pickles everything except the network, which is replaced by its recipe; see `weights`."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self._network: RebuiltModule | None = None

    def persistent_id(self, obj: Any) -> dict[str, Any] | None:
        """Return the recipe of the network; None for other objects, which are pickled as usual."""
        if not isinstance(obj, RebuiltModule):
            return None
        if self._network is None:
            self._network = obj
        return obj.recipe() if obj is self._network else None

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that were left out."""
        state = {} if self._network is None else self._network.state_dict()
        return {name: weight.detach().cpu().contiguous() for name, weight in state.items()}


class _WithWeights(pickle.Unpickler):
    """The counterpart of `_WithoutWeights`."""

    def __init__(self, file: io.BytesIO, weights: dict[str, Tensor]) -> None:
        super().__init__(file)
        self._weights = weights
        self._network: RebuiltModule | None = None

    def persistent_load(self, recipe: dict[str, Any]) -> RebuiltModule:
        """Return the network, the same object for every reference."""
        if self._network is None:
            self._network = assemble_network(recipe, self._weights)
        return self._network


class _WeightsFile:
    """Weights in a memory-mapped file, which can be read even if the file is removed."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt")
            self.checksums: dict[str, str] = self._file.metadata() or {}
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, RuntimeError) as error:
            raise DamagedError from error

    def read(self) -> dict[str, Tensor]:
        """Return copies of the weights, verified by their checksum."""
        weights = {name: aligned_copy(self._file.get_tensor(name)) for name in self._file.keys()}  # noqa: SIM118
        if _weights_checksum(weights) != self.checksums.get(WEIGHTS):
            raise DamagedError
        return weights


def _read_again(folder: Path, weights: _WeightsFile) -> dict[str, Tensor]:
    try:
        return weights.read()
    except DamagedError as error:
        raise RuntimeError(
            f"The stored network {folder.name} was damaged while it was in use; fit again."
        ) from error


def _load(rest: io.BytesIO, weights: dict[str, Tensor]) -> Any:
    return _WithWeights(rest, weights).load()


def _identity(folder: Path) -> tuple[int, ...]:
    status = [(folder / name).stat() for name in (WEIGHTS, REST)]
    return tuple(
        part
        for file in status
        for part in (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)
    )


def _checksum(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _weights_checksum(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(raw_bytes(weight).data)
    return digest.hexdigest()
