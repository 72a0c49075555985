"""What both estimators share: predictions while another thread fits, trainings that end early."""

from __future__ import annotations

import numpy as np
import pytest

from sklearn_epee._nn.engine import Engine
from tests.classifiers import tiny_text_classifier

RENAMED = {"first": "uno", "second": "due"}
METHODS = ["predict", "predict_with_exits", "predict_at_layer", "staged_predict"]


@pytest.fixture
def two_words(notes):
    """Forty texts with two classes, whose names a second fit replaces by others in other order."""
    X, _ = notes
    return X, np.array(["first", "second"] * 20)


def labels_by(method, classifier, X):
    if method == "predict_with_exits":
        return classifier.predict_with_exits(X).labels
    if method == "predict_at_layer":
        return classifier.predict_at_layer(X, 1)
    if method == "staged_predict":
        return np.stack(list(classifier.staged_predict(X)))
    return classifier.predict(X)


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_during_another_fit_has_one_networks_classes(two_words, monkeypatch, method):
    X, y = two_words
    classifier = tiny_text_classifier(max_epochs=1, memory=None).fit(X, y)
    expected = labels_by(method, classifier, X)
    renamed = np.array([RENAMED[label] for label in y])
    name = {"predict_at_layer": "budgeted", "staged_predict": "staged"}.get(method, "dynamic")
    run = getattr(Engine, name)

    def fitted_meanwhile(self, *arguments):
        monkeypatch.setattr(Engine, name, run)
        classifier.fit(X, renamed)
        return run(self, *arguments)

    monkeypatch.setattr(Engine, name, fitted_meanwhile)
    np.testing.assert_array_equal(labels_by(method, classifier, X), expected)
    assert set(classifier.classes_) == set(RENAMED.values())
    assert set(labels_by(method, classifier, X).ravel()) <= set(RENAMED.values())


def test_a_refused_fit_leaves_predictions_as_they_were(two_words):
    X, y = two_words
    classifier = tiny_text_classifier(max_epochs=1, memory=None).fit(X, y)
    expected = classifier.predict_proba(X)
    with pytest.raises(ValueError, match="2 classes"):
        classifier.fit(X, ["one"] * len(X))
    np.testing.assert_array_equal(classifier.predict_proba(X), expected)
