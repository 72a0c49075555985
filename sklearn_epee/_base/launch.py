"""A fit in several processes: check that the data are equal, use one store, fail together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from sklearn_epee._nn.devices import resolve_device
from sklearn_epee._search import LazyNetwork, NetworkReuse, SharedPredictions, fingerprint
from sklearn_epee.distributed import Processes

from .fitted import Trained
from .training_data import BaseTrainingData

Train = Callable[[], LazyNetwork[Trained]]
Shaping = Callable[[], dict[str, Any]] | None
Found = tuple[LazyNetwork[Trained], SharedPredictions | None]
FitOrFetch = Callable[[Train, Shaping], Found]


@contextmanager
def joined(processes: Processes | None) -> Iterator[None]:
    """If the block fails in one process, raise in all of them; show warnings in one process only.

    Parameters
    ----------
    processes : Processes or None
        None: there is only one process.
    """
    if processes is None:
        yield
        return
    with processes.together(), warnings.catch_warnings():
        if not processes.is_main:
            warnings.simplefilter("ignore")
        yield


def shared_reuse(
    reuse: NetworkReuse,
    data: BaseTrainingData,
    processes: Processes | None,
    device: str | torch.device,
) -> tuple[int, FitOrFetch]:
    """Return the seed of a fit, and a function that trains its network or loads it.

    Parameters
    ----------
    reuse : NetworkReuse
    data : BaseTrainingData
    processes : Processes or None
        None: there is only one process. Otherwise the main process draws the seed and uses the
        store.
    device : str or torch.device
        The estimator's parameter.

    Raises
    ------
    ValueError
        If the device differs from that of the launch, or the data differ between processes.
    """
    alone = partial(reuse.fit_or_fetch, is_complete=lambda network: network.summary.is_complete)
    if processes is None:
        return reuse.seed, alone
    _check_same_fit(processes, data, resolve_device(device))
    return processes.from_main(lambda: reuse.seed), partial(_fit_or_fetch, processes, alone)


def _check_same_fit(processes: Processes, data: BaseTrainingData, device: torch.device) -> None:
    """Raise if the device differs from that of the launch, or data differ between processes."""
    if device != processes.device:
        raise ValueError(
            f"device is {str(device)!r} in process {processes.number} of the launch, which was "
            f"given {str(processes.device)!r}; expected 'auto' on GPUs, and 'cpu' in a launch on "
            "CPUs."
        )
    found = (data.samples, data.classes, data.labels, data.weights, data.groups)
    of_all = processes.all_of((len(data.samples), fingerprint(found)))
    if len(set(of_all)) > 1:
        counts = ", ".join(str(n) for n, _ in of_all)
        raise ValueError(
            "X, y, sample_weight or groups differ between the processes of data_parallel() "
            f"({counts} samples, process after process). Every process must be given all samples "
            "in the same order; batches are split in training. Draw splits with an int as "
            "random_state."
        )


def _fit_or_fetch(processes: Processes, alone: FitOrFetch, train: Train, shaping: Shaping) -> Found:
    """Load a network from the store of the main process, or train it in all processes.

    Parameters
    ----------
    processes : Processes
    alone : callable
        `NetworkReuse.fit_or_fetch`; only called in the main process.
    train : callable
        Trains the network, in all processes at once.
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

    # The order in which gradients are summed, and so the last bits, depend on the number of
    # processes.
    shaped = None if shaping is None else lambda: {**shaping(), "processes": processes.count}
    network, shared = alone(train_with_others, shaped)
    processes.from_main(lambda: shared if was_trained else (network, shared))
    return network, shared


def from_main_network(processes: Processes, make: Train) -> LazyNetwork[Trained]:
    """Create a network in the main process, and return it in all processes."""
    network: LazyNetwork[Trained] = processes.from_main(make)
    return network
