"""Fingerprints of parameters and data, equal in every process and different where code differs."""

from __future__ import annotations

import pickle
from types import CodeType, FunctionType
from typing import Any

from joblib.hashing import NumpyHasher

_INCIDENTAL = frozenset(
    {"__dict__", "__weakref__", "__module__", "__doc__", "__slotnames__", "__annotations__"}
    | {"__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl"}
)


def fingerprint(value: Any) -> str:
    """Fingerprint a value made of anything that can be pickled, and of classes and functions.

    Parameters
    ----------
    value : object

    Returns
    -------
    str

    Raises
    ------
    NoFingerprintError
        If something in it cannot be pickled.
    """
    return _Fingerprint(hash_name="sha1").hash(value)


class NoFingerprintError(ValueError):
    """Something cannot be fingerprinted."""


class _Fingerprint(NumpyHasher):
    """joblib's hash, except that what a script or a notebook defines counts with its code.

    The name alone, which joblib takes, cannot be looked up in the workers of a search, and in a
    notebook the same name stands for something else once a cell has been edited.
    """

    def __init__(self, hash_name: str) -> None:
        super().__init__(hash_name=hash_name)
        self._within: list[Any] = []

    def save(self, obj: Any) -> None:
        """Write one object, and what it refers to, into the fingerprint."""
        try:
            self._save(obj)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            # joblib takes a TypeError from inside a dict for keys without an order and goes on
            # without what could not be pickled.
            raise NoFingerprintError(str(error)) from error

    def _save(self, obj: Any) -> None:
        if isinstance(obj, (type, FunctionType)) and _has_no_fixed_name(obj):
            self._save_definition(obj)
        elif isinstance(obj, CodeType):
            super().save(("code", obj.co_code, obj.co_names, obj.co_varnames, obj.co_consts))
        elif isinstance(obj, (staticmethod, classmethod)):
            super().save((type(obj).__name__, obj.__func__))
        elif isinstance(obj, property):
            super().save(("property", obj.fget, obj.fset, obj.fdel))
        else:
            super().save(obj)

    def _save_definition(self, obj: Any) -> None:
        # Methods that call super() refer back to their class.
        if any(obj is outer for outer in self._within):
            super().save(("seen above", obj.__qualname__))
            return
        self._within.append(obj)
        super().save(_class_parts(obj) if isinstance(obj, type) else _function_parts(obj))
        self._within.pop()


def _has_no_fixed_name(obj: Any) -> bool:
    return obj.__module__ == "__main__" or "<locals>" in obj.__qualname__


def _class_parts(cls: type) -> tuple[Any, ...]:
    members = {name: value for name, value in vars(cls).items() if name not in _INCIDENTAL}
    return "class", cls.__qualname__, cls.__bases__, members


def _function_parts(function: FunctionType) -> tuple[Any, ...]:
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = (function.__defaults__, function.__kwdefaults__)
    return "function", function.__qualname__, function.__code__, defaults, held
