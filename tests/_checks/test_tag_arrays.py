"""Tags of words are distinguished from the labels of tasks."""

import numpy as np
import pandas as pd
import pytest

from sklearn_epee._checks.tag_arrays import holds_tags, refuse_tags
from tests.classifiers import tiny_text_classifier

EQUAL = [["O", "B-Drug", "I-Drug"], ["O", "O", "B-Effect"]]
RAGGED = [["O"], ["B-Drug", "I-Drug"]]


@pytest.mark.parametrize(
    "y",
    [
        EQUAL,
        RAGGED,
        [["B-Drug"], ["O"]],
        tuple(map(tuple, EQUAL)),
        np.array(EQUAL),
        np.array(EQUAL, dtype=object),
        [np.array(row) for row in RAGGED],
        pd.Series(RAGGED),
        pd.DataFrame(EQUAL),
        [["S-Drug", "O"], ["B-Drug", "E-Drug"]],
    ],
)
def test_tags_are_refused(y):
    with pytest.raises(ValueError, match=r"EPEEClassifier needs labels .* use EPEETokenClassifier"):
        refuse_tags(y, "EPEEClassifier")


@pytest.mark.parametrize(
    "y",
    [
        None,
        [],
        [[], []],
        ["B-Drug", "O", "I-Drug"],
        np.array(["B-Drug", "O"]),
        [["O", "A"], ["B", "AB"]],  # two tasks, one of them blood groups
        [["B-cell", "high"], ["T-cell", "low"]],
        [["B", "O"], ["O", "O"]],
        [["B-cell", 1], ["O", 0]],
        np.eye(3),
        [[0, 1], [1, 0]],
        "O",
        3,
    ],
)
def test_labels_of_tasks_are_not(y):
    assert not holds_tags(y)


def test_estimators_refuse_them_and_stay_as_they_were():
    classifier = tiny_text_classifier()
    with pytest.raises(ValueError, match="use EPEETokenClassifier"):
        classifier.fit(["rash after insulin", "no rash"], EQUAL)
    assert not hasattr(classifier, "classes_")
