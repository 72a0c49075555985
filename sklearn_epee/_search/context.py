"""Recognize clones of one search, and what they share."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sklearn_epee._compat import BaseSearchCV

from .temporary_folder import temporary_folder

MAX_SEED = 2**31 - 1
# Cloning nests: a search clones a pipeline, which clones its steps.
_CLONING_MODULES = frozenset({"sklearn.base", "sklearn_epee._base.estimator", __name__})


@dataclass(frozen=True)
class SearchContext:
    """What the clones of one search share.

    With ``random_state=None`` the candidates of a search share one draw, so that exit policies are
    compared on the same network. The draw is made where a search clones the estimator that it was
    given, before it clones that once more for every candidate; what is cloned from a candidate has
    the candidate's draw. No other clone shares a draw with anything: neither clones made by hand,
    nor those of an ensemble or of a cross-validation.

    Parameters
    ----------
    folder : Path, default=None
        The temporary store of the process that made the first clone.
    seed : int, default=None
        The draw that stands in for ``random_state=None`` in a search.
    is_clone : bool, default=False
        Whether the estimator is a clone that was not fitted yet, so that somebody else's code
        fits it.
    """

    folder: Path | None = None
    seed: int | None = None
    is_clone: bool = False

    @property
    def in_search(self) -> bool:
        """Whether the estimator was cloned by a search and was not fitted yet."""
        return self.seed is not None

    def for_clone(self) -> SearchContext:
        """Return the context of a clone of the estimator that has this one."""
        seed = self.seed
        if seed is None and _is_cloned_by_a_search():
            seed = secrets.randbelow(MAX_SEED)
        return SearchContext(self.folder or temporary_folder(), seed, is_clone=True)

    def after_fit(self) -> SearchContext:
        """Return the context of the fitted estimator, which is no longer part of the search."""
        return SearchContext(self.folder)


def _is_cloned_by_a_search() -> bool:
    """Return whether a method of a search asked for the clone that is being made.

    A search and an ensemble clone in the same way, so that only the caller tells them apart.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") in _CLONING_MODULES:
        frame = frame.f_back
    return frame is not None and isinstance(frame.f_locals.get("self"), BaseSearchCV)
