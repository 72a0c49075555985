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
