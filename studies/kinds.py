"""All kinds of jobs, in the order in which they run."""

from __future__ import annotations

from typing import Any

from studies import clock, events, exits
from studies.jobs import KINDS, Folder, Job, Kind
from studies.rivals import cnn, cut, distilled, embeddings, forest, tfidf
from studies.sets import Parts

# Each module has KINDS, a dict of str to Kind.
MODULES: tuple[Any, ...] = (exits, events, tfidf, forest, cnn, embeddings, cut, distilled, clock)


def either(first: Kind, second: Kind) -> Kind:
    """Combine a kind that two modules have for different data sets."""

    def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
        own = first if first.applies(job.data, job.backbone) else second
        return own.run(job, parts, folder)

    def applies(data: str, backbone: str) -> bool:
        return first.applies(data, backbone) or second.applies(data, backbone)

    return Kind(run, applies, first.needs, first.one_seed, first.last)


for module in MODULES:
    for name, kind in module.KINDS.items():
        KINDS[name] = either(KINDS[name], kind) if name in KINDS else kind
