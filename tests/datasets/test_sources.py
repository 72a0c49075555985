"""Sets from the files of their sources, in the forms that these have."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import sys
import zipfile
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from sklearn_epee import EntityMarker, datasets
from sklearn_epee.datasets import (
    _phee,
    fetch_medmnist,
    load_ddi2013,
    load_drug_reviews,
    load_git,
    load_health_advice,
    load_medmnist,
    load_phee,
    read_ddi_xml,
)
from sklearn_epee.datasets._source import first_spans, marked

needs_data = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not os.environ.get("SKLEARN_EPEE_DATA"),
        reason="SKLEARN_EPEE_DATA does not name a folder of data",
    ),
]
PARTS = ("train", "dev", "test")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# ---------------------------------------------------------------------------------------------- DDI


def ddi_document(name, n_sentences=2, related="true"):
    sentences = "".join(
        f'<sentence id="{name}.s{i}" text="Aspirin and loop or thiazide diuretics.">'
        f'<entity id="{name}.s{i}.e0" charOffset="0-6" type="drug" text="Aspirin"/>'
        f'<entity id="{name}.s{i}.e1" charOffset="12-15;29-37" type="group" text="loop diuretics"/>'
        f'<pair id="{name}.s{i}.p0" e1="{name}.s{i}.e0" e2="{name}.s{i}.e1" ddi="{related}"'
        f"{' type=' + chr(34) + 'effect' + chr(34) if related == 'true' else ''}/></sentence>"
        for i in range(n_sentences)
    )
    return f'<document id="{name}">{sentences}</document>'


@pytest.fixture
def ddi_folder(tmp_path):
    folder = tmp_path / "ddi2013"
    for i in range(20):
        related = "true" if i % 2 else "false"
        document = ddi_document(f"DDI-DrugBank.d{i}", related=related)
        write(folder / "Train" / "DrugBank" / f"{i:02}.xml", document)
    test = folder / "Test" / "Test for DDI Extraction task" / "MedLine"
    write(test / "a.xml", ddi_document("DDI-MedLine.d7"))
    ner = folder / "Test" / "Test for DrugNER task" / "MedLine" / "b.xml"
    write(ner, ddi_document("DDI-MedLine.d8"))
    return folder


def test_ddi_from_folders_and_from_the_archive(ddi_folder, tmp_path):
    train, dev, test = (load_ddi2013(subset=part, data_home=tmp_path) for part in PARTS)
    assert test.data == [
        "[E1] Aspirin [/E1] and [E2] loop or thiazide diuretics [/E2]."
    ] * 2  # fmt: skip
    assert test.groups.tolist() == ["DDI-MedLine.d7"] * 2
    assert len(train.data) + len(dev.data) == 40
    assert len(dev.data) == 4
    assert not set(train.groups) & set(dev.groups)
    frame = load_ddi2013(subset="test", data_home=tmp_path, as_frame=True).frame
    assert frame["entity2"].tolist() == ["loop diuretics"] * 2
    assert frame["src"].tolist() == ["MedLine"] * 2
    assert frame["id"].tolist() == ["DDI-MedLine.d7.s0.p0", "DDI-MedLine.d7.s1.p0"]
    home = tmp_path / "other"
    (home / "ddi2013").mkdir(parents=True)
    with zipfile.ZipFile(home / "ddi2013" / "DDICorpus-2013.zip", "w") as archive:
        for file in sorted(ddi_folder.rglob("*.xml")):
            archive.write(file, f"DDICorpus/{file.relative_to(ddi_folder)}")
    for part, expected in zip(PARTS, (train, dev, test), strict=True):
        found = load_ddi2013(subset=part, data_home=home)
        assert found.data == expected.data
        assert found.target.tolist() == expected.target.tolist()
    assert load_ddi2013(subset="all", data_home=home).data == train.data + dev.data + test.data


def test_files_that_are_not_those_of_ddi_are_refused(ddi_folder, tmp_path):
    write(ddi_folder / "Train" / "DrugBank" / "00.xml", "<document id='a'>")
    with pytest.raises(ValueError, match=r"00\.xml, line 1: no well-formed XML"):
        load_ddi2013(data_home=tmp_path)
    write(ddi_folder / "Train" / "DrugBank" / "00.xml", ddi_document("x").replace("effect", "odd"))
    with pytest.raises(ValueError, match=r"ddi2013 must have labels among .*; got also \['odd'\]"):
        load_ddi2013(subset="all", data_home=tmp_path)
    message = r"no file 'ddi2013/train\.csv\.gz'.*DDICorpus-2013\.zip.*github\.com/isegura"
    with pytest.raises(FileNotFoundError, match=message):
        load_ddi2013(data_home=tmp_path / "ddi2013")


class TestReal:
    pytestmark = needs_data

    @pytest.mark.slow
    def test_ddi_as_xml_gives_the_rows_of_the_layout(self, tmp_path):
        """Write the corpus as its source has it; dev is found again."""
        frames = {part: load_ddi2013(subset=part, as_frame=True).frame for part in PARTS}
        documents = {}
        for part, frame in frames.items():
            for row in frame.to_dict("records"):
                name = ".".join(row["id"].split(".")[:2])
                documents.setdefault((part == "test", name), []).append(row)
        with zipfile.ZipFile(_made(tmp_path / "ddi2013") / "DDICorpus-2013.zip", "w") as archive:
            for number, ((is_test, name), rows) in enumerate(documents.items()):
                folder = "Test/Test for DDI Extraction task" if is_test else "Train"
                archive.writestr(f"DDICorpus/{folder}/{number:05}.xml", _as_ddi_xml(name, rows))
        for part, expected in frames.items():
            found = load_ddi2013(subset=part, data_home=tmp_path, as_frame=True).frame
            columns = ["text", "label", "sentence", "id", "src"]
            one, other = (
                frame.set_index("id", drop=False)[columns].sort_index()
                for frame in (found, expected)
            )
            assert one.equals(other)
        corpus = read_ddi_xml(tmp_path / "ddi2013" / "DDICorpus-2013.zip")
        texts = dict(zip((row["id"] for row in corpus.data), corpus.data, strict=True))
        rows = [texts[name] for name in frames["test"]["id"]]
        pairs = zip(EntityMarker().fit_transform(rows), frames["test"]["text"], strict=True)
        different = [row for row, (one, other) in zip(rows, pairs, strict=True) if one != other]
        # The layout closes the first mark first where both spans are the same.
        assert [row["span1"] == row["span2"] for row in different] == [True]

    def test_git_as_json_lines_gives_the_layout(self, tmp_path):
        for part in PARTS:
            frame = load_git(subset=part, as_frame=True).frame
            lines = [
                json.dumps(
                    {
                        "PREDICATE": row["label"],
                        "SUBJECT_TEXT": row["entity1"],
                        "OBJECT_TEXT": row["entity2"],
                        "SENTENCE": row["sentence"].replace(" ", "  "),
                    }
                )
                for row in frame.to_dict("records")
            ]
            lines = lines * 2 if part == "test" else lines
            write(tmp_path / "git" / f"renew_triplet_T_{part}.jsonl", "\n".join(lines))
            assert load_git(subset=part, data_home=tmp_path, as_frame=True).frame.equals(frame)

    def test_phee_from_its_own_files_gives_the_layout(self, tmp_path):
        home = os.environ["SKLEARN_EPEE_DATA"]
        (tmp_path / "phee").mkdir()
        (tmp_path / "phee" / "source").symlink_to(f"{home}/phee/source")
        for part in PARTS:
            found = load_phee(subset=part, data_home=tmp_path, as_frame=True)
            assert found.frame.equals(load_phee(subset=part, as_frame=True).frame)

    def test_the_files_of_phee_have_their_digests(self):
        for part, digest in _phee._DIGESTS.items():
            path = f"{os.environ['SKLEARN_EPEE_DATA']}/phee/source/{part}.json.gz"
            with gzip.open(path) as file:
                assert hashlib.sha256(file.read()).hexdigest() == digest

    def test_groups_of_the_layout(self):
        assert load_ddi2013(subset="dev").groups[0] == "DDI-DrugBank.d8"
        assert load_phee(subset="dev").groups[0] == "10907391"
        assert load_health_advice(subset="dev").groups[0].isdigit()
        assert load_git(subset="dev").groups is None
        documents = [set(load_ddi2013(subset=part).groups) for part in PARTS]
        assert not documents[0] & documents[1]

    def test_medmnist_by_name_gives_the_loader_of_the_set(self):
        pytest.importorskip("medmnist")
        for name in ("breastmnist", "pneumoniamnist"):
            expected = getattr(datasets, f"load_{name}")(subset="val")
            for found in (load_medmnist(name, subset="val"), fetch_medmnist(name, subset="val")):
                np.testing.assert_array_equal(found.data, expected.data)
                assert found.target.tolist() == expected.target.tolist()
                assert found.target_names.tolist() == expected.target_names.tolist()


def _made(folder):
    folder.mkdir(parents=True)
    return folder


def _as_ddi_xml(name, rows):
    sentences = []
    for row in rows:
        text = row["sentence"]
        spans = [_span(row["text"], mark) for mark in ("E1", "E2")]
        entities = "".join(
            f'<entity id="{row["id"]}.e{i}" charOffset="{start}-{end - 1}" type="drug" '
            f"text={_attribute(text[start:end])}/>"
            for i, (start, end) in enumerate(spans)
        )
        kind = "" if row["label"] == "false" else f' type="{row["label"]}"'
        sentences.append(
            f'<sentence id="s" text={_attribute(text)}>{entities}'
            f'<pair id="{row["id"]}" e1="{row["id"]}.e0" e2="{row["id"]}.e1" '
            f'ddi="{"true" if kind else "false"}"{kind}/></sentence>'
        )
    return f'<document id="{name}">{"".join(sentences)}</document>'


def _attribute(text):
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _span(text, mark):
    """Return where a marked entity is in the text without marks."""
    for other in {"[E1] ", " [/E1]", "[E2] ", " [/E2]"} - {f"[{mark}] ", f" [/{mark}]"}:
        text = text.replace(other, "")
    start = text.index(f"[{mark}] ")
    return start, text.index(f" [/{mark}]") - len(f"[{mark}] ")


# ------------------------------------------------------------------------------------- GIT and PHEE


@pytest.mark.parametrize(
    ("text", "entities", "expected"),
    [
        ("serine phosphorylation of ssecks", ("ssecks", "serine"),
         "[E2] serine [/E2] phosphorylation of [E1] ssecks [/E1]"),
        ("mpa treatment", ("mpa treatment", "mpa"), "[E1] [E2] mpa [/E2] treatment [/E1]"),
        ("mpa treatment mpa", ("mpa treatment", "mpa"), "[E1] mpa treatment [/E1] [E2] mpa [/E2]"),
        ("ca, calcium", ("ca", "calcium"), "[E1] ca [/E1], [E2] calcium [/E2]"),
        ("a (b) c", ("(b)", "c"), "a [E1] (b) [/E1] [E2] c [/E2]"),
    ],
)  # fmt: skip
def test_first_occurrences_are_marked(text, entities, expected):
    assert marked(text, *first_spans(text, *entities)) == expected


def test_git_refusals_name_file_and_line(tmp_path):
    good = {"PREDICATE": "USES", "SUBJECT_TEXT": "a", "OBJECT_TEXT": "b", "SENTENCE": "a  b"}
    path = tmp_path / "git" / "renew_triplet_T_train.jsonl"
    cases = {
        json.dumps(good | {"SENTENCE": "a c"}): "'a' or 'b' does not occur in the sentence",
        json.dumps({"PREDICATE": "USES"}): "expected PREDICATE, SUBJECT_TEXT",
        json.dumps(good | {"SENTENCE": 3}): "expected PREDICATE, SUBJECT_TEXT",
        "{": "no valid JSON",
        "[1]": "expected a JSON object",
    }
    for line, message in cases.items():
        write(path, f"{json.dumps(good)}\n{line}\n")
        with pytest.raises(ValueError, match=rf"renew_triplet_T_train\.jsonl, line 2: .*{message}"):
            load_git(data_home=tmp_path)
    write(path, json.dumps(good))
    assert load_git(data_home=tmp_path).data == ["[E1] a [/E1] [E2] b [/E2]"]
    with pytest.raises(FileNotFoundError, match=r"renew_triplet_T_dev\.jsonl' is missing"):
        load_git(data_home=tmp_path, subset="dev")


def test_phee_refusals_name_file_and_line(tmp_path):
    write(tmp_path / "phee" / "train.json", '{"id": "1", "context": "a", "annotations": []}')
    with pytest.raises(ValueError, match=r"train\.json, line 1: expected a sentence with events"):
        load_phee(data_home=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dev\.json is missing"):
        load_phee(data_home=tmp_path, subset="dev")
    write(tmp_path / "phee" / "train.json.gz", b"no gzip")
    (tmp_path / "phee" / "train.json").unlink()
    with pytest.raises(ValueError, match="one JSON object a line"):
        load_phee(data_home=tmp_path)


# ------------------------------------------------------------------------ health advice and reviews


def health_files(folder, rows):
    folder.mkdir(exist_ok=True)
    for section, lines in rows.items():
        with (folder / f"annotations_{section}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["label", "pmid", "sentence"], *lines])


def test_health_advice_from_its_three_files(tmp_path):
    rows = {
        section: [[i % 3, f"{section}{i}", f"{section}, sentence {i}. "] for i in range(40)]
        for section in ("structured_abstract", "discussion", "unstructured_abstract")
    }
    rows["discussion"] += [
        [0, "9", "structured_abstract, sentence 0."],  # again
        [1, "9", "discussion, sentence 0."],  # with another label
    ]
    health_files(tmp_path / "health_advice", rows)
    parts = [load_health_advice(subset=part, data_home=tmp_path) for part in PARTS]
    assert [len(part.data) for part in parts] == [95, 12, 12]
    texts = [text for part in parts for text in part.data]
    assert len(set(texts)) == len(texts) == 119
    assert "discussion, sentence 0." not in texts
    assert all(text == text.strip() for text in texts)
    assert parts[0].groups[0].startswith(parts[0].data[0].partition(",")[0])
    assert set(parts[0].target) == {"none", "weak", "strong"}
    rows["discussion"][3][0] = 7
    health_files(tmp_path / "health_advice", rows)
    with pytest.raises(ValueError, match=r"annotations_discussion\.csv, line 5: the label must be"):
        load_health_advice(data_home=tmp_path)


def test_drug_reviews_have_two_classes(tmp_path):
    header = ["", "drugName", "condition", "review", "rating", "date", "usefulCount"]
    rows = [
        [str(i), "Aspirin", "Pain", f'"Review {i}, it&#039;s\tgood"', f"{i}.0", "May 1", "2"]
        for i in range(1, 11)
    ]
    folder = tmp_path / "drug_reviews"
    folder.mkdir()
    with (folder / "drugsComTest_raw.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    found = load_drug_reviews(subset="test", data_home=tmp_path, as_frame=True)
    assert found.target.tolist() == ["negative"] * 4 + ["positive"] * 4
    assert found.data.tolist()[0] == "Review 1, it's\tgood"
    assert found.frame["rating"].tolist()[4] == "7.0"
    assert found.groups is None
    with pytest.raises(FileNotFoundError, match=r"drugsComTrain_raw\.tsv' is missing"):
        load_drug_reviews(subset="all", data_home=tmp_path)
    with pytest.raises(ValueError, match="'subset' parameter"):
        load_drug_reviews(subset="dev", data_home=tmp_path)
    rows[2][4] = "best"
    with (folder / "drugsComTest_raw.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    with pytest.raises(ValueError, match=r"line 4: the rating must be from 1 to 10; got 'best'"):
        load_drug_reviews(subset="test", data_home=tmp_path)
    (folder / "drugsComTest_raw.tsv").unlink()
    message = (
        r"drugsComTrain_raw\.tsv and drugsComTest_raw\.tsv from https://archive\.ics\.uci\.edu"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_drug_reviews(data_home=tmp_path)


# ----------------------------------------------------------------------------------------- MedMNIST


def npz(path, shape, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for prefix, n in {"train": 5, "val": 2, "test": 3}.items():
        arrays[f"{prefix}_images"] = np.full((n, *shape), n, np.uint8)
        arrays[f"{prefix}_labels"] = np.array([labels[i % len(labels)] for i in range(n)])
    np.savez(path, **arrays)
    return path


def test_a_file_in_the_layout_of_medmnist_is_loaded_by_its_path(tmp_path):
    path = npz(tmp_path / "mine.npz", (64, 64, 3), [[2], [0]])
    found = load_medmnist(path, subset="val")
    assert found.data.shape == (2, 64, 64, 3)
    assert found.target.tolist() == ["2", "0"]
    assert load_medmnist(str(path), subset="dev", as_frame=True).frame.shape == (2, 64 * 64 * 3 + 1)
    with pytest.raises(FileNotFoundError, match=r"name: there is no file .*other\.npz"):
        load_medmnist(tmp_path / "other.npz")
    npz(tmp_path / "volumes.npz", (28, 28, 28), [[0], [1]])
    with pytest.raises(ValueError, match="Volumes cannot be classified, but their slices can"):
        load_medmnist(tmp_path / "volumes.npz")


@pytest.mark.parametrize("part", ["val", "dev"])
def test_both_names_of_the_part_for_development(tmp_path, part):
    npz(tmp_path / "medmnist" / "breastmnist.npz", (28, 28), [[0], [1]])
    assert len(datasets.load_breastmnist(subset=part, data_home=tmp_path).data) == 2
    with pytest.raises(ValueError, match="'subset' parameter"):
        load_git(subset="val", data_home=tmp_path)


class TestMedmnist:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("medmnist")

    @pytest.mark.parametrize("size", [28, 64, 128, 224])
    def test_sets_by_name_and_size(self, tmp_path, size):
        suffix = "" if size == 28 else f"_{size}"
        npz(tmp_path / "medmnist" / f"bloodmnist{suffix}.npz", (size, size, 3), [[7], [0]])
        found = load_medmnist("bloodmnist", size=size, subset="val", data_home=tmp_path)
        assert found.data.shape == (2, size, size, 3)
        assert len(found.target_names) == 8
        assert found.target.tolist() == ["platelet", "basophil"]
        for word in ("Source: ", "Licence: CC BY", "Citation: ", "11,959 / 1,712 / 3,421"):
            assert word in found.DESCR

    def test_several_labels_are_an_indicator(self, tmp_path):
        npz(tmp_path / "medmnist" / "chestmnist.npz", (28, 28), [[0] * 14, [1] + [0] * 12 + [1]])
        found = load_medmnist("chestmnist", subset="val", data_home=tmp_path)
        assert found.target.tolist() == [[0] * 14, [1] + [0] * 12 + [1]]
        assert found.target_names[[0, -1]].tolist() == ["atelectasis", "hernia"]

    def test_what_is_no_flat_set_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"name='nodulemnist3d' .* It holds volumes"):
            load_medmnist("nodulemnist3d", data_home=tmp_path)
        with pytest.raises(
            ValueError, match="name='mnist' is not a set of images; expected one of"
        ):
            load_medmnist("mnist", data_home=tmp_path)
        with pytest.raises(ValueError, match="'size' parameter"):
            load_medmnist("pathmnist", size=32, data_home=tmp_path)
        message = r"no file 'medmnist/pathmnist_64\.npz'.*Get pathmnist_64\.npz from https://medm"
        with pytest.raises(FileNotFoundError, match=message):
            load_medmnist("pathmnist", size=64, data_home=tmp_path)

    def test_without_the_package_the_error_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "medmnist", None)
        with pytest.raises(ImportError, match=r"pip install 'sklearn_epee\[medmnist\]'"):
            load_medmnist("pathmnist", data_home=tmp_path)
