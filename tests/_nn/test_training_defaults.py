"""What "auto" stands for, and that the documentation says so."""

import re

import pytest

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._nn import training_defaults


@pytest.mark.parametrize(
    ("estimator", "label", "defaults"),
    [
        (EPEEClassifier, "checkpoint", training_defaults.PRETRAINED_TEXT),
        (EPEEClassifier, "from scratch", training_defaults.SCRATCH_TEXT),
        (EPEEImageClassifier, "checkpoint", training_defaults.PRETRAINED_IMAGE),
        (EPEEImageClassifier, "from scratch", training_defaults.SCRATCH_IMAGE),
    ],
)
def test_the_documented_settings_are_the_ones_in_force(estimator, label, defaults):
    rows = [line.strip() for line in estimator.__doc__.splitlines()]
    (row,) = [line for line in rows if re.match(rf"{label} +[0-9]", line)]
    values = row.removeprefix(label).split(maxsplit=4)
    assert float(values[0]) == defaults.learning_rate
    assert float(values[1]) == defaults.head_learning_rate
    assert int(values[2]) == defaults.batch_size
    assert float(values[3]) == defaults.dropout
    steps = f"{defaults.n_steps} + {defaults.n_steps_per_class} K steps"
    assert values[4] == f"{steps}, {defaults.min_epochs} to {defaults.max_epochs}"


@pytest.mark.parametrize(
    ("n_samples", "n_classes", "epochs"),
    [(10, 2, 10), (2880, 2, 5), (2880, 22, 10), (100_000, 2, 3)],
)
def test_small_data_sets_and_many_classes_are_seen_more_often(n_samples, n_classes, epochs):
    assert training_defaults.PRETRAINED_TEXT.epochs(n_samples, n_classes, batch_size=16) == epochs


def test_heads_that_labels_share_learn_faster_on_a_checkpoint_of_texts():
    plain, shared = (training_defaults.PRETRAINED_TEXT.head_rate(8e-5, by) for by in (False, True))
    assert (plain, shared) == pytest.approx((1e-3, 4e-3))
    scratch = training_defaults.SCRATCH_TEXT
    assert scratch.head_rate(1e-3, shared_by_labels=True) == scratch.head_rate(1e-3)
