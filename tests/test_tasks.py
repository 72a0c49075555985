"""Several tasks: labels in and out, training on all of them, and one exit."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._checks.tasks import as_columns, check_any_labels, strata, task_hits
from sklearn_epee.policy import JOINT_EXITS, apply_policy, normalized_entropy

from .classifiers import tiny_image_classifier, tiny_text_classifier
from .trainings import Trainings


@pytest.fixture(scope="session")
def two_tasks(notes):
    """The class of each note, and whether it names a vitamin."""
    texts, labels = notes
    names = ["vitamin" in text.lower() for text in texts]
    return texts, np.array([[*pair] for pair in zip(labels, names, strict=True)], dtype=object)


@pytest.fixture(scope="session")
def in_words(two_tasks):
    """The same with labels of one type, which scikit-learn's own splitters and scores want."""
    texts, y = two_tasks
    return texts, np.column_stack([y[:, 0], np.where(y[:, 1], "yes", "no")]).astype(str)


@pytest.fixture(scope="session")
def _joint_text(two_tasks):
    # A fast training, so that exits know something and differ from each other.
    rates = {"learning_rate": 0.003, "head_learning_rate": 0.003, "max_epochs": 40}
    return tiny_text_classifier(tau=0.6, dropout=0.0, **rates).fit(*two_tasks)


@pytest.fixture
def joint_text(_joint_text):
    return copy.deepcopy(_joint_text)


# ----------------------------------------------------------------------------------- conventions


def test_shapes_and_types(joint_text, two_tasks):
    X, y = two_tasks
    n = len(X)
    assert joint_text.n_outputs_ == 2
    words, flags = joint_text.classes_
    assert_array_equal(words, np.unique(y[:, 0].tolist()))
    assert_array_equal(flags, [False, True])
    proba = joint_text.predict_proba(X)
    assert [part.shape for part in proba] == [(n, 4), (n, 2)]
    assert all(part.dtype == np.float32 for part in proba)
    for part in proba:
        assert_allclose(part.sum(axis=1), 1, rtol=1e-6)
    labels = joint_text.predict(X)
    assert labels.shape == (n, 2)
    assert labels.dtype == object
    assert {type(label) for label in labels[:, 0]} == {str}
    assert {type(label) for label in labels[:, 1]} == {bool}
    expected = [c[part.argmax(axis=1)] for c, part in zip(joint_text.classes_, proba, strict=True)]
    for task in range(2):
        assert_array_equal(labels[:, task], expected[task])


def test_one_pass_gives_everything(joint_text, two_tasks):
    X = two_tasks[0]
    found = joint_text.predict_with_exits(X)
    assert_array_equal(found.labels, joint_text.predict(X))
    assert_array_equal(found.exit_layer, joint_text.predict_exit_layer(X))
    assert found.entropy.shape == (len(X), 2)
    assert found.entropy.dtype == np.float32
    assert len(np.unique(found.exit_layer)) > 1
    for task, part in enumerate(found.proba):
        assert_array_equal(part, joint_text.predict_proba(X)[task])
        assert_allclose(found.entropy[:, task], normalized_entropy(part), atol=1e-6)


def test_budgeted_and_staged(joint_text, two_tasks):
    X = two_tasks[0]
    staged = list(joint_text.staged_predict_proba(X))
    labels = list(joint_text.staged_predict(X))
    assert len(staged) == len(labels) == joint_text.n_layers_
    for layer in range(1, joint_text.n_layers_ + 1):
        at_layer = joint_text.predict_proba_at_layer(X, layer)
        for mine, theirs in zip(staged[layer - 1], at_layer, strict=True):
            assert_allclose(mine, theirs, atol=1e-6)
        assert_array_equal(labels[layer - 1], joint_text.predict_at_layer(X, layer))
    assert_array_equal(labels[-1], joint_text.predict_at_layer(X, -1))


@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_joint_exit_acts_after_training_and_follows_the_oracle(
    joint_text, two_tasks, joint_exit, ensemble
):
    X = two_tasks[0]
    tasks = [np.stack(t, axis=1) for t in zip(*joint_text.staged_predict_proba(X), strict=True)]
    network = joint_text.net_
    joint_text.set_params(tau=0.5, patience=2, joint_exit=joint_exit, exit_ensemble=ensemble)
    expected = apply_policy(tasks, 0.5, 2, ensemble, joint_exit=joint_exit)
    for batch_size in (1, 7, "auto"):
        found = joint_text.set_params(predict_batch_size=batch_size).predict_with_exits(X)
        assert_array_equal(found.exit_layer, expected.exit_layer)
        for mine, theirs in zip(found.proba, expected.proba, strict=True):
            assert_allclose(mine, theirs, atol=1e-5)
    assert joint_text.net_ is network


def test_ways_to_leave_together_differ(joint_text, two_tasks):
    X = two_tasks[0]
    first, mean, last = (
        joint_text.set_params(joint_exit=way, tau=0.5).predict_exit_layer(X).sum()
        for way in ("any", "mean", "all")
    )
    assert first < mean < last


def test_images_have_tasks_too(digits):
    X, y = digits
    Y = np.column_stack([y, y % 2])
    model = tiny_image_classifier(joint_exit="any").fit(X, Y)
    assert model.predict(X).dtype == Y.dtype
    assert [part.shape[1] for part in model.predict_proba(X)] == [3, 2]
    assert model.score(X, Y) == (model.predict(X) == Y).all(axis=1).mean()


FORMS = {
    "array": lambda a, b: np.array([a, b], dtype=object).T,
    "list of lists": lambda a, b: [list(pair) for pair in zip(a, b, strict=True)],
    "list of tuples": lambda a, b: list(zip(a, b, strict=True)),
    "list of arrays": lambda a, b: [np.array(pair, dtype=object) for pair in zip(a, b)],  # noqa: B905
    "frame": lambda a, b: pd.DataFrame({"a": a, "b": b}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_y(form):
    words, numbers = ["no", "yes", "no", "no"], [3, 5, 7, 5]
    found = check_any_labels(FORMS[form](words, numbers), 4, "Name")
    assert found[0].tolist() == words
    assert found[1].dtype == np.int64
    assert found[1].tolist() == numbers


def test_a_column_is_a_single_task(texts, labels):
    column = np.array(labels)[:, np.newaxis]
    with pytest.warns(UserWarning, match="A column-vector y was passed"):
        model = tiny_text_classifier(max_epochs=1).fit(texts, column)
    assert model.n_outputs_ == 1
    assert isinstance(model.classes_, np.ndarray)
    assert model.predict(texts).shape == (len(texts),)


def test_labels_of_one_type_stay_of_that_type():
    parts = [np.array([1, 2], np.int32), np.array([3, 4], np.int64)]
    assert as_columns(parts).dtype == np.int64
    assert as_columns([np.array(["a", "b"]), np.array(["long", "words"])]).dtype == "<U5"
    mixed = as_columns([np.array([1, 2]), np.array(["a", "b"])])
    assert mixed.tolist() == [[1, "a"], [2, "b"]]


def test_labels_come_out_as_those_of_scikit_learn():
    X = [[0.0], [1.0], [2.0], [3.0]]
    y = np.array([["a", "x"], ["b", "x"], ["a", "y"], ["b", "y"]])
    tree = DecisionTreeClassifier().fit(X, y)
    texts = ["zinc daily", "no iron", "a rash", "severe pain"]
    model = tiny_text_classifier(max_epochs=1).fit(texts, y)
    assert model.n_outputs_ == tree.n_outputs_
    for mine, theirs in zip(model.classes_, tree.classes_, strict=True):
        assert_array_equal(mine, theirs)
    assert model.predict(texts).dtype == tree.predict(X).dtype
    assert [p.shape for p in model.predict_proba(texts)] == [p.shape for p in tree.predict_proba(X)]


@pytest.mark.parametrize("estimator", [EPEEClassifier(), EPEEImageClassifier()])
def test_tags_say_that_there_may_be_several_tasks(estimator):
    assert get_tags(estimator).target_tags.multi_output
    assert get_tags(estimator).classifier_tags.multi_label


def test_the_score_is_that_of_multioutputclassifier(joint_text, two_tasks):
    X, y = two_tasks
    given = MultiOutputClassifier(DecisionTreeClassifier())
    given.estimators_ = [object(), object()]
    given.predict = joint_text.predict
    assert joint_text.score(X, y) == given.score(X, y)
    weights = np.arange(len(X))
    hits = (joint_text.predict(X) == y).all(axis=1)
    expected = np.average(hits, weights=weights)
    assert joint_text.score(X, y, sample_weight=weights) == pytest.approx(expected)
    assert joint_text.score(X, pd.DataFrame(y)) == joint_text.score(X, y)
    with pytest.raises(ValueError, match=r"X and y have inconsistent numbers .* y has 39"):
        joint_text.score(X, y[:-1])
    for wrong in (y[:, 0], y[:, :1]):
        with pytest.raises(ValueError, match=r"one label for each of the 2 tasks of the 40 sam"):
            joint_text.score(X, wrong)


def test_an_unfitted_estimator_has_no_tasks():
    model = tiny_text_classifier()
    assert not hasattr(model, "n_outputs_")
    for call in ("predict", "predict_proba", "predict_with_exits"):
        with pytest.raises(NotFittedError):
            getattr(model, call)(["a text"])
    with pytest.raises(NotFittedError):
        model.score(["a text"], [["a", "b"]])


# -------------------------------------------------------------------------------------- training


def test_the_loss_is_the_mean_over_the_tasks(two_tasks):
    X, y = two_tasks
    # At a rate of almost nothing all losses are those of the first weights.
    still = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "dropout": 0.0, "max_epochs": 1}
    config = tiny_text_classifier().backbone
    config = type(config)(
        **config.to_dict() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    model = tiny_text_classifier(**still).set_params(backbone=config).fit(X, y)
    losses = []
    for task, classes in enumerate(model.classes_):
        codes = np.searchsorted(classes, y[:, task].astype(classes.dtype))
        staged = np.stack([part[task] for part in model.staged_predict_proba(X)], axis=1)
        each = -np.log(staged[np.arange(len(X)), :, codes])
        losses.append((each @ [1, 2, 3] / 6).mean())
    assert model.history_[-1, "train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_training_learns_every_task(joint_text, two_tasks):
    X, y = two_tasks
    at_full_depth = joint_text.predict_at_layer(X, -1)
    for task in range(2):
        largest = np.unique(y[:, task].astype(str), return_counts=True)[1].max() / len(y)
        assert (at_full_depth[:, task] == y[:, task]).mean() > largest


@pytest.mark.parametrize(
    "recipe",
    [
        {"exit_training": "mixed+distillation", "max_epochs": 4},
        {"exit_training": "detached"},
        {"pooling": "attention"},
    ],
)
def test_recipes_train_the_heads_of_every_task(two_tasks, recipe):
    X, y = two_tasks
    start, trained = (
        tiny_text_classifier(**{"learning_rate": 1e-3, **recipe, **rates}).fit(X, y)
        for rates in ({"learning_rate": 1e-12, "head_learning_rate": 1e-12}, {})
    )
    before = dict(start.net_.module_.heads.named_parameters())
    for name, weight in trained.net_.module_.heads.named_parameters():
        assert not torch.allclose(weight, before[name]), name
    assert [part.shape for part in trained.predict_proba(X[:5])] == [(5, 4), (5, 2)]


def test_held_out_samples_keep_the_combinations_of_labels(two_tasks):
    X, y = two_tasks
    settings = {"validation_fraction": 0.25, "early_stopping": True, "n_iter_no_change": 1}
    model = tiny_text_classifier(**settings).fit(X, y)
    assert 0 <= model.history_[-1, "valid_acc"] <= 1
    rare = np.column_stack([y[:, 0], ["common"] * 20 + [f"rare {i}" for i in range(20)]])
    with pytest.raises(ValueError, match=r"validation_fraction=0\.25 cannot hold out"):
        clone(model).fit(X, rare)


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([3, 3], [3, 3]),  # all are large enough
        ([1, 1, 5], [2, 5]),  # the rare ones are one group
        ([1, 4, 5], [5, 5]),  # a single rare sample joins the next larger group
        ([1, 1, 1], [3]),
    ],
)
def test_rare_combinations_are_one_stratum(sizes, groups):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    pairs = np.column_stack([codes // 2, codes % 2])
    assert sorted(np.bincount(strata(pairs)).tolist()) == sorted(groups)
    assert_array_equal(strata(codes), codes)


def test_class_weights_multiply(two_tasks):
    X, y = two_tasks
    one_by_one = [{label: 1.0 + i for i, label in enumerate(np.unique(y[:, 0]))}, {True: 3.0}]
    weighted = tiny_text_classifier(class_weight=one_by_one, max_epochs=1).fit(X, y)
    factors = [[table.get(label, 1.0) for label in y[:, t]] for t, table in enumerate(one_by_one)]
    same = tiny_text_classifier(max_epochs=1).fit(X, y, sample_weight=np.prod(factors, axis=0))
    for mine, theirs in zip(weighted.predict_proba(X), same.predict_proba(X), strict=True):
        assert_array_equal(mine, theirs)
    balanced = tiny_text_classifier(class_weight="balanced", max_epochs=1).fit(X, y)
    assert (balanced.predict_proba(X)[1] != same.predict_proba(X)[1]).any()
    assert tiny_text_classifier(class_weight=[None, {True: 2}], max_epochs=1).fit(X, y).n_outputs_


@pytest.mark.parametrize(
    ("class_weight", "columns", "message"),
    [
        ({"started": 2.0}, 2, r"does not fit the 2 tasks of y; expected 'balanced', None or a li"),
        ([{True: 2.0}], 2, "does not fit the 2 tasks"),
        ([{True: 2.0}, "balanced"], 2, "does not fit the 2 tasks"),
        ([{"started": 2.0}], 1, "is a list, for several tasks, but y holds one"),
    ],
)
def test_class_weights_that_do_not_fit(two_tasks, class_weight, columns, message):
    X, y = two_tasks
    labels = y if columns == 2 else y[:, 0].astype(str)
    model = tiny_text_classifier(class_weight=class_weight)
    with pytest.raises(ValueError, match=message):
        model.fit(X, labels)
    assert not hasattr(model, "classes_")


def test_samples_of_weight_zero_are_left_out(two_tasks):
    X, y = two_tasks
    kept = np.arange(len(X)) % 5 > 0
    settings = {"max_epochs": 1, "tokenizer": None}
    weighted = tiny_text_classifier(**settings).fit(X, y, sample_weight=kept)
    fewer = tiny_text_classifier(**settings).fit([x for x, k in zip(X, kept) if k], y[kept])  # noqa: B905
    for mine, theirs in zip(weighted.predict_proba(X), fewer.predict_proba(X), strict=True):
        assert_array_equal(mine, theirs)


def test_warm_start_needs_the_same_classes(two_tasks):
    X, y = two_tasks
    model = tiny_text_classifier(warm_start=True, max_epochs=1).fit(X, y)
    before = model.predict_proba(X)
    model.fit(X, y)
    assert (model.predict_proba(X)[0] != before[0]).any()
    for other in (y[:, ::-1], np.column_stack([y, y[:, 1]]), y[:, 0].astype(str)):
        with pytest.raises(ValueError, match=r"warm_start=True continues a network for the class"):
            model.fit(X, other)


def test_a_sparse_y_of_tasks_is_refused(texts):
    indicator = csr_array(np.eye(len(texts), 2, dtype=int))
    with pytest.raises(TypeError, match=r"does not accept a sparse y; .*y\.toarray\(\)"):
        tiny_text_classifier(target_type="tasks").fit(texts, indicator)


# -------------------------------------------------------------------------------------- elsewhere


def test_pickle_joblib_and_clone(joint_text, two_tasks, tmp_path):
    X = two_tasks[0]
    expected = joint_text.set_params(joint_exit="mean").predict_with_exits(X)
    joblib.dump(joint_text, tmp_path / "model")
    for twin in (pickle.loads(pickle.dumps(joint_text)), joblib.load(tmp_path / "model")):
        found = twin.predict_with_exits(X)
        assert_array_equal(found.labels, expected.labels)
        assert_array_equal(found.proba[1], expected.proba[1])
        assert twin.n_outputs_ == 2
    assert clone(joint_text).joint_exit == "mean"


def test_searches_train_once_per_fold_and_predict_alike(in_words, tmp_path):
    X, y = in_words
    trainings = Trainings(tmp_path / "trainings")
    grid = {"tau": [0.0, 0.9997, 0.9999], "patience": [1, 3], "joint_exit": list(JOINT_EXITS)}
    model = tiny_text_classifier(max_epochs=1, callbacks=[trainings])
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert trainings.count == 3
    # Shared predictions are those of a network of one's own.
    lonely = GridSearchCV(clone(model).set_params(memory=None), grid, cv=2).fit(X, y)
    for fold in range(2):
        column = f"split{fold}_test_score"
        assert_array_equal(search.cv_results_[column], lonely.cv_results_[column])
    assert search.best_estimator_.predict(X).shape == y.shape


def test_pipelines_and_cross_validated_predictions(in_words):
    X, y = in_words
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    pipeline = make_pipeline(upper, tiny_text_classifier(max_epochs=1))
    assert cross_val_predict(pipeline, X, y, cv=2).shape == y.shape
    assert pipeline.fit(X, y).score(X, y) <= 1


# ---------------------------------------------------------------------- labels that do not vary


def test_a_task_with_one_class_is_learned_with_the_others(notes):
    texts, labels = notes
    y = np.column_stack([labels, ["rare"] * len(labels)])
    model = tiny_text_classifier(tau=0.9).fit(texts, y)
    assert_array_equal(model.classes_[1], ["rare"])
    proba = model.predict_proba(texts)
    assert [part.shape for part in proba] == [(len(texts), 4), (len(texts), 1)]
    assert_array_equal(proba[1], 1)
    assert_array_equal(model.predict(texts)[:, 1], y[:, 1])
    single = tiny_text_classifier(tau=0.9).fit(texts, labels)
    found = model.predict_with_exits(texts)
    assert_array_equal(found.entropy[:, 1], 0)
    assert np.isfinite(found.entropy).all()
    for joint_exit in JOINT_EXITS:
        for ensemble in (None, "mean", "weighted"):
            model.set_params(joint_exit=joint_exit, exit_ensemble=ensemble)
            staged = [
                np.stack(part, 1) for part in zip(*model.staged_predict_proba(texts), strict=True)
            ]
            expected = apply_policy(staged, 0.9, None, ensemble, joint_exit=joint_exit)
            assert_array_equal(model.predict_exit_layer(texts), expected.exit_layer)
    assert model.predict_proba_at_layer(texts, 2)[1].shape == (len(texts), 1)
    assert single.n_layers_ == model.n_layers_
    assert 0 <= model.score(texts, y) <= 1
    forest = RandomForestClassifier(5, random_state=0).fit(np.eye(len(texts)), y)
    assert_array_equal(forest.classes_[1], model.classes_[1])


def test_a_label_that_is_constant_in_one_fold(notes):
    texts, labels = notes
    # The rare code stands in the last fold only.
    rare = np.where(np.arange(len(labels)) >= len(labels) - 2, "rare", "none")
    y = np.column_stack([labels, rare])
    scores = cross_val_score(
        tiny_text_classifier(max_epochs=1), texts, y, cv=KFold(4), error_score="raise"
    )
    assert np.isfinite(scores).all()


def test_a_frame_of_labels_of_several_types_in_a_search(two_tasks):
    texts, y = two_tasks
    frame = pd.DataFrame({"status": y[:, 0].tolist(), "vitamin": y[:, 1].tolist()})
    assert frame["vitamin"].dtype == bool
    # Without a splitter scikit-learn sorts the labels of all tasks together, which it cannot.
    search = GridSearchCV(
        tiny_text_classifier(max_epochs=1), {"tau": [0.1, 0.5]}, cv=KFold(2), error_score="raise"
    ).fit(texts, frame)
    assert np.isfinite(search.best_score_)
    assert search.predict(texts[:3]).shape == (3, 2)
    assert [classes.dtype.kind for classes in search.classes_] == ["U", "b"]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_missing_labels_of_one_task_are_refused(notes, missing):
    texts, labels = notes
    for column in ([missing, *["a", "b"] * 19, "a"], [missing, *[0, 1] * 19, 1]):
        for y in (list(zip(labels, column, strict=True)), pd.DataFrame({"a": labels, "b": column})):
            with pytest.raises((TypeError, ValueError), match=r"In task 1, y\[:, 1\]: "):
                tiny_text_classifier().fit(texts, y)


def test_tasks_in_another_order_are_refused_where_it_shows():
    predicted = as_columns([np.array(["a", "b"]), np.array([1, 2])])
    truth = pd.DataFrame({"use": ["a", "a"], "grade": [1, 2]})
    assert_array_equal(task_hits(truth, predicted), [[True, True], [False, True]])
    with pytest.raises(ValueError, match=r"such as 1 in column 0, but the predictions are"):
        task_hits(truth[["grade", "use"]], predicted)
