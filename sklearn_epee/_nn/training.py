"""Training of the multi-exit network: the skorch net, the schedule, what a failure leaves."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import skorch
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback, EarlyStopping, LRScheduler, PassthroughScoring, PrintLog
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .batching import LabelledSamples, LengthGroupedSampler
from .network import MultiExitNetwork, parameter_groups
from .recipes import (
    LastExitFirst,
    SequentialSchedule,
    StopOnceAllLearn,
    exit_loss,
    is_mixed,
    steps_of_parts,
)
from .tasks import split_tasks, task_predictions, task_softmax

_SEEDING = threading.RLock()
# At this rate, far above what transformers are trained with, undoing a step restores weights
# within about 1e-8; weights themselves are of the order of 0.02.
_LARGEST_UNDONE_RATE = 0.01


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that shapes the training of a given network on given samples."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    exit_weights: NDArray[np.float64]
    device: torch.device
    dtype: torch.dtype
    seed: int
    early_stopping: bool
    n_iter_no_change: int
    gradient_checkpointing: bool = False
    exit_training: str = "joint"
    callbacks: list[Any] = field(default_factory=list)
    verbose: int = 0


class TrainingMemoryError(MemoryError):
    """The device ran out of memory in training; the message says what to change."""


class DivergedError(ValueError):
    """The loss or its gradient became NaN or infinite before any good step was made."""


class _NotFiniteError(Exception):
    """Ends the training loop at a step whose loss or gradient is not finite."""


class _WeightsCopy:
    """Goes back to the last good weights by keeping a copy of them."""

    def __init__(self, module: nn.Module) -> None:
        self._live = [parameter.detach() for parameter in module.parameters()]
        self._kept = [weight.clone() for weight in self._live]

    def keep(self) -> None:
        """Note that the weights gave a finite loss; the optimiser is about to move them."""
        torch._foreach_copy_(self._kept, self._live)

    def restore(self) -> None:
        """Go back to the weights of the last `keep`."""
        torch._foreach_copy_(self._live, self._kept)


class _StepBack:
    """Goes back to the last good weights by undoing the last step of AdamW.

    The moments from which that step was computed are still there, so nothing is copied: a copy at
    every step costs a quarter of what weights, gradients and moments take, and the time to write
    it. What comes back agrees with the weights before the step within their rounding, as long as
    nothing but the optimiser moved them and a step is not much larger than the weights.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101, algorithm 2.
    """

    def __init__(self, optimizer: torch.optim.AdamW) -> None:
        self._optimizer = optimizer
        self._rates: list[float] = []

    def keep(self) -> None:
        """Note that the weights gave a finite loss; the optimiser is about to move them."""
        # The schedule changes the rates right after the step.
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the weights of the last `keep`."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=False):
            for weight in group["params"]:
                # Weights that have no gradient were not moved, nor those at their first one.
                if weight.grad is not None and weight in self._optimizer.state:
                    self._undo(weight, group, rate)

    def _undo(self, weight: Tensor, group: dict[str, Any], rate: float) -> None:
        state = self._optimizer.state[weight]
        step = float(state["step"])
        first, second = (1 - beta**step for beta in group["betas"])
        scale = state["exp_avg_sq"].sqrt().div_(math.sqrt(second)).add_(group["eps"])
        weight.addcdiv_(state["exp_avg"], scale, value=rate / first)
        weight.div_(1 - rate * group["weight_decay"])


class ExitNet(skorch.NeuralNetClassifier):
    """The skorch net that trains a `MultiExitNetwork`; ``predict_proba`` is the last exit's.

    Parameters
    ----------
    module : callable
        Gives the network, which is trained in place.
    plan : TrainingPlan
    **kwargs
        Passed on to skorch.
    """

    def __init__(self, module: Any, *, plan: TrainingPlan | None = None, **kwargs: Any) -> None:
        self.plan = plan
        super().__init__(module, **kwargs)

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        kept = ("epoch_timer", "train_loss", "valid_loss")
        standard = [pair for pair in super()._default_callbacks if pair[0] in kept]
        return [*standard, ("valid_acc", PassthroughScoring("valid_acc", lower_is_better=False))]

    def initialize_optimizer(self, *_: Any, **__: Any) -> ExitNet:
        """Set up AdamW with the heads' own learning rate and no decay on biases and norms."""
        plan = self._require_plan()
        groups = parameter_groups(
            self.module_, plan.learning_rate, plan.head_learning_rate, plan.weight_decay
        )
        # The fused step is several times faster than a loop over parameters, also on a CPU.
        self.optimizer_ = torch.optim.AdamW(groups, fused=plan.device.type in ("cpu", "cuda"))
        return self

    def get_iterator(self, dataset: LabelledSamples, training: bool = False) -> DataLoader:
        """Load batches of similar length, shuffled in training."""
        plan = self._require_plan()
        load = partial(
            DataLoader,
            dataset,
            collate_fn=dataset.collate,
            pin_memory=plan.device.type == "cuda",  # pinned memory is copied to a GPU faster
        )
        if not training:
            return load(batch_size=plan.batch_size)
        order = LengthGroupedSampler(
            dataset.samples.lengths, plan.batch_size, np.random.default_rng(plan.seed)
        )
        return load(batch_sampler=order)

    def infer(self, x: dict[str, Tensor], **fit_params: Any) -> Tensor:
        """Run the network in the plan's precision."""
        with _autocast(torch.device(self.device), self._require_plan().dtype):
            return super().infer(x, **fit_params)

    def get_loss(
        self,
        y_pred: Tensor,
        y_true: tuple[Tensor, Tensor],
        X: Any = None,  # noqa: ARG002 - skorch's signature
        training: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """Joint loss of a batch, its mean over the tasks."""
        labels, weights = (part.to(y_pred.device) for part in y_true)
        tasks = split_tasks(y_pred, self.module_.class_counts)
        if len(tasks) == 1:
            return self.criterion_(y_pred, labels, weights)
        pairs = zip(tasks, labels.unbind(1), strict=True)
        return torch.stack([self.criterion_(*pair, weights) for pair in pairs]).mean()

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Forward and backward; ends the training at a loss or gradient that is not finite."""
        step = super().train_step_single(batch, **fit_params)
        norm = nn.utils.clip_grad_norm_(
            self.module_.parameters(), self._require_plan().max_grad_norm
        )
        # The sum, so that a GPU is waited for once.
        if not torch.isfinite(step["loss"].detach() + norm):
            raise _NotFiniteError
        self.last_good_.keep()
        self.n_steps_ += 1
        return step

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Loss and last-exit accuracy of a held-out batch; a hit is right in every task."""
        step = super().validation_step(batch, **fit_params)
        labels = batch[1][0].to(step["y_pred"].device)
        predictions = task_predictions(step["y_pred"][:, -1], self.module_.class_counts)
        hits = (predictions == labels.view_as(predictions)).all(dim=1).float().mean()
        self.history.record_batch("valid_acc", hits.item())
        return step

    def fit_loop(self, *args: Any, **kwargs: Any) -> ExitNet:
        """Train; an interrupt or a loss that is not finite keeps what was learned so far."""
        self.n_steps_ = 0
        self.stopped_by_ = None
        undoable = _can_be_undone(self._require_plan())
        self.last_good_ = _StepBack(self.optimizer_) if undoable else _WeightsCopy(self.module_)
        try:
            super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            # skorch's early stopping ends the loop in the way Ctrl-C does.
            self.stopped_by_ = "early stopping" if self._stopped_early() else "interrupt"
        except _NotFiniteError:
            self.last_good_.restore()
            self.stopped_by_ = "not finite"
        finally:
            del self.last_good_
        return self

    def _stopped_early(self) -> bool:
        stoppers = (found for _, found in self.callbacks_ if isinstance(found, EarlyStopping))
        return any(found.misses_ >= found.patience for found in stoppers)

    def __getstate__(self) -> dict[str, Any]:
        if not getattr(self, "_trimmed_for_prediction", False):
            return super().__getstate__()
        # `MultiExitNetwork` writes its weights as the CPU's, and nothing else is left that knows a
        # device. skorch would pack the weights into a pickle of their own, one more copy, and warn
        # where the device of the training is absent.
        return vars(self) | {"device": "cpu"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.get("_trimmed_for_prediction", False):
            self.__dict__.update(state)
        else:
            super().__setstate__(state)

    def _require_plan(self) -> TrainingPlan:
        if self.plan is None:
            raise RuntimeError("This net was made without a training plan.")
        return self.plan


class TrainingBar(Callback):
    """One progress bar for a whole training, with the loss of the running epoch."""

    def on_train_begin(self, net: ExitNet, X: LabelledSamples | None = None, **_: Any) -> None:
        """Open the bar."""
        plan = net._require_plan()
        total = plan.max_epochs * -(-len(X or []) // plan.batch_size)
        self.bar_ = tqdm(total=total, desc="training", unit="batch", leave=True)

    def on_batch_end(self, net: ExitNet, training: bool = False, **_: Any) -> None:
        """Move the bar."""
        if training:
            self.bar_.update()
            loss = net.history[-1]["batches"][-1]["train_loss"]
            self.bar_.set_postfix(epoch=len(net.history), loss=f"{loss:.3f}", refresh=False)

    def on_train_end(self, net: ExitNet, **_: Any) -> None:  # noqa: ARG002 - skorch's signature
        """Close the bar."""
        self.bar_.close()


def train_network(
    network: MultiExitNetwork,
    train: LabelledSamples,
    valid: LabelledSamples | None,
    plan: TrainingPlan,
) -> ExitNet:
    """Train a network in place, its exits as the plan's recipe says.

    Parameters
    ----------
    network : MultiExitNetwork
    train : LabelledSamples
    valid : LabelledSamples or None
        LazyNetwork-out samples for the history and for early stopping.
    plan : TrainingPlan

    Returns
    -------
    ExitNet
        Holds the trained network, without optimiser state.

    Raises
    ------
    DivergedError
        If the loss is not finite at the very first step.
    TrainingMemoryError
        If the device runs out of memory.
    """
    steps_per_epoch = -(-len(train) // plan.batch_size)
    net = ExitNet(
        _given,
        module__network=network,
        plan=plan,
        criterion=exit_loss(plan.exit_training),
        criterion__exit_weights=plan.exit_weights,
        classes=list(range(network.n_columns)),
        max_epochs=plan.max_epochs,
        train_split=predefined_split(valid) if valid is not None else None,
        predict_nonlinearity=(
            _last_exit_probabilities
            if len(network.class_counts) == 1
            else partial(_last_exit_task_probabilities, counts=network.class_counts)
        ),
        callbacks=_callbacks(plan, steps_per_epoch),
        device=str(plan.device),
        verbose=plan.verbose,
    )
    with reproducible(plan.seed, plan.device), _set_up(network, plan):
        try:
            net.fit(train, None)
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingMemoryError(_memory_message(plan)) from error
    _check_progress(net)
    return _trim(net)


@contextmanager
def _set_up(network: MultiExitNetwork, plan: TrainingPlan) -> Iterator[None]:
    """Let the network run in the plan's way inside the block."""
    network.gradient_checkpointing = plan.gradient_checkpointing
    network.detached_heads = plan.exit_training == "detached"
    try:
        yield
    finally:
        network.gradient_checkpointing = False
        network.detached_heads = network.last_exit_only = False


def _callbacks(plan: TrainingPlan, steps_per_epoch: int) -> list[Any]:
    parts = steps_of_parts(plan.exit_training, plan.max_epochs * steps_per_epoch)
    schedule = SequentialSchedule([WarmupThenDecay(plan.warmup_ratio, n) for n in parts], parts)
    callbacks: list[Any] = [
        (
            "schedule",
            LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=schedule, step_every="batch"),
        )
    ]
    if is_mixed(plan.exit_training):
        callbacks.append(("last_exit_first", LastExitFirst(sum(parts[:-1]))))
    if plan.early_stopping:
        stop = StopOnceAllLearn(
            monitor="valid_loss", patience=plan.n_iter_no_change, load_best=True, sink=_silent
        )
        callbacks.append(("early_stopping", stop))
    if plan.verbose >= 1:
        callbacks.append(("progress", TrainingBar()))
    if plan.verbose >= 2:
        callbacks.append(("print_log", PrintLog()))
    return callbacks + list(plan.callbacks)


class WarmupThenDecay:
    """Factor of the learning rate: up linearly, then down linearly to zero.

    Parameters
    ----------
    warmup_ratio : float
        Share of the steps spent going up.
    n_steps : int
        Steps in all.
    """

    def __init__(self, warmup_ratio: float, n_steps: int) -> None:
        self.n_warmup = math.ceil(warmup_ratio * n_steps)
        self.n_steps = n_steps

    def __call__(self, step: int) -> float:
        """Factor at a step counted from 0."""
        if step < self.n_warmup:
            return (step + 1) / (self.n_warmup + 1)
        return max(0.0, (self.n_steps - step) / max(1, self.n_steps - self.n_warmup))


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside the block and leave the caller's random state as it was."""
    devices = [device] if device.type == "cuda" else []
    # torch has one random state for all threads.
    with _SEEDING, torch.random.fork_rng(devices):
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(seed)
        if device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def _can_be_undone(plan: TrainingPlan) -> bool:
    """Tell whether `_StepBack` can go back: AdamW moves a weight by about 3 times its rate at most.

    A user's callbacks may change weights in ways that nobody can undo.
    """
    rate = max(plan.learning_rate, plan.head_learning_rate)
    return not plan.callbacks and rate <= _LARGEST_UNDONE_RATE and rate * plan.weight_decay < 0.1


def _check_progress(net: ExitNet) -> None:
    if net.stopped_by_ == "not finite" and net.n_steps_ == 0:
        raise DivergedError(
            "The loss is NaN or infinite at the first training step. Check the weights of the "
            "backbone and the inputs, and lower learning_rate."
        )


def _trim(net: ExitNet) -> ExitNet:
    """Drop what only training needs; the history stays."""
    history = net.history_
    net.history_ = type(history)()
    net.trim_for_prediction()
    net.history_ = history
    # User callbacks may hold anything; the fitted net does not keep them.
    net.plan = TrainingPlan(**{**vars(net.plan), "callbacks": []})
    return net


def _given(network: MultiExitNetwork) -> MultiExitNetwork:
    return network


def _last_exit_probabilities(logits: Tensor) -> Tensor:
    return torch.softmax(logits[:, -1], dim=-1)


def _last_exit_task_probabilities(logits: Tensor, counts: tuple[int, ...]) -> Tensor:
    return task_softmax(logits[:, -1], counts)


def _silent(*_: Any) -> None:
    """Swallow the messages of a callback whose outcome the history records."""


def _memory_message(plan: TrainingPlan) -> str:
    return (
        f"The device {plan.device} ran out of memory in training with batch_size="
        f"{plan.batch_size}. Lower batch_size or max_length / image_size, use "
        "gradient_checkpointing=True or precision='bfloat16', choose a smaller backbone, or train "
        "with device='cpu'."
    )
