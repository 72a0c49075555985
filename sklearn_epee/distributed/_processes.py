"""The processes that train one network together, and their communication."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cloudpickle

from sklearn_epee.exceptions import ProcessFailedError

from ._engines import require

# What processes meet for; they tell each other, so that one that went another way is found out.
_FAILURE, _END, _SUMS, _WEIGHTS, _FROM_MAIN, _ALL = range(6)


class Processes:
    """The processes of a launch, as one of them sees it.

    Before anything is exchanged, all say that they are well and what for. One that failed says so
    the next time that the others want something, and all of them end with its error.

    Parameters
    ----------
    accelerator : accelerate.Accelerator

    Attributes
    ----------
    number : int
        Of this process, from 0, which is the main one.
    count : int
    device : torch.device
        Of this process.
    """

    def __init__(self, accelerator: Any) -> None:
        self._torch, self._utils = require(
            "data_parallel", "accelerate", "torch", "accelerate.utils"
        )
        self.number: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        # accelerate numbers CPUs, of which there is one device.
        device = accelerator.device
        self.device = self._torch.device("cpu") if device.type == "cpu" else device
        # What was told to the others already, or came from them.
        self._told: BaseException | None = None
        self._lost = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, prints and measures."""
        return self.number == 0

    def sums(self, tensors: Iterable[Any]) -> Iterator[Any]:
        """Yield the sum over all processes of each of some tensors.

        Parameters
        ----------
        tensors : iterable of Tensor
            On the device; as many of the same shapes in all processes.
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
        """Return what a function returns, which runs in the main process alone."""
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
        """Leave the block when all processes do, and with the error of one that fails inside.

        Raises
        ------
        ProcessFailedError
            If another process failed.
        RuntimeError
            If another process wants something else.
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
        # Where the others cannot be reached, the error of this one is what there is to say.
        with suppress(Exception):
            self._meet(_FAILURE, "".join(traceback.format_exception_only(error)).strip())

    def _meet(self, what: int, failure: str | None = None) -> None:
        """Wait for all processes; raise if one of them failed, or is here for something else."""
        said = self._torch.tensor(
            [failure is not None, what, what * what], dtype=self._torch.int64, device=self.device
        )
        with self._exchange():
            failed, total, squares = self._utils.reduce(said, "sum").tolist()
            messages = self._utils.gather_object([failure]) if failed else []
        error = self._error(messages) if failed else None
        if not failed and self.count * squares != total**2:
            error = RuntimeError(
                "The processes of the launch have come to different places: one fits, for example, "
                "where another does not. Inside data_parallel() every process must call the same "
                "fits, with the same arguments; what only one is to do belongs after the block."
            )
        if error is not None and failure is None:
            self._told = error
            raise error

    def _error(self, messages: list[str | None]) -> Exception:
        number, message = next((i, said) for i, said in enumerate(messages) if said is not None)
        return ProcessFailedError(
            f"Process {number} of {self.count} (counted from 0) failed, and with it all: {message}"
        )

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        # In the middle of an exchange the others wait for the rest of it, and hear nothing else.
        try:
            yield
        except BaseException:
            self._lost = True
            raise
