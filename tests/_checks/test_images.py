"""Images in every accepted form, and what is refused with a message."""

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

from sklearn_epee._checks.images import as_images, image_form

from .junk import answer_or_refusal, junk

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
     ("I", 1), ("F", 1), ("CMYK", 3), ("YCbCr", 3), ("HSV", 3), ("RGBX", 3), ("La", 2),
     ("RGBa", 4)],
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
    ("image.png", None, TypeError, r"X is of type str; .* Wrap it in a list"),
    (Path("image.png"), None, TypeError, r"X is of type \w*Path; .* Wrap it in a list"),
    (None, None, TypeError, "X is of type NoneType; expected an array of shape"),
    (7, None, TypeError, "X is of type int"),
    ({1: GREY[0]}, None, TypeError, "X is of type dict"),
    (Image.new("L", (4, 4)), None, (TypeError, ValueError), "X is"),
    ([b"image.png"], None, TypeError, r"X\[0\] is b'image.png' of type bytes, not an image"),
    (["image.png"], None, ValueError, r"X\[0\] is the path 'image.png', where there is no file"),
    ([Path("image.png")], None, ValueError, r"X\[0\] is the path 'image.png', where there is no"),
    ([GREY[0], None], None, TypeError, r"X\[1\] is None of type NoneType, not an image"),
    ([[[1, 2], [3, 4]]], None, TypeError, r"X\[0\] is \[\[1, 2\], \[3, 4\]\] of type list"),
    (np.array(None, dtype=object), None, ValueError, r"X is an array of shape \(\)"),
    (np.ones(8), None, ValueError, r"X is an array of shape \(8,\)"),
    (np.ones((2, 8)), None, ValueError, r"X is an array of shape \(2, 8\).*need image_shape="),
    (np.ones((2, 8)), (3, 3), ValueError, r"X has 8 features per row, but image_shape=\(3, 3\)"),
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
    (pd.DataFrame({"a": ["b"]}), None, ValueError, r"X\[0\] is the path 'b', where there is no"),
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


# ------------------------------------------------------------------------------- axes and channels


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_channels_first_are_refused_with_what_they_were_taken_for(n_channels):
    X = np.zeros((20, n_channels, 28, 28), np.uint8)
    taken = rf"an image of {n_channels} x 28 pixels with 28 channels; channels come last"
    with pytest.raises(ValueError, match=rf"X holds .*{taken}.* give np\.moveaxis\(X, 1, -1\)"):
        as_images(X, None)
    with pytest.raises(ValueError, match=rf"X\[0\] holds .*{taken}.* np\.moveaxis\(image, 0, -1\)"):
        as_images(list(X), None)
    assert as_images(np.moveaxis(X, 1, -1), None).shape == (20, 28, 28, n_channels)
    rows = X.reshape(20, -1)
    with pytest.raises(ValueError, match=r"image_shape=.* expected \(height, width, channels\)"):
        as_images(rows, X.shape[1:])
    assert as_images(rows, (28, 28, n_channels)).shape == (20, 28, 28, n_channels)


@pytest.mark.parametrize("shape", [(28, 28, 28), (28, 28, 64), (13, 64, 64), (64, 13, 64)])
def test_volumes_are_refused(shape):
    X = np.zeros((20, *shape), np.uint8)
    for given_as in (X, list(X)):
        with pytest.raises(ValueError, match=rf"with {shape[-1]} channels.*Volumes cannot be"):
            as_images(given_as, None)
    # Small images of many bands exist; whoever has them can say so.
    assert as_images(X.reshape(20, -1), shape).shape == X.shape
    assert as_images(np.zeros((20, 64, 64, 13)), None).shape == (20, 64, 64, 13)


@pytest.mark.parametrize("shape", [(28, 28, 1), (28, 28, 3), (64, 32, 4)])
def test_a_single_image_is_not_taken_for_many_narrow_ones(shape):
    n, height, width = shape
    message = rf"would be {n} images of {height} x {width} pixels\. If it is a single image, give X"
    with pytest.raises(ValueError, match=message):
        as_images(np.zeros(shape), None)
    assert as_images(np.zeros(shape)[np.newaxis], None).shape == (1, *shape)
    assert as_images(np.zeros(shape)[..., np.newaxis], None).shape == (*shape, 1)
    with pytest.raises(ValueError, match="a single image needs to be in a list"):
        as_images(np.zeros((28, 28)), None)
    with pytest.raises(TypeError, match=r"X is of type Image; .* Wrap it in a list"):
        as_images(Image.new("L", (28, 28)), None)


# ------------------------------------------------------------------------------------- PIL images


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "CMYK", "P", "RGBX"])
def test_colors_in_another_space_are_read_as_rgb(mode):
    smooth = Image.fromarray(COLOUR[0]).resize((64, 64))
    image = smooth.convert(mode)
    (found,) = as_images([image], None)
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_colors_that_pil_cannot_convert_are_refused():
    with pytest.raises(ValueError, match=r"X\[1\] is a PIL image of mode 'LAB'.* convert it to 'R"):
        as_images([Image.new("RGB", (4, 4)), Image.new("LAB", (4, 4))], None)


def test_a_file_that_cannot_be_decoded_is_named(tmp_path):
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for file in files:
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    files[1].write_bytes(files[1].read_bytes()[:900])
    with pytest.raises(ValueError, match=r"X\[1\] is a PIL image that cannot be decoded: .*trunc"):
        as_images([Image.open(file) for file in files], None)


# --------------------------------------------------------------------------------- scale of pixels


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32])
def test_whole_numbers_are_read_as_uint8_where_that_was_fitted(dtype):
    form = image_form(as_images(GREY, None))
    for given_as in (GREY.astype(dtype), list(GREY.astype(dtype))):
        images = as_images(given_as, None, form)
        np.testing.assert_array_equal(np.stack(list(images))[..., 0], GREY)
        assert images[0].dtype == np.uint8


def test_a_list_with_pixels_of_several_types_is_read_as_one(tmp_path):
    mixed = [GREY[0], GREY[1].astype(np.int64), GREY[2] / 255, Image.fromarray(GREY[0])]
    images = as_images(mixed, None)
    assert [image.dtype for image in images] == ["uint8", "uint8", "float32", "uint8"]
    message = "X mixes uint8 pixels from .* and float pixels from .*, which have different scales"
    with pytest.raises(ValueError, match=message):
        as_images([GREY[0], GREY[1].astype(float)], None)


def test_another_channel_count_than_in_the_training_is_refused():
    form = image_form(as_images(GREY, None))
    with pytest.raises(ValueError, match=r"images of 3 channels, but .* images of 1 channels"):
        as_images(COLOUR, None, form)
