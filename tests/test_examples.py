"""The gallery: every script is listed in the README, and runs with tiny networks and few notes."""

import os
import re
import runpy
from pathlib import Path

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

ROOT = Path(__file__).parent.parent
GALLERY = sorted((ROOT / "examples").glob("plot_*.py"))

# Networks that hardly learned anything have much to warn of.
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny(kind, config):
    """Make a tiny classifier in place of a compact one, and train it for a moment."""

    def made(backbone=None, **parameters):
        return kind(
            config if backbone is None else backbone,
            **tiny_training(**parameters | {"max_epochs": 1}),
        )

    if hasattr(kind, "from_paper_checkpoint"):
        made.from_paper_checkpoint = kind.from_paper_checkpoint
    return made


def tiny_towers(text_config, image_config):
    """Make a tiny classifier of texts with images, and train it for a moment."""

    def made(text_backbone=None, image_backbone=None, **parameters):
        return EPEEMultimodalClassifier(
            text_backbone or text_config,
            image_backbone or image_config,
            **tiny_training(**parameters | {"max_epochs": 1}),
        )

    return made


def few_cases(n_samples, **parameters):
    return datasets._case_reports.make_case_reports(n_samples // 8, **parameters)


def few_notes(n_samples, **parameters):
    make = datasets._supplement_notes.make_supplement_notes
    return make(n_samples // 8, **parameters)


@pytest.fixture
def small_world(monkeypatch):
    """Let scripts find small data and networks, and draw without a screen."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
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
    with pyplot.rc_context():
        pyplot.switch_backend("agg")
        yield pyplot
        pyplot.close("all")


def test_the_readme_lists_every_script():
    listed = re.findall(r"\(examples/(plot_\w+\.py)\)", (ROOT / "README.md").read_text())
    assert sorted(listed) == [script.name for script in GALLERY]


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("SKLEARN_EPEE_GALLERY") == "site", reason="the documentation runs them, whole"
)
@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_script_runs(script, small_world):
    runpy.run_path(str(script), run_name="__main__")
    assert small_world.get_fignums()
