"""A world in which scripts and snippets meet tiny networks and few samples."""

from __future__ import annotations

import os

import pytest

import sklearn_epee
from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    EPEEMultimodalClassifier,
    EPEETokenClassifier,
    datasets,
)

from .checkpoints import tiny_config
from .classifiers import tiny_training


def known(backbone, config):
    """Return the backbone where it is at hand: no None, and no checkpoint to download."""
    missing = isinstance(backbone, str) and not os.path.isdir(backbone)  # noqa: PTH112
    return config if backbone is None or missing else backbone


def tiny(kind, config):
    """Make a tiny classifier in place of a compact one, and train it for a moment."""

    def made(backbone=None, **parameters):
        return kind(
            known(backbone, config),
            **tiny_training(**parameters | {"max_epochs": 1}),
        )

    if hasattr(kind, "from_paper_checkpoint"):
        made.from_paper_checkpoint = kind.from_paper_checkpoint
    return made


def tiny_towers(text_config, image_config):
    """Make a tiny classifier of texts with images, and train it for a moment."""

    def made(text_backbone=None, image_backbone=None, **parameters):
        return EPEEMultimodalClassifier(
            known(text_backbone, text_config),
            known(image_backbone, image_config),
            **tiny_training(**parameters | {"max_epochs": 1}),
        )

    return made


def few_cases(n_samples, **parameters):
    return datasets._case_reports.make_case_reports(n_samples // 8, **parameters)


def few_notes(n_samples, **parameters):
    make = datasets._supplement_notes.make_supplement_notes
    return make(n_samples // 8, **parameters)


def make_world_small(monkeypatch):
    """Let scripts find small data and networks in place of those they name."""
    for name in ("SKLEARN_EPEE_DATA", "SKLEARN_EPEE_BACKBONE", "SKLEARN_EPEE_IMAGE_BACKBONE"):
        monkeypatch.delenv(name, raising=False)
    bert = tiny_config("bert", n_layers=6, vocab_size=300, max_position_embeddings=128)
    vit = tiny_config("vit", n_layers=6, image_size=8, num_channels=1)
    small = {
        "EPEEClassifier": tiny(EPEEClassifier, bert),
        "EPEEImageClassifier": tiny(EPEEImageClassifier, vit),
        "EPEETokenClassifier": tiny(EPEETokenClassifier, bert),
        "EPEEMultimodalClassifier": tiny_towers(bert, vit),
    }
    for name, make in small.items():
        monkeypatch.setattr(sklearn_epee, name, make, raising=False)
    monkeypatch.setattr(datasets, "make_supplement_notes", few_notes)
    monkeypatch.setattr(datasets, "make_case_reports", few_cases)


@pytest.fixture
def small_world(monkeypatch):
    """Let scripts find small data and networks, and draw without a screen."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    make_world_small(monkeypatch)
    with pyplot.rc_context():
        pyplot.switch_backend("agg")
        yield pyplot
        pyplot.close("all")
