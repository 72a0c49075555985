"""Training data of token classifiers: sentences with a tag and a weight for every word."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee._checks.labels import check_groups, check_weights
from sklearn_epee._checks.messages import level_of_caller, shown
from sklearn_epee._checks.tasks import split_columns
from sklearn_epee._nn.batch_layout import rows_of_samples
from sklearn_epee._nn.word_batches import EncodedWords, LabelledWords
from sklearn_epee._spans import (
    most_probable_tags,
    transition_counts,
    transition_scores,
    valid_transitions,
)

from .held_out import hold_out
from .sentences import UNNAMED_LAYER, Sentence, as_tags
from .training_data import Rows, take, with_class_weights

OUTSIDE = "O"


@dataclass(frozen=True)
class TagLayers:
    """The tags of one layer of spans, or of several.

    Attributes
    ----------
    classes : ndarray of shape (n_tags,), or dict of str to such arrays
        The tags of each layer, sorted; "O" is one of them.
    scheme : {"IOB2", "BIOES", "IO"}
    transition_counts : dict of str to ndarray of shape (n_tags + 1, n_tags), or None
        For each layer, how often tags follow each other in the training data. None for estimators
        that were pickled by a version that did not count them.
    """

    classes: NDArray[Any] | dict[str, NDArray[Any]]
    scheme: str
    transition_counts: dict[str, NDArray[np.float32]] | None = None

    @property
    def by_name(self) -> dict[str, NDArray[Any]]:
        """Tags of every layer; a single layer has the name `UNNAMED_LAYER`."""
        return self.classes if isinstance(self.classes, dict) else {UNNAMED_LAYER: self.classes}

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tags of every layer."""
        return tuple(len(tags) for tags in self.by_name.values())

    @property
    def n_classes(self) -> int | tuple[int, ...]:
        """Number of tags, or a tuple with the number of each layer: the outputs of a network."""
        return self.counts if isinstance(self.classes, dict) else self.counts[0]

    def outside(self) -> NDArray[np.float32]:
        """Return the probabilities of a word that is not read: 1 for "O" in every layer."""
        parts = [tags == OUTSIDE for tags in self.by_name.values()]
        return np.concatenate(parts).astype(np.float32)

    def tags(self, packed: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the most probable tags of words by layer, from (n_words, n_columns)."""
        parts = split_columns(packed, self.counts)
        pairs = zip(self.by_name.items(), parts, strict=True)
        return {name: tags[part.argmax(axis=1)] for (name, tags), part in pairs}

    def valid_tags(
        self, packed: NDArray[np.float32], word_counts: NDArray[np.int64], weight: float
    ) -> dict[str, NDArray[Any]]:
        """Return the tags of the most probable valid sequences of every layer.

        Parameters
        ----------
        packed : ndarray of shape (n_words, n_columns), float32
            Probabilities of tags, sentence after sentence.
        word_counts : ndarray of shape (n,), int64
            Number of words of each sentence.
        weight : float
            Weight of the transitions.

        Returns
        -------
        dict of str to ndarray of shape (n_words,)
        """
        found = {}
        for name, proba in self.proba(packed).items():
            tags, counts = self.by_name[name], (self.transition_counts or {})[name]
            may_follow, may_end = valid_transitions(tags.tolist(), self.scheme)
            scores = transition_scores(counts, may_follow, weight)
            found[name] = tags[most_probable_tags(proba, word_counts, scores, may_end)]
        return found

    def proba(self, packed: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the probabilities by layer, from (n_words, n_columns)."""
        return dict(zip(self.by_name, split_columns(packed, self.counts), strict=True))

    def nested(self, layers: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return results by sample, from results by layer; dicts if there are several layers."""
        if not isinstance(self.classes, dict):
            return list(layers[UNNAMED_LAYER])
        rows = zip(*layers.values(), strict=True)
        return [dict(zip(layers, row, strict=True)) for row in rows]

    def same_as(self, other: TagLayers) -> bool:
        """Return whether other tags are the same."""
        return list(other.by_name) == list(self.by_name) and all(
            np.array_equal(tags, other.by_name[name]) for name, tags in self.by_name.items()
        )

    def __str__(self) -> str:
        shown_tags = {name: tags.tolist() for name, tags in self.by_name.items()}
        return str(shown_tags if isinstance(self.classes, dict) else shown_tags[UNNAMED_LAYER])


@dataclass(frozen=True)
class TagData:
    """Validated sentences with tags and weights of their words, 1 on average.

    Attributes
    ----------
    samples : list of Sentence
    tasks : TagLayers
    labels : ndarray of shape (w,) or, with several layers of spans, (w, T), int64
        Indices of tags, sentence after sentence.
    weights : ndarray of shape (w,), float32
    groups : ndarray of shape (n,), int64, or None
        Numbers from 0.
    """

    samples: list[Sentence]
    tasks: TagLayers
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64] | None = None

    @property
    def classes(self) -> Any:
        """The tags, in the form of the estimator's ``classes_``."""
        return self.tasks.classes

    @property
    def _word_counts(self) -> NDArray[np.int64]:
        return np.array([len(sentence.words) for sentence in self.samples], dtype=np.int64)

    def held_out(self, fraction: float, seed: int) -> tuple[Rows, Rows]:
        """Return the training rows and the held-out rows, ascending.

        Stratified by whether a sentence has spans, if there are enough of both kinds.
        """
        outside = self.tasks.outside().astype(bool)
        starts = np.cumsum([0, *self.tasks.counts[:-1]])
        inside = ~outside[self.labels.reshape(len(self.labels), -1) + starts].all(axis=1)
        owners = np.repeat(np.arange(len(self.samples)), self._word_counts)
        has_spans = np.bincount(owners[inside], minlength=len(self.samples)) > 0
        strata = has_spans.astype(np.int64)
        if np.bincount(strata, minlength=2).min() < 2 or self.groups is not None:
            strata = np.zeros_like(strata)
        return hold_out(strata, fraction, seed, self.groups)

    def labelled(self, encode: Callable[[Any], EncodedWords], rows: Rows) -> LabelledWords:
        """Return some of the sentences, encoded for the training loop."""
        encoded = encode([sentence.words for sentence in take(self.samples, rows)])
        if not len(encoded):
            raise ValueError(
                f"X holds no word that can be read, in {len(rows)} sentence(s); expected words "
                "that the tokenizer converts to tokens."
            )
        words = rows_of_samples(self._word_counts, rows)[encoded.is_read]
        return LabelledWords(encoded, self.labels[words], self.weights[words])


def prepare_tag_data(
    samples: list[Sentence],
    y: Any,
    sample_weight: ArrayLike | None,
    groups: ArrayLike | None,
    *,
    scheme: str,
    misfit_spans: str,
    class_weight: Any,
) -> TagData:
    """Return validated training data, without the sentences of weight 0.

    Parameters
    ----------
    samples : list of Sentence
    y : sequence or frame
        Per sentence tags, spans, or a dict of these by layer.
    sample_weight : array-like of shape (n_samples,) or None
    groups : array-like of shape (n_samples,) or None
    scheme : {"IOB2", "BIOES", "IO"}
    misfit_spans : {"error", "warn"}
        Whether spans that tags cannot represent are an error, or left out with a warning.
    class_weight : "balanced", dict or None

    Returns
    -------
    TagData

    Raises
    ------
    TypeError, ValueError
        If y, a weight or a group is invalid, or there is no span in any layer.
    """
    tagged = as_tags(y, samples, scheme, skip_misfits=misfit_spans == "warn")
    weights = check_weights(sample_weight, len(samples))
    members = check_groups(groups, len(samples))
    if tagged.n_misfits:
        _warn_of_misfits(tagged.n_misfits)
    used = np.flatnonzero(weights)
    counts = np.array([len(samples[row].words) for row in used], dtype=np.int64)
    words_of = {
        name: np.array([tag for row in used for tag in rows[row]], dtype=str)
        for name, rows in tagged.tags.items()
    }
    _check_has_spans(words_of)
    of_words = np.repeat(weights[used], counts)
    tag_weights = of_words / of_words.mean()  # for counting transitions, without class weights
    if class_weight is not None:
        wanted = _by_layer(class_weight, list(words_of))
        of_words = with_class_weights(of_words, wanted, list(words_of.values()))
    of_words = (of_words / of_words.mean()).astype(np.float32)
    classes, codes = _encoded(words_of)
    return TagData(
        take(samples, used),
        _with_transitions(TagLayers(classes, scheme), codes, counts, tag_weights),
        codes,
        of_words,
        None if members is None else members[used],
    )


def _warn_of_misfits(n_misfits: int) -> None:
    warnings.warn(
        f"{n_misfits} span(s) of y cannot be represented as tags of words: they overlap others of "
        "their layer, have several parts, or do not start and end with a word. They are left out "
        "of the training.",
        UserWarning,
        stacklevel=level_of_caller(),
    )


def _check_has_spans(words_of: Mapping[str, NDArray[Any]]) -> None:
    if not any((tags != OUTSIDE).any() for tags in words_of.values()):
        raise ValueError(
            "EPEETokenClassifier needs spans of at least one label; y holds none: all words have "
            f"the one class {OUTSIDE!r}."
        )


def _encoded(words_of: Mapping[str, NDArray[Any]]) -> tuple[Any, NDArray[np.int64]]:
    """Return the tag classes and the class indices of all words, of one layer or several."""
    classes = {name: np.union1d(tags, [OUTSIDE]) for name, tags in words_of.items()}
    codes = [np.searchsorted(classes[name], tags) for name, tags in words_of.items()]
    labels = codes[0] if len(codes) == 1 else np.stack(codes, axis=1)
    is_named = list(words_of) != [UNNAMED_LAYER]
    return classes if is_named else classes[UNNAMED_LAYER], labels.astype(np.int64)


def _with_transitions(
    tasks: TagLayers,
    codes: NDArray[np.int64],
    word_counts: NDArray[np.int64],
    weights: NDArray[np.floating[Any]],
) -> TagLayers:
    """Return the layers with the counts of transitions between their tags."""
    columns = zip(tasks.by_name, tasks.counts, codes.reshape(len(codes), -1).T, strict=True)
    counted = {
        name: transition_counts(column, word_counts, n_tags, weights)
        for name, n_tags, column in columns
    }
    return replace(tasks, transition_counts=counted)


def _by_layer(class_weight: Any, names: list[str]) -> Any:
    """Return the class weights in the form for tasks: a list if there are several layers."""
    if names == [UNNAMED_LAYER] or isinstance(class_weight, str):
        return class_weight
    if not isinstance(class_weight, dict) or not set(class_weight) <= set(names):
        raise ValueError(
            f"class_weight={shown(class_weight)} does not fit the layers of spans {names}; "
            "expected 'balanced', None, or a dict with the weights of the tags of each layer."
        )
    return [class_weight.get(name) for name in names] if len(names) > 1 else class_weight[names[0]]
