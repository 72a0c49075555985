"""Sentences with drugs and effects in them, as lists of words with tags."""

from __future__ import annotations

import numpy as np

from sklearn_epee import EPEETokenClassifier

from .checkpoints import tiny_config
from .classifiers import tiny_training

_DRUGS = ["zinc", "iron", "melatonin", "vitamin D"]
_EFFECTS = ["pain", "rash", "severe rash", "mild pain"]
_SENTENCES = [
    "{drug} was stopped after {effect} .",
    "the patient takes {drug} with no {effect}",
    "history of {effect} without {drug} , given daily",
    "no {effect} before {drug}",
    "{effect}",
]


def tagged_sentences(n: int = 40, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Return lists of words of different lengths, and their IOB2 tags."""
    rng = np.random.default_rng(seed)
    sentences, tags = [], []
    for number in range(n):
        words: list[str] = []
        labels: list[str] = []
        for part in _SENTENCES[number % len(_SENTENCES)].split():
            chosen = {"{drug}": (_DRUGS, "Drug"), "{effect}": (_EFFECTS, "Effect")}.get(part)
            found = [part] if chosen is None else str(rng.choice(chosen[0])).split()
            words += found
            if chosen is None:
                labels += ["O"]
            else:
                labels += [f"B-{chosen[1]}"] + [f"I-{chosen[1]}"] * (len(found) - 1)
        sentences.append(words)
        tags.append(labels)
    return sentences, tags


def tiny_token_classifier(**parameters):
    """Make an unfitted classifier of words with three small layers and fresh weights."""
    config = tiny_config("bert", vocab_size=300, max_position_embeddings=128)
    learned = {"learning_rate": 0.003, "head_learning_rate": 0.01, "batch_size": 10}
    return EPEETokenClassifier(config, **tiny_training(**(learned | parameters)))
