"""Prediction methods for words: tags and spans under the policy, at one layer, and at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from sklearn_epee._checks.messages import shown
from sklearn_epee._checks.parameters import check_layer
from sklearn_epee._exits.checks import (
    check_joint_exit,
    check_min_exit_layer,
    check_patience,
    check_tau,
)
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.word_batches import EncodedWords
from sklearn_epee._spans import check_transition_weight, span_f1_score

from .estimator import BaseEPEE
from .fitted import FittedState
from .sentences import Sentence, true_spans
from .word_predictions import PredictedSentences, WordExits, of_all_words

TOKEN_EXITS = ("sentence", "token")


class BaseEPEETokenClassifier(BaseEPEE):
    """Public prediction methods of `EPEETokenClassifier`.

    Each method reads the `FittedState` once, so that a `fit` in another thread has no effect on it.
    """

    transition_weight: float

    def predict(self, X: Any) -> list[Any]:
        """Predict spans under the exit policy.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        list of length n_samples
            For each sample the sorted spans ``(start, end, label)``, in characters of a text or in
            words of a list. With several layers of spans, a dict of these by layer.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> clf.predict([["zinc", "causes", "rash"]])
        [[(0, 1, 'Drug'), (2, 3, 'Effect')]]
        >>> clf.predict(["No rash from aspirin"])
        [[(3, 7, 'Effect'), (13, 20, 'Drug')]]
        """
        state, sentences = self._read(X)
        found = self._to_predict(state, sentences)
        return found.spans(self._word_exits(state, sentences).proba)

    def predict_tags(self, X: Any) -> list[Any]:
        """Predict tags under the exit policy.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        list of length n_samples
            For each sample the tags, one per word. With several layers of spans, a dict of these by
            layer.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> clf.predict_tags([["zinc", "causes", "rash"]])
        [['B-Drug', 'O', 'B-Effect']]
        """
        state, sentences = self._read(X)
        found = self._to_predict(state, sentences)
        return found.tags(self._word_exits(state, sentences).proba)

    def predict_proba(self, X: Any) -> list[Any]:
        """Predict the probabilities of tags under the exit policy.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        list of ndarray of shape (n_words, n_tags), float32
            Columns in the order of ``classes_``. With several layers of spans, for each sample a
            dict of these by layer.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> [part.shape for part in clf.predict_proba(X[:2])]
        [(3, 3), (4, 3)]
        """
        state, sentences = self._read(X)
        found = PredictedSentences(sentences, state.tasks)
        return found.proba(self._word_exits(state, sentences).proba)

    def predict_exit_layer(self, X: Any) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        """Return the exit layer of each sample, or of each of its words.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,), int64, or list of ndarray of shape (n_words,), int64
            Layers, counted from 1 to ``n_layers_``: one per sample with ``token_exit="sentence"``,
            one per word with ``token_exit="token"``. 1 for samples without words and for words that
            are not read, which do not run.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.set_params(patience=1).predict_exit_layer(X[:2])
        array([1, 1])
        >>> clf.set_params(token_exit="token").predict_exit_layer(X[:2])
        [array([1, 1, 1]), array([1, 1, 1, 1])]
        """
        state, sentences = self._read(X)
        return self._exit_layers(self._word_exits(state, sentences), sentences, state)

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return spans, tags, probabilities, exit layers and computed rows, from one pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        Bunch
            ``spans``, ``tags``, ``proba`` and ``exit_layer`` as `predict`, `predict_tags`,
            `predict_proba` and `predict_exit_layer` return them; ``entropy``, a list of arrays
            (n_words,) float32, or (n_words, n_layers_of_spans), of the normalized entropy of the
            exit's own head; ``rows_computed`` and ``rows_total``, (n_samples,) int64, the number of
            positions computed for each sample, summed over layers, and this number at full depth.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(patience=1, max_epochs=1, random_state=0).fit(X, y)
        >>> found = clf.predict_with_exits(X[:2])
        >>> found.exit_layer, (found.rows_total // found.rows_computed).tolist()
        (array([1, 1]), [6, 6])
        """
        state, sentences = self._read(X)
        return self._with_exits(state, sentences, self._word_exits(state, sentences))

    def _with_exits(self, state: FittedState, sentences: list[Sentence], exits: WordExits) -> Bunch:
        """Return the entries of `predict_with_exits`, given the exits of all words."""
        found = self._to_predict(state, sentences)
        entropy = exits.entropy if isinstance(state.tasks.classes, dict) else exits.entropy[:, 0]
        return Bunch(
            spans=found.spans(exits.proba),
            tags=found.tags(exits.proba),
            proba=found.proba(exits.proba),
            exit_layer=self._exit_layers(exits, sentences, state),
            entropy=found.split(entropy),
            rows_computed=exits.rows_computed,
            rows_total=exits.rows_total,
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the micro-averaged F1 score of spans over all labels and layers, as in seqeval.

        A span is correct if its start, its end and its label are.

        Parameters
        ----------
        X : samples
            As in `fit`.
        y : sequence of length n_samples
            True tags or spans, as in `fit`. Spans that tags cannot represent count as not found.
        sample_weight : None, default=None
            Not supported: spans have no weights in seqeval.

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        TypeError, ValueError
            If X or y is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> clf.score(X, y)
        1.0
        """
        if sample_weight is not None:
            raise ValueError(
                f"sample_weight={shown(sample_weight)}: spans are scored without weights; "
                "expected None."
            )
        state, sentences = self._read(X)
        scheme = state.tasks.scheme
        true = state.tasks.nested(true_spans(y, sentences, list(state.tasks.by_name), scheme))
        found = self._to_predict(state, sentences)
        predicted = found.spans(self._word_exits(state, sentences).proba)
        return float(span_f1_score(true, predicted, scheme=scheme))

    def predict_at_layer(self, X: Any, layer: int) -> list[Any]:
        """Predict spans with the heads of one layer; the layers above do not run.

        Parameters
        ----------
        X : samples
            As in `fit`.
        layer : int
            1 to ``n_layers_``, or -1 (the last layer) to ``-n_layers_``.

        Returns
        -------
        list of length n_samples
            The spans of each sample, as in `predict`.

        Raises
        ------
        TypeError, ValueError
            If X is not as described, or there is no such layer.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> clf.predict_at_layer([["zinc", "causes", "rash"]], -1)
        [[(0, 1, 'Drug'), (2, 3, 'Effect')]]
        """
        state, sentences = self._read(X)
        found = self._to_predict(state, sentences)
        return found.spans(self._at_layer(state, sentences, layer))

    def predict_tags_at_layer(self, X: Any, layer: int) -> list[Any]:
        """Predict tags with the heads of one layer; the layers above do not run.

        Parameters
        ----------
        X : samples
            As in `fit`.
        layer : int
            1 to ``n_layers_``, or -1 (the last layer) to ``-n_layers_``.

        Returns
        -------
        list of length n_samples
            The tags of each sample, as in `predict_tags`.

        Raises
        ------
        TypeError, ValueError
            If X is not as described, or there is no such layer.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> clf.predict_tags_at_layer([["zinc", "causes", "rash"]], -1)
        [['B-Drug', 'O', 'B-Effect']]
        """
        state, sentences = self._read(X)
        found = self._to_predict(state, sentences)
        return found.tags(self._at_layer(state, sentences, layer))

    def predict_proba_at_layer(self, X: Any, layer: int) -> list[Any]:
        """Predict probabilities of tags with the heads of one layer; the layers above do not run.

        Parameters
        ----------
        X : samples
            As in `fit`.
        layer : int
            1 to ``n_layers_``, or -1 (the last layer) to ``-n_layers_``.

        Returns
        -------
        list of ndarray of shape (n_words, n_tags), float32
            As in `predict_proba`.

        Raises
        ------
        TypeError, ValueError
            If X is not as described, or there is no such layer.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> clf.predict_proba_at_layer(X[:2], 2)[0].shape
        (3, 3)
        """
        state, sentences = self._read(X)
        found = PredictedSentences(sentences, state.tasks)
        return found.proba(self._at_layer(state, sentences, layer))

    def staged_predict(self, X: Any) -> Iterator[list[Any]]:
        """Predict spans at every layer, from one forward pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Yields
        ------
        list of length n_samples
            The spans of layer 1, then 2, up to ``n_layers_``, as in `predict`.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> [spans for spans in clf.staged_predict([["zinc", "causes", "rash"]])][-1]
        [[(0, 1, 'Drug'), (2, 3, 'Effect')]]
        """
        state, sentences = self._read(X)
        found = self._to_predict(state, sentences)
        for proba in self._layer_by_layer(state, sentences):
            yield found.spans(proba)

    def staged_predict_tags(self, X: Any) -> Iterator[list[Any]]:
        """Predict tags at every layer, from one forward pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Yields
        ------
        list of length n_samples
            The tags of layer 1, then 2, up to ``n_layers_``, as in `predict_tags`.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> [tags for tags in clf.staged_predict_tags([["zinc", "causes", "rash"]])][-1]
        [['B-Drug', 'O', 'B-Effect']]
        """
        state, sentences = self._read(X)
        found = self._to_predict(state, sentences)
        for proba in self._layer_by_layer(state, sentences):
            yield found.tags(proba)

    def staged_predict_proba(self, X: Any) -> Iterator[list[Any]]:
        """Predict the probabilities of tags at every layer, from one forward pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Yields
        ------
        list of ndarray of shape (n_words, n_tags), float32
            Probabilities of layer 1, then 2, up to ``n_layers_``, as in `predict_proba`.

        Raises
        ------
        TypeError, ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
        >>> [proba[0].shape for proba in clf.staged_predict_proba(X[:2])][:2]
        [(3, 3), (3, 3)]
        """
        state, sentences = self._read(X)
        found = PredictedSentences(sentences, state.tasks)
        for proba in self._layer_by_layer(state, sentences):
            yield found.proba(proba)

    # -------------------------------------------------------------------------- running sentences

    def _read(self, X: Any) -> tuple[FittedState, list[Sentence]]:
        """Return the fitted state and validated sentences."""
        state = self._fitted()
        return state, self._check_samples(X, state.summary)

    def _to_predict(self, state: FittedState, sentences: list[Sentence]) -> PredictedSentences:
        """Return the decoder of the probabilities of sentences to tags and spans."""
        return PredictedSentences(sentences, state.tasks, self._transition_weight())

    def _word_exits(self, state: FittedState, sentences: list[Sentence]) -> WordExits:
        """Return exits and predictions of all words under the exit policy."""
        policy, batch_size = self._policy(state), self._prediction_batch()
        engine = state.engine(*self._setting())
        parts = self._run(
            state, sentences, lambda window: engine.dynamic(window, policy, batch_size)
        )
        return WordExits.join(WordExits.of_all_words(*part, state.tasks) for part in parts)

    def _at_layer(
        self, state: FittedState, sentences: list[Sentence], layer: int
    ) -> NDArray[np.float32]:
        layer = check_layer(layer, state.summary.n_layers)
        engine, batch_size = state.engine(*self._setting()), self._prediction_batch()
        parts = self._run(
            state, sentences, lambda window: engine.budgeted(window, layer, batch_size)
        )
        return np.concatenate([of_all_words(*part, state.tasks) for part in parts])

    def _layer_by_layer(self, state: FittedState, sentences: list[Sentence]) -> NDArray[np.float32]:
        engine, batch_size = state.engine(*self._setting()), self._prediction_batch()
        parts = self._run(
            state, sentences, lambda window: engine.staged(window, batch_size).transpose(1, 0, 2)
        )
        n = state.summary.n_layers
        return np.concatenate(
            [of_all_words(*part, state.tasks, n_layers=n) for part in parts], axis=1
        )

    @staticmethod
    def _encoded(preprocessor: Any, samples: list[Sentence]) -> Iterator[EncodedWords]:
        """Encode the words of validated sentences, a few thousand sentences at a time."""
        words = [sentence.words for sentence in samples]
        windows: Iterator[EncodedWords] = preprocessor.encode_in_windows(words)
        return windows

    @staticmethod
    def _run(
        state: FittedState, sentences: list[Sentence], run: Callable[[EncodedWords], Any]
    ) -> list[tuple[EncodedWords, Any]]:
        """Encode sentences, a few thousand at a time, and run those with words that are read."""
        parts = []
        for window in BaseEPEETokenClassifier._encoded(state.trained.preprocessor, sentences):
            parts.append((window, run(window) if len(window) else None))  # noqa: PERF401
        return parts

    def _exit_layers(
        self, exits: WordExits, sentences: list[Sentence], state: FittedState
    ) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        if check_token_exit(self.token_exit) == "sentence":
            return exits.sentence_exit_layer
        return PredictedSentences(sentences, state.tasks).split(exits.exit_layer)

    def _transition_weight(self) -> float:
        return check_transition_weight(self.transition_weight)

    def _policy(self, state: FittedState) -> ExitPolicy:
        fitted = state.summary
        return ExitPolicy(
            tau=check_tau(self.tau),
            patience=check_patience(self.patience, fitted.n_layers),
            min_exit_layer=check_min_exit_layer(self.min_exit_layer),
            exit_ensemble=None,
            exit_weights=fitted.exit_weights,
            joint_exit=check_joint_exit(self.joint_exit),
            token_exit=check_token_exit(self.token_exit),
        )


def check_token_exit(token_exit: Any) -> str:
    """Return the parameter `token_exit`; raise if it is neither "sentence" nor "token"."""
    if token_exit not in TOKEN_EXITS:
        raise ValueError(f"token_exit must be one of {TOKEN_EXITS}; got {token_exit!r}.")
    return str(token_exit)
