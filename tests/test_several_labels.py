"""Several labels per sample: what `y` may be, training on what is known, predictions and exits."""

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
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._checks.multilabel import check_label_targets, holds_labels
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._nn.heads import label_heads
from sklearn_epee.policy import JOINT_EXITS, apply_policy

from .checkpoints import make_checkpoint
from .classifiers import tiny_image_classifier, tiny_text_classifier
from .trainings import Trainings

WORDS = ("started", "stopped", "vitamin", "supplement")
FAST = {"learning_rate": 0.003, "head_learning_rate": 0.003}


@pytest.fixture(scope="session")
def named(notes):
    """Some words that each note has, as lists."""
    return [[word for word in WORDS if word in text.lower()] for text in notes[0]]


@pytest.fixture(scope="session")
def indicator(named):
    return np.array([[int(word in words) for word in sorted(WORDS)] for words in named])


@pytest.fixture(scope="session")
def _fitted(notes, indicator):
    model = tiny_text_classifier(tau=0.6, dropout=0.0, max_epochs=30, **FAST)
    return model.fit(notes[0], indicator)


@pytest.fixture
def fitted(_fitted):
    return copy.deepcopy(_fitted)


# ----------------------------------------------------------------------------------- conventions


def test_shapes_and_types(fitted, texts):
    n = len(texts)
    assert fitted.multilabel_
    assert fitted.n_outputs_ == 4
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    found = fitted.predict_with_exits(texts)
    for part in (found.labels, found.proba, found.entropy):
        assert part.shape == (n, 4)
    assert found.labels.dtype == np.int64
    assert found.proba.dtype == found.entropy.dtype == np.float32
    assert_array_equal(found.labels, (found.proba > 0.5).astype(int))
    assert_array_equal(found.labels, fitted.predict(texts))
    assert_array_equal(found.proba, fitted.predict_proba(texts))
    assert_array_equal(found.exit_layer, fitted.predict_exit_layer(texts))


def test_budgeted_and_staged(fitted, texts):
    staged, labels = list(fitted.staged_predict_proba(texts)), list(fitted.staged_predict(texts))
    fitted.set_params(label_thresholds=0.4)
    above = list(fitted.staged_predict(texts))
    for layer in range(1, fitted.n_layers_ + 1):
        at_layer = fitted.predict_proba_at_layer(texts, layer)
        assert_allclose(staged[layer - 1], at_layer, atol=1e-6)
        assert_array_equal(labels[layer - 1], at_layer > 0.5)
        assert_array_equal(above[layer - 1], at_layer > 0.4)
        assert_array_equal(fitted.predict_at_layer(texts, layer), at_layer > 0.4)


@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_exits_follow_the_policy_on_arrays(fitted, texts, joint_exit, ensemble):
    staged = np.stack(list(fitted.staged_predict_proba(texts)), axis=1)
    entropy = -(staged * np.log2(staged) + (1 - staged) * np.log2(1 - staged))
    tau = float(np.median(entropy.mean(axis=2)[:, 1]))
    for patience, thresholds in ((3, None), (2, [0.5, 0.1, 0.2, 0.3])):
        fitted.set_params(tau=tau, patience=patience, label_thresholds=thresholds)
        fitted.set_params(joint_exit=joint_exit, exit_ensemble=ensemble)
        expected = apply_policy(
            staged, tau, patience, ensemble,
            joint_exit=joint_exit, multilabel=True, label_thresholds=thresholds,
        )  # fmt: skip
        for batch_size in (1, 7, "auto"):
            found = fitted.set_params(predict_batch_size=batch_size).predict_with_exits(texts)
            assert_array_equal(found.exit_layer, expected.exit_layer)
            assert_array_equal(found.labels, expected.prediction)
            assert_allclose(found.proba, expected.proba, atol=1e-5)
            assert_allclose(found.entropy, expected.entropy, atol=1e-5)


def test_the_score_is_the_accuracy_of_whole_sets(fitted, texts, indicator):
    weights = np.arange(len(texts))
    predicted = fitted.predict(texts)
    assert fitted.score(texts, indicator) == accuracy_score(indicator, predicted)
    expected = accuracy_score(indicator, predicted, sample_weight=weights)
    assert fitted.score(texts, csr_array(indicator), weights) == pytest.approx(expected)
    partly = indicator.astype(float)
    partly[:, 1:] = np.nan
    partly[0] = np.nan
    hits = (predicted[1:, 0] == indicator[1:, 0]).mean()
    assert fitted.score(texts, partly) == pytest.approx(hits)


def test_training_learns_every_label():
    there = np.random.default_rng(0).integers(0, 2, (60, 3))
    texts = [" ".join(np.where(row, ["zinc", "iron", "biotin"], "none")) for row in there]
    rates = {"learning_rate": 0.005, "head_learning_rate": 0.005}
    model = tiny_text_classifier(dropout=0.0, max_epochs=25, **rates).fit(texts, there)
    assert f1_score(there, model.predict_at_layer(texts, -1), average="macro") > 0.8


def test_images_have_several_labels_too(digits):
    X, y = digits
    Y = np.column_stack([y == 0, y > 1])
    model = tiny_image_classifier(joint_exit="any", validation_fraction=0.2).fit(X, Y)
    assert model.predict(X).shape == model.predict_proba(X).shape == (len(X), 2)
    assert model.score(X, Y) == (model.predict(X) == Y).all(axis=1).mean()


def _names_of(row):
    return [word for word, there in zip(sorted(WORDS), row, strict=True) if there]


def test_labels_of_a_checkpoint_of_images(digits, tmp_path):
    X, y = digits
    checkpoint = make_checkpoint("dinov2", tmp_path / "dinov2", num_channels=3)
    frame = pd.DataFrame({"a zero": y == 0, "no one": y != 1})
    settings = {"max_epochs": 1, "batch_size": 20, "precision": "float32", "random_state": 0}
    model = EPEEImageClassifier(checkpoint, tau=0.95, joint_exit="mean", **settings).fit(X, frame)
    assert model.classes_.tolist() == ["a zero", "no one"]
    staged = np.stack(list(model.staged_predict_proba(X)), axis=1)
    expected = apply_policy(staged, 0.95, joint_exit="mean", multilabel=True)
    assert_array_equal(model.predict_exit_layer(X), expected.exit_layer)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), expected.prediction)


FORMS = {
    "array": lambda Y: Y,
    "flags": lambda Y: Y.astype(bool),
    "floats": lambda Y: Y.astype(float),
    "lists of numbers": lambda Y: Y.tolist(),
    "sparse": csr_array,
    "frame": lambda Y: pd.DataFrame(Y, columns=sorted(WORDS)),
    "lists of labels": lambda Y: [_names_of(row) for row in Y],
    "tuples": lambda Y: tuple(tuple(w) for w in FORMS["lists of labels"](Y)),
    "sets": lambda Y: [set(w) for w in FORMS["lists of labels"](Y)],
    "series": lambda Y: pd.Series(FORMS["lists of labels"](Y)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_y(fitted, notes, indicator, form):
    texts, y = notes[0], FORMS[form](indicator)
    model = clone(fitted).set_params(max_epochs=1).fit(texts, y)
    expected = clone(fitted).set_params(max_epochs=1).fit(texts, indicator)
    assert model.multilabel_
    named_by_y = form not in ("array", "flags", "floats", "lists of numbers", "sparse")
    assert model.classes_.tolist() == (sorted(WORDS) if named_by_y else [0, 1, 2, 3])
    assert_array_equal(model.predict_proba(texts), expected.predict_proba(texts))
    assert model.score(texts, y) == expected.score(texts, indicator)


def test_a_target_type_forces_either(notes, indicator, named):
    texts = notes[0]
    tasks = tiny_text_classifier(target_type="tasks", max_epochs=1).fit(texts, indicator)
    assert not tasks.multilabel_
    assert [part.shape[1] for part in tasks.predict_proba(texts)] == [2] * 4
    one = tiny_text_classifier(target_type="multilabel", max_epochs=1)
    one.fit(texts, indicator[:, :1])
    assert one.predict(texts).shape == one.predict_with_exits(texts).entropy.shape == (40, 1)
    pairs = [[a, b] for a, b in zip(notes[1], ["x", "y"] * 20, strict=True)]
    assert not tiny_text_classifier(max_epochs=1).fit(texts, pairs).multilabel_
    assert clone(one).fit(texts, pairs).classes_.tolist() == [*sorted(set(notes[1])), "x", "y"]


def test_a_single_label_exits_as_one_task_does(notes, indicator):
    model = tiny_text_classifier(target_type="multilabel", tau=0.6, max_epochs=8, **FAST)
    model.fit(notes[0], indicator[:, :1])
    staged = np.stack(list(model.staged_predict_proba(notes[0])), axis=1)
    tau = float(np.median(apply_policy(staged, 2.0, multilabel=True).entropy))
    for joint_exit in JOINT_EXITS:
        expected = apply_policy(staged, tau, 2, joint_exit=joint_exit, multilabel=True)
        found = model.set_params(tau=tau, patience=2, joint_exit=joint_exit)
        assert_array_equal(found.predict_exit_layer(notes[0]), expected.exit_layer)


# -------------------------------------------------------------------------------------- training


def _still(**parameters):
    """Return a classifier that hardly learns: all losses are those of its first weights."""
    config = tiny_text_classifier().backbone.to_dict()
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_text_classifier(
        learning_rate=1e-12, head_learning_rate=1e-12, dropout=0.0, max_epochs=1, batch_size=40
    )
    backbone = type(model.backbone)(**config | without)
    return model.set_params(backbone=backbone, **parameters)


def _losses(model, texts, codes):
    """Return the cross-entropy of every sample and label, averaged over the exits."""
    staged = np.stack(list(model.staged_predict_proba(texts)), axis=1).astype(np.float64)
    right = np.where(codes[:, None] == 1, staged, 1 - staged)
    return np.einsum("nmk,m->nk", -np.log(right), np.array([1, 2, 3]) / 6)


def test_the_loss_is_the_mean_over_labels_that_are_known(texts, indicator):
    model = _still().fit(texts, indicator)
    losses = _losses(model, texts, indicator)
    assert model.history_[-1, "train_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    partly = indicator.astype(float)
    partly[::3, 1] = np.nan
    partly[1::2, 2] = np.nan
    known = ~np.isnan(partly)
    partial = _still().fit(texts, partly)
    losses = _losses(partial, texts, indicator)
    assert partial.history_[-1, "train_loss"] == pytest.approx(losses[known].mean(), rel=1e-4)


def test_labels_begin_as_frequent_as_they_are(texts, indicator):
    partly = indicator.astype(float)
    partly[::3, 1] = np.nan
    expected = [(np.nansum(labels) + 0.5) / (np.sum(~np.isnan(labels)) + 1) for labels in partly.T]
    for network in label_heads(_still().fit(texts, partly).net_.module_):
        rates = network.head.out.bias.sigmoid().detach().numpy()
        assert_allclose(rates, expected, rtol=0.05)  # unknown labels change the mean weight


def test_weights_of_samples_and_of_labels(texts, indicator):
    rows = np.linspace(0.5, 2, 40)
    weighted = _still().fit(texts, indicator, sample_weight=rows)
    expected = np.average(_losses(weighted, texts, indicator).mean(axis=1), weights=rows)
    assert weighted.history_[-1, "train_loss"] == pytest.approx(expected, rel=1e-4)
    n_there = indicator.sum(0)
    balanced = np.where(indicator == 1, 40 / (2 * n_there), 40 / (2 * (40 - n_there)))
    by_class = [{0: 1.0, 1: 5.0}, None, {1: 2.0}, {}]
    tables = {
        "balanced": balanced,
        "by class": np.where(indicator == 1, [5.0, 1.0, 2.0, 1.0], 1.0),
        "by name": np.where(indicator == 1, [1.0, 3.0, 1.0, 1.0], 1.0),
    }
    frame = pd.DataFrame(indicator, columns=sorted(WORDS))
    given = {"balanced": "balanced", "by class": by_class, "by name": {"stopped": 3.0}}
    for name, weights in tables.items():
        model = _still(class_weight=given[name]).fit(texts, frame)
        wanted = np.average(_losses(model, texts, indicator), weights=weights)
        assert model.history_[-1, "train_loss"] == pytest.approx(wanted, rel=1e-4)


def test_samples_of_weight_0_and_of_which_nothing_is_known_are_left_out(texts, indicator):
    kept = np.arange(40) % 4 > 0
    settings = {"max_epochs": 1, "tokenizer": _tokenizer(texts)}
    partly = indicator.astype(float)
    partly[~kept] = np.nan
    some = [text for text, is_kept in zip(texts, kept, strict=True) if is_kept]
    fewer = tiny_text_classifier(**settings).fit(some, indicator[kept])
    for other in (
        tiny_text_classifier(**settings).fit(texts, indicator, sample_weight=kept),
        tiny_text_classifier(**settings).fit(texts, partly),
    ):
        assert_array_equal(other.predict_proba(texts), fewer.predict_proba(texts))


def _tokenizer(texts):
    return tiny_text_classifier(max_epochs=1).fit(texts, [0, 1] * 20)._preprocessor.tokenizer


@pytest.mark.parametrize(
    "recipe", [{"exit_training": "mixed+distillation", "max_epochs": 4}, {"pooling": "attention"}]
)
def test_recipes_train_the_shared_head(texts, indicator, recipe):
    rates = {"learning_rate": 1e-12, "head_learning_rate": 1e-12}
    start = tiny_text_classifier(**recipe, **rates).fit(texts, indicator)
    trained = tiny_text_classifier(**recipe, **FAST).fit(texts, indicator)
    before = dict(start.net_.module_.heads.named_parameters())
    for name, weight in trained.net_.module_.heads.named_parameters():
        assert not torch.allclose(weight, before[name]), name


def test_a_head_is_shared_by_all_labels(fitted):
    network = fitted.net_.module_
    width = network.backbone.config.hidden_size
    dense, out = width * (width + 1), 4 * (width + 1)
    n_weights = sum(weight.numel() for weight in network.heads.parameters())
    assert n_weights == network.n_layers * (dense + out)


def test_held_out_samples(texts, indicator):
    partly = indicator.astype(float)
    partly[::5, 0] = np.nan
    settings = {"validation_fraction": 0.25, "early_stopping": True, "n_iter_no_change": 1}
    model = tiny_text_classifier(**settings).fit(texts, partly)
    assert 0 <= model.history_[-1, "valid_acc"] <= 1
    groups = np.arange(40) // 4
    assert clone(model).fit(texts, partly, groups=groups).history_[-1, "valid_loss"] > 0


# --------------------------------------------------------------------- labels that do not vary


def test_labels_that_do_not_vary_are_predicted_so(texts, indicator):
    y = pd.DataFrame(indicator, columns=list("abcd")).assign(never=0, always=1, unknown=np.nan)
    message = r"do not vary, \['always'\] of every sample and \['never', 'unknown'\] of no sample"
    with pytest.warns(UserWarning, match=message) as found:
        model = tiny_text_classifier(tau=0.999).fit(texts, y)
    assert len([w for w in found if "do not vary" in str(w.message)]) == 1
    assert found[0].filename == __file__
    exits = model.predict_with_exits(texts)
    assert_array_equal(exits.proba[:, 4:], [[0, 1, 0]] * 40)
    assert_array_equal(exits.entropy[:, 4:], 0)
    assert np.isfinite(exits.entropy).all()
    # A constant label holds nothing up.
    staged = np.stack(list(model.staged_predict_proba(texts)), axis=1)
    alone = apply_policy(staged[..., :4], 0.999, multilabel=True)
    assert_array_equal(exits.exit_layer, alone.exit_layer)
    twin = pickle.loads(pickle.dumps(model))
    assert_array_equal(twin.predict_proba(texts), exits.proba)


@pytest.mark.filterwarnings("ignore:y holds labels that do not vary")
def test_folds_without_a_label(texts, indicator):
    y = np.column_stack([indicator, np.arange(40) >= 38]).astype(int)
    model = tiny_text_classifier(max_epochs=1)
    assert np.isfinite(cross_val_score(model, texts, y, cv=KFold(4), error_score="raise")).all()


@pytest.mark.filterwarnings("ignore:y holds labels that do not vary")
def test_a_continued_training_learns_a_label_that_has_come_to_vary(texts, indicator):
    y = indicator.copy()
    y[:, 0] = 0
    model = tiny_text_classifier(warm_start=True, max_epochs=1).fit(texts, y)
    assert not model.predict_proba(texts)[:, 0].any()
    model.fit(texts, indicator)
    assert model.predict_proba(texts)[:, 0].all()
    # What was learned before is learned further, although it does not vary here.
    assert model.fit(texts, y).predict_proba(texts)[:, 0].all()
    assert not label_heads(model.net_.module_)[0].constants.any()


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.full((40, 2), 2), ValueError, r"got 2 at row 0, column 0\. For columns of other class"),
        ([*[[0, 1]] * 20, *[[1, 3]] * 20], ValueError, "got 3 at row 20, column 1"),
        (np.full((40, 2), "a"), ValueError, "must hold an indicator of 0 and 1 .* values of type"),
        ([0, 1] * 20, ValueError, r"got an array of shape \(40,\)"),
        (np.zeros((40, 3)), ValueError, r"label that some samples have .*\[0, 1, 2\]"),
        ([["a"]] * 40, ValueError, r"some samples have and others do not; .*\['a'\]"),
        ([[]] * 40, ValueError, "no label"),
        ([["a"], ["b", 3]] * 20, TypeError, r"mixes labels of the types \['number', 'str'\]"),
        ([["a"], "b"] * 20, TypeError, r"y\[1\] must hold a list of labels, .* got 'b'"),
        ([["a"], ["b", None]] * 20, ValueError, r"y\[1\] must hold labels that are .* got None"),
        ([["a"], [np.nan, "b"]] * 20, ValueError, r"y\[1\] holds a label that is missing: nan"),
        ([[0, 1], [1, 0]] * 19, ValueError, "X and y have inconsistent numbers of samples"),
        ([["a"], ["a", "b"]] * 19, ValueError, "X and y have inconsistent numbers of samples"),
        (np.zeros((40, 0)), ValueError, "y holds no label: it has no columns"),
        (csr_array(np.full((40, 2), 3)), ValueError, "got 3 at row 0, column 0"),
    ],
)
def test_targets_that_are_no_labels(texts, y, error, message):
    model = tiny_text_classifier(target_type="multilabel")
    with pytest.raises(error, match=message):
        model.fit(texts, y)
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize(
    ("thresholds", "error", "message"),
    [
        (-0.1, ValueError, "label_thresholds must be None, a number in"),
        (1.5, ValueError, "label_thresholds must be None"),
        ([0.5, 0.5], ValueError, r"4 of them, one for each label; got an array of shape \(2,\)"),
        ([0.5, np.nan, 0.5, 0.5], ValueError, "label_thresholds must be None"),
        ("0.5", TypeError, "label_thresholds must be None"),
        (True, TypeError, "label_thresholds must be None"),
    ],
)
def test_thresholds_that_do_not_fit(fitted, notes, thresholds, error, message):
    texts, indicator = notes[0], np.eye(40, 4, dtype=int)
    with pytest.raises(error, match=message):
        clone(fitted).set_params(label_thresholds=thresholds).fit(texts, indicator)
    with pytest.raises(error, match=message):
        fitted.set_params(label_thresholds=thresholds).predict(texts)


def test_thresholds_without_several_labels(text_classifier, notes):
    for y in (notes[1], np.column_stack([notes[1], notes[1]])):
        with pytest.raises(ValueError, match=r"label_thresholds=0\.3 is for samples with several"):
            tiny_text_classifier(label_thresholds=0.3).fit(notes[0], y)
    with pytest.raises(ValueError, match=r"label_thresholds=0\.3 is for .* but y holds one label"):
        text_classifier.set_params(label_thresholds=0.3).predict(notes[0])


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({0: 1.0, 1: 5.0}, "is a dict, which gives the weights of labels by their names, but"),
        ([{1: 2.0}], "does not fit the 4 labels of y; expected 'balanced', None, a list of 4"),
        ([{2: 2.0}, None, None, None], r"expected the weights of 0 and 1 .*; got \{2: 2\.0\}"),
        ([{1: -2.0}, None, None, None], "must hold finite weights >= 0"),
        ([{0: 0, 1: 0}] * 4, "leaves no sample with a weight above 0"),
    ],
)
def test_class_weights_that_do_not_fit(texts, indicator, class_weight, message):
    with pytest.raises(ValueError, match=message):
        tiny_text_classifier(class_weight=class_weight).fit(texts, indicator)


def test_class_weights_of_unknown_names(texts, named):
    with pytest.raises(ValueError, match=r"class_weight holds the labels \['gold'\], which y does"):
        tiny_text_classifier(class_weight={"gold": 2.0}).fit(texts, named)


def test_scores_of_labels_that_are_not_known(fitted, texts, indicator):
    with pytest.raises(ValueError, match=r"y holds 3 label\(s\), but the fitted estimator knows 4"):
        fitted.score(texts, indicator[:, :3])
    with pytest.raises(ValueError, match=r"y\[0\] holds the labels \['gold'\], which the fitted"):
        fitted.score(texts, [["gold"], *[[]] * 39])
    with pytest.raises(ValueError, match="y holds no known label"):
        fitted.score(texts, np.full((40, 4), np.nan))


def test_lists_of_numbers_of_one_length_are_scored_as_what_was_fitted(texts):
    codes = [[250], [401], [250, 401], []] * 10
    model = tiny_text_classifier(max_epochs=1).fit(texts, codes)
    assert model.classes_.tolist() == [250, 401]
    expected = (model.predict(texts[:2]) == [[1, 0], [0, 1]]).all(axis=1).mean()
    assert model.score(texts[:2], codes[:2]) == expected
    assert model.score(texts[:2], [[1, 0], [0, 1]]) == expected


def test_columns_of_a_frame_are_found_by_name(indicator):
    frame = pd.DataFrame(indicator, columns=sorted(WORDS))
    tasks = Tasks(np.array(sorted(WORDS)), multilabel=True)
    assert_array_equal(tasks.codes(frame[frame.columns[::-1]]), indicator)
    assert_array_equal(tasks.codes(indicator), indicator)
    numbers = Tasks(np.arange(len(WORDS)), multilabel=True)
    assert_array_equal(numbers.codes(frame), indicator)
    with pytest.raises(ValueError, match=r"y has the columns \['started', .*'vitamins'\], but"):
        tasks.codes(frame.rename(columns={"vitamin": "vitamins"}))


@pytest.mark.parametrize(
    "names", [["a", "b", "c", ("d", 1)], [("a", 1), "b", 3, None]], ids=["a tuple", "several types"]
)
def test_names_of_columns_of_any_type(indicator, names):
    frame = pd.DataFrame(indicator, columns=pd.Index(names, dtype=object))
    assert holds_labels(frame)
    assert check_label_targets(frame, len(frame)).classes.tolist() == names


@pytest.mark.parametrize("target_type", ["auto", "multilabel", "tasks"])
def test_columns_of_one_name_are_refused(texts, indicator, target_type):
    frame = pd.DataFrame(indicator, columns=["a", "b", "a", "d"])
    with pytest.raises(ValueError, match="y has several columns of the name 'a'"):
        tiny_text_classifier(target_type=target_type).fit(texts, frame)


def test_an_unfitted_estimator_has_no_labels():
    model = tiny_text_classifier()
    assert not hasattr(model, "multilabel_")
    with pytest.raises(NotFittedError):
        model.score(["a text"], [[0, 1]])


# -------------------------------------------------------------------------------------- elsewhere


def test_searches_train_once_per_fold_and_predict_alike(texts, indicator, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    grid = {
        "tau": [0.97],
        "patience": [2, 3],
        "joint_exit": ["all", "any"],
        "label_thresholds": [None, 0.45],
    }
    model = tiny_text_classifier(max_epochs=1, callbacks=[trainings])
    search = GridSearchCV(model, grid, cv=2, scoring="f1_micro").fit(texts, indicator)
    assert trainings.count == 3
    lonely = GridSearchCV(clone(model).set_params(memory=None), grid, cv=2, scoring="f1_micro")
    lonely.fit(texts, indicator)
    for fold in range(2):
        column = f"split{fold}_test_score"
        assert_array_equal(search.cv_results_[column], lonely.cv_results_[column])
    assert search.best_estimator_.predict(texts).shape == indicator.shape


def test_pickle_joblib_and_pipeline(fitted, texts, indicator, tmp_path):
    expected = fitted.set_params(label_thresholds=[0.1, 0.2, 0.3, 0.4]).predict(texts)
    joblib.dump(fitted, tmp_path / "model")
    for twin in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "model")):
        assert_array_equal(twin.predict(texts), expected)
        assert twin.multilabel_
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    pipeline = make_pipeline(upper, tiny_text_classifier(max_epochs=1)).fit(texts, indicator)
    assert pipeline.predict(texts).shape == indicator.shape


def test_training_continues_with_some_of_the_labels(fitted, texts, indicator, named):
    model = tiny_text_classifier(warm_start=True, max_epochs=1).fit(texts, named)
    before = model.predict_proba(texts)
    # A part in which some labels do not occur is one of the same labels.
    model.fit(texts[:10], named[:10])
    assert model.classes_.tolist() == sorted(WORDS)
    assert (model.predict_proba(texts) != before).any()
    with pytest.raises(ValueError, match="which the fitted estimator does not know"):
        model.fit(texts, [["gold"], *named[1:]])
    with pytest.raises(ValueError, match="warm_start=True continues a network for the classes"):
        model.set_params(target_type="tasks").fit(texts, indicator)


def test_exit_logits_of_labels_can_be_mapped(fitted, texts):
    shape = fitted.n_layers_, 4
    matrix = np.tile(np.diag([1.0, 0.5, 2.0, 0.0]), (shape[0], 1, 1))
    shift = np.tile([0.0, 0.0, 1.0, 0.0], (shape[0], 1))
    mapped = fitted.map_exit_logits(matrix, shift).predict_proba_at_layer(texts, 2)
    z = np.log(proba := fitted.predict_proba_at_layer(texts, 2)) - np.log1p(-proba)
    expected = 1 / (1 + np.exp(-(z * [1, 0.5, 2, 0] + [0, 0, 1, 0])))
    assert_allclose(mapped, expected, atol=1e-5)


def test_an_indicator_that_an_older_pickle_took_for_tasks_stays_tasks(texts, indicator):
    model = tiny_text_classifier(target_type="tasks", max_epochs=1, warm_start=True)
    model.fit(texts, indicator)
    expected, labels = model.predict_proba(texts), model.predict(texts)
    state = model.__getstate__()
    # What an estimator wrote before there were several labels per sample.
    for name in ("target_type", "label_thresholds"):
        del state[name]
    tasks = Tasks.__new__(Tasks)
    vars(tasks).update(classes=model.classes_)
    state["_state"].tasks = tasks
    older = EPEEClassifier.__new__(EPEEClassifier)
    older.__setstate__(state)
    assert older.target_type == "auto"
    assert not older.multilabel_
    for mine, theirs in zip(older.predict_proba(texts), expected, strict=True):
        assert_array_equal(mine, theirs)
    assert_array_equal(older.predict(texts), labels)
    assert older.score(texts, indicator) == (labels == indicator).all(axis=1).mean()
    # Trained on, it still has tasks.
    assert not older.fit(texts, indicator).multilabel_
