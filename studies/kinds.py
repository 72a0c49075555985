"""All kinds of jobs, in the order in which they are done."""

from __future__ import annotations

from studies import exits
from studies.jobs import KINDS

# Each module has KINDS of its own, a dict of str to Kind.
MODULES = (exits,)

for module in MODULES:
    KINDS.update(module.KINDS)
