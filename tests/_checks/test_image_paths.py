"""Images given by the paths of their files: read when they are used, refused by name."""

from __future__ import annotations

import pickle
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.model_selection import GridSearchCV

from sklearn_epee._checks import image_paths, images
from sklearn_epee._checks.image_paths import PathImage
from sklearn_epee._checks.images import as_images, image_form
from sklearn_epee._search.fingerprint import fingerprint
from tests.classifiers import tiny_image_classifier
from tests.trainings import Trainings

SIDE = 200
N = 12
LABELS = np.array(["a", "b"] * (N // 2))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N, SIDE, SIDE), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def _no_memory(monkeypatch):
    monkeypatch.setattr(images, "_KEPT_BYTES", 0)


def read(path):
    (found,) = as_images([path], None)
    return np.asarray(found)


# ------------------------------------------------------------------------------- the same as arrays


@pytest.mark.parametrize(
    "form",
    [list, tuple, np.array, pd.Series, lambda p: list(map(str, p)),
     lambda p: np.array(list(map(str, p))), lambda p: pl.Series(list(map(str, p))),
     lambda p: pd.Series(list(map(str, p))), lambda p: pd.DataFrame({"path": list(map(str, p))}),
     lambda p: (path for path in p)],
)  # fmt: skip
def test_paths_in_every_form_are_the_images(paths, form):
    found = as_images(form(paths), None)
    np.testing.assert_array_equal(np.stack(found)[..., 0], PIXELS)
    assert found[0].dtype == np.uint8


def test_fit_and_predict_on_paths_are_those_on_arrays(paths, monkeypatch):
    expected = tiny_image_classifier(memory=None).fit(PIXELS, LABELS)
    for kept in (images._KEPT_BYTES, 0):
        monkeypatch.setattr(images, "_KEPT_BYTES", kept)
        model = tiny_image_classifier(memory=None).fit(paths, LABELS)
        np.testing.assert_array_equal(model.predict_proba(paths), expected.predict_proba(PIXELS))
        np.testing.assert_array_equal(model.predict_proba(PIXELS), expected.predict_proba(paths))
        assert next(model.staged_predict(paths[:2])).shape == (2,)


@pytest.mark.parametrize("kept", [images._KEPT_BYTES, 0])
def test_a_search_over_paths_trains_as_few_networks(paths, tmp_path, monkeypatch, kept):
    monkeypatch.setattr(images, "_KEPT_BYTES", kept)
    trainings = Trainings(tmp_path / "trainings")
    found = {}
    for name, X in {"paths": list(map(str, paths)), "arrays": PIXELS}.items():
        search = GridSearchCV(
            tiny_image_classifier(callbacks=[trainings]), {"tau": [0.1, 0.6, 1.1]}, cv=2
        ).fit(X, LABELS)
        found[name] = search.cv_results_["mean_test_score"].tolist(), search.predict(X).tolist()
        assert trainings.count == 3 * len(found)
    assert found["paths"] == found["arrays"]


def test_a_pickled_model_holds_no_images(paths):
    of_arrays = tiny_image_classifier(memory=None, random_state=0).fit(PIXELS, LABELS)
    of_paths = tiny_image_classifier(memory=None, random_state=0).fit(paths, LABELS)
    assert abs(len(pickle.dumps(of_paths)) - len(pickle.dumps(of_arrays))) < SIDE * SIDE // 2
    again = pickle.loads(pickle.dumps(of_paths))
    np.testing.assert_array_equal(again.predict_proba(paths), of_paths.predict_proba(paths))


@pytest.mark.usefixtures("_no_memory")
def test_images_are_never_all_in_memory(paths):
    form = image_form(as_images(PIXELS, None))
    for known in (None, form):
        tracemalloc.start()
        as_images(paths, None, known)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * SIDE * SIDE  # of twelve, with what Pillow reads


def test_predictions_decode_each_file_once(paths, monkeypatch):
    model = tiny_image_classifier(memory=None).fit(PIXELS, LABELS)
    read_files = []
    decode = image_paths._decoded

    def counted(path, place):
        read_files.append(path)
        return decode(path, place)

    monkeypatch.setattr(image_paths, "_decoded", counted)
    model.predict(paths)
    assert sorted(read_files) == paths


# ------------------------------------------------------------------------------------- fingerprints


@pytest.mark.usefixtures("_no_memory")
def test_fingerprints_follow_the_content_of_files(paths, tmp_path):
    copies = [tmp_path / f"copy {path.name}" for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    first, again, other = (
        fingerprint(as_images(p, None)) for p in (paths, copies, paths[::-1])
    )  # fmt: skip
    assert first == again != other
    Image.fromarray(255 - PIXELS[0]).save(copies[0])
    assert fingerprint(as_images(copies, None)) != first


def test_a_file_that_changes_its_shape_while_it_is_read_is_refused(tmp_path):
    form = image_form(as_images(PIXELS, None))
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    (image,) = as_images([tmp_path / "a.png"], None, form)
    assert isinstance(image, PathImage)
    Image.fromarray(PIXELS[0][:9]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png', has the shape \(9, 200, 1\) where its header"):
        np.asarray(image)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"X\[0\], the file .*a\.png', cannot be read"):
        np.asarray(image)


# ----------------------------------------------------------------------------------- kinds of files


@pytest.mark.parametrize(
    ("mode", "name", "n_channels"),
    [("L", "a.png", 1), ("LA", "a.png", 2), ("RGB", "a.png", 3), ("RGBA", "a.png", 4),
     ("P", "a.png", 3), ("1", "a.png", 1), ("CMYK", "a.tif", 3), ("YCbCr", "a.tif", 3),
     ("RGB", "a.bmp", 3), ("RGB", "a.webp", 3), ("P", "a.gif", 3), ("L", "a.tif", 1)],
)  # fmt: skip
def test_files_of_every_mode_are_read_as_the_opened_image_is(mode, name, n_channels, tmp_path):
    Image.fromarray(COLOR).convert(mode).save(tmp_path / name, **_lossless(name))
    found = read(tmp_path / name)
    assert found.shape == (6, 4, n_channels)
    assert found.dtype == np.uint8
    with Image.open(tmp_path / name) as opened:
        np.testing.assert_array_equal(found, np.asarray(as_images([opened], None)[0]))


def _lossless(name):
    return {"lossless": True} if name.endswith("webp") else {}


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_fractions_of_65535(name, tmp_path):
    pixels = np.array([[0, 1, 257], [1000, 32768, 65535]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / name)
    found = read(tmp_path / name)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0], pixels / 65535, rtol=1e-6)
    # What a classifier of 8 bits has learned holds for 16 bits.
    eight = image_form(as_images(PIXELS, None))
    (image,) = as_images([tmp_path / name], None, eight)
    np.testing.assert_array_equal(np.asarray(image), found)


def test_training_files_that_use_few_of_their_bits_raise_a_warning(tmp_path):
    dark = RNG.integers(0, 4096, (5, 4), dtype=np.uint16)
    Image.fromarray(dark).save(tmp_path / "a.png")
    with pytest.warns(
        UserWarning, match=r"the brightest is then 0\.06\d?. Such files may use fewer"
    ):
        form = image_form(as_images([tmp_path / "a.png"], None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_images([tmp_path / "a.png"], None, form)
        Image.fromarray(dark * 16).save(tmp_path / "b.png")
        as_images([tmp_path / "a.png", tmp_path / "b.png"], None)


def test_whole_numbers_without_a_scale_are_refused(tmp_path):
    for low, high in ((0, 70_000), (-5, 7)):
        Image.fromarray(np.array([[low, high]], np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=rf"a\.tif', has whole numbers from {low} to {high}"):
            read(tmp_path / "a.tif")


def test_floats_are_read_as_they_are(tmp_path):
    pixels = RNG.normal(size=(5, 4)).astype(np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], pixels)
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif', contains NaN or infinity"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_their_camera_says(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = Image.fromarray(COLOR).resize((64, 48))
    smooth.save(tmp_path / "a.jpg", exif=exif)
    smooth.save(tmp_path / "a.png", exif=exif)
    turned = np.asarray(Image.open(tmp_path / "a.png").transpose(_turn(orientation)) if
                        orientation > 1 else smooth)  # fmt: skip
    assert read(tmp_path / "a.jpg").shape == turned.shape
    np.testing.assert_allclose(read(tmp_path / "a.jpg").mean((0, 2)), turned.mean((0, 2)), atol=8)
    form = image_form(as_images(COLOR[np.newaxis], None))
    (lazy,) = as_images([tmp_path / "a.jpg"], None, form)
    assert lazy.shape == np.asarray(lazy).shape == turned.shape


def _turn(orientation):
    return image_paths._TURNS[orientation]


# ---------------------------------------------------------------------------------- what is refused


def test_what_is_no_image_file_is_refused_by_name(paths, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    cases = {
        tmp_path / "none.png": r"X\[1\] is the path '.*none\.png', where there is no file",
        tmp_path: r"X\[1\] is the folder '.*load_image_folder",
        tmp_path / "notes.png": r"X\[1\], the file '.*notes\.png', is not an image that Pillow",
        "a\0b": r"X\[1\] is ",
        "x" * 5000: r"X\[1\] is ",
    }
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            as_images([paths[0], path], None)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.nii.gz", "a volume; give its slices"), ("a.npy", "numpy.load"), ("a.svs", "cut tiles"),
     ("a.csv", "load_image_csv"), ("a.h5", "a container of arrays")],
)  # fmt: skip
def test_files_of_other_kinds_are_refused_with_what_can_be_done(name, hint, tmp_path):
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(ValueError, match=hint):
        as_images([tmp_path / name], None)


def test_damaged_files_are_found_before_the_training(paths, tmp_path):
    damaged = tmp_path / "cut.png"
    damaged.write_bytes(paths[3].read_bytes()[:5000])
    given = [*paths[:3], damaged, *paths[4:]]
    model = tiny_image_classifier(memory=None)
    with pytest.raises(ValueError, match=r"X\[3\], the file '.*cut\.png', cannot be decoded"):
        model.fit(given, LABELS)
    assert not hasattr(model, "classes_")
    model.fit(paths, LABELS)
    with pytest.raises(ValueError, match=r"X\[3\], the file '.*cut\.png', cannot be decoded"):
        model.predict(given)


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_films_and_volumes_are_refused(name, tmp_path):
    frames = [Image.fromarray(pixels[:8, :8]) for pixels in PIXELS[:3]]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"{name}', holds 3 frames .* give them as arrays"):
        as_images([tmp_path / name], None)


def test_a_file_with_other_channels_is_named(paths, tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "color.png")
    message = r"X\[2\], the file '.*color\.png', has 3 channels where the first image has 1"
    with pytest.raises(ValueError, match=message):
        as_images([*paths[:2], tmp_path / "color.png"], None)
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    with pytest.raises(ValueError, match=r"lab\.tif', has the mode 'LAB'"):
        as_images([tmp_path / "lab.tif"], None)
