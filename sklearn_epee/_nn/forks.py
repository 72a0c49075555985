"""Safety after a fork: one torch thread, and locks that are released in the child process."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from types import TracebackType

_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


class ForkSafeLock:
    """A lock that is released in a forked process, even if another thread of the parent held it.

    A fork only copies the forking thread. A plain lock that another thread held at that moment
    would stay locked in the child forever.

    Parameters
    ----------
    reentrant : bool, default=False
        Whether the thread that holds the lock may take it again.

    Notes
    -----
    The guarded data are copied in the state of that moment. Only guard data that stay usable if a
    change is interrupted, such as a cache.

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
        """Release the lock, unless the calling thread holds it."""
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
    # torch's threads were not copied, and a child would wait for them forever. With a single thread
    # it does not need them; `torch.set_num_threads` can increase the number again.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not available on Windows, which has no fork
    os.register_at_fork(after_in_child=_prepare_child)
