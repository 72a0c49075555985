"""Lossless conversion of values to JSON and back: numbers, strings, containers and arrays only.

Types that JSON has are written as they are. All others are objects with a "type": tuples,
dictionaries with any keys, arrays with their data type, numbers that are not finite. Input is
validated when it is read: it can only contain the types listed here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee.exceptions import ModelFolderError

# Allowed data types of arrays; arrays of "O" contain plain Python values.
_DTYPE = re.compile(r"[<>|]?(?:b1|[iu][1248]|f[248]|U\d{1,5})$|\|O$")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Maximum size of one array in bytes. A fixed-width string data type can require much more memory
# than the strings in the file.
_MAX_ARRAY_SIZE = 2**28
# Maximum number of elements of an array that is written into the document; larger arrays are
# stored in a separate file.
_MAX_WRITTEN = 4096

# Takes an array and returns the name under which it is stored.
StoreArray = Callable[[NDArray[Any]], str]
# Takes that name and returns the array.
LoadArray = Callable[[str], NDArray[Any]]


class NotSerializableError(TypeError):
    """A value cannot be converted to JSON; the message describes it."""


def encode(value: Any, store_array: StoreArray | None = None) -> Any:
    """Convert a value to types that JSON has.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, path, list, tuple, dict, NumPy scalar or array, nested.
    store_array : callable, default=None
        Stores a large numeric array elsewhere and returns a name for it. None: all arrays are
        part of the result.

    Returns
    -------
    object
        For `json.dumps`; `decode` converts it back.

    Raises
    ------
    NotSerializableError
        If the value, or something in it, has another type.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee._folders.values import decode, encode
    >>> encode((1, 2.0))
    {'type': 'tuple', 'items': [1, 2.0]}
    >>> decode(encode(np.array(["no", "yes"])))
    array(['no', 'yes'], dtype='<U3')
    """
    if value is None or type(value) in (bool, int, str):
        return value
    for kind, encoder in _ENCODERS.items():
        if isinstance(value, kind) if kind in _WITH_SUBCLASSES else type(value) is kind:
            return encoder(value, store_array)
    raise NotSerializableError(f"{_shown(value)} of type {type(value).__module__}.{_name(value)}")


def _encode_float(value: float, _: StoreArray | None) -> Any:
    return value if math.isfinite(value) else {"type": "float", "value": repr(value)}


def _encode_scalar(value: np.generic, _: StoreArray | None) -> dict[str, Any]:
    # A zero-dimensional array keeps the data type of the scalar.
    return {"type": "scalar", "array": _encode_array(np.asarray(value), None)}


def _encode_path(value: PurePath, _: StoreArray | None) -> dict[str, Any]:
    return {"type": "path", "value": str(value)}


def _encode_list(value: list[Any], store_array: StoreArray | None) -> list[Any]:
    return [encode(item, store_array) for item in value]


def _encode_tuple(value: tuple[Any, ...], store_array: StoreArray | None) -> dict[str, Any]:
    return {"type": "tuple", "items": [encode(item, store_array) for item in value]}


def _encode_dict(value: dict[Any, Any], store_array: StoreArray | None) -> dict[str, Any]:
    items = [[encode(key), encode(item, store_array)] for key, item in value.items()]
    return {"type": "dict", "items": items}


def _name(value: Any) -> str:
    return type(value).__qualname__


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _encode_array(array: NDArray[Any], store_array: StoreArray | None) -> dict[str, Any]:
    dtype = array.dtype
    if not _DTYPE.match(dtype.str):
        raise NotSerializableError(f"an array of the data type {dtype}")
    if store_array is not None and array.size > _MAX_WRITTEN and dtype.kind in "biuf":
        return {"type": "array", "dtype": dtype.str, "aside": store_array(array)}
    flat = array.reshape(-1).tolist()
    if dtype.kind == "f":
        values: list[Any] = [x if math.isfinite(x) else repr(x) for x in flat]
    else:
        values = [encode(item) for item in flat]
    return {"type": "array", "dtype": dtype.str, "shape": list(array.shape), "values": values}


_WITH_SUBCLASSES = (np.ndarray, np.generic, PurePath)
_ENCODERS: dict[type, Callable[[Any, StoreArray | None], Any]] = {
    float: _encode_float,
    np.ndarray: _encode_array,
    np.generic: _encode_scalar,
    PurePath: _encode_path,
    list: _encode_list,
    tuple: _encode_tuple,
    dict: _encode_dict,
}


def decode(encoded: Any, load_array: LoadArray | None = None) -> Any:
    """Convert the output of `encode` back to the value.

    Parameters
    ----------
    encoded : object
        From `json.loads`.
    load_array : callable, default=None
        Returns an array that was stored elsewhere.

    Raises
    ------
    ModelFolderError
        If it is not valid output of `encode`.
    """
    if encoded is None or isinstance(encoded, (bool, int, float, str)):
        return encoded
    if isinstance(encoded, list):
        return [decode(item, load_array) for item in encoded]
    kind = encoded.get("type") if isinstance(encoded, dict) else None
    if not isinstance(kind, str) or kind not in _DECODERS:
        raise ModelFolderError(f"a value of the type {_shown(kind)} is not known")
    try:
        return _DECODERS[kind](encoded, load_array)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ModelFolderError):
            raise
        raise ModelFolderError(f"a value of the type {kind!r} is not valid: {error}") from error


def _decode_float(encoded: Mapping[str, Any], _: LoadArray | None) -> float:
    return _NOT_FINITE[encoded["value"]]


def _decode_path(encoded: Mapping[str, Any], _: LoadArray | None) -> str:
    if not isinstance(encoded["value"], str):
        raise TypeError("a path must be a text")
    return encoded["value"]


def _decode_tuple(encoded: Mapping[str, Any], load_array: LoadArray | None) -> tuple[Any, ...]:
    return tuple(decode(list_of(encoded["items"]), load_array))


def _decode_dict(encoded: Mapping[str, Any], load_array: LoadArray | None) -> dict[Any, Any]:
    pairs = [decode(list_of(pair), load_array) for pair in list_of(encoded["items"])]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _decode_scalar(encoded: Mapping[str, Any], _: LoadArray | None) -> Any:
    array = _decode_array(encoded["array"], None)
    if array.ndim:
        raise ValueError("a scalar must have no dimensions")
    return array[()]


def _decode_array(encoded: Mapping[str, Any], load_array: LoadArray | None) -> NDArray[Any]:
    dtype = _dtype(encoded["dtype"])
    if "aside" in encoded:
        if load_array is None or not isinstance(encoded["aside"], str):
            raise ValueError("an array in another file is not expected here")
        array = load_array(encoded["aside"])
        if array.dtype != dtype:
            raise ValueError(f"its data type is {array.dtype}, not {dtype}")
        return array
    shape, values = list_of(encoded["shape"]), list_of(encoded["values"])
    if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 8:
        raise ValueError(f"its shape is {_shown(shape)}")
    if math.prod(shape) != len(values) or len(values) * dtype.itemsize > _MAX_ARRAY_SIZE:
        raise ValueError(f"{len(values)} values do not fill the shape {_shown(shape)}")
    flat = np.empty(len(values), dtype)
    for place, item in enumerate(values):
        flat[place] = _element(item, dtype)
    return flat.reshape(shape)


def _dtype(encoded: Any) -> np.dtype[Any]:
    if not isinstance(encoded, str) or not _DTYPE.match(encoded):
        raise ValueError(f"the data type {_shown(encoded)} is not known")
    return np.dtype(encoded)


# Types of the elements of an array in JSON, by the kind of its data type.
_ELEMENTS: dict[str, tuple[type, ...]] = {
    "b": (bool,), "i": (int,), "u": (int,), "f": (float, int), "U": (str,),
    "O": (str, bool, int, float, type(None)),
}  # fmt: skip


def _element(encoded: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f" and isinstance(encoded, str):
        return _NOT_FINITE[encoded]
    if dtype.kind == "O" and isinstance(encoded, dict):
        return decode(encoded)
    if type(encoded) not in _ELEMENTS[dtype.kind]:
        raise TypeError(f"{_shown(encoded)} is not an element of an array of {dtype}")
    if dtype.kind == "U" and len(encoded) > dtype.itemsize // 4:
        raise ValueError(f"{_shown(encoded)} is longer than the data type {dtype}")
    return encoded


_DECODERS: dict[str, Callable[[Mapping[str, Any], LoadArray | None], Any]] = {
    "float": _decode_float,
    "path": _decode_path,
    "tuple": _decode_tuple,
    "dict": _decode_dict,
    "scalar": _decode_scalar,
    "array": _decode_array,
}


# ----------------------------------------------------------------------------------- JSON files


def write_json(document: Any) -> bytes:
    """Return a document as JSON in UTF-8."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(content: bytes, name: str) -> dict[str, Any]:
    """Parse a document: a JSON object without duplicate keys, NaN or infinite numbers.

    Parameters
    ----------
    content : bytes
    name : str
        Name of the file, for error messages.

    Raises
    ------
    ModelFolderError
        If the content is anything else.
    """
    try:
        found = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelFolderError(f"{name} is not JSON: {reason}") from error
    if not isinstance(found, dict):
        raise ModelFolderError(f"{name} holds a {type(found).__name__}, not an object")
    return found


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


# -------------------------------------------------------------------------- fields of a document


def list_of(value: Any) -> list[Any]:
    """Return a value that must be a list."""
    if not isinstance(value, list):
        raise ModelFolderError(f"{_shown(value)} stands where a list is expected")
    return value


def field(
    document: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str = "a part"
) -> Any:
    """Return a required field of an object, with its type checked; bool is not an int.

    Parameters
    ----------
    document : mapping
    name : str
    kind : type or tuple of types
        Allowed types.
    where : str, default="a part"
        Description of the object, for error messages.

    Raises
    ------
    ModelFolderError
    """
    if not isinstance(document, dict) or name not in document:
        raise ModelFolderError(f"{where} has no {name!r}")
    value = document[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value) not in kinds:
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise ModelFolderError(f"{name!r} of {where} is {_shown(value)}; expected {wanted}")
    return value


def integer_field(
    document: Mapping[str, Any], name: str, low: int, high: int, where: str = "a part"
) -> int:
    """Return a required field that must be an integer from `low` to `high`."""
    value: int = field(document, name, int, where)
    if not low <= value <= high:
        raise ModelFolderError(f"{name!r} of {where} is {value}; expected {low} to {high}")
    return value
