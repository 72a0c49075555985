"""One fit of a search: train its network, or fetch it if another fit has trained it."""

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
    """Draws the seed of one fit, and trains its network or fetches it.

    Parameters
    ----------
    context : SearchContext
        What the estimator knows of the search that cloned it.
    memory : "auto", str, path-like, joblib.Memory or None
        The estimator's parameter.
    random_state : int, RandomState instance or None
        The estimator's parameter.

    Attributes
    ----------
    seed : int
        The draw of this fit.

    Raises
    ------
    TypeError, ValueError
        If ``memory`` is none of these.
    """

    def __init__(self, context: SearchContext, memory: Any, random_state: Any) -> None:
        self._context = context
        self._store = store_for(memory, context.folder)
        if random_state is None and _is_a_folder(memory):
            warnings.warn(
                f"memory={_shown(memory)!r} keeps networks for later runs, but with "
                "random_state=None every search and every fit draws anew and finds none of them, "
                "while the folder grows. Pass an int as random_state.",
                UserWarning,
                stacklevel=level_of_caller(),
            )
        # Whether another fit can ask for the same network.
        self._can_recur = random_state is not None or context.in_search
        self.seed = _draw(context, random_state)

    def fit_or_fetch(
        self,
        train: Callable[[], LazyNetwork[Trained]],
        shaping: Callable[[], dict[str, Any]] | None,
        is_complete: Callable[[LazyNetwork[Trained]], bool],
    ) -> tuple[LazyNetwork[Trained], SharedPredictions | None]:
        """Return the network of this fit, and the predictions that it shares with others.

        Parameters
        ----------
        train : callable
            Makes the network, with `seed`.
        shaping : callable or None
            Returns everything beside the seed that shapes what is learned; called where it is
            needed. None trains in any case.
        is_complete : callable
            Tells whether a training went on to its end, so that others may have its outcome.

        Returns
        -------
        network : LazyNetwork
        shared : SharedPredictions or None
            None for a network that no other candidate of a search can have.
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
                "A parameter holds something that cannot be fingerprinted, so the trained network "
                f"is not kept and a search will train it again for every exit policy: {error}",
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
    # Of Python, too, as code counts by its instructions.
    packages = map(version, VERSIONED_PACKAGES)
    return (__version__, platform.python_version(), *packages)
