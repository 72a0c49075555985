"""Estimators that only have the first layers of a fitted one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import make_case_reports

from .classifiers import (
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
)
from .tagged import tagged_sentences, tiny_token_classifier

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

# The estimator, and how many of its layers are kept.
KINDS = {
    "texts": (tiny_text_classifier, 2),
    "images": (tiny_image_classifier, 2),
    "words": (tiny_token_classifier, 2),
    "towers": (tiny_multimodal_classifier, 4),
}


@pytest.fixture(scope="module")
def fitted(notes, digits):
    data = {
        "texts": notes,
        "images": digits,
        "words": tagged_sentences(16),
        "towers": make_case_reports(24, random_state=0),
    }
    return {
        kind: (make(max_epochs=1, memory=None).fit(*data[kind]), data[kind])
        for kind, (make, _) in KINDS.items()
    }


def same(first, second):
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return np.array_equal(first, second, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_exits_are_the_first_ones(kind, fitted):
    model, (X, _) = fitted[kind]
    n_layers = KINDS[kind][1]
    shorter = model.first_layers(n_layers)
    assert (shorter.n_layers_, model.n_layers_) == (n_layers, n_layers + 1)
    for layer in range(1, n_layers + 1):
        ours, theirs = (each.predict_proba_at_layer(X, layer) for each in (shorter, model))
        assert same(ours, theirs)
    policy = {"tau": 0.9, "patience": 2}
    ours, theirs = (each.set_params(**policy) for each in (shorter, model))
    exits = ours.predict_exit_layer(X)
    assert_array_equal(exits, np.minimum(theirs.predict_exit_layer(X), n_layers))
    assert same(shorter.classes_, model.classes_)
    assert shorter.history_ == model.history_


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_read(kind, fitted, tmp_path):
    model, (X, _) = fitted[kind]
    shorter = model.first_layers(KINDS[kind][1])
    again = pickle.loads(pickle.dumps(shorter))
    shorter.save_pretrained(tmp_path / "saved")
    read = type(model).from_pretrained(tmp_path / "saved")
    for other in (again, read):
        assert other.n_layers_ == shorter.n_layers_
        assert same(other.predict_proba(X), shorter.predict_proba(X))


def test_weights_are_not_shared(fitted):
    model, (X, y) = fitted["texts"]
    before = model.predict_proba_at_layer(X, 2)
    shorter = model.first_layers(2).set_params(warm_start=True, learning_rate=0.1)
    shorter.fit(X, y)
    assert shorter.n_layers_ == 2
    assert not np.allclose(shorter.predict_proba_at_layer(X, 2), before)
    assert_array_equal(model.predict_proba_at_layer(X, 2), before)


def test_a_new_fit_has_all_layers(fitted):
    model, (X, y) = fitted["texts"]
    shorter = model.first_layers(2)
    assert clone(shorter).get_params()["backbone"] is not None
    assert shorter.fit(X, y).n_layers_ == 3


def test_its_policy_is_tuned_like_any_other(fitted):
    model, (X, y) = fitted["texts"]
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(model.first_layers(2)), min_speedup=0.2)
    tuned.fit(X, y)
    assert tuned.predict_exit_layer(X).max() <= 2


def test_weights_of_the_exits_are_those_of_the_layers(notes, tmp_path):
    X, y = notes
    model = tiny_text_classifier(max_epochs=1, memory=None, exit_loss_weights=[2, 1, 0])
    model.fit(X, y)
    shorter = model.first_layers(2)
    assert_array_equal(shorter.exit_loss_weights, [2, 1])
    assert model.exit_loss_weights == [2, 1, 0]
    shorter.save_pretrained(tmp_path / "saved")
    assert_array_equal(EPEEClassifier.from_pretrained(tmp_path / "saved").exit_weights_, [2, 1])
    with pytest.raises(ValueError, match="the exit of layer 3 was not trained"):
        model.first_layers(3)


@pytest.mark.parametrize(
    ("n_layers", "error", "message"),
    [
        (0, ValueError, "from 1 to 3, the number of layers of this estimator; got 0"),
        (4, ValueError, "from 1 to 3"),
        (2.0, TypeError, "must be an integer from 1 to 3; got 2.0 of type float"),
        (True, TypeError, "got True of type bool"),
    ],
)
def test_numbers_of_layers_are_checked(n_layers, error, message, fitted):
    model, _ = fitted["texts"]
    with pytest.raises(error, match=message):
        model.first_layers(n_layers)


def test_costs_are_shares_of_the_layers_that_are_left(fitted):
    model, _ = fitted["towers"]
    shorter = model.first_layers(4)
    assert shorter.n_tower_layers_ == (3, 1)
    np.testing.assert_allclose(shorter.exit_costs_, model.exit_costs_[:4] / model.exit_costs_[3])


def test_both_backbones_are_needed(fitted):
    model, _ = fitted["towers"]
    with pytest.raises(ValueError, match=r"n_layers=2 would leave out the second backbone; expected at least 4"):
        model.first_layers(2)


def test_it_must_be_fitted():
    with pytest.raises(NotFittedError):
        tiny_text_classifier().first_layers(2)
