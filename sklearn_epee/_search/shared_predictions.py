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

# Size of the cache in each process. One set of samples may take a sixteenth of it (about 100,000
# samples with 6 layers and 3 classes), so that there is room for all folds of a search.
MAX_BYTES = 128 * 2**20
_MAX_ENTRY_BYTES = MAX_BYTES // 16
# Maximum number of pairs (network, samples) whose first predicting estimator is remembered.
_MAX_NOTED = 4096

_numbers = itertools.count()


class SharedPredictions:
    """Access of one estimator to the predictions that the candidates of a search share.

    A search predicts the samples of a fold with the same network under many policies. The first
    estimator that predicts runs its network as usual. For the second one, the probabilities of all
    exits are computed in one pass and cached; from then on, a policy only takes array operations
    (`sklearn_epee.policy`).

    An estimator that no other one shares its network with, such as `best_estimator_` of a search,
    runs the network for every prediction.

    Parameters
    ----------
    key : str
        Fingerprint of everything that affects the training of the network.
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
        """Return exits and predictions of samples, if another estimator predicted them before.

        Parameters
        ----------
        samples : sequence
        policy : ExitPolicy
        setting : tuple of str
            Device and precision, which affect the probabilities.
        n_layers : int
            Number of layers M.
        counts : sequence of int
            Number of classes per task.
        run : callable
            Returns the probabilities of every exit, (n_samples, M, sum of counts), float32.

        Returns
        -------
        Exits or None
            None: predict as usual.
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
            Device and precision, which affect the probabilities.
        shape : tuple of int
            Number of samples, of layers and of classes of all tasks.
        run : callable
            Returns the probabilities with this shape, in float32.

        Returns
        -------
        ndarray of shape (n, M, K), float32, or None
            Must not be modified. None: predict as usual.
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
    """Per-process cache: the first estimator that predicted, and recently used probabilities."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._first_estimators: OrderedDict[str, int] = OrderedDict()
        self._proba: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def first_estimator(self, key: str, number: int) -> int:
        """Return the number of the estimator that predicted first; set it if there is none."""
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
    """Return the exits of samples under a policy, from the probabilities of every exit.

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
        min_exit_layer=policy.min_exit_layer,
        joint_exit=policy.joint_exit,
    )
    joined: Any = found.proba if tasks is None else np.concatenate(found.proba, axis=1)
    return Exits(joined, found.exit_layer, found.entropy, available_exits(proba))


def _exits_of_labels(proba: NDArray[np.float32], policy: ExitPolicy) -> Exits:
    """Return the exits of multilabel samples; each label is a task with two columns in `proba`."""
    found = apply_policy(
        proba[..., 1::2],
        policy.tau,
        policy.patience,
        policy.exit_ensemble,
        policy.exit_weights,
        min_exit_layer=policy.min_exit_layer,
        joint_exit=policy.joint_exit,
        multilabel=True,
        label_thresholds=policy.label_thresholds,
    )
    packed: Any = pack_labels(np.asarray(found.proba))
    return Exits(packed, found.exit_layer, found.entropy, available_exits(proba))
