"""Exits of sentences whose words exit together, on arrays: the reference for the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rule import first_exits, may_exit
from .staged import StagedPredictions


def sentence_exit_layers(
    words: StagedPredictions, word_counts: NDArray[np.int64], tau: float, patience: int
) -> NDArray[np.int64]:
    """Return the exit layer of each sentence, from the staged predictions of its words.

    The criteria of the words of a sentence, and of the tasks of each word, are combined like those
    of the tasks of a sample. With "all", a sentence exits at the first layer at which every word
    may exit in every task; with "any", at which some word may in some task; with "mean", at which
    the mean entropy of all words and tasks is below `tau`, or the last `patience` layers agree in
    all of them.

    Parameters
    ----------
    words : StagedPredictions of W words
        Sentence after sentence; `joint_exit` and `min_exit_layer` are taken from it.
    word_counts : ndarray of shape (n_sentences,), int64
        Number of words of each sentence; the sum is W.
    tau : float
    patience : int

    Returns
    -------
    ndarray of shape (n_sentences,), int64
        From 1 to M; 1 for a sentence without words.

    Raises
    ------
    ValueError
        If the counts do not add up to W.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee._exits.sentences import sentence_exit_layers
    >>> from sklearn_epee._exits.staged import StagedPredictions
    >>> sure, unsure = [0.99, 0.01], [0.6, 0.4]
    >>> words = StagedPredictions.from_proba([[[unsure, sure], [sure, sure], [sure, sure]]])
    >>> sentence_exit_layers(words, np.array([2, 1]), tau=0.2, patience=3)
    array([2, 1])
    """
    if word_counts.sum() != words.n_samples:
        raise ValueError(
            f"word_counts adds up to {word_counts.sum()} words; there are {words.n_samples}."
        )
    exits = np.ones(len(word_counts), np.int64)
    starts = np.cumsum(word_counts) - word_counts
    for count in np.unique(word_counts[word_counts > 0]):
        # Sentences with the same number of words are treated as samples with as many tasks.
        of_count = np.flatnonzero(word_counts == count)
        index = starts[of_count, np.newaxis] + np.arange(count)
        entropies, counters = (
            part[index].transpose(0, 2, 1, 3).reshape(len(of_count), words.n_layers, -1)
            for part in (words.entropies, words.counters)
        )
        exits[of_count] = first_exits(
            may_exit(entropies, counters, tau, patience, words.joint_exit),
            min_exit_layer=words.min_exit_layer,
        )
    return exits
