"""Texts in every accepted form, and what is refused with a message."""

from __future__ import annotations

import enum

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_epee._checks.texts import as_texts, is_paired

from .junk import answer_or_refusal, junk

TEXTS = ["iron daily", "", "Zink für später"]
PAIRS = [("iron", "a rash"), ("zinc", ""), ("", "ü")]
COLUMNS = list(zip(*PAIRS, strict=True))

TEXT_FORMS = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "array": np.array(TEXTS),
    "object array": np.array(TEXTS, dtype=object),
    "column": np.array(TEXTS)[:, None],
    "pandas Series": pd.Series(TEXTS, index=[7, 3, 3]),
    "pandas string Series": pd.Series(TEXTS, dtype="string"),
    "pandas Categorical Series": pd.Series(TEXTS, dtype="category"),
    "pandas Index": pd.Index(TEXTS),
    "pandas DataFrame": pd.DataFrame({"text": TEXTS}),
    "polars Series": pl.Series(TEXTS),
    "polars DataFrame": pl.DataFrame({"text": TEXTS}),
    "generator": iter(TEXTS),
    "numpy strings": [np.str_(text) for text in TEXTS],
    "dict values": dict(enumerate(TEXTS)).values(),
}
PAIR_FORMS = {
    "tuples": PAIRS,
    "lists": [list(pair) for pair in PAIRS],
    "array": np.array(PAIRS),
    "object array": np.array(PAIRS, dtype=object),
    "arrays": [np.array(pair) for pair in PAIRS],
    "pandas DataFrame": pd.DataFrame({"a": COLUMNS[0], "b": COLUMNS[1]}),
    "pandas Series": pd.Series(PAIRS),
    "polars DataFrame": pl.DataFrame({"a": COLUMNS[0], "b": COLUMNS[1]}),
    "polars Series": pl.Series([list(pair) for pair in PAIRS]),
}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_texts_in_every_form(form):
    texts = as_texts(TEXT_FORMS[form])
    assert texts == TEXTS
    assert {type(text) for text in texts} == {str}
    assert not is_paired(texts)


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_pairs_in_every_form(form):
    texts = as_texts(PAIR_FORMS[form])
    assert texts == PAIRS
    assert {type(part) for pair in texts for part in pair} == {str}
    assert is_paired(texts)


BAD_TEXTS = [
    ([], ValueError, r"X holds no texts \(0 sample\(s\)\)"),
    (np.array([], dtype=str), ValueError, "X holds no texts"),
    (pd.DataFrame({"text": []}), ValueError, "X holds no texts"),
    ("iron", TypeError, "X is a single str; .* Wrap it in a list"),
    (b"iron", TypeError, "X is a single bytes"),
    (None, TypeError, "X is of type NoneType; expected a list"),
    (5, TypeError, "X is of type int"),
    ({"a": "iron"}, TypeError, "X is of type dict"),
    ({"iron", "zinc"}, TypeError, "X is of type set"),
    (frozenset({"iron"}), TypeError, "X is of type frozenset"),
    (["iron", None], TypeError, r"X\[1\] is None of type NoneType, not a text"),
    (["iron", float("nan")], TypeError, r"X\[1\] is nan of type float.*empty string ''"),
    ([None, "iron"], TypeError, r"X\[0\] is None"),
    (pd.Series(["iron", pd.NA], dtype="string"), TypeError, r"X\[1\] is <NA>"),
    (pd.Series(["iron", None]), TypeError, r"X\[1\] is (None|nan)"),
    (pl.Series(["iron", None]), TypeError, r"X\[1\] is None"),
    (["iron", 3], TypeError, r"X\[1\] is 3 of type int"),
    (["iron", b"zinc"], TypeError, r"X\[1\] is b'zinc' of type bytes"),
    (np.array([b"iron"]), TypeError, r"X\[0\] is b'iron' of type bytes"),
    (np.ones(3), TypeError, r"X\[0\] is 1.0 of type float"),
    (np.ones((3, 4)), TypeError, r"X\[0\] is a tuple of 4 elements"),
    (np.array("iron"), ValueError, r"X is an array of shape \(\)"),
    (np.full((2, 2, 2), "iron"), ValueError, r"X is an array of shape \(2, 2, 2\)"),
    ([["iron", "zinc", "rash"]], TypeError, r"X\[0\] is a list of 3 elements"),
    ([[["iron"]]], TypeError, r"X\[0\] is a list of 1 elements"),
    ([("iron", None)], TypeError, r"X\[0\]\[1\] is None"),
    ([("iron", ["zinc"])], TypeError, r"X\[0\]\[1\] is \['zinc'\] of type list"),
    ([("iron", "zinc"), "rash"], ValueError, r"X mixes pairs and single texts.*X\[1\] is 'rash'"),
    (["rash", ("iron", "zinc")], TypeError, r"X\[1\] is \('iron', 'zinc'\) of type tuple"),
    ([("iron",), 5], TypeError, r"X\[0\] is a tuple of 1 elements"),
    ([np.array("iron")], TypeError, r"X\[0\] is array\('iron'"),
    (["iron", "\ud800"], ValueError, r"X\[1\] is '\\ud800', which is not valid Unicode"),
    (
        pd.DataFrame({"text": TEXTS, "age": 3, "sex": "f"}),
        TypeError,
        r"X is a data frame with 3 columns, \['text', 'age', 'sex'\]; .* such as X\['text'\]",
    ),
    (pl.DataFrame({"text": TEXTS, "age": 3, "sex": "f"}), TypeError, r"with 3 columns, \['text'"),
    (torch.ones(2), TypeError, r"X\[0\] is tensor"),
    (["x" * 999, 10**500], TypeError, r"X\[1\] is 10{56}\.\.\. of type int"),
]


@pytest.mark.parametrize(("X", "error", "message"), BAD_TEXTS)
def test_what_is_not_a_text_is_refused(X, error, message):
    with pytest.raises(error, match=message) as caught:
        as_texts(X)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("text", "has_hint"), [(5, False), (b"iron", False), (None, True)])
def test_only_missing_texts_are_told_to_be_empty_strings(text, has_hint):
    with pytest.raises(TypeError, match="not a text") as caught:
        as_texts(["iron", text])
    assert ("empty string" in str(caught.value)) == has_hint


def test_a_text_that_is_an_enum_is_its_value():
    names = enum.Enum("Names", {"iron": "iron daily"}, type=str)
    assert as_texts([names.iron]) == ["iron daily"]


@given(junk)
def test_any_junk_is_texts_or_refused(X):
    texts = answer_or_refusal(as_texts, X)
    if isinstance(texts, Exception):
        assert "X" in str(texts)
    else:
        flat = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
        assert {type(part) for part in flat} == {str}


@given(st.lists(st.text(max_size=20), min_size=1))
def test_any_list_of_str_is_accepted_unchanged(X):
    assert as_texts(X) == X
    assert as_texts(tuple((text, text[::-1]) for text in X)) == [(t, t[::-1]) for t in X]
