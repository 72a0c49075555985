"""Searches over exit policies train one network a fold, and what the store of networks keeps."""

from __future__ import annotations

import copy
import importlib
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - what it is for
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback

from sklearn_epee import exit_scores, speedup_score
from sklearn_epee._nn.engine import Engine
from sklearn_epee._search import network_file
from sklearn_epee._search.temporary_folder import temporary_folder
from sklearn_epee.metrics import refit_accuracy_at_speedup, refit_fastest_within

from .checkpoints import make_checkpoint
from .classifiers import tiny_image_classifier, tiny_text_classifier
from .limits import largest_file
from .trainings import Trainings

SIX = {"tau": [0.0, 0.3, 0.9], "patience": [1, None]}
SIXTY = {"tau": np.linspace(0, 1, 20), "patience": [1, 2, None]}


@pytest.fixture
def trainings(tmp_path):
    return Trainings(tmp_path / "trainings")


def classifier(trainings, **parameters):
    """A classifier as users make it: nothing set about randomness or memory."""
    defaults = {"max_epochs": 1, "random_state": None, "callbacks": [trainings]}
    return tiny_text_classifier(**(defaults | parameters))


def weights(fitted):
    return fitted.net_.module_.state_dict()


def same_weights(first, second):
    pairs = zip(weights(first).values(), weights(second).values(), strict=True)
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)


# ------------------------------------------------------------------- five networks and one more


@pytest.mark.parametrize("grid", [SIX, SIXTY], ids=["6", "60"])
def test_a_grid_over_policies_trains_one_network_a_fold(trainings, notes, grid):
    GridSearchCV(classifier(trainings), grid, cv=5).fit(*notes)
    assert trainings.count == 5 + 1


def test_images_as_well(trainings, digits):
    estimator = tiny_image_classifier(max_epochs=1, random_state=None, callbacks=[trainings])
    GridSearchCV(estimator, SIX, cv=3).fit(*digits)
    assert trainings.count == 3 + 1


@pytest.mark.slow
def test_two_workers_and_importable_classes(trainings, notes):
    # `Trainings` is such a class. Other processes find the networks that one of them trained.
    search = GridSearchCV(classifier(trainings), SIXTY, cv=5, n_jobs=2).fit(*notes)
    assert trainings.count == 5 + 1
    workers = set(Path(trainings.path).read_text().split())
    assert str(os.getpid()) in workers
    assert len(workers) >= 2
    assert len(search.cv_results_["params"]) == 60


# A program as users write it, with classes of its own, run as a script and from standard input;
# there, as in a notebook, nothing can import the classes and no file holds their source.
PROGRAM = """
import os, sys
from skorch.callbacks import Callback
from sklearn.model_selection import GridSearchCV
from transformers import BertConfig
from sklearn_epee import EPEEClassifier
from sklearn_epee.datasets import make_supplement_notes

class Trainings(Callback):
    def on_train_begin(self, net, **kwargs):
        super().on_train_begin(net, **kwargs)
        print("trained", file=open(os.environ["TRAININGS"], "a"))

class MyClassifier(EPEEClassifier):
    pass

def count():
    return len(open(os.environ["TRAININGS"]).readlines())

if __name__ == "__main__":
    X, y = make_supplement_notes(40, random_state=0)
    config = BertConfig(vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=128)
    for n_jobs, n_points in ((1, 6), (2, 6), (2, 60))[: int(sys.argv[1])]:
        estimator = MyClassifier(config, max_epochs=1, callbacks=[Trainings()])
        grid = {"tau": [i / n_points for i in range(n_points // 2)], "patience": [1, None]}
        open(os.environ["TRAININGS"], "w").close()
        GridSearchCV(estimator, grid, cv=5, n_jobs=n_jobs).fit(X, y)
        print(n_points, "points,", n_jobs, "jobs:", count(), "trainings")
"""

SEARCHES = [(6, 1), (6, 2), (60, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "n_searches"), [("script", 3), ("notebook", 2)])
def test_models_defined_in_a_script_or_a_notebook(source, n_searches, tmp_path):
    temporary = tmp_path / "tmp"
    # Nobody holds the lock beside it, as after a process was killed.
    left_behind = temporary / "sklearn-epee-1-aaaa"
    left_behind.mkdir(parents=True)
    (temporary / "sklearn-epee-1-aaaa.lock").touch()
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    ran = run_python(
        *([str(script)] if source == "script" else ["-"]),
        str(n_searches),
        input=PROGRAM if source == "notebook" else None,
        TRAININGS=str(tmp_path / "trainings"),
        TMPDIR=str(temporary),
    )
    assert ran.returncode == 0, ran.stderr
    expected = [f"{points} points, {jobs} jobs: 6 trainings" for points, jobs in SEARCHES]
    assert ran.stdout.splitlines() == expected[:n_searches]
    # The store goes with its process, and takes along what killed processes left.
    assert not list(temporary.glob("sklearn-epee-*"))


def run_python(*arguments, input=None, **environment):  # noqa: A002 - as in subprocess.run
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        input=input,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_threads_train_as_one_after_the_other(trainings, notes):
    estimator = classifier(trainings, random_state=0, dropout=0.5)
    grid = {"tau": [0.0, 0.5]}
    with joblib.parallel_config("threading", n_jobs=3):
        threaded = GridSearchCV(estimator, grid, cv=3, scoring="neg_log_loss").fit(*notes)
    assert trainings.count == 3 + 1
    estimator.set_params(memory=None)
    alone = GridSearchCV(estimator, grid, cv=3, scoring="neg_log_loss").fit(*notes)
    for name in ("split0_test_score", "split1_test_score", "split2_test_score"):
        assert_array_equal(threaded.cv_results_[name], alone.cv_results_[name])


# ------------------------------------------------------------------------- other kinds of search


def test_what_is_learned_differently_is_trained_differently(trainings, notes):
    grid = {"learning_rate": [1e-4, 1e-3], **SIX}
    GridSearchCV(classifier(trainings), grid, cv=3).fit(*notes)
    assert trainings.count == 2 * 3 + 1


def test_a_randomized_search_trains_once_a_fold(trainings, notes):
    space = {"tau": list(np.linspace(0, 1, 50)), "patience": [1, 2, None]}
    search = RandomizedSearchCV(classifier(trainings), space, n_iter=12, cv=3, random_state=0)
    search.fit(*notes)
    assert trainings.count == 3 + 1


def test_halving_search_trains_once_a_fold_and_round(trainings, notes):
    search = HalvingGridSearchCV(
        classifier(trainings), SIX, cv=2, min_resources=20, factor=2, random_state=0
    ).fit(*notes)
    assert search.n_iterations_ == 2
    assert trainings.count == 2 * 2 + 1


def test_nested_cross_validation(trainings, notes):
    inner = GridSearchCV(classifier(trainings), SIX, cv=3)
    cross_val_score(inner, *notes, cv=2)
    assert trainings.count == 2 * (3 + 1)


def test_policies_inside_a_wrapper(trainings, notes):
    calibrated = CalibratedClassifierCV(classifier(trainings), cv=2)
    GridSearchCV(calibrated, {"estimator__tau": [0.0, 0.5, 0.9]}, cv=2).fit(*notes)
    assert trainings.count == 2 * 2 + 2


def test_a_pipeline_around_the_classifier(trainings, notes):
    pipeline = make_pipeline(FunctionTransformer(without_marks), classifier(trainings))
    grid = {f"epeeclassifier__{name}": values for name, values in SIX.items()}
    search = GridSearchCV(
        pipeline, grid, cv=3, scoring=exit_scores, refit=refit_fastest_within(0.05)
    ).fit(*notes)
    assert trainings.count == 3 + 1
    results = search.cv_results_
    best = results["mean_test_accuracy"].max()
    close = results["mean_test_accuracy"] >= best - 0.05 - 1e-9
    assert results["mean_test_speedup"][search.best_index_] == pytest.approx(
        results["mean_test_speedup"][close].max()
    )
    assert isinstance(search.best_estimator_, Pipeline)
    assert 0 <= speedup_score(search, notes[0]) < 1
    assert exit_scores(search, *notes)["accuracy"] == np.mean(search.predict(notes[0]) == notes[1])


def without_marks(texts):
    return [text.replace(";", " ").replace(".", " ") for text in texts]


def test_accuracy_at_a_speedup_is_found_among_the_scores(trainings, notes):
    search = GridSearchCV(
        classifier(trainings),
        SIX,
        cv=3,
        scoring=exit_scores,
        refit=refit_accuracy_at_speedup(0.3),
    ).fit(*notes)
    assert trainings.count == 3 + 1
    assert search.cv_results_["mean_test_speedup"][search.best_index_] >= 0.3
    # patience=1 leaves at the first of three layers; tau=0 and patience=None never leave early.
    speedups = dict(zip(map(str, search.cv_results_["params"]), speedup_means(search), strict=True))
    assert speedups[str({"patience": 1, "tau": 0.0})] == pytest.approx(2 / 3)
    assert speedups[str({"patience": None, "tau": 0.0})] == 0


def speedup_means(search):
    return search.cv_results_["mean_test_speedup"]


def test_scorers_side_by_side(trainings, notes):
    scoring = {
        "accuracy": "accuracy",
        "speedup": speedup_score,
        "wrong": make_scorer(lambda y, labels: float(np.mean(y != labels))),
    }
    search = GridSearchCV(classifier(trainings), SIX, cv=3, scoring=scoring, refit="speedup")
    search.fit(*notes)
    assert trainings.count == 3 + 1
    assert search.best_params_["patience"] == 1
    results = search.cv_results_
    np.testing.assert_allclose(results["mean_test_accuracy"], 1 - results["mean_test_wrong"])


def test_sample_weights_reach_the_folds(trainings, notes):
    search = GridSearchCV(classifier(trainings), SIX, cv=3)
    search.fit(*notes, sample_weight=np.linspace(0.5, 1.5, len(notes[1])))
    assert trainings.count == 3 + 1


# ------------------------------------------------------------------------------------ randomness


def test_searches_draw_anew_and_so_do_fits_by_hand(trainings, notes):
    estimator = classifier(trainings)
    searches = [GridSearchCV(estimator, {"tau": [0.0, 0.5]}, cv=2).fit(*notes) for _ in range(2)]
    assert not same_weights(*(search.best_estimator_ for search in searches))
    assert trainings.count == 2 * 3
    first = clone(estimator).fit(*notes)
    second = clone(first).fit(*notes)
    before = dict(weights(first))
    first.fit(*notes)
    assert not same_weights(first, second)
    assert not all(torch.equal(before[name], part) for name, part in weights(first).items())
    refitted = searches[0].best_estimator_
    before = {name: part.clone() for name, part in weights(refitted).items()}
    refitted.fit(*notes)
    assert not all(torch.equal(before[name], part) for name, part in weights(refitted).items())


@pytest.mark.parametrize("seed", [0, np.random.RandomState(0)], ids=["int", "RandomState"])
def test_a_seed_given_by_hand_is_shared_by_the_clones_too(trainings, notes, seed):
    GridSearchCV(classifier(trainings, random_state=seed), SIX, cv=3).fit(*notes)
    assert trainings.count == 3 + 1


def test_a_hit_equals_a_fresh_fit_bit_for_bit(trainings, notes, tmp_path):
    trained_always = classifier(trainings, random_state=0, memory=None, dropout=0.3, max_epochs=2)
    kept = clone(trained_always).set_params(memory=tmp_path / "kept")
    fitted = [clone(estimator).fit(*notes) for estimator in (trained_always, kept, kept)]
    assert trainings.count == 2
    fitted.append(clone(trained_always).fit(*notes))
    assert trainings.count == 3
    for other in fitted[1:]:
        assert same_weights(fitted[0], other)
        assert_array_equal(fitted[0].predict_proba(notes[0]), other.predict_proba(notes[0]))
        assert_array_equal(fitted[0].history_[:, "train_loss"], other.history_[:, "train_loss"])
        assert other.n_iter_ == 2
    other_seed = clone(trained_always).set_params(random_state=1).fit(*notes)
    assert not same_weights(fitted[0], other_seed)


def test_estimators_of_one_hit_are_independent(trainings, notes, tmp_path):
    estimator = classifier(trainings, random_state=0, memory=tmp_path / "kept")
    first, second = (clone(estimator).fit(*notes) for _ in range(2))
    assert trainings.count == 1
    for part in weights(first).values():
        part.zero_()
    assert not same_weights(first, second)


def test_clones_of_a_clone_draw_anew_where_no_search_is_running(trainings, notes):
    template = clone(clone(classifier(trainings)))
    members = [clone(template).fit(*notes) for _ in range(2)]
    members += [clone(clone(template)).fit(*notes)]
    members += Ensemble(template).fit(*notes).members_
    assert trainings.count == len(members) == 5
    for one, other in itertools.combinations(members, 2):
        assert not same_weights(one, other)


class Ensemble(BaseEstimator):
    """A deep ensemble, which clones as a search does."""

    def __init__(self, estimator, n_members=2):
        self.estimator = estimator
        self.n_members = n_members

    def fit(self, X, y):
        base = clone(self.estimator)
        self.members_ = [clone(base).fit(X, y) for _ in range(self.n_members)]
        return self


def test_candidates_share_a_draw_whatever_the_grid_reaches(trainings, notes):
    # The grid sets nothing of the classifier, whose networks the candidates share all the same.
    calibrated = CalibratedClassifierCV(classifier(trainings), cv=2)
    GridSearchCV(calibrated, {"method": ["sigmoid", "isotonic"]}, cv=2).fit(*notes)
    assert trainings.count == 2 * 2 + 2


def test_a_persistent_folder_without_a_seed_is_said(trainings, notes, tmp_path):
    message = r"memory='.*' keeps networks .* with random_state=None every search .* Pass an int"
    for memory in (tmp_path, joblib.Memory(tmp_path, verbose=0)):
        with pytest.warns(UserWarning, match=message):
            GridSearchCV(classifier(trainings, memory=memory), SIX, cv=2).fit(*notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(trainings, memory="auto").fit(*notes)
        classifier(trainings, memory=tmp_path, random_state=0).fit(*notes)


# ------------------------------------------------------- one pass for all policies of a search


@pytest.fixture
def passes(monkeypatch):
    """The names of the engine's methods, in the order in which they were called."""
    called = []
    for name in ("dynamic", "staged"):
        method = getattr(Engine, name)

        def counted(self, *arguments, _name=name, _method=method):
            called.append(_name)
            return _method(self, *arguments)

        monkeypatch.setattr(Engine, name, counted)
    return called


SCORING = {
    "accuracy": "accuracy",
    "log_loss": "neg_log_loss",
    "speedup": speedup_score,
}
ENSEMBLES = {**SIX, "exit_ensemble": [None, "mean", "weighted"]}


@pytest.mark.parametrize("scoring", [None, SCORING, exit_scores], ids=["score", "dict", "exits"])
def test_a_search_runs_a_network_twice_on_a_fold_at_most(trainings, notes, passes, scoring):
    refit = "accuracy" if scoring else True
    GridSearchCV(classifier(trainings), ENSEMBLES, cv=3, scoring=scoring, refit=refit).fit(*notes)
    assert passes.count("staged") == 3
    # The scorers of the first policy run the network, each for itself.
    assert passes.count("dynamic") == 3 * (len(SCORING) if scoring is SCORING else 1)


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_do_not_depend_on_shared_predictions(trainings, notes, digits, kind, precision):
    make = tiny_text_classifier if kind == "text" else tiny_image_classifier
    estimator = make(max_epochs=2, precision=precision, callbacks=[trainings])
    grid = {"tau": [0.0, 0.4], "patience": [2, None], "exit_ensemble": [None, "weighted"]}
    results = {}
    for memory in ("auto", None):
        search = GridSearchCV(
            estimator.set_params(memory=memory), grid, cv=2, scoring=SCORING,
            refit=False, return_train_score=True,
        ).fit(*(notes if kind == "text" else digits))  # fmt: skip
        results[memory] = search.cv_results_
    assert trainings.count == 2 + 2 * 8
    for name in ("accuracy", "log_loss", "speedup"):
        for part in ("test", "train"):
            key = f"mean_{part}_{name}"
            np.testing.assert_allclose(results["auto"][key], results[None][key], rtol=1e-5)


def test_what_a_search_leaves_behind_runs_its_network_at_every_prediction(
    trainings, notes, passes, tmp_path
):
    estimator = classifier(trainings, random_state=0, memory=tmp_path)
    search = GridSearchCV(estimator, SIX, cv=2).fit(*notes)
    best = search.best_estimator_
    del passes[:]
    for tau in (0.0, 0.3, 0.9):
        search.predict(notes[0])
        best.set_params(tau=tau).predict(notes[0])
        best.fit(*notes).predict(notes[0])
        clone(best).fit(*notes).predict(notes[0])
    assert passes == ["dynamic"] * 12
    assert trainings.count == 2 + 1


def test_estimators_cloned_by_hand_run_their_network_at_every_prediction(
    trainings, notes, passes, tmp_path
):
    estimator = classifier(trainings, random_state=0, memory=tmp_path)
    for tau in (0.0, 0.3, 0.9):
        estimator.set_params(tau=tau)
        clone(estimator).fit(*notes).predict(notes[0])
        cross_val_score(estimator, *notes, cv=2)
    assert passes == ["dynamic"] * 9
    assert trainings.count == 1 + 2


def test_without_a_memory_every_candidate_runs_its_network(trainings, notes, passes):
    GridSearchCV(classifier(trainings, memory=None), SIX, cv=2, refit=False).fit(*notes)
    assert passes == ["dynamic"] * 12


def test_candidates_that_were_copied_run_their_network(trainings, notes, passes):
    candidates = [clone(clone(classifier(trainings, random_state=0))) for _ in range(3)]
    for candidate in candidates:
        candidate.fit(*notes)
        copy.deepcopy(candidate).predict(notes[0])
        pickle.loads(pickle.dumps(candidate)).predict(notes[0])
    assert passes == ["dynamic"] * 6


def test_networks_that_predict_nothing_are_never_read(trainings, notes, monkeypatch, tmp_path):
    read = []
    load = network_file._load
    monkeypatch.setattr(network_file, "_load", lambda *parts: (read.append(1), load(*parts))[1])
    estimator = classifier(trainings, random_state=0, memory=tmp_path)
    GridSearchCV(estimator, SIXTY, cv=3).fit(*notes)
    # Once for the pass over every exit.
    assert len(read) == 3


def test_a_network_outlives_its_place_in_the_store(trainings, notes, tmp_path):
    estimator = classifier(trainings, random_state=0, memory=tmp_path / "kept")
    expected = clone(estimator).fit(*notes).predict_proba(notes[0])
    fetched = [clone(estimator).fit(*notes) for _ in range(2)]
    shutil.rmtree(tmp_path / "kept")
    for twin in fetched:
        assert_array_equal(twin.predict_proba(notes[0]), expected)
    assert trainings.count == 1


# --------------------------------------------------------------------------------------- the key


@pytest.fixture
def remembered(trainings, notes, tmp_path):
    """An estimator with a disk memory that has been fitted once, and the number of trainings."""
    estimator = classifier(trainings, random_state=0, memory=tmp_path / "kept")
    estimator.fit(*notes)
    assert trainings.count == 1
    return estimator


@pytest.mark.parametrize(
    "parameters",
    [
        {"tau": 0.7},
        {"patience": 2},
        {"exit_ensemble": "mean"},
        {"predict_batch_size": 3},
        {"device": "cpu"},
        {"verbose": 1},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_what_acts_after_training_is_not_in_the_key(remembered, trainings, notes, parameters):
    again = clone(remembered).set_params(**parameters).fit(*notes)
    assert trainings.count == 1
    assert same_weights(again, remembered)


@pytest.mark.parametrize(
    "parameters",
    [
        {"learning_rate": 3e-4},
        {"head_learning_rate": 3e-4},
        {"weight_decay": 0.1},
        {"warmup_ratio": 0.9},
        {"dropout": 0.4},
        {"max_epochs": 2},
        {"batch_size": 7},
        {"pooling": "cls"},
        {"pooling": "attention"},
        {"exit_loss_weights": "uniform"},
        {"exit_training": "mixed"},
        {"exit_training": "distillation"},
        {"exit_training": "mixed+distillation"},
        {"exit_training": "detached"},
        {"head_init": "regression"},
        {"head": "bottleneck"},
        {"class_weight": {"started": 2.0}},
        {"validation_fraction": 0.2},
        {"max_length": 16},
        {"max_length": 16, "long_texts": "head_tail"},
        {"long_texts": "windows", "window_length": 16},
        {"long_texts": "windows", "window_length": 16, "window_stride": 5},
        {"long_texts": "windows", "window_length": 16, "max_windows": 2},
        {"random_state": 1},
    ],
    ids=" ".join,
)
def test_what_shapes_training_is_in_the_key(remembered, trainings, notes, parameters):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*texts are longer than max_")
        again = clone(remembered).set_params(**parameters).fit(*notes)
    assert trainings.count == 2
    assert not (
        weights(again).keys() == weights(remembered).keys()
        and all(
            torch.equal(part, other)
            for part, other in zip(
                weights(again).values(), weights(remembered).values(), strict=True
            )
            if part.shape == other.shape
        )
    )


def test_data_labels_and_weights_are_in_the_key(remembered, trainings, notes):
    X, y = notes
    clone(remembered).fit([*X[:-1], X[-1] + " x"], y)
    assert trainings.count == 2
    other_labels = y.copy()
    other_labels[0] = y[y != y[0]][0]
    clone(remembered).fit(X, other_labels)
    assert trainings.count == 3
    clone(remembered).fit(X, y, sample_weight=np.linspace(0.5, 1.5, len(y)))
    assert trainings.count == 4
    clone(remembered).fit(X[::-1], y[::-1])
    assert trainings.count == 5
    # The same in another guise: weights all equal, texts as an array.
    clone(remembered).fit(np.array(X, dtype=object), y.tolist(), sample_weight=np.full(len(y), 3.0))
    assert trainings.count == 5


def test_how_images_are_prepared_is_in_the_key(trainings, digits, tmp_path):
    X, y = digits
    parameters = {"callbacks": [trainings], "memory": tmp_path / "kept", "image_shape": (8, 8)}
    estimator = tiny_image_classifier(max_epochs=1, augment=False, **parameters).fit(X, y)
    clone(estimator).fit(X.reshape(len(X), 64), y)
    assert trainings.count == 1
    clone(estimator).set_params(augment=True).fit(X, y)
    clone(estimator).fit(X[:, ::-1], y)
    assert trainings.count == 3


def test_the_content_of_a_checkpoint_is_in_the_key_and_its_place_is_not(trainings, notes, tmp_path):
    one = make_checkpoint("bert", tmp_path / "one", seed=0, max_position_embeddings=128)
    moved = tmp_path / "moved"
    shutil.copytree(one, moved)
    estimator = classifier(
        trainings, random_state=0, memory=tmp_path / "kept", max_length=32
    ).set_params(backbone=str(one))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than max_length")
        estimator.fit(*notes)
        clone(estimator).set_params(backbone=moved).fit(*notes)
        assert trainings.count == 1
        make_checkpoint("bert", moved, seed=1, max_position_embeddings=128)
        clone(estimator).set_params(backbone=moved).fit(*notes)
    assert trainings.count == 2


def test_code_of_a_notebook_is_in_the_key(trainings, notes, tmp_path):
    cell = "class Freeze(Callback):\n    def on_train_begin(self, net, **kwargs): {}\n"
    estimator = classifier(trainings, random_state=0, memory=tmp_path / "kept")
    for body, count in (("pass", 1), ("pass", 1), ("self.frozen = 1", 2)):
        notebook = {"Callback": Callback, "__name__": "__main__"}
        exec(cell.format(body), notebook)  # noqa: S102 - a notebook's cell, edited
        clone(estimator).set_params(callbacks=[trainings, notebook["Freeze"]()]).fit(*notes)
        assert trainings.count == count


class Stream:
    """Something that can be shared but not pickled."""

    def __init__(self):
        self.lines = (line for line in "abc")

    def __deepcopy__(self, memo):
        return self


class Logger(Callback):
    def __init__(self, stream):
        self.stream = stream


def test_what_has_no_fingerprint_is_trained_and_said(trainings, notes, tmp_path):
    estimator = classifier(trainings, memory=tmp_path / "kept", random_state=0)
    estimator.set_params(callbacks=[trainings, Logger(Stream())])
    with pytest.warns(RuntimeWarning, match="cannot be fingerprinted.*generator"):
        GridSearchCV(estimator, {"tau": [0.0, 0.5]}, cv=2).fit(*notes)
    assert trainings.count == 2 * 2 + 1


MODULE = """
from skorch.callbacks import Callback

RATE = {rate}

def scale(value):
    return value * RATE + {body}

class Rescale(Callback):
    def on_train_begin(self, net, **kwargs):
        with open({path!r}, "a") as file:
            file.write("trained")
            file.write(chr(10))
        self.scaled = scale(1)
"""


def test_code_of_an_importable_module_is_in_the_key(notes, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    log = tmp_path / "trainings"
    changes = [(1, 0), (1, 0), (2, 0), (2, 1), (1, 0)]
    for changed, (rate, body) in enumerate(changes):
        code = MODULE.format(rate=rate, body=body, path=str(log))
        (tmp_path / "my_callbacks.py").write_text(code)
        monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
        importlib.invalidate_caches()
        callback = importlib.import_module("my_callbacks").Rescale()
        tiny_text_classifier(max_epochs=1, memory=tmp_path / "kept", callbacks=[callback]).fit(
            *notes
        )
        assert len(log.read_text().splitlines()) == [1, 1, 2, 3, 3][changed]


# --------------------------------------------------------------------------------- interrupted


class PressesCtrlC(Trainings):
    """Counts, and interrupts this process at one of the trainings."""

    def __init__(self, path, at):
        super().__init__(path)
        self.at = at

    def on_batch_end(self, net, **kwargs):
        if self.count == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    """Interrupts as in a terminal, where the tests run in the background, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


INTERRUPTED = {
    "search": lambda clf, X, y: GridSearchCV(clf, SIX, cv=3).fit(X, y),
    "cross-validation": lambda clf, X, y: cross_val_score(clf, X, y, cv=3),
    "wrapper": lambda clf, X, y: CalibratedClassifierCV(clf, cv=3).fit(X, y),
    "clone": lambda clf, X, y: clone(clf).fit(X, y),
}


@pytest.mark.parametrize("memory", ["auto", None])
@pytest.mark.parametrize("kind", INTERRUPTED)
@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_gets_through_where_somebody_else_fits(trainings, notes, kind, memory):
    at = 1 if kind == "clone" else 2
    interrupting = PressesCtrlC(trainings.path, at)
    estimator = classifier(trainings, memory=memory, callbacks=[interrupting], random_state=0)
    with pytest.raises(KeyboardInterrupt):
        INTERRUPTED[kind](estimator, *notes)
    assert trainings.count == at


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_fit_by_hand_keeps_what_was_learned_and_says_so(trainings, notes):
    interrupting = PressesCtrlC(trainings.path, at=1)
    estimator = classifier(trainings, callbacks=[interrupting], random_state=0)
    said = r"interrupted after step 1; .* learned so far"
    with pytest.warns(ConvergenceWarning, match=said) as caught:
        estimator.fit(*notes)
    assert {found.filename for found in caught} == {__file__}
    assert estimator.predict(notes[0]).shape == notes[1].shape
    # It is not what another fit may have.
    interrupting.at = -1
    estimator.fit(*notes)
    assert trainings.count == 2


# ----------------------------------------------------------------------------------- disk memory


def test_memory_may_be_joblibs(trainings, notes, tmp_path):
    for _ in range(2):
        estimator = classifier(trainings, random_state=0, memory=joblib.Memory(tmp_path, verbose=0))
        estimator.fit(*notes)
    assert trainings.count == 1
    estimator.set_params(memory=joblib.Memory(None)).fit(*notes)
    assert trainings.count == 2


class Killed(Trainings):
    """Counts, and has this process killed at the third training while a certain file is there."""

    def on_train_begin(self, net, **kwargs):
        super().on_train_begin(net, **kwargs)
        if self.count == 3 and Path(self.path).with_name("kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)


def search_with_memory(folder, X, y, n_jobs=None):
    estimator = classifier(Killed(folder / "trainings"), random_state=0, memory=folder)
    return GridSearchCV(estimator, SIX, cv=5, n_jobs=n_jobs).fit(X, y)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills itself by signal")
def test_a_killed_search_continues_with_the_finished_folds(notes, tmp_path):
    (tmp_path / "kill").touch()
    program = (
        "import sys; from pathlib import Path; from tests.test_search import search_with_memory;"
        "from sklearn_epee.datasets import make_supplement_notes;"
        "search_with_memory(Path(sys.argv[1]), *make_supplement_notes(40, random_state=0))"
    )
    ran = run_python("-c", program, str(tmp_path))
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    trainings = Killed(tmp_path / "trainings")
    assert trainings.count == 3
    (tmp_path / "kill").unlink()
    search = search_with_memory(tmp_path, *notes)
    # Two folds were finished; the third was lost.
    assert trainings.count == 3 + 4
    search_with_memory(tmp_path, *notes)
    assert trainings.count == 3 + 4
    assert search.best_estimator_.net_.history_


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a worker by signal")
def test_a_search_whose_worker_is_killed_says_so_and_can_go_on(notes, tmp_path):
    (tmp_path / "kill").touch()
    with pytest.raises(BrokenProcessPool):
        search_with_memory(tmp_path, *notes, n_jobs=2)
    trainings = Killed(tmp_path / "trainings")
    # The other worker goes on until it is ended, too.
    begun = trainings.count
    assert 3 <= begun <= 6
    (tmp_path / "kill").unlink()
    search = search_with_memory(tmp_path, *notes, n_jobs=2)
    assert search.best_estimator_.net_.history_
    done = trainings.count
    assert done < begun + 6  # what was finished is not trained again
    search_with_memory(tmp_path, *notes)
    assert trainings.count == done


def test_a_full_disk_costs_no_training(trainings, notes):
    estimator = classifier(trainings, random_state=0)
    message = r"memory: .* cannot be kept"
    with largest_file(10_000), pytest.warns(RuntimeWarning, match=message):
        estimator.fit(*notes)
    assert trainings.count == 1
    assert estimator.predict(notes[0]).shape == notes[1].shape
    assert not list(temporary_folder().glob("*.partial"))


def test_a_store_that_somebody_removes_costs_no_training(trainings, notes):
    estimator = classifier(trainings, random_state=0)
    search = GridSearchCV(estimator, SIX, cv=2)
    shutil.rmtree(temporary_folder(), ignore_errors=True)
    search.fit(*notes)
    assert trainings.count == 2 + 1

    class Removes(Callback):
        def on_train_end(self, net, **kwargs):
            shutil.rmtree(temporary_folder(), ignore_errors=True)

    estimator.set_params(callbacks=[trainings, Removes()])
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        estimator.fit(*notes)
    assert estimator.predict(notes[0]).shape == notes[1].shape


def test_two_processes_that_ask_for_one_network_train_it_once(trainings, notes, tmp_path):
    estimator = classifier(trainings, random_state=0, memory=tmp_path / "kept", max_epochs=5)
    fitted = joblib.Parallel(n_jobs=2)(joblib.delayed(estimator.fit)(*notes) for _ in range(2))
    assert trainings.count == 1
    assert same_weights(*fitted)


@pytest.mark.parametrize("name", [network_file.WEIGHTS, network_file.REST])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_entry_is_discarded_and_trained_again(remembered, notes, name, damage):
    (trainings,) = remembered.callbacks
    (path,) = Path(remembered.memory).rglob(f"*.network/{name}")
    content = path.read_bytes()
    flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    damaged = {"empty": b"", "cut": content[: len(content) // 2], "foreign": b"x" * 500}
    path.write_bytes((damaged | {"flipped": flipped})[damage])
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = clone(remembered).fit(*notes)
    assert trainings.count == 2
    assert same_weights(again, remembered)
    clone(remembered).fit(*notes)
    assert trainings.count == 2


def test_a_training_that_fails_leaves_nothing_behind(trainings, notes, tmp_path):
    class Fails(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("the disk of the log is full")

    estimator = classifier(trainings, random_state=0, memory=tmp_path / "kept")
    estimator.set_params(callbacks=[trainings, Fails()])
    for count in (1, 2):
        with pytest.raises(RuntimeError, match="the log is full"):
            clone(estimator).fit(*notes)
        assert trainings.count == count
    assert not list((tmp_path / "kept").rglob("*.network"))
    assert not list((tmp_path / "kept").rglob("*.partial"))
