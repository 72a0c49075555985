"""Lists of image files: one folder per class, and tables of paths."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_epee.datasets import load_breastmnist, load_image_csv, load_image_folder
from tests.classifiers import tiny_image_classifier

RNG = np.random.default_rng(0)
NAMES = ["benign/p1_a.png", "benign/p2.PNG", "benign/deep/p1.jpg", "malignant/p3.tif"]


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "images"
    for name in NAMES:
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)).save(found / name)
    for name in ("benign/Thumbs.db", "benign/.hidden.png", "notes.txt"):
        (found / name).write_bytes(b"no image")
    (found / ".cache").mkdir()
    return found


def names(found, folder):
    return [Path(path).relative_to(folder).as_posix() for path in found]


def test_folders_are_classes_and_files_are_in_order(folder):
    found = load_image_folder(folder)
    assert names(found.data, folder) == sorted(NAMES)
    assert found.target.tolist() == ["benign"] * 3 + ["malignant"]
    assert found.target_names.tolist() == ["benign", "malignant"]
    assert found.groups is found.frame is None
    X, y = load_image_folder(str(folder), return_X_y=True)
    assert list(X) == found.data
    assert y.tolist() == found.target.tolist()


def test_groups_by_pattern_and_by_function(folder):
    found = load_image_folder(folder, groups=r"(p\d)[^/]*$")
    assert found.groups.tolist() == ["p1", "p1", "p2", "p3"]
    assert load_image_folder(folder, groups=r"p\d").groups.tolist() == ["p1", "p1", "p2", "p3"]
    assert load_image_folder(folder, groups=len).groups.tolist() == [len(n) for n in sorted(NAMES)]
    framed = load_image_folder(folder, groups=r"p\d", as_frame=True)
    assert list(framed.frame.columns) == ["path", "label", "group"]
    assert framed.data.tolist() == load_image_folder(folder).data


def test_folders_that_are_none_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no folder .*nowhere"):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no folders in it; expected one per class"):
        load_image_folder(folder / "malignant")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' holds no file that ends in \.png"):
        load_image_folder(folder)
    (folder / "empty").rmdir()
    with pytest.raises(ValueError, match=r"groups='q' does not match the path 'benign/deep/p1.jpg"):
        load_image_folder(folder, groups="q")
    with pytest.raises(ValueError, match=r"groups='\(' is not a regular expression"):
        load_image_folder(folder, groups="(")
    assert len(load_image_folder(folder, suffixes=[""]).data) == 5  # with Thumbs.db


def test_tables_of_paths(folder):
    table = folder / "table.csv"
    lines = ["path,label,patient,a,b"] + [
        f"{n},x{i % 2},{i},0,{i % 2}" for i, n in enumerate(NAMES)
    ]
    table.write_text("\n".join(lines))
    found = load_image_csv(table, groups="patient")
    assert names(found.data, folder) == NAMES
    assert found.target.tolist() == ["x0", "x1", "x0", "x1"]
    assert found.groups.tolist() == ["0", "1", "2", "3"]
    several = load_image_csv(table, label=["a", "b"], as_frame=True)
    assert several.target.to_numpy().tolist() == [[0, 0], [0, 1], [0, 0], [0, 1]]
    assert several.target_names.tolist() == ["a", "b"]
    assert load_image_csv(table, label=None).target is None
    elsewhere = folder.parent / "table.tsv"
    elsewhere.write_text("file\tlabel\n" + "\n".join(f"{name}\tx" for name in NAMES))
    assert load_image_csv(elsewhere, image="file", root=folder).data == found.data
    with pytest.raises(FileNotFoundError, match=r"table\.tsv, line 2: there is no file .* as root"):
        load_image_csv(elsewhere, image="file")
    with pytest.raises(ValueError, match="has no column 'path'"):
        load_image_csv(elsewhere)


def test_a_classifier_learns_from_listed_files(folder):
    found = load_image_folder(folder, groups=r"p\d")
    model = tiny_image_classifier(memory=None).fit(found.data, found.target, groups=found.groups)
    arrays = [np.asarray(Image.open(path)) for path in found.data]
    np.testing.assert_array_equal(model.predict_proba(found.data), model.predict_proba(arrays))
    framed = load_image_folder(folder, as_frame=True)
    np.testing.assert_array_equal(model.predict(framed.data), model.predict(arrays))


@pytest.mark.realdata
@pytest.mark.skipif(
    not os.environ.get("SKLEARN_EPEE_DATA"),
    reason="SKLEARN_EPEE_DATA does not name a folder of data",
)
def test_real_images_as_files_of_every_kind_are_the_arrays(tmp_path):
    files = pytest.importorskip("benchmarks.image_files", exc_type=ImportError)
    X, y = load_breastmnist(subset="val", return_X_y=True)
    model = tiny_image_classifier(memory=None).fit(X, y)
    expected = model.predict_proba(X)
    for kind, write in files.WRITERS.items():
        paths, labels = files.written(tmp_path / kind, X, y, write)
        assert len(set(labels)) == 2
        np.testing.assert_allclose(model.predict_proba(paths), expected, atol=1e-5)
        if "16" not in kind:
            np.testing.assert_array_equal(model.predict_proba(paths), expected)
