"""Values of every kind that no caller should pass."""

from __future__ import annotations

import pandas as pd
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(), max_size=5),
    st.binary(max_size=5),
    st.datetimes(),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, max_side=2)),
)
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
        st.lists(inner, max_size=3).map(lambda items: pd.Series(items, dtype=object)),
    ),
    max_leaves=12,
)


def answer_or_refusal(check, *args):
    """Give the samples, or the error if it is one of the two that are allowed."""
    try:
        return check(*args)
    except (TypeError, ValueError) as error:
        return error
