"""Small trainings, what watches them, and what spoils them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_epee import EPEEClassifier
from sklearn_epee._nn.training import ExitNet
from tests.checkpoints import tiny_config

WORDS = ("iron", "zinc", "rash", "pain", "dose", "daily", "never", "after")


def make_texts(n: int = 24, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of 2 to 9 words that begin with the word of their class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    first = np.array(["takes", "stopped", "history"])[y]
    return [" ".join([word, *rng.choice(WORDS, rng.integers(1, 9))]) for word in first], np.array(
        ["current", "past", "unsure"]
    )[y]


def make(**parameters: Any) -> EPEEClassifier:
    """Return an unfitted text classifier that trains for an epoch of eight samples a batch."""
    settings = {
        "backbone": tiny_config("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        "max_epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "precision": "float32",
        "memory": None,
        "random_state": 0,
    }
    return EPEEClassifier(**settings | parameters)


def weights_of(estimator: Any) -> dict[str, torch.Tensor]:
    """Return copies of the weights of a fitted estimator."""
    return {name: value.clone() for name, value in estimator.net_.module_.state_dict().items()}


def assert_same_weights(estimator: Any, expected: dict[str, torch.Tensor]) -> None:
    """Compare the weights of a fitted estimator with others, bit for bit."""
    found = estimator.net_.module_.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with every training from now on."""
    trainings: list[int] = []
    train = EPEEClassifier._train

    def counted(self, *args):
        trainings.append(1)
        return train(self, *args)

    monkeypatch.setattr(EPEEClassifier, "_train", counted)
    return trainings


class Recorder(Callback):
    """Notes what happens in a training, and may do something at a step."""

    def __init__(self, at_step: int = 0, action: Any = None) -> None:
        self.at_step = at_step
        self.action = action
        self.rates: list[list[float]] = []
        self.norms: list[float] = []
        self.events: list[str] = []
        self.sizes: list[int] = []

    def on_train_begin(self, net, **kwargs):
        self.events.append("train_begin")
        self.groups = [dict(group) for group in net.optimizer_.param_groups]

    def on_epoch_end(self, net, **kwargs):
        self.events.append("epoch_end")

    def on_train_end(self, net, **kwargs):
        self.events.append("train_end")

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            self.sizes.append(len(batch[1]))
            self.rates.append([group["lr"] for group in net.optimizer_.param_groups])
            if self.action is not None and len(self.sizes) == self.at_step:
                self.action(net)

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            squares = [(p.grad**2).sum() for p in net.module_.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack(squares).sum().sqrt()))


class Worsen(Callback):
    """Ruins the weights after some epochs, so that the validation loss rises."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) > self.after:
            with torch.no_grad():
                for parameter in net.module_.heads.parameters():
                    noise = torch.randn(parameter.shape).to(parameter.device)
                    parameter.add_(50 * noise)


class Snapshots(Callback):
    """Takes the weights after every held-out batch."""

    def __init__(self) -> None:
        self.taken: list[dict[str, torch.Tensor]] = []

    def on_batch_end(self, net, training=False, **kwargs):
        if not training:
            state = net.module_.state_dict()
            self.taken.append({name: value.clone() for name, value in state.items()})


def poison(net: Any) -> None:
    """Make the next loss NaN, as weights that have run away would."""
    with torch.no_grad():
        next(net.module_.heads.parameters()).fill_(float("nan"))


def spoil_loss(monkeypatch: pytest.MonkeyPatch, at_step: int, spoil: Any) -> list[dict[str, Any]]:
    """Spoil the loss of one step; the weights of every step are noted."""
    steps: list[dict[str, torch.Tensor]] = []
    get_loss = ExitNet.get_loss

    def spoiled(net, *args, training=False, **kwargs):
        loss = get_loss(net, *args, training=training, **kwargs)
        state = net.module_.state_dict()
        steps.append({name: value.clone() for name, value in state.items()})
        return spoil(net, loss) if len(steps) == at_step else loss

    monkeypatch.setattr(ExitNet, "get_loss", spoiled)
    return steps
