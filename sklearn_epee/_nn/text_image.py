"""Encode texts with images for the two towers, in the order in which the towers run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_epee._checks.images import ImageForm
from sklearn_epee._checks.messages import SampleError, numbered_from
from sklearn_epee._checks.texts_with_images import Case, images_of, present_cells, texts_of

from .batching import EncodedTexts
from .flops import layer_flops
from .images import ImagePreprocessor
from .network import MultiExitNetwork
from .pairs import DeferredSamples, EncodedPairs, SampleSubset
from .texts import TextTokenizer, token_counts

TOWERS = ("text", "image")
# Number of texts among which the one of median length is taken as typical.
_MAX_MEASURED = 200
# Number of samples of a prediction that are encoded at a time.
_WINDOW = 2**14


@dataclass(frozen=True)
class CaseForm:
    """Properties of the samples and of the towers that read them.

    Parameters
    ----------
    images : ImageForm
        Properties that images must share with the training images.
    towers : tuple of str
        "text" and "image", in the order in which they run.
    n_first_layers : int
        Number of layers of the first tower.
    exit_costs : tuple of float
        Cost up to each exit, as a share of full depth.
    """

    images: ImageForm
    towers: tuple[str, str]
    n_first_layers: int
    exit_costs: tuple[float, ...]

    def in_order(self, columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Reorder columns from the order of `TOWERS` to that in which the towers run."""
        return columns[:, [TOWERS.index(name) for name in self.towers]]


class CaseReader:
    """Encode texts with images for the two towers.

    Parameters
    ----------
    text : TextTokenizer
    image : ImagePreprocessor
    form : CaseForm
    """

    def __init__(self, text: TextTokenizer, image: ImagePreprocessor, form: CaseForm) -> None:
        self.text = text
        self.image = image
        self.form = form

    @property
    def sample_form(self) -> CaseForm:
        """Properties of samples and towers, which are available without the network."""
        return self.form

    def for_first_layers(self, n_layers: int) -> CaseReader:
        """Return the same reader for a network that only has the first layers."""
        costs = self.form.exit_costs[:n_layers]
        shares = tuple(cost / costs[-1] for cost in costs)
        return CaseReader(self.text, self.image, replace(self.form, exit_costs=shares))

    def encode(self, cases: Sequence[Case]) -> EncodedPairs:
        """Encode cases for both towers; warn once if texts are truncated."""
        return self._encode(cases, self.text.encode, self.image.encode)

    def encode_for_training(self, cases: Sequence[Case]) -> EncodedPairs:
        """Encode training cases; images are augmented at random if so configured."""
        return self._encode(cases, self.text.encode_for_training, self.image.encode_for_training)

    def encode_in_windows(self, cases: Sequence[Case]) -> Iterator[EncodedPairs]:
        """Yield encoded cases, a few thousand at a time, so that memory stays bounded."""
        for start in range(0, len(cases), _WINDOW):
            with numbered_from(start):
                window = cases[start : start + _WINDOW]
                text_first = self.form.towers == TOWERS
                pairs = self.encode(window) if text_first else self._with_texts_deferred(window)
            yield pairs

    def _with_texts_deferred(self, cases: Sequence[Case]) -> EncodedPairs:
        """Encode cases; texts are for the second tower and only encoded when needed."""
        present = present_cells(cases)
        images = self._images(cases, present, self.image.encode)

        def encode(numbers: NDArray[np.intp]) -> EncodedTexts:
            return self.text.encode(texts_of([cases[number] for number in numbers]))

        texts = DeferredSamples(len(cases), encode)
        return EncodedPairs(images, texts, self.form.in_order(present))

    def _encode(
        self,
        cases: Sequence[Case],
        encode_texts: Callable[[list[str]], Any],
        encode_images: Callable[[list[Any]], Any],
    ) -> EncodedPairs:
        present = present_cells(cases)
        texts = _spread(encode_texts, texts_of(cases), present[:, 0], "")
        images = self._images(cases, present, encode_images)
        halves = (texts, images) if self.form.towers == TOWERS else (images, texts)
        return EncodedPairs(*halves, self.form.in_order(present))

    def _images(
        self,
        cases: Sequence[Case],
        present: NDArray[np.bool_],
        encode: Callable[[list[Any]], Any],
    ) -> SampleSubset:
        blank = np.zeros((1, 1, self.form.images.n_channels), np.uint8)
        return _spread(encode, images_of(cases), present[:, 1], blank)


def _spread(
    encode: Callable[[list[Any]], Any],
    found: list[Any],
    present: NDArray[np.bool_],
    filler: Any,
) -> SampleSubset:
    """Return encoded inputs at the rows that have them; other rows are fillers, never used."""
    try:
        encoded = encode(found or [filler])
    except SampleError as error:
        raise error.at(int(np.flatnonzero(present)[error.row])) from None
    return SampleSubset(encoded, np.where(present, np.maximum(present.cumsum() - 1, 0), 0))


def typical_batches(
    text: TextTokenizer, image: ImagePreprocessor, texts: list[str], images: list[Any]
) -> dict[str, dict[str, Tensor]]:
    """Return a batch with a text of median length, and one with an image.

    Parameters
    ----------
    text : TextTokenizer
    image : ImagePreprocessor
    texts, images : list
        Training texts and images.
    """
    some = texts[:: -(-len(texts) // _MAX_MEASURED)]
    by_length = np.argsort(token_counts(text.tokenizer, some), kind="stable")
    one = np.array([0])
    return {
        "text": text.encode([some[by_length[len(some) // 2]]]).batch(one),
        "image": image.encode(images[:1]).batch(one),
    }


def cheaper_tower(
    networks: dict[str, MultiExitNetwork], batches: dict[str, dict[str, Tensor]]
) -> str:
    """Return the name of the tower that takes fewer operations for a typical sample."""
    with torch.no_grad():
        work = {name: layer_flops(networks[name].adapter, batches[name]).sum() for name in TOWERS}
    return min(TOWERS, key=lambda name: work[name])
