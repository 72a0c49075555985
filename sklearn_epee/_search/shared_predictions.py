"""Share the probabilities of every exit among the estimators of one search."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.multilabel import pack_labels
from sklearn_epee._checks.tasks import split_columns
from sklearn_epee._exits.missing_exits import available_exits
from sklearn_epee._nn.exit_rules import ExitPolicy, Exits
from sklearn_epee._nn.forks import ForkSafeLock
from sklearn_epee.policy import apply_policy

from .fingerprint import NoFingerprintError, fingerprint

# Kept in each process. One set of samples may take a sixteenth of it, so that the folds of a
# search find room side by side: about 100,000 samples at 6 layers and 3 classes.
MAX_BYTES = 128 * 2**20
_MAX_ENTRY_BYTES = MAX_BYTES // 16
# Pairs of a network and samples of which the first estimator that predicts is noted.
_MAX_NOTED = 4096

_numbers = itertools.count()


class SharedPredictions:
    """The part of one estimator in what the candidates of a search share of their predictions.

    A search predicts the samples of a fold with one network under one policy after the other. The
    first estimator runs its network. For the second one, one pass computes the probabilities of
    every exit, and from then on a policy is array arithmetic (`sklearn_epee.policy`).

    An estimator that is alone with its network, such as the one that a search leaves behind, runs
    it at every prediction.

    Parameters
    ----------
    key : str
        Fingerprint of what shaped the training of the network.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._number = next(_numbers)

    def exits_or_none(
        self,
        samples: Any,
        policy: ExitPolicy,
        *,
        setting: tuple[str, ...],
        n_layers: int,
        counts: Sequence[int],
        run: Callable[[], NDArray[np.float32]],
    ) -> Exits | None:
        """Return where samples exit and with what, if another estimator predicted them before.

        Parameters
        ----------
        samples : sequence
        policy : ExitPolicy
        setting : tuple of str
            Device and precision, on which probabilities depend.
        n_layers : int
            Number of layers M.
        counts : sequence of int
            Number of classes per task.
        run : callable
            Returns the probabilities of every exit, (n_samples, M, sum of counts), float32.

        Returns
        -------
        Exits or None
            None: to be predicted as usual.
        """
        shape = (len(samples), n_layers, sum(counts))
        proba = self.probabilities(samples, setting, shape, run)
        return None if proba is None else exits_from(proba, policy, counts)

    def probabilities(
        self,
        samples: Any,
        setting: tuple[str, ...],
        shape: tuple[int, int, int],
        run: Callable[[], NDArray[np.float32]],
    ) -> NDArray[np.float32] | None:
        """Return the probabilities of every exit, if another estimator predicted them before.

        Parameters
        ----------
        samples : sequence
        setting : tuple of str
            Device and precision, on which probabilities depend.
        shape : tuple of int
            Samples, layers and classes, of all tasks together.
        run : callable
            Returns the probabilities, of that shape, in float32.

        Returns
        -------
        ndarray of shape (n, M, K), float32, or None
            Not to be changed. None: to be predicted as usual.
        """
        if 4 * int(np.prod(shape)) > _MAX_ENTRY_BYTES:
            return None
        try:
            key = fingerprint((self._key, setting, samples))
        except NoFingerprintError:
            return None
        if _cache.first_estimator(key, self._number) == self._number:
            return None
        found = _cache.get(key)
        if found is None:
            found = run()
            _cache.put(key, found)
        return found


class _PredictionCache:
    """Which estimator predicted first, and the probabilities used last, in one process."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._first_estimators: OrderedDict[str, int] = OrderedDict()
        self._proba: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def first_estimator(self, key: str, number: int) -> int:
        """Return the number of the estimator that predicted first, which may be this one."""
        with self._lock:
            first = self._first_estimators.setdefault(key, number)
            self._first_estimators.move_to_end(key)
            if len(self._first_estimators) > _MAX_NOTED:
                self._first_estimators.popitem(last=False)
            return first

    def get(self, key: str) -> NDArray[np.float32] | None:
        with self._lock:
            if key in self._proba:
                self._proba.move_to_end(key)
            return self._proba.get(key)

    def put(self, key: str, proba: NDArray[np.float32]) -> None:
        with self._lock:
            self._proba[key] = proba
            while sum(kept.nbytes for kept in self._proba.values()) > MAX_BYTES:
                self._proba.popitem(last=False)


_cache = _PredictionCache()


def exits_from(
    proba: NDArray[np.float32], policy: ExitPolicy, counts: Sequence[int] | None = None
) -> Exits:
    """Let samples exit by a policy, from the probabilities of every exit.

    Parameters
    ----------
    proba : ndarray of shape (n, M, K), float32
    policy : ExitPolicy
    counts : sequence of int, default=None
        Number of classes per task, if there are several tasks, side by side in `proba`.

    Returns
    -------
    Exits
    """
    if policy.label_thresholds is not None:
        return _exits_of_labels(proba, policy)
    tasks = split_columns(proba, counts) if counts is not None and len(counts) > 1 else None
    found = apply_policy(
        proba if tasks is None else tasks,
        policy.tau,
        policy.patience,
        policy.exit_ensemble,
        policy.exit_weights,
        joint_exit=policy.joint_exit,
    )
    joined: Any = found.proba if tasks is None else np.concatenate(found.proba, axis=1)
    return Exits(joined, found.exit_layer, found.entropy, available_exits(proba))


def _exits_of_labels(proba: NDArray[np.float32], policy: ExitPolicy) -> Exits:
    """Let samples with several labels exit; those lie side by side as tasks of two classes."""
    found = apply_policy(
        proba[..., 1::2],
        policy.tau,
        policy.patience,
        policy.exit_ensemble,
        policy.exit_weights,
        joint_exit=policy.joint_exit,
        multilabel=True,
        label_thresholds=policy.label_thresholds,
    )
    packed: Any = pack_labels(np.asarray(found.proba))
    return Exits(packed, found.exit_layer, found.entropy, available_exits(proba))
