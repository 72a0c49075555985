"""Parts of error messages that all checks share."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

_LONGEST = 60


def shown(value: Any) -> str:
    """Return a value as it is shown in a message, abbreviated if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class SampleError(ValueError):
    """Says what is wrong with one sample, whose number in X its raiser may know in part only.

    Parameters
    ----------
    row : int
        Number of the sample among those that the raiser was given.
    reason : str
        Goes on after the number.
    """

    # Whose entry is wrong.
    argument: ClassVar[str] = "X"

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"{self.argument}[{row}] {reason}")
        self.row = row
        self.reason = reason

    def at(self, row: int) -> Self:
        """Return the same error about a sample of another number."""
        return type(self)(row, self.reason)

    def __reduce__(self) -> tuple[type[SampleError], tuple[int, str]]:
        return type(self), (self.row, self.reason)


class SampleLabelError(SampleError):
    """Says what is wrong with the labels of one sample."""

    argument = "y"


@contextmanager
def numbered_from(first: int) -> Iterator[None]:
    """Count the samples of errors inside the block from a number."""
    try:
        yield
    except SampleError as error:
        raise error.at(first + error.row) from None


def level_of_caller() -> int:
    """Return the `stacklevel` with which a warning names the line that called this package.

    For the function that warns; calls within the package are as many as there happen to be.
    """
    package = __name__.partition(".")[0]
    level, frame = 1, inspect.currentframe()
    frame = frame.f_back if frame else None
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
