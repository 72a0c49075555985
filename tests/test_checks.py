"""Texts and images in every accepted form, and junk refused with a message."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sklearn_epee._checks import as_images, as_texts, is_paired

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
    (torch.ones(2), TypeError, r"X\[0\] is tensor"),
    (["x" * 999, 10**500], TypeError, r"X\[1\] is 10{56}\.\.\. of type int"),
]


@pytest.mark.parametrize(("X", "error", "message"), BAD_TEXTS)
def test_what_is_not_a_text_is_refused(X, error, message):
    with pytest.raises(error, match=message) as caught:
        as_texts(X)
    assert len(str(caught.value)) < 500


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


# ------------------------------------------------------------------------------------------ images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (3, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (GREY, GREY[..., None]),
        (COLOUR, COLOUR),
        (list(GREY), GREY[..., None]),
        (tuple(COLOUR), COLOUR),
        ([Image.fromarray(image) for image in GREY], GREY[..., None]),
        ([Image.fromarray(image) for image in COLOUR], COLOUR),
        ([GREY[0], Image.fromarray(GREY[1]), GREY[2, ..., None]], GREY[..., None]),
        (torch.from_numpy(COLOUR), COLOUR),
        ((image for image in COLOUR), COLOUR),
    ],
)
def test_images_in_every_form(X, expected):
    images = as_images(X, None)
    np.testing.assert_array_equal(np.stack(list(images)), expected)
    assert images[0].dtype == np.uint8


@pytest.mark.parametrize("image_shape", [(5, 4), [5, 4], (5, 4, 1), (5, 2, 2), np.array([5, 4])])
def test_rows_of_flattened_images(image_shape):
    flat = GREY.reshape(3, -1)
    expected = flat.reshape(3, *image_shape)
    for rows in (flat, flat.astype(float), pd.DataFrame(flat), pl.DataFrame(flat)):
        images = as_images(rows, image_shape)
        np.testing.assert_array_equal(images, expected.reshape(images.shape))
        assert images.ndim == 4


def test_images_of_different_sizes_and_object_arrays():
    sizes = [(3, 4), (5, 2), (1, 1)]
    images = [RNG.random((*size, 3)) for size in sizes]
    array = np.empty(3, dtype=object)
    array[:] = images
    for X in (images, array):
        found = as_images(X, None)
        assert [image.shape for image in found] == [(*size, 3) for size in sizes]
        assert {image.dtype for image in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint16", "float16", "float64"])
def test_pixels_of_other_types_become_float32_with_their_values(dtype):
    pixels = (GREY // 100).astype(dtype)
    images = as_images(pixels, None)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[..., 0], pixels)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("1", 1), ("P", 3), ("PA", 4), ("RGB", 3), ("RGBA", 4), ("LA", 2), ("I;16", 1),
     ("I", 1), ("F", 1), ("CMYK", 4)],
)  # fmt: skip
def test_pil_images_of_every_mode(mode, channels):
    image = Image.fromarray(COLOUR[0]).convert("L") if mode.startswith("I") else None
    image = image or Image.fromarray(COLOUR[0])
    if mode == "PA":
        image = image.convert("P")
    (found,) = as_images([image.convert(mode)], None)
    assert found.shape == (5, 4, channels)
    assert found.dtype in (np.uint8, np.float32)


def test_palettes_and_bits_are_read_as_intensities():
    image = Image.new("P", (4, 5), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert (as_images([image], None)[0] == [10, 200, 30]).all()
    bits = Image.new("1", (4, 5), 1)
    assert (as_images([bits], None)[0] == 255).all()


BAD_IMAGES = [
    ([], None, ValueError, r"X holds no images \(0 sample\(s\)\)"),
    (np.empty((0, 4, 4)), None, ValueError, "X holds no images"),
    ("image.png", None, TypeError, "X is of type str"),
    (None, None, TypeError, "X is of type NoneType; expected an array of shape"),
    (7, None, TypeError, "X is of type int"),
    ({1: GREY[0]}, None, TypeError, "X is of type dict"),
    (Image.new("L", (4, 4)), None, (TypeError, ValueError), "X is"),
    (["image.png"], None, TypeError, r"X\[0\] is 'image.png' of type str, not an image"),
    ([Path("image.png")], None, TypeError, r"X\[0\] is .*Path"),
    ([GREY[0], None], None, TypeError, r"X\[1\] is None of type NoneType, not an image"),
    ([[[1, 2], [3, 4]]], None, TypeError, r"X\[0\] is \[\[1, 2\], \[3, 4\]\] of type list"),
    (np.array(None, dtype=object), None, ValueError, r"X is an array of shape \(\)"),
    (np.ones(8), None, ValueError, r"X is an array of shape \(8,\)"),
    (np.ones((2, 8)), None, ValueError, r"X is an array of shape \(2, 8\).*need image_shape="),
    (np.ones((2, 8)), (3, 3), ValueError, r"X has 8 features a row, but image_shape=\(3, 3\)"),
    (np.ones((2, 8)), (8,), ValueError, r"image_shape=\(8,\) is not valid; expected \(height"),
    (np.ones((2, 8)), (-2, -4), ValueError, r"image_shape=\(-2, -4\) is not valid"),
    (np.ones((2, 8)), (2, 2, 2, 1), ValueError, r"image_shape=\(2, 2, 2, 1\) is not valid"),
    (np.ones((2, 8)), ("a", "b"), ValueError, "image_shape=.* is not valid; .* integers >= 1"),
    (np.ones((2, 8)), (2.0, 4), ValueError, "image_shape=.* is not valid"),
    (np.ones((2, 3, 3, 1, 1)), None, ValueError, r"X is an array of shape \(2, 3, 3, 1, 1\)"),
    ([np.ones(8)], None, ValueError, r"X\[0\] is an array of shape \(8,\); expected \(height"),
    (np.empty((2, 0, 3)), None, ValueError, r"X has the shape \(2, 0, 3, 1\): images without"),
    ([GREY[0], np.empty((3, 0))], None, ValueError, r"X\[1\] has the shape \(3, 0, 1\): images"),
    ([Image.new("L", (0, 4))], None, ValueError, "images without pixels"),
    ([GREY[0], COLOUR[0]], None, ValueError, r"X mixes images of \[1, 3\] channels"),
    (np.full((2, 3, 3), np.nan), None, ValueError, "X contains NaN or infinity among its pixels"),
    ([GREY[0], np.full((3, 3), np.inf)], None, ValueError, r"X\[1\] contains NaN or infinity"),
    (np.full((2, 3, 3), 1e300), None, ValueError, "X contains NaN or infinity"),
    (np.full((2, 3, 3), "a"), None, TypeError, "X has pixels of type <U1; expected uint8 or"),
    (np.ones((2, 3, 3), complex), None, TypeError, "X has pixels of type complex128"),
    (np.ones((2, 3, 3), object), None, TypeError, r"X\[0\] has pixels of type object"),
    (pd.DataFrame({"a": ["b"]}), None, ValueError, r"X\[0\] is an array of shape \(1,\)"),
]


@pytest.mark.parametrize(("X", "image_shape", "error", "message"), BAD_IMAGES)
def test_what_is_not_an_image_is_refused(X, image_shape, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message) as caught:
            as_images(X, image_shape)
    assert len(str(caught.value)) < 500


@given(junk, st.none() | st.lists(st.integers(-1, 3), max_size=4).map(tuple))
def test_any_junk_is_images_or_refused(X, image_shape):
    images = answer_or_refusal(as_images, X, image_shape)
    if isinstance(images, Exception):
        assert "X" in str(images) or "image_shape" in str(images)
    else:
        for image in images:
            assert image.ndim == 3
            assert image.size
            assert image.dtype in (np.uint8, np.float32)
            assert np.isfinite(image).all()


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.float32]),
        hnp.array_shapes(min_dims=3, max_dims=4, max_side=4),
        elements=st.integers(0, 255),
    )
)
def test_any_stack_of_pixels_is_accepted_with_its_values(X):
    images = as_images(X, None)
    np.testing.assert_array_equal(images.reshape(X.shape), X)
    assert images.dtype == X.dtype
    separate = as_images(list(X), None)
    np.testing.assert_array_equal(np.stack(separate).ravel(), X.ravel())


def test_an_object_that_only_looks_like_an_image_is_refused():
    with pytest.raises(TypeError, match="not an image"):
        as_images([SimpleNamespace(mode="P")], None)
