"""PIL files: decoded when they are used, so that many large ones need little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sklearn_epee._checks import images
from sklearn_epee._checks.image_files import ImageFile
from sklearn_epee._checks.images import as_images, image_form
from sklearn_epee._search.fingerprint import fingerprint
from tests.classifiers import tiny_image_classifier

SIDE = 400
N = 12
LABELS = np.array(["a", "b"] * (N // 2))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def _no_memory(monkeypatch):
    monkeypatch.setattr(images, "_KEPT_BYTES", 0)


def opened(paths):
    return [Image.open(path) for path in paths]


@pytest.mark.usefixtures("_no_memory")
def test_files_beyond_the_limit_are_decoded_when_they_are_used(paths):
    given = opened(paths)
    found = as_images(given, None)
    assert all(isinstance(image, ImageFile) for image in found)
    assert all(image.fp is not None for image in given)  # still to be read
    for image, path in zip(found, paths, strict=True):
        assert image.shape == (SIDE, SIDE, 1)
        np.testing.assert_array_equal(np.asarray(image)[..., 0], np.asarray(Image.open(path)))


@pytest.mark.usefixtures("_no_memory")
def test_images_that_were_changed_in_memory_are_not_read_again(paths):
    given = opened(paths[:2])
    given[0].load()
    given[0].putpixel((0, 0), 7)
    given[1] = given[1].resize((30, 20))
    first, second = as_images(given, None)
    assert np.asarray(first)[0, 0, 0] == 7
    np.testing.assert_array_equal(np.asarray(second)[..., 0], np.asarray(given[1]))


def test_fit_and_predict_are_the_same_with_little_memory(paths, monkeypatch):
    expected = tiny_image_classifier(memory=None).fit(opened(paths), LABELS)
    monkeypatch.setattr(images, "_KEPT_BYTES", 0)
    model = tiny_image_classifier(memory=None).fit(opened(paths), LABELS)
    given = opened(paths)
    np.testing.assert_array_equal(model.predict_proba(given), expected.predict_proba(given))
    one = SIDE * SIDE
    tracemalloc.start()
    kept = as_images(opened(paths), None)
    image_form(kept)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * one  # of twelve


@pytest.mark.usefixtures("_no_memory")
def test_fingerprints_follow_the_pixels(paths):
    first, again, other = (
        fingerprint(as_images(opened(p), None)) for p in (paths, paths, paths[::-1])
    )
    assert first == again != other


@pytest.mark.usefixtures("_no_memory")
def test_the_scale_of_files_is_known_and_converted(paths):
    form = image_form(as_images(np.zeros((2, 4, 4), np.uint8), None))
    integers = [image.convert("I") for image in opened(paths)]
    found = as_images(integers, None, form)
    assert {np.asarray(image).dtype for image in found} == {np.dtype(np.uint8)}
    assert image_form(as_images(opened(paths), None)).scale.kind == "uint8"
    assert image_form(as_images(integers, None)).scale.kind == "whole numbers"
