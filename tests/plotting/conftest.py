"""Figures in memory, and staged probabilities to draw."""

import importlib.util

import numpy as np
import pytest

from tests.model_selection.staged import NumericExits, blobs

from .classes import CLASSES

if importlib.util.find_spec("matplotlib") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _figures_in_memory():
    """Draw without a screen, and forget the figures."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - it may not be there

    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def staged():
    """True labels and the probabilities of five exits, for 80 samples of three classes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=80)
    logits = rng.normal(size=(80, 5, 3))
    logits[np.arange(80), :, codes] += np.arange(1, 6) / 2
    proba = np.exp(logits)
    return CLASSES[codes], proba / proba.sum(axis=2, keepdims=True)


@pytest.fixture
def data():
    return blobs()


@pytest.fixture
def classifier(data):
    """A fitted classifier with early exits, which counts its forward passes."""
    return NumericExits(tau=0.4, patience=3).fit(*data)
