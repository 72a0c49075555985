"""A fitted estimator as a tree of JSON documents: nested wrappers around a classifier.

A node contains the class, the parameters and the fitted attributes of an estimator. The node of a
wrapper also contains the node of its fitted `estimator_`, and that of its parameter `estimator`,
without fitted attributes.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_epee.exceptions import ModelFolderError

from .files import FolderReader, FolderWriter
from .values import NotSerializableError, decode, encode
from .values import field as field_of

ARRAYS = "arrays.safetensors"
# Parameters that only affect `fit`.
_ONLY_IN_FIT = frozenset({
    "callbacks", "memory", "random_state", "scoring", "objective", "risk", "cv", "policies",
    "n_jobs", "verbose",
})  # fmt: skip
# Parameters whose values are paths on this machine.
_OF_THIS_MACHINE = frozenset({"memory"})
# Attributes that are not set by `fit`.
_NOT_LEARNED = ("_metadata_request",)
# Stands for a parameter whose object the fitted estimator saves: its tokenizer or image processor.
FITTED = ("fitted",)
_DEEPEST = 8


@dataclass
class Saving:
    """State while a folder is written: the writer, large arrays, parameters that are left out."""

    writer: FolderWriter
    left_out: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def store_array(self, array: NDArray[Any]) -> str:
        """Add a large array to the file of arrays, and return its name."""
        name = str(len(self.arrays))
        # safetensors needs a contiguous array in C order.
        self.arrays[name] = np.array(array, order="C")
        return name

    def write_arrays(self) -> None:
        """Write the arrays that were stored."""
        if self.arrays:
            save_file(self.arrays, self.writer.path(ARRAYS))


class Loading:
    """State while a folder is read: the reader, and the arrays that were loaded.

    Parameters
    ----------
    reader : FolderReader
    """

    def __init__(self, reader: FolderReader) -> None:
        self.reader = reader
        self._arrays: dict[str, NDArray[Any]] | None = None

    def load_array(self, name: str) -> NDArray[Any]:
        """Return an array from the file of arrays."""
        if self._arrays is None:
            self._arrays = load_file(self.reader.path(ARRAYS))
        if name not in self._arrays:
            raise ModelFolderError(f"{ARRAYS} holds no array {name[:20]!r}")
        return self._arrays[name]


# ----------------------------------------------------------------------------------- classes


def name_of(estimator: Any) -> str:
    """Return the public name of the class of an estimator.

    Raises
    ------
    TypeError
        If it is not a class of this package that can be saved.
    """
    name = type(estimator).__name__
    if _public_class(name) is not type(estimator):
        raise TypeError(
            f"{type(estimator).__module__}.{name} cannot be saved without pickle: only the "
            "classifiers of sklearn_epee, and its wrappers around them, can. Of a pipeline or a "
            "search, save the classifier inside (the last step, or best_estimator_), or save the "
            "whole with joblib; load such files only if you trust their author."
        )
    return name


def class_named(name: str) -> Any:
    """Return the class of this package with a name that was read from a folder."""
    found = _public_class(name)
    if found is None:
        raise ModelFolderError(f"{name[:80]!r} is not a classifier of sklearn_epee")
    return found


def _public_class(name: str) -> Any:
    # Imported by name, because `_folders` is on a lower level than the classes.
    package = importlib.import_module("sklearn_epee")
    found = getattr(package, name, None) if name in package.__all__ else None
    return found if inspect.isclass(found) and hasattr(found, "save_pretrained") else None


# ----------------------------------------------------------------------------------- writing


def write_node(estimator: Any, saving: Saving) -> dict[str, Any]:
    """Write the files of a fitted estimator, and return its document.

    Raises
    ------
    TypeError
        If the estimator, or a parameter that affects predictions, cannot be saved without pickle.
    """
    if isinstance(estimator, FrozenEstimator):
        return {"frozen": write_node(estimator.estimator, saving)}
    node = {"class": name_of(estimator), "parameters": parameters_of(estimator, saving)}
    check_is_fitted(estimator)
    if hasattr(estimator, "_write_fitted"):
        return {**node, "fitted": estimator._write_fitted(saving)}
    node["given"] = _template(estimator.estimator, saving)
    node["learned"] = _learned(estimator, saving)
    node["estimator"] = write_node(estimator.estimator_, saving)
    return node


def _template(estimator: Any, saving: Saving) -> dict[str, Any]:
    """Return the document of an estimator without its fitted attributes."""
    if isinstance(estimator, FrozenEstimator):
        return {"frozen": _template(estimator.estimator, saving)}
    node: dict[str, Any] = {"class": name_of(estimator)}
    node["parameters"] = parameters_of(estimator, saving, to_be_fitted=True)
    if "estimator" in estimator.get_params(deep=False):
        node["given"] = _template(estimator.estimator, saving)
    return node


def parameters_of(estimator: Any, saving: Saving, *, to_be_fitted: bool = False) -> dict[str, Any]:
    """Return the parameters of an estimator as JSON, except those that JSON cannot represent.

    Parameters
    ----------
    estimator : estimator
    saving : Saving
        Records the parameters that are left out.
    to_be_fitted : bool, default=False
        Whether the estimator is only a template for `fit`, so that no parameter affects
        predictions.

    Raises
    ------
    TypeError
        If a parameter that affects predictions cannot be saved.
    """
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        if name == "estimator":
            continue
        full_name = f"{type(estimator).__name__}.{name}"
        try:
            parameters[name] = encode(
                _for_document(estimator, name, value, to_be_fitted), saving.store_array
            )
        except NotSerializableError as error:
            if name not in _ONLY_IN_FIT and not to_be_fitted:
                raise TypeError(
                    f"{name} of {type(estimator).__name__} cannot be saved without pickle: it "
                    f"contains {error}. Pass numbers, strings, lists or arrays, or save with "
                    "joblib."
                ) from error
            saving.left_out[full_name] = type(value).__name__
    return parameters


def _for_document(estimator: Any, name: str, value: Any, to_be_fitted: bool) -> Any:
    if name in _OF_THIS_MACHINE and value not in (None, "auto"):
        raise NotSerializableError("a path on this machine")
    parameter = estimator._parameter_to_document(name, value)
    if to_be_fitted and type(parameter) is tuple and parameter == FITTED:
        raise NotSerializableError("an object")
    return parameter


def _learned(estimator: Any, saving: Saving) -> dict[str, Any]:
    """Return the fitted attributes of a wrapper, without its `estimator_`."""
    known = {*estimator.get_params(deep=False), "estimator_", *_NOT_LEARNED}
    learned = {}
    for name, value in vars(estimator).items():
        if name in known:
            continue
        try:
            learned[name] = encode(value, saving.store_array)
        except NotSerializableError as error:
            raise TypeError(
                f"{name} of {type(estimator).__name__} cannot be saved without pickle: it contains "
                f"{error}."
            ) from error
    return learned


def warn_of_left_out(left_out: Mapping[str, str], stacklevel: int) -> None:
    """Warn about parameters that are left out because they only affect `fit`."""
    if left_out:
        listed = ", ".join(f"{name} ({kind})" for name, kind in left_out.items())
        warnings.warn(
            f"Left out, because they only affect fit and cannot be saved without pickle: {listed}. "
            "A loaded estimator has their defaults.",
            UserWarning,
            stacklevel=stacklevel,
        )


# ----------------------------------------------------------------------------------- reading


def read_node(node: Any, loading: Loading, depth: int = 0) -> Any:
    """Return the fitted estimator of a document.

    Raises
    ------
    ModelFolderError
        If it is not a valid document of `write_node`.
    """
    if depth > _DEEPEST:
        raise ModelFolderError("its estimators are nested too deeply")
    if isinstance(node, dict) and "frozen" in node:
        return FrozenEstimator(read_node(node["frozen"], loading, depth + 1))
    cls, parameters = _class_and_parameters(node, loading)
    if hasattr(cls, "_read_fitted"):
        return cls._read_fitted(parameters, field_of(node, "fitted", dict, "a node"), loading)
    estimator = cls(_read_template(node.get("given"), loading, depth + 1), **parameters)
    # `fit` validates the parameters, too.
    estimator._validate_params()
    inner = read_node(node.get("estimator"), loading, depth + 1)
    estimator.estimator_ = inner
    for name, value in field_of(node, "learned", dict, "a node").items():
        if not (name.isidentifier() and name.endswith("_") and not name.startswith("_")):
            raise ModelFolderError(f"{name[:40]!r} is not a fitted attribute")
        if isinstance(getattr(cls, name, None), (property, Callable)):  # type: ignore[arg-type]
            raise ModelFolderError(f"{name!r} is not a fitted attribute of {cls.__name__}")
        setattr(estimator, name, decode(value, loading.load_array))
    _check_agreement(estimator, inner)
    return estimator


def _read_template(node: Any, loading: Loading, depth: int) -> Any:
    """Return the unfitted estimator of a document."""
    if depth > _DEEPEST:
        raise ModelFolderError("its estimators are nested too deeply")
    if isinstance(node, dict) and "frozen" in node:
        return FrozenEstimator(_read_template(node["frozen"], loading, depth + 1))
    cls, parameters = _class_and_parameters(node, loading)
    if "estimator" in inspect.signature(cls).parameters:
        return cls(_read_template(node.get("given"), loading, depth + 1), **parameters)
    if hasattr(cls, "_parameters_from_document"):
        parameters = cls._parameters_from_document(parameters, None)
    return cls(**parameters)


def _class_and_parameters(node: Any, loading: Loading) -> tuple[Any, dict[str, Any]]:
    cls = class_named(field_of(node, "class", str, "a node"))
    known = inspect.signature(cls).parameters
    parameters = {}
    for name, value in field_of(node, "parameters", dict, "a node").items():
        if name not in known or name == "estimator":
            raise ModelFolderError(f"{name[:40]!r} is not a parameter of {cls.__name__}")
        parameters[name] = decode(value, loading.load_array)
    return cls, parameters


def _check_agreement(wrapper: Any, inner: Any) -> None:
    """Raise if the attributes of a wrapper differ from those of its estimator."""
    while isinstance(inner, FrozenEstimator):
        inner = inner.estimator
    for name in ("classes_", "n_layers_"):
        if not hasattr(wrapper, name) or not _equal(getattr(wrapper, name), getattr(inner, name)):
            raise ModelFolderError(
                f"{name} of {type(wrapper).__name__} is not that of {type(inner).__name__}"
            )


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):  # several layers of spans
        return list(first) == list(second) and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return type(first) is type(second) and bool(np.array_equal(first, second))
    return type(first) is type(second) and bool(first == second)


def write_folder(estimator: Any, writer: FolderWriter) -> tuple[dict[str, Any], Saving]:
    """Write all files of a fitted estimator, except the model card and the manifest.

    Returns
    -------
    document : dict
    saving : Saving
    """
    saving = Saving(writer)
    node = write_node(estimator, saving)
    saving.write_arrays()
    document = {"model": node, "left_out": saving.left_out}
    return document, saving


def expanded_path(folder: str | Path) -> Path:
    """Return the path of a folder, with ``~`` replaced by the home folder."""
    return Path(folder).expanduser()
