"""Jobs "tfidf": weighted counts of words and phrases, with logistic regression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from studies.jobs import NO_BACKBONE, Folder, Job, Kind
from studies.rivals.common import Proba, Setting, keep, proba_of, tuned
from studies.sets import SETS, Parts

# Words; marks around entities are separate words.
TOKENS = r"(?u)\[/?e[12]\]|\b\w\w+\b"
PHRASES = [(1, 2), (1, 3)]
GRID = {"C": [1, 10, 100, 1000], "class_weight": [None, "balanced"]}


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Fit the grid, and keep the best on dev."""
    model, chosen = tuned(job, parts, _candidates(parts))
    n_parameters = model[-1].coef_.size + model[-1].intercept_.size
    return keep(job, parts, folder, model) | {"n_parameters": n_parameters} | chosen


def _candidates(parts: Parts) -> Iterator[tuple[Setting, Any, Proba]]:
    for phrases in PHRASES:
        words = TfidfVectorizer(
            ngram_range=phrases, min_df=2, sublinear_tf=True, token_pattern=TOKENS
        )
        counted = words.fit_transform(parts.train.X)
        for setting in ParameterGrid(GRID):
            regression = LogisticRegression(max_iter=1000, **setting)
            regression.fit(counted, parts.train.y)
            model = Pipeline([("words", words), ("regression", regression)])
            yield (
                {"ngram_range": list(phrases)} | setting,
                model,
                proba_of(model, parts.dev.X, parts),
            )


def applies(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: for texts, without a backbone."""
    return backbone == NO_BACKBONE and SETS[data].kind == "texts"


# Deterministic, so one seed is enough.
KINDS = {"tfidf": Kind(run, applies, one_seed=True)}
