"""Values that make no sense for most arguments, and what a call may do with them."""

import datetime as dt
import math
import re
from fractions import Fraction

import numpy as np
import pandas as pd

BAD_VALUES = {
    "None": None,
    "true": True,
    "zero": 0,
    "minus_one": -1,
    "huge": 10**9,
    "beyond_int64": 10**30,
    "half": 0.5,
    "minus_zero_one": -0.1,
    "nan": math.nan,
    "inf": math.inf,
    "complex": 1 + 2j,
    "fraction": Fraction(1, 3),
    "empty_string": "",
    "string": "nope",
    "bytes": b"nope",
    "empty_list": [],
    "list_of_none": [None],
    "list_of_strings": ["a", "b"],
    "list_of_nan": [math.nan] * 6,
    "ragged": [[1, 2], [3]],
    "empty_dict": {},
    "dict": {"a": 1},
    "set": {1, 2},
    "tuple": (1, "a"),
    "object": object(),
    "class": type("Anything", (), {"__init__": lambda *_: None}),
    "function": lambda *_: None,
    "date": dt.date(2020, 1, 1),
    "zero_d": np.array(3.0),
    "empty_array": np.empty((0, 2, 2)),
    "matrix": np.ones((2, 2)),
    "strings": np.array(["x"] * 6),
    "objects": np.array([None] * 6, dtype=object),
    "times": np.array(["2020-01-01"] * 6, dtype="datetime64[D]"),
    "structured": np.zeros(6, dtype=[("a", int)]),
    "complex_array": np.ones(6, dtype=complex),
    "frame": pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
    "series_of_missing": pd.Series([pd.NA] * 6),
    "generator": (i for i in ()),
}


def bad_columns(n_samples):
    """Return values of the right length for labels, weights or groups, with odd contents."""
    rng = np.random.default_rng(0)
    halves = [n_samples // 2, n_samples - n_samples // 2]
    return {
        "column of NaN": np.full(n_samples, np.nan),
        "one NaN": np.append(np.ones(n_samples - 1), np.nan),
        "one infinity": np.append(np.ones(n_samples - 1), np.inf),
        "one None": [*["a"] * (n_samples - 1), None],
        "one NA": pd.Series([*["a"] * (n_samples - 1), pd.NA]),
        "one NaT": np.array([*["2020-01-01"] * (n_samples - 1), "NaT"], dtype="datetime64[D]"),
        "mixed": [1, "a"] * (n_samples // 2),
        "numbers and None": [1.0, None] * (n_samples // 2),
        "all zero": np.zeros(n_samples),
        "negative": -np.ones(n_samples),
        "random floats": rng.random(n_samples),
        "huge integers": [10**30 + i for i in range(n_samples)],
        "largest floats": np.full(n_samples, 1e308),
        "complex": np.full(n_samples, 1j),
        "bytes": np.array([b"a", b"b"] * (n_samples // 2)),
        "long words": ["a" * 10_000, "b"] * (n_samples // 2),
        "tuples": [(1, 2)] * n_samples,
        "sets": [{1}] * n_samples,
        "dicts": [{}] * n_samples,
        "ragged": [[1]] * halves[0] + [[1, 2]] * halves[1],
        "categorical": pd.Categorical(["a", None] * (n_samples // 2)),
        "nullable": pd.array([1, None] * (n_samples // 2), dtype="Int64"),
        "frame": pd.DataFrame({"a": ["x", "y"] * (n_samples // 2), "b": np.nan}),
        "three dimensions": np.ones((n_samples, 1, 1)),
        "no columns": np.ones((n_samples, 0)),
    }


def bad_probabilities(proba):
    """Return arrays shaped like staged probabilities, with odd contents or other shapes."""
    one_nan, negative = proba.copy(), proba.copy()
    one_nan[0, 0, 0], negative[0, 0, 0] = np.nan, -0.5
    return {
        "one NaN": one_nan,
        "negative": negative,
        "too large": proba * 3,
        "zeros": np.zeros_like(proba),
        "infinite": np.full_like(proba, np.inf),
        "strings": proba.astype(str),
        "objects": proba.astype(object),
        "None inside": np.where(proba > 0.5, proba.astype(object), None),
        "booleans": proba > 0.5,
        "complex": proba.astype(complex),
        "two dimensions": proba[:, 0],
        "four dimensions": proba[np.newaxis],
        "no samples": proba[:0],
        "no layers": proba[:, :0],
        "no classes": proba[..., :0],
        "fewer samples": proba[:3],
        "other classes": proba[..., :2],
        "list of tasks": [proba, proba],
        "tasks of other sizes": [proba, proba[:3]],
        "layers first": proba.transpose(1, 0, 2),
        "lists": proba.tolist(),
        "ragged": [*proba.tolist(), [[1.0]]],
    }


def outcome(call, argument):
    """Return "accepted", "refused" or what is wrong about the refusal of an argument."""
    try:
        call()
    except (TypeError, ValueError) as error:
        names_it = re.search(rf"\b{argument}\b", str(error))
        return "refused" if names_it else f"does not name {argument}: {error!r:.300}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be reported
        return f"wrong type: {error!r:.300}"
    return "accepted"
