"""The loaders against the real data sets and their stated counts."""

import os

import numpy as np
import pytest

from sklearn_epee import datasets

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not os.environ.get("SKLEARN_EPEE_DATA"),
        reason="SKLEARN_EPEE_DATA does not name a folder of data",
    ),
]

TEXT_SETS = {
    "ddi2013": (25018, 2774, 5716, 5),
    "git": (3734, 492, 465, 22),
    "health_advice": (8662, 1083, 1083, 3),
    "phee": (2898, 961, 968, 2),
}
IMAGE_SETS = {
    "breastmnist": (546, 78, 156, 2),
    "pathmnist_subset": (502, 72, 144, 9),
    "pneumoniamnist": (4708, 524, 624, 2),
}
# Per class in train, dev and test.
CLASS_COUNTS = {
    "ddi2013": {
        "false": (21424, 2348, 4737),
        "effect": (1519, 168, 360),
        "mechanism": (1187, 132, 302),
        "advise": (744, 82, 221),
        "int": (144, 44, 96),
    },
    "git": {
        "INTERACTS_WITH": (822, 106, 97),
        "DOES_NOT_TREAT": (17, 3, 4),
        "SYMPTOM_OF": (7, 1, 3),
    },
    "health_advice": {
        "none": (6467, 809, 809),
        "weak": (1334, 167, 167),
        "strong": (861, 107, 107),
    },
    "phee": {
        "Adverse_event": (2650, 859, 867),
        "Potential_therapeutic_event": (248, 102, 101),
    },
    "breastmnist": {"malignant": (147, 21, 42), "normal, benign": (399, 57, 114)},
    "pneumoniamnist": {"normal": (1214, 135, 234), "pneumonia": (3494, 389, 390)},
    "pathmnist_subset": {
        "adipose": (102, 15, 30),
        "debris": (18, 3, 5),
        "colorectal adenocarcinoma epithelium": (86, 12, 24),
    },
}
SUBSETS = ("train", "dev", "test")


def load(name, **parameters):
    return getattr(datasets, f"load_{name}")(**parameters)


@pytest.mark.parametrize("name", CLASS_COUNTS)
def test_counts_are_those_stated(name):
    *n_rows, n_classes = (TEXT_SETS | IMAGE_SETS)[name]
    for i, subset in enumerate(SUBSETS):
        bunch = load(name, subset=subset)
        assert len(bunch.data) == len(bunch.target) == n_rows[i]
        assert bunch.frame is None
        assert len(bunch.target_names) == n_classes
        assert bunch.target_names.tolist() == sorted(bunch.target_names)
        assert set(bunch.target) <= set(bunch.target_names)
        for label, counts in CLASS_COUNTS[name].items():
            assert np.sum(bunch.target == label) == counts[i]


@pytest.mark.parametrize("name", CLASS_COUNTS)
def test_all_is_the_three_parts_in_order(name):
    parts = [load(name, subset=subset, return_X_y=True) for subset in SUBSETS]
    X, y = load(name, subset="all", return_X_y=True)
    assert y.tolist() == np.concatenate([target for _, target in parts]).tolist()
    for i in (0, -1):
        assert np.array_equal(X[i], parts[i][0][i])


@pytest.mark.parametrize("name", CLASS_COUNTS)
def test_description_gives_licence_and_citation(name):
    bunch = load(name, subset="dev")
    for word in ("Source: ", "Licence: ", "Citation: "):
        assert word in bunch.DESCR


@pytest.mark.parametrize("name", TEXT_SETS)
def test_texts_are_strings_and_frames_hold_every_column(name):
    texts, labels = load(name, subset="test", return_X_y=True)
    bunch = load(name, subset="test", as_frame=True)
    assert all(type(text) is str and text for text in texts)
    assert labels.dtype.kind == "U"
    assert bunch.data.tolist() == texts
    assert bunch.target.tolist() == labels.tolist()
    assert bunch.frame["text"].tolist() == texts
    assert not bunch.frame.isna().any().any()


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_images_are_uint8_and_frames_flat(name):
    images, labels = load(name, subset="dev", return_X_y=True)
    bunch = load(name, subset="dev", as_frame=True)
    assert images.dtype == np.uint8
    assert images.shape[1:] == ((28, 28, 3) if name == "pathmnist_subset" else (28, 28))
    assert labels.dtype.kind == "U"
    assert bunch.frame.shape == (len(images), images[0].size + 1)
    assert np.array_equal(bunch.data.to_numpy(), images.reshape(len(images), -1))
    assert bunch.target.tolist() == labels.tolist()


def test_relation_sets_mark_both_entities():
    for name in ("git", "ddi2013"):
        frame = load(name, subset="dev", as_frame=True).frame
        for mark in ("[E1]", "[/E1]", "[E2]", "[/E2]"):
            assert frame["text"].str.contains(mark, regex=False).all()
        assert not frame["sentence"].str.contains("[E1]", regex=False).any()
