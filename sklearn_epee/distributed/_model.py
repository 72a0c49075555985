"""Send a fitted estimator to workers: pickled once, loaded once per process."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

# Estimators of this process by key, the last used at the end. At most two, so that a graph with two
# estimators does not load them alternately.
_LOADED: OrderedDict[str, Any] = OrderedDict()
_KEPT = 2
_LOADING = threading.Lock()


@dataclass(frozen=True)
class PickledModel:
    """A pickled estimator.

    Parameters
    ----------
    key : str
        Different for different estimators.
    content : bytes
    """

    key: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, estimator: Any) -> PickledModel:
        """Pickle a fitted estimator, including its definitions from ``__main__``."""
        content = cloudpickle.dumps(estimator)
        return cls(hashlib.sha256(content).hexdigest(), content)

    def load(self, threads: int = 1) -> Any:
        """Return the estimator, which is unpickled once per process.

        Parameters
        ----------
        threads : int, default=1
            Number of tokenizer threads, unless the process has used or set them before.
        """
        with _LOADING:
            if self.key not in _LOADED:
                os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
                while len(_LOADED) >= _KEPT:
                    _LOADED.popitem(last=False)
                _LOADED[self.key] = pickle.loads(self.content)  # noqa: S301 - made by `of`
            _LOADED.move_to_end(self.key)
            return _LOADED[self.key]

    def __dask_tokenize__(self) -> str:
        return self.key
