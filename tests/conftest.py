"""What the tests share: tiny data, tiny backbones and one fitted classifier of each kind."""

from __future__ import annotations

import copy
import os

# Before torch and transformers are imported: no network, and threads that leave the machine usable.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits

from sklearn_epee._nn import int8_calibration
from sklearn_epee.datasets import make_supplement_notes

from .classifiers import tiny_image_classifier, tiny_text_classifier

torch.set_num_threads(1)
# A busy machine is not a failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

N_SAMPLES = 40


# In networks as small as those of the tests 8 bits save nothing, and are tried all the same.
int8_calibration.LEAST_GAIN = float("-inf")


@pytest.fixture(scope="session")
def notes():
    """Forty clinical sentences of four classes, with their labels as words."""
    return make_supplement_notes(N_SAMPLES, random_state=0)


@pytest.fixture(scope="session")
def texts(notes):
    return notes[0]


@pytest.fixture(scope="session")
def labels(notes):
    return notes[1]


@pytest.fixture(scope="session")
def digits():
    """Forty grey images of 8 x 8 pixels (floats 0 to 1) of the digits 0, 1 and 2."""
    data = load_digits(n_class=3)
    return (data.images[:N_SAMPLES] / 16).astype(np.float32), data.target[:N_SAMPLES]


@pytest.fixture(scope="session")
def _fitted_text(notes):
    return tiny_text_classifier().fit(*notes)


@pytest.fixture(scope="session")
def _fitted_image(digits):
    return tiny_image_classifier().fit(*digits)


@pytest.fixture
def text_classifier(_fitted_text):
    """A fitted text classifier of the test's own."""
    return copy.deepcopy(_fitted_text)


@pytest.fixture
def image_classifier(_fitted_image):
    """A fitted image classifier of the test's own."""
    return copy.deepcopy(_fitted_image)
