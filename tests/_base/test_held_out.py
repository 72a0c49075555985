"""What a fit holds out: classes in proportion, and groups as a whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee._base import training_data
from sklearn_epee._base.held_out import hold_out, hold_out_labels
from sklearn_epee._checks.labels import check_groups
from sklearn_epee.model_selection import TunedExitPolicyClassifierCV
from tests.classifiers import tiny_image_classifier, tiny_text_classifier
from tests.trainings import Trainings

TEXTS = [f"word{i % 7} word{i % 3}" for i in range(40)]
LABELS = np.array(["a", "b"] * 20)
GROUPS = np.repeat([f"patient {i}" for i in range(10)], 4)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)


# ---------------------------------------------------------------------------------------- the split


@given(st.integers(2, 40), st.integers(1, 6), st.floats(0.05, 0.9), st.integers(0, 10**6))
def test_groups_stay_together_and_every_class_is_learned(n_groups, n_each, fraction, seed):
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, n_groups, n_groups * n_each))
    groups = np.unique(groups, return_inverse=True)[1]
    labels = rng.integers(0, 2, len(groups))
    labels = np.unique(labels, return_inverse=True)[1]
    try:
        train, valid = hold_out(labels, fraction, seed, groups)
    except ValueError as error:
        assert "each contains all samples of a class" in str(error)  # noqa: PT017
        return
    assert not set(groups[train]) & set(groups[valid])
    assert sorted([*train, *valid]) == list(range(len(groups)))
    assert len(valid)
    assert set(labels[train]) == set(labels)


@pytest.mark.parametrize("seed", range(5))
def test_the_fraction_and_the_classes_are_met_as_far_as_groups_allow(seed):
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, 300, 2000), return_inverse=True)[1]
    labels = rng.choice(3, 2000, p=[0.85, 0.1, 0.05])
    _, valid = hold_out(labels, 0.2, seed, groups)
    assert 0.18 < len(valid) / 2000 < 0.22
    for k in range(3):
        assert 0.17 < np.mean(np.isin(np.flatnonzero(labels == k), valid)) < 0.23


def test_other_seeds_hold_out_other_groups():
    groups = np.repeat(np.arange(30), 4)
    labels = np.tile([0, 1], 60)
    first, again, other = (hold_out(labels, 0.2, seed, groups)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_one_large_group_is_held_out_if_there_is_no_smaller():
    groups = np.repeat([0, 1], 20)
    labels = np.tile([0, 1], 20)
    _, valid = hold_out(labels, 0.1, 0, groups)
    assert len(valid) == 20


def test_several_tasks_are_kept_in_both_parts():
    groups = np.repeat(np.arange(20), 4)
    labels = np.stack([np.tile([0, 1], 40), np.tile([0, 1, 2, 1], 20)], axis=1)
    train, valid = hold_out(labels, 0.25, 0, groups)
    assert len(valid) == 20
    assert {tuple(row) for row in labels[train]} == {tuple(row) for row in labels}


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([1, 2, 3], ValueError, "X and groups have inconsistent numbers .* X has 4, groups has 3"),
        ([1, 1, 1, 1], ValueError, "groups must hold at least two groups; all samples are of 1"),
        ([1, None, 2, 2], ValueError, "groups must hold one group .* 1 are missing .* at row 1"),
        ([1.0, np.nan, 2, np.nan], ValueError, "2 are missing .* the first at row 1"),
        ([object()] * 4, TypeError, "groups must be strings or numbers; got .* of type object"),
        (["a", 1, "b", "b"], TypeError, r"got groups of the types \['int', 'str'\]"),
        (np.ones((4, 2)), ValueError, "groups must hold one group for each sample"),
        ("abcd", ValueError, "groups must hold one group for each sample"),
        (7, ValueError, "groups must hold one group for each sample"),
    ],
)
def test_groups_that_are_none_are_refused(groups, error, message):
    with pytest.raises(error, match=message):
        check_groups(groups, 4)
    model = tiny_text_classifier()
    with pytest.raises(error, match=message):
        model.fit(TEXTS[:4], LABELS[:4], groups=groups)
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, pd.Series, lambda g: np.array(g)[:, None], pd.Categorical]
)
def test_groups_in_every_form(form):
    expected = check_groups(np.array(["b", "a", "b", "c"]), 4)
    np.testing.assert_array_equal(check_groups(form(["b", "a", "b", "c"]), 4), expected)
    np.testing.assert_array_equal(expected, [1, 0, 1, 2])


def test_groups_of_which_each_is_a_class_cannot_be_held_out():
    model = tiny_text_classifier(validation_fraction=0.5)
    with pytest.raises(ValueError, match="each contains all samples of a class"):
        model.fit(TEXTS, LABELS, groups=LABELS)


# ----------------------------------------------------------------------------------------- in a fit


def watched(monkeypatch):
    """Record what is held out."""
    found = []

    def recorded(*given):
        found.append(hold_out(*given))
        return found[-1]

    monkeypatch.setattr(training_data, "hold_out", recorded)
    return found


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_both_estimators_hold_out_whole_groups(kind, monkeypatch):
    found = watched(monkeypatch)
    make, X = {
        "texts": (tiny_text_classifier, TEXTS), "images": (tiny_image_classifier, IMAGES)
    }[kind]  # fmt: skip
    model = make(validation_fraction=0.2, memory=None)
    weights = np.where(GROUPS == "patient 3", 0.0, 1.0)
    model.fit(X, LABELS, sample_weight=weights, groups=GROUPS)
    assert "valid_loss" in model.history_[0]
    kept = GROUPS[weights > 0]
    train, valid = found[0]
    assert len(train) + len(valid) == len(kept)
    assert not set(kept[train]) & set(kept[valid])
    make(memory=None).fit(X, LABELS, groups=GROUPS)
    assert not len(found[1][1])


def test_a_pipeline_passes_groups_on(monkeypatch):
    found = watched(monkeypatch)
    pipeline = make_pipeline(
        FunctionTransformer(), tiny_text_classifier(validation_fraction=0.2, memory=None)
    )
    step = pipeline.steps[-1][0]
    pipeline.fit(TEXTS, LABELS, **{f"{step}__groups": GROUPS})
    train, valid = found[0]
    assert not set(GROUPS[train]) & set(GROUPS[valid])


def test_a_search_routes_groups_to_its_folds(monkeypatch):
    found = watched(monkeypatch)
    with config_context(enable_metadata_routing=True):
        model = tiny_text_classifier(validation_fraction=0.25, random_state=0)
        search = GridSearchCV(
            model.set_fit_request(groups=True), {"tau": [0.1, 0.5]}, cv=GroupKFold(2)
        )
        search.fit(TEXTS, LABELS, groups=GROUPS)
    assert len(found) == 3  # two folds and the refit: one training each
    assert all(len(valid) >= 4 for _, valid in found)


def test_a_tuned_policy_passes_groups_on(monkeypatch):
    found = watched(monkeypatch)
    model = tiny_text_classifier(validation_fraction=0.25, memory=None)
    TunedExitPolicyClassifierCV(model, cv=2).fit(TEXTS, LABELS, groups=GROUPS)
    assert found
    assert all(len(valid) >= 4 for _, valid in found)


def test_groups_are_part_of_what_a_network_is_known_by(tmp_path):
    trainings = Trainings(tmp_path / "trainings")

    def fit(groups, fraction=0.2):
        model = tiny_text_classifier(
            validation_fraction=fraction, memory=tmp_path / "store", callbacks=[trainings]
        )
        model.fit(TEXTS, LABELS, groups=groups)

    fit(GROUPS)
    fit(list(GROUPS))
    fit(pd.Series(GROUPS))
    assert trainings.count == 1
    fit(GROUPS[::-1].copy())  # the same partition under the names in another order
    fit(np.roll(GROUPS, 1))
    fit(None)
    assert trainings.count == 4
    fit(GROUPS, 0.0)
    fit(None, 0.0)
    assert trainings.count == 5


# ---------------------------------------------------------------------------------- several labels


@given(
    st.integers(2, 60),
    st.integers(1, 6),
    st.floats(0.05, 0.9),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_labels_keep_a_sample_to_learn_from(n, n_labels, fraction, in_groups, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (n, n_labels)) * rng.integers(0, 2, (n, 1))
    groups = np.unique(np.arange(n) // 3, return_inverse=True)[1] if in_groups and n > 3 else None
    try:
        train, valid = hold_out_labels(codes, fraction, seed, groups)
    except ValueError as error:
        assert "cannot hold out" in str(error)  # noqa: PT017
        return
    assert sorted([*train, *valid]) == list(range(n))
    assert len(train)
    assert len(valid)
    if groups is not None:
        assert not set(groups[train]) & set(groups[valid])
    again = hold_out_labels(codes, fraction, seed, groups)
    np.testing.assert_array_equal(again[0], train)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_each", [1, 3])
def test_labels_are_held_out_in_proportion(seed, n_each):
    rng = np.random.default_rng(seed)
    rates = np.array([0.5, 0.1, 0.02, 0.01])
    codes = (rng.random((3000, 4)) < rates).astype(np.int64)
    groups = None if n_each == 1 else np.arange(3000) // n_each
    _, valid = hold_out_labels(codes, 0.2, seed, groups)
    assert len(valid) / 3000 == pytest.approx(0.2, abs=0.01)
    shares = codes[valid].sum(axis=0) / codes.sum(axis=0)
    np.testing.assert_allclose(shares, 0.2, atol=0.05)


def test_a_label_of_one_sample_is_learned():
    codes = np.zeros((20, 3), dtype=np.int64)
    codes[5, 0] = codes[6:8, 1] = 1
    for seed in range(5):
        train, valid = hold_out_labels(codes, 0.5, seed)
        assert 5 in train
        assert codes[train, 1].any()
        assert len(valid) == 10
