"""The loaders against small files, whole and broken."""

import csv
import gzip
import inspect
import io
import re
import sys

import numpy as np
import pytest

from sklearn_epee import datasets
from sklearn_epee.datasets import (
    load_breastmnist,
    load_ddi2013,
    load_git,
    load_health_advice,
    load_pathmnist_subset,
    load_phee,
    load_pneumoniamnist,
)

LOADERS = [
    load_ddi2013,
    load_git,
    load_health_advice,
    load_phee,
    load_breastmnist,
    load_pathmnist_subset,
    load_pneumoniamnist,
]
HEADER = ["text", "label", "section", "pmid"]
ROWS = {
    "train": [
        ["Eat, and be merry.", "none", "discussion", "1"],
        ['Take "vitamin D"\nevery day — ½ tablet.', "strong", "discussion", "2"],
    ],
    "dev": [["None", "none", "structured_abstract", "007"]],
    "test": [["NA", "weak", "structured_abstract", "4"], ["", "none", "discussion", "5"]],
}


def write_csv(path, rows, header=HEADER):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([header, *rows])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(buffer.getvalue().encode()))


@pytest.fixture
def text_home(tmp_path):
    for subset, rows in ROWS.items():
        write_csv(tmp_path / "health_advice" / f"{subset}.csv.gz", rows)
    return tmp_path


def image_arrays(shape=(28, 28)):
    arrays = {}
    for prefix, n in {"train": 5, "val": 2, "test": 3}.items():
        generator = np.random.RandomState(n)
        arrays[f"{prefix}_images"] = generator.randint(256, size=(n, *shape)).astype(np.uint8)
        arrays[f"{prefix}_labels"] = generator.randint(2, size=(n, 1)).astype(np.uint8)
    return arrays


def write_npz(home, arrays, name="breastmnist"):
    (home / "medmnist").mkdir(exist_ok=True)
    np.savez(home / "medmnist" / f"{name}.npz", **arrays)
    return home


# Texts


@pytest.mark.parametrize("subset", ROWS)
def test_texts_and_labels_come_as_they_are_in_the_file(text_home, subset):
    bunch = load_health_advice(subset=subset, data_home=text_home)
    assert bunch.data == [row[0] for row in ROWS[subset]]
    assert bunch.target.tolist() == [row[1] for row in ROWS[subset]]
    assert bunch.target_names.tolist() == ["none", "strong", "weak"]
    assert bunch.frame is None


def test_train_is_the_default_and_all_joins_the_parts(text_home):
    assert load_health_advice(data_home=text_home).data == [row[0] for row in ROWS["train"]]
    X, y = load_health_advice(subset="all", data_home=text_home, return_X_y=True)
    assert len(X) == 5
    assert [row[0] for rows in ROWS.values() for row in rows] == X
    assert y.tolist() == ["none", "strong", "none", "weak", "none"]


def test_frame_keeps_strings_that_look_like_missing_values_or_numbers(text_home):
    bunch = load_health_advice(subset="all", data_home=text_home, as_frame=True)
    assert list(bunch.frame.columns) == HEADER
    assert bunch.frame["text"].tolist()[2:] == ["None", "NA", ""]
    assert bunch.frame["pmid"].tolist()[2] == "007"
    assert bunch.data.name == "text"
    assert bunch.target.name == "label"
    X, y = load_health_advice(data_home=text_home, as_frame=True, return_X_y=True)
    assert X.tolist() == [row[0] for row in ROWS["train"]]
    assert y.tolist() == ["none", "strong"]


def test_columns_beyond_those_expected_are_kept(text_home):
    rows = [[*row, "more"] for row in ROWS["dev"]]
    write_csv(text_home / "health_advice" / "dev.csv.gz", rows, [*HEADER, "note"])
    frame = load_health_advice(subset="dev", data_home=text_home, as_frame=True).frame
    assert frame["note"].tolist() == ["more"]
    # One part alone has it, so that the parts together do not.
    frame = load_health_advice(subset="all", data_home=text_home, as_frame=True).frame
    assert list(frame.columns) == HEADER


def test_data_home_from_the_environment(text_home, monkeypatch):
    monkeypatch.setenv("SKLEARN_EPEE_DATA", str(text_home))
    assert len(load_health_advice().data) == 2


def test_data_home_wins_over_the_environment(text_home, monkeypatch, tmp_path):
    monkeypatch.setenv("SKLEARN_EPEE_DATA", str(tmp_path / "elsewhere"))
    assert len(load_health_advice(data_home=str(text_home)).data) == 2


def test_arrays_do_not_need_pandas(text_home, monkeypatch):
    write_npz(text_home, image_arrays())
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert len(load_health_advice(data_home=text_home).data) == 2
    assert len(load_breastmnist(data_home=text_home).data) == 5
    with pytest.raises(ImportError, match=r"load_health_advice with as_frame=True.*pandas"):
        load_health_advice(data_home=text_home, as_frame=True)
    with pytest.raises(ImportError, match=r"load_breastmnist with as_frame=True.*pandas"):
        load_breastmnist(data_home=text_home, as_frame=True)


# Images


def test_images_come_with_class_names(tmp_path):
    arrays = image_arrays()
    bunch = load_breastmnist(data_home=write_npz(tmp_path, arrays))
    assert np.array_equal(bunch.data, arrays["train_images"])
    names = np.array(["malignant", "normal, benign"])
    assert bunch.target.tolist() == names[arrays["train_labels"][:, 0]].tolist()
    assert bunch.target_names.tolist() == names.tolist()


def test_dev_is_the_validation_part_of_medmnist(tmp_path):
    arrays = image_arrays()
    X, _ = load_breastmnist(subset="dev", data_home=write_npz(tmp_path, arrays), return_X_y=True)
    assert np.array_equal(X, arrays["val_images"])


def test_all_images_are_train_dev_and_test(tmp_path):
    arrays = image_arrays((28, 28, 3))
    home = write_npz(tmp_path, arrays, "pathmnist_subset")
    X, y = load_pathmnist_subset(subset="all", data_home=home, return_X_y=True)
    expected = [arrays[f"{prefix}_images"] for prefix in ("train", "val", "test")]
    assert np.array_equal(X, np.concatenate(expected))
    assert set(y) <= {"adipose", "background"}


def test_frame_of_images_is_flat(tmp_path):
    arrays = image_arrays((28, 28, 3))
    home = write_npz(tmp_path, arrays, "pathmnist_subset")
    bunch = load_pathmnist_subset(data_home=home, as_frame=True)
    assert bunch.frame.shape == (5, 28 * 28 * 3 + 1)
    assert list(bunch.data.columns[:2]) == ["pixel_0_0_0", "pixel_0_0_1"]
    assert bunch.data.columns[-1] == "pixel_27_27_2"
    assert np.array_equal(bunch.data.to_numpy(), arrays["train_images"].reshape(5, -1))
    assert bunch.frame["label"].tolist() == bunch.target.tolist()


def test_a_part_that_is_not_loaded_may_be_missing(tmp_path):
    arrays = image_arrays()
    del arrays["test_images"], arrays["test_labels"]
    write_npz(tmp_path, arrays)
    assert len(load_breastmnist(subset="train", data_home=tmp_path).data) == 5


# Refusals


@pytest.mark.parametrize("load", LOADERS)
def test_refuses_parameters_out_of_range(load, tmp_path):
    with pytest.raises(ValueError, match=r"'subset' parameter .* Got 'validation'"):
        load(subset="validation", data_home=tmp_path)
    with pytest.raises(ValueError, match=r"'data_home' parameter .* Got 3"):
        load(data_home=3)
    with pytest.raises(ValueError, match=r"'as_frame' parameter .* Got 'pandas'"):
        load(data_home=tmp_path, as_frame="pandas")
    with pytest.raises(TypeError, match="positional"):
        load("train")


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("load", LOADERS)
def test_says_what_to_set_where_nothing_is(load, value, monkeypatch):
    if value is None:
        monkeypatch.delenv("SKLEARN_EPEE_DATA", raising=False)
    else:
        monkeypatch.setenv("SKLEARN_EPEE_DATA", value)
    with pytest.raises(ValueError, match=r"data_home is None and .* SKLEARN_EPEE_DATA is not set"):
        load()


@pytest.mark.parametrize("load", LOADERS)
def test_says_which_folder_does_not_exist(load, tmp_path, monkeypatch):
    folder = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=r"data_home must be an existing .*nowhere'.*npz"):
        load(data_home=folder)
    monkeypatch.setenv("SKLEARN_EPEE_DATA", str(folder))
    message = r"data_home \(from the environment variable SKLEARN_EPEE_DATA\) .*nowhere'"
    with pytest.raises(FileNotFoundError, match=message):
        load()


@pytest.mark.parametrize("load", LOADERS)
def test_says_which_file_does_not_exist_and_what_is_expected(load, tmp_path):
    name = load.__name__.removeprefix("load_")
    with pytest.raises(FileNotFoundError, match=rf"no file '[^']*{name}[^']*'.*train\.csv\.gz"):
        load(data_home=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label,section,pmid\n", "gzip-compressed UTF-8 CSV"),
        (
            b"",
            r"must have the columns \['text', 'label', 'section', 'pmid'\]; got the columns \[\]",
        ),
        (gzip.compress(b"text,label,section,pmid\na,none,b,1\n")[:-9], "gzip-compressed UTF-8 CSV"),
        (
            gzip.compress("text,label,section,pmid\né,none,b,1\n".encode("latin-1")),
            "gzip-compressed UTF-8 CSV",
        ),
        (gzip.compress(b'text,label,section,pmid\n"a'), "gzip-compressed UTF-8 CSV"),
        (
            gzip.compress(b"text,pmid,x\na,1,b\n"),
            r"must have the columns \['label', 'section'\]; got .* \['text', 'pmid', 'x'\]",
        ),
        (
            gzip.compress(b"text,label,section,pmid\na,none,b,1\na,none,b\n"),
            "must have 4 fields in each row, as in its header; got 3 in row 2",
        ),
        (
            gzip.compress(b"text,label,section,pmid\n"),
            "must have at least one row below its header; got none",
        ),
        (
            gzip.compress(b"text,label,section,pmid\na,none,b,1\nc,2,d,2\n"),
            r"must have labels among \['none', 'strong', 'weak'\]; got also \['2'\]",
        ),
        (
            gzip.compress(b"text,text,label,section,pmid\na,b,none,x,1\n"),
            r"must have every column once; got \['text'\] several times",
        ),
        (
            gzip.compress(b"text,label,label,section,pmid,pmid\na,none,weak,x,1,1\n"),
            r"must have every column once; got \['label', 'pmid'\] several times",
        ),
    ],
    ids=[
        "plain",
        "empty",
        "truncated",
        "latin-1",
        "open-quote",
        "missing-columns",
        "short-row",
        "no-rows",
        "unknown-label",
        "two-columns-of-texts",
        "two-columns-of-labels",
    ],
)
def test_refuses_text_files_that_do_not_fit(text_home, content, message):
    path = text_home / "health_advice" / "train.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_health_advice(data_home=text_home)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_images": None},
            r"must have the keys \['train_images'\]; got the keys \['test_images', .*\]",
        ),
        (
            {"train_images": np.zeros((5, 32, 32), np.uint8)},
            r"train_images must be uint8 of shape \(n, 28, 28\); got uint8 of shape \(5, 32, 32\)",
        ),
        (
            {"train_images": np.zeros((5, 28, 28, 3), np.uint8)},
            r"train_images must be .* got uint8 of shape \(5, 28, 28, 3\)",
        ),
        (
            {"train_images": np.zeros((5, 28, 28))},
            r"train_images must be uint8 .* got float64 of shape \(5, 28, 28\)",
        ),
        (
            {"train_images": np.zeros((0, 28, 28), np.uint8)},
            r"train_images must hold at least one image; got none",
        ),
        (
            {"train_labels": np.zeros((4, 1), np.uint8)},
            r"train_labels must be integers of shape \(5, 1\), .* got uint8 of shape \(4, 1\)",
        ),
        (
            {"train_labels": np.zeros((5, 2), np.uint8)},
            r"train_labels must be integers of shape \(5, 1\), .* got uint8 of shape \(5, 2\)",
        ),
        (
            {"train_labels": np.zeros((5, 1))},
            r"train_labels must be integers .* got float64 of shape \(5, 1\)",
        ),
        ({"train_labels": np.full((5, 1), 2)}, r"train_labels must be in 0\.\.1; got 2\.\.2"),
        ({"train_labels": np.full((5, 1), -1)}, r"train_labels must be in 0\.\.1; got -1\.\.-1"),
        (
            {"train_labels": np.array([["a"]] * 5, dtype=object)},
            r"must be a NumPy \.npz file of plain arrays; .*pickle",
        ),
    ],
)
def test_refuses_image_files_that_do_not_fit(tmp_path, change, message):
    arrays = image_arrays() | change
    write_npz(tmp_path, {key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message) as caught:
        load_breastmnist(data_home=tmp_path)
    assert "breastmnist.npz" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04 broken"],
    ids=["empty", "text", "broken"],
)
def test_refuses_image_files_that_are_no_archive(tmp_path, content):
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist" / "breastmnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"breastmnist\.npz must be a NumPy \.npz file"):
        load_breastmnist(data_home=tmp_path)


def test_refuses_a_single_array_under_the_name_of_an_archive(tmp_path):
    (tmp_path / "medmnist").mkdir()
    with (tmp_path / "medmnist" / "breastmnist.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"must have the keys .* got the keys \[\]"):
        load_breastmnist(data_home=tmp_path)


@pytest.mark.parametrize("load", LOADERS)
def test_a_folder_with_a_name_that_is_too_long_does_not_exist(load):
    with pytest.raises(FileNotFoundError, match=r"data_home must be an existing folder; got 'xxx"):
        load(data_home="x" * 300)


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.parametrize("kind", ["texts", "images"])
def test_damaged_bytes_are_read_or_refused_with_the_name_of_the_file(text_home, kind):
    if kind == "texts":
        path, load = text_home / "health_advice" / "train.csv.gz", load_health_advice
    else:
        path, load = text_home / "medmnist" / "breastmnist.npz", load_breastmnist
        path.parent.mkdir()
        np.savez_compressed(path, **image_arrays())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8)[: rng.integers(len(whole) // 2, len(whole) + 1)]
        damaged = damaged.copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            load(data_home=text_home)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017
    assert refused > 100


@pytest.mark.parametrize("section", ["Parameters", "Raises"])
@pytest.mark.parametrize("loaders", [LOADERS[:4], LOADERS[4:]], ids=["texts", "images"])
def test_loaders_are_documented_in_the_same_words(loaders, section):
    def words(load):
        doc = inspect.getdoc(load).replace(load.__name__.removeprefix("load_"), "NAME")
        return re.search(rf"^{section}\n-+\n(.*?)\n\n\w+\n-", doc, re.M | re.S)[1].split()

    first, *others = (words(load) for load in loaders)
    assert all(other == first for other in others)


def test_names_are_exported():
    assert datasets.__all__ == sorted(datasets.__all__)
    assert {load.__name__ for load in LOADERS} < set(datasets.__all__)
