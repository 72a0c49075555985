"""The events of PHEE as layers of spans, and what tags of words cannot represent of them."""

import json
import os

import pytest

from sklearn_epee._spans import spans_to_tags, split_words
from sklearn_epee.datasets import fetch_phee_events, load_phee, load_phee_events
from sklearn_epee.metrics import span_scores

TEXT = "Rash and fever after high-dose insulin in two men."


def mention(*pieces):
    return {"text": [list(pieces)], "start": [[TEXT.index(piece) for piece in pieces]]}


def event(kind="Adverse_event", **more):
    return {"event_id": "E1", "event_type": kind, "Trigger": mention("after"), **more}


def put(folder, *events, text=TEXT, name="7_1"):
    (folder / "phee").mkdir(exist_ok=True)
    line = {"id": name, "context": text, "annotations": [{"events": list(events)}]}
    (folder / "phee" / "train.json").write_text(json.dumps(line) + "\n")
    return folder


TREATMENT = {
    **mention("high-dose insulin"),
    "Drug": mention("insulin"),
    "Dosage": mention("high-dose"),
    "Combination": [{"Trigger": mention("and"), "Drug": mention("insulin")}],
}


def test_mentions_are_in_their_layers(tmp_path):
    subject = {**mention("two men"), "Population": mention("two"), "Gender": mention("men")}
    found = load_phee_events(
        data_home=put(tmp_path, event(Treatment=TREATMENT, Subject=subject, Effect=mention("Rash")))
    )
    shown = {
        layer: [(TEXT[start:end], label) for start, end, label in spans]
        for layer, spans in found.target[0].items()
    }
    assert shown == {
        "trigger": [("after", "Adverse_event")],
        "argument": [
            ("Rash", "Effect"),
            ("high-dose insulin", "Treatment"),
            ("two men", "Subject"),
        ],
        "sub_argument": [
            ("high-dose", "Treatment.Dosage"),
            ("insulin", "Treatment.Drug"),
            ("two", "Subject.Population"),
            ("men", "Subject.Gender"),
        ],
        "combination": [("insulin", "Drug")],
    }
    assert found.all_spans == found.target
    assert found.events[0][0]["event_type"] == "Adverse_event"
    assert found.groups.tolist() == ["7"]
    assert found.n_left_out == {}


def test_pieces_overlaps_and_parts_of_words_are_counted(tmp_path):
    events = (
        event(Effect=mention("Rash", "fever"), Treatment=mention("insulin")),
        event(
            "Potential_therapeutic_event", Treatment=mention("dose insulin"), Effect=mention("ever")
        ),
    )
    found = load_phee_events(data_home=put(tmp_path, *events))
    assert found.target[0]["trigger"] == [(15, 20, "Adverse_event")]
    assert [TEXT[s:e] for s, e, _ in found.target[0]["argument"]] == ["dose insulin"]
    assert found.n_left_out == {
        "trigger": {"overlap": 1},
        "argument": {"pieces": 1, "overlap": 1, "words": 1},
    }
    assert ((0, 4), (9, 14), "Effect") in found.all_spans[0]["argument"]
    scores = span_scores(found.all_spans, found.target)["layers"]
    assert (scores["argument"]["recall"], scores["trigger"]["recall"]) == (0.25, 0.5)
    assert "5 (1 in several pieces" not in found.DESCR
    assert "4 (1 in several pieces, 1 that do not start and end with a word, 2 that" in found.DESCR
    assert "1 of 1 sentences have\nseveral" in found.DESCR


@pytest.mark.parametrize(
    ("discontinuous", "expected"), [("pieces", ["Rash", "fever"]), ("whole", ["Rash and fever"])]
)
def test_mentions_in_pieces(tmp_path, discontinuous, expected):
    home = put(tmp_path, event(Effect=mention("Rash", "fever")))
    X, y = load_phee_events(data_home=home, discontinuous=discontinuous, return_X_y=True)
    assert [X[0][start:end] for start, end, _ in y[0]["argument"]] == expected


def test_refusals_name_the_file_and_the_line(tmp_path):
    with pytest.raises(ValueError, match=r"train.json, line 1: .*other characters than"):
        load_phee_events(data_home=put(tmp_path, event(), text="Something else."))
    with pytest.raises(ValueError, match=r"train.json, line 1: .*KeyError"):
        load_phee_events(data_home=put(tmp_path, {"event_type": "Adverse_event"}))
    with pytest.raises(FileNotFoundError, match=r"dev.json of the source is missing"):
        load_phee_events(data_home=tmp_path, subset="dev")
    with pytest.raises(FileNotFoundError, match="or call fetch_phee_events"):
        fetch_phee_events(data_home=tmp_path / "phee", download_if_missing=False)


@pytest.mark.realdata
@pytest.mark.skipif("SKLEARN_EPEE_DATA" not in os.environ, reason="needs the data")
class TestRealData:
    @pytest.mark.parametrize(
        ("subset", "pieces", "overlap", "words"),
        [("train", 378, 87, 39), ("dev", 123, 31, 12), ("test", 117, 38, 6)],
    )
    def test_what_tags_cannot_say(self, subset, pieces, overlap, words):
        found = load_phee_events(subset=subset)
        totals = {"pieces": 0, "overlap": 0, "words": 0}
        for counts in found.n_left_out.values():
            for reason, count in counts.items():
                totals[reason] += count
        assert totals == {"pieces": pieces, "overlap": overlap, "words": words}
        assert found.data == load_phee(subset=subset).data
        assert found.groups.tolist() == load_phee(subset=subset).groups.tolist()

    def test_every_target_is_tags_of_words(self):
        found = fetch_phee_events(subset="all", discontinuous="pieces")
        for row, (text, layers) in enumerate(zip(found.data, found.target, strict=True)):
            for spans in layers.values():
                spans_to_tags(spans, split_words(text), row=row)
        assert len(found.target_names["sub_argument"]) == 12
