"""precision="int8" of the estimators: what is measured, kept, shared in a search, and refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee._base import int8_choice, precision_report
from sklearn_epee._nn import devices
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee.datasets import make_case_reports

from .checkpoints import tiny_config
from .classifiers import tiny_image_classifier, tiny_multimodal_classifier, tiny_text_classifier
from .tagged import tagged_sentences, tiny_token_classifier
from .trainings import Trainings

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

with_int8 = pytest.mark.skipif(bool(why_not_int8()), reason=f"no 8-bit products: {why_not_int8()}")
GROUPS = {"attention", "out", "up", "down"}


@pytest.fixture(scope="module")
def _fitted(notes):
    return tiny_text_classifier(precision="int8").fit(*notes)


@pytest.fixture
def fitted(_fitted):
    """A text classifier that was fitted with precision="int8"; every test has its own."""
    return copy.copy(_fitted)


def staged(classifier, X):
    return np.stack(list(classifier.staged_predict_proba(X)), axis=1)


# ----------------------------------------------------------------------------------- what it does


@with_int8
def test_the_report_says_what_is_rounded_and_what_that_changes(fitted, notes):
    report = fitted.precision_report_
    assert [set(layer) for layer in report.layers] == [GROUPS] * fitted.n_layers_
    assert {kind for layer in report.layers for kind in layer.values()} <= {"int8", report.rest}
    assert report.n_samples == len(notes[0])
    exact = staged(fitted.set_params(precision="float32"), notes[0])
    rounded = staged(fitted.set_params(precision="int8"), notes[0])
    change = np.abs(exact - rounded).sum(axis=2) / 2
    assert change.max() > 0
    assert_allclose(report.mean_change, change.mean(), rtol=1e-3)
    assert_allclose(report.largest_change, change.max(), rtol=1e-3)
    changed = (exact.argmax(2) != rounded.argmax(2)).mean(axis=0)
    assert_allclose(report.changed_predictions, changed)
    logs = [np.log(proba) - np.log(proba).mean(axis=2, keepdims=True) for proba in (exact, rounded)]
    moved, varies = (
        np.sqrt((part**2).mean(axis=(0, 2)))
        for part in (logs[1] - logs[0], logs[0] - logs[0].mean(axis=0))
    )
    # Variations below 1 count as 1.
    assert_allclose(report.log_change, (moved / np.maximum(varies, 1)).max(), rtol=1e-2)
    assert report.log_change <= 0.006
    said = str(report)
    assert "12 of 12 groups" in said
    assert f"on {len(notes[0])} training samples" in said
    assert "at tau=0.1" in said


@with_int8
def test_precision_can_be_changed_after_the_fit(fitted, notes):
    proba = {
        precision: fitted.set_params(precision=precision).predict_proba(notes[0])
        for precision in ("int8", "bfloat16", "float32", "int8")
    }
    again = fitted.predict_proba(notes[0])
    assert_array_equal(again, proba["int8"])
    assert not np.array_equal(proba["int8"], proba["bfloat16"])
    assert_allclose(proba["int8"], proba["float32"], atol=0.02)
    # The weights are those of any other fit.
    other = tiny_text_classifier(precision="auto").fit(*notes).set_params(precision="float32")
    assert_array_equal(other.predict_proba(notes[0]), proba["float32"])


@with_int8
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_prediction_does_not_depend_on_its_batch(fitted, notes, batch_size):
    expected = staged(fitted, notes[0])
    found = staged(fitted.set_params(predict_batch_size=batch_size), notes[0])
    assert_allclose(found, expected, atol=1e-6)


@with_int8
def test_images_words_labels_windows_and_cases(notes, digits):
    X, y = notes
    words, tags = tagged_sentences(20)
    labels = np.array([["started" in text, "vitamin" in text] for text in X])
    cases = make_case_reports(30, missing_fraction=0.3, random_state=0)
    quick = {"precision": "int8", "max_epochs": 1}
    windows = tiny_text_classifier(long_texts="windows", window_length=12, **quick)
    for classifier, samples, target in (
        (tiny_image_classifier(**quick), *digits),
        (tiny_token_classifier(**quick), words, tags),
        (tiny_text_classifier(**quick), X, labels),
        (tiny_text_classifier(**quick), X, np.stack([y, y], axis=1)),
        (windows, X, y),
        (tiny_multimodal_classifier(**quick), *cases),
    ):
        fitted = classifier.fit(samples, target)
        report = fitted.precision_report_
        assert len(report.layers) == fitted.n_layers_
        assert any(kind == "int8" for layer in report.layers for kind in layer.values())
        assert np.isfinite(report.mean_change)
        assert report.changed_exits.keys() == {0.02, 0.1, 0.3}
        proba = fitted.predict_proba(samples)
        exact = fitted.set_params(precision="float32").predict_proba(samples)
        for found, expected in zip(proba, exact, strict=True):
            assert_allclose(found, expected, atol=0.03)


@with_int8
@pytest.mark.parametrize("limit", ["MAX_CHANGE", "MAX_LOG_CHANGE"])
def test_a_change_that_is_too_large_leaves_less_in_8_bits(notes, monkeypatch, limit):
    monkeypatch.setattr(int8_choice, limit, -1.0)
    monkeypatch.setattr(int8_choice, "_OF_REST", 0.0)
    fitted = tiny_text_classifier(precision="int8", memory=None).fit(*notes)
    report = fitted.precision_report_
    assert {kind for layer in report.layers for kind in layer.values()} == {report.rest}
    assert "0 of 12 groups" in str(report)
    assert "Layer 3 keeps in" in str(report)
    proba = fitted.predict_proba(notes[0])
    assert_array_equal(fitted.set_params(precision="auto").predict_proba(notes[0]), proba)


def test_sure_predictions_are_compared_by_their_logarithms():
    exact = np.array([[[1 - 1e-6, 1e-6]], [[1e-6, 1 - 1e-6]], [[np.nan, np.nan]]], np.float32)
    rounded = np.array([[[1 - 2e-6, 2e-6]], [[1e-6, 1 - 1e-6]], [[np.nan, np.nan]]], np.float32)
    assert np.nanmean(int8_choice._changes(exact, rounded, [2])) < 1e-6
    expected = (np.log(2) / 2 * 2**-0.5) / (np.log(1e6) / 2)
    assert_allclose(int8_choice._log_changes(exact, rounded, [2]), expected, rtol=1e-2)
    assert int8_choice._log_changes(exact, exact, [2]) == 0


@with_int8
def test_samples_are_few_where_they_are_long():
    class Encoded:
        windows = None

        def __init__(self, samples):
            self.lengths = np.full(len(samples), 512)

    samples = list(range(1000))
    found = precision_report.some_samples(samples, lambda part: [Encoded(part)], seed=0)
    assert len(found) == len(set(found)) == 64
    assert found == precision_report.some_samples(samples, lambda part: [Encoded(part)], seed=0)


# ------------------------------------------------------------------------- fitted in another way


@with_int8
def test_a_fit_in_another_precision_is_calibrated_afterwards(notes):
    fitted = tiny_text_classifier(precision="auto").fit(*notes)
    with pytest.raises(AttributeError, match=r"precision_report_.*calibrate_int8"):
        _ = fitted.precision_report_
    expected = fitted.predict_proba(notes[0])
    with pytest.raises(ValueError, match=r"scales that are measured.*calibrate_int8\(X\)"):
        fitted.set_params(precision="int8").predict(notes[0])
    with pytest.raises(ValueError, match="X holds no texts"):
        fitted.calibrate_int8([])
    assert fitted.calibrate_int8(notes[0]) is fitted
    rounded = fitted.predict_proba(notes[0])
    assert fitted.precision_report_.n_samples == len(notes[0])
    assert_allclose(rounded, expected, atol=0.02)
    assert_array_equal(fitted.set_params(precision="auto").predict_proba(notes[0]), expected)
    # A new training has other weights, and other scales.
    fitted.set_params(warm_start=True).fit(*notes)
    with pytest.raises(AttributeError, match="calibrate_int8"):
        _ = fitted.precision_report_
    assert fitted.set_params(precision="int8").fit(*notes).precision_report_.mean_change < 0.01


@with_int8
def test_a_copy_predicts_the_same_and_holds_no_text(fitted, notes):
    content = pickle.dumps(fitted)
    loaded = pickle.loads(content)
    assert str(loaded.precision_report_) == str(fitted.precision_report_)
    assert_array_equal(loaded.predict_proba(notes[0]), fitted.predict_proba(notes[0]))
    assert notes[0][0].encode() not in content


# ------------------------------------------------------------------------------ searches and tuners


@with_int8
def test_candidates_of_a_search_share_networks_but_not_across_precisions(notes, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    classifier = tiny_text_classifier(callbacks=[trainings], tau=0.3)
    grid = {"precision": ["float32", "int8"], "tau": [0.0, 0.3]}
    found = GridSearchCV(classifier, grid, cv=2, scoring="neg_log_loss", refit=False).fit(*notes)
    # float32 and what int8 trains in may be different trainings.
    assert trainings.count <= 4
    alone = clone(classifier).set_params(memory=None, precision="int8")
    scores = cross_val_score(alone, *notes, cv=2, scoring="neg_log_loss")
    row = found.cv_results_["params"].index({"precision": "int8", "tau": 0.3})
    shared = [found.cv_results_[f"split{fold}_test_score"][row] for fold in range(2)]
    assert_allclose(shared, scores, rtol=1e-6)
    exact = found.cv_results_["params"].index({"precision": "float32", "tau": 0.3})
    assert found.cv_results_["split0_test_score"][exact] != shared[0]


@with_int8
def test_a_tuned_policy_is_chosen_on_int8_predictions(notes):
    classifier = tiny_text_classifier(precision="int8")
    tuned = TunedExitPolicyClassifierCV(classifier, cv=2).fit(*notes)
    inner = tuned.estimator_
    assert inner.precision == "int8"
    assert inner.precision_report_.n_samples == len(notes[0])
    assert tuned.predict(notes[0]).shape == (len(notes[0]),)


# --------------------------------------------------------------------------------- what is refused


def test_a_processor_without_8_bit_products_is_refused(notes, monkeypatch):
    fitted = tiny_text_classifier().fit(*notes)
    monkeypatch.setattr(devices, "why_not_int8", lambda: "it is too old")
    with pytest.raises(
        ValueError, match=r"precision='int8'.*'cpu': it is too old. Expected 'auto'"
    ):
        tiny_text_classifier(precision="int8").fit(*notes)
    with pytest.raises(ValueError, match="too old"):
        fitted.set_params(precision="int8").predict(notes[0])
    with pytest.raises(ValueError, match="too old"):
        fitted.calibrate_int8(notes[0])
    assert fitted.set_params(precision="float32").predict(notes[0]).shape == (len(notes[0]),)


def test_a_gpu_is_refused():
    with pytest.raises(ValueError, match=r"int8.*device='cuda:0'.* or device='cpu'"):
        devices.prediction_dtype("int8", torch.device("cuda:0"))


@with_int8
def test_layers_that_can_only_be_run_as_a_whole_are_refused_before_the_training(notes, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    options = {"max_epochs": 1, "callbacks": [trainings], "random_state": 0}
    config = tiny_config("gpt_neox", vocab_size=300, max_position_embeddings=128)
    classifier = EPEEClassifier(config, **options)
    with pytest.raises(ValueError, match=r"int8.*'gpt_neox' can only be run as a whole"):
        classifier.set_params(precision="int8").fit(*notes)
    assert trainings.count == 0
    fitted = classifier.set_params(precision="auto").fit(*notes)
    with pytest.raises(ValueError, match="as a whole"):
        fitted.calibrate_int8(notes[0])
    assert fitted.predict(notes[0]).shape == (len(notes[0]),)
