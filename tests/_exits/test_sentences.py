"""Exit layers of sentences on arrays: the rule of several tasks over all words and tasks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sklearn_epee import policy
from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions

N_LAYERS = 5


def random_words(n_words: int, n_classes: int, seed: int) -> np.ndarray:
    """Staged probabilities that become surer from layer to layer."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_words, N_LAYERS, n_classes)).cumsum(axis=1) * 1.5
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
def test_a_sentence_is_a_sample_of_as_many_tasks_as_it_has_words(joint_exit):
    counts = np.array([3, 1, 4, 2, 3])
    tasks = [random_words(counts.sum(), 3, 0), random_words(counts.sum(), 2, 1)]
    words = StagedPredictions.from_proba(tasks, joint_exit=joint_exit)
    starts, met = np.cumsum(counts) - counts, set()
    for tau, patience in itertools.product((0.0, 0.2, 0.5, 0.9), (1, 2, 3, N_LAYERS)):
        found = sentence_exit_layers(words, counts, tau, patience)
        met |= set(found)
        for sentence, (start, count) in enumerate(zip(starts, counts, strict=True)):
            parts = [task[word][None] for task in tasks for word in range(start, start + count)]
            expected = policy.exit_layers(parts, tau, patience, joint_exit=joint_exit)
            assert found[sentence] == expected[0]
    assert met == set(range(1, N_LAYERS + 1))


def test_sentences_without_words_exit_at_once():
    words = StagedPredictions.from_proba([random_words(3, 3, 2)])
    found = sentence_exit_layers(words, np.array([0, 3, 0]), 0.0, N_LAYERS)
    assert found.tolist() == [1, N_LAYERS, 1]


def test_counts_that_do_not_add_up_are_refused():
    words = StagedPredictions.from_proba([random_words(3, 3, 2)])
    with pytest.raises(ValueError, match="adds up to 4 words; there are 3"):
        sentence_exit_layers(words, np.array([2, 2]), 0.1, 2)
