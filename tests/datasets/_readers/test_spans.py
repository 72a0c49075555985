"""Readers of mentions as spans: samples, layers, what is left out, and CoNLL's columns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sklearn_epee import EPEETokenClassifier
from sklearn_epee._spans import split_words
from sklearn_epee.datasets import (
    read_bioc_spans,
    read_brat_spans,
    read_conll,
    read_pubtator_spans,
)
from tests.checkpoints import tiny_config
from tests.classifiers import tiny_training

from .test_readers import as_xml, bioc, put, sentences

TEXT = "Loop and thiazide diuretics. Raised lithium in serum lithium."
ANN = (
    "T1\tGroup 0 4;18 27\tLoop diuretics\n"
    "T2\tGroup 9 27\tthiazide diuretics\n"
    "T3\tDrug 36 43\tlithium\n"
    "T4\tTest 47 60\tserum lithium\n"
    "T5\tDrug 53 60\tlithium\n"
    "T6\tDrug 36 42\tlithiu\n"
    "T7\tCross 18 35\tdiuretics. Raised\n"
    "R1\tcauses Arg1:T1 Arg2:T3\n"
)


@pytest.fixture
def folder(tmp_path):
    return put(tmp_path, note__txt=TEXT, note__ann=ANN)


def test_brat_spans_of_a_text(folder):
    with pytest.warns(UserWarning, match="1 in several pieces, 1 that do not start and end with"):
        found = read_brat_spans(folder)
    assert found.data == [TEXT]
    assert found.target == [[(9, 27, "Group"), (36, 43, "Drug"), (47, 60, "Test")]]
    assert found.n_left_out == {"pieces": 1, "words": 1, "overlap": 2}
    assert ((0, 4), (18, 27), "Group") in found.all_spans[0]
    assert len(found.all_spans[0]) == 7
    assert found.target_names == ["Cross", "Drug", "Group", "Test"]
    assert found.groups.tolist() == ["note"]
    assert "overlap others" in found.DESCR


def test_types_may_be_chosen_and_may_be_layers(folder):
    with pytest.warns(UserWarning, match="1 that do not start and end with a word"):
        found = read_brat_spans(folder, types=["Drug"])
    assert found.target == [[(36, 43, "Drug"), (53, 60, "Drug")]]
    with pytest.warns(UserWarning, match="1 in several pieces"):
        found = read_brat_spans(folder, by_type=True)
    assert found.target[0]["Test"] == [(47, 60, "Test")]
    assert found.target[0]["Drug"] == [(36, 43, "Drug"), (53, 60, "Drug")]
    assert found.target_names == {kind: [kind] for kind in ("Cross", "Drug", "Group", "Test")}
    assert found.n_left_out == {"pieces": 1, "words": 1}


@pytest.mark.parametrize(
    ("discontinuous", "expected"),
    [("pieces", [(0, 4, "Group"), (9, 27, "Group")]), ("whole", [(0, 27, "Group")])],
)
def test_mentions_in_pieces(folder, discontinuous, expected):
    with pytest.warns(UserWarning, match="1 that overlap others"):
        found = read_brat_spans(folder, types="Group", discontinuous=discontinuous)
    assert found.target == [expected]


def test_sentences_are_samples(folder):
    with pytest.warns(UserWarning, match="1 in no sentence as a whole"):
        found = read_brat_spans(folder, split_sentences=sentences, by_type=True)
    assert found.data == ["Loop and thiazide diuretics.", " Raised lithium in serum lithium."]
    assert found.groups.tolist() == ["note", "note"]
    assert found.target[1]["Drug"] == [(8, 15, "Drug"), (25, 32, "Drug")]
    assert found.target[0]["Drug"] == []
    assert found.n_left_out == {"pieces": 1, "words": 1, "sentences": 1}


def test_pubtator_passages_are_samples(tmp_path):
    mentions = "1\t0\t4\tComa\tDisease\tD1\n1\t22\t26\trash\tDisease\tD2\n"
    lines = f"1|t|Coma after lithium\n1|a|No rash.\n{mentions}"
    found = read_pubtator_spans(put(tmp_path, a__txt=lines))
    assert found.data == ["Coma after lithium", "No rash."]
    assert found.target == [[(0, 4, "Disease")], [(3, 7, "Disease")]]
    assert found.groups.tolist() == ["1", "1"]
    assert found.n_left_out == {}


@pytest.mark.parametrize("in_xml", [True, False])
def test_bioc_spans_are_those_of_the_relations(tmp_path, in_xml):
    document = bioc()
    content = as_xml(document) if in_xml else json.dumps(document)
    put(tmp_path, **{f"a__{'xml' if in_xml else 'json'}": content})
    found = read_bioc_spans(tmp_path, discontinuous="pieces", by_type=True)
    words = {
        text[start:end]
        for text, layers in zip(found.data, found.target, strict=True)
        for spans in layers.values()
        for start, end, _ in spans
    }
    assert words
    for text, layers in zip(found.data, found.target, strict=True):
        borders = {border for word in split_words(text) for border in word}
        assert all({s, e} <= borders for spans in layers.values() for s, e, _ in spans)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"types": []}, ValueError, "types must be a list"),
        ({"types": ["None"]}, ValueError, r"No mention of the types \['None'\]"),
        ({"by_type": "yes"}, TypeError, "by_type must be True or False"),
        ({"discontinuous": "cut"}, ValueError, "discontinuous must be one of 'leave_out'"),
        ({"split_sentences": "."}, TypeError, "split_sentences must be a function"),
    ],
)
def test_parameters_are_checked(folder, parameters, error, message):
    with pytest.raises(error, match=message):
        read_brat_spans(folder, **parameters)


# ----------------------------------------------------------------------------------------- CoNLL
CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O

-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER\r
Blackburn NNP I-NP I-PER\r
"""


def test_conll_columns_and_documents(tmp_path):
    found = read_conll(put(tmp_path, train__conll=CONLL))
    assert found.data == [["EU", "rejects", "German", "call"], ["Peter", "Blackburn"]]
    assert found.target == [["B-ORG", "O", "B-MISC", "O"], ["B-PER", "I-PER"]]
    assert found.target_names == ["MISC", "ORG", "PER"]
    assert len(np.unique(found.groups)) == 2
    assert found.scheme == "IOB2"
    chunks = read_conll(tmp_path / "train.conll", tags=2)
    assert chunks.target[0] == ["B-NP", "B-VP", "B-NP", "I-NP"]


def test_conll_columns_may_be_layers(tmp_path):
    found = read_conll(put(tmp_path, train__conll=CONLL), tags={"chunk": 2, "entity": 3})
    assert found.target[1] == {"chunk": ["B-NP", "I-NP"], "entity": ["B-PER", "I-PER"]}
    assert found.target_names == {"chunk": ["NP", "VP"], "entity": ["MISC", "ORG", "PER"]}


def test_conll_tabs_hold_words_with_blanks(tmp_path):
    found = read_conll(put(tmp_path, a__tsv="New York\tB-LOC\n\u00a0\tO\n\n\n\nx\tO"))
    assert found.data == [["New York", "\u00a0"], ["x"]]
    assert found.groups.tolist() == ["a.tsv", "a.tsv"]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8"])
def test_conll_byte_order_marks_are_no_part_of_a_word(tmp_path, encoding):
    path = put(tmp_path, a__txt="\ufeffRash B-X")
    assert read_conll(path, encoding=encoding).data == [["Rash"]]


def test_conll_iob1_is_refused_or_converted(tmp_path):
    path = put(tmp_path, a__txt="a I-X\nb I-X\nc B-X\nd I-Y\ne O\nf I-X") / "a.txt"
    with pytest.raises(
        ValueError, match=r"a.txt, line 1: 'I-X' does not continue a span.*scheme='IOB1'"
    ):
        read_conll(path)
    found = read_conll(path, scheme="IOB1")
    assert found.target == [["B-X", "I-X", "B-X", "B-Y", "O", "B-X"]]
    assert found.scheme == "IOB2"


def test_conll_bilou_and_bare_tags(tmp_path):
    found = read_conll(put(tmp_path, a__txt="a B-X\nb L-X\nc U-Y"), scheme="BILOU")
    assert found.target == [["B-X", "E-X", "S-Y"]]
    assert (found.scheme, found.target_names) == ("BIOES", ["X", "Y"])
    found = read_conll(put(tmp_path, a__txt="a B\nb I\nc O"))
    assert (found.target, found.target_names) == ([["B", "I", "O"]], ["_"])


@pytest.mark.parametrize(
    ("content", "parameters", "message"),
    [
        ("a O\nb", {}, "a.txt, line 2: expected a word and its tag"),
        ("\tO", {}, "a.txt, line 1: expected a word"),
        ("a O\n\nb X O", {"tags": 2}, "a.txt, line 1: expected a word"),
        ("a NN\n", {}, r"a.txt, line 1: 'NN' is not a tag of the scheme IOB2"),
        ("a O\nb S-X", {}, "line 2: 'S-X' is not a tag of the scheme IOB2"),
        ("\n\n", {}, "holds no sentence"),
        ("a O", {"scheme": "IOE"}, "scheme must be one of IOB2, BIOES, IO, IOB1, BILOU"),
        ("a O", {"tags": 0}, "tags must name columns other than words=0"),
        ("a O", {"tags": {}}, "tags must name columns"),
    ],
)
def test_conll_refusals_name_file_and_line(tmp_path, content, parameters, message):
    with pytest.raises(ValueError, match=message):
        read_conll(put(tmp_path, a__txt=content), **parameters)


def test_conll_columns_are_numbers(tmp_path):
    with pytest.raises(TypeError, match="tags and words must be numbers of columns; got 'ner'"):
        read_conll(put(tmp_path, a__txt="a O"), tags="ner")


# ------------------------------------------------------------------------------ for a classifier
def fitted(found, **parameters):
    config = tiny_config("bert", vocab_size=300, max_position_embeddings=128)
    classifier = EPEETokenClassifier(config, **tiny_training(max_epochs=1, **parameters))
    return classifier.fit(found.data, found.target)


@pytest.mark.filterwarnings("ignore:Of the annotated mentions")
def test_a_classifier_takes_what_readers_give(folder):
    found = read_brat_spans(folder, split_sentences=sentences)
    assert 0 <= fitted(found).score(found.data, found.all_spans) <= 1
    by_type = read_brat_spans(folder, split_sentences=sentences, by_type=True)
    assert set(fitted(by_type).predict(by_type.data)[0]) == {"Cross", "Drug", "Group", "Test"}


def test_a_classifier_takes_tags_in_the_scheme_that_the_reader_names(tmp_path):
    found = read_conll(put(tmp_path, a__txt="a B-X\nb L-X\n\nc U-Y\nd O"), scheme="BILOU")
    tags = fitted(found, scheme=found.scheme).predict_tags(found.data)
    assert [len(row) for row in tags] == [2, 2]
