"""Images to pixel tensors: sizes, channels, statistics and processors of checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from sklearn_epee._checks.images import ImageForm, image_form
from sklearn_epee._nn import images
from sklearn_epee._nn.images import (
    ImagePreprocessor,
    as_size,
    channel_statistics,
    common_size,
    compact_image_config,
    count_positions,
    load_image_processor,
    processor_size,
    scaled,
    suitable_patch,
    to_uint8,
)
from tests.checkpoints import IMAGE_FAMILIES, IMAGE_SIZE, make_checkpoint

RNG = np.random.default_rng(0)
SIZES = [(20, 20), (31, 17), (16, 40), (16, 16)]
COLOUR = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def make_encoder(size: tuple[int, int], n_channels: int = 3, **options: Any) -> ImagePreprocessor:
    settings: dict[str, Any] = {"mean": np.zeros(n_channels), "std": np.ones(n_channels)}
    settings |= options
    settings = {name: np.float32(value) for name, value in settings.items()}
    return ImagePreprocessor(size, form(n_channels), 3, 17, **settings)


def form(n_channels: int) -> ImageForm:
    return image_form(np.zeros((1, 2, 2, n_channels), np.uint8))


# --------------------------------------------------------------------------------------- processors


@pytest.fixture(scope="module", params=IMAGE_FAMILIES)
def processor(request, tmp_path_factory):
    folder = make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return load_image_processor(folder, argument="backbone")


def test_a_processor_gives_the_pixels_that_it_gives_when_called_directly(processor):
    encoder = ImagePreprocessor((IMAGE_SIZE, IMAGE_SIZE), form(3), 3, 17, processor=processor)
    assert processor_size(processor) == (IMAGE_SIZE, IMAGE_SIZE)
    found = encoder.transform(COLOUR)
    assert found.dtype == torch.float32
    assert found.shape == (4, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = [Image.fromarray(image) for image in COLOUR]
    expected = processor(images=images, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(found, expected)
    # One by one, so that an image never depends on its neighbours.
    for row, image in enumerate(COLOUR):
        np.testing.assert_array_equal(encoder.transform([image])[0], found[row])


def test_a_processor_follows_another_image_size(processor):
    encoder = ImagePreprocessor((24, 12), form(3), 3, 19, processor=processor)
    found = encoder.transform(COLOUR)
    assert found.shape == (4, 3, 24, 12)
    assert abs(found).max() > 0.1


def test_a_processor_reads_floats_as_0_to_1_and_grey_as_three_equal_channels(processor):
    size = (IMAGE_SIZE, IMAGE_SIZE)
    encoder = ImagePreprocessor(size, form(3), 3, 17, processor=processor)
    floats = [image.astype(np.float32) / 255 for image in COLOUR]
    np.testing.assert_array_equal(encoder.transform(floats), encoder.transform(COLOUR))
    grey = [image[..., :1] for image in COLOUR]
    repeated = [np.repeat(image, 3, axis=-1) for image in grey]
    from_grey = ImagePreprocessor(size, form(1), 3, 17, processor=processor).transform(grey)
    np.testing.assert_array_equal(from_grey, encoder.transform(repeated))


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0])
def test_floats_beyond_0_to_1_are_refused_by_processors(value):
    image = np.full((2, 2, 3), value, np.float32)
    with pytest.raises(ValueError, match=r"X holds float pixels .* uint8 \(0\.\.255\) or floats"):
        to_uint8(image)


def test_a_processor_object_is_taken_as_it_is_and_another_object_is_refused(tmp_path):
    def double(images, **kwargs):
        return BatchFeature({"pixel_values": np.ones((len(images), 3, 4, 4))})

    assert load_image_processor(double, argument="image_processor") is double
    assert processor_size(double) is None
    with pytest.raises(TypeError, match=r"image_processor must be .* got int"):
        load_image_processor(5, argument="image_processor")
    with pytest.raises(ValueError, match=r"image_processor=.* holds no image processor") as caught:
        load_image_processor(tmp_path, argument="image_processor")
    assert "preprocessor_config.json" in str(caught.value)


def fails(images, **kwargs):
    return 1 / 0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (len, "a builtin_function_or_method cannot prepare the images: TypeError"),
        (lambda **_: None, "a function cannot prepare the images: TypeError"),
        (lambda **_: {}, "a function cannot prepare the images: KeyError"),
        (fails, "cannot prepare the images: ZeroDivisionError: division by zero"),
        (lambda **_: {"pixel_values": "a"}, "cannot prepare the images: ValueError"),
        (
            lambda **_: {"pixel_values": np.ones((1, 3, 9, 8))},
            r"returns pixels of shape \(1, 3, 9, 8\); expected \(1, 3, 8, 8\)",
        ),
        (
            lambda **_: {"pixel_values": np.full((1, 3, 8, 8), np.nan)},
            "the prepared pixels contain NaN or infinity",
        ),
    ],
)
def test_a_processor_that_does_not_work_is_named_before_the_training(broken, message):
    preprocessor = ImagePreprocessor((8, 8), form(3), 3, 17, processor=broken)
    with pytest.raises(ValueError, match=f"^image_processor: .*{message}"):
        preprocessor.check(COLOUR)


# --------------------------------------------------------------------------- without a processor


def test_pixels_are_standardised_by_the_training_images():
    X = RNG.integers(0, 200, (50, 6, 5, 3), dtype=np.uint8)
    mean, std = channel_statistics(X)
    np.testing.assert_allclose(mean, (X / 255).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std, (X / 255).std((0, 1, 2)), rtol=1e-5)
    pixels = make_encoder((6, 5), mean=mean, std=std).transform(list(X)).numpy()
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(pixels[7, 2], ((X[7, ..., 2] / 255) - mean[2]) / std[2], atol=1e-5)


def test_statistics_count_every_pixel_of_images_of_different_sizes():
    images = [np.full((2, 3, 1), 0.0, np.float32), np.full((4, 6, 1), 5.0, np.float32)]
    mean, std = channel_statistics(images)
    assert mean == pytest.approx(4.0)
    assert std == pytest.approx(2.0)


def test_a_constant_channel_becomes_zero():
    X = np.full((3, 4, 4, 1), 200, np.uint8)
    mean, std = channel_statistics(X)
    assert std == 1
    pixels = make_encoder((4, 4), 1, mean=mean, std=std).transform(list(X))
    np.testing.assert_allclose(pixels, 0, atol=1e-6)


def test_large_offsets_do_not_ruin_the_statistics():
    X = 1e4 + RNG.normal(0, 1, (20, 8, 8, 1)).astype(np.float32)
    mean, std = channel_statistics(X)
    assert mean == pytest.approx(1e4, rel=1e-4)
    assert std == pytest.approx(1, rel=0.02)


def test_uint8_is_divided_by_255_and_floats_stay_as_they_are():
    X = RNG.integers(0, 256, (2, 3, 3, 1), dtype=np.uint8)
    np.testing.assert_allclose(scaled(X), X / 255, rtol=1e-6)
    floats = X.astype(np.float32)
    np.testing.assert_array_equal(scaled(floats), floats)
    encoder = make_encoder((3, 3), 1)
    as_bytes = encoder.transform(list(X))
    torch.testing.assert_close(as_bytes, encoder.transform(list(X.astype(np.float32) / 255)))


def test_grey_images_fill_the_channels_of_a_backbone():
    X = RNG.random((2, 4, 4, 1)).astype(np.float32)
    pixels = make_encoder((4, 4), 1).transform(list(X))
    assert pixels.shape == (2, 3, 4, 4)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[:, channel], X[..., 0])


def test_large_images_are_prepared_a_few_at_a_time(processor, monkeypatch):
    size = (IMAGE_SIZE, IMAGE_SIZE)
    means = {"mean": np.float32([0.4] * 3), "std": np.float32([0.2] * 3)}
    ways = [means, {"processor": processor}]
    preprocessors = [ImagePreprocessor(size, form(3), 3, 17, **way) for way in ways]
    expected = [preprocessor.transform(COLOUR) for preprocessor in preprocessors]
    statistics = channel_statistics(COLOUR)
    monkeypatch.setattr(images, "_MAX_PIXELS", 1000)
    sizes = [len(part) for part in images._parts(COLOUR)]
    assert sizes == [2, 2]
    for preprocessor, pixels in zip(preprocessors, expected, strict=True):
        np.testing.assert_array_equal(preprocessor.transform(COLOUR), pixels)
    np.testing.assert_allclose(channel_statistics(COLOUR), statistics, rtol=1e-6)


def test_images_of_different_sizes_and_types_are_resized_in_their_order():
    images = [
        np.full((size, size + 2, 3), value, dtype)
        for size, value, dtype in [
            (4, 10, np.uint8), (9, 20, np.uint8), (9, 30, np.uint8), (4, 40, np.uint8),
            (4, 0.5, np.float32), (6, 60, np.uint8),
        ]
    ]  # fmt: skip
    pixels = make_encoder((5, 6)).transform(images)
    assert pixels.shape == (6, 3, 5, 6)
    expected = [10 / 255, 20 / 255, 30 / 255, 40 / 255, 0.5, 60 / 255]
    np.testing.assert_allclose(pixels.mean((1, 2, 3)), expected, rtol=1e-5)


# ----------------------------------------------------------------------------------- sizes, patches


@pytest.mark.parametrize(
    ("size", "patch", "n_patches"),
    [
        ((8, 8), 2, 16),
        ((28, 28), 7, 16),
        ((64, 64), 16, 16),
        ((224, 224), 16, 196),
        ((5, 5), 1, 25),
        ((1, 1), 1, 1),
        ((28, 60), 4, 7 * 15),
        ((30, 13), 3, 10 * 5),
        ((150, 100), 10, 15 * 10),
    ],
)
def test_compact_networks_cut_small_images_into_small_patches(size, patch, n_patches):
    assert suitable_patch(size) == patch
    config = compact_image_config(size, 1)
    height, width = config.image_size
    assert height % patch == width % patch == 0
    assert 0 <= height - size[0] < patch
    assert 0 <= width - size[1] < patch
    assert count_positions(config, (height, width)) == n_patches + 1
    assert config.num_channels == 1


def test_the_common_size_is_the_size_or_the_median():
    assert common_size(np.zeros((3, 7, 9, 1))) == (7, 9)
    images = [np.zeros((h, w, 1)) for h, w in [(4, 10), (6, 30), (100, 20), (6, 20)]]
    assert common_size(images) == (6, 20)
    assert common_size(np.zeros((1, 1000, 500, 1))) == (224, 112)
    assert common_size(np.zeros((1, 5000, 2, 1))) == (224, 1)


@pytest.mark.parametrize(
    ("value", "size"), [(8, (8, 8)), ((8, 4), (8, 4)), ([8, np.int64(4)], (8, 4))]
)
def test_sizes_become_height_and_width(value, size):
    assert as_size(value) == size


@pytest.mark.parametrize("value", [(), (8,), (8, 8, 3), (8, 0), (8, "a"), (8, 2.5), -1, 0])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(ValueError, match=r"image_size=.* expected an integer >= 1 or \(height, w"):
        as_size(value)


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e-3, 1e9])
@pytest.mark.parametrize("offset", [0, 1000])
def test_a_channel_is_constant_relative_to_its_own_values(unit, offset):
    varied = (offset + RNG.random((4, 5, 5, 1))) * unit
    constant = np.full_like(varied, (offset + 0.1) * unit)
    X = np.concatenate([varied, constant], axis=-1).astype(np.float32)
    mean, std = channel_statistics(X)
    assert std[0] == pytest.approx(X[..., 0].astype(float).std(), rel=1e-4)
    assert std[1] == 1
    np.testing.assert_allclose(mean, X.astype(float).mean((0, 1, 2)), rtol=1e-6)
