"""EntityMarker marks both entities of every form of row, or says which row it cannot read."""

from __future__ import annotations

import dataclasses
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklearn_epee import EntityMarker
from sklearn_epee._checks.entity_marks import MARK, marked_entities

NOTE = "Aspirin increases the effect of warfarin."
MARKED = "[E1] Aspirin [/E1] increases the effect of [E2] warfarin [/E2]."
FIRST, SECOND = (0, 7), (32, 40)


def mark(*rows, **parameters):
    return EntityMarker(**parameters).fit_transform(list(rows)).tolist()


# ------------------------------------------------------------------------------- forms of rows


@pytest.mark.parametrize(
    "row",
    [
        (NOTE, FIRST, SECOND),
        [NOTE, list(FIRST), np.array(SECOND)],
        (NOTE, np.int64([0, 7]), [SECOND]),
        (NOTE, (*FIRST, "drug"), ([SECOND], "drug")),
        (NOTE, (*FIRST, None), (*SECOND, float("nan"))),
        (NOTE, FIRST, SECOND, ("drug", "drug")),
        (NOTE, FIRST, SECOND, None, [(8, 17)]),
        (NOTE, {"start": 0, "end": 7}, {"start": 32, "end": 40, "label": "drug"}),
        {"text": NOTE, "span1": FIRST, "span2": SECOND},
        {"text": NOTE, "span1": FIRST, "span2": SECOND, "type1": "drug", "more": 1},
        (
            SimpleNamespace(text=NOTE),
            SimpleNamespace(start_char=0, end_char=7, label_="DRUG"),
            SimpleNamespace(start_char=32, end_char=40, label_=""),
        ),
    ],
    ids=lambda row: type(row).__name__,
)
def test_every_form_of_a_row_is_marked(row):
    assert mark(row, row) == [MARKED, MARKED]


def test_frames_are_read_by_the_names_of_their_columns():
    starts = pd.DataFrame({"note": [NOTE], "a": [0], "b": [7], "c": [32], "d": [40]}, index=[9])
    marker = EntityMarker(text="note", span1=("a", "b"), span2=["c", "d"])
    assert marker.fit_transform(starts).tolist() == [MARKED]
    spans = pd.DataFrame({"text": [NOTE], "span1": [FIRST], "span2": [[SECOND]]})
    assert EntityMarker().fit_transform(spans).tolist() == [MARKED]


def test_polars_frames_are_read():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"text": [NOTE], "span1": [list(FIRST)], "span2": [list(SECOND)]})
    assert EntityMarker().fit_transform(frame).tolist() == [MARKED]


def test_arrays_of_objects_are_read():
    rows = np.empty((2, 3), dtype=object)
    for i in range(2):
        rows[i] = [NOTE, FIRST, SECOND]
    assert EntityMarker().fit_transform(rows).tolist() == [MARKED, MARKED]


# --------------------------------------------------------------------------- where marks stand


def test_the_second_entity_may_come_first():
    assert mark((NOTE, SECOND, FIRST)) == [
        "[E2] Aspirin [/E2] increases the effect of [E1] warfarin [/E1]."
    ]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        # nested, either way, sharing a start, an end, and both
        (((0, 7), (2, 5)), "[E1] ab[E2] cde [/E2]fg [/E1]h"),
        (((2, 5), (0, 7)), "[E2] ab[E1] cde [/E1]fg [/E2]h"),
        (((0, 3), (0, 7)), "[E2] [E1] abc [/E1]defg [/E2]h"),
        (((5, 8), (0, 8)), "[E2] abcde[E1] fgh [/E1] [/E2]"),
        (((2, 5), (2, 5)), "ab[E1] [E2] cde [/E2] [/E1]fgh"),
        # overlapping, and next to each other
        (((0, 5), (3, 7)), "[E1] abc[E2] de [/E1]fg [/E2]h"),
        (((0, 3), (3, 7)), "[E1] abc [/E1][E2] defg [/E2]h"),
        (((3, 7), (0, 3)), "[E2] abc [/E2][E1] defg [/E1]h"),
    ],
)
def test_marks_are_placed_by_position_the_outer_ones_outside(spans, expected):
    assert mark(("abcdefgh", *spans)) == [expected]


def test_pieces_are_marked_together_or_each():
    row = ("upper and lower arms", [(10, 15), (0, 5)], (16, 20))
    assert mark(row) == ["[E1] upper and lower [/E1] [E2] arms [/E2]"]
    assert mark(row, pieces="each") == ["[E1] upper [/E1] and [E1] lower [/E1] [E2] arms [/E2]"]


def test_the_text_between_and_around_stays_as_it_is():
    note = "  \u00e9\U0001f600 \u963f\u53f8\u5339\u6797\tand\nx "
    assert mark((note, (5, 9), (14, 15))) == [
        "  \u00e9\U0001f600 [E1] \u963f\u53f8\u5339\u6797 [/E1]\tand\n[E2] x [/E2] "
    ]


spans = st.tuples(st.integers(0, 19), st.integers(0, 19)).map(lambda p: (min(p), max(p) + 1))


@given(spans, spans, st.sampled_from(["whole", "each"]))
def test_marks_around_any_spans_are_found_again(first, second, pieces):
    note = "abcdefghijklmnopqrst"
    (marked,) = mark((note, first, second), pieces=pieces)
    found = marked_entities(marked)
    assert MARK.sub("", marked).replace(" ", "") == note
    for entity, (start, end) in zip(found, (first, second), strict=True):
        inside = MARK.sub("", marked[slice(*entity.pieces[0])]).replace(" ", "")
        assert inside == note[start:end]


# ------------------------------------------------------------------------------------- options


def test_typed_marks_hold_the_types():
    rows = [(NOTE, (0, 7, "drug"), (32, 40, "vitamin K antagonist"))]
    typed = EntityMarker("typed").fit(rows)
    expected = (
        "[E1:drug] Aspirin [/E1:drug] increases the effect of "
        "[E2:vitamin K antagonist] warfarin [/E2:vitamin K antagonist]."
    )
    assert typed.transform(rows).tolist() == [expected]
    assert typed.entity_types_.tolist() == ["drug", "vitamin K antagonist"]
    assert len(typed.marks_) == 8
    assert "[/E2:drug]" in typed.marks_
    columns = {"text": NOTE, "span1": FIRST, "span2": SECOND, "type1": "a", "type2": "b"}
    assert mark(columns, markers="typed")[0].startswith("[E1:a] Aspirin")


def test_types_not_seen_are_refused_or_left_out():
    seen, new = (NOTE, FIRST, SECOND, ("drug", "drug")), (NOTE, FIRST, SECOND, ("drug", "food"))
    with pytest.raises(ValueError, match=r"X\[1\] has 'food' as the type of span2.*drug"):
        EntityMarker("typed").fit([seen]).transform([seen, new])
    marker = EntityMarker("typed", handle_unknown="untyped").fit([seen])
    assert "[E2] warfarin [/E2]" in marker.transform([new])[0]


def test_other_mentions_are_blinded_unless_they_share_characters_with_an_entity():
    note = "Aspirin, ibuprofen, ibuprofen lysine and warfarin sodium"
    others = [(20, 36), (9, 18), (20, 29), (41, 56), (0, 3)]
    assert mark((note, (0, 7), (41, 49), None, others), blind_others="DRUGOTHER") == [
        "[E1] Aspirin [/E1], DRUGOTHER, DRUGOTHER and [E2] warfarin [/E2] sodium"
    ]
    assert mark((note, (0, 7), (41, 49), None, []), blind_others="X")[0].count("X") == 0
    with pytest.raises(ValueError, match=r"X\[0\] has no other mentions"):
        mark((note, (0, 7), (41, 49)), blind_others="DRUGOTHER")


def test_marks_that_are_there_already_are_refused_or_escaped():
    row = ("as in [E1] and [/E2:x], a b", (24, 25), (26, 27))
    with pytest.raises(ValueError, match=r"X\[0\] holds the mark '\[E1\]' already"):
        mark(row)
    assert mark(row, existing_marks="escape") == [
        "as in (E1) and (/E2:x), [E1] a [/E1] [E2] b [/E2]"
    ]


def test_long_texts_keep_both_entities_and_whole_words():
    note = "one two three four five six seven eight nine ten"
    assert mark((note, (8, 13), (19, 23)), max_length=42) == [
        "two [E1] three [/E1] four [E2] five [/E2]"
    ]
    far = mark((note, (4, 7), (40, 44)), max_length=38)
    assert far == ["one [E1] two [/E1] [E2] nine [/E2]"]
    with pytest.raises(ValueError, match=r"X\[1\] does not fit.*max_length=29"):
        mark((note[:7], (0, 1), (2, 3)), (note, (4, 7), (40, 44)), max_length=29)


@given(spans, spans, st.integers(20, 90))
def test_a_long_text_is_never_longer_and_never_without_an_entity(first, second, max_length):
    note = "ab cde f gh ijk lmno"
    whole = mark((note, first, second))[0]
    try:
        (short,) = mark((note, first, second), max_length=max_length)
    except ValueError:
        assert len(whole) > max_length
        return
    assert len(short) <= max(max_length, 0)
    for found, expected in zip(marked_entities(short), marked_entities(whole), strict=True):
        assert short[slice(*found.pieces[0])][:6] == whole[slice(*expected.pieces[0])][:6]


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((NOTE, (3, 3), SECOND), r"span1=\(3, 3\), which is empty"),
        ((NOTE, (7, 3), SECOND), r"span1=\(7, 3\), which is reversed"),
        ((NOTE, FIRST, (32, 99)), r"span2=\(32, 99\), which is outside the text.*<= 41"),
        ((NOTE, (-2, 3), SECOND), "outside the text"),
        ((NOTE, (0.0, 7.0), SECOND), "not two integers.*A missing value in one row makes"),
        ((NOTE, (True, 7), SECOND), "not two integers"),
        ((NOTE, None, SECOND), "span1=None; expected"),
        ((NOTE, "0-7", SECOND), "span1='0-7'; expected"),
        ((NOTE, [], SECOND), r"span1=\[\]; expected"),
        ((NOTE, (1, 2, 3), SECOND), r"span1=\(1, 2, 3\); expected"),
        ((NOTE, [(0, 3), (2, 7)], SECOND), "two pieces overlap"),
        ((NOTE, {"start": 3}, SECOND), "span1="),
        (("e\u0301a b", (1, 3), (4, 5)), "splits the character 'e\u0301'"),
        (("a\ud83d b", (0, 1), (3, 4)), "not valid Unicode"),
        ((None, FIRST, SECOND), "NoneType as its text"),
        ((NOTE, FIRST), "expected tuples"),
        ((NOTE, FIRST, SECOND, "drug"), r"'drug' as types; expected \(type1, type2\)"),
        ((NOTE, FIRST, SECOND, None, "x"), "'x' as others"),
        ((NOTE, FIRST, SECOND, None, [(5, 4)]), r"others=\(5, 4\), which is reversed"),
        ((NOTE, (*FIRST, "a]"), SECOND), r"'a\]' as the type of span1"),
        ((NOTE, FIRST, SECOND, (1, "x")), "1 as the type of span1"),
        ({"text": NOTE, "span1": FIRST}, r"has no 'span2', but \['text', 'span1'\]"),
        (NOTE, "expected tuples"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row, message):
    marker = EntityMarker()
    with pytest.raises(ValueError, match=message) as raised:
        marker.fit([(NOTE, FIRST, SECOND), row])
    assert str(raised.value).startswith("X[1] ")
    assert not hasattr(marker, "marks_")
    with pytest.raises(ValueError, match=message):
        marker.fit([(NOTE, FIRST, SECOND)]).transform([(NOTE, FIRST, SECOND), row])


def test_typed_marks_need_types():
    with pytest.raises(ValueError, match=r"X\[0\] has no type of span2"):
        EntityMarker("typed").fit([(NOTE, (*FIRST, "drug"), SECOND)])


@pytest.mark.parametrize("X", [NOTE, {"text": NOTE}, 5, {1, 2}])
def test_what_is_no_sequence_of_rows_is_refused(X):
    with pytest.raises(TypeError, match="X is of type"):
        EntityMarker().fit(X)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 sample"):
        EntityMarker().fit([])


@pytest.mark.parametrize(
    "wrong",
    [{"markers": "both"}, {"pieces": 1}, {"max_length": 0}, {"span1": ("a",)}, {"text": None}],
)
def test_wrong_parameters_are_refused_in_fit(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        EntityMarker(**wrong).fit([(NOTE, FIRST, SECOND)])


# -------------------------------------------------------------------------------- scikit-learn


def test_it_is_a_transformer_of_scikit_learn():
    rows = [(NOTE, FIRST, SECOND)]
    marker = EntityMarker(pieces="each")
    with pytest.raises(NotFittedError):
        marker.transform(rows)
    assert clone(marker).get_params() == marker.get_params()
    fitted = pickle.loads(pickle.dumps(marker.fit(rows)))
    assert fitted.transform(rows).tolist() == [MARKED]
    frame = clone(marker).set_output(transform="pandas").fit_transform(rows)
    assert frame["marked_text"].tolist() == [MARKED]
    words = make_pipeline(EntityMarker(), CountVectorizer()).fit_transform(rows)
    assert words.shape == (1, 8)


def test_a_row_may_be_changed_without_changing_the_marker():
    # Nothing of the rows is kept but the types.
    marker = EntityMarker().fit([(NOTE, FIRST, SECOND)])
    assert set(vars(marker)) - set(marker.get_params()) == {"entity_types_", "marks_"}
    assert dataclasses.is_dataclass(marker) is False


@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(EntityMarker(), legacy=False)),
    ids=lambda part: (
        getattr(part, "__name__", None) or getattr(getattr(part, "func", None), "__name__", None)
    ),
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)
