"""Learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


class WarmupThenDecay:
    """Linear warm-up followed by linear decay to zero, as a factor of the learning rate.

    Parameters
    ----------
    warmup_ratio : float
        Fraction of the steps in the warm-up, in [0, 1).
    n_steps : int
        Number of steps in all.
    """

    def __init__(self, warmup_ratio: float, n_steps: int) -> None:
        self.n_warmup = math.ceil(warmup_ratio * n_steps)
        self.n_steps = n_steps

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        if step < self.n_warmup:
            return (step + 1) / (self.n_warmup + 1)
        return max(0.0, (self.n_steps - step) / max(1, self.n_steps - self.n_warmup))


class SequentialSchedule:
    """Several schedules one after another, each for a number of steps.

    Each part of a mixed training has its own warm-up and decay, so that the exits that begin to
    learn in the second part start at a small learning rate.

    Parameters
    ----------
    schedules : sequence of callable
        Each returns a factor of the learning rate at a step, counted from its own 0.
    n_steps : sequence of int
        Number of steps of each schedule; the last one continues after its own.
    """

    def __init__(self, schedules: Sequence[Callable[[int], float]], n_steps: Sequence[int]) -> None:
        self.schedules = schedules
        self.n_steps = n_steps

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        for schedule, n_steps in zip(self.schedules[:-1], self.n_steps[:-1], strict=True):
            if step < n_steps:
                return float(schedule(step))
            step -= n_steps
        return float(self.schedules[-1](step))
