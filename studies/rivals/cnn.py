"""Jobs "cnn": a small convolutional network trained from scratch, in torch with skorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import Tensor, nn

from sklearn_epee._nn.augmentation import jitter
from sklearn_epee._nn.images import channel_statistics, scaled
from studies.jobs import NO_BACKBONE, Folder, Job, Kind
from studies.rivals.common import Proba, Setting, keep, proba_of, tuned
from studies.sets import SETS, Parts

BATCH_SIZE = 32
WEIGHT_DECAY = 0.01
# Training lengths; the longest is that of the package's training from scratch.
N_STEPS = (600, 1250, 2500)
LEARNING_RATE = 2e-3


class SmallCNN(nn.Module):
    """Three convolutions with batch normalization, ReLU and pooling; global mean; linear layer.

    Parameters
    ----------
    n_channels : int
        Number of channels of the images.
    n_classes : int
    augments : bool
        Whether training images are augmented as in the package's training from scratch: rotated,
        shifted, scaled and changed in contrast and brightness, never mirrored.
    width : int, default=32
        Number of channels of the first convolution; each further one has twice as many.
    """

    def __init__(self, n_channels: int, n_classes: int, augments: bool, width: int = 32) -> None:
        super().__init__()
        self.augments = augments
        widths = [n_channels, width, 2 * width, 4 * width]
        self.features = nn.Sequential(*(
            nn.Sequential(
                nn.Conv2d(read, written, 3, padding=1, bias=False),
                nn.BatchNorm2d(written),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
            )
            for read, written in itertools.pairwise(widths)
        ))  # fmt: skip
        self.out = nn.Linear(widths[-1], n_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (n, K) of standardized images (n, c, h, w)."""
        if self.training and self.augments:
            pixels = jitter(pixels)
        return self.out(self.features(pixels).mean(dim=(2, 3)))


class StandardPixels(TransformerMixin, BaseEstimator):
    """Convert images (n, h, w) or (n, h, w, c) to standardized tensors (n, c, h, w)."""

    def fit(self, X: NDArray[Any], y: Any = None) -> StandardPixels:  # noqa: ARG002 - sklearn's
        """Learn mean and standard deviation of every channel."""
        self.mean_, self.std_ = channel_statistics(_with_channels(X))
        return self

    def transform(self, X: NDArray[Any]) -> NDArray[np.float32]:
        """Return the standardized pixels."""
        pixels = (scaled(_with_channels(X)) - self.mean_) / self.std_
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _with_channels(X: NDArray[Any]) -> NDArray[Any]:
    return X[..., np.newaxis] if X.ndim == 3 else X


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Train the models of the grid, and keep the best on dev."""
    model, chosen = tuned(job, parts, _candidates(job, parts))
    n_parameters = sum(p.numel() for p in model[-1].module_.parameters())
    return keep(job, parts, folder, model) | {"n_parameters": n_parameters} | chosen


def _candidates(job: Job, parts: Parts) -> Iterator[tuple[Setting, Any, Proba]]:
    pixels = StandardPixels().fit(parts.train.X)
    ready = pixels.transform(parts.train.X)
    for setting in ParameterGrid(_grid(len(ready), job.option("n_epochs"))):
        net = _net(ready.shape[1], len(parts.classes), **setting)
        with torch.random.fork_rng([]):
            torch.manual_seed(job.seed)
            net.fit(ready, parts.train.y)
        model = Pipeline([("pixels", pixels), ("net", net)])
        yield setting, model, proba_of(model, parts.dev.X, parts)


def _grid(n_samples: int, n_epochs: int | None) -> dict[str, list[Any]]:
    """Return the grid: numbers of epochs, with and without augmentation."""
    steps_per_epoch = -(-n_samples // BATCH_SIZE)
    lengths = [n_epochs] if n_epochs else [max(1, round(n / steps_per_epoch)) for n in N_STEPS]
    return {"n_epochs": lengths, "augments": [False, True]}


def _net(n_channels: int, n_classes: int, n_epochs: int, augments: bool) -> Any:
    """Return an untrained network with a cosine learning rate schedule."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR
    return NeuralNetClassifier(
        SmallCNN,
        module__n_channels=n_channels,
        module__n_classes=n_classes,
        module__augments=augments,
        classes=np.arange(n_classes),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=WEIGHT_DECAY,
        lr=LEARNING_RATE,
        max_epochs=n_epochs,
        batch_size=BATCH_SIZE,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[("schedule", LRScheduler(schedule, T_max=n_epochs))],
        verbose=0,
    )


def applies(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: for images, without a backbone."""
    return backbone == NO_BACKBONE and SETS[data].kind == "images"


KINDS = {"cnn": Kind(run, applies)}
