"""Classifiers whose samples exit at every layer, texts of many lengths, and a gate."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest

from sklearn_epee import EPEEClassifier, EPEEImageClassifier, EPEETokenClassifier
from tests.checkpoints import tiny_config
from tests.classifiers import tiny_training
from tests.tagged import tagged_sentences

WAIT = 60


class Gate:
    """Holds the worker before a layer until it is told to go on."""

    def __init__(self, monkeypatch, server):
        self.scheduler = server._worker._scheduler
        self.inside, self.open = threading.Event(), threading.Event()
        advance = self.scheduler.advance

        def held():
            self.inside.set()
            assert self.open.wait(WAIT)
            return advance()

        monkeypatch.setattr(self.scheduler, "advance", held)

    def wait(self):
        assert self.inside.wait(WAIT)


def ask_all(server, samples, **policy):
    """Submit all samples at once and return their predictions."""
    futures = [server.submit(sample, **policy) for sample in samples]
    return [future.result(WAIT) for future in futures]


def spread_exits(classifier, X):
    """Center and scale the logits of every exit, so that entropies are spread over [0, 1]."""
    # NaN is an exit that a sample does not have.
    logits = np.log(np.stack(list(classifier.staged_predict_proba(X)), axis=1))
    scale = 1.5 / np.nanstd(logits, axis=0).mean(axis=1)
    matrix = scale[:, np.newaxis, np.newaxis] * np.eye(logits.shape[2])
    mapped = classifier.map_exit_logits(matrix, -scale[:, np.newaxis] * np.nanmean(logits, axis=0))
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


def word_classifier(**parameters):
    """Make an unfitted classifier of words whose random layers change what they read."""
    config = tiny_config("bert", vocab_size=300, max_position_embeddings=64, initializer_range=0.4)
    return EPEETokenClassifier(config, **tiny_training(max_epochs=1, **parameters))


@pytest.fixture(scope="session")
def tagged():
    """Sentences of many lengths, as lists of words, and their tags."""
    words, tags = tagged_sentences(40)
    joined = [range(i, i + 1 + i % 3) for i in range(38)]
    return tuple(
        [[word for i in rows for word in part[i]] for rows in joined] for part in (words, tags)
    )


@pytest.fixture(scope="session")
def sentences(tagged):
    """Sentences of many lengths, and some of which no word, or not every word, is read."""
    unread = [[], ["\u200b"], ["zinc"] * 100, ["zinc", "\u200b", "rash"]]
    return [*tagged[0], *unread]


@pytest.fixture(scope="session")
def _spread_words(tagged):
    classifier = word_classifier().fit(*tagged)
    entropies = [
        np.concatenate([-(p * np.log(p)).sum(1) / np.log(p.shape[1]) for p in layer])
        for layer in list(classifier.staged_predict_proba(tagged[0]))[:2]
    ]
    return classifier.set_params(tau=float(np.median(entropies)) + 1e-4, joint_exit="mean")


@pytest.fixture
def spread_words(_spread_words):
    """A classifier of words of the test's own."""
    return copy.deepcopy(_spread_words)
