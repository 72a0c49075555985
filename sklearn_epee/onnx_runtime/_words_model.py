"""OnnxTokenExits: classify words; sentences exit as a whole, or word by word."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch, Folder
from ._forward_pass import ForwardPass
from ._rule import Floats, Rule, RuleState
from ._samples import Samples, batches_of, rows_of
from ._texts import TextReader, chunks
from ._words import Sentences, Tags, read_sentences

__all__ = ["OnnxTokenExits"]

# Indices of words in a batch, their exit layer, probabilities and entropies.
_Predicted = tuple[NDArray[np.intp], int, list[Floats], Floats]


class OnnxTokenExits:
    """A token classifier with early exits that runs ONNX graphs.

    Parameters
    ----------
    folder : str or path-like
        Written by ``export_onnx`` of an `EPEETokenClassifier`.
    providers : sequence of str, default=("CPUExecutionProvider",)
        Execution providers of onnxruntime, the preferred one first.
    n_threads : int, default=0
        Threads of one operator; 0 leaves it to onnxruntime.

    Attributes
    ----------
    n_layers : int
        Number of exits; 1 for an export of a fixed layer.
    classes : ndarray, or dict of str to such arrays
        As `classes_` of the estimator.

    Raises
    ------
    ImportError
        If onnxruntime is missing.
    ValueError
        If the folder contains no export, one of a newer version, or one of another estimator.

    Notes
    -----
    With ``token_exit="token"``, words that have exited keep their hidden states, as in the
    estimator, but the graphs still compute them: time is only saved when whole sentences exit.

    Examples
    --------
    >>> from sklearn_epee.onnx_runtime import OnnxTokenExits
    >>> model = OnnxTokenExits("events.onnx")  # doctest: +SKIP
    >>> model.predict(["Zinc causes rash."])  # doctest: +SKIP
    [[(0, 4, 'Drug'), (12, 16, 'Effect')]]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        providers: Sequence[str] = ("CPUExecutionProvider",),
        n_threads: int = 0,
    ) -> None:
        self._folder = Folder(folder, providers, n_threads)
        document = self._folder.document
        if document["kind"] != "words":
            raise ValueError(f"{str(folder)!r} holds no token classifier; open it with OnnxExits.")
        self._rule = Rule.of(document)
        self.n_layers = int(document["n_layers"])
        words = document["words"]
        self._names: list[str] | None = words["names"]
        parts = self._folder.classes
        self.classes = (
            parts[0] if self._names is None else dict(zip(self._names, parts, strict=True))
        )
        transitions = words["transitions"] or [None] * len(parts)
        self._tags = [
            Tags(names, words["scheme"], t) for names, t in zip(parts, transitions, strict=True)
        ]
        self._outside = [(names == "O").astype(np.float32) for names in parts]
        self._reader: TextReader | None = None

    # ---------------------------------------------------------------------------- predictions

    def predict(self, X: Any, batch_size: int = 32) -> list[Any]:
        """Predict spans with the exported exit policy.

        Parameters
        ----------
        X : list of str or of lists of str, or dict of str to ndarray
            Texts or lists of words; or the inputs of the graphs: ``input_ids`` and
            ``attention_mask`` (n, t), ``word_starts`` (n, t) bool, True at the first token of each
            word, and ``piece_words`` (n, t), the index of the word of each token in its text, or
            -1.
        batch_size : int, default=32

        Returns
        -------
        list of length n_samples
            For each sample the spans ``(start, end, label)``: in characters of a text, in words
            otherwise. With several layers of spans, a dict of these by layer.
        """
        spans: list[Any] = self.predict_with_exits(X, batch_size)["spans"]
        return spans

    def predict_tags(self, X: Any, batch_size: int = 32) -> list[Any]:
        """Predict tags with the exported exit policy; parameters as in `predict`.

        Returns
        -------
        list of length n_samples
            For each sample the tags, one per word; or a dict of these by layer of spans.
        """
        tags: list[Any] = self.predict_with_exits(X, batch_size)["tags"]
        return tags

    def predict_proba(self, X: Any, batch_size: int = 32) -> list[Any]:
        """Predict the probabilities of tags; parameters as in `predict`.

        Returns
        -------
        list of ndarray of shape (n_words, n_tags), float32
            One array per sample; or a dict of arrays by layer of spans.
        """
        proba: list[Any] = self.predict_with_exits(X, batch_size)["proba"]
        return proba

    def predict_with_exits(self, X: Any, batch_size: int = 32) -> dict[str, Any]:
        """Return spans, tags, probabilities, exit layers and entropies; parameters as in `predict`.

        Returns
        -------
        dict
            ``spans``, ``tags``, ``proba``, ``exit_layer`` and ``entropy``, as the estimator's
            `predict_with_exits` returns them. Words that cannot be read are "O", at layer 1.
        """
        if isinstance(X, Mapping):
            parts = [self._found(Sentences.of_arrays(X), batch_size)]
        else:
            parts = [self._found(read, batch_size) for read in self._read(X)]
        joined: dict[str, Any] = {
            name: [one for part in parts for one in part[name]] for name in parts[0]
        }
        layers = joined.pop("sentence_exit_layer")
        if self._rule.token_exit == "sentence":
            joined["exit_layer"] = np.array(layers, np.int64)
        return joined

    def _read(self, X: Sequence[Any]) -> Iterator[Sentences]:
        """Yield encoded sentences, some at a time."""
        if self._folder.document["texts"] is None:
            raise ValueError(
                "X must be a dict of the input arrays of the graphs, because the tokenizer could "
                f"not be exported; got {type(X).__name__}."
            )
        n_before = 0
        for some in chunks(X):
            if self._reader is None:
                self._reader = TextReader(self._folder, truncates=False)
            yield read_sentences(some, self._reader, n_before)
            n_before += len(some)

    def _found(self, read: Sentences, batch_size: int) -> dict[str, list[Any]]:
        """Return the predictions of some sentences, sentence by sentence."""
        words = _Words.outside(len(read.is_read), self._outside)
        places = np.flatnonzero(read.is_read)
        if len(read.samples):
            self._run(read.samples, places, words, batch_size)
        counts = [len(sentence.words) for sentence in read.sentences]
        ends = np.cumsum(counts)[:-1]
        proba = [np.split(part, ends) for part in words.proba]
        tags = [
            [of_layer.of_words(part) for part in parts]
            for of_layer, parts in zip(self._tags, proba, strict=True)
        ]
        spans = [
            [of_layer.spans(one, s.places) for one, s in zip(rows, read.sentences, strict=True)]
            for of_layer, rows in zip(self._tags, tags, strict=True)
        ]
        exit_layer = np.split(words.exit_layer, ends)
        entropy = words.entropy if self._names is not None else words.entropy[:, 0]
        return {
            "spans": self._nested(spans),
            "tags": self._nested(tags),
            "proba": self._nested(proba),
            "exit_layer": exit_layer,
            "entropy": np.split(entropy, ends),
            "sentence_exit_layer": [part.max(initial=1) for part in exit_layer],
        }

    def _nested(self, layers: list[list[Any]]) -> list[Any]:
        """Return results by sample, from results by layer of spans."""
        if self._names is None:
            return layers[0]
        return [dict(zip(self._names, row, strict=True)) for row in zip(*layers, strict=True)]

    # ---------------------------------------------------------------------------- running

    def _run(
        self, samples: Samples, places: NDArray[np.intp], words: _Words, batch_size: int
    ) -> None:
        """Predict the words that are read, and write the predictions to their places."""
        counts = samples.arrays["word_starts"].sum(axis=1)
        run = self._whole if self._rule.token_exit == "sentence" else self._word_by_word
        for numbers in batches_of(samples, batch_size):
            batch = samples.batch(numbers)
            own = places[rows_of(counts, numbers)]
            if self._folder.document["layer"] is not None:
                self._at_the_layer(batch, own, words)
                continue
            for of_words, layer, proba, entropy in run(batch):
                words.write(own[of_words], layer, proba, entropy)

    def _at_the_layer(self, batch: Batch, own: NDArray[np.intp], words: _Words) -> None:
        (logits,) = self._folder.run("layer.onnx", batch)
        proba = self._rule.probabilities(logits[batch["word_starts"]])
        layer = int(self._folder.document["layer"])
        words.write(own, layer, proba, self._rule.entropies(proba))

    def _whole(self, batch: Batch) -> Iterator[_Predicted]:
        """Yield words by their indices in the batch; sentences exit as a whole."""
        forward, rule_state = ForwardPass(self._folder, batch), RuleState(self._rule)
        starts = batch["word_starts"]
        numbers = np.arange(np.count_nonzero(starts))
        while len(forward.samples):
            (logits,) = forward.advance()
            width = logits.shape[1]
            counts = starts.sum(axis=1)
            proba = self._rule.probabilities(logits[starts[:, :width]])
            rule_state.update(forward.layer, proba)
            entropies = self._rule.entropies(proba)
            exits = np.ones(len(counts), bool)
            if forward.layer < self.n_layers:
                exits = self._rule.sentences_exit(
                    forward.layer, entropies, rule_state.agreeing, counts
                )
            leaves = np.repeat(exits, counts)
            if leaves.any():
                yield numbers[leaves], forward.layer, [p[leaves] for p in proba], entropies[leaves]
                rule_state, numbers = rule_state.take(np.flatnonzero(~leaves)), numbers[~leaves]
                starts = starts[~exits]
                forward.keep(np.flatnonzero(~exits))

    def _word_by_word(self, batch: Batch) -> Iterator[_Predicted]:
        """Yield words by their indices in the batch; each word exits separately.

        The hidden states of a word that has exited stay unchanged, and later layers attend to them.
        """
        forward, rule_state = ForwardPass(self._folder, batch), RuleState(self._rule)
        starts, owners = batch["word_starts"], batch["piece_words"]
        numbers = np.arange(np.count_nonzero(starts))
        while len(forward.samples):
            (logits,) = forward.advance()
            width = logits.shape[1]
            starts, owners = starts[:, :width], owners[:, :width]
            proba = self._rule.probabilities(logits[starts])
            rule_state.update(forward.layer, proba)
            entropies = self._rule.entropies(proba)
            exits = np.ones(len(entropies), bool)
            if forward.layer < self.n_layers:
                exits = self._rule.exits(forward.layer, entropies, rule_state.agreeing)
            if not exits.any():
                continue
            yield numbers[exits], forward.layer, [p[exits] for p in proba], entropies[exits]
            rule_state, numbers = rule_state.take(np.flatnonzero(~exits)), numbers[~exits]
            forward.frozen = forward.frozen | _pieces_of(starts, owners, exits)
            starts = starts.copy()
            starts[starts] = ~exits
            kept = np.flatnonzero(starts.any(axis=1))
            starts, owners = starts[kept], owners[kept]
            forward.keep(kept)


def _pieces_of(
    starts: NDArray[np.bool_], owners: NDArray[np.int64], exits: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return a mask of the positions of all pieces of the words that exit, (n, t)."""
    rows, positions = np.nonzero(starts)
    exiting = np.zeros((len(starts), int(owners.max(initial=-1)) + 2), bool)
    exiting[rows[exits], owners[rows, positions][exits] + 1] = True
    # Index 0 stands for positions without a word, which are never True.
    found: NDArray[np.bool_] = np.take_along_axis(exiting, owners + 1, axis=1)
    return found


class _Words:
    """Predictions of words, sentence after sentence."""

    def __init__(self, proba: list[Floats], exit_layer: NDArray[np.int64], entropy: Floats) -> None:
        self.proba = proba
        self.exit_layer = exit_layer
        self.entropy = entropy

    @classmethod
    def outside(cls, n: int, outside: list[Floats]) -> _Words:
        """Return the predictions "O" at layer 1, for words that are not read."""
        return cls(
            [np.tile(part, (n, 1)) for part in outside],
            np.ones(n, np.int64),
            np.zeros((n, len(outside)), np.float32),
        )

    def write(
        self, places: NDArray[np.intp], layer: int, proba: list[Floats], entropy: Floats
    ) -> None:
        """Write the predictions of some words."""
        self.exit_layer[places], self.entropy[places] = layer, entropy
        for out, part in zip(self.proba, proba, strict=True):
            out[places] = part
