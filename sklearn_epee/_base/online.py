"""A snapshot of a fitted classifier that predicts samples as they arrive, for `serving`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.layer_walk import LayerWalk
from sklearn_epee._nn.row_policies import RowPolicyRule
from sklearn_epee._nn.token_engine import TokenEngine
from sklearn_epee._nn.tower_engine import TowerEngine
from sklearn_epee._nn.tower_walk import TowerPolicies, TowerWalk
from sklearn_epee._nn.word_records import WordRecords

from .classifier import BaseEPEEClassifier
from .fitted import FittedState
from .sentences import Sentence
from .span_prediction import BaseEPEETokenClassifier
from .word_predictions import ReadWords, WordExits

_NOBODY = np.empty(0, np.intp)


class OnlineWalk:
    """Samples on their way through the layers of a classifier; not to be used by itself.

    Samples are known by their slots, which are used again.

    Parameters
    ----------
    walk : LayerWalk or TowerWalk
    n_layers : int
        Number of layers M.
    """

    def __init__(self, walk: LayerWalk | TowerWalk, n_layers: int) -> None:
        self._walk = walk
        self.n_layers = n_layers

    @property
    def n_runs(self) -> int:
        """Layers run so far, each of one batch."""
        return self._walk.n_runs

    @property
    def n_samples_run(self) -> int:
        """Samples in these batches, all together."""
        return self._walk.n_samples_run

    @property
    def takes_more(self) -> bool:
        """Whether more samples should enter before the next layer is run."""
        return self._walk.takes_more

    def enter(
        self,
        samples: Sequence[Any],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Take validated samples in, all or none.

        Parameters
        ----------
        samples : sequence of length n
        slots : ndarray of shape (n,)
        policies : sequence of n (tau, patience)

        Returns
        -------
        ndarray of int
            Slots of the samples of which nothing is to be run: they have exited.
        """
        raise NotImplementedError

    def advance(self) -> NDArray[np.intp]:
        """Run one layer of one batch; return the slots of the samples that exited.

        Raises
        ------
        SampleTooLargeError
            If the memory does not suffice for a single sample, which is to be dropped.
        SampleFailedError
            If a sample cannot be read, which is to be dropped.
        """
        return self._walk.advance()

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Take samples out that are not to be run any further."""
        self._walk.drop(slots)

    def predictions(self, samples: Sequence[Any], slots: NDArray[np.intp]) -> list[dict[str, Any]]:
        """Return what is predicted of samples that exited, once.

        Parameters
        ----------
        samples : sequence of length n
            At least one.
        slots : ndarray of shape (n,)

        Returns
        -------
        list of n dicts
            Of samples label, proba, exit_layer and entropy; of sentences what `predict_with_exits`
            returns of words.
        """
        raise NotImplementedError


class SampleWalk(OnlineWalk):
    """Samples that have a label each, or several.

    Parameters
    ----------
    walk : LayerWalk or TowerWalk
    rule : RowPolicyRule or TowerPolicies
    classifier : BaseEPEEClassifier
    state : FittedState
    """

    def __init__(
        self,
        walk: LayerWalk | TowerWalk,
        rule: RowPolicyRule | TowerPolicies,
        classifier: BaseEPEEClassifier,
        state: FittedState,
    ) -> None:
        super().__init__(walk, state.summary.n_layers)
        self._rule = rule
        self._classifier = classifier
        self._state = state

    def enter(
        self,
        samples: Sequence[Any],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Take validated samples in, all or none; see `OnlineWalk`."""
        encoded = self._state.trained.preprocessor.encode(list(samples))
        for slot, policy in zip(slots.tolist(), policies, strict=True):
            self._rule.set_policy(slot, *policy)
        self._walk.enter(encoded, slots)
        return _NOBODY

    def predictions(self, samples: Sequence[Any], slots: NDArray[np.intp]) -> list[dict[str, Any]]:  # noqa: ARG002 - the labels say nothing of the sample
        """Return what is predicted of samples that exited; see `OnlineWalk`."""
        out, tasks = self._rule.out, self._state.tasks
        labels = self._classifier._labels(self._state, out.proba[slots])
        proba, entropy = tasks.proba(out.proba[slots]), tasks.entropies(out.entropy[slots])
        return [
            {
                "label": labels[i],
                "proba": [part[i] for part in proba] if isinstance(proba, list) else proba[i],
                "exit_layer": int(out.exit_layer[slot]),
                "entropy": entropy[i] if np.ndim(entropy[i]) else float(entropy[i]),
            }
            for i, slot in enumerate(slots.tolist())
        ]


class SentenceWalk(OnlineWalk):
    """Sentences whose words have tags.

    Parameters
    ----------
    walk : LayerWalk
    records : WordRecords
    classifier : BaseEPEETokenClassifier
    state : FittedState
    """

    def __init__(
        self,
        walk: LayerWalk,
        records: WordRecords,
        classifier: BaseEPEETokenClassifier,
        state: FittedState,
    ) -> None:
        super().__init__(walk, state.summary.n_layers)
        # It is checked here, not where the first sentence has exited.
        classifier._to_predict(state, [])
        self._records = records
        self._classifier = classifier
        self._state = state
        # Of the sentence of each slot, which of its words are read.
        self._is_read: dict[int, NDArray[np.bool_]] = {}

    def enter(
        self,
        samples: Sequence[Sentence],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Take sentences in, all or none; those of which no word is read have exited."""
        words = [sentence.words for sentence in samples]
        encoded = self._state.trained.preprocessor.encode_to_predict(words)
        read = slots[encoded.rows]
        if len(read):
            self._records.admit(encoded, read, [policies[row] for row in encoded.rows])
            try:
                self._walk.enter(encoded, read)
            except BaseException:
                self._records.release(read)
                raise
        parts = np.split(encoded.is_read, np.cumsum(encoded.given_counts)[:-1])
        self._is_read.update(zip(slots.tolist(), parts, strict=True))
        return np.setdiff1d(slots, read, assume_unique=True)

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Take sentences out that are not to be run any further."""
        super().drop(slots)
        self._forget(slots)

    def predictions(
        self, samples: Sequence[Sentence], slots: NDArray[np.intp]
    ) -> list[dict[str, Any]]:
        """Return what is predicted of sentences that exited; see `OnlineWalk`."""
        parts = [self._is_read[slot] for slot in slots.tolist()]
        rows = np.flatnonzero([part.any() for part in parts])
        counts = np.array([len(part) for part in parts], np.int64)
        read = ReadWords(rows, np.concatenate(parts), counts)
        exits = self._records.exits(slots[rows]) if len(rows) else None
        words = WordExits.of_all_words(read, exits, self._state.tasks)
        self._forget(slots)
        found = self._classifier._with_exits(self._state, list(samples), words)
        columns = found | {
            # A layer for each sentence, where its words exit together.
            "exit_layer": [part if np.ndim(part) else int(part) for part in found.exit_layer],
            "rows_computed": found.rows_computed.tolist(),
            "rows_total": found.rows_total.tolist(),
        }
        return [{name: column[i] for name, column in columns.items()} for i in range(len(slots))]

    def _forget(self, slots: NDArray[np.intp]) -> None:
        read = [slot for slot in slots.tolist() if self._is_read.pop(slot).any()]
        self._records.release(np.array(read, np.intp))


class OnlineModel:
    """Checks samples of a classifier, and starts the walk that predicts them.

    A later `fit` or `set_params` of the classifier changes nothing here.

    Parameters
    ----------
    classifier : BaseEPEEClassifier or BaseEPEETokenClassifier
        Fitted, with one network.

    Attributes
    ----------
    n_layers : int
        Number of layers M.
    of_words : bool
        Whether it predicts words.

    Raises
    ------
    TypeError
        If it is another kind of classifier.
    """

    def __init__(self, classifier: Any) -> None:
        check_is_one_network(classifier)
        self._classifier = copy.copy(classifier)
        self._state = classifier._fitted()
        self.n_layers: int = self._state.summary.n_layers
        self.of_words = isinstance(classifier, BaseEPEETokenClassifier)
        self._policy = self._classifier._policy(self._state)

    def check(self, X: Any) -> Any:
        """Return the one sample of X, validated.

        Raises
        ------
        TypeError, ValueError
            If X is not as the classifier takes it, or holds another number of samples.
        """
        samples = self._classifier._check_samples(X, self._state.summary)
        if len(samples) != 1:
            raise ValueError(f"A request is for one sample; got {len(samples)}.")
        return samples[0]

    def walk(self, tau: float, patience: int, capacity: int) -> OnlineWalk:
        """Return a walk through the layers that samples can join at any time.

        Parameters
        ----------
        tau : float
            The largest that a sample may have.
        patience : int
            The least that a sample may have.
        capacity : int
            Number of samples that are under way at most.
        """
        engine = self._state.engine(*self._classifier._setting())
        widest = replace(self._policy, tau=tau, patience=patience)
        walk, recorded = engine.walk(widest, capacity, self._classifier._prediction_batch())
        if self.of_words:
            return SentenceWalk(walk, recorded, self._classifier, self._state)
        return SampleWalk(walk, recorded, self._classifier, self._state)


def check_is_one_network(classifier: Any) -> None:
    """Raise if a classifier is not one of a single network."""
    kinds = {BaseEPEEClassifier: (Engine, TowerEngine), BaseEPEETokenClassifier: (TokenEngine,)}
    if not any(
        isinstance(classifier, kind) and classifier._engine in engines
        for kind, engines in kinds.items()
    ):
        raise TypeError(
            "estimator must be an EPEEClassifier, EPEEImageClassifier, EPEEMultimodalClassifier or "
            "EPEETokenClassifier, or a pipeline, search object or exit policy around one; "
            f"classifiers of other packages are not served; got {type(classifier).__name__}."
        )
