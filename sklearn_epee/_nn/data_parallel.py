"""Training by several processes, each of which computes a share of every batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sklearn_epee.distributed import Processes

from .batching import PLACES, LabelledSamples
from .network import MultiExitNetwork
from .training import ExitNet, StopTrainingError, TrainingPlan, train_network

# Number of gradient values that are summed at a time (32 MiB), to avoid a second copy of all.
_BUCKET = 2**23
# Exceptions that end a training after an epoch; the last one takes precedence.
_STOPS = (StopTrainingError, KeyboardInterrupt)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Fields of the plan that may differ between processes.
_OWN = ("device", "callbacks", "exit_weights", "verbose")


class _InterruptedError(Exception):
    """The training was interrupted in the middle of an epoch, possibly only in this process."""


class DataParallelNet(ExitNet):
    """The skorch net of one of several processes that train a network together.

    Each process computes its share of every batch. Losses, predictions and gradients are summed
    over the processes before they are used, so that optimizer, history, callbacks and early
    stopping get the same values in every process as in a single one.

    Parameters
    ----------
    module : callable
        Returns the network, which is trained in place.
    processes : Processes
    **kwargs
        Passed on to `ExitNet`.
    """

    def __init__(self, module: Any, *, processes: Any = None, **kwargs: Any) -> None:
        self.processes = processes
        super().__init__(module, **kwargs)

    def fit_loop(self, *args: Any, **kwargs: Any) -> DataParallelNet:
        """Train from the weights of the main process."""
        if not self.processes.is_main:
            # Dropout masks and image augmentation must differ between processes.
            torch.manual_seed(self._require_plan().seed + self.processes.number)
        self.processes.share_weights(self.module_)
        super().fit_loop(*args, **kwargs)
        return self

    def run_single_epoch(self, iterator: Any, *args: Any, **kwargs: Any) -> None:
        """Run an epoch with this process's share of every batch."""
        shares = None if iterator is None else self._shares(iterator)
        try:
            super().run_single_epoch(shares, *args, **kwargs)
        except KeyboardInterrupt as error:
            # Other processes may have done one more step, so there is no common network.
            raise _InterruptedError from error

    def _shares(self, batches: DataLoader) -> DataLoader:
        dataset: Any = batches.dataset
        processes = self.processes
        collate = partial(dataset.collate_share, number=processes.number, count=processes.count)
        return DataLoader(
            dataset,
            batch_sampler=batches.batch_sampler,
            collate_fn=collate,
            pin_memory=batches.pin_memory,
        )

    def _forward_and_backward(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Compute loss and gradient of a whole batch, from the shares of all processes."""
        own, places = _own_batch(batch)
        step = super()._forward_and_backward(own, **fit_params)
        return self._whole_step(step, places, len(batch[1]), with_gradients=True)

    def _forward(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        own, places = _own_batch(batch)
        step = super()._forward(own, **fit_params)
        return self._whole_step(step, places, len(batch[1]), with_gradients=False)

    def _whole_step(
        self, step: dict[str, Tensor], places: Tensor, n: int, *, with_gradients: bool
    ) -> dict[str, Tensor]:
        """Return loss and predictions of a whole batch of n labels, by summing over processes."""
        loss, y_pred = step["loss"].detach(), step["y_pred"].detach()
        is_own = places >= 0
        # The losses are means over labels; weighted by the numbers of labels, they add up to the
        # mean over the whole batch.
        share = int(is_own.sum()) / n
        everywhere = y_pred.new_zeros(n, *y_pred.shape[1:])
        everywhere[places[is_own].to(y_pred.device)] = y_pred[is_own.to(y_pred.device)]
        known = torch.cat([(loss * share).reshape(1), everywhere.flatten()])
        if with_gradients:
            total = add_gradients(self.processes, self.module_, share, known)
        else:
            (total,) = self.processes.sums([known])
        return {"loss": total[0], "y_pred": total[1:].view_as(everywhere)}

    def on_batch_end(
        self, net: ExitNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Record the number of labels of the whole batch; skorch would record that of the share."""
        super().on_batch_end(net, batch=batch, training=training, **kwargs)
        prefix = "train" if training else "valid"
        self.history.record_batch(f"{prefix}_batch_size", len(batch[1]))

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call the callbacks; if one ends the training after an epoch, all processes stop."""
        if method_name != "on_epoch_end":
            super().notify(method_name, **cb_kwargs)
            return
        stop = 0
        try:
            super().notify(method_name, **cb_kwargs)
        except _STOPS as error:
            stop = 1 + next(i for i, kind in enumerate(_STOPS) if isinstance(error, kind))
        if stop := max(self.processes.all_of(stop)):
            raise _STOPS[stop - 1]


def _own_batch(batch: Any) -> tuple[tuple[dict[str, Tensor], Tensor], Tensor]:
    """Return the share of a batch in the form of a normal batch, and the indices of its labels."""
    inputs, labels = batch
    inputs = dict(inputs)
    places = inputs.pop(PLACES)
    # The result of a share without samples is not used, so its labels are arbitrary.
    return (inputs, labels[places.clamp(min=0)]), places


def add_gradients(processes: Processes, module: nn.Module, share: float, others: Tensor) -> Tensor:
    """Replace gradients by their sum over the processes, weighted by the shares.

    Parameters
    ----------
    processes : Processes
    module : nn.Module
    share : float
        Weight of the gradients of this process.
    others : Tensor of shape (k,)
        Further values to sum.

    Returns
    -------
    Tensor of shape (k,)
        The sum of ``others`` over the processes.
    """
    parameters = [part for part in module.parameters() if part.requires_grad]
    has_gradient = others.new_tensor([part.grad is not None for part in parameters])
    (known,) = processes.sums([torch.cat([others, has_gradient])])
    # Parameters without a gradient in all processes, such as a head that is not trained, get none.
    counts = known[len(others) :].tolist()
    buckets = list(_buckets([part for part, n in zip(parameters, counts, strict=True) if n]))
    totals = processes.sums(_flat_gradients(bucket) * share for bucket in buckets)
    for bucket, total in zip(buckets, totals, strict=True):
        sizes = [part.numel() for part in bucket]
        for part, gradient in zip(bucket, total.split(sizes), strict=True):
            part.grad = gradient.view_as(part).to(part.dtype)
    return known[: len(others)]


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield consecutive parameters with at most `_BUCKET` values; at least one parameter."""
    bucket: list[nn.Parameter] = []
    size = 0
    for part in parameters:
        if bucket and size + part.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(part)
        size += part.numel()
    if bucket:
        yield bucket


def _flat_gradients(bucket: Sequence[nn.Parameter]) -> Tensor:
    gradients = (torch.zeros_like(part) if part.grad is None else part.grad for part in bucket)
    return torch.cat([gradient.flatten().float() for gradient in gradients])


def train_together(
    network: MultiExitNetwork,
    train: LabelledSamples,
    valid: LabelledSamples | None,
    plan: TrainingPlan,
    processes: Processes,
) -> ExitNet:
    """Train a network in place with several processes; see `train_network`.

    Parameters
    ----------
    network : MultiExitNetwork
    train, valid : LabelledSamples
        All samples, in every process.
    plan : TrainingPlan
        Its batch size is that of whole batches.
    processes : Processes

    Returns
    -------
    ExitNet
        With the same weights and history in every process.

    Raises
    ------
    ValueError
        If the network has batch normalization, or the plans of the processes differ.
    DivergedError, TrainingMemoryError
        As in `train_network`.
    """
    _refuse_batch_norm(network)
    _check_same_plan(plan, processes)
    own = plan
    if not processes.is_main:
        callbacks = [item for item in plan.callbacks if not _only_reports(item)]
        # Heads are only initialized in the main process, which shares its weights.
        own = replace(plan, verbose=0, head_init="random", callbacks=callbacks)
    try:
        net = train_network(
            network, train, valid, own, partial(DataParallelNet, processes=processes)
        )
    except _InterruptedError:
        raise KeyboardInterrupt from None
    processes.share_weights(net.module_)
    return _without_launch(net, plan)


def _without_launch(net: DataParallelNet, plan: TrainingPlan) -> ExitNet:
    """Return a trained net as a plain `ExitNet`, with the history of the main process."""
    of_main = net.processes.from_main(
        lambda: {name: getattr(net, name) for name in ("history_", "stopped_by_")}
    )
    plain = ExitNet.__new__(ExitNet)
    state = {name: value for name, value in vars(net).items() if name != "processes"}
    plain.__dict__.update({**state, **of_main, "plan": replace(plan, callbacks=[])})
    return plain


def _refuse_batch_norm(network: nn.Module) -> None:
    found = [name for name, part in network.named_modules() if isinstance(part, _BATCH_NORMS)]
    if found:
        raise ValueError(
            f"backbone has batch normalization ({found[0]}), but each process of data_parallel() "
            "only has a share of a batch, so the result would differ from that of one process. "
            "Fit it outside data_parallel(), or choose another backbone."
        )


def _check_same_plan(plan: TrainingPlan, processes: Processes) -> None:
    """Raise if plans differ between processes, for example in the values of "auto"."""
    names = [one.name for one in fields(plan) if one.name not in _OWN]
    plans = processes.all_of({name: str(getattr(plan, name)) for name in names})
    for name in names:
        if len({each[name] for each in plans}) > 1:
            raise ValueError(
                f"The processes of data_parallel() have different training parameters: {name} is "
                f"{', '.join(each[name] for each in plans)} (process after process). Set the "
                "parameter (for dtype: precision) to the same value in all processes."
            )


def _only_reports(item: Any) -> bool:
    """Return whether a callback is one of skorch's that only log or print."""
    callback = item[1] if isinstance(item, tuple) else item
    kinds = (callback if isinstance(callback, type) else type(callback)).__mro__
    return any(
        issubclass(kind, Callback) and kind.__module__ == "skorch.callbacks.logging"
        for kind in kinds
    )
