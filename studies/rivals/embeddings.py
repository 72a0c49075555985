"""Jobs "embeddings": the untrained checkpoint with its own pooling, and logistic regression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._nn.backbones import checkpoint_pooling
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.prediction_batches import batches_by_length
from studies.exits import classifier
from studies.jobs import Folder, Job, Kind, cpu_seconds, reads
from studies.rivals.assembled import adopt
from studies.rivals.common import Proba, Setting, keep, tuned
from studies.sets import SETS, Parts, spread

GRID = {"C": [0.001, 0.01, 0.1, 1, 10], "class_weight": [None, "balanced"]}
_BATCH_SIZE = 16


class FrozenBackbone:
    """A checkpoint without fine-tuning, which returns embeddings of samples.

    Parameters
    ----------
    model : EPEEClassifier or EPEEImageClassifier
        Not fitted, with the pooling of the checkpoint.
    X : samples
        Training samples.
    """

    def __init__(self, model: Any, X: Any) -> None:
        self._model = model
        samples = model._check_samples(X, None)
        # The heads, with the minimum number of classes, are not used.
        with torch.random.fork_rng([]):
            self._preprocessor, network = model._build(samples, 2)
        self._network = network.eval()

    @torch.inference_mode()
    def embeddings(self, X: Any) -> NDArray[np.float32]:
        """Return the pooled last layer of samples, (n, n_features)."""
        encoded = self._preprocessor.encode(self._model._check_samples(X, None))
        out = np.empty((len(encoded), self._network.n_features), np.float32)
        for rows in batches_by_length(encoded.lengths, _BATCH_SIZE):
            *_, (_, pooled, _) = self._network.layers_read(encoded.batch(rows))
            out[rows] = pooled.float().numpy()
        return out

    def with_regression(self, scaler: StandardScaler, regression: LogisticRegression) -> Any:
        """Return a fitted classifier whose head at the last layer is the regression.

        It includes the network, so that its time is that of all operations.
        """
        network = MultiExitNetwork(
            self._network.backbone, len(regression.classes_), self._network.pooling, 0.0,
            has_dense=False,
        ).eval()  # fmt: skip
        weight = regression.coef_ / scaler.scale_
        bias = regression.intercept_ - weight @ scaler.mean_
        if len(weight) == 1:  # with two classes, only the logit of the second
            weight, bias = np.stack([0 * weight[0], weight[0]]), np.array([0.0, bias[0]])
        with torch.no_grad():
            head = network.heads[-1]
            head.get_parameter("out.weight").copy_(torch.from_numpy(weight))
            head.get_parameter("out.bias").copy_(torch.from_numpy(bias))
        return adopt(self._model, self._preprocessor, network, Tasks(regression.classes_))


def pooling_of(source: str, kind: str) -> str:
    """Return the pooling of a checkpoint for texts, by default "mean"; for images "cls"."""
    if kind == "images":
        return "cls"
    return checkpoint_pooling(source) or "mean"


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Compute embeddings of all parts once, fit the grid, and keep the best on dev."""
    if folder.backbone is None:
        raise ValueError(f"{job.name}: embeddings need a checkpoint; got the backbone 'scratch'.")
    pooling = pooling_of(folder.backbone, parts.kind)
    cpu = cpu_seconds()
    frozen = FrozenBackbone(classifier(job, folder.backbone, pooling=pooling), parts.train.X)
    train = frozen.embeddings(parts.train.X)
    cost = {"embedding_cpu_seconds": round(cpu_seconds() - cpu, 2), "pooling": pooling}
    (scaler, regression), chosen = tuned(
        job, parts, _candidates(parts, train, frozen.embeddings(parts.dev.X))
    )
    model = frozen.with_regression(scaler, regression)
    cost |= {
        "n_layers": int(model.n_layers_),
        "n_parameters": sum(p.numel() for p in model.net_.module_.backbone.parameters()),
    }
    return keep(job, parts, folder, model) | cost | chosen


def _candidates(
    parts: Parts, train: NDArray[np.float32], dev: NDArray[np.float32]
) -> Iterator[tuple[Setting, Any, Proba]]:
    for setting in ParameterGrid(GRID):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **setting))
        model.fit(train, parts.train.y)
        yield setting, model, spread(model.predict_proba(dev), model.classes_, len(parts.classes))


def applies(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: texts and images, with a checkpoint."""
    return SETS[data].kind != "spans" and reads(data, backbone) and backbone != "scratch"


# Deterministic, so one seed is enough.
KINDS = {"embeddings": Kind(run, applies, one_seed=True)}
