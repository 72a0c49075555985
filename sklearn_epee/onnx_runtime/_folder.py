"""Open a folder of `export_onnx`: its document, and its graphs as onnxruntime sessions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Folder"]

Batch = dict[str, NDArray[Any]]

_DOCUMENT = "exits.json"
_FORMAT = "sklearn_epee.onnx"
# Version 1 had no "kind" and no "windows".
_SCHEMAS = (1, 2)
_BEFORE_2 = {"kind": "exits", "windows": False}


class Folder:
    """The document and the graphs of an export.

    Parameters
    ----------
    path : str or path-like
    providers : sequence of str
        Execution providers of onnxruntime, the preferred one first.
    n_threads : int
        Threads of one operator; 0 leaves it to onnxruntime.

    Attributes
    ----------
    path : Path
    document : dict
        Description of the graphs, written by `export_onnx`.

    Raises
    ------
    ImportError
        If onnxruntime is missing.
    ValueError
        If the folder contains no export, or one of a newer version.
    """

    def __init__(
        self, path: str | os.PathLike[str], providers: Sequence[str], n_threads: int
    ) -> None:
        self.path = Path(path)
        self.document = _read(self.path / _DOCUMENT)
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._graphs = {
            name: onnxruntime.InferenceSession(
                str(self.path / name), options, providers=list(providers)
            )
            for name in self.document["graphs"]
        }

    @property
    def classes(self) -> list[NDArray[Any]]:
        """Classes of each task, or of each layer of spans."""
        return [_array_of(c["values"], c["dtype"]) for c in self.document["classes"]]

    def run(self, name: str, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run a graph with its inputs among some values, and return its outputs.

        Raises
        ------
        ValueError
            If an input is missing.
        """
        graph = self._graphs[name]
        read = [part.name for part in graph.get_inputs()]
        if missing := [part for part in read if part not in values]:
            raise ValueError(f"X has no {' and no '.join(missing)}, which {name} reads.")
        outputs: list[NDArray[Any]] = graph.run(None, {part: values[part] for part in read})
        return outputs

    def reads(self, name: str) -> list[str]:
        """Return the names of the inputs of a graph."""
        return [part.name for part in self._graphs[name].get_inputs()]


def _array_of(values: Sequence[Any], dtype: str) -> NDArray[Any]:
    """Return the classes of one task; a tuple, such as the name of a column, stays one element."""
    classes = np.empty(len(values), dtype)
    for place, value in enumerate(values):
        classes[place] = _label(value)
    return classes


def _label(value: Any) -> Any:
    """Return a label as it was before it was written: JSON has lists instead of tuples."""
    return tuple(map(_label, value)) if isinstance(value, list) else value


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ImportError(
            "ONNX graphs need onnxruntime: pip install onnxruntime, or 'sklearn_epee[onnx]'."
        ) from error
    return onnxruntime


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path.parent)!r} holds no export of export_onnx: {error}") from error
    document: dict[str, Any] = found if isinstance(found, dict) else {}
    if document.get("format") != _FORMAT or document.get("schema") not in _SCHEMAS:
        raise ValueError(
            f"{str(path.parent)!r} holds format {document.get('format')!r}, schema "
            f"{document.get('schema')!r}; expected {_FORMAT!r}, schema "
            f"{' or '.join(map(str, _SCHEMAS))}."
        )
    return _BEFORE_2 | document
