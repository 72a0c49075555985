"""Texts with images, of which one may be missing: forms that are read, and refusals by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_epee._checks.missing import is_missing_cell
from sklearn_epee._checks.texts_with_images import as_cases, check_both_kinds

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def read(X):
    return as_cases(X, "text", "image")


def test_pairs_in_lists_and_arrays():
    rows = [("a", GREY), ["b", None], (None, GREY), ("", GREY), ("d", np.nan)]
    array = np.empty((len(rows), 2), dtype=object)
    for i, (text, image) in enumerate(rows):
        array[i, 0], array[i, 1] = text, image
    for X in (rows, tuple(rows), array):
        found = read(X)
        assert [text for text, _ in found] == ["a", "b", None, None, "d"]
        assert [image is None for _, image in found] == [False, True, False, False, True]
        assert found[0][1].shape == (8, 8, 1)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_give_the_texts_and_images_of_two_columns(library, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    frame = pytest.importorskip(library).DataFrame(
        {"n": [1, 2, 3], "note": ["a", None, "c"], "scan": [str(path), str(path), None]}
    )
    found = as_cases(frame, "note", "scan")
    assert [text for text, _ in found] == ["a", None, "c"]
    assert found[2][1] is None
    np.testing.assert_array_equal(np.asarray(found[0][1])[..., 0], GREY)


def test_pil_images_and_paths(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    for image in (GREY, Image.fromarray(GREY), path, str(path)):
        ((_, found),) = read([("a", image)])
        np.testing.assert_array_equal(np.asarray(found)[..., 0], GREY)


def test_missing_cells_are_recognized():
    pandas = pytest.importorskip("pandas")
    for value in (None, np.nan, float("nan"), np.float32("nan"), pandas.NA, pandas.NaT):
        assert is_missing_cell(value)
    for value in ("", "nan", 0, 0.0, GREY, Path("a"), False):
        assert not is_missing_cell(value)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, r"0 sample\(s\)"),
        ("text", TypeError, "X is of type str"),
        ({"a": 1}, TypeError, "X is of type dict"),
        (3, TypeError, "X is of type int"),
        (np.zeros((3, 2)), TypeError, r"shape \(3, 2\) and type float64"),
        ([("a", GREY), (None, None)], ValueError, r"X\[1\] has neither a text nor an image"),
        ([("a", GREY), ("  ", np.nan)], ValueError, r"X\[1\] has neither"),
        ([("a", GREY), "b"], TypeError, r"X\[1\] is 'b' of type str, not a pair"),
        ([("a", GREY), ("b",)], TypeError, r"X\[1\] is .* not a pair"),
        (
            [("a", GREY), (GREY, "b")],
            TypeError,
            r"The text of X\[1\] is of type ndarray; expected a str",
        ),
        ([("a", GREY), (7, GREY)], TypeError, r"The text of X\[1\] is of type int"),
        ([("a", None), ("b", None), ("c", 7)], TypeError, r"X\[2\] is 7 of type int, not an image"),
        ([("a", None), ("b", "none.png")], ValueError, r"X\[1\] is the path 'none.png', where"),
        ([("a", None), ("b", GREY.astype(float) * np.nan)], ValueError, r"X\[1\] contains NaN"),
        ([("a\udc80", GREY)], ValueError, r"the text of X\[0\] is .* not valid Unicode"),
    ],
)
def test_refusals_name_the_row(X, error, message):
    with pytest.raises(error, match=message):
        read(X)


def test_files_that_are_no_images_are_named_with_their_row(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"X\[2\], the file '.*a.png', is not an image"):
        read([("a", None), ("b", GREY), ("c", str(path))])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_without_the_columns(library):
    frame = pytest.importorskip(library).DataFrame({"text": ["a"], "scan": ["b"]})
    with pytest.raises(ValueError, match=r"image_column='image' is not a column of X, which has"):
        read(frame)
    with pytest.raises(ValueError, match="text_column='note' is not a column"):
        as_cases(frame, "note", "scan")


@pytest.mark.parametrize(("cases", "name"), [([("a", None)], "image"), ([(None, GREY)], "text")])
def test_training_needs_some_of_both(cases, name):
    with pytest.raises(ValueError, match=f"X has no {name} in any of its 1 rows"):
        check_both_kinds(cases, "EPEEMultimodalClassifier")
