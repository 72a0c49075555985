"""Keep the last weights that gave a finite loss in a temporary file during training."""

from __future__ import annotations

import io
import tempfile
from typing import IO

import torch
from torch import nn

# Weights are saved at the start of every epoch, and in longer epochs every so many steps.
_SAVED_EVERY = 100


class FiniteWeights:
    """The last weights that were saved after they had given a finite loss, in a temporary file.

    In memory they would add a quarter to what weights, gradients and moments take.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._file = _temporary_file()
        self._wait = 0
        self.n_steps = 0
        """Training steps that led to the saved weights."""

    def start_epoch(self) -> None:
        """Save the next good weights."""
        self._wait = 0

    def offer(self, n_steps: int) -> None:
        """Save the weights that ``n_steps`` steps led to, if it is time to."""
        if self._wait == 0:
            self._save()
            self.n_steps = n_steps
            self._wait = _SAVED_EVERY
        self._wait -= 1

    def _save(self) -> None:
        try:
            self._write()
        except OSError:
            # A full disk is no reason to end a training.
            self._file.close()
            self._file = io.BytesIO()
            self._write()

    def _write(self) -> None:
        self._file.seek(0)
        for weight in self._module.state_dict().values():
            self._file.write(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        self._file.flush()

    def restore(self) -> None:
        """Put the saved weights back into the module."""
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
    except OSError:  # no folder to write to
        return io.BytesIO()
