"""Load data sets, and predict with every exit of a fitted estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_epee import datasets

IMAGES = ("pneumoniamnist", "breastmnist", "pathmnist_subset")


def load(name: str, subset: str) -> tuple[Any, np.ndarray]:
    """Return the samples and labels of a part of a data set."""
    bunch = getattr(datasets, f"load_{name}")(subset=subset)
    return bunch.data, np.asarray(bunch.target)


def staged_probabilities(estimator: Any, X: Any) -> np.ndarray:
    """Return the probabilities of every exit, (n, M, K)."""
    return np.stack(list(estimator.staged_predict_proba(X)), axis=1)
