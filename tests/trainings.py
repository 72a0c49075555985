"""A callback that counts trainings."""

from __future__ import annotations

import os
from pathlib import Path

from skorch.callbacks import Callback


class Trainings(Callback):
    """Counts trainings in a file, so that those of other processes count too."""

    def __init__(self, path):
        self.path = str(path)

    def on_train_begin(self, net, **kwargs):
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()}\n")

    @property
    def count(self):
        path = Path(self.path)
        return len(path.read_text().splitlines()) if path.exists() else 0
