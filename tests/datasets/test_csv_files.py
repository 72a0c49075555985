"""Texts from CSV and TSV files and from frames, by the names of columns."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sklearn_epee.datasets import load_csv

CONTENT = (
    'id,note,icu,patient,a,b\n1,"stable, eating",no,7,0,1\n2,"two\nlines",yes,8,1,1\n3,,no,7,0,0\n'
)
TEXTS = ["stable, eating", "two\nlines", ""]


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text(CONTENT)
    return path


def test_columns_are_taken_by_name(notes):
    found = load_csv(notes, text="note", label="icu", groups="patient")
    assert found.data == TEXTS
    assert found.target.tolist() == ["no", "yes", "no"]
    assert found.target_names.tolist() == ["no", "yes"]
    assert found.groups.tolist() == ["7", "8", "7"]
    X, y = load_csv(str(notes), text="note", label="icu", return_X_y=True)
    assert X == TEXTS
    assert y.tolist() == ["no", "yes", "no"]
    unlabelled = load_csv(notes, text="note", label=None)
    assert unlabelled.target is unlabelled.target_names is unlabelled.groups is None


def test_several_labels_and_pairs_of_texts(notes):
    found = load_csv(notes, text=["note", "icu"], label=["a", "b"])
    assert found.data[0] == ("stable, eating", "no")
    assert found.target.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert found.target.dtype.kind == "i"
    assert found.target_names.tolist() == ["a", "b"]
    tasks = load_csv(notes, text="note", label=["a", "icu"])
    assert tasks.target.tolist() == [["0", "no"], ["1", "yes"], ["0", "no"]]


def test_frames_give_what_files_give(notes):
    for frame in (pd.read_csv(notes, keep_default_na=False), pl.read_csv(notes)):
        found = load_csv(frame, text="icu", label="a", groups="patient")
        assert found.data == ["no", "yes", "no"]
        assert found.target.tolist() == [0, 1, 0]
        assert found.groups.tolist() == [7, 8, 7]
    framed = load_csv(notes, text="note", label=["a", "b"], as_frame=True)
    assert list(framed.frame.columns) == ["note", "a", "b"]
    assert framed.data.tolist() == TEXTS
    assert framed.target.to_numpy().tolist() == [[0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_what_a_frame_lacks_is_no_label_and_no_group(missing):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "p": ["1", "2", "2"]})
    for column, parameters in [("label", {}), ("p", {"groups": "p"})]:
        lacking = frame.astype(object)
        lacking.loc[1, column] = missing
        with pytest.raises(ValueError, match=rf"row 1 of the frame: the .* '{column}' is missing"):
            load_csv(lacking, **parameters)
        with pytest.raises(ValueError, match="row 1 of the frame"):
            load_csv(lacking, label=["label", "p"])
    indicator = pd.DataFrame({"text": ["a", "b"], "l1": [0.0, np.nan], "l2": [1.0, 1.0]})
    found = load_csv(indicator, label=["l1", "l2"]).target
    assert found[0].tolist() == [0, 1]
    assert np.isnan(found[1, 0])


def test_labels_of_a_frame_keep_their_types():
    frame = pd.DataFrame({"text": ["a", "b"], "use": ["yes", "no"], "grade": [1, 2]})
    both = load_csv(frame, label=["use", "grade"]).target
    assert both.tolist() == [["yes", 1], ["no", 2]]
    framed = load_csv(frame, label=["use", "grade"], as_frame=True).target
    assert framed["grade"].tolist() == [1, 2]
    mixed = pd.DataFrame({"text": ["a", "b"], "label": ["yes", 1]})
    with pytest.raises(ValueError, match=r"the column 'label' mixes \['int', 'str'\]"):
        load_csv(mixed)


@pytest.mark.parametrize(
    ("name", "content", "parameters"),
    [
        ("a.tsv", "text\tlabel\nx, y\tz\n", {}),
        ("a.csv", "text;label\nx, y;z\n", {"delimiter": ";"}),
        ("a.csv", '\ufefftext,label\n"x, y",z\n', {}),
        ("a.csv.gz", gzip.compress(b'text,label\r\n"x, y",z\r\n', mtime=0), {}),
        ("a.tsv.gz", gzip.compress(b"text\tlabel\nx, y\tz\n", mtime=0), {}),
        ("a.csv", 'text,label\n"x, y",z\n'.encode("utf-16"), {"encoding": "utf-16"}),
    ],
)
def test_delimiters_encodings_and_compression(tmp_path, name, content, parameters):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = load_csv(path, **parameters)
    assert (found.data, found.target.tolist()) == (["x, y"], ["z"])


def test_long_notes_are_read_and_the_limit_of_csv_stays(tmp_path):
    before = csv.field_size_limit()
    note = "word " * 100_000
    (tmp_path / "a.csv").write_text(f"text,label\n{note},a\n")
    assert load_csv(tmp_path / "a.csv").data == [note]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "parameters", "message"),
    [
        ("text;label\na;b\n", {}, r"has no column 'text'.*delimiter=';'"),
        ("text,label\na,b\n", {"text": "note"}, r"no column 'note'; got .*'text', 'label'"),
        ("text,text,label\na,b,c\n", {}, "the column 'text' several times"),
        ("text,label\na,b\nc\n", {}, r"a\.csv, line 3: expected 2 fields.*got 1"),
        ('text,label\na,b\n"c\n', {}, r"a\.csv, line 3: no valid CSV"),
        ("text,label\n", {}, "must have at least one row"),
        ("", {}, r"has no column 'text'; got the columns \[\]"),
        ('text,label\n"a\nb",x\nc,\n', {}, r"a\.csv, line 4: the label 'label' is empty"),
        ("text,label,p\na,b, \n", {"groups": "p"}, r"a\.csv, line 2: the group 'p' is empty"),
        ("text,label\né,b\n".encode("latin-1"), {}, "not in the encoding 'utf-8'.*'latin-1'"),
        ("text,label\na,b\n", {"encoding": "klingon"}, "encoding='klingon' is not known"),
        ("text,label\na,b\n", {"text": ["a", "b", "c"]}, "text must name one or two columns"),
        ("text,label\na,b\n", {"label": []}, "label must name one or more columns"),
        ("text,label\na,b\n", {"label": ["a", "a"]}, "label must name one or more columns"),
        ("text,label\na,b\n", {"as_frame": 3}, "'as_frame' parameter"),
    ],
)
def test_refusals_name_the_file_and_the_line(tmp_path, content, parameters, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_csv(path, **parameters)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*nowhere\.csv"):
        load_csv(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_csv("x" * 5000)
    with pytest.raises(FileNotFoundError, match=r"there is no file '~nobody/a\.csv'"):
        load_csv("~nobody/a.csv")
    with pytest.raises(TypeError, match="path must be a path or a frame; got list"):
        load_csv([["a", "b"]])
    with pytest.raises(ValueError, match=r"the frame has no columns \['text'\]"):
        load_csv(pd.DataFrame({"label": ["a"]}))
    (tmp_path / "a.csv.gz").write_bytes(b"text,label\na,b\n")
    with pytest.raises(ValueError, match="not a gzip file"):
        load_csv(tmp_path / "a.csv.gz")


def test_damaged_bytes_are_read_or_refused_with_the_name_of_the_file(tmp_path):
    path, rng = tmp_path / "a.csv.gz", np.random.default_rng(0)
    whole = gzip.compress(CONTENT.encode())
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            load_csv(path, text="note", label="icu")
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
