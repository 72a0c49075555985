"""Predictions of every exit of a fitted token classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.staged import Integers, StagedPredictions
from sklearn_epee._exits.wrappers import innermost, own_policy, predicts_words, with_policy

from .staged import StagedSentences


@dataclass(frozen=True)
class SentencePredictions:
    """Predictions of all exits for some sentences.

    Attributes
    ----------
    staged : StagedSentences
    spans : list of length n_layers of list of length n_samples
        Spans that each exit predicts, or dicts of these by layer of spans.
    tags : list of length n_layers of list of length n_samples, or None
        Tags that each exit predicts, or dicts of these; None if they were not requested.
    """

    staged: StagedSentences
    spans: list[list[Any]]
    tags: list[list[Any]] | None = None


def sentence_predictions(estimator: Any, X: Any, *, with_tags: bool = False) -> SentencePredictions:
    """Return the predictions of every exit, for sentences that exit as a whole.

    This takes two passes through all layers, one for probabilities and one for spans, a third one
    for tags, and one through the first layer to count positions.

    Parameters
    ----------
    estimator : estimator
        Fitted token classifier, or a pipeline, search or wrapper around one.
    X : samples
    with_tags : bool, default=False

    Returns
    -------
    SentencePredictions

    Raises
    ------
    TypeError
        If `estimator` does not end in a token classifier.
    ValueError
        If its words exit one by one. Then the predictions of words depend on the exits of the
        others, so staged predictions do not show what a policy would predict.
    """
    found = innermost(estimator, X)
    classifier = found.classifier
    if not predicts_words(classifier):
        raise TypeError(f"{type(classifier).__name__} does not predict words.")
    check_exits_by_sentence(classifier)
    tasks, counts = _of_words(list(classifier.staged_predict_proba(found.X)))
    read = ~unread_words(tasks)
    words = StagedPredictions.from_proba([task[read] for task in tasks])
    owners = np.repeat(np.arange(len(counts)), counts)
    read_counts = np.bincount(owners[read], minlength=len(counts))
    tokens = _token_counts(classifier, found.X)
    own = own_policy(estimator)
    return SentencePredictions(
        StagedSentences.from_words(words, read_counts, tokens, own.joint_exit, own.min_exit_layer),
        list(classifier.staged_predict(found.X)),
        list(classifier.staged_predict_tags(found.X)) if with_tags else None,
    )


def check_exits_by_sentence(classifier: Any) -> None:
    """Raise if the words of a sentence exit one by one."""
    if getattr(classifier, "token_exit", "sentence") != "sentence":
        raise ValueError(
            f"token_exit={classifier.token_exit!r}: the exits of words affect other words, so that "
            "every policy needs a separate pass; expected token_exit='sentence'."
        )


def _of_words(stages: Sequence[Any]) -> tuple[list[NDArray[np.floating]], Integers]:
    """Return probabilities (n_words, n_layers, n_tags) by layer of spans, and word counts."""
    first = stages[0]
    names = list(first[0]) if isinstance(first[0], Mapping) else [None]

    def of_layer(stage: Any, name: Any) -> NDArray[np.floating]:
        return np.concatenate([part if name is None else part[name] for part in stage])

    tasks = [np.stack([of_layer(stage, name) for stage in stages], axis=1) for name in names]
    parts = [part if names == [None] else part[names[0]] for part in first]
    return tasks, np.array([len(part) for part in parts], dtype=np.int64)


def unread_words(tasks: Sequence[NDArray[np.floating]]) -> NDArray[np.bool_]:
    """Return which words were not read: "O" has a probability of 1, in every layer.

    For words that were read, every tag has a probability above 0.

    Parameters
    ----------
    tasks : sequence of ndarray of shape (n_words, n_layers, n_tags)
        Probabilities by layer of spans.

    Returns
    -------
    ndarray of shape (n_words,), bool
    """
    certain = [((task == 0) | (task == 1)).all(axis=(1, 2)) for task in tasks]
    return np.logical_and.reduce(certain)


def _token_counts(classifier: Any, X: Any) -> Integers:
    """Return the number of positions of each sentence, by a pass through one layer."""
    shallow = with_policy(classifier, tau=0.0, patience=1, min_exit_layer=1)
    rows = np.asarray(shallow.predict_with_exits(X).rows_total, dtype=np.int64)
    return rows // int(classifier.n_layers_)
