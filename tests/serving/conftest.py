"""Classifiers whose samples exit at every layer, and texts of many lengths."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from tests.checkpoints import tiny_config
from tests.classifiers import tiny_training


def spread_exits(classifier, X):
    """Center and scale the logits of every exit, so that entropies are spread over [0, 1]."""
    logits = np.log(np.stack(list(classifier.staged_predict_proba(X)), axis=1))
    scale = 1.5 / logits.std(axis=0).mean(axis=1)
    matrix = scale[:, np.newaxis, np.newaxis] * np.eye(logits.shape[2])
    mapped = classifier.map_exit_logits(matrix, -scale[:, np.newaxis] * logits.mean(axis=0))
    return mapped.set_params(tau=0.6, patience=None)


def text_classifier(**parameters):
    """Make an unfitted classifier whose random layers change what they read."""
    config = tiny_config("bert", vocab_size=300, max_position_embeddings=128, initializer_range=0.8)
    return EPEEClassifier(config, **tiny_training(max_epochs=1, **parameters))


@pytest.fixture(scope="session")
def texts(texts):
    """Texts of many lengths."""
    return [" ".join(texts[i:][: 1 + i % 3]) for i in range(len(texts))]


@pytest.fixture(scope="session")
def _spread_text(texts, labels):
    return spread_exits(text_classifier().fit(texts, labels), texts)


@pytest.fixture(scope="session")
def _spread_image(digits):
    config = tiny_config("vit", image_size=8, num_channels=1, initializer_range=0.8)
    classifier = EPEEImageClassifier(config, **tiny_training(max_epochs=1)).fit(*digits)
    return spread_exits(classifier, digits[0])


@pytest.fixture
def spread(_spread_text):
    """A text classifier of the test's own."""
    return copy.deepcopy(_spread_text)


@pytest.fixture
def spread_image(_spread_image):
    """An image classifier of the test's own."""
    return copy.deepcopy(_spread_image)
