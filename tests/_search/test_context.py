"""Which clones are part of a search."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_epee._search.context import SearchContext

X, y = np.zeros((12, 1)), np.arange(12) % 2


class Cloned(ClassifierMixin, BaseEstimator):
    """Notes the contexts in which it is fitted."""

    _search_context = SearchContext()
    seen: list = []  # noqa: RUF012 - shared on purpose

    def __init__(self, tau=0.1):
        self.tau = tau

    def __sklearn_clone__(self):
        twin = super().__sklearn_clone__()
        twin._search_context = self._search_context.for_clone()
        return twin

    def fit(self, X, y):
        self.seen.append(self._search_context)
        self.classes_ = np.unique(y)
        self._search_context = self._search_context.after_fit()
        return self

    def predict(self, X):
        return np.zeros(len(X))


@pytest.fixture
def seen(monkeypatch):
    # The module of the estimators is passed over in the search for who asked for a clone.
    monkeypatch.setattr("sklearn_epee._search.context._CLONING_MODULES", {
        "sklearn.base", "sklearn_epee._search.context", __name__,
    })  # fmt: skip
    Cloned.seen.clear()
    return Cloned.seen


def searches():
    yield GridSearchCV(Cloned(), {"tau": [0.1, 0.2]}, cv=2)
    yield RandomizedSearchCV(Cloned(), {"tau": [0.1, 0.2]}, cv=2, n_iter=2)
    yield GridSearchCV(make_pipeline(Cloned()), {"cloned__tau": [0.1, 0.2]}, cv=2)


@pytest.mark.parametrize("search", list(searches()))
def test_the_candidates_of_a_search_share_a_draw(seen, search):
    search.fit(X, y)
    first = {context.seed for context in seen}
    assert len(seen) == 2 * 2 + 1
    assert len(first) == 1
    assert all(context.in_search and context.is_clone for context in seen)
    clone(search).fit(X, y)
    assert len({context.seed for context in seen}) == 2


def test_searches_in_a_search_and_in_a_cross_validation(seen):
    inner = GridSearchCV(Cloned(), {"tau": [0.1, 0.2]}, cv=2)
    cross_val_score(inner, X, y, cv=3)
    assert len({context.seed for context in seen}) == 3
    seen.clear()
    GridSearchCV(inner, {"cv": [2, 3]}, cv=2).fit(X, y)
    assert len({context.seed for context in seen}) == 1


def test_all_other_clones_are_part_of_no_search(seen):
    cross_val_score(Cloned(), X, y, cv=3)
    clone(clone(clone(Cloned()))).fit(X, y)
    assert all(context.is_clone and not context.in_search for context in seen)


def test_a_constructed_and_a_fitted_estimator_are_no_clones(seen):
    search = GridSearchCV(Cloned(), {"tau": [0.1, 0.2]}, cv=2).fit(X, y)
    seen.clear()
    Cloned().fit(X, y)
    search.best_estimator_.fit(X, y)
    clone(search.best_estimator_).fit(X, y)
    assert [context.is_clone for context in seen] == [False, False, True]
    assert not any(context.in_search for context in seen)
