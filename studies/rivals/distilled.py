"""Jobs "distilled-K": the first K layers, taught by the whole network with one head.

The student is the network of "cut-K" and trains as long; half of its loss is the distance to the
probabilities of the job "full" on the training part, both at a temperature. The loss, its halves
and the temperature are those of the package's ``exit_training="distillation"``.
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

# Parts of the depth that is taught: at ratios of about 2/3 and 1/2.
SHARES = (3, 2)


class Teacher(Callback):
    """Let the last exit learn from the probabilities of another network as well.

    Parameters
    ----------
    proba : ndarray of shape (n, K)
        Of the training samples, in their order, a column for each class that they have.
    """

    def __init__(self, proba: NDArray[np.floating]) -> None:
        self.proba = proba

    def on_train_begin(self, net: Any, X: Any = None, **_: Any) -> None:
        """Put the probabilities beside the samples' weights, and the loss that reads them."""
        if len(X.weights) != len(self.proba):
            raise ValueError(
                f"proba has {len(self.proba)} rows; expected one for each of {len(X.weights)} "
                "training samples."
            )
        logits = torch.from_numpy(np.log(np.clip(self.proba, 1e-12, None)).astype(np.float32))
        X.weights = torch.column_stack([X.weights, logits])
        net.criterion_ = TaughtLoss().to(net.device)


class TaughtLoss(DistillationExitLoss):
    """The distillation loss of the last exit alone, with a teacher outside of the network.

    Behind the weight of each sample are the teacher's logits.
    """

    def __init__(self) -> None:
        # The student, and the teacher in the place of a last exit that learns nothing.
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
