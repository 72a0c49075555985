"""Train the network of a fit, or load it if another fit of the search has trained it."""

from __future__ import annotations

import functools
import os
import platform
import secrets
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

import joblib
from sklearn.utils import check_random_state

from sklearn_epee._checks.messages import level_of_caller
from sklearn_epee._version import __version__

from .context import MAX_SEED, SearchContext
from .fingerprint import VERSIONED_PACKAGES, NoFingerprintError, fingerprint
from .network_file import LazyNetwork
from .shared_predictions import SharedPredictions
from .store import store_for

Trained = TypeVar("Trained")


class NetworkReuse:
    """Draw the seed of one fit, and train its network or load it from the store.

    Parameters
    ----------
    context : SearchContext
        Describes the search that cloned the estimator.
    memory : "auto", str, path-like, joblib.Memory or None
        The estimator's parameter.
    random_state : int, RandomState instance or None
        The estimator's parameter.

    Attributes
    ----------
    seed : int
        The random seed of this fit.

    Raises
    ------
    TypeError, ValueError
        If ``memory`` is invalid.
    """

    def __init__(self, context: SearchContext, memory: Any, random_state: Any) -> None:
        self._context = context
        self._store = store_for(memory, context.folder)
        if random_state is None and _is_a_folder(memory):
            warnings.warn(
                f"memory={_shown(memory)!r} keeps networks for later runs, but with "
                "random_state=None every search and every fit draws a new seed and finds none of "
                "them, while the folder grows. Pass an int as random_state.",
                UserWarning,
                stacklevel=level_of_caller(),
            )
        # Whether another fit can have the same seed, and so need the same network.
        self._can_recur = random_state is not None or context.in_search
        self.seed = _draw(context, random_state)

    def fit_or_fetch(
        self,
        train: Callable[[], LazyNetwork[Trained]],
        shaping: Callable[[], dict[str, Any]] | None,
        is_complete: Callable[[LazyNetwork[Trained]], bool],
    ) -> tuple[LazyNetwork[Trained], SharedPredictions | None]:
        """Return the network of this fit, and the predictions that it shares with other fits.

        Parameters
        ----------
        train : callable
            Trains the network, with `seed`.
        shaping : callable or None
            Returns everything that affects the training, except the seed; only called if needed.
            None: always train.
        is_complete : callable
            Returns whether a training was not interrupted, so that other fits may use the network.

        Returns
        -------
        network : LazyNetwork
        shared : SharedPredictions or None
            None if no other candidate of a search can have the same network.
        """
        key = self._key(shaping)
        if self._store is None or key is None:
            return train(), None
        network = self._store.fetch_or_train(key, train, is_complete)
        return network, SharedPredictions(key) if self._context.in_search else None

    def _key(self, shaping: Callable[[], dict[str, Any]] | None) -> str | None:
        if self._store is None or shaping is None or not self._can_recur:
            return None
        try:
            return fingerprint({"versions": _versions(), "seed": self.seed, **shaping()})
        except NoFingerprintError as error:
            warnings.warn(
                "A parameter cannot be fingerprinted, so the trained network is not kept and a "
                f"search will train it again for every exit policy: {error}",
                RuntimeWarning,
                stacklevel=level_of_caller(),
            )
            return None


def _draw(context: SearchContext, random_state: Any) -> int:
    if random_state is not None:
        return int(check_random_state(random_state).randint(MAX_SEED))
    return secrets.randbelow(MAX_SEED) if context.seed is None else context.seed


def _is_a_folder(memory: Any) -> bool:
    if isinstance(memory, joblib.Memory):
        return memory.location is not None
    return isinstance(memory, (str, os.PathLike)) and memory != "auto"


def _shown(memory: Any) -> str:
    return str(memory.location if isinstance(memory, joblib.Memory) else memory)


@functools.cache
def _versions() -> tuple[str, ...]:
    # Includes the version of Python, because fingerprints contain bytecode.
    packages = map(version, VERSIONED_PACKAGES)
    return (__version__, platform.python_version(), *packages)
