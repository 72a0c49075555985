"""Marks of entities are found where they stand, and both entities are kept of long texts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_epee._checks.entity_marks import (
    carry_marks,
    check_marks,
    closing_mark,
    kept_around,
    marked_entities,
    marks_in,
    opening_mark,
)
from sklearn_epee._checks.messages import SampleError, numbered_from


@pytest.mark.parametrize("entity_type", [None, "drug", "Chemical entity", "T-1"])
def test_marks_are_found_as_they_are_written(entity_type):
    one, end = opening_mark(1, entity_type), closing_mark(1, entity_type)
    two, last = opening_mark(2, entity_type), closing_mark(2, entity_type)
    text = f"é {two} b {last} and {one} a {end}."
    first, second = marked_entities(text)
    assert text[slice(*first.pieces[0])] == f"{one} a {end}"
    assert text[slice(*second.pieces[0])] == f"{two} b {last}"
    assert second.start == 2


def test_an_entity_may_have_several_pieces():
    text = "[E1] upper [/E1] and [E1] [E2] lower [/E1] arm [/E2]"
    first, second = marked_entities(text)
    assert [text[start:stop] for start, stop in first.pieces] == [
        "[E1] upper [/E1]",
        "[E1] [E2] lower [/E1]",
    ]
    assert [text[start:stop] for start, stop in second.pieces] == ["[E2] lower [/E1] arm [/E2]"]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("plain", "no mark [E1]"),
        ("[E1] a [/E1]", "no mark [E2]"),
        ("[E1] a [E2] b [/E2]", "no closing mark [/E1]"),
        ("[/E1] a [E1] [E2] b [/E2]", "no closing mark [/E1]"),
        ("[E3] a [/E3] [E1] a [/E1] [e2] b [/e2]", "no mark [E2]"),
    ],
)
def test_a_missing_mark_is_named_with_the_number_of_the_text(text, missing):
    good = "[E1] a [/E1] [E2] b [/E2]"
    assert not carry_marks([good, text])
    with pytest.raises(ValueError, match=r"^X\[1\] has ") as raised:
        check_marks([good, text], "pooling='entity'")
    assert missing in str(raised.value)
    assert "pooling='entity'" in str(raised.value)


def test_pairs_of_texts_carry_no_marks():
    pair = ("[E1] a [/E1]", "[E2] b [/E2]")
    assert not carry_marks([pair])
    with pytest.raises(ValueError, match="pairs of texts"):
        check_marks([pair], "pooling='entity'")


def test_the_marks_that_occur_are_listed_once():
    texts = ["[E1] a [/E1] [E2:x] b [/E2:x]", "[E1] a [/E1] [E2] b [/E2]"]
    assert marks_in(texts) == ["[/E1]", "[/E2:x]", "[/E2]", "[E1]", "[E2:x]", "[E2]"]


def kept(n, pieces, room):
    return kept_around(np.ones(n, dtype=int), pieces, room)


def test_everything_between_two_entities_is_kept_if_it_fits():
    assert kept(20, [(8, 9), (12, 13)], 7).tolist() == [7, 8, 9, 10, 11, 12, 13]
    assert kept(20, [(1, 2), (4, 5)], 7).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert kept(20, [(18, 20), (14, 15)], 7).tolist() == [13, 14, 15, 16, 17, 18, 19]


def test_what_is_nearest_is_kept_of_entities_far_apart():
    assert kept(30, [(4, 5), (24, 25)], 6).tolist() == [3, 4, 5, 23, 24, 25]
    assert kept(30, [(4, 6), (24, 26)], 4).tolist() == [4, 5, 24, 25]
    assert kept(30, [(4, 6), (24, 26)], 3) is None


@given(st.data())
def test_both_entities_and_no_more_than_fits_are_kept(data):
    lengths = np.array(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=30)))
    place = st.integers(0, len(lengths) - 1)
    pieces = [
        (min(p), max(p) + 1)
        for p in data.draw(st.lists(st.tuples(place, place), min_size=1, max_size=4))
    ]
    room = data.draw(st.integers(1, 60))
    needed = {token for start, stop in pieces for token in range(start, stop)}
    found = kept_around(lengths, pieces, room)
    if found is None:
        assert lengths[list(needed)].sum() > room
    else:
        assert needed <= set(found)
        assert lengths[found].sum() <= room
        assert (np.diff(found) > 0).all()


def test_errors_about_samples_are_counted_from_where_their_part_begins():
    with pytest.raises(SampleError, match=r"^X\[7\] is bad$"), numbered_from(4):
        raise SampleError(3, "is bad")
    copy = pickle.loads(pickle.dumps(SampleError(3, "is bad")))
    assert str(copy) == "X[3] is bad"
