"""Jobs "forest": a random forest on pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from studies.jobs import NO_BACKBONE, Folder, Job, Kind
from studies.rivals.common import Proba, Setting, keep, proba_of, tuned
from studies.sets import SETS, Parts

N_TREES = 300
GRID = {
    "max_features": ["sqrt", 0.1],
    "min_samples_leaf": [1, 3],
    "class_weight": [None, "balanced"],
}


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Fit the grid, and keep the best on dev."""
    model, chosen = tuned(job, parts, _candidates(job, parts))
    n_nodes = sum(tree.tree_.node_count for tree in model[-1].estimators_)
    return keep(job, parts, folder, model) | {"n_nodes": n_nodes} | chosen


def rows_of_pixels(images: np.ndarray) -> np.ndarray:
    """Return flattened images as rows."""
    return np.reshape(images, (len(images), -1))


def _candidates(job: Job, parts: Parts) -> Iterator[tuple[Setting, Any, Proba]]:
    for setting in ParameterGrid(GRID):
        forest = RandomForestClassifier(N_TREES, random_state=job.seed, **setting)
        model = Pipeline([("pixels", FunctionTransformer(rows_of_pixels)), ("forest", forest)])
        model.fit(*parts.train)
        yield setting, model, proba_of(model, parts.dev.X, parts)


def applies(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: for images, without a backbone."""
    return backbone == NO_BACKBONE and SETS[data].kind == "images"


KINDS = {"forest": Kind(run, applies)}
