"""Estimators that only have the first layers of a fitted one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer, recall_score
from sklearn.pipeline import Pipeline

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.metrics import span_f1_scorer
from sklearn_epee.monitoring import ExitAudit

from .classifiers import (
    same,
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
)
from .tagged import tagged_sentences, tiny_token_classifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*longer than max_length", "ignore::sklearn_epee.exceptions.ClassRecallWarning"
)

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


@pytest.mark.parametrize("kind", ["texts", "images", "words"])
def test_the_tuner_compares_numbers_of_layers(kind, fitted):
    model, (X, y) = fitted[kind]
    offered = {"n_layers": [1, 2, 9], "tau": [0.0, 0.5, 0.9, 2.0], "patience": [1, 2, 3]}
    words = kind == "words"
    scoring = span_f1_scorer() if words else "accuracy"
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(model), policies=offered, scoring=scoring, store_cv_results=True
    ).fit(X, y)
    table = tuned.cv_results_
    assert sorted(set(table["n_layers"])) == [1, 2, 3]
    assert all(table["patience"] <= table["n_layers"])
    columns = [table[name] for name in ("n_layers", "tau", "patience", "score", "speedup")]
    for n_layers, tau, patience, score, speedup in zip(*columns, strict=True):
        shorter = model.first_layers(n_layers).set_params(tau=tau, patience=int(patience))
        assert get_scorer(scoring)(shorter, X, y) == pytest.approx(score)
        exits = shorter.predict_exit_layer(X)
        weights = shorter.predict_with_exits(X).rows_total if words else None
        assert 1 - np.average(exits, weights=weights) / 3 == pytest.approx(speedup)
    full = (table["n_layers"] == 3) & (table["patience"] == 3) & (table["tau"] == 0)
    assert tuned.full_depth_score_ == pytest.approx(*table["score"][full])
    assert tuned.best_score_ == table["score"].max()


def test_the_chosen_layers_are_those_of_the_estimator(fitted):
    model, (X, y) = fitted["texts"]
    tuned = TunedExitPolicyClassifierCV(
        Pipeline([("clf", model)]), cv="prefit", refit=False, policies={"n_layers": [2]}
    )
    tuned.fit(X, y)
    assert tuned.best_n_layers_ == tuned.n_layers_ == 2
    assert model.n_layers_ == 3
    assert tuned.pareto_front_["n_layers"].tolist() == [2] * len(tuned.pareto_front_["tau"])
    exits = tuned.predict_exit_layer(X)
    assert 1 - exits.mean() / 3 == pytest.approx(tuned.best_speedup_)
    assert_array_equal(tuned.class_report_["full_depth_recall"], recalls(model, X, y))
    assert tuned.full_depth_n_layers_ == 3
    with pytest.raises(ValueError, match="tuned relative to 3 layers, but only has the first 2"):
        ExitAudit(Pipeline([("tuned", tuned)]), max_disagreement=0.1)
    ExitAudit(model.first_layers(2), max_disagreement=0.1)  # relative to its own last layer


def recalls(model, X, y):
    return recall_score(y, model.predict_at_layer(X, -1), average=None, labels=model.classes_)


def test_the_network_of_a_refit_is_shortened(notes):
    X, y = notes
    tuned = TunedExitPolicyClassifierCV(
        tiny_text_classifier(max_epochs=1, memory=None), cv=2, policies={"n_layers": [2]}
    ).fit(X, y)
    assert (tuned.best_n_layers_, tuned.n_layers_, tuned.full_depth_n_layers_) == (2, 2, 3)
    assert tuned.predict_exit_layer(X).max() <= 2


def test_ties_keep_the_most_layers(fitted):
    model, (X, y) = fitted["texts"]
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(model), policies={"n_layers": "all", "tau": [2.0]}
    ).fit(X, y)
    assert (tuned.best_n_layers_, tuned.n_layers_) == (3, 3)  # all samples exit at layer 1
    default = TunedExitPolicyClassifierCV(FrozenEstimator(model)).fit(X, y)
    assert default.best_n_layers_ == 3


def test_guarantees_are_about_one_number_of_layers(fitted):
    model, (X, y) = fitted["texts"]
    options = {"risk": "disagreement", "max_risk": 0.9, "confidence": 0.9}
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(model), policies={"n_layers": [2]}, random_state=0, **options
    ).fit(X, y)
    assert tuned.certified_
    assert tuned.candidates_["patience"].max() == 2
    assert tuned.best_n_layers_ == tuned.n_layers_ == 2
    # Against layer 2, which is the last one left, the strictest policy would have no risk.
    assert (model.predict_at_layer(X, 2) != model.predict_at_layer(X, 3)).mean() > 0.2
    assert tuned.candidates_["risk"][0] > 0
    strict = TunedExitPolicyClassifierCV(
        FrozenEstimator(model), policies={"n_layers": [2]}, **options | {"max_risk": 1e-6}
    )
    with pytest.warns(UserWarning, match="full depth"):
        strict.fit(X, y)
    assert not strict.certified_
    assert strict.best_n_layers_ == strict.n_layers_ == 3  # full depth
    with pytest.raises(ValueError, match=r"policies\['n_layers'\] must hold a single value"):
        TunedExitPolicyClassifierCV(
            FrozenEstimator(model), policies={"n_layers": [1, 2]}, **options
        ).fit(X, y)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("towers", {}, "for a classifier with two backbones"),
        ("words", {"token_exit": "token"}, "with token_exit='token'"),
        ("texts", {"precision": "int8"}, "with precision='int8'"),
    ],
)
def test_estimators_that_the_tuner_cannot_shorten_are_refused(kind, options, message, fitted):
    model, (X, y) = fitted[kind]
    model = copy.copy(model).set_params(**options)
    policies = {"n_layers": [2], "tau": [0.1]}
    with pytest.raises(ValueError, match=f"cannot have the key 'n_layers' {message}"):
        TunedExitPolicyClassifierCV(FrozenEstimator(model), policies=policies).fit(X, y)


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
        (0, ValueError, "must be an integer >= 1; got 0"),
        (4, ValueError, "at most 3, the number of layers of this estimator; got 4"),
        (2.0, TypeError, "must be an integer >= 1; got 2.0"),
        (True, TypeError, "must be an integer >= 1; got True"),
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
    with pytest.raises(
        ValueError, match=r"n_layers=2 would leave out the second backbone; expected at least 4"
    ):
        model.first_layers(2)


def test_it_must_be_fitted():
    with pytest.raises(NotFittedError):
        tiny_text_classifier().first_layers(2)
