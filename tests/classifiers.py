"""Tiny classifiers that train in a fraction of a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_epee import EPEEClassifier, EPEEImageClassifier, EPEEMultimodalClassifier

from .checkpoints import tiny_config

# A short training whose networks are not kept for other tests.
TRAINING: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "precision": "float32",
    "memory": None,
    "random_state": 0,
}


def tiny_training(**parameters):
    """Parameters that make a training take a fraction of a second."""
    return {
        "max_epochs": 2,
        "batch_size": 20,
        "precision": "float32",
        "random_state": 0,
    } | parameters


def tiny_text_classifier(**parameters):
    """Make an unfitted text classifier with three small layers and fresh weights."""
    config = tiny_config("bert", vocab_size=300, max_position_embeddings=128)
    return EPEEClassifier(config, **tiny_training(**parameters))


def tiny_image_classifier(**parameters):
    """Make an unfitted classifier of 8 x 8 images with three small layers and fresh weights."""
    config = tiny_config("vit", image_size=8, num_channels=1)
    return EPEEImageClassifier(config, **tiny_training(**parameters))


def tiny_multimodal_classifier(**parameters):
    """Make an unfitted classifier of texts with grey images, of two and three small layers."""
    text = tiny_config("bert", n_layers=2, vocab_size=300, max_position_embeddings=64)
    image = tiny_config("vit", image_size=24, patch_size=6, num_channels=1)
    return EPEEMultimodalClassifier(text, image, **tiny_training(**parameters))


def same(first, second):
    """Return whether predictions are equal: arrays, or lists of arrays."""
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return np.array_equal(first, second, equal_nan=True)
