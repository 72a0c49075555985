"""Bad values for every public argument of the estimators: accepted, or refused by name.

Nothing is trained but two tiny networks: a training that is reached counts as accepted.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_epee import EPEEClassifier, EPEEImageClassifier

from .bad_values import BAD_VALUES, outcome
from .classifiers import tiny_image_classifier, tiny_text_classifier

VALUES = BAD_VALUES | {
    "surrogate": "\udc80",
    "null_byte": "a\0b",
    "long": "x" * 300,
    "path": Path("nowhere/at/all"),
    "absent_device": "cpu:99",
    "tensor": torch.ones(3),
    "two_of_two_types": (4, "a"),
    "nested": [[1], [2, 3]],
    "weights": [1.0, np.nan, 2.0],
}
TEXTS = ["takes zinc daily", "stopped iron", "never a rash", "pain after a dose"] * 4
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
LABELS = np.array(["a", "b"] * 8)
KINDS = {
    "text": (tiny_text_classifier, EPEEClassifier, TEXTS),
    "image": (tiny_image_classifier, EPEEImageClassifier, IMAGES),
}
PARAMETERS = [
    (kind, name) for kind, (_, cls, _) in KINDS.items() for name in cls._get_param_names()
]
AT_PREDICTION = ["tau", "patience", "exit_ensemble", "joint_exit", "predict_batch_size", "device",
                 "precision"]  # fmt: skip
PREDICTIONS = ["predict", "predict_proba", "predict_exit_layer", "predict_with_exits",
               "staged_predict", "staged_predict_proba"]  # fmt: skip


class ReachedError(Exception):
    """The training begins: everything was accepted."""


class StopAtOnce(Callback):
    def on_train_begin(self, net, **kwargs):
        raise ReachedError


@pytest.fixture(scope="module", params=KINDS)
def fitted(request):
    make, _, X = KINDS[request.param]
    return make(memory=None, max_epochs=1).fit(X, LABELS), X


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Some values are good names for a folder."""
    monkeypatch.chdir(tmp_path)


def accepted_or_named(call, *names):
    """Return whether a call was accepted; a refusal must name what it refuses."""

    def until_training():
        with contextlib.suppress(ReachedError):
            call()

    found = outcome(until_training, f"(?:{'|'.join(names)})")
    assert found in ("accepted", "refused"), found
    return found == "accepted"


@pytest.mark.parametrize(("kind", "name"), PARAMETERS)
def test_parameters_of_fit(kind, name):
    make, _, X = KINDS[kind]
    for value in VALUES.values():
        model = make(memory=None).set_params(callbacks=[StopAtOnce()], max_epochs=1)
        model.set_params(**{name: value})
        before = dict(vars(model))
        accepted = accepted_or_named(lambda model=model: model.fit(X, LABELS), name)
        if not accepted:
            assert vars(model).keys() == before.keys()


@pytest.mark.parametrize("name", AT_PREDICTION)
def test_parameters_at_prediction(fitted, name):
    model, X = fitted
    for value in VALUES.values():
        changed = copy.copy(model).set_params(**{name: value})
        accepted_or_named(lambda changed=changed: changed.predict(X), name)


@pytest.mark.parametrize("method", PREDICTIONS)
def test_samples_of_predictions(fitted, method):
    model, X = fitted
    for value in VALUES.values():
        accepted_or_named(lambda value=value: list(getattr(model, method)(value)), "X")
    accepted_or_named(lambda: list(getattr(model, method)(X)))


@pytest.mark.parametrize("method", ["predict_at_layer", "predict_proba_at_layer"])
def test_arguments_of_budgeted_predictions(fitted, method):
    model, X = fitted
    for value in VALUES.values():
        accepted_or_named(lambda value=value: getattr(model, method)(value, 1), "X")
        accepted_or_named(lambda value=value: getattr(model, method)(X, value), "layer")


@pytest.mark.parametrize("method", ["fit", "score"])
def test_samples_labels_and_weights(fitted, method):
    model, X = fitted
    model = copy.copy(model).set_params(callbacks=[StopAtOnce()])
    state = dict(vars(model))
    call = getattr(model, method)
    for value in VALUES.values():
        accepted_or_named(lambda value=value: call(value, LABELS), "X")
        accepted_or_named(lambda value=value: call(X, value), "y")
        accepted_or_named(lambda value=value: call(X, LABELS, value), "sample_weight")
    assert all(vars(model)[name] is value for name, value in state.items())
