"""Fingerprints of parameters and data: equal in every process, different for different code."""

from __future__ import annotations

import dis
import functools
import pickle
import site
import sys
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from joblib.hashing import NumpyHasher

from .sources import file_digest

_INCIDENTAL = frozenset(
    {"__dict__", "__weakref__", "__module__", "__doc__", "__slotnames__", "__annotations__"}
    | {"__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl"}
)
# Packages whose versions are part of every training key, so that their objects can be identified by
# name.
VERSIONED_PACKAGES = ("numpy", "skorch", "tokenizers", "torch", "transformers")
_KNOWN_BY_NAME = frozenset(
    {*VERSIONED_PACKAGES, "builtins", "sklearn_epee", *sys.stdlib_module_names} - {"__main__"}
)
_OF_INSTALLATIONS = ("site-packages", "dist-packages")


def fingerprint(value: Any) -> str:
    """Return a fingerprint of anything that can be pickled, and of classes and functions.

    Parameters
    ----------
    value : object

    Returns
    -------
    str

    Raises
    ------
    NoFingerprintError
        If something in it cannot be pickled, or could only be identified by a name that stays the
        same when its code changes.
    """
    return _Fingerprint(hash_name="sha1").hash(value)


class NoFingerprintError(ValueError):
    """Something cannot be fingerprinted."""


class _Fingerprint(NumpyHasher):
    """joblib's hash, except that it includes the code of the user's classes and functions.

    joblib only hashes their names, which stay the same when a notebook cell or a module is edited.
    The code of a function includes its defaults, its closure and the globals that it reads. For
    installed packages, the content of the module's file is hashed.
    """

    def __init__(self, hash_name: str) -> None:
        super().__init__(hash_name=hash_name)
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []

    def save(self, obj: Any) -> None:
        """Write one object, and what it refers to, into the fingerprint."""
        try:
            self._save(obj)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            # joblib interprets a TypeError inside a dict as keys that cannot be sorted, and would
            # skip what could not be pickled.
            raise NoFingerprintError(str(error)) from error

    def _save(self, obj: Any) -> None:
        if isinstance(obj, (type, FunctionType)):
            self._save_definition(obj)
        elif isinstance(obj, ModuleType):
            super().save(("module", _identity_of_module(obj)))
        elif isinstance(obj, CodeType):
            super().save(("code", obj.co_code, obj.co_names, obj.co_varnames, obj.co_consts))
        elif isinstance(obj, (staticmethod, classmethod)):
            super().save((type(obj).__name__, obj.__func__))
        elif isinstance(obj, property):
            super().save(("property", obj.fget, obj.fset, obj.fdel))
        elif isinstance(obj, functools.cached_property):
            super().save(("cached property", obj.func))
        elif isinstance(obj, MappingProxyType):
            super().save(("mapping", dict(obj)))
        elif isinstance(getattr(obj, "__wrapped__", None), FunctionType):
            # For example a cache around a function, which would be hashed by its name.
            super().save(("wrapped", type(obj), obj.__wrapped__))
        else:
            super().save(obj)

    def save_global(self, obj: Any, name: str | None = None, *rest: Any) -> None:
        """Write the name of an object that pickle stores by reference."""
        module = pickle.whichmodule(obj, name or obj.__qualname__)  # type: ignore[attr-defined]
        if _module_identity(module) is None:
            raise NoFingerprintError(f"{obj!r} can only be identified by its name")
        super().save_global(obj, name, *rest)

    def _save_definition(self, obj: Any) -> None:
        made_in_a_function = "<locals>" in obj.__qualname__
        identity = None if made_in_a_function else _module_identity(obj.__module__)
        if identity is not None:
            super().save((type(obj) is FunctionType, identity, obj.__qualname__))
            return
        # Methods that call super() refer back to their class, and functions to each other.
        if id(obj) in self._met:
            super().save(("seen above", self._met[id(obj)]))
            return
        self._met[id(obj)] = len(self._met)
        self._kept.append(obj)
        super().save(_class_parts(obj) if isinstance(obj, type) else _function_parts(obj))


@functools.lru_cache(maxsize=4096)
def _module_identity(name: str) -> tuple[str, bytes] | None:
    """Return what identifies the code of a module, or None if each definition has to be hashed.

    Modules of the standard library and of packages whose versions are in the key are identified by
    name, and modules of other installed packages by name and the content of their file. The user's
    own modules may be edited between two fits, so each definition in them is hashed separately.
    """
    if name.partition(".")[0] in _KNOWN_BY_NAME:
        return name, b""
    if name == "__main__":
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not _is_installed(Path(file)):
        return None
    return name, file_digest(Path(file))


def _identity_of_module(module: ModuleType) -> tuple[str, bytes]:
    identity = _module_identity(module.__name__)
    if identity is None:
        raise NoFingerprintError(f"{module!r} is used as a whole, and may be edited")
    return identity


def _is_installed(file: Path) -> bool:
    parents = file.resolve().parents
    # A .pth file or PYTHONPATH can make the packages of another environment available.
    return any(
        folder in _installation_folders() or folder.name in _OF_INSTALLATIONS for folder in parents
    )


@functools.cache
def _installation_folders() -> frozenset[Path]:
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return frozenset(Path(folder).resolve() for folder in folders)


def _class_parts(cls: type) -> tuple[Any, ...]:
    members = {name: value for name, value in vars(cls).items() if name not in _INCIDENTAL}
    return "class", cls.__qualname__, cls.__bases__, members


def _function_parts(function: FunctionType) -> tuple[Any, ...]:
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = (function.__defaults__, function.__kwdefaults__)
    imported, chains = _names_read(function.__code__)
    known = function.__globals__
    read = {".".join(chain): _look_up(known, chain) for chain in chains if chain[0] in known}
    modules = [_identity_of_import(name) for name in sorted(imported)]
    return (
        "function", function.__qualname__, function.__code__, defaults, enclosed, read, modules
    )  # fmt: skip


def _look_up(known: dict[str, Any], chain: tuple[str, ...]) -> Any:
    """Return the value of a global, or of its attribute if it is a module of the user."""
    value = known[chain[0]]
    for name in chain[1:]:
        if not isinstance(value, ModuleType) or _module_identity(value.__name__) is not None:
            break
        value = getattr(value, name)
    return value


def _identity_of_import(name: str) -> tuple[str, bytes]:
    identity = _module_identity(name)
    if identity is None:
        raise NoFingerprintError(f"the module {name!r}, imported inside a function, may be edited")
    return identity


@functools.lru_cache(maxsize=4096)
def _names_read(code: CodeType) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Return the modules that code imports, and the globals and their attributes that it reads."""
    imported: set[str] = set()
    chains: set[tuple[str, ...]] = set()
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(instruction.argval)
            continue
        if chain:
            chains.add(tuple(chain))
        chain = [instruction.argval] if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") else []
        if instruction.opname == "IMPORT_NAME":
            imported.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            within = _names_read(constant)
            imported |= within[0]
            chains |= within[1]
    return frozenset(imported), frozenset(chains)
