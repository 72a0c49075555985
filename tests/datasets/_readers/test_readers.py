"""Readers of annotated relations: rows of two spans, and what is refused with file and line."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sklearn_epee import EntityMarker
from sklearn_epee.datasets import read_bioc, read_brat, read_ddi_xml, read_pubtator

COLUMNS = ["text", "span1", "span2", "type1", "type2", "others", "label", "document", "id"]

DDI = """<?xml version="1.0" encoding="UTF-8"?>
<document id="DDI-MedLine.d1">
  <sentence id="DDI-MedLine.d1.s0" text="Loop and thiazide diuretics raise lithium &amp; gold.">
    <entity id="e0" charOffset="0-3;18-26" type="group" text="Loop diuretics"/>
    <entity id="e1" charOffset="9-26" type="group" text="thiazide diuretics"/>
    <entity id="e2" charOffset="34-40" type="drug" text="lithium"/>
    <pair id="p0" e1="e0" e2="e1" ddi="false"/>
    <pair id="p1" e1="e0" e2="e2" ddi="true" type="mechanism"/>
    <pair id="p2" e1="e1" e2="e2" ddi="true"/>
  </sentence>
  <sentence id="DDI-MedLine.d1.s1" text="No drugs."/>
</document>
"""


def sentences(text):
    """Split at full stops."""
    start = 0
    for end in [i + 1 for i, letter in enumerate(text) if letter == "."] + [len(text)]:
        if text[start:end].strip():
            yield start, end
        start = end


def words(row, number):
    """Return the text that a span of a row stands for."""
    span = row[f"span{number}"]
    pieces = span if isinstance(span, list) else [span]
    return " ".join(row["text"][start:end] for start, end in pieces)


def pairs(found):
    return [(words(row, 1), words(row, 2), row["label"]) for row in found.data]


def put(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


# ------------------------------------------------------------------------------------------- DDI


def test_ddi_pairs_with_pieces(tmp_path):
    found = read_ddi_xml(put(tmp_path, a__xml=DDI))
    assert pairs(found) == [
        ("Loop diuretics", "thiazide diuretics", "false"),
        ("Loop diuretics", "lithium", "mechanism"),
        ("thiazide diuretics", "lithium", "false"),  # related, but of no type
    ]
    assert list(found.data[0]) == COLUMNS
    assert found.data[1]["text"].endswith("lithium & gold.")
    assert found.data[1]["span1"] == [(0, 4), (18, 27)]
    assert found.data[1]["others"] == [(9, 27)]
    assert (found.data[1]["type1"], found.data[1]["type2"]) == ("group", "drug")
    assert set(found.groups) == {"DDI-MedLine.d1"}
    assert found.target_names.tolist() == ["false", "mechanism"]


def test_ddi_from_a_file_a_folder_and_an_archive(tmp_path):
    inner = tmp_path / "Train" / "MedLine"
    inner.mkdir(parents=True)
    put(inner, a__xml=DDI, readme__txt="no corpus")
    put(tmp_path, a__xml__gz=gzip.compress(DDI.encode()))
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        archive.writestr("../../outside/a.xml", DDI)
        archive.writestr("__MACOSX/a.xml", "no XML")
    expected = read_ddi_xml(inner / "a.xml").data
    for path in (tmp_path / "Train", tmp_path / "a.xml.gz", tmp_path / "corpus.zip"):
        assert read_ddi_xml(path).data == expected
    assert not (tmp_path.parent.parent / "outside").exists()


def test_frames_hold_the_same_rows(tmp_path):
    found = read_ddi_xml(put(tmp_path, a__xml=DDI), as_frame=True)
    assert list(found.frame.columns) == COLUMNS
    assert "label" not in found.data.columns
    assert found.target.tolist() == ["false", "mechanism", "false"]
    assert found.frame["span1"].tolist()[1] == [(0, 4), (18, 27)]


def test_mentions_that_differ_from_the_text_are_reported(tmp_path):
    wrong = DDI.replace('text="lithium"', 'text="sodium"')
    with pytest.warns(UserWarning, match=r"In 2 of 3 pairs the text of a mention differs .* 'p1'"):
        read_ddi_xml(put(tmp_path, a__xml=wrong))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('charOffset="34-40"', 'charOffset="34"', 6, "charOffset must be 'first-last'.*got '34'"),
        ('charOffset="34-40"', 'charOffset="34-400"', 6, "within the 49 characters"),
        ('charOffset="34-40"', 'charOffset="40-34"', 6, "charOffset must be"),
        ('charOffset="34-40" ', "", 6, r"<entity> must have the attribute 'charOffset'"),
        ('e2="e2" ddi="true" type', 'e2="e9" ddi="true" type', 8, "the entity 'e9', which"),
        ('ddi="false"', 'ddi="no"', 7, "ddi must be 'true' or 'false'; got 'no'"),
        ("<document id", "<corpus id", 2, "no well-formed XML"),
        ("  </sentence>", "", 12, "no well-formed XML: mismatched tag"),
        ("&amp;", "&drug;", 3, "no well-formed XML: undefined entity"),
        ('id="e2"', 'id="e1"', 6, "there is another entity 'e1' before it in the sentence"),
    ],
)
def test_ddi_refusals_name_file_and_line(tmp_path, old, new, line, message):
    line = {"<corpus id": 11, "": line}.get(new, line)
    with pytest.raises(ValueError, match=rf"a\.xml, line \d+: .*{message}") as caught:
        read_ddi_xml(put(tmp_path, a__xml=DDI.replace(old, new, 1)))
    if "well-formed" not in message:
        assert f"a.xml, line {line}:" in str(caught.value)


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE document [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE document [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE document [<!ENTITY % a SYSTEM "http://localhost/a.dtd"> %a;]>',
    ],
)
def test_entities_are_refused(tmp_path, declared):
    content = DDI.replace("<document", f"{declared}<document", 1)
    with pytest.raises(ValueError, match=r"a\.xml, line 2: entities are refused"):
        read_ddi_xml(put(tmp_path, a__xml=content))


def test_other_documents_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no file that ends in \.xml"):
        read_ddi_xml(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        read_ddi_xml(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"line 1: expected <document>.*got <collection>"):
        read_ddi_xml(put(tmp_path, a__xml="<collection/>"))
    with pytest.raises(ValueError, match="there is nothing to classify"):
        read_ddi_xml(put(tmp_path, a__xml='<document id="a"/>'))
    put(tmp_path, broken__xml__gz=gzip.compress(DDI.encode())[:-9])
    with pytest.raises(ValueError, match="not a gzip file that can be read"):
        read_ddi_xml(tmp_path / "broken.xml.gz")


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.xml", DDI)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            read_ddi_xml(path)
        except ValueError as error:
            assert "a.zip" in str(error)  # noqa: PT017


# ------------------------------------------------------------------------------------------ BRAT

NOTE = "Rash after amoxicillin and clavulanic acid.\nNo fever, nö pain."
ANN = """T1\tSymptom 0 4\tRash
T2\tDrug 11 22\tamoxicillin
T3\tDrug 27 42\tclavulanic acid
T4\tSymptom 47 52;57 61\tfever pain
R1\tcaused_by Arg1:T1 Arg2:T3\t
R2\tcaused_by Arg1:T4 Arg2:T2
E1\tEvent:T1 Theme:T2
R3\tafter Arg1:E1 Arg2:T2
A1\tNegated T4
N1\tReference T2 RxNorm:723\tamoxicillin
#1\tAnnotatorNotes T1\tsure
*\tEquiv T2 T3
"""


def test_brat_pairs_in_texts_and_in_sentences(tmp_path):
    put(tmp_path, note__txt=NOTE, note__ann=ANN)
    with pytest.warns(
        UserWarning, match=r"Of 3 annotated relations 0 join .* and 1 do not join two"
    ):
        found = read_brat(tmp_path)
    assert pairs(found) == [
        ("Rash", "amoxicillin", "false"),
        ("Rash", "clavulanic acid", "caused_by"),
        ("Rash", "fever pain", "false"),
        ("amoxicillin", "clavulanic acid", "false"),
        ("fever pain", "amoxicillin", "caused_by"),  # in the order of the arguments
        ("clavulanic acid", "fever pain", "false"),
    ]
    assert found.data[4]["span1"] == [(47, 52), (57, 61)]
    assert found.data[4]["others"] == [(0, 4), (27, 42)]
    assert found.data[0]["others"] == [(27, 42), [(47, 52), (57, 61)]]
    assert found.n_left_out == 1
    assert "'E': 1, 'A': 1, 'N': 1, '#': 1, '*': 1" in found.DESCR
    with pytest.warns(UserWarning, match="Of 3 annotated relations 1 join mentions"):
        found = read_brat(tmp_path, split_sentences=sentences)
    assert [label for *_, label in pairs(found)] == ["false", "caused_by", "false"]
    assert all(row["text"] == NOTE[:43] for row in found.data)


@pytest.mark.filterwarnings("ignore:Of 3 annotated")
def test_brat_negatives_can_be_chosen_or_left_out(tmp_path):
    put(tmp_path, note__txt=NOTE, note__ann=ANN)
    found = read_brat(tmp_path, pair_types=[("Symptom", "Drug")], negative_label="none")
    assert sorted(pairs(found)) == [
        ("Rash", "amoxicillin", "none"),
        ("Rash", "clavulanic acid", "caused_by"),
        ("fever pain", "amoxicillin", "caused_by"),
        ("fever pain", "clavulanic acid", "none"),
    ]
    found = read_brat(tmp_path / "note.ann", negative_label=None)
    assert found.target.tolist() == ["caused_by", "caused_by"]


def test_brat_documents_of_a_folder_are_groups(tmp_path):
    (tmp_path / "b").mkdir()
    ann = "".join(ANN.splitlines(keepends=True)[:3])
    put(tmp_path, note__txt=NOTE, note__ann=ann)
    put(tmp_path / "b", note__txt=NOTE.replace("\n", "\r\n"), note__ann=ann.replace("\n", "\r\n"))
    found = read_brat(tmp_path)
    assert sorted(set(found.groups)) == ["b/note", "note"]
    assert len({row["id"] for row in found.data}) == len(found.data) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T1\tSymptom 0 5\tRash", r"the mention is 'Rash', but the text has 'Rash '"),
        ("T1\tSymptom 1 5\tRash", r"the mention is 'Rash', but the text has 'ash '"),
        ("T1\tSymptom 0 900\tRash", r"within the 62 characters"),
        ("T1\tSymptom 4 0\tRash", "must lie within"),
        ("T1\tSymptom 0 4\tRash\nT1\tSymptom 0 4", "there is another mention 'T1' before it"),
        ("T1 Symptom 0 4 Rash", "a mention must be 'T1<tab>Type start end"),
        ("R1\tcaused_by T1 T2", "a relation must be 'R1<tab>Type Arg1:T1 Arg2:T2'"),
        ("R1\tcaused_by Arg1:T1 Arg2:T77", "refers to 'T77', which does not exist"),
    ],
)
def test_brat_refusals_name_file_and_line(tmp_path, line, message):
    put(tmp_path, note__txt=NOTE, note__ann=f"#1\tnote\n{line}\n" + ("" if line[0] == "T" else ANN))
    if line == "T1\tSymptom 0 5\tRash":
        return  # blanks at the ends of a mention are let pass
    number = 2 + line.count("\n")
    with pytest.raises(ValueError, match=rf"note\.ann, line {number}: .*{message}"):
        read_brat(tmp_path)


def test_brat_refuses_what_is_missing_or_in_another_encoding(tmp_path):
    put(tmp_path, note__ann=ANN)
    with pytest.raises(FileNotFoundError, match=r"note\.txt is missing"):
        read_brat(tmp_path)
    put(tmp_path, note__txt=NOTE.encode("latin-1"))
    with pytest.raises(ValueError, match=r"note\.txt, line 2: not in the encoding 'utf-8'"):
        read_brat(tmp_path)
    with pytest.warns(UserWarning, match="left out"):
        assert len(read_brat(tmp_path, encoding="latin-1").data) == 6
    (tmp_path / "note.ann").unlink()
    with pytest.raises(ValueError, match=r"holds no file that ends in \.ann"):
        read_brat(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"split_sentences": "."}, TypeError, "split_sentences must be a function"),
        ({"split_sentences": lambda text: [text]}, TypeError, r"must return the \(start, end\)"),
        ({"split_sentences": lambda _: [(0, 9), (5, 12)]}, ValueError, "that do not overlap"),
        ({"split_sentences": lambda _: [(0, 900)]}, ValueError, "within the 62 characters"),
        ({"negative_label": 0}, TypeError, "negative_label must be str or None"),
        ({"pair_types": ["Drug"]}, ValueError, "pair_types must be a list of pairs"),
        ({"pair_types": []}, ValueError, "pair_types must be a list of pairs"),
        ({"pair_types": [("A", "B")], "split_sentences": sentences}, None, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Of 3 annotated")
def test_parameters_of_the_readers_are_checked(tmp_path, parameters, error, message):
    put(tmp_path, note__txt=NOTE, note__ann=ANN)
    if error is None:
        assert len(read_brat(tmp_path, **parameters).data) == 1
        return
    with pytest.raises(error, match=message):
        read_brat(tmp_path, **parameters)


# -------------------------------------------------------------------------------------- PubTator

PUBTATOR = """
12|t|Coma after paracetamol
12|a|Naïve rats. Aspirin and paracetamol: liver failure or rash.
12\t0\t4\tComa\tDisease\tD003128\t
12\t11\t22\tparacetamol\tChemical\tD000082\t
12\t35\t42\tAspirin\tChemical\tD001241\t
12\t47\t58\tparacetamol\tChemical\tD000082\t
12\t60\t81\tliver failure or rash\tDisease\tD017093|D005076\tliver failure|rash
12\tCID\tD000082\tD003128
12\tCID\tD000082\tD005076
12\tCID\tD009999\tD005076

13|t|Aspirin and coma
13|a|
13\t0\t7\tAspirin\tChemical\tD001241
13\t12\t16\tcoma\tDisease\tD003128
"""


def test_pubtator_relations_of_concepts_are_those_of_their_mentions(tmp_path):
    put(tmp_path, sample__txt=PUBTATOR)
    with pytest.warns(UserWarning, match="Of 5 annotated relations 2 join .* and 1 do not"):
        found = read_pubtator(tmp_path, pair_types=[("Chemical", "Disease")])
    # The title and the abstract are two passages.
    assert pairs(found) == [
        ("paracetamol", "Coma", "CID"),
        ("Aspirin", "liver failure or rash", "false"),
        ("paracetamol", "liver failure or rash", "CID"),
        ("Aspirin", "coma", "false"),
    ]
    assert found.groups.tolist() == ["12", "12", "12", "13"]
    assert found.n_left_out == 3
    with pytest.warns(UserWarning, match="left out"):
        split = read_pubtator(tmp_path, split_sentences=sentences)
    assert split.data[1]["text"] == " Aspirin and paracetamol: liver failure or rash."
    assert words(split.data[1], 1) == "Aspirin"


def test_pubtator_variants_are_not_taken_apart(tmp_path):
    lines = [
        "7|t|V600E and K700E",
        "7|a|",
        "7\t0\t5\tV600E\tVariant\tp|SUB|V|600|E",
        "7\t10\t15\tK700E\tVariant\tp|SUB|K|700|E",
        "7\tAssociation\tp|SUB|V|600|E\tp|SUB|K|700|E\tNovel",
    ]
    put(tmp_path, a__pubtator="\r\n".join(lines))
    assert pairs(read_pubtator(tmp_path)) == [("V600E", "K700E", "Association")]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "12\t0\t4\tComa",
            "12\t1\t4\tComa",
            4,
            "the mention is 'Coma', but the document has 'oma'",
        ),
        ("12\t0\t4\tComa", "12\t0\t400\tComa", 4, "but the document has None"),
        ("12\t0\t4\tComa", "13\t0\t4\tComa", 4, "expected a line of the document '12'"),
        ("12\t0\t4\tComa\tDisease\tD003128\t", "12\t0", 4, "expected a mention .* or a relation"),
        ("12|t|Coma", "Coma", 2, "which starts with a title"),
    ],
)
def test_pubtator_refusals_name_file_and_line(tmp_path, old, new, line, message):
    put(tmp_path, a__txt=PUBTATOR.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"a\.txt, line {line}: .*{message}"):
        read_pubtator(tmp_path)


# ------------------------------------------------------------------------------------------ BioC


def bioc(in_bytes=False):
    """Return a document of BioC as JSON has it."""
    texts = ["Café: coma", "After paracetamol no rash."]
    offsets = [0, 12 if in_bytes else 11]

    def mention(name, kind, passage, word, **infons):
        before = texts[passage][: texts[passage].index(word)]
        start = offsets[passage] + len(before.encode() if in_bytes else before)
        place = {"offset": start, "length": len(word)}
        return {"id": name, "infons": {"type": kind} | infons, "text": word, "locations": [place]}

    passages = [
        {
            "infons": {"type": "title"},
            "offset": offsets[0],
            "text": texts[0],
            "annotations": [mention("1", "Disease", 0, "coma", MESH="D003128")],
        },
        {
            "infons": {"type": "abstract"},
            "offset": offsets[1],
            "text": texts[1],
            "annotations": [
                mention("2", "Chemical", 1, "paracetamol", MESH="D000082"),
                mention("3", "Disease", 1, "rash", MESH="D005076"),
            ],
            "relations": [
                {
                    "id": "R1",
                    "infons": {"type": "spares"},
                    "nodes": [{"refid": "2", "role": "a"}, {"refid": "3", "role": "b"}],
                }
            ],
        },
    ]
    relations = [
        {
            "id": "R2",
            "infons": {"relation": "CID", "Chemical": "D000082", "Disease": "D003128"},
            "nodes": [],
        }
    ]
    return {"id": "5", "infons": {}, "passages": passages, "relations": relations}


def as_xml(document):
    """Return the same document as XML has it."""

    def infons(part):
        return "".join(f'<infon key="{k}">{v}</infon>' for k, v in part.get("infons", {}).items())

    def annotation(part):
        (place,) = part["locations"]
        return (
            f'<annotation id="{part["id"]}">{infons(part)}<location offset="{place["offset"]}" '
            f'length="{place["length"]}"/><text>{part["text"]}</text></annotation>'
        )

    def relation(part):
        nodes = "".join(f'<node refid="{n["refid"]}" role="{n["role"]}"/>' for n in part["nodes"])
        return f'<relation id="{part["id"]}">{infons(part)}{nodes}</relation>'

    def inner(part):
        annotations = "".join(map(annotation, part.get("annotations", [])))
        return annotations + "".join(map(relation, part.get("relations", [])))

    passages = "\n".join(
        f"<passage>{infons(p)}<offset>{p['offset']}</offset><text>{p['text']}</text>{inner(p)}"
        "</passage>"
        for p in document["passages"]
    )
    return (
        "<?xml version='1.0' encoding='UTF-8'?>\n<!DOCTYPE collection SYSTEM 'BioC.dtd'>\n"
        f"<collection><source/><date/><key/><document><id>{document['id']}</id>\n"
        f"{passages}\n{inner(document)}</document></collection>"
    )


BIOC_FORMS = {
    "a__xml": as_xml,
    "b__json": lambda document: json.dumps({"documents": [document]}),
    "c__json": lambda document: json.dumps([{"source": "x", "documents": [document]}]),
    "d__json": json.dumps,
    "e__json": lambda document: json.dumps({"PubTator3": [document]}),
    "f__jsonl": lambda document: json.dumps(document) + "\n" + json.dumps(document | {"id": "6"}),
    "h__xml": lambda document: as_xml(document).encode("utf-8-sig"),
    "i__xml": lambda document: as_xml(document).replace("UTF-8", "UTF-16").encode("utf-16"),
    "j__json": lambda document: json.dumps(document).encode("utf-8-sig"),
    "g__xml__gz": lambda document: gzip.compress(as_xml(document).encode()),
}


@pytest.mark.parametrize("in_bytes", [False, True])
@pytest.mark.parametrize("name", BIOC_FORMS)
def test_bioc_in_every_form(tmp_path, name, in_bytes):
    put(tmp_path, **{name: BIOC_FORMS[name](bioc(in_bytes))})
    with pytest.warns(UserWarning, match="annotated relations . join mentions that are not in one"):
        found = read_bioc(tmp_path)
    expected = [("paracetamol", "rash", "spares")]
    assert pairs(found) == expected * (2 if "jsonl" in name else 1)
    assert found.groups[0] == "5"


def test_bioc_relations_of_concepts(tmp_path):
    document = bioc()
    document["passages"][0]["text"] = "coma. paracetamol"
    document["passages"][0]["annotations"] = [
        {"id": "8", "infons": {"type": "Disease", "identifier": "D003128"}, "text": "coma",
         "locations": [{"offset": 0, "length": 4}]},
        {"id": "9", "infons": {"type": "Chemical", "identifier": "D000082"}, "text": "paracetamol",
         "locations": [{"offset": 6, "length": 11}]},
    ]  # fmt: skip
    document["passages"] = document["passages"][:1]
    forms = [
        {"relation": "CID", "Chemical": "D000082", "Disease": "D003128"},
        {"type": "CID", "entity1": "D000082", "entity2": "D003128", "novel": "Novel"},
        {"type": "CID", "score": "0.9", "role1": {"identifier": "D000082", "type": "Chemical"},
         "role2": {"identifier": "D003128"}},
    ]  # fmt: skip
    for infons in forms:
        document["relations"] = [{"id": "R", "infons": infons, "nodes": []}]
        if "role1" in infons:  # PubTator3 numbers the ends of its relations
            document["relations"][0]["nodes"] = [{"refid": "8"}, {"refid": "9"}]
        put(tmp_path, a__json=json.dumps(document))
        assert pairs(read_bioc(tmp_path)) == [("paracetamol", "coma", "CID")]
    apart = "Of 1 annotated relations 1 join mentions that are not in"
    with pytest.warns(UserWarning, match=apart), pytest.raises(ValueError, match="nothing to cl"):
        read_bioc(tmp_path, split_sentences=sentences)


def test_bioc_sentences_of_the_file_are_used(tmp_path):
    document = bioc()
    passage = document["passages"][1]
    document["passages"][1] = {
        "offset": 11,
        "sentences": [
            {"offset": 11, "text": "After paracetamol", "annotations": passage["annotations"][:1]},
            {"offset": 29, "text": "no rash.", "annotations": passage["annotations"][1:]},
        ],
    }
    document["relations"] = []
    put(tmp_path, a__json=json.dumps(document))
    with pytest.raises(ValueError, match="nothing to classify"):
        read_bioc(tmp_path)


XML = as_xml(bioc())
JSON = json.dumps(bioc())
BROKEN = [
    (XML.replace("<offset>11", "<offset>x"), "line 5: <offset> must be a whole number; got 'x'"),
    (XML.replace('offset="6"', 'offset="5"'), "line 4: the mention is 'coma', .* has ' com'"),
    (XML.replace('length="4"', 'length="-4"', 1), "line 4: length must not be negative"),
    (XML.replace("collection", "c"), "line 3: expected <collection>"),
    (JSON.replace('"offset": 6', '"offset": 5'), "document '5', annotation '1': the mention is"),
    (JSON.replace('"offset": 6', '"offset": null'), "annotation '1': offset must be a whole"),
    (JSON.replace(', "length": 4', ""), "document '5' is not as in BioC"),
    ('{"a": 1}', "must hold documents with passages"),
    ("[1, 2]", "must hold documents with passages"),
    ('{"a": \n1', "line 2: no valid JSON"),
    ("[" * 100_000, "no valid JSON|nested too deeply"),
    ("", "line 1: no valid JSON"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_bioc_refusals_name_file_and_place(tmp_path, content, message):
    name = "a__xml" if content.startswith("<") else "a__json"
    with pytest.raises(ValueError, match=rf"a\.\w+.*(?:{message})"):
        read_bioc(put(tmp_path, **{name: content}))


# ------------------------------------------------------------------------------------- the marker


@pytest.mark.parametrize("as_frame", [False, True])
def test_rows_are_marked_by_the_entity_marker(tmp_path, as_frame):
    found = read_ddi_xml(put(tmp_path, a__xml=DDI), as_frame=as_frame)
    marked = EntityMarker().fit_transform(found.data)
    assert marked[1] == ("[E1] Loop and thiazide diuretics [/E1] raise [E2] lithium [/E2] & gold.")
    typed = EntityMarker(markers="typed", pieces="each").fit_transform(found.data)
    assert typed[1].startswith("[E1:group] Loop [/E1:group] and thiazide [E1:group] diuretics")
    put(tmp_path, note__txt=NOTE, note__ann="".join(ANN.splitlines(keepends=True)[:3]))
    found = read_brat(tmp_path, as_frame=as_frame)
    blinded = EntityMarker(blind_others="OTHER").fit_transform(found.data)
    assert blinded[0].startswith("[E1] Rash [/E1] after [E2] amoxicillin [/E2] and OTHER.")


def test_readers_take_paths_as_str(tmp_path):
    put(tmp_path, a__xml=DDI)
    assert len(read_ddi_xml(str(tmp_path)).data) == 3
    assert len(read_ddi_xml(str(Path(tmp_path, "a.xml"))).data) == 3
