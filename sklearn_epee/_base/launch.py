"""A fit that the processes of a launch share: the same data, one store, one failure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sklearn_epee._search import LazyNetwork, SharedPredictions, fingerprint
from sklearn_epee.distributed import Processes

from .fitted import Trained
from .training_data import LearnedFrom

Train = Callable[[], LazyNetwork[Trained]]
Shaping = Callable[[], dict[str, Any]] | None
Found = tuple[LazyNetwork[Trained], SharedPredictions | None]


@contextmanager
def joined(processes: Processes | None) -> Iterator[None]:
    """Let a fit inside the block fail in all processes if it does in one, and warn in one.

    Parameters
    ----------
    processes : Processes or None
        None: there is one process.
    """
    if processes is None:
        yield
        return
    with processes.together(), warnings.catch_warnings():
        if not processes.is_main:
            warnings.simplefilter("ignore")
        yield


def check_same_fit(processes: Processes, data: LearnedFrom, device: torch.device) -> None:
    """Refuse a device that is not that of the launch, and data that differ between processes.

    Raises
    ------
    ValueError
    """
    if device != processes.device:
        raise ValueError(
            f"device is {str(device)!r} in process {processes.number} of the launch, which was "
            f"given {str(processes.device)!r}; expected 'auto' on GPUs, and 'cpu' in a launch on "
            "CPUs."
        )
    found = (data.samples, data.classes, data.labels, data.weights, data.groups)
    told = processes.all_of((len(data.samples), fingerprint(found)))
    if len(set(told)) > 1:
        counts = ", ".join(str(n) for n, _ in told)
        raise ValueError(
            "X, y, sample_weight or groups differ between the processes of data_parallel() "
            f"({counts} samples, process after process). Every process must be given all samples "
            "in the same order; batches are split in training. Draw splits with an int as "
            "random_state."
        )


def fit_or_fetch_together(
    processes: Processes,
    fit_or_fetch: Callable[[Train, Shaping], Found],
    train: Train,
    shaping: Shaping,
) -> Found:
    """Return a network that all processes train, or that the main one has in its store.

    Parameters
    ----------
    processes : Processes
    fit_or_fetch : callable
        Called in the main process alone.
    train : callable
        Makes the network, in all processes at once.
    shaping : callable or None
        As `NetworkReuse.fit_or_fetch` takes it.
    """
    if not processes.is_main:
        fetched: Found | None = processes.from_main(lambda: None)
        return (train(), processes.from_main(lambda: None)) if fetched is None else fetched
    was_trained = False

    def train_with_others() -> LazyNetwork[Trained]:
        nonlocal was_trained
        was_trained = True
        processes.from_main(lambda: None)
        return train()

    # The sums of gradients, and with them the last bits, depend on the number of processes.
    shaped = None if shaping is None else lambda: {**shaping(), "processes": processes.count}
    network, shared = fit_or_fetch(train_with_others, shaped)
    processes.from_main(lambda: shared if was_trained else (network, shared))
    return network, shared


def from_main_network(processes: Processes, make: Train) -> LazyNetwork[Trained]:
    """Return a network that the main process makes, in all processes."""
    network: LazyNetwork[Trained] = processes.from_main(make)
    return network
