"""Save the last weights that gave a finite loss in a temporary file during training."""

from __future__ import annotations

import io
import tempfile
from typing import IO

import torch
from torch import nn

# Weights are saved at the start of every epoch, and after this number of steps in longer epochs.
_SAVED_EVERY = 100


class FiniteWeights:
    """The last saved weights that gave a finite loss, in a temporary file.

    In memory, they would add a quarter to the size of weights, gradients and moments.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._file = _temporary_file()
        self._wait = 0
        self.n_steps = 0
        """Number of training steps before the weights were saved."""

    def start_epoch(self) -> None:
        """Save the weights at the next call of `offer`."""
        self._wait = 0

    def offer(self, n_steps: int) -> None:
        """Save the current weights, after ``n_steps`` steps, if enough steps have passed."""
        if self._wait == 0:
            self._save()
            self.n_steps = n_steps
            self._wait = _SAVED_EVERY
        self._wait -= 1

    def _save(self) -> None:
        try:
            self._write()
        except OSError:
            # If the disk is full, continue in memory instead of ending the training.
            self._file.close()
            self._file = io.BytesIO()
            self._write()

    def _write(self) -> None:
        self._file.seek(0)
        for weight in self._module.state_dict().values():
            self._file.write(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        self._file.flush()

    def restore(self) -> None:
        """Load the saved weights into the module."""
        self._file.seek(0)
        for weight in self._module.state_dict().values():
            raw = self._file.read(weight.numel() * weight.element_size())
            saved = torch.frombuffer(bytearray(raw), dtype=weight.dtype)
            weight.copy_(saved.view(weight.shape))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no writable folder
        return io.BytesIO()
