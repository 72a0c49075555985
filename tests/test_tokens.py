"""Spans and tags of words: inputs, exits, layers of spans, and how a fit is used."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import EPEETokenClassifier
from sklearn_epee._spans import (
    convert_scheme,
    most_probable_tags,
    span_f1_score,
    spans_of_words_to_tags,
    tags_to_spans,
    transition_counts,
    transition_scores,
    valid_transitions,
)
from sklearn_epee.datasets import load_phee_events
from sklearn_epee.metrics import exit_scores, speedup_score
from sklearn_epee.policy import normalized_entropy

from .checkpoints import make_checkpoint, tiny_tokenizer
from .tagged import tagged_sentences, tiny_token_classifier
from .trainings import Trainings

WORDS, TAGS = tagged_sentences()
TEXTS = [" ".join(words) for words in WORDS]
LAYERS = [
    {
        "drugs": [t if "Drug" in t else "O" for t in tags],
        "all": ["B-Any", *["I-Any"] * len(tags[1:])],
    }
    for tags in TAGS
]


def in_words(tags):
    """The spans of valid IOB2 tags, in words."""
    spans = []
    for i, tag in enumerate(tags):
        if tag[0] == "B":
            spans.append([i, i + 1, tag[2:]])
        elif tag[0] == "I":
            spans[-1][1] = i + 1
    return [tuple(span) for span in spans]


def in_characters(words, tags):
    """The same in characters of the words joined by blanks."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    return [(int(starts[a]), int(starts[b]) - 1, label) for a, b, label in in_words(tags)]


SPANS = [in_words(tags) for tags in TAGS]
CHARACTER_SPANS = [in_characters(*pair) for pair in zip(WORDS, TAGS, strict=True)]


@pytest.fixture(scope="module")
def _fitted():
    return tiny_token_classifier(max_epochs=8).fit(WORDS, TAGS)


@pytest.fixture
def fitted(_fitted):
    """A fitted classifier of the test's own."""
    return copy.deepcopy(_fitted)


@pytest.fixture(scope="module")
def _layered():
    return tiny_token_classifier(max_epochs=4).fit(WORDS, LAYERS)


@pytest.fixture
def layered(_layered):
    """The same for two layers of spans."""
    return copy.deepcopy(_layered)


def same_proba(one, other):
    for a, b in zip(one, other, strict=True):
        assert_allclose(a, b, atol=1e-6)


# ----------------------------------------------------------------------------------------- inputs


def test_learns_to_find_spans(fitted):
    assert fitted.set_params(tau=0).score(WORDS, TAGS) > 0.8


def test_texts_get_spans_in_characters_and_lists_in_words(fitted):
    of_words, of_texts = fitted.predict(WORDS), fitted.predict(TEXTS)
    same_proba(fitted.predict_proba(WORDS), fitted.predict_proba(TEXTS))
    for words, text, spans, characters in zip(WORDS, TEXTS, of_words, of_texts, strict=True):
        assert [" ".join(words[a:b]) for a, b, _ in spans] == [text[a:b] for a, b, _ in characters]
        assert [span[2] for span in spans] == [span[2] for span in characters]


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (WORDS, SPANS),
        (TEXTS, CHARACTER_SPANS),
        (TEXTS, TAGS),
        (pd.Series(TEXTS), pd.Series(TAGS)),
        (tuple(map(tuple, WORDS)), tuple(map(tuple, TAGS))),
        ([np.array(words) for words in WORDS], [np.array(tags) for tags in TAGS]),
        (WORDS, [[(a, b, t) for a, b, t in reversed(spans)] for spans in SPANS]),
    ],
    ids=["spans", "texts", "tags of texts", "Series", "tuples", "arrays", "any order"],
)
def test_the_same_is_learned_from_every_form(X, y, fitted):
    again = tiny_token_classifier(max_epochs=8).fit(X, y)
    for a, b in zip(again.predict_proba(WORDS), fitted.predict_proba(WORDS), strict=True):
        assert_array_equal(a, b)


def test_tags_are_those_of_the_largest_probability(fitted):
    for tags, proba in zip(fitted.predict_tags(WORDS), fitted.predict_proba(WORDS), strict=True):
        assert tags == fitted.classes_[proba.argmax(1)].tolist()
    assert fitted.classes_.tolist() == ["B-Drug", "B-Effect", "I-Drug", "I-Effect", "O"]


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "IO"])
def test_spans_can_be_learned_in_every_scheme(scheme):
    model = tiny_token_classifier(scheme=scheme, max_epochs=8).fit(WORDS, SPANS)
    prefixes = {tag[0] for tag in model.classes_}
    assert prefixes == {"IOB2": {*"BIO"}, "BIOES": {*"BEOS"}, "IO": {*"IO"}}[scheme]
    assert model.score(WORDS, SPANS) > 0.8


def test_words_that_are_not_read_are_outside(fitted):
    X = [["zinc", "", "rash"], [], ["\u200b"], ["rash"]]
    with pytest.warns(UserWarning, match="no token of 2 words") as caught:
        found = fitted.predict_with_exits(X)
    assert caught[0].filename == __file__
    assert [len(tags) for tags in found.tags] == [3, 0, 1, 1]
    assert found.tags[0][1] == found.tags[2][0] == "O"
    assert_array_equal(found.proba[2], [[0, 0, 0, 0, 1]])
    assert found.exit_layer[1] == found.exit_layer[2] == 1
    assert found.rows_total.tolist()[1:3] == [0, 0]
    assert_allclose(found.proba[3], fitted.predict_proba([["rash"]])[0], atol=1e-6)


def test_nothing_to_read_at_all(fitted):
    assert fitted.predict([[], []]) == [[], []]
    assert fitted.predict([""]) == [[]]
    assert fitted.predict_at_layer([""], 1) == [[]]
    assert list(fitted.staged_predict([""])) == [[[]]] * 3


def test_words_beyond_max_length_are_outside_and_not_learned():
    model = tiny_token_classifier(max_length=8, max_epochs=1)
    with pytest.warns(UserWarning, match="left out of the loss"):
        model.fit(WORDS, TAGS)
    with pytest.warns(UserWarning, match="predicted 'O'"):
        tags = model.predict_tags([["rash"] * 30])
    assert len(tags[0]) == 30
    assert set(tags[0][6:]) == {"O"}


BAD_X = [
    (["zinc", ["zinc"]], ValueError, "mixes texts and lists of words"),
    ([["zinc", 3]], TypeError, r"X\[0\]\[1\] is 3"),
    ([3, 4], TypeError, r"X\[0\] is 3"),
    ([], ValueError, "0 sample"),
    ("zinc", TypeError, "single str"),
    ({"a": 1}, TypeError, "dict"),
    (pd.DataFrame({"text": ["a"]}), TypeError, "frame"),
    ([None], TypeError, r"X\[0\] is None"),
    (["\ud800"], ValueError, "Unicode"),
    ([["a"], [["b"]]], TypeError, r"X\[1\]\[0\]"),
]


@pytest.mark.parametrize(("X", "error", "message"), BAD_X)
def test_what_is_no_sentence_is_refused(X, error, message, fitted):
    with pytest.raises(error, match=message):
        fitted.predict(X)
    with pytest.raises(error, match=message):
        tiny_token_classifier().fit(X, [[]] * 2)


TWO = [["zinc", "rash"], ["no", "pain", "today"]]
BAD_Y = [
    ([["O", "O"], ["O", "B-X"]], r"y\[1\] has 2 tag.s. for 3 words"),
    ([["O", "O"], ["O", "I-X", "O"]], r"y\[1\] has the tag 'I-X' at word 1, which is not part of"),
    ([["B-X", "I-Y"], ["O"] * 3], r"y\[0\] has the tag 'I-Y' at word 1"),
    ([["O", "B-X"], [(0, 1, "X")]], r"y\[1\] has the spans .*, but other samples have tags"),
    ([["O", "drug"], ["O"] * 3], r"y\[0\] has the tag 'drug' at word 1"),
    ([["O", "S-X"], ["O"] * 3], "BIOES"),
    ([[(0, 1, "X"), (0, 2, "Y")], []], r"y\[0\] has the spans .* overlap"),
    ([[], [(1, 4, "X")]], r"y\[1\] has the span \(1, 4, 'X'\); expected 0 <= start < end <= 3"),
    ([[], [(2, 2, "X")]], r"y\[1\] has the span"),
    ([[], [(-1, 2, "X")]], r"y\[1\] has the span"),
    ([[], [("a", 2, "X")]], r"y\[1\] has the span \('a', 2, 'X'\); expected \(start"),
    ([[], [(0, 1)]], r"y\[1\] has the span"),
    ([[], [(0, 1, 3)]], r"y\[1\] has the span"),
    ([[], [((0, 1), (2, 3), "X")]], "several parts"),
    ([["O", "O"], ["O", "O", "O"]], "at least one label"),
    ([[], []], "at least one label"),
    ([["B-X", "O"]], "inconsistent numbers of samples: X has 2, y has 1"),
    ([1, 2], r"y\[0\] has the tags or spans 1"),
    ([{"a": ["O", "B-X"]}, {"b": ["O"] * 3}], r"y\[1\] .* layers of spans \['a'\]"),
    ([{"a": ["O", "B-X"]}, {"a": ["O"]}], r"y\[1\] has 1 tag.* layer of spans 'a'"),
    ([{"a": ["O", "B-X"]}, ["O"] * 3], r"y\[1\]"),
    (None, "requires y to be passed"),
]


@pytest.mark.parametrize(("y", "message"), BAD_Y)
def test_labels_that_say_no_tags_are_refused(y, message):
    model = tiny_token_classifier()
    with pytest.raises(ValueError, match=message):
        model.fit(TWO, y)
    assert not hasattr(model, "classes_")


def test_tags_of_texts_must_be_those_of_their_words():
    with pytest.raises(ValueError, match=r"y\[0\] has 2 tags, but is a text of 3 words.*'-'"):
        tiny_token_classifier().fit(["zinc-induced", "no"], [["B-X", "O"], ["O"]])


def test_spans_of_texts_must_fit_words():
    y = [[(0, 3, "Drug")], []]
    with pytest.raises(ValueError, match=r"y\[0\] has the span .* does not start and end with a"):
        tiny_token_classifier().fit(["zinc given", "no"], y)
    model = tiny_token_classifier(misfit_spans="warn")
    y[0] += [(5, 10, "Given"), ((0, 4), (5, 10), "Parts")]
    with pytest.warns(UserWarning, match=r"2 span\(s\) of y cannot be represented") as caught:
        model.fit(["zinc given", "no"], y)
    assert caught[0].filename == __file__
    assert model.classes_.tolist() == ["B-Given", "O"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scheme": "BIO"}, "scheme"),
        ({"token_exit": "word"}, "token_exit"),
        ({"misfit_spans": "drop"}, "misfit_spans"),
        ({"tau": -1}, "tau"),
        ({"patience": 0}, "patience"),
        ({"joint_exit": "most"}, "joint_exit"),
        ({"transition_weight": -0.1}, "transition_weight"),
        ({"early_stopping": True}, "early_stopping"),
        ({"class_weight": {"B-Nothing": 2}}, "class_weight"),
        ({"max_length": 2}, "max_length"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        tiny_token_classifier(**parameters).fit(WORDS, TAGS)


def test_bad_policies_are_refused_at_prediction(fitted):
    for name, value in (
        ("tau", -1),
        ("patience", 0),
        ("token_exit", "x"),
        ("joint_exit", "x"),
        ("transition_weight", np.nan),
    ):
        model = copy.deepcopy(fitted).set_params(**{name: value})
        with pytest.raises(ValueError, match=name):
            model.predict(WORDS)
    with pytest.raises(ValueError, match="layer"):
        fitted.predict_at_layer(WORDS, 4)


def test_predictions_need_a_fit():
    for method in ("predict", "predict_tags", "predict_proba", "predict_exit_layer"):
        with pytest.raises(NotFittedError):
            getattr(tiny_token_classifier(), method)(WORDS)


# ------------------------------------------------------------------------------------------ exits


def first_layer(may_exit):
    """The first layer at which a row may exit, (..., M) -> (...), the last one at the latest."""
    may_exit = np.array(may_exit)
    may_exit[..., -1] = True
    return may_exit.argmax(-1) + 1


def staged_entropies(model):
    """Per sentence the entropies (n_words, M) of its words at every layer."""
    staged = list(model.staged_predict_proba(WORDS))
    return [
        np.stack([normalized_entropy(layer[i]) for layer in staged], axis=1)
        for i in range(len(WORDS))
    ]


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
def test_a_sentence_exits_with_all_its_words(fitted, joint_exit):
    entropies = staged_entropies(fitted)
    join = {"all": np.max, "any": np.min, "mean": np.mean}[joint_exit]
    joined = np.stack([join(part, axis=0) for part in entropies])
    tau = float(np.median(joined))
    expected = first_layer(joined < tau)
    fitted.set_params(tau=tau, joint_exit=joint_exit)
    layers = fitted.predict_exit_layer(WORDS)
    assert_array_equal(layers, expected)
    assert len(set(expected)) > 1
    staged = list(fitted.staged_predict_proba(WORDS))
    for i, proba in enumerate(fitted.predict_proba(WORDS)):
        assert_allclose(proba, staged[layers[i] - 1][i], atol=1e-5)


def test_patience_counts_the_tags_of_every_word(fitted):
    tags = np.array(
        [np.concatenate(layer) for layer in fitted.staged_predict_tags(WORDS)], dtype=object
    )
    ends = np.cumsum([len(words) for words in WORDS])[:-1]
    agree = np.stack([tags[0] != tags[0], tags[1] == tags[0], tags[2] == tags[1]], axis=1)
    expected = [first_layer(part.all(0)) for part in np.split(agree, ends)]
    assert_array_equal(fitted.set_params(tau=0, patience=2).predict_exit_layer(WORDS), expected)


def test_words_exit_one_by_one(fitted):
    entropies = staged_entropies(fitted)
    tau = float(np.quantile(np.concatenate(entropies)[:, 0], 0.7))
    fitted.set_params(tau=tau, token_exit="token")
    found = fitted.predict_with_exits(WORDS)
    for layers, entropy in zip(found.exit_layer, entropies, strict=True):
        # Until the first word has exited nothing differs from the whole pass.
        assert_array_equal(layers == 1, entropy[:, 0] < tau)
    saved = 1 - found.rows_computed.sum() / found.rows_total.sum()
    assert speedup_score(fitted, WORDS) == pytest.approx(saved)
    whole = speedup_score(fitted.set_params(token_exit="sentence"), WORDS)
    assert 0 <= whole < saved < 1


def test_one_pass_says_what_the_methods_say(fitted):
    for token_exit in ("sentence", "token"):
        fitted.set_params(tau=0.5, token_exit=token_exit)
        found = fitted.predict_with_exits(WORDS)
        assert found.spans == fitted.predict(WORDS)
        assert found.tags == fitted.predict_tags(WORDS)
        same_proba(found.proba, fitted.predict_proba(WORDS))
        for a, b in zip(found.exit_layer, fitted.predict_exit_layer(WORDS), strict=True):
            assert_array_equal(a, b)
        for proba, entropy in zip(found.proba, found.entropy, strict=True):
            assert_allclose(normalized_entropy(proba), entropy, atol=1e-5)


def test_one_layer_and_all_of_them(fitted):
    staged = list(fitted.staged_predict(WORDS))
    assert len(staged) == fitted.n_layers_ == 3
    for layer in (1, 2, 3):
        assert fitted.predict_at_layer(WORDS, layer) == staged[layer - 1]
    assert fitted.predict_at_layer(WORDS, -1) == staged[-1]
    assert list(fitted.staged_predict_tags(WORDS))[1] == fitted.predict_tags_at_layer(WORDS, 2)
    first = next(fitted.staged_predict_proba(WORDS))
    same_proba(first, fitted.predict_proba_at_layer(WORDS, 1))
    assert fitted.set_params(tau=0).predict(WORDS) == staged[-1]
    assert fitted.set_params(patience=1).predict(WORDS) == staged[0]


def test_a_prediction_does_not_depend_on_its_batch(fitted):
    for token_exit in ("sentence", "token"):
        fitted.set_params(tau=0.4, token_exit=token_exit, predict_batch_size="auto")
        whole = fitted.predict_proba(WORDS)
        same_proba(whole, fitted.set_params(predict_batch_size=1).predict_proba(WORDS))
        same_proba(whole[::-1], fitted.predict_proba(WORDS[::-1]))


# ------------------------------------------------------------------------------- valid sequences


@pytest.fixture(scope="module")
def _hasty():
    model = tiny_token_classifier(max_epochs=4, class_weight="balanced", scheme="BIOES", tau=0.9)
    return model.fit(WORDS, SPANS)


@pytest.fixture
def hasty(_hasty):
    """A classifier that learned little, so that what its words say does not fit together."""
    return copy.deepcopy(_hasty)


def decoded(model, proba, weight):
    """The most probable valid tags, from the probabilities of sentences and the training tags."""
    classes = model.classes_.tolist()
    counts = np.array([len(part) for part in proba])
    training = [
        spans_of_words_to_tags(*pair, "BIOES") for pair in zip(SPANS, lengths(), strict=True)
    ]
    codes = np.array([classes.index(tag) for tags in training for tag in tags])
    may_follow, may_end = valid_transitions(classes, "BIOES")
    scores = transition_scores(
        transition_counts(codes, np.array(lengths()), len(classes)), may_follow, weight
    )
    found = most_probable_tags(np.concatenate(proba), counts, scores, may_end)
    return [model.classes_[part].tolist() for part in np.split(found, np.cumsum(counts)[:-1])]


def lengths():
    return [len(words) for words in WORDS]


def are_valid(tags, scheme):
    return all(convert_scheme(part, scheme, scheme) == part for part in tags)


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_transitions_make_valid_tags_and_leave_exits_alone(hasty, token_exit):
    before = hasty.set_params(token_exit=token_exit).predict_with_exits(WORDS)
    found = hasty.set_params(transition_weight=0.3).predict_with_exits(WORDS)
    assert len(set(np.hstack(before.exit_layer))) > 1
    for name in ("proba", "exit_layer", "entropy", "rows_computed"):
        for one, other in zip(before[name], found[name], strict=True):
            assert_array_equal(one, other)
    assert not are_valid(before.tags, "BIOES")
    assert are_valid(found.tags, "BIOES")
    assert found.tags == decoded(hasty, found.proba, 0.3)
    assert found.tags == hasty.predict_tags(WORDS)
    assert found.spans == hasty.predict(WORDS)
    assert found.spans == [tags_to_spans(tags, "BIOES") for tags in found.tags]
    assert hasty.score(WORDS, SPANS) == span_f1_score(SPANS, found.spans)
    assert hasty.set_params(transition_weight=0).predict_tags(WORDS) == before.tags


def test_transitions_at_one_layer_and_at_all(hasty):
    hasty.set_params(transition_weight=0.5)
    staged = list(hasty.staged_predict_tags(WORDS))
    spans, proba = list(hasty.staged_predict(WORDS)), list(hasty.staged_predict_proba(WORDS))
    for layer in (1, 2, 3):
        assert staged[layer - 1] == decoded(hasty, proba[layer - 1], 0.5)
        assert hasty.predict_tags_at_layer(WORDS, layer) == staged[layer - 1]
        assert hasty.predict_at_layer(WORDS, layer) == spans[layer - 1]


def test_transitions_of_several_layers_of_spans(layered):
    layered.set_params(tau=0.9, transition_weight=1.0)
    for name, counts in layered._state.tasks.transition_counts.items():
        assert counts.sum() == sum(lengths())
        assert are_valid([tags[name] for tags in layered.predict_tags(WORDS)], "IOB2")


def test_words_that_are_not_read_stay_outside_in_valid_sequences(hasty):
    hasty.set_params(transition_weight=50.0)
    with pytest.warns(UserWarning, match="no token"):
        tags = hasty.predict_tags([["severe", "", "rash"], [], [""], ["zinc"]])
    assert [len(part) for part in tags] == [3, 0, 1, 1]
    assert tags[0][1] == tags[2][0] == "O"
    assert are_valid(tags, "BIOES")


def test_transitions_are_counted_with_the_weights_of_samples():
    def counted(rows, weights=None, **parameters):
        X, y = [WORDS[row] for row in rows], [TAGS[row] for row in rows]
        model = tiny_token_classifier(**parameters)
        return model._prepare(model._check_samples(X, None), y, weights, None).tasks

    rows = np.arange(len(WORDS))
    weights = np.where(rows % 2, 1.0, 3.0)
    more = counted(rows, weights).transition_counts[""]
    repeated = counted(np.repeat(rows, weights.astype(int))).transition_counts[""]
    assert_allclose(more / more.sum(), repeated / repeated.sum(), rtol=1e-6)
    assert_allclose(more, counted(rows, 1e-6 * weights).transition_counts[""], rtol=1e-5)
    assert more.sum() == pytest.approx(sum(lengths()))
    # A sentence of weight 0 is not there; weights of tags change the loss alone.
    assert_array_equal(
        counted(rows, rows % 2).transition_counts[""], counted(rows[1::2]).transition_counts[""]
    )
    balanced = counted(rows, class_weight="balanced").transition_counts[""]
    assert_array_equal(balanced, counted(rows).transition_counts[""])


def test_estimators_of_before_know_no_transitions(hasty):
    expected = hasty.predict(WORDS)
    old = copy.deepcopy(hasty)
    del old.__dict__["transition_weight"]
    del old._state.tasks.__dict__["transition_counts"]
    loaded = pickle.loads(pickle.dumps(old))
    assert loaded.transition_weight == 0
    assert loaded.predict(WORDS) == expected
    same_proba(
        loaded.set_params(transition_weight=0.2).predict_proba(WORDS), hasty.predict_proba(WORDS)
    )
    for method in ("predict", "predict_tags", "predict_with_exits"):
        with pytest.raises(ValueError, match=r"transition_weight=0.2 needs .* Fit it again"):
            getattr(loaded, method)(WORDS)
    loaded.set_params(warm_start=True).fit(WORDS, SPANS)
    assert are_valid(loaded.predict_tags(WORDS), "BIOES")


def test_weights_of_transitions_are_tuned_without_training(tmp_path):
    trainings = Trainings(tmp_path / "count")
    grid = {"tau": [0.0, 0.5], "transition_weight": [0.0, 0.3, 3.0]}
    model = tiny_token_classifier(
        callbacks=[("count", trainings)], max_epochs=4, class_weight="balanced"
    )
    search = GridSearchCV(model, grid, cv=2).fit(WORDS, TAGS)
    assert trainings.count == 3
    again = clone(model).fit(WORDS[20:], TAGS[20:])
    scores = [
        again.set_params(**params).score(WORDS[:20], TAGS[:20])
        for params in search.cv_results_["params"]
    ]
    assert scores == list(search.cv_results_["split0_test_score"])
    assert len(set(scores)) > 1


# ------------------------------------------------------------------------- several layers of spans


def test_one_layer_with_a_name_is_learned_as_one_without(fitted, tmp_path):
    named = [{"found": tags} for tags in TAGS]
    again = tiny_token_classifier(max_epochs=8).fit(WORDS, named)
    for a, b in zip(again.predict_proba(WORDS), fitted.predict_proba(WORDS), strict=True):
        assert_array_equal(a["found"], b)
    assert again.predict(WORDS) == [{"found": spans} for spans in fitted.predict(WORDS)]
    assert again.set_params(tau=0).score(WORDS, named) == fitted.set_params(tau=0).score(
        WORDS, TAGS
    )
    again.save_pretrained(tmp_path)
    loaded = EPEETokenClassifier.from_pretrained(tmp_path)
    assert loaded.predict_tags(WORDS) == again.predict_tags(WORDS)


def test_layers_of_spans_come_back_as_they_were_given(layered):
    assert list(layered.classes_) == ["drugs", "all"]
    for spans, tags, proba, words in zip(
        layered.predict(WORDS),
        layered.predict_tags(WORDS),
        layered.predict_proba(WORDS),
        WORDS,
        strict=True,
    ):
        assert list(spans) == list(tags) == list(proba) == ["drugs", "all"]
        for name, classes in layered.classes_.items():
            assert proba[name].shape == (len(words), len(classes))
            assert tags[name] == classes[proba[name].argmax(1)].tolist()
    assert layered.score(WORDS, LAYERS) == span_f1_score(
        [{name: in_words(tags) for name, tags in row.items()} for row in LAYERS],
        layered.predict(WORDS),
    )


def test_a_frame_is_a_column_for_each_layer(layered):
    frame = pd.DataFrame(LAYERS)
    again = tiny_token_classifier(max_epochs=4).fit(WORDS, frame)
    assert again.predict(WORDS) == layered.predict(WORDS)
    assert again.score(WORDS, frame) == layered.score(WORDS, LAYERS)


def test_layers_of_spans_exit_together(layered):
    found = layered.set_params(tau=0.6).predict_with_exits(WORDS)
    assert found.entropy[0].shape == (len(WORDS[0]), 2)
    any_layer = layered.set_params(joint_exit="any").predict_exit_layer(WORDS)
    assert (any_layer <= found.exit_layer).all()
    words = layered.set_params(token_exit="token").predict_exit_layer(WORDS)
    assert [len(part) for part in words] == [len(part) for part in WORDS]


def test_scores_need_the_layers_of_the_fit(layered, fitted):
    with pytest.raises(ValueError, match="no layers of spans"):
        layered.score(WORDS, TAGS)
    with pytest.raises(ValueError, match="the layers"):
        fitted.score(WORDS, LAYERS)


def test_scores_count_spans_that_tags_cannot_say(fitted):
    full = fitted.score(WORDS, SPANS)
    more = [[*spans, ((0, 1), (2, 3), "Parts")] for spans in SPANS]
    assert fitted.score(WORDS, more) < full
    assert fitted.score(TEXTS, CHARACTER_SPANS) == full
    with pytest.raises(ValueError, match="sample_weight"):
        fitted.score(WORDS, SPANS, sample_weight=np.ones(len(WORDS)))


# --------------------------------------------------------------------------------------- training


def test_weights_of_samples():
    weights = np.ones(len(WORDS))
    weights[::2] = 0
    some = tiny_token_classifier().fit(WORDS, TAGS, sample_weight=weights)
    same = tiny_token_classifier().fit(WORDS[1::2], TAGS[1::2])
    for a, b in zip(some.predict_proba(WORDS), same.predict_proba(WORDS), strict=True):
        assert_array_equal(a, b)


def test_weights_of_tags_find_more_spans():
    plain = tiny_token_classifier().fit(WORDS, TAGS)
    weighted = tiny_token_classifier(class_weight="balanced").fit(WORDS, TAGS)
    outside = [
        np.mean([tag == "O" for tags in model.predict_tags(WORDS) for tag in tags])
        for model in (plain, weighted)
    ]
    assert outside[1] < outside[0]
    by_layer = {"drugs": {"B-Drug": 3}}
    tiny_token_classifier(class_weight=by_layer, max_epochs=1).fit(WORDS, LAYERS)
    with pytest.raises(ValueError, match="class_weight"):
        tiny_token_classifier(class_weight={"other": {}}).fit(WORDS, LAYERS)


def test_what_is_held_out_is_watched():
    model = tiny_token_classifier(
        max_epochs=20, validation_fraction=0.25, early_stopping=True, n_iter_no_change=1
    ).fit(WORDS, TAGS)
    assert all(np.isfinite(epoch["valid_loss"]) for epoch in model.history_)
    assert 0 <= model.history_[-1]["valid_acc"] <= 1


def test_losses_are_means_over_words():
    model = tiny_token_classifier(max_epochs=1, validation_fraction=0.5, batch_size=3)
    batches = model.fit(WORDS, TAGS).history_[-1]["batches"]
    sizes = [batch.get(f"{part}_batch_size", 0) for batch in batches for part in ("train", "valid")]
    assert sum(sizes) == sum(map(len, WORDS))


def test_groups_are_held_out_as_a_whole():
    model = tiny_token_classifier(validation_fraction=0.5)
    groups = np.arange(len(WORDS)) // 5
    data = model._prepare(model._check_samples(WORDS, None), TAGS, None, groups)
    train, valid = data.held_out(0.5, 0)
    assert set(groups[train]).isdisjoint(groups[valid])
    assert len(train)
    assert len(valid)
    model.fit(WORDS, TAGS, groups=groups)


@pytest.mark.parametrize(
    "exit_training", ["mixed", "distillation", "mixed+distillation", "detached"]
)
def test_every_training_recipe_trains_words(exit_training):
    model = tiny_token_classifier(exit_training=exit_training, max_epochs=8).fit(WORDS, TAGS)
    assert model.set_params(tau=0).score(WORDS, TAGS) > 0.5


@pytest.mark.parametrize(
    "family", ["roberta", "deberta-v2", "modernbert", "gpt2", "mpnet", "llama"]
)
def test_checkpoints_of_other_families(family, tmp_path):
    checkpoint = make_checkpoint(family, tmp_path / family)
    model = EPEETokenClassifier(
        str(checkpoint), max_epochs=1, batch_size=20, random_state=0, precision="float32"
    ).fit(WORDS, TAGS)
    for token_exit in ("sentence", "token"):
        model.set_params(token_exit=token_exit, tau=0.9)
        assert [len(tags) for tags in model.predict_tags(WORDS)] == [len(w) for w in WORDS]


def test_gradient_checkpointing_learns_the_same(fitted):
    again = tiny_token_classifier(max_epochs=8, gradient_checkpointing=True).fit(WORDS, TAGS)
    same_proba(again.predict_proba(WORDS), fitted.predict_proba(WORDS))


def test_warm_start_goes_on():
    model = tiny_token_classifier(warm_start=True).fit(WORDS, TAGS)
    first = model.history_[-1]["train_loss"]
    assert model.fit(WORDS, TAGS).history_[-1]["train_loss"] < first
    with pytest.raises(ValueError, match="warm_start"):
        model.fit(WORDS[:4], [["B-Other"] * len(words) for words in WORDS[:4]])


def test_bfloat16_predicts_nearly_the_same(fitted):
    exact = np.concatenate(fitted.predict_proba(WORDS))
    rounded = np.concatenate(fitted.set_params(precision="bfloat16").predict_proba(WORDS))
    assert_allclose(exact, rounded, atol=0.1)


# ----------------------------------------------------------------------------- scikit-learn's ways


def test_a_search_over_policies_trains_each_fold_once(tmp_path):
    trainings = Trainings(tmp_path / "count")
    grid = {"tau": [0.0, 0.5], "patience": [1, 3], "token_exit": ["sentence", "token"]}
    model = tiny_token_classifier(callbacks=[("count", trainings)], max_epochs=1)
    search = GridSearchCV(model, grid, cv=2).fit(WORDS, LAYERS)
    assert trainings.count == 3
    assert search.predict(WORDS[:1])[0].keys() == {"drugs", "all"}


def test_cross_validation_and_pipelines(fitted):
    scores = cross_val_score(tiny_token_classifier(), WORDS, TAGS, cv=KFold(2))
    assert scores.shape == (2,)
    model = tiny_token_classifier(max_epochs=8)
    pipe = make_pipeline(FunctionTransformer(list), model).fit(WORDS, TAGS)
    assert pipe.predict(WORDS) == fitted.predict(WORDS)
    assert pipe.score(WORDS, TAGS) == fitted.score(WORDS, TAGS)


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_scores_of_policies_count_rows(fitted, layered, token_exit):
    for model, y in ((fitted, TAGS), (layered, LAYERS)):
        model.set_params(tau=0.6, patience=2, token_exit=token_exit)
        scores = exit_scores(model, WORDS, y)
        assert scores["speedup"] == speedup_score(model, WORDS)
        assert 0 < scores["speedup"] < 1
        assert scores["span_f1"] == model.score(WORDS, y)
    assert {"span_f1_drugs", "span_f1_all"} <= set(scores)


def test_clones_are_unfitted_and_equal(fitted):
    copied = clone(fitted)
    assert not hasattr(copied, "classes_")
    params, others = copied.get_params(), fitted.get_params()
    params.pop("backbone"), others.pop("backbone")
    assert params == others


def test_pickled_and_copied(fitted, layered):
    for model in (fitted, layered):
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            same = again.predict_with_exits(WORDS)
            assert same.spans == model.predict(WORDS)
            assert again.classes_ is not None


LOAD = """
import pickle, sys
from pathlib import Path
import joblib
from tests.test_tokens import LAYERS, WORDS
folder = Path(sys.argv[1])
found = []
for name in ("plain", "layered"):
    for loaded in (joblib.load(folder / name), pickle.loads((folder / f"{name}.pkl").read_bytes())):
        for token_exit in ("sentence", "token"):
            found.append(loaded.set_params(token_exit=token_exit).predict_with_exits(WORDS))
joblib.dump([(dict(part)) for part in found], folder / "found")
"""


@pytest.mark.slow
def test_another_process_predicts_the_same(fitted, layered, tmp_path):
    expected = []
    for name, model in (("plain", fitted), ("layered", layered)):
        model.set_params(tau=0.5, transition_weight=0.4)
        joblib.dump(model, tmp_path / name)
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(model))
        both = [
            model.set_params(token_exit=token_exit).predict_with_exits(WORDS)
            for token_exit in ("sentence", "token")
        ]
        expected += both * 2
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], env=os.environ | environment, check=True
    )
    for found, mine in zip(joblib.load(tmp_path / "found"), expected, strict=True):
        assert found["spans"] == mine.spans
        assert_array_equal(np.concatenate(found["entropy"]), np.concatenate(mine.entropy))
        assert_array_equal(found["rows_computed"], mine.rows_computed)


def test_a_tokenizer_written_in_python(fitted, monkeypatch):
    tokenizer = tiny_tokenizer("bert")
    given = tiny_token_classifier(tokenizer=tokenizer, max_epochs=1).fit(WORDS, TAGS)
    expected = given.predict_proba(WORDS)
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    slow = tiny_token_classifier(tokenizer=tokenizer, max_epochs=1, memory=None).fit(WORDS, TAGS)
    same_proba(slow.predict_proba(WORDS), expected)


def test_no_warnings_where_there_is_nothing_to_say(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict(WORDS)
        tiny_token_classifier(max_epochs=1).fit(WORDS, TAGS)


# -------------------------------------------------------------------------------------- real data


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(
    not os.environ.get("SKLEARN_EPEE_DATA"),
    reason="SKLEARN_EPEE_DATA does not name a folder of data",
)
def test_triggers_of_real_events_are_learned():
    data = load_phee_events(subset="dev")
    model = tiny_token_classifier(max_epochs=6, max_length=64, tau=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than max_length")
        model.fit(data.data[:400], data.target[:400])
        predicted = model.predict(data.data[400:])
    assert span_f1_score(data.target[400:], predicted, layer="trigger") > 0.2
    for text, layers in zip(data.data[400:], predicted, strict=True):
        for start, end, _ in (span for spans in layers.values() for span in spans):
            assert text[start:end] == text[start:end].strip() != ""
