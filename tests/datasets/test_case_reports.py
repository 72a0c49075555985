"""The generator of case reports: short texts with small images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from sklearn_epee.datasets import make_case_reports

FINDINGS = ["calcification", "cavity", "nodule"]


@pytest.fixture(scope="module")
def cases():
    return make_case_reports(600, random_state=0, return_X_y=False)


def test_pairs_of_a_text_and_an_image(cases):
    assert isinstance(cases.data, list)
    for text, image in cases.data:
        assert isinstance(text, str)
        assert image.shape == (24, 24)
        assert image.dtype == np.uint8
    assert sorted(set(cases.target)) == cases.target_names.tolist() == FINDINGS


def test_kinds_and_classes_are_balanced(cases):
    pairs, counts = np.unique(
        list(zip(cases.kind, cases.target, strict=True)), axis=0, return_counts=True
    )
    assert len(pairs) == 9
    assert set(counts) <= {66, 67}
    few = make_case_reports(7, kind_weights=[0, 1, 3], random_state=0, return_X_y=False)
    assert sorted(few.kind) == ["both"] * 5 + ["image"] * 2


def test_a_fourth_kind_needs_a_word_and_a_place():
    cases = make_case_reports(
        300, kind_weights=[0, 0, 0, 1], noise=0, random_state=0, return_X_y=False
    )
    assert set(cases.kind) == {"side"}
    sides = []
    for (text, image), finding in zip(cases.data, cases.target, strict=True):
        (side,) = (side for side in ("left", "right") if side in text)
        halves = {"left": image[:, :12] > 150, "right": image[:, 12:] > 150}
        assert all(half.any() for half in halves.values())
        # Spots are far smaller than a disc and a ring.
        assert (halves[side].sum() < 20) == (finding == "calcification")
        sides.append(side)
    assert sides.count("left") == pytest.approx(150, abs=30)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
    texts = [text for text, _ in cases.data]
    assert cross_val_score(words, texts, cases.target, cv=5).mean() < 0.47


def test_three_weights_leave_the_fourth_kind_out():
    three, four = (
        make_case_reports(40, kind_weights=weights, random_state=0, return_X_y=False)
        for weights in ([1, 1, 1], [1, 1, 1, 0])
    )
    assert three.kind.tolist() == four.kind.tolist()
    assert [text for text, _ in three.data] == [text for text, _ in four.data]


@pytest.mark.parametrize("as_instance", [False, True])
def test_same_random_state_gives_the_same_cases(as_instance):
    def made():
        state = np.random.RandomState(3) if as_instance else 3
        return make_case_reports(50, flip_y=0.1, missing_fraction=0.5, random_state=state)

    (X, y), (again, y_again) = made(), made()
    assert [text for text, _ in X] == [text for text, _ in again]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(X, again, strict=True))
    assert y.tolist() == y_again.tolist()


def test_texts_decide_what_they_should(cases):
    texts = [text for text, _ in cases.data]
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
    for kind, low, high in (("text", 0.99, 1.0), ("image", 0.2, 0.47), ("both", 0.3, 0.62)):
        rows = np.flatnonzero(cases.kind == kind)
        score = cross_val_score(words, [texts[i] for i in rows], cases.target[rows], cv=5).mean()
        assert low <= score <= high, kind


def test_images_decide_what_they_should(cases):
    pixels = np.stack([image.ravel() for _, image in cases.data]) / 255.0
    nearest = KNeighborsClassifier(5)
    for kind, low, high in (("text", 0.2, 0.47), ("image", 0.99, 1.0), ("both", 0.3, 0.62)):
        rows = np.flatnonzero(cases.kind == kind)
        score = cross_val_score(nearest, pixels[rows], cases.target[rows], cv=5).mean()
        assert low <= score <= high, kind


def test_only_what_does_not_decide_is_missing():
    cases = make_case_reports(300, missing_fraction=1.0, random_state=0, return_X_y=False)
    for (text, image), kind in zip(cases.data, cases.kind, strict=True):
        assert (text is None) == (kind == "image")
        assert (image is None) == (kind == "text")


def test_flipped_labels_are_known():
    noisy = make_case_reports(400, flip_y=0.3, random_state=0, return_X_y=False)
    clean = make_case_reports(400, random_state=0)[1]
    differs = noisy.target != clean
    assert differs.any()
    assert not differs[~noisy.flipped].any()


def test_a_frame_has_a_column_of_texts_and_one_of_images():
    pytest.importorskip("pandas")
    frame, y = make_case_reports(20, as_frame=True, missing_fraction=0.5, random_state=0)
    assert frame.columns.tolist() == ["text", "image"]
    assert len(frame) == len(y) == 20
    assert frame.isna().any().all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"kind_weights": [1, 2]}, r"kind_weights must have one entry .* got shape \(2,\)"),
        ({"kind_weights": [0, 0, 0]}, "positive sum"),
        ({"kind_weights": [1, np.nan, 0]}, "finite"),
        ({"image_size": 8}, "image_size"),
        ({"missing_fraction": 1.5}, "missing_fraction"),
        ({"noise": -1}, "noise"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_case_reports(**parameters)


def test_weights_that_are_no_numbers():
    with pytest.raises(TypeError, match="kind_weights must be numbers"):
        make_case_reports(10, kind_weights=["a", "b", "c"])
