"""EPEEMultimodalClassifier: two towers, of which the second runs where the first is in doubt."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import BertConfig, ViTConfig

from sklearn_epee import (
    EPEEMultimodalClassifier,
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    plotting,
    refit_fastest_within,
    speedup_score,
)
from sklearn_epee._nn.images import ImagePreprocessor
from sklearn_epee._nn.texts import TextTokenizer
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.policy import apply_policy

from .checkpoints import make_checkpoint
from .classifiers import tiny_multimodal_classifier, tiny_training
from .trainings import Trainings

# Later texts may be longer than those of the training.
pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

N_TEXT, N_IMAGE = 2, 3
M = N_TEXT + N_IMAGE


@pytest.fixture(scope="module")
def cases():
    """Forty cases, of which some lack the text and some the image."""
    return make_case_reports(40, missing_fraction=0.5, random_state=0)


@pytest.fixture(scope="module")
def _fitted(cases):
    return tiny_multimodal_classifier(first="text").fit(*cases)


@pytest.fixture
def fitted(_fitted):
    """A fitted classifier, the text first; every test has a copy of its own."""
    return copy.copy(_fitted)


@pytest.fixture(scope="module")
def present(cases):
    return np.array([[part is not None for part in case] for case in cases[0]])


def staged(classifier, X):
    return np.stack(list(classifier.staged_predict_proba(X)), axis=1)


# ------------------------------------------------------------------------------------- exits


@pytest.mark.parametrize("first", ["text", "image"])
def test_exits_are_those_of_the_tower_that_runs_first_and_then_of_the_other(cases, first):
    fitted = tiny_multimodal_classifier(first=first, max_epochs=1).fit(*cases)
    names = ("text", "image") if first == "text" else ("image", "text")
    assert fitted.towers_ == names
    assert fitted.n_tower_layers_ == ((2, 3) if first == "text" else (3, 2))
    assert fitted.n_layers_ == M
    assert fitted.pooling_ == {"text": "mean", "image": "mean"}
    costs = fitted.exit_costs_
    assert costs.shape == (M,)
    assert costs[-1] == 1
    assert (np.diff(costs, prepend=0) > 0).all()


def test_auto_runs_the_cheaper_tower_first(cases):
    X, y = cases
    assert tiny_multimodal_classifier(max_epochs=1).fit(X, y).towers_ == ("image", "text")
    longer = [(None if text is None else text + " word" * 20, image) for text, image in X]
    small = tiny_multimodal_classifier(max_epochs=1)
    small.image_backbone.patch_size = 3
    assert small.fit(X, y).towers_ == ("text", "image")
    assert small.fit(longer, y).exit_costs_[0] > 0


@pytest.mark.parametrize("tau", [0.0, 0.9, 0.97, 0.99, 2.0])
@pytest.mark.parametrize("patience", [None, 1, 2, 3])
@pytest.mark.parametrize("exit_ensemble", [None, "weighted"])
def test_predictions_are_those_of_the_policy_on_arrays(fitted, cases, tau, patience, exit_ensemble):
    X, _ = cases
    fitted.set_params(tau=tau, patience=patience, exit_ensemble=exit_ensemble)
    expected = apply_policy(staged(fitted, X), tau, patience, exit_ensemble)
    for batch_size in ("auto", 1, 7):
        found = fitted.set_params(predict_batch_size=batch_size).predict_with_exits(X)
        near = np.abs(expected.entropy - tau) < 1e-5
        assert_array_equal(found.exit_layer[~near], expected.exit_layer[~near])
        assert_allclose(found.proba, expected.proba, atol=1e-5)


def test_a_sample_has_the_exits_of_what_it_has(fitted, cases, present):
    X, _ = cases
    found = staged(fitted, X)
    lacking = np.isnan(found)
    assert (lacking.all(axis=2) == lacking.any(axis=2)).all()
    own = np.repeat(present, (N_TEXT, N_IMAGE), axis=1)
    assert_array_equal(~lacking.all(axis=2), own)
    # At full depth a sample exits at the last exit it has.
    exits = fitted.set_params(tau=0.0, patience=None).predict_exit_layer(X)
    assert_array_equal(exits, np.where(present[:, 1], M, N_TEXT))


def test_budgets_and_stages_take_the_nearest_exit(fitted, cases):
    X, _ = cases
    every = staged(fitted, X)
    labels = list(fitted.staged_predict(X))
    for layer in range(1, M + 1):
        proba = fitted.predict_proba_at_layer(X, layer)
        assert np.isfinite(proba).all()
        there = ~np.isnan(every[:, layer - 1, 0])
        assert_allclose(proba[there], every[there, layer - 1], atol=1e-5)
        without_image = np.isnan(every[:, -1, 0])
        if layer > N_TEXT:
            assert_allclose(proba[without_image], every[without_image, N_TEXT - 1], atol=1e-5)
        without_text = np.isnan(every[:, 0, 0])
        if layer <= N_TEXT:
            assert_allclose(proba[without_text], every[without_text, N_TEXT], atol=1e-5)
        assert_array_equal(labels[layer - 1], fitted.classes_[proba.argmax(axis=1)])
        assert_array_equal(fitted.predict_at_layer(X, layer), labels[layer - 1])


def test_a_sample_does_not_depend_on_the_others(fitted, cases):
    X, _ = cases
    fitted.set_params(tau=0.97)
    together = fitted.predict_with_exits(X)
    order = np.random.default_rng(0).permutation(len(X))
    shuffled = fitted.predict_with_exits([X[i] for i in order])
    assert_array_equal(shuffled.exit_layer, together.exit_layer[order])
    for i in (0, 5, 11, 23):
        alone = fitted.predict_with_exits([X[i]])
        assert_allclose(alone.proba[0], together.proba[i], atol=1e-5)
        assert alone.exit_layer[0] == together.exit_layer[i]


# --------------------------------------------------------------------------- towers and costs


def test_the_second_tower_never_runs_for_samples_that_are_sure(fitted, cases, monkeypatch):
    X, _ = cases
    read = []
    transform = ImagePreprocessor.transform

    def noted(self, images):
        read.extend(np.asarray(image).tobytes() for image in images)
        return transform(self, images)

    monkeypatch.setattr(ImagePreprocessor, "transform", noted)
    sure = fitted.set_params(tau=2.0).predict_with_exits(X)
    without_text = [image for text, image in X if text is None]
    assert sorted(read) == sorted(image.tobytes() for image in without_text)
    assert_array_equal(sure.towers[:, 1], [text is None for text, _ in X])

    read.clear()
    entropies = np.sort(apply_policy(staged(fitted, X), 0.0).entropy)
    read.clear()
    some = fitted.set_params(tau=float(np.median(entropies))).predict_with_exits(X)
    expected = [image for (_, image), runs in zip(X, some.towers[:, 1], strict=True) if runs]
    assert 0 < len(expected) < len(X)
    assert sorted(read) == sorted(image.tobytes() for image in expected)


def test_texts_of_the_second_tower_are_tokenized_for_samples_that_are_not_sure(cases, monkeypatch):
    X, y = cases
    fitted = tiny_multimodal_classifier(first="image").fit(X, y)
    read = []
    encode = TextTokenizer.encode

    def noted(self, texts):
        read.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(TextTokenizer, "encode", noted)
    fitted.set_params(tau=2.0).predict(X)
    assert sorted(read) == sorted(text for text, image in X if image is None)
    read.clear()
    unsure = fitted.set_params(tau=0.0).predict_with_exits(X)
    assert sorted(read) == sorted(text for text, _ in X if text is not None)
    assert (unsure.towers[:, 0] == [text is not None for text, _ in X]).all()


def test_towers_and_costs_follow_from_the_exits(fitted, cases, present):
    X, _ = cases
    found = fitted.set_params(tau=0.98).predict_with_exits(X)
    assert_array_equal(fitted.predict_towers(X), found.towers)
    assert_array_equal(found.towers[:, 0], present[:, 0])
    assert_array_equal(found.towers[:, 1], found.exit_layer > N_TEXT)
    costs = np.concatenate([[0.0], fitted.exit_costs_])
    text, both = costs[N_TEXT], costs[-1]
    for (has_text, has_image), m, share in zip(
        present, found.exit_layer, found.exit_cost, strict=True
    ):
        taken = costs[m] - (0 if has_text else text)
        whole = (both if has_image else text) - (0 if has_text else text)
        assert share == pytest.approx(taken / whole)
    assert speedup_score(fitted, X) == pytest.approx(1 - found.exit_cost.mean())
    assert speedup_score(fitted.set_params(tau=0.0), X) == 0


def test_towers_are_named_in_one_order_whichever_runs_first(cases, present):
    fitted = tiny_multimodal_classifier(first="image", max_epochs=1, tau=2.0).fit(*cases)
    towers = fitted.predict_towers(cases[0])
    assert_array_equal(towers[:, 1], present[:, 1])
    assert_array_equal(towers[:, 0], ~present[:, 1])


# ----------------------------------------------------------------------------- early hand-over


@pytest.fixture(scope="module")
def _early(cases):
    return tiny_multimodal_classifier(first="image", hand_over_after=2).fit(*cases)


@pytest.fixture
def early(_early):
    """A fitted classifier, the image first; samples go on where two of its exits agree."""
    return copy.copy(_early)


def costs_of(classifier, own, exits):
    """The share of the work of all layers that read what a sample has, layer by layer."""
    steps, first = np.diff(classifier.exit_costs_, prepend=0), classifier.n_tower_layers_[0]
    shares = []
    for there, m in zip(own, exits, strict=True):
        whole = (
            there[:first].any() * steps[:first].sum() + there[first:].any() * steps[first:].sum()
        )
        shares.append((steps * there)[:m].sum() / whole)
    return shares


def assert_as_arrays(classifier, X, proba, *policy, **options):
    """Samples exit as the rule on arrays says, at its cost."""
    expected = apply_policy(proba, *policy, **options)
    own = ~np.isnan(np.concatenate(proba, -1) if isinstance(proba, list) else proba)[..., 0]
    for batch_size in ("auto", 3):
        found = classifier.set_params(predict_batch_size=batch_size).predict_with_exits(X)
        assert_array_equal(found.exit_layer, expected.exit_layer)
        assert_allclose(*(np.hstack(one.proba) for one in (found, expected)), atol=1e-5)
        shares = costs_of(classifier, own, found.exit_layer)
        assert_allclose(found.exit_cost, shares)
    assert speedup_score(classifier, X) == pytest.approx(1 - np.mean(shares))
    return found


def test_samples_skip_the_end_of_the_first_tower(early, cases, present):
    own = ~np.isnan(staged(early, cases[0])[..., 0])
    text, image = present.T
    assert_array_equal(own[:, 3:], np.repeat(text[:, np.newaxis], 2, axis=1))
    assert (own[image & ~text, :3]).all()  # nowhere to go
    assert (~own[~image, :3]).all()
    both = own[image & text, :3]
    assert both[:, :2].all()
    assert 0 < both[:, 2].mean() < 1


@pytest.mark.parametrize("policy", [(0.0,), (0.97,), (0.0, 3), (0.99, 4, "weighted"), (2.0,)])
def test_early_hand_over_is_that_of_the_arrays_at_its_cost(early, cases, policy):
    names = ("tau", "patience", "exit_ensemble")
    early.set_params(**dict(zip(names, policy, strict=False)))
    assert_as_arrays(early, cases[0], staged(early, cases[0]), *policy)


def test_what_is_skipped_is_saved_where_no_sample_exits_early(early, cases):
    X, y = cases
    found = early.set_params(tau=0.0).predict_with_exits(X)
    own = ~np.isnan(staged(early, X)[..., 0])
    skipped = own[:, :2].all(1) & ~own[:, 2]
    assert_array_equal(found.exit_cost < 1 - 1e-9, skipped)
    assert exit_scores(early, X, y)["speedup"] == pytest.approx(1 - found.exit_cost.mean())
    assert speedup_score(early, X) > 0


def test_budgets_and_stages_after_an_early_hand_over(early, cases):
    every = staged(early, cases[0])
    labels = list(early.staged_predict(cases[0]))
    for layer in range(1, M + 1):
        proba = early.predict_proba_at_layer(cases[0], layer)
        for sample, found, label in zip(every, proba, labels[layer - 1], strict=True):
            at = np.flatnonzero(~np.isnan(sample[:, 0])) + 1
            nearest = at[at <= layer].max(initial=0) or at.min()
            assert_allclose(found, sample[nearest - 1], atol=1e-6)
            assert label == early.classes_[sample[nearest - 1].argmax()]


def test_tasks_and_labels_are_handed_over_early(cases, present):
    X, y = cases
    both = np.stack([y, np.where(present[:, 0], "with text", "without")], axis=1)
    classifier = tiny_multimodal_classifier(
        first="image", hand_over_after=1, max_epochs=1, tau=0.97, joint_exit="mean"
    ).fit(X, both)
    tasks = [
        np.stack(task, axis=1) for task in zip(*classifier.staged_predict_proba(X), strict=True)
    ]
    assert np.isnan(tasks[1][present.all(axis=1), 1:3]).all()
    assert_as_arrays(classifier, X, tasks, 0.97, None, joint_exit="mean")
    labels = (y[:, np.newaxis] == np.unique(y)).astype(int)
    labels[:, 0] |= present[:, 0]
    classifier.set_params(joint_exit="all").fit(X, labels)
    options = {"joint_exit": "all", "multilabel": True}
    found = assert_as_arrays(classifier, X, staged(classifier, X), 0.97, None, **options)
    assert set(found.exit_layer) <= {1, 2, 3, 4, 5}


def test_a_search_knows_the_work_of_early_hand_over(cases, tmp_path):
    X, y = cases
    trainings = Trainings(tmp_path / "trainings")
    base = tiny_multimodal_classifier(first="image", max_epochs=1, callbacks=[trainings])
    cv = [(np.arange(20, 40), np.arange(20)), (np.arange(20), np.arange(20, 40))]
    grid = {"hand_over_after": [None, 1, 5], "tau": [0.0, 0.98]}
    search = GridSearchCV(base, grid, scoring=exit_scores, refit="accuracy", cv=cv).fit(X, y)
    # The number shapes the training; 5 is more than the tower has layers, but that does not matter.
    assert trainings.count == 3 * 2 + 1
    table = search.cv_results_
    for row, parameters in enumerate(table["params"]):
        for split, (train, test) in enumerate(cv):
            alone = clone(base).set_params(**parameters, memory=None, callbacks=None)
            alone.fit([X[i] for i in train], y[train])
            found = speedup_score(alone, [X[i] for i in test])
            assert table[f"split{split}_test_speedup"][row] == pytest.approx(found)
    never, early = table["mean_test_speedup"][[0, 2]]
    assert never == 0 < early
    assert_array_equal(table["mean_test_speedup"][4:], table["mean_test_speedup"][:2])


def test_policies_are_tuned_by_the_work_of_early_hand_over(early, cases):
    X, y = cases
    tuned = TunedExitPolicyClassifierCV(
        early, cv="prefit", refit=False, scoring="accuracy", store_cv_results=True
    ).fit(X, y)
    table = tuned.cv_results_
    assert tuned.n_tower_layers_ == early.n_tower_layers_
    for row in range(0, len(table["tau"]), len(table["tau"]) // 8):
        policy = {"tau": float(table["tau"][row]), "patience": int(table["patience"][row])}
        found = speedup_score(early.set_params(**policy), X)
        assert found == pytest.approx(table["speedup"][row], abs=1.5 / len(y))
    assert table["speedup"].min() > 0
    shown = plotting.ExitHistogramDisplay.from_estimator(early.set_params(tau=0.98), X, y)
    assert shown.speedup_ == pytest.approx(speedup_score(early, X))


def test_the_second_tower_learns_from_where_samples_come(early, cases):
    never = clone(early).set_params(hand_over_after=None).fit(*cases)
    late = clone(early).set_params(hand_over_after=3).fit(*cases)  # of three layers
    assert_array_equal(staged(late, cases[0]), staged(never, cases[0]))
    assert not np.allclose(
        staged(early, cases[0])[:, 3:], staged(never, cases[0])[:, 3:], equal_nan=True
    )


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_exits_are_calibrated_with_an_early_hand_over(early, cases, method):
    X, y = cases
    calibrated = ExitCalibratedClassifier(early, method=method, cv="prefit").fit(X, y)
    assert np.isfinite(calibrated.nll_after_).all()
    assert (calibrated.nll_after_ <= calibrated.nll_before_ + 1e-6).all()
    inside = calibrated.estimator_.set_params(tau=0.9)
    assert_as_arrays(inside, X, staged(inside, X), 0.9)


# --------------------------------------------------------------------------------------- input


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_with_files(fitted, cases, library, tmp_path):
    X, _ = cases
    files = []
    for i, (_, image) in enumerate(X):
        files.append(None if image is None else str(tmp_path / f"{i}.png"))
        if image is not None:
            Image.fromarray(image).save(files[-1])
    table = {"scan": files, "id": list(range(len(X))), "note": [text for text, _ in X]}
    frame = pytest.importorskip(library).DataFrame(table)
    expected = fitted.predict_proba(X)
    fitted.set_params(text_column="note", image_column="scan")
    assert_allclose(fitted.predict_proba(frame), expected, atol=1e-6)


def test_one_kind_alone_can_be_predicted(fitted, cases):
    X, _ = cases
    texts = [(text, None) for text, _ in X if text is not None]
    images = [(None, image) for _, image in X if image is not None]
    assert (fitted.predict_exit_layer(texts) <= N_TEXT).all()
    assert (fitted.predict_exit_layer(images) > N_TEXT).all()


def test_blank_texts_are_missing(fitted, cases):
    images = [image for _, image in cases[0] if image is not None]
    blank = fitted.predict_proba([(" ", image) for image in images])
    assert_array_equal(blank, fitted.predict_proba([(None, image) for image in images]))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"first": "sound"}, ValueError, "first"),
        ({"hand_over_after": 0}, ValueError, "hand_over_after"),
        ({"hand_over_after": 1.5}, ValueError, "hand_over_after"),
        ({"text_column": 3}, ValueError, "text_column"),
        ({"text_pooling": "entity"}, ValueError, "text_pooling"),
        ({"image_pooling": "last"}, ValueError, "image_pooling"),
        ({"tau": -1}, ValueError, "tau"),
        ({"text_backbone": "/no/such/folder"}, ValueError, "text_backbone"),
        ({"image_backbone": "/no/such/folder"}, ValueError, "image_backbone"),
        ({"max_length": 1000}, ValueError, "max_length=1000 is more than the 64 positions"),
        ({"exit_loss_weights": [1, 2]}, ValueError, "5 layers"),
    ],
)
def test_bad_parameters_are_refused(cases, parameters, error, message):
    classifier = tiny_multimodal_classifier().set_params(**parameters)
    with pytest.raises(error, match=message):
        classifier.fit(*cases)
    with pytest.raises(NotFittedError):
        classifier.predict(cases[0])


def test_bad_samples_are_refused(fitted, cases):
    X, y = cases
    with pytest.raises(ValueError, match=r"X has no text in any of its \d+ rows"):
        clone(fitted).fit([(None, image) for _, image in X if image is not None], y[:3])
    with pytest.raises(ValueError, match=r"X\[1\] has neither a text nor an image"):
        fitted.predict([X[0], (None, None)])
    with pytest.raises(ValueError, match="3 channels, but this classifier was fitted"):
        fitted.predict([("a", np.zeros((24, 24, 3), np.uint8))])
    with pytest.raises(ValueError, match=r"40"):
        clone(fitted).fit(X, y[:3])


# -------------------------------------------------------------------------------- scikit-learn


def test_a_search_trains_once_a_fold_and_scores_like_the_estimator(cases, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    base = tiny_multimodal_classifier(callbacks=[trainings])
    search = GridSearchCV(
        base,
        {"tau": [0.0, 0.9, 0.98, 2.0], "patience": [None, 2]},
        scoring=exit_scores,
        refit=refit_fastest_within(0.5),
        cv=2,
    ).fit(*cases)
    assert trainings.count == 3
    found = search.cv_results_["mean_test_speedup"]
    assert found[0] == 0
    assert found.max() > 0.5
    best = search.best_estimator_
    again = tiny_multimodal_classifier(
        random_state=0, tau=best.tau, patience=best.patience, callbacks=[trainings]
    ).fit(*cases)
    assert_allclose(again.predict_proba(cases[0]), best.predict_proba(cases[0]), atol=1e-6)


def test_tuned_and_fixed_policies(fitted, cases):
    X, y = cases
    tuned = TunedExitPolicyClassifierCV(
        fitted, cv="prefit", refit=False, scoring="accuracy", store_cv_results=True
    ).fit(X, y)
    table, every = tuned.cv_results_, staged(fitted, X)
    for row in range(0, len(table["tau"]), len(table["tau"]) // 12):
        policy = {"tau": float(table["tau"][row]), "patience": int(table["patience"][row])}
        labels = fitted.classes_[apply_policy(every, **policy).prediction]
        assert (labels == y).mean() == pytest.approx(table["score"][row])
        # Entropies of a network that has hardly learned lie close together: one sample may move.
        found = speedup_score(fitted.set_params(**policy), X)
        assert found == pytest.approx(table["speedup"][row], abs=1.5 / len(y))
    fixed = FixedExitPolicyClassifier(clone(fitted), tau=2.0).fit(X, y)
    assert speedup_score(fixed, X) > 0.5


def test_displays_draw_a_classifier_of_two_towers(fitted, cases):
    pytest.importorskip("matplotlib")
    for name in ("LayerwiseDisplay", "ExitTradeoffDisplay", "ExitPolicyHeatmapDisplay"):
        getattr(plotting, name).from_estimator(fitted, *cases)
    shown = plotting.ExitHistogramDisplay.from_estimator(fitted.set_params(tau=0.98), *cases)
    exits = np.bincount(fitted.predict_exit_layer(cases[0]), minlength=M + 1)[1:]
    assert_array_equal(shown.counts.sum(axis=0), exits)


@pytest.mark.parametrize("hand_over_after", [None, 2])
def test_copies_predict_the_same(fitted, early, cases, hand_over_after):
    X, _ = cases
    fitted = early if hand_over_after else fitted
    fitted.set_params(tau=0.98)
    expected = fitted.predict_with_exits(X)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        found = twin.predict_with_exits(X)
        assert_array_equal(found.proba, expected.proba)
        assert_array_equal(found.exit_cost, expected.exit_cost)
        assert_array_equal(found.towers, expected.towers)
        assert twin.towers_ == fitted.towers_
        assert_array_equal(twin.exit_costs_, fitted.exit_costs_)


def test_two_fits_agree_bit_for_bit(fitted, cases):
    again = clone(fitted).set_params(memory=None).fit(*cases)
    assert_array_equal(again.predict_proba(cases[0]), fitted.predict_proba(cases[0]))


def test_a_network_kept_on_disk_is_found_again(cases, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    options = {"memory": tmp_path / "store", "callbacks": [trainings], "max_epochs": 1}
    first = tiny_multimodal_classifier(**options).fit(*cases)
    second = tiny_multimodal_classifier(**options, tau=0.5).fit(*cases)
    assert trainings.count == 1
    assert second.towers_ == first.towers_
    assert_array_equal(
        second.net_.module_.no_context.detach(), first.net_.module_.no_context.detach()
    )


def test_warm_start_goes_on(cases):
    classifier = tiny_multimodal_classifier(warm_start=True, max_epochs=1).fit(*cases)
    before = classifier.predict_proba(cases[0])
    towers = classifier.towers_
    classifier.set_params(hand_over_after=1).fit(*cases)
    assert classifier.towers_ == towers
    assert classifier.net_.module_.hand_over_after == 1
    assert not np.allclose(before, classifier.predict_proba(cases[0]))
    with pytest.raises(ValueError, match="warm_start=True continues a network for the classes"):
        classifier.fit(cases[0], ["a", "b"] * 20)


def test_several_tasks_exit_together(cases, present):
    X, y = cases
    other = np.where(present[:, 0], "with text", "without")
    classifier = tiny_multimodal_classifier(max_epochs=1, tau=0.99, joint_exit="mean")
    classifier.fit(X, np.stack([y, other], axis=1))
    assert classifier.predict(X).shape == (40, 2)
    tasks = [
        np.stack(task, axis=1) for task in zip(*classifier.staged_predict_proba(X), strict=True)
    ]
    expected = apply_policy(tasks, 0.99, None, joint_exit="mean")
    found = classifier.predict_with_exits(X)
    assert_array_equal(found.exit_layer, expected.exit_layer)
    assert len(list(classifier.staged_predict(X))) == M


def test_exits_can_be_calibrated_and_run_in_pipelines(fitted, cases):
    X, y = cases
    model = make_pipeline(FunctionTransformer(), tiny_multimodal_classifier(max_epochs=1))
    assert cross_val_predict(model, X, y, cv=2).shape == (40,)
    calibrated = ExitCalibratedClassifier(fitted, cv="prefit").fit(X, y)
    assert calibrated.predict_proba(X).shape == (40, 3)


def test_weights_of_zero_leave_rows_out(cases):
    X, y = cases
    weights = np.ones(len(y))
    weights[::4] = 0
    kept = [i for i in range(len(y)) if weights[i]]
    options = {"max_epochs": 1, "memory": None}
    a = tiny_multimodal_classifier(**options).fit(X, y, sample_weight=weights)
    b = tiny_multimodal_classifier(**options).fit([X[i] for i in kept], y[kept])
    assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def test_early_stopping_holds_out_rows_of_both_kinds(cases):
    classifier = tiny_multimodal_classifier(
        validation_fraction=0.25, early_stopping=True, max_epochs=3
    ).fit(*cases)
    assert "valid_loss" in classifier.history_[-1]


# -------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("text", "image"), [("bert", "vit"), ("gpt2", "clip"), ("mpnet", "dinov2")]
)
def test_checkpoints_of_any_two_families(cases, text, image, tmp_path):
    folders = [str(make_checkpoint(family, tmp_path / family)) for family in (text, image)]
    X = [(t, None if i is None else np.repeat(i[..., np.newaxis], 3, axis=2)) for t, i in cases[0]]
    classifier = EPEEMultimodalClassifier(*folders, **tiny_training(max_epochs=1), tau=0.98)
    classifier.fit(X, cases[1])
    expected = apply_policy(staged(classifier, X), 0.98)
    found = classifier.predict_with_exits(X)
    assert_array_equal(found.exit_layer, expected.exit_layer)
    assert_allclose(found.proba, expected.proba, atol=1e-5)
    assert classifier.net_.plan.learning_rate == (
        (8e-5, 5e-5) if classifier.towers_[0] == "text" else (5e-5, 8e-5)
    )


def test_compact_towers_from_scratch(cases):
    classifier = EPEEMultimodalClassifier(**tiny_training(max_epochs=1)).fit(*cases)
    assert classifier.n_layers_ == 12
    assert classifier.net_.plan.learning_rate == (1e-3, 1e-3)


# ---------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_all_three_kinds_of_cases_are_learned_and_exit_where_they_are_decided():
    small = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    text = BertConfig(vocab_size=600, max_position_embeddings=64, **small)
    image = ViTConfig(image_size=24, patch_size=6, num_channels=1, initializer_range=0.08, **small)
    train, tune, test = (
        make_case_reports(n, random_state=seed, return_X_y=False)
        for seed, n in enumerate((1000, 400, 600))
    )
    classifier = EPEEMultimodalClassifier(
        text, image, first="text", augment=False, max_epochs=14, tau=0.0, random_state=0
    ).fit(train.data, train.target)
    kinds = ("text", "image", "both")

    def right(labels, kind):
        return (labels == test.target)[test.kind == kind].mean()

    stages = list(classifier.staged_predict(test.data))
    # Without the image: the text alone, a guess between three, and one between two.
    assert right(stages[2], "text") > 0.95
    assert right(stages[2], "image") < 0.55
    assert right(stages[2], "both") < 0.65
    assert all(right(stages[-1], kind) > 0.9 for kind in kinds)

    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(classifier), max_accuracy_drop=0.01, scoring="accuracy"
    ).fit(tune.data, tune.target)
    found = tuned.predict_with_exits(test.data)
    full = (stages[-1] == test.target).mean()
    assert (found.labels == test.target).mean() > full - 0.03
    assert speedup_score(tuned, test.data) > 0.25
    second_tower = {kind: found.towers[test.kind == kind, 1].mean() for kind in kinds}
    assert second_tower["text"] < 0.3
    assert second_tower["both"] > 0.8
