"""Training recipes: the losses of the exits, and which exits are trained at which step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback, EarlyStopping
from torch import Tensor, nn
from torch.nn import functional

EXIT_TRAININGS = ("joint", "mixed", "distillation", "mixed+distillation", "detached")

# Fraction of the optimizer steps in which a mixed training only trains the last exit. With one half
# both parts can run through a full schedule, and the total number of steps is that of a joint
# training.
_SHARE_OF_LAST_EXIT = 0.5
# Weight of the teacher in distillation: as much as the labels.
_TEACHER_SHARE = 0.5
# Above 1, because a fine-tuned teacher is nearly always certain, and only its probabilities of the
# other classes add information to the label. At 2, a binary probability of 0.99 becomes 0.91.
_TEMPERATURE = 2.0


def is_mixed(exit_training: str) -> bool:
    """Return whether only the last exit is trained at first."""
    return exit_training.startswith("mixed")


def is_distilled(exit_training: str) -> bool:
    """Return whether the exits learn from the last one."""
    return exit_training.endswith("distillation")


def check_teacher(exit_training: str, exit_weights: NDArray[np.float64]) -> None:
    """Raise for distillation from a last exit that has no weight in the loss.

    Parameters
    ----------
    exit_training : str
    exit_weights : ndarray of shape (M,)

    Raises
    ------
    ValueError
        If the last exit is the teacher and its weight is 0.
    """
    if is_distilled(exit_training) and not exit_weights[-1] > 0:
        raise ValueError(
            f"exit_training={exit_training!r} trains the exits to follow the last one, but "
            f"exit_loss_weights={exit_weights.tolist()} gives the last exit no weight; expected a "
            "last weight above 0."
        )


class JointExitLoss(nn.Module):
    """Weighted mean over exits of the cross-entropy, sum_m w_m CE(y, p_m) / sum_m w_m.

    Parameters
    ----------
    exit_weights : ndarray of shape (M,)
        Weight w_m of each exit.

    References
    ----------
    EPEE, arXiv 2503.02053.
    """

    exit_weights: Tensor

    def __init__(self, exit_weights: NDArray[np.float64]) -> None:
        super().__init__()
        weights = torch.tensor(exit_weights, dtype=torch.float32)
        self.register_buffer("exit_weights", weights / weights.sum())

    def forward(self, logits: Tensor, labels: Tensor, sample_weights: Tensor) -> Tensor:
        """Return the loss of a batch from logits (n, M, K), labels (n,) and sample weights (n,).

        For logits (n, 1, K), of a network that only ran its last exit, it is the loss of that exit.
        """
        losses = _cross_entropies(logits, labels)
        return (sample_weights * self._mean_over_exits(losses)).mean()

    def _mean_over_exits(self, losses: Tensor) -> Tensor:
        if losses.shape[1] < len(self.exit_weights):
            return losses[:, -1]
        return (losses * self.exit_weights).sum(1)


class DistillationExitLoss(JointExitLoss):
    """Joint loss in which all exits but the last learn from the labels and from the last exit.

    The loss of exit m < M is ``(1 - a) CE(y, p_m) + a T^2 KL(q_M || q_m)``, where q are
    probabilities at temperature T. The last exit learns from the labels only. Held-out samples are
    scored with the joint loss, so that ``valid_loss`` is comparable between recipes.

    Parameters
    ----------
    exit_weights : ndarray of shape (M,)
        Weight w_m of each exit.
    temperature : float, default=2
        Temperature T of the teacher's and the students' probabilities.

    References
    ----------
    Zhang et al., "Be your own teacher: improve the performance of convolutional neural networks
    via self distillation", arXiv 1905.08094 (the features' part of their loss is left out); Liu et
    al., "FastBERT: a self-distilling BERT with adaptive inference time", arXiv 2004.02178; Hinton
    et al., "Distilling the knowledge in a neural network", arXiv 1503.02531, for T^2, which keeps
    the gradient's size.
    """

    def __init__(
        self, exit_weights: NDArray[np.float64], temperature: float = _TEMPERATURE
    ) -> None:
        super().__init__(exit_weights)
        self.temperature = temperature

    def forward(self, logits: Tensor, labels: Tensor, sample_weights: Tensor) -> Tensor:
        """Return the loss of a batch from logits (n, M, K), labels (n,) and sample weights (n,)."""
        if not self.training:
            return super().forward(logits, labels, sample_weights)
        losses = _cross_entropies(logits, labels)
        divergences = _divergences(logits, self.temperature)
        taught = (1 - _TEACHER_SHARE) * losses[:, :-1] + _TEACHER_SHARE * divergences
        losses = torch.cat([taught, losses[:, -1:]], dim=1)
        return (sample_weights * self._mean_over_exits(losses)).mean()


def exit_loss(exit_training: str) -> type[JointExitLoss]:
    """Return the loss class of a recipe."""
    return DistillationExitLoss if is_distilled(exit_training) else JointExitLoss


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every sample at every exit, (n, M) float32."""
    labels_per_exit = labels.unsqueeze(1).expand(-1, logits.shape[1])
    return functional.cross_entropy(
        logits.float().transpose(1, 2), labels_per_exit, reduction="none"
    )


def _divergences(logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(q_M || q_m) of every sample at exits before the last, (n, M - 1) float32."""
    softened = functional.log_softmax(logits.float() / temperature, dim=-1)
    # Detached, so that the last exit is not pulled towards the predictions of shallow ones.
    teacher = softened[:, -1:].detach()
    terms = functional.kl_div(
        softened[:, :-1], teacher.expand_as(softened[:, :-1]), reduction="none", log_target=True
    )
    return temperature**2 * terms.sum(-1)


def steps_of_parts(exit_training: str, n_steps: int) -> tuple[int, ...]:
    """Return the number of optimizer steps of each part of a training.

    Each part has its own learning rate schedule.

    Parameters
    ----------
    exit_training : str
    n_steps : int
        Number of steps of the whole training.

    Returns
    -------
    tuple of int
        One number, or two for a mixed training: for the last exit alone, then for all exits.
    """
    alone = int(_SHARE_OF_LAST_EXIT * n_steps) if is_mixed(exit_training) else 0
    return (alone, n_steps - alone) if alone else (n_steps,)


class LastExitFirst(Callback):
    """Train only the last exit for some steps, then all exits (mixed training).

    In these steps, the other heads do not run. ``n_exits_trained`` in the history is the number of
    trained exits at the end of each epoch; ``train_loss`` is the loss of these exits.

    Parameters
    ----------
    n_steps : int
        Number of steps of the first part.

    References
    ----------
    Kubaty et al., "How to train your multi-exit model? Analyzing the impact of training
    strategies", arXiv 2407.14320.
    """

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def on_batch_begin(self, net: Any, training: bool = False, **_: Any) -> None:
        """Set which exits run."""
        if training:
            net.module_.last_exit_only = net.n_steps_ < self.n_steps

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        """Record the number of trained exits."""
        trained = 1 if net.module_.last_exit_only else net.module_.n_layers
        net.history.record("n_exits_trained", trained)


class StopOnceAllLearn(EarlyStopping):
    """Early stopping that ignores the epochs in which only the last exit is trained.

    The held-out loss is that of all exits. In the first part of a mixed training it does not
    measure the trained exit, so its minimum does not indicate the best weights.
    """

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Monitor the loss of an epoch at whose end all exits are trained."""
        if not net.module_.last_exit_only:
            super().on_epoch_end(net, **kwargs)
