"""Safety after a fork: one torch thread, and locks that are free in the child process."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from types import TracebackType

_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


class ForkSafeLock:
    """A lock that is free in a forked process, whoever held it in the parent.

    A fork copies the thread that forks and no other. A plain lock that another thread held at that
    moment stays locked in the child for ever.

    Parameters
    ----------
    reentrant : bool, default=False
        Whether the thread that holds the lock may take it again.

    Notes
    -----
    What the lock guards is copied as it was. Guard only what stays usable when a change stops
    halfway, such as a cache.

    Examples
    --------
    >>> from sklearn_epee._nn.forks import ForkSafeLock
    >>> lock = ForkSafeLock()
    >>> with lock:
    ...     print("held")
    held
    """

    def __init__(self, reentrant: bool = False) -> None:
        self._make = threading.RLock if reentrant else threading.Lock
        self._lock = self._make()
        self._owner = 0
        self._depth = 0
        _locks.add(self)

    def renew(self) -> None:
        """Free the lock, unless the thread that calls holds it."""
        if self._depth and self._owner == threading.get_ident():
            return
        self._lock = self._make()
        self._depth = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        self._lock.release()


def _prepare_child() -> None:
    """Make the package usable in a process that was just forked."""
    for lock in list(_locks):
        lock.renew()
    # torch's threads were not copied. A child that waits for them waits for ever; with one thread
    # it works by itself. `torch.set_num_threads` raises the number again.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_prepare_child)
