"""Estimators whose heads are not linear: fits, searches, warm starts, what is kept and shown."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_epee import TunedExitPolicyClassifierCV
from sklearn_epee._nn.heads import ExitHead
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.metrics import exit_scores
from sklearn_epee.policy import apply_policy

from .classifiers import (
    same,
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
)
from .tagged import tagged_sentences, tiny_token_classifier
from .trainings import Trainings

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*longer than max_length", "ignore:y holds labels that do not vary"
)

KINDS = {
    "texts": tiny_text_classifier,
    "images": tiny_image_classifier,
    "words": tiny_token_classifier,
    "towers": tiny_multimodal_classifier,
}
LARGER = ("bottleneck", "attention")
KINDS_AND_HEADS = list(itertools.product(KINDS, LARGER))
# What heads of texts read, and how they begin.
OPTIONS = [
    {"pooling": "cls"},
    {"pooling": "cls+mean"},
    {"pooling": "attention"},
    {"pooling": "entity"},
    {"head_init": "regression"},
    {"long_texts": "windows", "window_length": 12},
]


@pytest.fixture(scope="module")
def data(notes, digits):
    return {
        "texts": notes,
        "images": digits,
        "words": tagged_sentences(16),
        "towers": make_case_reports(24, random_state=0),
    }


def make(kind, **parameters):
    options = {"head": "bottleneck", "max_epochs": 1, "memory": None} | parameters
    return KINDS[kind](**options)


def heads_of(model):
    return [part for part in model.net_.module_.modules() if isinstance(part, ExitHead)]


@pytest.mark.parametrize(("kind", "head"), KINDS_AND_HEADS)
def test_every_estimator_has_such_heads_and_keeps_them(kind, head, data):
    X, y = data[kind]
    model = make(kind, head=head).fit(X, y)
    assert len(heads_of(model)) == model.n_layers_
    assert all(getattr(part, head) is not None for part in heads_of(model))
    expected = model.predict_proba(X)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(again.predict_proba(X), expected)
    assert clone(model).get_params()["head"] == head


@pytest.mark.parametrize(("kind", "head"), KINDS_AND_HEADS)
def test_the_first_layers_keep_their_heads(kind, head, data):
    X, y = data[kind]
    model = make(kind, head=head).fit(X, y)
    n_layers = model.n_layers_ - 1
    found = list(model.first_layers(n_layers).staged_predict_proba(X))
    expected = list(model.staged_predict_proba(X))[:n_layers]
    for one, other in zip(found, expected, strict=True):
        assert same(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_heads_are_the_default_and_predict_as_ever(kind, data):
    X, y = data[kind]
    default = KINDS[kind](max_epochs=1, memory=None).fit(X, y)
    linear = make(kind, head="linear").fit(X, y)
    assert default.head == "linear"
    assert all(head.bottleneck is head.attention is None for head in heads_of(default))
    assert same(default.predict_proba(X), linear.predict_proba(X))


@pytest.mark.parametrize("head", LARGER)
@pytest.mark.parametrize("parameters", OPTIONS, ids=str)
def test_budgeted_and_dynamic_predictions_agree(parameters, head, notes):
    X, y = notes
    if parameters.get("pooling") == "entity":
        X = [f"[E1] zinc [/E1] {text} [E2] rash [/E2]" for text in X]
    model = make("texts", head=head, tau=0.9, patience=2, **parameters).fit(X, y)
    staged = np.stack(list(model.staged_predict_proba(X)), axis=1)
    expected, found = apply_policy(staged, 0.9, 2), model.predict_with_exits(X)
    assert_array_equal(found.exit_layer, expected.exit_layer)
    assert_array_equal(found.labels, model.classes_[expected.prediction])


@pytest.mark.parametrize("head", LARGER)
@pytest.mark.parametrize("several", ["tasks", "labels"])
def test_several_tasks_and_labels_are_learned(several, head, notes):
    X, y = notes
    Y = (
        np.stack([y, y[::-1]], 1)
        if several == "tasks"
        else np.eye(4, dtype=int)[:, :3][np.unique(y, return_inverse=True)[1]]
    )
    for head_init in ("random", "regression"):
        model = make("texts", head=head, head_init=head_init).fit(X, Y)
        assert len(heads_of(model)) == (2 if several == "tasks" else 1) * model.n_layers_
        assert model.predict(X).shape == Y.shape


@pytest.mark.parametrize(("kind", "head"), KINDS_AND_HEADS)
def test_a_warm_start_with_other_heads_is_refused(kind, head, data):
    X, y = data[kind]
    model = make(kind, head=head, warm_start=True).fit(X, y)
    expected = model.predict_proba(X)
    model.set_params(head="linear")
    with pytest.raises(ValueError, match=rf"warm_start=True .* head='{head}', got head='linear'"):
        model.fit(X, y)
    assert same(model.predict_proba(X), expected)
    model.set_params(head=head).fit(X, y)
    assert not same(model.predict_proba(X), expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("texts", "pooling"),
        ("images", "pooling"),
        ("towers", "text_pooling"),
        ("towers", "image_pooling"),
    ],
)
def test_a_warm_start_with_another_pooling_is_refused(kind, name, data):
    X, y = data[kind]
    model = make(kind, warm_start=True).fit(X, y)
    expected = model.predict_proba(X)
    model.set_params(**{name: "cls"})
    with pytest.raises(ValueError, match=f"warm_start=True .* {name}='mean', got {name}='cls'"):
        model.fit(X, y)
    assert same(model.predict_proba(X), expected)
    model.set_params(**{name: "mean"}).fit(X, y)
    assert not same(model.predict_proba(X), expected)


def test_pickles_of_before_there_was_a_choice_load_and_predict(text_classifier, notes):
    expected = text_classifier.predict_proba(notes[0])
    state = text_classifier.__getstate__()
    del state["head"]
    loaded = tiny_text_classifier()
    loaded.__setstate__(state)
    assert loaded.head == "linear"
    assert_array_equal(loaded.predict_proba(notes[0]), expected)
    loaded.set_params(warm_start=True, max_epochs=1).fit(*notes)


def test_a_search_over_heads_trains_each_kind_once(notes, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    model = tiny_text_classifier(max_epochs=1, callbacks=[trainings], memory=str(tmp_path / "kept"))
    grid = {"head": ["linear", *LARGER], "tau": [0.1, 0.5], "patience": [1, 2]}
    GridSearchCV(model, grid, cv=2, refit=False).fit(*notes)
    assert trainings.count == 6


@pytest.mark.parametrize("head", LARGER)
def test_policies_are_tuned_on_such_heads(head, notes):
    X, y = notes
    inner = FrozenEstimator(make("texts", head=head).fit(X, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = TunedExitPolicyClassifierCV(inner, min_speedup=0.3).fit(X, y)
    assert exit_scores(tuned, X, y)["speedup"] >= 0.3


@pytest.mark.skipif(bool(why_not_int8()), reason=f"no 8-bit products: {why_not_int8()}")
@pytest.mark.parametrize(("kind", "head"), KINDS_AND_HEADS)
def test_heads_are_not_in_8_bits(kind, head, data):
    X, y = data[kind]
    model = make(kind, head=head).fit(X, y)
    expected = model.predict_proba(X)
    rounded = model.calibrate_int8(X).set_params(precision="int8").predict_proba(X)
    for one, other in zip(rounded, expected, strict=True):
        assert_allclose(one, other, atol=0.05)


@pytest.mark.parametrize("head", LARGER)
def test_the_representation_and_the_card_name_the_heads(head, notes, tmp_path):
    model = make("texts", head=head).fit(*notes)
    assert f"head='{head}'" in repr(model)
    assert head in model._repr_html_()
    model.save_pretrained(tmp_path)
    assert head in (tmp_path / "README.md").read_text()


def test_attention_of_heads_begins_as_none_with_a_regression(notes):
    starts = {}

    class Start(Callback):
        def on_train_begin(self, net, **_):
            starts[net.module_.head] = copy.deepcopy(net.module_.eval())

    for head in ("linear", "attention"):
        make("texts", head=head, head_init="regression", callbacks=[Start()]).fit(*notes)
    assert all(not part.attention.out.weight.any() for part in starts["attention"].heads)
    batch = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4).long()}
    logits = [network(**batch).detach() for network in starts.values()]
    torch.testing.assert_close(*logits)
