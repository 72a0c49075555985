"""The study of PHEE's events counts as the code of the data set's authors does."""

import pytest
from sklearn.utils import Bunch

from benchmarks._phee_scores import paper_scores, plain

TEXT = "The rash, and fever, followed insulin and zinc."
EMPTY = {"trigger": [], "argument": [], "sub_argument": [], "combination": []}


def span(words, label):
    return (TEXT.index(words), TEXT.index(words) + len(words), label)


def part_of(*events):
    return Bunch(data=[TEXT], events=[list(events)])


def f1(part, **spans):
    return {name: found["f1"] for name, found in paper_scores(part, [EMPTY | spans]).items()}


def test_texts_are_compared_without_case_articles_and_punctuation():
    assert plain("The  RASH, (of) an X-ray.") == "rash of x ray"


def test_pieces_are_spans_and_event_types_are_those_of_the_nearest_trigger():
    trigger = span("followed", "Adverse_event")
    pieces = (span("The rash", "")[:2], span("fever", "")[:2], "Effect")
    event = EMPTY | {
        "event_type": "Adverse_event",
        "trigger": [trigger],
        "argument": [pieces, span("insulin", "Treatment")],
        "sub_argument": [span("insulin", "Treatment.Drug")],
        "combination": [span("zinc", "Drug")],
    }
    found = {
        "trigger": [trigger],
        "argument": [span("rash,", "Effect"), span("fever", "Effect"), span("zinc", "Treatment")],
        "sub_argument": [span("insulin", "Treatment.Drug")],
    }
    assert f1(part_of(event), **found) == pytest.approx({"trigger": 1, "main": 2 / 3, "sub": 2 / 3})
    other = found | {"trigger": [(*trigger[:2], "Potential_therapeutic_event")]}
    assert f1(part_of(event), **other) == {"trigger": 0, "main": 0, "sub": 0}
    # What two events share is to be found twice, and is found once.
    twice = part_of(event, event)
    assert f1(twice, **found)["trigger"] == pytest.approx(2 / 3)
