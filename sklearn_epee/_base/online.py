"""Prediction of samples as they arrive, by a snapshot of a fitted classifier, for `serving`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._nn.continuous_scheduler import ContinuousScheduler
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.row_policies import RowPolicyRule
from sklearn_epee._nn.token_engine import TokenEngine
from sklearn_epee._nn.tower_engine import TowerEngine
from sklearn_epee._nn.tower_scheduler import TowerPolicies, TowerScheduler
from sklearn_epee._nn.word_records import WordRecords

from .classifier import BaseEPEEClassifier
from .fitted import FittedState
from .sentences import Sentence
from .span_prediction import BaseEPEETokenClassifier
from .word_predictions import ReadWords, WordExits

_NOBODY = np.empty(0, np.intp)


class OnlineScheduler:
    """Base class: runs samples through the layers of a classifier; new ones can enter in between.

    A sample is identified by its slot, a number that is reused once the sample has left.

    Parameters
    ----------
    scheduler : ContinuousScheduler or TowerScheduler
    n_layers : int
        Number of layers M.
    """

    def __init__(self, scheduler: ContinuousScheduler | TowerScheduler, n_layers: int) -> None:
        self._scheduler = scheduler
        self.n_layers = n_layers

    @property
    def n_runs(self) -> int:
        """Number of layer runs so far, each of one batch."""
        return self._scheduler.n_runs

    @property
    def n_samples_run(self) -> int:
        """Number of samples in these batches, summed over the runs."""
        return self._scheduler.n_samples_run

    @property
    def takes_more(self) -> bool:
        """Whether there is room for more samples before the first layer."""
        return self._scheduler.takes_more

    def enter(
        self,
        samples: Sequence[Any],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Add validated samples; if this fails, none of them is added.

        Parameters
        ----------
        samples : sequence of length n
        slots : ndarray of shape (n,)
        policies : sequence of n (tau, patience)

        Returns
        -------
        ndarray of int
            Slots of the samples that need no layer and therefore have exited already.
        """
        raise NotImplementedError

    def advance(self) -> NDArray[np.intp]:
        """Run one layer of one batch; return the slots of the samples that exited.

        Raises
        ------
        SampleTooLargeError
            If a single sample does not fit in memory; the caller has to drop it.
        SampleFailedError
            If a sample cannot be read; the caller has to drop it.
        """
        return self._scheduler.advance()

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Remove samples that should not be run any further."""
        self._scheduler.drop(slots)

    def predictions(self, samples: Sequence[Any], slots: NDArray[np.intp]) -> list[dict[str, Any]]:
        """Return the predictions of samples that exited; call this once per sample.

        Parameters
        ----------
        samples : sequence of length n
            At least one.
        slots : ndarray of shape (n,)

        Returns
        -------
        list of n dicts
            For samples: label, proba, exit_layer and entropy. For sentences: the entries of
            `predict_with_exits`.
        """
        raise NotImplementedError


class SampleScheduler(OnlineScheduler):
    """Scheduler of samples that have one label, or one per task.

    Parameters
    ----------
    scheduler : ContinuousScheduler or TowerScheduler
    rule : RowPolicyRule or TowerPolicies
    classifier : BaseEPEEClassifier
    state : FittedState
    """

    def __init__(
        self,
        scheduler: ContinuousScheduler | TowerScheduler,
        rule: RowPolicyRule | TowerPolicies,
        classifier: BaseEPEEClassifier,
        state: FittedState,
    ) -> None:
        super().__init__(scheduler, state.summary.n_layers)
        self._rule = rule
        self._classifier = classifier
        self._state = state

    def enter(
        self,
        samples: Sequence[Any],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Add validated samples; see `OnlineScheduler`."""
        encoded = self._state.trained.preprocessor.encode(list(samples))
        for slot, policy in zip(slots.tolist(), policies, strict=True):
            self._rule.set_policy(slot, *policy)
        self._scheduler.enter(encoded, slots)
        return _NOBODY

    def predictions(self, samples: Sequence[Any], slots: NDArray[np.intp]) -> list[dict[str, Any]]:  # noqa: ARG002 - labels do not depend on the input
        """Return the predictions of samples that exited; see `OnlineScheduler`."""
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


class SentenceScheduler(OnlineScheduler):
    """Scheduler of sentences, whose words have tags.

    Parameters
    ----------
    scheduler : ContinuousScheduler
    records : WordRecords
    classifier : BaseEPEETokenClassifier
    state : FittedState
    """

    def __init__(
        self,
        scheduler: ContinuousScheduler,
        records: WordRecords,
        classifier: BaseEPEETokenClassifier,
        state: FittedState,
    ) -> None:
        super().__init__(scheduler, state.summary.n_layers)
        # Raise errors of the parameters now, not when the first sentence exits.
        classifier._to_predict(state, [])
        self._records = records
        self._classifier = classifier
        self._state = state
        # By slot: which words of the sentence are read.
        self._is_read: dict[int, NDArray[np.bool_]] = {}

    def enter(
        self,
        samples: Sequence[Sentence],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Add sentences; those without any word that can be read exit at once."""
        words = [sentence.words for sentence in samples]
        encoded = self._state.trained.preprocessor.encode_to_predict(words)
        read = slots[encoded.rows]
        if len(read):
            self._records.admit(encoded, read, [policies[row] for row in encoded.rows])
            try:
                self._scheduler.enter(encoded, read)
            except BaseException:
                self._records.release(read)
                raise
        parts = np.split(encoded.is_read, np.cumsum(encoded.given_counts)[:-1])
        self._is_read.update(zip(slots.tolist(), parts, strict=True))
        return np.setdiff1d(slots, read, assume_unique=True)

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Remove sentences that should not be run any further."""
        super().drop(slots)
        self._forget(slots)

    def predictions(
        self, samples: Sequence[Sentence], slots: NDArray[np.intp]
    ) -> list[dict[str, Any]]:
        """Return the predictions of sentences that exited; see `OnlineScheduler`."""
        parts = [self._is_read[slot] for slot in slots.tolist()]
        rows = np.flatnonzero([part.any() for part in parts])
        counts = np.array([len(part) for part in parts], np.int64)
        read = ReadWords(rows, np.concatenate(parts), counts)
        exits = self._records.exits(slots[rows]) if len(rows) else None
        words = WordExits.of_all_words(read, exits, self._state.tasks)
        self._forget(slots)
        found = self._classifier._with_exits(self._state, list(samples), words)
        columns = found | {
            # One layer per sentence if its words exit together.
            "exit_layer": [part if np.ndim(part) else int(part) for part in found.exit_layer],
            "rows_computed": found.rows_computed.tolist(),
            "rows_total": found.rows_total.tolist(),
        }
        return [{name: column[i] for name, column in columns.items()} for i in range(len(slots))]

    def _forget(self, slots: NDArray[np.intp]) -> None:
        read = [slot for slot in slots.tolist() if self._is_read.pop(slot).any()]
        self._records.release(np.array(read, np.intp))


class OnlineModel:
    """Snapshot of a fitted classifier that validates samples and creates a scheduler for them.

    A later `fit` or `set_params` of the classifier has no effect on the snapshot.

    Parameters
    ----------
    classifier : BaseEPEEClassifier or BaseEPEETokenClassifier
        Fitted, with one network.

    Attributes
    ----------
    n_layers : int
        Number of layers M.
    of_words : bool
        Whether the classifier predicts words.

    Raises
    ------
    TypeError
        If the classifier is of another kind.
    """

    def __init__(self, classifier: Any) -> None:
        check_is_one_network(classifier)
        self._classifier = copy.copy(classifier)
        self._state = classifier._fitted()
        self.n_layers: int = self._state.summary.n_layers
        self.of_words = isinstance(classifier, BaseEPEETokenClassifier)
        self._policy = self._classifier._policy(self._state)

    def check(self, X: Any) -> Any:
        """Return the only sample of X, validated.

        Raises
        ------
        TypeError, ValueError
            If X is not valid input of the classifier, or does not contain exactly one sample.
        """
        samples = self._classifier._check_samples(X, self._state.summary)
        if len(samples) != 1:
            raise ValueError(f"A request is for one sample; got {len(samples)}.")
        return samples[0]

    def scheduler(self, tau: float, patience: int, capacity: int) -> OnlineScheduler:
        """Return a scheduler that samples can enter at any time.

        Parameters
        ----------
        tau : float
            The largest `tau` that any sample has.
        patience : int
            The smallest `patience` that any sample has.
        capacity : int
            Maximum number of samples that have entered and not exited.
        """
        engine = self._state.engine(*self._classifier._setting())
        widest = replace(self._policy, tau=tau, patience=patience)
        scheduler, recorded = engine.scheduler(
            widest, capacity, self._classifier._prediction_batch()
        )
        if self.of_words:
            return SentenceScheduler(scheduler, recorded, self._classifier, self._state)
        return SampleScheduler(scheduler, recorded, self._classifier, self._state)


def check_is_one_network(classifier: Any) -> None:
    """Raise if a classifier is not one of this package with a single network."""
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
