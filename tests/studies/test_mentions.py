"""Sentences with spans that are made of marked pairs of entities."""

from __future__ import annotations

import json
from itertools import permutations, product

import joblib
import numpy as np
import pytest

from studies.collect import collect
from studies.events import KINDS, Network, span_f1
from studies.jobs import Folder, Job, do
from studies.mentions import by_sentence, load_drugs, unmarked
from studies.sets import load_parts, sets_in
from studies.span_rules import SPAN_RULES, SpanNetwork

from .conftest import write_rows

DDI = ("text", "label", "entity1", "entity2", "sentence", "id", "src")
GIT = ("text", "label", "entity1", "entity2", "sentence")
DRUGS = ("zinc", "iron", "aspirin", "warfarin", "insulin", "lithium")


def rows_of(header, texts, label):
    """Return rows of a set, each with a text and what else its files have."""
    ids = (f"DDI-DrugBank.d{number}.s0.p0" for number in range(len(texts)))
    return [[text, label, "", "", "", number, "DrugBank"][: len(header)]
            for text, number in zip(texts, ids, strict=True)]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with both sets: texts with two marked drugs each, no two of them alike."""
    home = tmp_path_factory.mktemp("mentions")
    pairs = [
        f"Patient {who} took [E1] {one} [/E1] after [E2] {two} [/E2]."
        for who, (one, two) in product("abc", permutations(DRUGS, 2))
    ]
    mixed = np.random.default_rng(0).permutation(pairs).tolist()
    for part, texts in {"train": mixed[:50], "dev": mixed[50:70], "test": mixed[70:]}.items():
        write_rows(home / "ddi2013", part, DDI, rows_of(DDI, texts, "false"))
        write_rows(home / "git", part, GIT, rows_of(GIT, texts, "TREATS"))
    return home


@pytest.mark.parametrize(
    ("text", "sentence", "places"),
    [
        ("[E2] a [/E2] [E1] b [/E1]", "a b", {"E1": (2, 3), "E2": (0, 1)}),
        ("[E1] a [E2] b [/E2] [/E1].", "a b.", {"E1": (0, 3), "E2": (2, 3)}),
        ("[E1] [E2] a [/E2]  b [/E1]", "a  b", {"E1": (0, 4), "E2": (0, 1)}),
        ("[E1] a [E2] b [/E1] c [/E2]", "a b c", {"E1": (0, 3), "E2": (2, 5)}),
        ("[E1] a [/E1][E2] b [/E2]", "ab", {"E1": (0, 1), "E2": (1, 2)}),
    ],
)
def test_marks_are_taken_out_of_texts(text, sentence, places):
    assert unmarked(text) == (sentence, places)


@pytest.mark.parametrize("text", ["no marks", "[E1] a [/E1] [E1] b [/E1]", "[E1] a [/E1] [E2] b"])
def test_texts_without_two_marked_entities_are_refused(text):
    with pytest.raises(ValueError, match="each mark of"):
        unmarked(text)


def test_a_sentence_has_the_entities_of_all_its_rows():
    texts = [
        "[E1] a [/E1] and [E2] b [/E2] or c",
        "[E1] a [/E1] and b or [E2] c [/E2]",
        "[E1] d [/E1] and [E2] e [/E2]",
    ]
    found = by_sentence(texts)
    assert list(found) == ["a and b or c", "d and e"]
    assert found["a and b or c"] == [{"E1": (0, 1), "E2": (6, 7)}, {"E1": (0, 1), "E2": (11, 12)}]


def test_drugs_of_all_pairs_are_spans_of_one_layer(tmp_path):
    train = [
        "[E1] beta blockers [/E1] with [E2] zinc [/E2] or iron",
        "[E1] beta blockers [/E1] with zinc or [E2] iron [/E2]",
        # The outer mention is in two parts, from the first to the last character.
        "[E1] loop and [E2] thiazide diuretics [/E2] [/E1]",
        "anti[E1] zinc [/E1] and [E2] iron [/E2]",
        "[E1] lithium [/E1] and [E2] iron [/E2]",
        "[E1] insulin [/E1] and [E2] iron [/E2]",
    ]
    dev = ["[E1] lithium [/E1] and [E2] iron [/E2]", "[E1] insulin [/E1] and [E2] iron [/E2]"]
    parts = {"train": train, "dev": dev, "test": dev[1:]}
    for part, texts in parts.items():
        write_rows(tmp_path / "ddi2013", part, DDI, rows_of(DDI, texts, "false"))
    found = load_drugs(subset="train", data_home=tmp_path)
    # Those of dev and test are not trained on.
    assert found.data == [
        "beta blockers with zinc or iron",
        "loop and thiazide diuretics",
        "antizinc and iron",
    ]
    first = [(0, 13, "drug"), (19, 23, "drug"), (27, 31, "drug")]
    assert found.all_spans[0] == found.target[0] == {"drug": first}
    assert found.all_spans[1] == {"drug": [(0, 27, "drug"), (9, 27, "drug")]}
    assert len(found.target[1]["drug"]) == 1
    assert found.target[2] == {"drug": [(13, 17, "drug")]}
    assert found.n_left_out == {"drug": {"overlap": 1, "words": 1}}
    assert load_drugs(subset="dev", data_home=tmp_path).data == ["lithium and iron"]
    assert load_drugs(subset="test", data_home=tmp_path).data == ["insulin and iron"]


def test_subjects_and_objects_are_layers(home):
    parts = load_parts("git_arguments", home)
    assert set(parts.train.y[0]) == {"subject", "object"}
    ((start, end, label),) = parts.train.y[0]["subject"]
    assert parts.train.X[0][start:end] in DRUGS
    assert label == "subject"
    assert sets_in(home, ["git_arguments", "ddi2013_drugs", "phee"]) == [
        "git_arguments",
        "ddi2013_drugs",
    ]


def test_rules_are_compared_on_mentions(home, tmp_path):
    job = Job("ddi2013_drugs", "scratch", 0, "events", (("n_epochs", 4),))
    folder = Folder(tmp_path / job.name, tmp_path, None)
    folder.path.mkdir(parents=True)
    parts = load_parts("ddi2013_drugs", home)
    result = do(job, parts, folder, KINDS["events"])
    network = Network.read(folder.path)
    assert network.paper == ()
    assert result["layers"]["test"][5] == {"span_f1": span_f1(network.test_counts[:, 5])}
    model = joblib.load(folder.path / "model.joblib")
    spans = model.predict_at_layer(parts.test.X, 6)
    assert network.test_counts[:, 5, 1].tolist() == [len(found["drug"]) for found in spans]
    (cell,) = json.loads(json.dumps(collect(tmp_path, n_draws=5)["cells"], default=float))
    assert list(cell["areas"]) == list(SPAN_RULES)
    assert SpanNetwork.read(folder.path).full_depth() == pytest.approx(
        result["layers"]["test"][5]["span_f1"]
    )
    assert {policy["family"] for policy in cell["policies"]} >= {"epee"}
