"""Let samples enter and leave a scheduler in random order, without a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sklearn_epee.serving._served import ServedModel

CAPACITY = 9


def run_in_any_order(
    estimator: Any, samples: Sequence[Any], check: Callable[[dict[str, Any], int], None], seed: int
) -> Any:
    """Let samples enter and be dropped at random; return the scheduler, which is empty by then.

    ``check`` gets what is predicted of a sample, and the number of the sample.
    """
    rng = np.random.default_rng(seed)
    served = ServedModel(estimator)
    scheduler = served.model.scheduler(*served.policy, CAPACITY)
    free, held, n_found = list(range(CAPACITY)), {}, 0

    def forget(slots):
        for slot in slots.tolist():
            del held[slot]
            free.append(slot)

    def note(slots):
        if not len(slots):
            return 0
        rows = [held[slot] for slot in slots.tolist()]
        found = scheduler.predictions([served.check(samples[row]) for row in rows], slots)
        for one, row in zip(found, rows, strict=True):
            check(one, row)
        forget(slots)
        return len(rows)

    for turn in range(110):
        rng.shuffle(free)
        n = int(rng.integers(0, len(free) + 1)) if turn < 80 and rng.random() < 0.5 else 0
        if n:
            slots = np.array([free.pop() for _ in range(n)])
            rows = rng.integers(0, len(samples), n)
            held.update(zip(slots.tolist(), rows.tolist(), strict=True))
            asked = [served.check(samples[row]) for row in rows]
            n_found += note(scheduler.enter(asked, slots, [served.policy] * n))
        if held and rng.random() < 0.15:
            gone = rng.choice(list(held), int(rng.integers(1, len(held) + 1)), replace=False)
            scheduler.drop(gone)
            forget(gone)
        n_found += note(scheduler.advance())
    assert not held
    assert n_found > 30
    return scheduler
