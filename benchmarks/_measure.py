"""Time competitors in turns, after a warm-up."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Seconds = dict[str, list[float]]


def interleaved(
    competitors: Mapping[str, Callable[[], Any]],
    repetitions: int,
    *,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Time competitors in turns, A B C A B C, so that other load affects all of them.

    Parameters
    ----------
    competitors : mapping of str to callable
        Functions to run, by name, in this order.
    repetitions : int
        Number of measured rounds.
    warm_up : bool, default=True
        Whether to run everything once before; False if the caller has done this.
    clock : callable
        Returns seconds.

    Returns
    -------
    dict of str to list of float
        Seconds of every repetition.
    """
    if warm_up:
        for run in competitors.values():
            warmed_up(run)
    seconds: Seconds = {name: [] for name in competitors}
    for _ in range(repetitions):
        gc.collect()
        for name, run in competitors.items():
            seconds[name].append(timed(run, clock))
    return seconds


# In a warm-up, a run counts as faster if it takes less than this share of the fastest time so far.
_NO_FASTER = 0.95
_MAX_WARM_UPS = 24


def warmed_up(run: Callable[[], Any]) -> None:
    """Run a function until its runs do not get faster any more.

    On a GPU the engine captures layers as graphs once their shapes have occurred often enough, and
    fills its memory pools. The warm-up ends when three consecutive runs are not faster than the
    fastest run before.
    """
    if not torch.cuda.is_available():
        run()
        return
    fastest, n_no_faster = float("inf"), 0
    for _ in range(_MAX_WARM_UPS):
        seconds = timed(run)
        n_no_faster = n_no_faster + 1 if seconds > _NO_FASTER * fastest else 0
        fastest = min(fastest, seconds)
        if n_no_faster == 3:
            return


def timed(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one run, waiting for the GPU on both sides."""
    synchronize()
    start = clock()
    run()
    synchronize()
    return clock() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def quotient(seconds: Seconds, slower: str, faster: str) -> float:
    """Return the median, over the rounds, of one competitor's time over another's."""
    pairs = zip(seconds[slower], seconds[faster], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def medians(seconds: Seconds) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}
