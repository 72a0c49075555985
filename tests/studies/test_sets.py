"""The data sets of the study: parts, codes and scores."""

import os

import numpy as np
import pytest
from sklearn.metrics import f1_score

from studies.sets import NEGATIVE_CODES, SETS, load_parts, score_all, sets_in, spread

from .conftest import SIZES


def test_parts_are_samples_with_codes_of_classes(data_home):
    parts = load_parts("phee", data_home)
    assert [len(part.X) for part in (parts.train, parts.dev, parts.test)] == list(SIZES.values())
    assert parts.classes.tolist() == ["Adverse_event", "Potential_therapeutic_event"]
    assert set(parts.train.y) == {0, 1}
    assert (parts.kind, parts.main_score) == ("texts", "accuracy")
    images = load_parts("breastmnist", data_home)
    assert images.train.X.shape == (SIZES["train"], 28, 28)


def test_caps_draw_training_samples_by_seed_and_dev_and_test_by_none(data_home):
    every = load_parts("breastmnist", data_home)
    first, second, again = (
        load_parts("breastmnist", data_home, n_train=10, seed=seed, n_eval=5) for seed in (0, 1, 0)
    )
    assert len(first.train.X) == 10
    assert len(first.dev.X) == len(first.test.X) == 5
    np.testing.assert_array_equal(first.train.X, again.train.X)
    assert not np.array_equal(first.train.X, second.train.X)
    np.testing.assert_array_equal(first.test.X, second.test.X)
    # A label stays with its image.
    for image, label in zip(*first.train, strict=True):
        row = (image == every.train.X).all(axis=(1, 2)).argmax()
        assert every.train.y[row] == label


def test_micro_f1_leaves_the_negative_class_out():
    draw = np.random.default_rng(0)
    y, predicted = draw.integers(5, size=(2, 50))
    positive = [code for code in range(5) if code != NEGATIVE_CODES["ddi2013"]]
    found = score_all("ddi2013", y, predicted)
    assert found["micro_f1"] == pytest.approx(
        f1_score(y, predicted, labels=positive, average="micro")
    )
    assert set(score_all("git", y, predicted)) == {"accuracy", "macro_f1"}
    nothing = np.full(50, NEGATIVE_CODES["ddi2013"])
    assert score_all("ddi2013", nothing, nothing)["micro_f1"] == 0


def test_spread_fills_classes_that_were_not_seen():
    found = spread(np.array([[[0.2, 0.8]]]), np.array([0, 2]), 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[[0.2, 0, 0.8, 0]]])


def test_sets_that_are_not_there_are_left_out(data_home, tmp_path):
    assert sets_in(data_home, list(SETS)) == ["phee", "breastmnist"]
    assert sets_in(tmp_path, list(SETS)) == []


@pytest.mark.realdata
@pytest.mark.skipif(
    not os.environ.get("SKLEARN_EPEE_DATA"), reason="SKLEARN_EPEE_DATA names no folder"
)
@pytest.mark.parametrize("name", SETS)
def test_real_sets_load(name):
    parts = load_parts(name, n_train=50, n_eval=20)
    assert len(parts.train.X) == len(parts.train.y) == 50
    if parts.kind == "spans":
        assert all(len(found.all_spans) == len(found.data) for found in parts.bunches.values())
    else:
        assert parts.test.y.max() < len(parts.classes)
    if name in ("ddi2013", "git"):
        assert all("[E1]" in text for text in parts.train.X)
