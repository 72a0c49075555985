"""Graphs of ONNX of texts with images, against the estimator."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator

from sklearn_epee import ExitCalibratedClassifier
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.onnx_runtime import OnnxExits

from .classifiers import tiny_multimodal_classifier
from .onnx_exports import agree, exported, middle_of_the_widest_gap

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

LEARNT = {"max_epochs": 1, "head_learning_rate": 0.05}


@pytest.fixture(scope="module")
def cases():
    """Forty cases, of which some lack the text and some the image."""
    return make_case_reports(40, missing_fraction=0.5, random_state=0)


def prepared(fitted, X):
    """Return pairs of a text and pixels, as the driver reads them."""
    prepare = fitted._preprocessor.image.transform
    images = [
        None if image is None else np.asarray(image)[np.newaxis, ..., np.newaxis] for _, image in X
    ]
    return [
        (text, None if image is None else prepare(image).numpy()[0])
        for (text, _), image in zip(X, images, strict=True)
    ]


def mixed_policy(fitted, X):
    staged = np.stack(list(fitted.staged_predict_proba(X)), axis=1)[:, :-1]
    entropies = -(staged * np.log(staged)).sum(2) / np.log(staged.shape[2])
    return fitted.set_params(tau=middle_of_the_widest_gap(entropies.ravel()))


@pytest.mark.parametrize("first", ["text", "image"])
@pytest.mark.parametrize("hand_over_after", [None, 1, 2])
def test_cases_exit_as_in_the_estimator(first, hand_over_after, cases, tmp_path):
    X, y = cases
    fitted = tiny_multimodal_classifier(first=first, hand_over_after=hand_over_after, **LEARNT)
    mixed_policy(fitted.fit(X, y), X)
    given, model = prepared(fitted, X), exported(fitted, tmp_path)
    assert model.n_layers == 5
    for batch_size in (1, 7, 64):
        found = model.predict_with_exits(given, batch_size)
        agree(fitted, found, X)
    assert len(set(found["exit_layer"].tolist())) > 2


@pytest.mark.parametrize("options", [
    {"exit_ensemble": "mean"}, {"exit_ensemble": "weighted", "hand_over_after": 2}, {"patience": 2},
    {"patience": 3, "tau": 0.0}, {"text_pooling": "mean", "image_pooling": "cls+mean"},
], ids=str)  # fmt: skip
def test_policies_count_through_both_towers(options, cases, tmp_path):
    X, y = cases
    fitted = tiny_multimodal_classifier(first="image", **(LEARNT | options)).fit(X, y)
    if "tau" not in options:
        mixed_policy(fitted, X)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(prepared(fitted, X)), X)


@pytest.mark.parametrize("several", ["tasks", "labels"])
def test_several_tasks_and_labels_of_cases(several, cases, tmp_path):
    X, y = cases
    target = np.array([y, np.where(np.arange(len(X)) % 2, "a", "b")]).T
    if several == "labels":
        target = np.stack([y == y[0], np.arange(len(X)) % 2], axis=1).astype(int)
    options = {"text_pooling": "attention", "joint_exit": "any", "tau": 0.9, "hand_over_after": 2}
    fitted = tiny_multimodal_classifier(first="text", **LEARNT, **options).fit(X, target)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(prepared(fitted, X)), X)


def test_calibrated_towers_are_exported(cases, tmp_path):
    X, y = cases
    fitted = tiny_multimodal_classifier(first="image", **LEARNT).fit(X, y)
    calibrated = ExitCalibratedClassifier(FrozenEstimator(fitted)).fit(X, y)
    calibrated.export_onnx(tmp_path)
    found = OnnxExits(tmp_path, n_threads=1).predict_with_exits(prepared(fitted, X))
    assert_array_equal(found["exit_layer"], calibrated.predict_exit_layer(X))
    assert_allclose(found["proba"], calibrated.predict_proba(X), atol=1e-4)


def test_cases_as_arrays(cases, tmp_path):
    X, y = cases
    fitted = mixed_policy(tiny_multimodal_classifier(first="image", **LEARNT).fit(X, y), X)
    pairs, model = prepared(fitted, X), exported(fitted, tmp_path)
    both = [row for row, pair in enumerate(pairs) if all(p is not None for p in pair)]
    text = fitted._preprocessor.text.encode([pairs[row][0] for row in both])
    arrays = {name: part.numpy() for name, part in text.batch(np.arange(len(both))).items()}
    arrays["pixel_values"] = np.stack([pairs[row][1] for row in both])
    agree(fitted, model.predict_with_exits(arrays), [X[row] for row in both])
    present = np.tile([False, True], (len(both), 1))
    found = model.predict_with_exits(arrays | {"present": present})
    agree(fitted, found, [(None, X[row][1]) for row in both])
    with pytest.raises(ValueError, match="present must have the shape"):
        model.predict(arrays | {"present": ~present & False})


@pytest.mark.parametrize("hand_over_after", [None, 2])
def test_one_graph_of_a_layer_of_the_second_tower(hand_over_after, cases, tmp_path):
    X, y = cases
    fitted = tiny_multimodal_classifier(first="image", hand_over_after=hand_over_after, **LEARNT)
    fitted.fit(X, y)
    found = exported(fitted, tmp_path, layer=-1).predict_with_exits(prepared(fitted, X), 7)
    assert_allclose(found["proba"], fitted.predict_proba_at_layer(X, -1), atol=1e-4)
    assert_array_equal(found["labels"], fitted.predict_at_layer(X, -1))


def test_one_graph_of_several_tasks_of_the_second_tower(cases, tmp_path):
    X, y = cases
    tasks = np.array([y, np.arange(len(y)) % 3], dtype=object).T
    fitted = tiny_multimodal_classifier(first="image", hand_over_after=2, **LEARNT).fit(X, tasks)
    found = exported(fitted, tmp_path, layer=-1).predict_with_exits(prepared(fitted, X), 7)
    for one, other in zip(found["proba"], fitted.predict_proba_at_layer(X, -1), strict=True):
        assert_allclose(one, other, atol=1e-4)


def test_one_graph_of_a_layer_of_the_first_tower_reads_that_alone(cases, tmp_path):
    X, y = cases
    fitted = tiny_multimodal_classifier(first="text", **LEARNT).fit(X, y)
    model = exported(fitted, tmp_path / "one", layer=1)
    with_text = [row for row, (text, _) in enumerate(X) if text is not None]
    given = prepared(fitted, X)
    found = model.predict_proba([given[row] for row in with_text])
    assert_allclose(found, fitted.predict_proba_at_layer(X, 1)[with_text], atol=1e-4)
    with pytest.raises(ValueError, match=r"has no text, but the exported layer 1"):
        model.predict(given)
    fitted.set_params(hand_over_after=1).fit(X, y)
    with pytest.raises(ValueError, match="layer=1 is in the first tower"):
        fitted.export_onnx(tmp_path / "two", layer=1)
