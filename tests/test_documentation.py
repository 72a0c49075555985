"""What the estimators share is documented in the same words."""

from __future__ import annotations

import inspect
import re

import pytest

from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    EPEEMultimodalClassifier,
    EPEETokenClassifier,
)

# Where the two do differ: families, and what "auto" stands for.
OWN = {
    "Parameters": {"backbone", "pooling"},
    "Attributes": set(),
}

# A classifier of words has labels and exits of its own kind.
OWN_OF_WORDS = {
    "tau", "patience", "min_exit_layer", "joint_exit", "max_length", "class_weight",
    "validation_fraction", "callbacks", "classes_", "precision",
}  # fmt: skip


def entries(cls: type, section: str) -> dict[str, str]:
    """Return the entries of a numpydoc section by name."""
    doc = inspect.getdoc(cls)
    _, body = re.split(rf"^{section}\n-+\n", doc, flags=re.MULTILINE)
    body = re.split(r"^\w[\w ]*\n-+\n", body, flags=re.MULTILINE)[0]
    parts = re.split(r"^(?=\w+ : )", body.strip(), flags=re.MULTILINE)
    return {part.partition(" : ")[0]: part.strip() for part in parts if part}


@pytest.mark.parametrize("section", ["Parameters", "Attributes"])
def test_shared_entries_are_the_same_in_both_estimators(section):
    texts, images = (entries(cls, section) for cls in (EPEEClassifier, EPEEImageClassifier))
    shared = (texts.keys() & images.keys()) - OWN[section]
    assert len(shared) >= (6 if section == "Attributes" else 25)
    for name in shared:
        assert texts[name] == images[name]


@pytest.mark.parametrize("section", ["Parameters", "Attributes"])
def test_what_a_classifier_of_words_shares_is_the_same_there(section):
    texts, words = (entries(cls, section) for cls in (EPEEClassifier, EPEETokenClassifier))
    shared = (texts.keys() & words.keys()) - OWN_OF_WORDS
    assert len(shared) >= (4 if section == "Attributes" else 18)
    for name in shared:
        assert texts[name] == words[name]


@pytest.mark.parametrize("section", ["Parameters", "Attributes"])
def test_two_towers_share_the_entries_of_both(section):
    alone = [entries(cls, section) for cls in (EPEEClassifier, EPEEImageClassifier)]
    both = entries(EPEEMultimodalClassifier, section)
    own = {"n_layers_", "pooling_", "min_exit_layer", "net_"}
    for part in alone:
        shared = (part.keys() & both.keys()) - own
        assert len(shared) >= (5 if section == "Attributes" else 25)
        for name in shared:
            assert both[name] == part[name]


@pytest.mark.parametrize(
    "cls", [EPEEClassifier, EPEEImageClassifier, EPEETokenClassifier, EPEEMultimodalClassifier]
)
def test_every_parameter_is_documented_in_the_order_of_the_signature(cls):
    assert list(entries(cls, "Parameters")) == list(inspect.signature(cls).parameters)


@pytest.mark.parametrize("subject", ["Several tasks", "Several labels"])
def test_several_tasks_and_labels_are_explained_in_the_same_words(subject):
    texts, images, both = (
        re.search(rf"\*\*{subject}\.\*\*.*?\n\n", inspect.getdoc(cls), flags=re.DOTALL)[0]
        for cls in (EPEEClassifier, EPEEImageClassifier, EPEEMultimodalClassifier)
    )
    assert texts == images == both
