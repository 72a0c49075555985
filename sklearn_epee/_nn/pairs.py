"""Encoded pairs of a text and an image, of which one may be missing, for two towers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import CONTEXT
from .batching import EncodedSamples, positions_of

# Key of a training batch: whether each sample has the input of the first and of the second tower.
PRESENT = "present"
# Prefixes of the names of the towers' inputs in a training batch.
FIRST, SECOND = "first__", "second__"


class DeferredSamples:
    """Samples that are only encoded when they are needed.

    Parameters
    ----------
    n : int
        Number of samples.
    encode : callable
        Takes indices of samples and returns them encoded.
    """

    def __init__(self, n: int, encode: Callable[[NDArray[np.intp]], EncodedSamples]) -> None:
        self._n = n
        self._encode = encode

    def __len__(self) -> int:
        return self._n

    def of(self, numbers: NDArray[np.intp]) -> EncodedSamples:
        """Return some of the samples, encoded."""
        return self._encode(numbers)


class SampleSubset:
    """Some of the samples, in a given order.

    Parameters
    ----------
    samples : EncodedSamples
    numbers : ndarray of shape (n,)
    """

    def __init__(self, samples: EncodedSamples, numbers: NDArray[np.intp]) -> None:
        self._samples = samples
        self._numbers = numbers
        self.lengths = samples.lengths[numbers]
        self.windows = None if samples.windows is None else samples.windows[numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the input tensors of some of them."""
        return self._samples.batch(self._numbers[rows])


class SamplesWithContext:
    """Samples with contexts, the additional input of the second tower's heads.

    Parameters
    ----------
    samples : EncodedSamples
    contexts : Tensor of shape (n, c), float32
    numbers : ndarray of shape (n,)
        The caller's numbers of the samples.
    """

    def __init__(
        self, samples: EncodedSamples, contexts: Tensor, numbers: NDArray[np.intp]
    ) -> None:
        self._samples = samples
        self._contexts = contexts
        self.numbers = numbers
        self.lengths = samples.lengths
        self.windows = samples.windows

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the input tensors of some samples, with their contexts."""
        return self._samples.batch(rows) | {CONTEXT: self._contexts[torch.from_numpy(rows)]}


class EncodedPairs:
    """Samples with two inputs ("cells"), a text and an image, either of which may be missing.

    Parameters
    ----------
    first : EncodedSamples
        Inputs of the first tower for all samples; those of missing cells are never used.
    second : EncodedSamples or DeferredSamples
        Inputs of the second tower.
    present : ndarray of shape (n, 2), bool
        Which inputs each sample has; at least one.
    """

    windows = None

    def __init__(
        self,
        first: EncodedSamples,
        second: EncodedSamples | DeferredSamples,
        present: NDArray[np.bool_],
    ) -> None:
        if not (len(first) == len(second) == len(present)):
            raise ValueError(
                f"first, second and present must be of one length; got {len(first)}, {len(second)} "
                f"and {len(present)}."
            )
        self.first = first
        self.second = second
        self.present = present

    def __len__(self) -> int:
        return len(self.present)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of positions of each sample, summed over both towers."""
        every = np.arange(len(self))
        halves = (self.first_of(every), self.second_of(every))
        both = np.stack([positions_of(half) for half in halves], axis=1)
        total: NDArray[np.int64] = np.where(self.present, both, 0).sum(axis=1)
        return total

    def first_of(self, numbers: NDArray[np.intp]) -> EncodedSamples:
        """Return the first tower's inputs of some samples, which must have them."""
        return SampleSubset(self.first, numbers)

    def second_of(self, numbers: NDArray[np.intp]) -> EncodedSamples:
        """Return the second tower's inputs of some samples, which must have them."""
        if isinstance(self.second, DeferredSamples):
            return self.second.of(numbers)
        return SampleSubset(self.second, numbers)

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the input tensors of some samples for both towers, for training.

        Names start with `FIRST` or `SECOND`. Rows of missing inputs, see `PRESENT`, are 0. If no
        sample has the input of a tower, its tensors are left out.
        """
        present = self.present[rows]
        tensors = {PRESENT: torch.from_numpy(present)}
        halves = ((FIRST, self.first_of), (SECOND, self.second_of))
        for (prefix, samples_of), has_cell in zip(halves, present.T, strict=True):
            if has_cell.any():
                found = samples_of(rows[has_cell]).batch(np.arange(np.count_nonzero(has_cell)))
                tensors |= {
                    f"{prefix}{name}": _spread(part, has_cell) for name, part in found.items()
                }
        return tensors


def _spread(part: Tensor, present: NDArray[np.bool_]) -> Tensor:
    """Return a tensor with its rows where a mask is True and zeros elsewhere."""
    if len(part) != np.count_nonzero(present):
        raise ValueError("Two towers are trained on texts of one window each.")
    if present.all():
        return part
    spread = part.new_zeros((len(present), *part.shape[1:]))
    spread[torch.from_numpy(present)] = part
    return spread


def inputs_of_tower(batch: Mapping[str, Tensor], prefix: str, rows: Tensor) -> dict[str, Tensor]:
    """Return the inputs of one tower for some rows of a training batch."""
    return {
        name.removeprefix(prefix): part[rows]
        for name, part in batch.items()
        if name.startswith(prefix)
    }
