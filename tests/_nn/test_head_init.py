"""Heads that begin as regressions on what they read of the untrained backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_epee import EPEEImageClassifier
from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn import head_init
from sklearn_epee._nn.head_init import start_head
from sklearn_epee._nn.heads import make_head
from tests._nn.trainings import assert_same_weights, make, make_texts, weights_of

N, WIDTH = 120, 8


class Start(Callback):
    """Keeps the weights of the heads that a training begins with, and what they predict."""

    def on_train_begin(self, net, X=None, **kwargs):
        self.weights = {name: w.clone() for name, w in net.module_.heads.state_dict().items()}
        inputs, self.labels = X.collate(list(range(len(X))))
        with torch.no_grad():
            self.logits = net.infer(inputs)


def rows_of(labels, shift=7.0):
    """Return rows that tell classes apart, far from the origin."""
    read = np.random.default_rng(0).normal(size=(len(labels), WIDTH)).astype(np.float32) + shift
    read[np.arange(len(labels)), labels] += 4
    return read


def started(n_classes, labels, *, dense=WIDTH, weights=None, read=None, kind="linear"):
    torch.manual_seed(0)
    head = make_head(n_classes, WIDTH, dense, 0.1, kind=kind).eval()
    read = rows_of(labels if labels.ndim == 1 else labels[:, 0]) if read is None else read
    weights = (
        np.ones(labels.shape if isinstance(n_classes, LabelCount) else N)
        if weights is None
        else weights
    )
    start_head(head, read, labels, weights)
    with torch.no_grad():
        return head, head(torch.from_numpy(read)).numpy()


@pytest.mark.parametrize("dense", [None, 4, WIDTH, 2 * WIDTH])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_heads_of_classes_begin_as_regressions(n_classes, dense):
    labels = np.arange(N) % n_classes
    head, logits = started(n_classes, labels, dense=dense)
    assert (logits.argmax(1) == labels).mean() > 0.9
    assert abs(logits).max() < 20
    if dense is not None:
        with torch.no_grad():
            inner = head.dense(torch.from_numpy(rows_of(labels)))[:, : min(dense, WIDTH)]
        assert inner.mean(0).abs().max() < 1e-4
        assert inner.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("dense", [None, WIDTH])
@pytest.mark.parametrize("n_classes", [3, (3, 2), LabelCount(2)])
def test_bottlenecks_begin_as_none(n_classes, dense):
    labels = np.arange(N) % 3
    if n_classes != 3:
        labels = np.stack([labels % 2 if n_classes != (3, 2) else labels, labels // 2], axis=1)
    _, expected = started(n_classes, labels, dense=dense)
    head, logits = started(n_classes, labels, dense=dense, kind="bottleneck")
    np.testing.assert_array_equal(logits, expected)
    head.requires_grad_(True)
    head(torch.from_numpy(rows_of(np.arange(N) % 3))).square().sum().backward()
    up = next(w for name, w in head.named_parameters() if name.endswith("up.weight"))
    assert up.grad.abs().max() > 0


def test_every_task_has_a_regression_of_its_own():
    labels = np.stack([np.arange(N) % 3, np.arange(N) % 3 // 2], axis=1)
    _, logits = started((3, 2), labels)
    assert (logits[:, :3].argmax(1) == labels[:, 0]).mean() > 0.9
    assert (logits[:, 3:].argmax(1) == labels[:, 1]).mean() > 0.9


def test_labels_that_are_constant_or_unknown_are_left_out():
    codes = np.arange(N) % 2
    labels = np.stack([codes, np.zeros(N, np.int64), np.where(np.arange(N) < 9, -1, codes)], 1)
    weights = (labels >= 0).astype(np.float32)
    head, logits = started(LabelCount(3), labels, weights=weights)
    torch.manual_seed(0)
    drawn = make_head(LabelCount(3), WIDTH, WIDTH, 0.1)
    assert torch.equal(head.head.out.weight[1], drawn.head.out.weight[1])
    positive = logits.reshape(N, 3, 2)[:, :, 1] > 0
    for label in (0, 2):
        known = labels[:, label] >= 0
        assert (positive[known, label] == labels[known, label]).mean() > 0.9


def test_samples_count_by_their_weights():
    labels = np.arange(N) % 2
    read = rows_of(np.zeros(N, np.int64))
    for heavy in (0, 1):
        weights = np.where(labels == heavy, 5.0, 0.2)
        _, logits = started(2, labels, weights=weights, read=read)
        assert (logits.argmax(1) == heavy).mean() > 0.9


def test_a_class_without_samples_keeps_its_start():
    labels = np.arange(N) % 2 * 2
    head, _ = started(3, labels, read=rows_of(labels))
    torch.manual_seed(0)
    drawn = make_head(3, WIDTH, WIDTH, 0.1)
    assert torch.equal(head.out.weight[1], drawn.out.weight[1])


def test_rows_that_are_all_the_same_are_no_harm():
    _, logits = started(2, np.arange(N) % 2, read=np.ones((N, WIDTH), np.float32))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "mean"},
        {"pooling": "cls+mean"},
        {"pooling": "attention"},
        {"exit_training": "mixed+distillation", "max_epochs": 2},
        {"long_texts": "windows", "window_length": 5},
        {"validation_fraction": 0.2},
        {"head": "bottleneck"},
    ],
)
def test_a_training_begins_with_heads_that_know_the_classes(parameters):
    X, y = make_texts(36)
    begun = Start()
    model = make(head_init="regression", callbacks=[begun], **parameters).fit(X, y)
    right = (begun.logits.argmax(-1) == begun.labels[:, None]).float().mean(0)
    assert (right > 0.9).all()
    assert model.predict(X).shape == (36,)


def test_the_start_is_fitted_to_a_bounded_number_of_samples(monkeypatch):
    monkeypatch.setattr(head_init, "MAX_SAMPLES", 12)
    read = []
    monkeypatch.setattr(head_init, "start_head", lambda *given: read.append(given[1]))
    make(head_init="regression").fit(*make_texts(36))
    assert [len(states) for states in read] == [12] * 3


def test_starts_are_reproducible():
    X, y = make_texts(36)
    first = weights_of(make(head_init="regression", dropout=0.2).fit(X, y))
    assert_same_weights(make(head_init="regression", dropout=0.2).fit(X, y), first)


def test_several_labels_and_tasks_train_from_it():
    X, y = make_texts(36)
    codes = np.unique(y, return_inverse=True)[1]
    labels = np.eye(3, dtype=int)[codes]
    assert make(head_init="regression").fit(X, labels).predict(X).shape == (36, 3)
    tasks = np.stack([y, y[::-1]], axis=1)
    for pooling in ("mean", "attention"):
        model = make(head_init="regression", pooling=pooling).fit(X, tasks)
        assert model.predict(X).shape == (36, 2)


def test_a_network_that_is_continued_keeps_its_heads():
    X, y = make_texts(24)
    model = make(head_init="regression", warm_start=True).fit(X, y)
    learned = weights_of(model)
    begun = Start()
    model.set_params(callbacks=[begun]).fit(X, y)
    for name, weight in begun.weights.items():
        assert torch.equal(weight, learned[f"heads.{name}"])


def test_images_begin_with_it():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 8, 8)).astype(np.float32) + 3 * y[:, None, None]
    begun = Start()
    model = EPEEImageClassifier(
        head_init="regression", max_epochs=1, memory=None, random_state=0, callbacks=[begun]
    )
    model.fit(X, y)
    right = (begun.logits.argmax(-1) == begun.labels[:, None]).float().mean(0)
    assert (right > 0.9).all()
