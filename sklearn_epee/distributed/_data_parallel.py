"""`data_parallel`: the block in which fits are split over the processes of a launch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ._engines import require
from ._processes import Processes

# Tells the workers of joblib, which inherit it, that they belong to a process of a launch.
_ENVIRONMENT = "SKLEARN_EPEE_DATA_PARALLEL"
_SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU")


@dataclass(frozen=True)
class _Block:
    processes: Processes
    pid: int
    thread: int


_blocks: list[_Block] = []


@contextmanager
def data_parallel(accelerator: Any = None) -> Iterator[Any]:
    """Split the training of estimators that are fitted inside over the processes of a launch.

    For a script that is started by ``accelerate launch`` or ``torchrun``: every process runs it,
    with a device of its own, and calls `fit` with all samples. Each computes its share of every
    batch, and gradients are added before they are clipped, so that all come to the network that one
    process would train, and are left with the same fitted estimator. In a script that was started
    by itself nothing changes.

    Parameters
    ----------
    accelerator : accelerate.Accelerator, default=None
        None makes one. Processes and devices are used of it; the precision is that of the
        estimator.

    Yields
    ------
    accelerate.Accelerator
        Its `is_main_process` says who is to print and write afterwards.

    Raises
    ------
    ImportError
        If accelerate is missing.
    TypeError
        If it is no `Accelerator`.
    ValueError
        If it asks for what is not done here: a precision of its own, gradients summed over several
        steps, or sharded weights; or if it is not of all processes that were launched.
    RuntimeError
        If such a block is open already, or processes call different fits.
    ProcessFailedError
        If another process failed inside: all end with its error.

    Examples
    --------
    >>> from sklearn_epee.distributed import data_parallel
    >>> with data_parallel() as accelerator:  # doctest: +SKIP
    ...     clf.fit(X, y)
    >>> if accelerator.is_main_process:  # doctest: +SKIP
    ...     clf.save_pretrained("model")
    """
    if _blocks:
        raise RuntimeError("data_parallel() is inside another data_parallel(); one is enough.")
    accelerator = _checked(accelerator)
    processes = Processes(accelerator)
    if processes.count == 1:
        yield accelerator
        return
    _blocks.append(_Block(processes, os.getpid(), threading.get_ident()))
    os.environ[_ENVIRONMENT] = str(os.getpid())
    try:
        with processes.together():
            yield accelerator
    finally:
        _blocks.clear()
        os.environ.pop(_ENVIRONMENT, None)


def active_processes() -> Processes | None:
    """Return the processes that a fit is to be split over; None where it is not.

    Raises
    ------
    RuntimeError
        In a worker, a process or a thread, that was started inside a block.
    """
    pid = os.getpid()
    block = _blocks[-1] if _blocks else None
    if block is not None and (block.pid, block.thread) == (pid, threading.get_ident()):
        return block.processes
    if block is not None or os.environ.get(_ENVIRONMENT, str(pid)) != str(pid):
        raise RuntimeError(
            "fit was called in a worker that was started inside data_parallel(): the processes of "
            "the launch share every fit, and have no more of them side by side. Use n_jobs=None."
        )
    return None


def _checked(accelerator: Any) -> Any:
    accelerate, torch = require("data_parallel", "accelerate", "accelerate", "torch")
    n_launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator is None:
        # accelerate lets each process train for itself where it is not told that CPUs are meant.
        on_cpus = n_launched > 1 and not torch.cuda.is_available()
        accelerator = accelerate.Accelerator(cpu=on_cpus)
    if not isinstance(accelerator, accelerate.Accelerator):
        raise TypeError(
            "accelerator must be an accelerate.Accelerator or None; got "
            f"{type(accelerator).__name__}."
        )
    kind = accelerator.distributed_type.value
    if kind not in _SUPPORTED:
        raise ValueError(
            f"accelerator has the distributed_type {kind!r}; estimators train on CPUs or CUDA GPUs "
            f"with a whole network each: expected one of {', '.join(_SUPPORTED)}."
        )
    if accelerator.num_processes != n_launched:
        raise ValueError(
            f"accelerator has num_processes={accelerator.num_processes}, but {n_launched} were "
            "launched (WORLD_SIZE); expected all of them. On CPUs it is made by "
            "Accelerator(cpu=True)."
        )
    if accelerator.mixed_precision != "no":
        raise ValueError(
            f"accelerator has mixed_precision={accelerator.mixed_precision!r}, but the parameter "
            "precision of an estimator says how it trains; expected 'no' "
            "(accelerate launch --mixed_precision no)."
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "accelerator has gradient_accumulation_steps="
            f"{accelerator.gradient_accumulation_steps}, but batch_size of an estimator is that of "
            "a step; expected 1."
        )
    return accelerator
