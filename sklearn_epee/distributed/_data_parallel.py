"""`data_parallel`: a context in which fits are split over the processes of a launch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ._engines import require
from ._processes import Processes

# Environment variable by which joblib workers know that they belong to a process of a launch.
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

    For scripts started by ``accelerate launch`` or ``torchrun``: every process runs the script with
    its own device and calls `fit` with all samples. Each process computes its share of every batch,
    and gradients are summed before they are clipped. So all processes train the network that a
    single process would train, and get the same fitted estimator. In a script that is started
    directly, this has no effect.

    Parameters
    ----------
    accelerator : accelerate.Accelerator, default=None
        Its processes and devices are used; the precision is that of the estimator. None: a new one.

    Yields
    ------
    accelerate.Accelerator
        Its `is_main_process` can be used to print and write in one process only.

    Raises
    ------
    ImportError
        If accelerate is missing.
    TypeError
        If `accelerator` is not an `Accelerator`.
    ValueError
        If it has unsupported settings (mixed precision, gradient accumulation or sharded weights),
        or does not include all processes of the launch.
    RuntimeError
        If such a block is already open, or processes call different fits.
    ProcessFailedError
        If another process failed inside; all processes stop with its error.

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
    """Return the processes over which a fit is split; None if it is not split.

    Raises
    ------
    RuntimeError
        In a worker process or thread that was started inside a block.
    """
    pid = os.getpid()
    block = _blocks[-1] if _blocks else None
    if block is not None and (block.pid, block.thread) == (pid, threading.get_ident()):
        return block.processes
    if block is not None or os.environ.get(_ENVIRONMENT, str(pid)) != str(pid):
        raise RuntimeError(
            "fit was called in a worker that was started inside data_parallel(), where all "
            "processes of the launch share one fit at a time. Use n_jobs=None."
        )
    return None


def _checked(accelerator: Any) -> Any:
    accelerate, torch = require("data_parallel", "accelerate", "accelerate", "torch")
    n_launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator is None:
        # On CPUs, accelerate only connects the processes if cpu=True.
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
            f"accelerator has the distributed_type {kind!r}; expected one of "
            f"{', '.join(_SUPPORTED)} (CPUs or CUDA GPUs, each with the whole network)."
        )
    if accelerator.num_processes != n_launched:
        raise ValueError(
            f"accelerator has num_processes={accelerator.num_processes}, but {n_launched} were "
            "launched (WORLD_SIZE); expected all of them. On CPUs, use Accelerator(cpu=True)."
        )
    if accelerator.mixed_precision != "no":
        raise ValueError(
            f"accelerator has mixed_precision={accelerator.mixed_precision!r}; expected 'no' "
            "(accelerate launch --mixed_precision no), because the precision is a parameter of "
            "the estimator."
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "accelerator has gradient_accumulation_steps="
            f"{accelerator.gradient_accumulation_steps}; expected 1, because batch_size of an "
            "estimator is the number of samples per step."
        )
    return accelerator
