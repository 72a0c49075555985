"""Clocks and memory: competitors run in turns, medians of repetitions, nothing measured cold."""

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
    """Time competitors in turns, A B C A B C, so that a busy moment hits all of them.

    Parameters
    ----------
    competitors : mapping of str to callable
        What to run, by name, in the order of running.
    repetitions : int
        Rounds that count.
    warm_up : bool, default=True
        Run everything beforehand. False where the caller has done so.
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


# A run of a warm-up that takes more than this share of the fastest so far was not slowed by chance.
_NO_FASTER = 0.95
_MAX_WARM_UPS = 24


def warmed_up(run: Callable[[], Any]) -> None:
    """Run something until later runs take as long as each other.

    On a GPU the engine captures layers as graphs once their shapes have come up often enough, and
    fills its pools of memory; it is warm when three runs in a row are not faster than the fastest
    before.
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
