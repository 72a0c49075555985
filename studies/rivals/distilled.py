"""Jobs "distilled-K": the first K layers, distilled from the full network with one head.

The student is the network of "cut-K" and is trained for the same number of epochs. Half of its loss
is the divergence from the probabilities of the job "full" on the training part. The loss, the
weights of its parts and the temperature are those of ``exit_training="distillation"``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_epee._nn.recipes import DistillationExitLoss
from studies.jobs import BACKBONES, Folder, Job, Kind
from studies.rivals import cut
from studies.rivals.common import keep
from studies.sets import Parts

# Students have 1/3 or 1/2 of the layers.
SHARES = (3, 2)


class Teacher(Callback):
    """Train the last exit on the probabilities of another network, too.

    Parameters
    ----------
    proba : ndarray of shape (n, K)
        For the training samples in their order, with a column for each of their classes.
    """

    def __init__(self, proba: NDArray[np.floating]) -> None:
        self.proba = proba

    def on_train_begin(self, net: Any, X: Any = None, **_: Any) -> None:
        """Append the probabilities to the sample weights, and set the loss that uses them."""
        if len(X.weights) != len(self.proba):
            raise ValueError(
                f"proba has {len(self.proba)} rows; expected one for each of {len(X.weights)} "
                "training samples."
            )
        logits = torch.from_numpy(np.log(np.clip(self.proba, 1e-12, None)).astype(np.float32))
        X.weights = torch.column_stack([X.weights, logits])
        net.criterion_ = TaughtLoss().to(net.device)


class TaughtLoss(DistillationExitLoss):
    """The distillation loss of the last exit only, with a teacher outside of the network.

    The teacher's logits follow the weight of each sample.
    """

    def __init__(self) -> None:
        # The student, and the teacher in place of a last exit that is not trained.
        super().__init__(np.array([1.0, 0.0]))

    def forward(self, logits: Tensor, labels: Tensor, sample_weights: Tensor) -> Tensor:
        """Return the loss of logits (n, M, K), labels (n,) and weights with logits (n, 1 + K)."""
        both = torch.stack([logits[:, -1].float(), sample_weights[:, 1:]], dim=1)
        return super().forward(both, labels, sample_weights[:, 0])


def run(job: Job, parts: Parts, folder: Folder, n_layers: int) -> dict[str, Any]:
    """Train the first layers by the teacher's probabilities."""
    teacher = folder.of(job.of_kind("full")) / "predictions.npz"
    seen = np.unique(parts.train.y)
    with np.load(teacher) as found:
        proba = found["train_proba"][:, seen]
    model, cost = cut.trained(job, parts, folder, n_layers, callbacks=[Teacher(proba)])
    return keep(job, parts, folder, model, timed=False) | cost


def applies(data: str, backbone: str, n_layers: int) -> bool:
    """Return whether there are such jobs: for a half and a third of the layers."""
    taught = [BACKBONES[backbone].n_layers // share for share in SHARES]
    return n_layers in taught and cut.applies(data, backbone)


DEPTHS = sorted(
    {n // share for n in (b.n_layers for b in BACKBONES.values()) for share in SHARES} - {0}
)
KINDS = {
    f"distilled-{k}": Kind(partial(run, n_layers=k), partial(applies, n_layers=k), needs=("full",))
    for k in DEPTHS
}
