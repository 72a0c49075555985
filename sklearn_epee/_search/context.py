"""Recognize the clones of one search, and give them the same seed."""

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
    """State that the clones of one search share.

    With ``random_state=None``, all candidates of a search have the same random seed, so that exit
    policies are compared on the same network. The seed is drawn when a search clones its estimator,
    before it clones the result for every candidate; clones of a candidate have the candidate's
    seed. Other clones, such as those made by hand, by an ensemble or by a cross-validation, do not
    share a seed.

    Parameters
    ----------
    folder : Path, default=None
        The temporary store of the process that made the first clone.
    seed : int, default=None
        The seed used in place of ``random_state=None`` in a search.
    is_clone : bool, default=False
        Whether the estimator is a clone that was not fitted yet, so that the code of a
        meta-estimator will fit it, not the user's.
    """

    folder: Path | None = None
    seed: int | None = None
    is_clone: bool = False

    @property
    def in_search(self) -> bool:
        """Whether the estimator was cloned by a search and was not fitted yet."""
        return self.seed is not None

    def for_clone(self) -> SearchContext:
        """Return the context of a clone of the estimator that has this context."""
        seed = self.seed
        if seed is None and _is_cloned_by_a_search():
            seed = secrets.randbelow(MAX_SEED)
        return SearchContext(self.folder or temporary_folder(), seed, is_clone=True)

    def after_fit(self) -> SearchContext:
        """Return the context of the fitted estimator, which is no longer part of the search."""
        return SearchContext(self.folder)


def _is_cloned_by_a_search() -> bool:
    """Return whether the clone that is being made was requested by a method of a search.

    A search and an ensemble clone in the same way, so they can only be told apart by the caller.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") in _CLONING_MODULES:
        frame = frame.f_back
    return frame is not None and isinstance(frame.f_locals.get("self"), BaseSearchCV)
