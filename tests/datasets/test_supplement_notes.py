"""The generator of notes about dietary supplements."""

import hashlib

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_epee.datasets import _supplement_words as words
from sklearn_epee.datasets import make_supplement_notes

CLASSES = ["continuing", "discontinued", "started", "uncertain"]


def test_texts_and_labels_are_strings():
    X, y = make_supplement_notes(40, random_state=0)
    assert isinstance(X, list)
    assert all(type(text) is str and text.endswith(".") for text in X)
    assert y.shape == (40,)
    assert y.dtype.kind == "U"
    assert sorted(set(y)) == CLASSES


@pytest.mark.parametrize("as_instance", [False, True])
def test_same_random_state_gives_the_same_notes(as_instance):
    def state():
        return np.random.RandomState(3) if as_instance else 3

    X, y = make_supplement_notes(300, flip_y=0.1, random_state=state())
    X_again, y_again = make_supplement_notes(300, flip_y=0.1, random_state=state())
    assert X_again == X
    assert y.tolist() == y_again.tolist()


def test_other_random_state_gives_other_notes():
    X, y = make_supplement_notes(300, random_state=0)
    X_other, y_other = make_supplement_notes(300, random_state=1)
    assert X_other != X
    assert y.tolist() != y_other.tolist()


def test_notes_do_not_change_between_platforms_and_versions():
    X, y = make_supplement_notes(200, random_state=0)
    digest = hashlib.sha256("\n".join([*X, *y]).encode()).hexdigest()
    assert digest.startswith("133449c62e896ef2")


def test_equal_texts_have_equal_labels():
    labels = {}
    for random_state, n_distractors in [(0, 0), (1, 1), (2, 3)]:
        # Without context and distractors texts are short, so that many are equal.
        X, y = make_supplement_notes(
            8000, n_distractors=n_distractors, n_context=0, random_state=random_state
        )
        for text, label in zip(X, y.tolist(), strict=True):
            assert labels.setdefault(text, label) == label
    assert len(labels) < 24000


def test_a_phrase_belongs_to_one_status():
    for phrases in (words.DIRECT, words.INDIRECT, words.PASSIVE):
        assert sorted(phrases) == CLASSES
    everything = [
        phrase
        for phrases in (words.DIRECT, words.INDIRECT, words.PASSIVE)
        for status in CLASSES
        for phrase in phrases[status]
    ]
    assert len(everything) == len(set(everything))
    assert not set(words.SUPPLEMENTS) & set(words.DRUGS)


def test_each_note_names_one_supplement():
    X, _ = make_supplement_notes(500, n_distractors=3, random_state=0)
    for text in X:
        named = [name for name in words.SUPPLEMENTS if name.lower() in text.lower()]
        assert len(named) == 1, text


@pytest.mark.parametrize("n_samples", [1, 2, 3, 101, 400])
def test_classes_are_balanced(n_samples):
    _, y = make_supplement_notes(n_samples, random_state=0)
    counts = [np.sum(y == name) for name in CLASSES]
    assert sum(counts) == n_samples
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1, 1, 1], [25, 25, 25, 25]),
        ([0.5, 0.2, 0.2, 0.1], [50, 20, 20, 10]),
        ([7, 0, 0, 3], [70, 0, 0, 30]),
        (np.array([1, 1, 1, 0]), [34, 33, 33, 0]),
    ],
)
def test_weights_give_exact_class_sizes(weights, expected):
    _, y = make_supplement_notes(100, weights=weights, random_state=0)
    assert [np.sum(y == name) for name in CLASSES] == expected


def test_classes_are_shuffled():
    _, y = make_supplement_notes(400, random_state=0)
    assert len(set(y[:20])) == 4


def test_label_noise_changes_labels_but_not_texts():
    clean = make_supplement_notes(2000, random_state=0, return_X_y=False)
    noisy = make_supplement_notes(2000, flip_y=0.4, random_state=0, return_X_y=False)
    assert clean.data == noisy.data
    assert not clean.flipped.any()
    assert 0.35 < noisy.flipped.mean() < 0.45
    changed = clean.target != noisy.target
    assert not changed[~noisy.flipped].any()
    # One label in four is drawn as it was.
    assert 0.65 < changed[noisy.flipped].mean() < 0.85


def test_bunch_tells_how_a_note_was_made():
    notes = make_supplement_notes(1000, n_distractors=2, random_state=0, return_X_y=False)
    X, y = make_supplement_notes(1000, n_distractors=2, random_state=0)
    assert notes.data == X
    assert notes.target.tolist() == y.tolist()
    assert notes.target_names.tolist() == CLASSES
    assert "invented" in notes.DESCR.lower()
    assert 0.25 < notes.easy.mean() < 0.35
    assert set(notes.n_statements[notes.easy]) == {1}
    assert set(notes.n_statements[~notes.easy]) == {1, 2, 3}


@pytest.mark.parametrize(("easy_fraction", "expected"), [(0, False), (1, True)])
def test_easy_fraction_at_its_ends(easy_fraction, expected):
    notes = make_supplement_notes(50, easy_fraction=easy_fraction, random_state=0, return_X_y=False)
    assert set(notes.easy.tolist()) == {expected}


def test_context_lengthens_the_notes():
    short, _ = make_supplement_notes(300, n_context=0, random_state=0)
    long, _ = make_supplement_notes(300, n_context=6, random_state=0)
    assert np.mean([len(text) for text in long]) > 1.5 * np.mean([len(text) for text in short])


def test_words_alone_do_not_decide():
    notes = make_supplement_notes(5000, random_state=0, return_X_y=False)
    words_alone = make_pipeline(TfidfVectorizer(), LogisticRegression(C=3, max_iter=1000))
    words_alone.fit(notes.data[:4000], notes.target[:4000])
    right = words_alone.predict(notes.data[4000:]) == notes.target[4000:]
    easy = notes.easy[4000:]
    assert 0.5 < right.mean() <= 0.8
    assert right[easy].mean() > 0.85
    assert right[~easy].mean() < 0.7


def test_same_words_in_another_order_change_the_label():
    notes = make_supplement_notes(
        20000, n_context=0, easy_fraction=0, random_state=0, return_X_y=False
    )
    names = {name.lower(): "SUPPLEMENT" for name in words.SUPPLEMENTS}
    names |= {name.lower(): "DRUG" for name in words.DRUGS}
    labels = {}
    for text, label in zip(notes.data, notes.target.tolist(), strict=True):
        bag = text.lower()
        for name, kind in names.items():
            bag = bag.replace(name, kind)
        key = " ".join(sorted(bag.replace(".", "").replace(";", "").split()))
        labels.setdefault(key, set()).add(label)
    ambiguous = [bag for bag, found in labels.items() if len(found) > 1]
    assert len(ambiguous) > 20


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "'n_samples' parameter .* Got 0"),
        ({"n_samples": 2.5}, "'n_samples' parameter .* Got 2.5"),
        ({"easy_fraction": 1.1}, "'easy_fraction' parameter .* Got 1.1"),
        ({"easy_fraction": float("nan")}, "'easy_fraction' parameter .* Got nan"),
        ({"n_distractors": -1}, "'n_distractors' parameter .* Got -1"),
        ({"n_context": -1}, "'n_context' parameter .* Got -1"),
        ({"flip_y": -0.1}, "'flip_y' parameter .* Got -0.1"),
        ({"weights": 1}, "'weights' parameter .* Got 1"),
        ({"weights": [1, 1]}, r"weights must have one entry for each of the 4 classes .*\(2,\)"),
        ({"weights": [1, 1, 1, -1]}, r"weights must be finite and non-negative .*-1\.0"),
        ({"weights": [0, 0, 0, 0]}, r"weights must be finite .* positive sum; got \[0\.0"),
        ({"weights": [1, 1, 1, np.nan]}, "weights must be finite .*nan"),
        ({"weights": ["a"] * 4}, "weights must be numbers; got .*'a'"),
        ({"weights": {"a": 1}}, "weights"),
        ({"n_distractors": 10**19}, "'n_distractors' parameter .* Got 1000"),
        ({"n_context": 10**19}, "'n_context' parameter .* Got 1000"),
        ({"return_X_y": "yes"}, "'return_X_y' parameter .* Got 'yes'"),
        ({"random_state": "seed"}, "'random_state' parameter .* Got 'seed'"),
    ],
)
def test_refuses_parameters_out_of_range(parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_supplement_notes(**parameters)
