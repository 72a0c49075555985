"""The processes that train one network together, and their communication."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cloudpickle

from sklearn_epee.exceptions import ProcessFailedError

from ._engines import require

# Kinds of communication. Processes compare them, to detect a process that takes another path.
_FAILURE, _END, _SUMS, _WEIGHTS, _FROM_MAIN, _ALL = range(6)


class Processes:
    """The processes of a launch, and the communication of one of them with the others.

    Before every exchange, all processes send their status and the kind of the exchange. If a
    process has failed, it sends this at the next exchange, and all processes stop with its error.

    Parameters
    ----------
    accelerator : accelerate.Accelerator

    Attributes
    ----------
    number : int
        Number of this process, from 0, which is the main process.
    count : int
    device : torch.device
        Device of this process.
    """

    def __init__(self, accelerator: Any) -> None:
        self._torch, self._utils = require(
            "data_parallel", "accelerate", "torch", "accelerate.utils"
        )
        self.number: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        # accelerate numbers CPUs, but torch has only one CPU device.
        device = accelerator.device
        self.device = self._torch.device("cpu") if device.type == "cpu" else device
        # The error that was sent to or received from the others.
        self._told: BaseException | None = None
        self._lost = False

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes, prints and measures."""
        return self.number == 0

    def sums(self, tensors: Iterable[Any]) -> Iterator[Any]:
        """Yield the sums of tensors over all processes.

        Parameters
        ----------
        tensors : iterable of Tensor
            On the device, with the same shapes in all processes.
        """
        self._meet(_SUMS)
        for tensor in tensors:
            with self._exchange():
                total = self._utils.reduce(tensor, "sum")
            yield total

    def share_weights(self, module: Any) -> None:
        """Copy the weights and buffers of the main process's module into those of the others."""
        self._meet(_WEIGHTS)
        for weight in module.state_dict().values():
            with self._exchange():
                placed = weight.detach().to(self.device).contiguous()
                self._utils.broadcast(placed)
                weight.copy_(placed)

    def from_main(self, make: Callable[[], Any]) -> Any:
        """Call a function in the main process only, and return its result in all processes."""
        value = make() if self.is_main else None
        pickled = cloudpickle.dumps(value) if self.is_main else None
        self._meet(_FROM_MAIN)
        with self._exchange():
            (received,) = self._utils.broadcast_object_list([pickled])
        return value if self.is_main else cloudpickle.loads(received)

    def all_of(self, value: Any) -> list[Any]:
        """Return the values of all processes, in their order."""
        self._meet(_ALL)
        with self._exchange():
            return list(self._utils.gather_object([value]))

    @contextmanager
    def together(self) -> Iterator[None]:
        """End the block together with all processes; if one fails inside, raise in all.

        Raises
        ------
        ProcessFailedError
            If another process failed.
        RuntimeError
            If another process takes another path.
        """
        try:
            yield
            self._meet(_END)
        except BaseException as error:
            if not self._lost and not self._is_known(error):
                self._tell(error)
            raise

    def _is_known(self, error: BaseException | None) -> bool:
        while error is not None:
            if error is self._told:
                return True
            error = error.__context__
        return False

    def _tell(self, error: BaseException) -> None:
        self._told = error
        # If the others cannot be reached, the error of this process is still raised.
        with suppress(Exception):
            self._meet(_FAILURE, "".join(traceback.format_exception_only(error)).strip())

    def _meet(self, what: int, failure: str | None = None) -> None:
        """Wait for all processes; raise if one of them failed, or has another kind of exchange."""
        status = self._torch.tensor(
            [failure is not None, what, what * what], dtype=self._torch.int64, device=self.device
        )
        with self._exchange():
            failed, total, squares = self._utils.reduce(status, "sum").tolist()
            messages = self._utils.gather_object([failure]) if failed else []
        error = self._error(messages) if failed else None
        if not failed and self.count * squares != total**2:
            error = RuntimeError(
                "The processes of the launch take different paths, for example because only some "
                "of them call fit. Inside data_parallel() every process must call the same fits "
                "with the same arguments; move code for a single process after the block."
            )
        if error is not None and failure is None:
            self._told = error
            raise error

    def _error(self, messages: list[str | None]) -> Exception:
        number, message = next((i, text) for i, text in enumerate(messages) if text is not None)
        return ProcessFailedError(
            f"Process {number} of {self.count} (counted from 0) failed, so all processes stop: "
            f"{message}"
        )

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        # If an exchange fails halfway, the others wait for its rest and cannot be notified.
        try:
            yield
        except BaseException:
            self._lost = True
            raise
