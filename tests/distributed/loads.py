"""A classifier that counts how often it is unpickled, in whatever process."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from sklearn_epee import EPEEClassifier


class CountedLoads(EPEEClassifier):
    """Writes the process into the file `loads_file`, once it is set, whenever it is unpickled."""

    loads_file = None

    def __setstate__(self, state):
        super().__setstate__(state)
        if self.loads_file is not None:
            with Path(self.loads_file).open("a") as file:
                file.write(f"{os.getpid()}\n")


def loads(path):
    """Count the loads of each process."""
    return Counter(Path(path).read_text().split())
