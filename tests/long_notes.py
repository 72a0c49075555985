"""Notes of 3,000 characters and more, of which one sentence decides."""

from __future__ import annotations

import numpy as np

# Long words, so that notes of many characters have few tokens, and tests are fast.
_ROUTINE = (
    "echocardiography demonstrated unremarkable ventricular contractility",
    "gastroenterological consultation recommended conservative management",
    "postoperative physiotherapy continued uncomplicated",
    "cholecystectomy performed laparoscopically without complications",
    "electrocardiographic monitoring documented intermittent bradyarrhythmia",
    "radiological examination excluded osteoporotic compression fractures",
)
_DECIDING = {
    "current": "patient takes melatonin",
    "past": "patient stopped melatonin",
    "never": "patient refused melatonin",
}


def make_long_notes(
    n: int, characters: int = 3000, seed: int = 0
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return notes, their classes, and how far into its note each deciding sentence begins.

    A note is one deciding sentence, anywhere among routine ones that say nothing of the class.
    """
    rng = np.random.default_rng(seed)
    labels = np.array(list(_DECIDING))[np.arange(n) % len(_DECIDING)]
    notes, places = [], np.empty(n)
    for i, label in enumerate(labels):
        routine: list[str] = []
        while sum(map(len, routine)) < characters:
            routine.append(f"{rng.choice(_ROUTINE)}. ")
        at = int(rng.integers(len(routine) + 1))
        note = "".join([*routine[:at], _DECIDING[label], ". ", *routine[at:]])
        places[i] = sum(map(len, routine[:at])) / len(note)
        notes.append(note)
    return notes, labels, places
