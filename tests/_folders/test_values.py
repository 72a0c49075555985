from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import Bunch

from sklearn_epee._folders.values import (
    NotSerializableError,
    decode,
    encode,
    field,
    integer_field,
    read_json,
    write_json,
)
from sklearn_epee.exceptions import ModelFolderError

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.text()), inner)
    ),
    max_leaves=10,
)


def there_and_back(value):
    return decode(read_json(write_json({"value": encode(value)}), "a file")["value"])


def alike(first, second):
    if type(first) is not type(second):
        return False
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, dict):
        return alike(list(first.items()), list(second.items()))
    if isinstance(first, float) and math.isnan(first):
        return math.isnan(second)
    return first == second


@given(VALUES)
def test_plain_values_come_back_as_they_were(value):
    # Half of a pair of surrogates is not a text.
    with contextlib.suppress(UnicodeEncodeError):
        assert alike(there_and_back(value), value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["no", "yes"], dtype="<U7"),
        np.array([[1, 2], [3, 4]], dtype=np.int8),
        np.array([0.1, np.nan, np.inf, -np.inf], dtype=np.float32),
        np.array([True, False]),
        np.array(["a", 1, None, 2.5, float("nan")], dtype=object),
        np.array(3.5),
        np.empty((0, 4)),
        np.array([2**63], dtype=np.uint64),
        np.array([1.0], dtype=">f8"),
    ],
    ids=str,
)
def test_arrays_keep_their_type_and_shape(array):
    found = there_and_back(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert repr(found) == repr(array)


def test_scalars_of_numpy_and_paths():
    found = there_and_back([np.float64(0.1), np.int32(3), np.str_("a"), np.bool_(True)])
    assert [type(x) for x in found] == [np.float64, np.int32, np.str_, np.bool_]
    assert there_and_back(Path("a/b")) == "a/b"


@pytest.mark.parametrize("value", [len, object(), {1}, Bunch(a=1), b"x", 1j, np.array([1j])])
def test_what_is_no_data_is_refused(value):
    with pytest.raises(NotSerializableError):
        encode([value])


def test_large_arrays_are_put_aside():
    large, aside = np.arange(5000), {}

    def put(array):
        aside["a"] = array
        return "a"

    said = encode({"x": large}, put)
    assert len(json.dumps(said)) < 200
    assert decode(said, aside.__getitem__)["x"] is large
    with pytest.raises(ModelFolderError, match="not expected here"):
        decode(said)


ARRAY = {"type": "array", "dtype": "<f4", "shape": [2], "values": [1.0, 2.0]}


@pytest.mark.parametrize(
    "said",
    [
        {"type": "function", "value": "os.system"},
        {"type": "tuple"},
        {"type": "tuple", "items": 3},
        {"type": "dict", "items": [[1]]},
        {"type": "dict", "items": [[1, 2], [1, 3]]},
        {"type": "dict", "items": [[[], 2]]},
        {"type": "float", "value": "1e400"},
        {"no": "type"},
        {**ARRAY, "dtype": "O8,O8"},
        {**ARRAY, "dtype": "<M8[ns]"},
        {**ARRAY, "dtype": "<U99999", "shape": [2, 10**9]},
        {**ARRAY, "shape": [10**12]},
        {**ARRAY, "shape": [-1, -2]},
        {**ARRAY, "shape": [True, 2]},
        {**ARRAY, "values": ["nan", "no"]},
        {**ARRAY, "values": [True, 1.0]},
        {**ARRAY, "dtype": "|i1", "values": [300, 1]},
        {**ARRAY, "dtype": "<U1", "values": ["ab", "a"]},
        {**ARRAY, "dtype": "<U99999", "shape": [1000], "values": ["a"] * 1000},
    ],
    ids=str,
)
def test_what_no_value_is_said_as_is_refused(said):
    with pytest.raises(ModelFolderError):
        decode([said])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", "holds a list"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 10**5, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": 1', "not JSON"),
    ],
)
def test_what_is_no_document_is_refused(content, reason):
    with pytest.raises(ModelFolderError, match=reason):
        read_json(content, "a.json")


def test_fields_are_of_their_type():
    assert integer_field({"n": 3}, "n", 1, 5) == 3
    for said in ({}, {"n": True}, {"n": 3.0}, {"n": 9}, []):
        with pytest.raises(ModelFolderError, match="'n'"):
            integer_field(said, "n", 1, 5, "the reader")
    with pytest.raises(ModelFolderError, match="expected str or null"):
        field({"n": 1}, "n", (str, type(None)))
