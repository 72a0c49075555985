"""scikit-learn's callbacks, which see the fit and its epochs (scikit-learn 1.9)."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from .classifiers import (
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
)

sklearn_callback = pytest.importorskip("sklearn.callback")


class Recorder:
    """Writes down every task; keeps the estimators that it is handed, and may stop."""

    def __init__(self, stops_after=None):
        self.stops_after = stops_after
        self.begun, self.ended, self.fitted, self.lives = [], [], [], []

    def setup(self, estimator, context):
        self.lives.append("setup")

    def teardown(self, estimator, context):
        self.lives.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        self.begun.append((context.task_name, context.task_id, len(X), len(y)))

    def on_fit_task_end(self, estimator, context, *, metadata=None, fitted_estimator=None):
        self.ended.append((context.task_name, context.task_id, context.max_subtasks, metadata))
        self.fitted.append(fitted_estimator)
        return context.task_name == "epoch" and context.task_id + 1 == self.stops_after


def states_equal(first, second):
    pairs = zip(
        first.net_.module_.state_dict().values(),
        second.net_.module_.state_dict().values(),
        strict=True,
    )
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_callback_sees_the_fit_and_its_epochs_and_changes_nothing(notes):
    plain = tiny_text_classifier(max_epochs=3, memory=None).fit(*notes)
    seen = Recorder()
    watched = tiny_text_classifier(max_epochs=3, memory=None).set_callbacks(seen).fit(*notes)
    n = len(notes[0])
    epochs = [("epoch", i, n, n) for i in range(3)]
    assert seen.begun == [("fit", 0, n, n), *epochs]
    assert seen.ended == [*(("epoch", i, 0, None) for i in range(3)), ("fit", 0, 3, None)]
    assert seen.lives == ["setup", "teardown"]
    assert states_equal(plain, watched)
    # Each epoch's estimator is its own: the last one is the fitted one, earlier ones are not.
    texts = notes[0]
    assert_array_equal(seen.fitted[2].predict_proba(texts), watched.predict_proba(texts))
    assert np.abs(seen.fitted[0].predict_proba(texts) - watched.predict_proba(texts)).max() > 0
    assert [fitted.n_iter_ for fitted in seen.fitted] == [1, 2, 3, 3]
    assert "_callback_fit_ctx" not in vars(watched)


def test_a_callback_may_stop_a_training(notes):
    stopped = (
        tiny_text_classifier(max_epochs=5, memory=None)
        .set_callbacks(Recorder(stops_after=2))
        .fit(*notes)
    )
    assert stopped.n_iter_ == 2
    assert len(stopped.predict(notes[0])) == len(notes[0])


def test_callbacks_get_the_sample_weights(notes):
    seen, weights = Recorder(), np.linspace(1, 2, len(notes[0]))
    tiny_text_classifier(max_epochs=1, memory=None).set_callbacks(seen).fit(
        *notes, sample_weight=weights
    )
    assert seen.ended[0][3]["sample_weight"] is weights


def test_a_scoring_monitor_logs_every_epoch_and_survives_clones_and_pickles(notes):
    monitor = sklearn_callback.ScoringMonitor(scoring="accuracy")
    fitted = tiny_text_classifier(max_epochs=2, memory=None).set_callbacks(monitor).fit(*notes)
    rows = monitor.get_logs().data
    assert [row["task_name"] for row in rows] == ["fit", "epoch", "epoch"]
    assert rows[0]["accuracy"] == rows[-1]["accuracy"] == fitted.score(*notes)
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.predict_proba(notes[0]), fitted.predict_proba(notes[0]))
    clone(fitted).fit(*notes)
    assert len(monitor.get_logs(select="all")) == 2
    copy.copy(fitted).set_callbacks().fit(*notes)
    assert len(monitor.get_logs(select="all")) == 2


def test_a_search_tells_of_the_networks_that_it_trains(notes, tmp_path):
    seen = Recorder()
    search = GridSearchCV(
        tiny_text_classifier(max_epochs=1, memory=tmp_path).set_callbacks(seen),
        {"tau": [0.1, 0.5]},
        cv=2,
    )
    search.fit(*notes)
    # Two folds and the refit train; the other candidates fetch their networks.
    assert sum(name == "epoch" for name, *_ in seen.ended) == 3
    assert len(seen.ended) == 3 + 5
    assert seen.lives.count("setup") == seen.lives.count("teardown") == 5


def test_a_fit_that_fails_tears_down(notes):
    class Broken(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("broken")

    broken = Broken()
    model = tiny_text_classifier(max_epochs=1, memory=None).set_callbacks(broken)
    with pytest.raises(RuntimeError, match="broken"):
        model.fit(*notes)
    assert broken.lives == ["setup", "teardown"]
    assert not hasattr(model, "classes_")


def test_a_progress_bar_shows_the_epochs(notes, capsys):
    pytest.importorskip("rich")
    bar = sklearn_callback.ProgressBar()
    tiny_text_classifier(max_epochs=2, memory=None).set_callbacks(bar).fit(*notes)
    assert "fit" in capsys.readouterr().out


def test_every_estimator_tells_of_its_epochs(digits):
    images, y = digits
    cases = [(f"note {label}", image) for image, label in zip(images, y, strict=True)]
    for model, X in (
        (tiny_image_classifier(max_epochs=1, memory=None), images),
        (tiny_multimodal_classifier(max_epochs=1, memory=None), cases),
    ):
        seen = Recorder()
        model.set_callbacks(seen).fit(X, y)
        assert [name for name, *_ in seen.ended] == ["epoch", "fit"]
        assert len(seen.fitted[0].predict(X)) == len(y)
