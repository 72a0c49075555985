"""The estimators inside scikit-learn's own tools, and on every form of input."""

from __future__ import annotations

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import exit_scores

from .classifiers import tiny_image_classifier, tiny_text_classifier


def state(fitted):
    return {name: part.clone() for name, part in fitted.net_.module_.state_dict().items()}


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_valid_probabilities(proba, n, n_classes):
    assert proba.shape == (n, n_classes)
    assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


# --------------------------------------------------------------------------- clone and set_params


def test_a_clone_has_the_parameters_and_nothing_learned(text_classifier, texts):
    twin = clone(text_classifier)
    assert twin.get_params().keys() == text_classifier.get_params().keys()
    assert twin.backbone is not text_classifier.backbone
    assert twin.backbone.to_dict() == text_classifier.backbone.to_dict()
    with pytest.raises(NotFittedError):
        twin.predict(texts)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_policies_change_after_fit_and_weights_do_not(kind, request, texts, digits):
    fitted = request.getfixturevalue(f"{kind}_classifier")
    X = texts if kind == "text" else digits[0]
    before, net = state(fitted), fitted.net_
    staged = np.stack(list(fitted.staged_predict_proba(X)), axis=1)
    assert set(fitted.set_params(tau=0, patience=1).predict_exit_layer(X)) == {1}
    assert_allclose(fitted.predict_proba(X), staged[:, 0], atol=1e-6)
    assert set(fitted.set_params(patience=None).predict_exit_layer(X)) == {3}
    assert_allclose(fitted.predict_proba(X), staged[:, -1], atol=1e-6)
    assert set(fitted.set_params(tau=1.5).predict_exit_layer(X)) == {1}
    fitted.set_params(tau=0, patience=2)
    agrees = staged[:, 0].argmax(1) == staged[:, 1].argmax(1)
    assert_array_equal(fitted.predict_exit_layer(X), np.where(agrees, 2, 3))
    fitted.set_params(exit_ensemble="mean", patience=None)
    assert_allclose(fitted.predict_proba(X), staged.mean(axis=1), atol=1e-6)
    fitted.set_params(predict_batch_size=3, verbose=1, memory=None)
    assert_allclose(fitted.predict_proba(X), staged.mean(axis=1), atol=1e-5)
    assert fitted.net_ is net
    assert_same_state(before, state(fitted))


def test_bfloat16_prediction_and_back(text_classifier, texts):
    exact = text_classifier.predict_proba(texts)
    before = state(text_classifier)
    rough = text_classifier.set_params(precision="bfloat16").predict_proba(texts)
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert_allclose(rough, exact, atol=0.05)
    assert_array_equal(text_classifier.set_params(precision="float32").predict_proba(texts), exact)
    assert_same_state(before, state(text_classifier))


def test_a_parameter_that_is_not_valid_after_fit_is_refused_at_prediction(text_classifier, texts):
    for name, value in (("tau", -1), ("patience", 0), ("predict_batch_size", 0)):
        broken = copy.deepcopy(text_classifier).set_params(**{name: value})
        with pytest.raises(ValueError, match=name):
            broken.predict(texts)


def test_deep_copies_are_independent(text_classifier, texts):
    twin = copy.deepcopy(text_classifier)
    proba = text_classifier.predict_proba(texts)
    assert_array_equal(twin.predict_proba(texts), proba)
    with torch.no_grad():
        for part in twin.net_.module_.parameters():
            part.zero_()
    assert_array_equal(text_classifier.predict_proba(texts), proba)


def test_prediction_leaves_no_trace(text_classifier, texts):
    before = dict(vars(text_classifier))
    weights, random = state(text_classifier), torch.get_rng_state()
    text_classifier.predict(texts)
    list(text_classifier.staged_predict(texts))
    text_classifier.predict_at_layer(texts, -1)
    assert vars(text_classifier) == before
    assert_same_state(weights, state(text_classifier))
    assert torch.equal(torch.get_rng_state(), random)


def test_training_leaves_the_global_random_states_alone(notes):
    state_torch, state_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for seed in (0, None):
        tiny_text_classifier(max_epochs=1, random_state=seed).fit(*notes)
    assert torch.equal(torch.get_rng_state(), state_torch)
    assert_array_equal(np.random.get_state()[1], state_numpy)  # noqa: NPY002


# --------------------------------------------------------------------- pipelines and wrappers


def lowered(texts):
    return [text.lower() for text in texts]


def test_a_pipeline_predicts_as_its_steps_one_by_one(notes):
    X, y = notes
    pipeline = make_pipeline(FunctionTransformer(lowered), tiny_text_classifier()).fit(X, y)
    alone = tiny_text_classifier().fit(lowered(X), y)
    assert_array_equal(pipeline.predict_proba(X), alone.predict_proba(lowered(X)))
    assert_array_equal(pipeline.classes_, np.unique(y))
    assert pipeline.score(X, y) == alone.score(lowered(X), y)
    pipeline.set_params(epeeclassifier__patience=1)
    assert exit_scores(pipeline, X, y)["mean_exit_layer"] == pytest.approx(1)


def test_a_text_column_beside_others(notes):
    X, y = notes
    frame = pd.DataFrame({"age": np.arange(len(X)), "note": X})
    take_notes = ColumnTransformer([("note", "passthrough", ["note"])])
    fitted = make_pipeline(take_notes, tiny_text_classifier()).fit(frame, y)
    assert_array_equal(fitted.predict_proba(frame), predictions_of(X, y))
    columns = ColumnTransformer(
        [("age", "passthrough", ["age"]), ("note", ExitProbabilities(), "note")]
    )
    fitted = make_pipeline(columns, LogisticRegression()).fit(frame, y)
    assert_valid_probabilities(fitted.predict_proba(frame), len(X), 4)


class ExitProbabilities(FunctionTransformer):
    """A user's transformer: the class probabilities of a fitted text classifier as features."""

    def fit(self, X, y=None):
        self.classifier_ = tiny_text_classifier().fit(X, y)
        return self

    def transform(self, X):
        return self.classifier_.predict_proba(X)


def predictions_of(X, y, **parameters):
    return tiny_text_classifier(**parameters).fit(X, y).predict_proba(X)


def test_pandas_output_of_an_earlier_step(notes):
    X, y = notes
    frame = pd.DataFrame({"note": X})
    step = FunctionTransformer(lambda frame: frame).set_output(transform="pandas")
    fitted = make_pipeline(step, tiny_text_classifier()).fit(frame, y)
    assert_array_equal(fitted.predict_proba(frame), predictions_of(X, y))


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_scikit_learn_calibrates_the_probabilities(notes, method):
    X, y = notes
    if method == "temperature" and sklearn.__version__.startswith("1.7."):
        pytest.skip("scikit-learn has had temperatures since 1.8")
    calibrated = CalibratedClassifierCV(tiny_text_classifier(), method=method, cv=2).fit(X, y)
    assert_valid_probabilities(calibrated.predict_proba(X), len(X), 4)


def test_calibration_of_a_frozen_classifier(text_classifier, notes):
    X, y = notes
    before = state(text_classifier)
    calibrated = CalibratedClassifierCV(FrozenEstimator(text_classifier)).fit(X, y)
    assert_valid_probabilities(calibrated.predict_proba(X), len(X), 4)
    assert_same_state(before, state(text_classifier))
    assert exit_scores(calibrated, X, y)["speedup"] >= 0


def test_soft_vote_and_stack_with_a_bag_of_words(notes):
    X, y = notes
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    members = [("exits", tiny_text_classifier()), ("words", words)]
    voting = VotingClassifier(members, voting="soft").fit(X, y)
    parts = [member.predict_proba(X) for member in voting.estimators_]
    assert_allclose(voting.predict_proba(X), np.mean(parts, axis=0))
    stacking = StackingClassifier(members, cv=2).fit(X, y)
    assert_valid_probabilities(stacking.predict_proba(X), len(X), 4)


def test_bags_and_one_against_the_rest_of_images(digits):
    X, y = digits
    rows = X.reshape(len(X), -1)
    base = tiny_image_classifier(image_shape=(8, 8), max_epochs=1)
    bag = BaggingClassifier(base, n_estimators=2, random_state=0).fit(rows, y)
    assert_valid_probabilities(bag.predict_proba(rows), len(X), 3)
    one_vs_rest = OneVsRestClassifier(base).fit(rows, y)
    assert one_vs_rest.predict_proba(rows).shape == (len(X), 3)


def test_cross_validation_tools(notes):
    X, y = notes
    proba = cross_val_predict(tiny_text_classifier(), X, y, cv=3, method="predict_proba")
    assert_valid_probabilities(proba, len(X), 4)
    labels = cross_val_predict(tiny_text_classifier(), X, y, cv=3)
    assert_array_equal(labels, np.unique(y)[proba.argmax(1)])
    result = cross_validate(
        tiny_text_classifier(), X, y, cv=3, scoring=exit_scores, return_estimator=True
    )
    assert result["test_accuracy"].mean() == pytest.approx(np.mean(labels == y), abs=0.05)
    assert all(fitted.n_layers_ == 3 for fitted in result["estimator"])


def test_a_frozen_classifier_predicts_as_it_did(text_classifier, texts):
    X = texts
    frozen = FrozenEstimator(text_classifier)
    proba = text_classifier.predict_proba(X)
    frozen.fit(["something else"], ["continuing"])
    assert_array_equal(frozen.predict_proba(X), proba)
    assert_array_equal(clone(frozen).predict_proba(X), proba)


# --------------------------------------------------------------------------------- forms of input

TEXT_FORMS = {
    "tuple": tuple,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "array of str": np.array,
    "array of str_": lambda texts: [np.str_(text) for text in texts],
    "column": lambda texts: np.array(texts, dtype=object).reshape(-1, 1),
    "pandas": pd.Series,
    "pandas with another index": lambda texts: pd.Series(texts, index=range(100, 100 + len(texts))),
    "pandas strings": lambda texts: pd.Series(texts, dtype="string"),
    "pandas categories": lambda texts: pd.Series(texts, dtype="category"),
    "pandas frame": lambda texts: pd.DataFrame({"text": texts}),
    "polars": pl.Series,
    "polars frame": lambda texts: pl.DataFrame({"text": texts}),
}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_texts_in_every_form(text_classifier, texts, form):
    X = TEXT_FORMS[form](texts)
    assert_array_equal(text_classifier.predict_proba(X), text_classifier.predict_proba(texts))


PAIR_FORMS = {
    "lists": lambda pairs: [list(pair) for pair in pairs],
    "array": lambda pairs: np.array(pairs, dtype=object),
    "array of str": np.array,
    "pandas": lambda pairs: pd.DataFrame(pairs, columns=["note", "drug"]),
    "polars": lambda pairs: pl.DataFrame(pairs, schema=["note", "drug"], orient="row"),
    "arrays": lambda pairs: [np.array(pair) for pair in pairs],
    "series of pairs": pd.Series,
}


@pytest.fixture(scope="module")
def pairs(texts):
    return [(text, text.split()[0]) for text in texts]


@pytest.fixture(scope="module")
def pair_classifier(pairs, labels):
    return tiny_text_classifier().fit(pairs, labels)


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_pairs_in_every_form(pair_classifier, pairs, labels, form):
    X = PAIR_FORMS[form](pairs)
    assert_array_equal(pair_classifier.predict_proba(X), pair_classifier.predict_proba(pairs))
    again = tiny_text_classifier().fit(X, labels)
    assert_array_equal(again.predict_proba(X), pair_classifier.predict_proba(pairs))


def test_both_parts_of_a_pair_are_read_in_their_order(pair_classifier, pairs):
    proba = pair_classifier.predict_proba(pairs)
    swapped = pair_classifier.predict_proba([pair[::-1] for pair in pairs])
    other = pair_classifier.predict_proba([(text, "nothing") for text, _ in pairs])
    assert not np.allclose(proba, swapped)
    assert not np.allclose(proba, other)


def objects(images):
    array = np.empty(len(images), dtype=object)
    array[:] = images
    return array


def read_only(images):
    images = images.copy()
    images.setflags(write=False)
    return images


IMAGE_FORMS = {
    "channel axis": lambda images: images[..., None],
    "float64": lambda images: images.astype(float),
    "list": list,
    "objects": lambda images: objects(list(images)),
    "float images of PIL": lambda images: [Image.fromarray(image, mode=None) for image in images],
    "torch": torch.from_numpy,
    "fortran order": np.asfortranarray,
    "read only": read_only,
}


@pytest.mark.parametrize("form", IMAGE_FORMS)
def test_images_in_every_form(image_classifier, digits, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proba = image_classifier.predict_proba(IMAGE_FORMS[form](digits[0]))
    assert_allclose(proba, image_classifier.predict_proba(digits[0]), atol=1e-6)


@pytest.mark.parametrize("kind", ["list", "pandas", "polars", "objects", "categories"])
def test_labels_in_every_form(texts, labels, text_classifier, kind):
    forms = {
        "list": lambda y: y.tolist(),
        "pandas": pd.Series,
        "polars": pl.Series,
        "objects": lambda y: y.astype(object),
        "categories": lambda y: pd.Series(y, dtype="category"),
    }
    fitted = tiny_text_classifier().fit(texts, forms[kind](labels))
    assert_array_equal(fitted.predict(texts), text_classifier.predict(texts))
    assert_array_equal(fitted.classes_, text_classifier.classes_)


@pytest.mark.parametrize("values", [(False, True), (-1, 1), (3, 7), (0.0, 1.0)])
def test_labels_of_every_type(texts, labels, values):
    y = np.array(values)[(labels == "started").astype(int)]
    fitted = tiny_text_classifier(max_epochs=1).fit(texts, y)
    assert fitted.predict(texts).dtype == y.dtype
    assert set(fitted.predict(texts)) <= set(values)
    assert_array_equal(fitted.classes_, values)


# ---------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("kind", ["text", "image"])
def test_threads_that_predict_at_once_get_what_each_would_get_alone(kind, request, texts, digits):
    fitted = request.getfixturevalue(f"{kind}_classifier")
    X = texts if kind == "text" else digits[0]
    parts = [X[start : start + 15] for start in range(0, 25, 5)] * 4
    methods = [
        fitted.predict_proba,
        fitted.predict_exit_layer,
        lambda part: fitted.predict_proba_at_layer(part, 2),
        lambda part: np.stack(list(fitted.staged_predict_proba(part))),
    ]
    jobs = [(method, part) for part in parts for method in methods]
    alone = [method(part) for method, part in jobs]
    fitted = copy.deepcopy(fitted)  # whose engine no thread has made yet
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: job[0](job[1]), jobs))
    for first, second in zip(alone, together, strict=True):
        assert_array_equal(first, second)


def test_the_first_prediction_may_come_from_many_threads(text_classifier, texts):
    expected = text_classifier.predict_proba(texts)
    fresh = copy.deepcopy(text_classifier)
    with ThreadPoolExecutor(8) as pool:
        for proba in pool.map(fresh.predict_proba, [texts] * 16):
            assert_array_equal(proba, expected)
    fresh = copy.deepcopy(text_classifier).set_params(precision="bfloat16")
    rough = copy.deepcopy(fresh).predict_proba(texts)
    with ThreadPoolExecutor(8) as pool:
        for proba in pool.map(fresh.predict_proba, [texts] * 16):
            assert_array_equal(proba, rough)
