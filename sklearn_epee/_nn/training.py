"""Training of the multi-exit network: the skorch net, its callbacks, and handling of failures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
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

from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._compat import is_out_of_memory

from .backbones import not_finite
from .batch_layout import WINDOWS, WORD_ROWS
from .batching import (
    SAMPLE_WEIGHT,
    LabelledSamples,
    LengthGroupedSampler,
    parts_of_batch,
    positions_of,
)
from .finite_weights import FiniteWeights
from .forks import ForkSafeLock
from .head_init import RegressionHeadInit
from .network import MultiExitNetwork, parameter_groups
from .recipes import (
    LastExitFirst,
    StopOnceAllLearn,
    exit_loss,
    is_mixed,
    steps_of_parts,
)
from .schedule import SequentialSchedule, WarmupThenDecay
from .tasks import as_binary, split_tasks, task_predictions, task_softmax

_SEEDING = ForkSafeLock(reentrant=True)

# Names of the callbacks of this package and of skorch, which user callbacks must not have.
_OWN_CALLBACKS = (
    "early_stopping", "epoch_timer", "head_init", "last_exit_first", "print_log", "progress",
    "schedule", "scikit_learn", "train_loss", "valid_acc", "valid_loss",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines the training of a given network on given samples."""

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
    head_init: str = "random"
    callbacks: list[Any] = field(default_factory=list)
    verbose: int = 0


class TrainingMemoryError(MemoryError):
    """The device ran out of memory in training; the message says what to change."""


class DivergedError(ValueError):
    """The loss or its gradient was NaN or infinite at the first training step."""


class StopTrainingError(Exception):
    """Raised by a callback to end the training after this step; the network keeps its weights."""


class _NotFiniteError(Exception):
    """Raised to end the training loop at a step whose loss or gradient is not finite."""


class ExitNet(skorch.NeuralNetClassifier):
    """Skorch net that trains a `MultiExitNetwork`; ``predict_proba`` is that of the last exit.

    Parameters
    ----------
    module : callable
        Returns the network, which is trained in place.
    plan : TrainingPlan
    **kwargs
        Passed on to skorch.
    """

    def __init__(self, module: Any, *, plan: TrainingPlan | None = None, **kwargs: Any) -> None:
        self.plan = plan
        super().__init__(module, **kwargs)

    def get_default_callbacks(self) -> list[tuple[str, Callback]]:
        """Return skorch's callbacks for times and losses, and one for the accuracy."""
        kept = ("epoch_timer", "train_loss", "valid_loss")
        standard = [pair for pair in super().get_default_callbacks() if pair[0] in kept]
        return [*standard, ("valid_acc", PassthroughScoring("valid_acc", lower_is_better=False))]

    def initialize_optimizer(self, *_: Any, **__: Any) -> ExitNet:
        """Set up AdamW; heads have their own learning rate, biases and norms no weight decay."""
        plan = self._require_plan()
        groups = parameter_groups(
            self.module_, plan.learning_rate, plan.head_learning_rate, plan.weight_decay
        )
        # The fused optimizer is several times faster than a loop over parameters, also on a CPU.
        self.optimizer_ = torch.optim.AdamW(groups, fused=plan.device.type in ("cpu", "cuda"))
        return self

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Load batches of similar length, shuffled in training."""
        if not isinstance(dataset, LabelledSamples):
            # A scoring callback without a cache predicts a single batch.
            return super().get_iterator(dataset, training=training)
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
            positions_of(dataset.samples), plan.batch_size, np.random.default_rng(plan.seed)
        )
        return load(batch_sampler=order)

    def infer(self, x: dict[str, Tensor], **fit_params: Any) -> Tensor:
        """Run the network in the plan's precision; texts with many windows are run in parts."""
        inputs = {name: part for name, part in x.items() if name != SAMPLE_WEIGHT}
        parts = parts_of_batch(inputs, self._require_plan().batch_size)
        with _autocast(torch.device(self.device), self._require_plan().dtype):
            outputs = [super(ExitNet, self).infer(part, **fit_params) for part, _ in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def get_loss(
        self,
        y_pred: Tensor,
        y_true: Tensor,
        X: Any = None,
        training: bool = False,  # noqa: ARG002 - skorch's signature
    ) -> Tensor:
        """Return the joint loss of a batch, its mean over the tasks or over the labels."""
        labels, weights = (part.to(y_pred.device) for part in (y_true, X[SAMPLE_WEIGHT]))
        if self._is_multilabel:
            return self.criterion_(*as_binary(y_pred, labels, weights))
        tasks = split_tasks(y_pred, self.module_.class_counts)
        if len(tasks) == 1:
            return self.criterion_(y_pred, labels, weights)
        pairs = zip(tasks, labels.unbind(1), strict=True)
        return torch.stack([self.criterion_(*pair, weights) for pair in pairs]).mean()

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Run forward and backward pass; end the training if loss or gradient are not finite."""
        step = self._forward_and_backward(batch, **fit_params)
        norm = nn.utils.clip_grad_norm_(
            self.module_.parameters(), self._require_plan().max_grad_norm
        )
        # Check the sum of both, to synchronize with a GPU only once.
        if not torch.isfinite(step["loss"].detach() + norm):
            raise _NotFiniteError
        # The optimizer has not changed the weights yet, so these weights gave a finite loss.
        self.good_weights_.offer(self.n_steps_)
        self.n_steps_ += 1
        return step

    def _forward_and_backward(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Compute the loss of a batch and its gradient; with many windows, in parts.

        The loss is a mean over samples, so the losses of the parts, weighted by their numbers of
        samples, add up to the loss of the batch, and so do their gradients.
        """
        inputs, labels = batch
        parts = parts_of_batch(inputs, self._require_plan().batch_size)
        if len(parts) == 1:
            return super().train_step_single(batch, **fit_params)
        self._set_training(True)
        total, outputs = torch.zeros((), device=self.device), []
        for part, samples in parts:
            y_pred = self.infer(part, **fit_params)
            loss = self.get_loss(y_pred, labels[samples], X=part, training=True)
            loss = loss * (len(y_pred) / len(labels))
            loss.backward()
            total += loss.detach()
            outputs.append(y_pred.detach())
        return {"loss": total, "y_pred": torch.cat(outputs)}

    def on_batch_end(
        self, net: ExitNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Record the number of labels as the batch size: skorch would record that of rows.

        A long text has several rows for one label; a sentence has one row for several labels.
        """
        super().on_batch_end(net, batch=batch, training=training, **kwargs)
        if isinstance(batch[0], dict) and not {WINDOWS, WORD_ROWS}.isdisjoint(batch[0]):
            prefix = "train" if training else "valid"
            self.history.record_batch(f"{prefix}_batch_size", len(batch[1]))

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Return loss and predictions of a held-out batch, and record its last-exit accuracy.

        A sample counts as correct if every task, or every known label, is correct.
        """
        step = self._forward(batch, **fit_params)
        labels = batch[1].to(step["y_pred"].device)
        predictions = task_predictions(step["y_pred"][:, -1], self.module_.class_counts)
        labels = labels.view_as(predictions)
        hits = ((predictions == labels) | (labels < 0)).all(dim=1).float().mean()
        self.history.record_batch("valid_acc", hits.item())
        return step

    def _forward(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Return loss and predictions of a held-out batch."""
        step: dict[str, Tensor] = super().validation_step(batch, **fit_params)
        return step

    def on_epoch_begin(self, net: ExitNet, **kwargs: Any) -> None:
        """Begin an epoch; the weights are saved once they have given a finite loss."""
        super().on_epoch_begin(net, **kwargs)
        self.good_weights_.start_epoch()

    def fit_loop(self, *args: Any, **kwargs: Any) -> ExitNet:
        """Train; after an interrupt, or if the loss is not finite, keep the last good weights."""
        self.n_steps_ = 0
        self.failed_step_: int | None = None
        self.stopped_by_: str | None = None
        self.good_weights_ = FiniteWeights(self.module_)
        try:
            self._fit_until_stopped(*args, **kwargs)
            if self.failed_step_ is not None:
                self.stopped_by_ = "not finite"
                # Nothing was saved if the very first step failed.
                if self.n_steps_:
                    self.good_weights_.restore()
            self.n_kept_steps_ = self.good_weights_.n_steps if self.failed_step_ else self.n_steps_
        finally:
            self.good_weights_.close()
            del self.good_weights_
        return self

    def _fit_until_stopped(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            # skorch's early stopping raises KeyboardInterrupt, too.
            self.stopped_by_ = "early stopping" if self._stopped_early() else "interrupt"
        except StopTrainingError:
            self.stopped_by_ = "callback"
        except _NotFiniteError:
            self.failed_step_ = self.n_steps_ + 1
            return
        # No loss has been computed with the weights after the last step.
        if not_finite(self.module_.state_dict()):
            self.failed_step_ = self.n_steps_

    def _stopped_early(self) -> bool:
        stoppers = (found for _, found in self.callbacks_ if isinstance(found, EarlyStopping))
        return any(found.misses_ >= found.patience for found in stoppers)

    def __getstate__(self) -> dict[str, Any]:
        if not getattr(self, "_trimmed_for_prediction", False):
            return super().__getstate__()
        # `MultiExitNetwork` pickles its weights as CPU tensors, and nothing else depends on a
        # device. skorch would create one more copy of the weights, and warn when loading if the
        # training device does not exist.
        return vars(self) | {"device": "cpu"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.get("_trimmed_for_prediction", False):
            self.__dict__.update(state)
        else:
            super().__setstate__(state)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return the classes with the last exit's largest probability, a column per task."""
        counts = self.module_.class_counts
        if len(counts) == 1:
            return super().predict(X)
        return task_predictions(torch.from_numpy(self.predict_proba(X)), counts).numpy()

    @property
    def _is_multilabel(self) -> bool:
        return isinstance(self.module_.n_classes, LabelCount)

    def _require_plan(self) -> TrainingPlan:
        if self.plan is None:
            raise RuntimeError("This net was created without a training plan.")
        return self.plan


class TrainingBar(Callback):
    """One progress bar for a whole training, with the loss of the running epoch."""

    def on_train_begin(self, net: ExitNet, X: LabelledSamples | None = None, **_: Any) -> None:
        """Open the bar."""
        plan = net._require_plan()
        total = plan.max_epochs * -(-len(X or []) // plan.batch_size)
        self.bar_ = tqdm(total=total, desc="training", unit="batch", leave=True)

    def on_batch_end(self, net: ExitNet, training: bool = False, **_: Any) -> None:
        """Advance the bar."""
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
    make: Callable[..., ExitNet] = ExitNet,
) -> ExitNet:
    """Train a network in place, with the recipe of the plan.

    Parameters
    ----------
    network : MultiExitNetwork
    train : LabelledSamples
    valid : LabelledSamples or None
        Held-out samples for the history and for early stopping.
    plan : TrainingPlan
    make : callable, default=ExitNet
        Creates the net.

    Returns
    -------
    ExitNet
        The net with the trained network, without optimizer state.

    Raises
    ------
    DivergedError
        If the loss is not finite at the first step.
    TrainingMemoryError
        If the device, including a CPU, runs out of memory.
    """
    steps_per_epoch = -(-len(train) // plan.batch_size)
    net = _make_net(network, valid, plan, steps_per_epoch, make)
    with (
        explain_out_of_memory(plan.device, plan.batch_size),
        reproducible(plan.seed, plan.device),
        _set_up(network, plan),
    ):
        net.fit(train, None)
    _check_progress(net)
    return _trim(net)


def untrained_net(network: MultiExitNetwork, plan: TrainingPlan) -> ExitNet:
    """Return the net of a network that was trained elsewhere, in the form of `train_network`.

    Parameters
    ----------
    network : MultiExitNetwork
    plan : TrainingPlan
        Plan of a training; the network is moved to its device.

    Returns
    -------
    ExitNet
        With an empty history.
    """
    net = _make_net(network, None, plan, steps_per_epoch=1)
    with reproducible(plan.seed, plan.device):
        net.initialize()
    net.n_steps_ = net.n_kept_steps_ = 0
    net.failed_step_ = net.stopped_by_ = None
    return _trim(net)


def _make_net(
    network: MultiExitNetwork,
    valid: LabelledSamples | None,
    plan: TrainingPlan,
    steps_per_epoch: int,
    make: Callable[..., ExitNet] = ExitNet,
) -> ExitNet:
    return make(
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


@contextmanager
def _set_up(network: MultiExitNetwork, plan: TrainingPlan) -> Iterator[None]:
    """Set the options of the plan on the network, within the block."""
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
    if plan.head_init == "regression":
        callbacks.append(("head_init", RegressionHeadInit()))
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


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch within the block, and restore the caller's random state afterwards."""
    devices = [device] if device.type == "cuda" else []
    # All threads share torch's random state, hence the lock.
    with _SEEDING, torch.random.fork_rng(devices):
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(seed)
        if device.type != "cuda":
            yield
            return
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            with warnings.catch_warnings():
                # The gradient of attention is not deterministic, see docs/versions.md.
                warnings.filterwarnings("ignore", ".*defaults to a non-deterministic algorithm")
                yield
        finally:
            torch.use_deterministic_algorithms(deterministic)


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def _check_progress(net: ExitNet) -> None:
    if net.stopped_by_ == "not finite" and net.n_steps_ == 0:
        raise DivergedError(
            "The loss is NaN or infinite at the first training step. Check the weights of the "
            "backbone and the inputs, and lower learning_rate."
        )


def _trim(net: ExitNet) -> ExitNet:
    """Remove everything that only training needs, except the history."""
    history = net.history_
    net.history_ = type(history)()
    net.trim_for_prediction()
    net.history_ = history
    # User callbacks may hold large or unpicklable objects; the fitted net does not keep them.
    net.plan = TrainingPlan(**{**vars(net.plan), "callbacks": []})
    return net


def _given(network: MultiExitNetwork) -> MultiExitNetwork:
    return network


def _last_exit_probabilities(logits: Tensor) -> Tensor:
    return torch.softmax(logits[:, -1], dim=-1)


def _last_exit_task_probabilities(logits: Tensor, counts: tuple[int, ...]) -> Tensor:
    return task_softmax(logits[:, -1], counts)


def _silent(*_: Any) -> None:
    """Ignore the messages of a callback whose result is in the history."""


@contextmanager
def explain_out_of_memory(device: torch.device, batch_size: int | str) -> Iterator[None]:
    """Replace an out-of-memory error of the block by one that says what to change.

    Raises
    ------
    TrainingMemoryError
    """
    try:
        yield
    except TrainingMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingMemoryError(
            f"The device {device} ran out of memory in training with batch_size={batch_size!r}. "
            "Lower batch_size or max_length (max_windows) / image_size, use "
            "gradient_checkpointing=True or precision='bfloat16', or choose a smaller backbone"
            + ("." if device.type == "cpu" else ", or train with device='cpu'.")
        ) from error


def check_callbacks(callbacks: Sequence[Any] | None) -> None:
    """Raise if skorch could not use some callbacks.

    Raises
    ------
    TypeError
        If one is neither a skorch callback (or its class) nor a pair of a name and a callback.
    ValueError
        If two have the same name.
    """
    names = set()
    for item in callbacks or ():
        named = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        callback = item[1] if named else item
        is_class = isinstance(callback, type) and issubclass(callback, Callback)
        if not is_class and not isinstance(callback, Callback):
            raise TypeError(
                "callbacks must hold skorch callbacks or pairs of a name and a callback; "
                f"got {item!r}."
            )
        if named and (item[0] in names or item[0] in _OWN_CALLBACKS):
            raise ValueError(
                f"callbacks has the name {item[0]!r} twice, or it is one of those in use: "
                f"{', '.join(_OWN_CALLBACKS)}. Choose another."
            )
        names |= {item[0]} if named else set()
