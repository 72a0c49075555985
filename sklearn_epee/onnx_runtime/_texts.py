"""Tokenize texts with the package tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch, Folder
from ._samples import Samples

__all__ = ["TextReader", "chunks", "padded"]

# Number of texts that are tokenized at a time.
_CHUNK = 1024


def chunks(X: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield some consecutive samples at a time.

    Raises
    ------
    TypeError
        If X is a single text, or a data frame, which yields the names of its columns.
    ValueError
        If it is empty.
    """
    if isinstance(X, (str, bytes)):
        raise TypeError("X must hold texts; got a single one. Wrap it in a list.")
    if hasattr(X, "columns"):
        raise TypeError(
            f"X is a {type(X).__name__}; expected a list, such as table['text'].tolist() for texts."
        )
    if not len(X):
        raise ValueError("X holds no samples; expected at least one.")
    for start in range(0, len(X), _CHUNK):
        yield X[start : start + _CHUNK]


class TextReader:
    """Tokenizes texts in the same way as the exported estimator.

    Parameters
    ----------
    folder : Folder
    truncates : bool, default=True
        Whether the tokenizer truncates texts; it does not if long texts are read in windows.

    Raises
    ------
    ImportError
        If tokenizers is missing.
    """

    def __init__(self, folder: Folder, truncates: bool = True) -> None:
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415 - only texts need it
        except ImportError as error:
            raise ImportError(
                "Texts need the package tokenizers: pip install tokenizers. Arrays of token ids "
                "do not."
            ) from error
        self.settings: Mapping[str, Any] = folder.document["texts"]
        self._long_texts: Mapping[str, Any] | None = self.settings.get("long_texts")
        self._tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if truncates and self._long_texts is None:
            self._tokenizer.enable_truncation(
                self.settings["max_length"], direction=self.settings["truncation_side"]
            )

    def encodings(self, texts: Sequence[Any], n_before: int = 0) -> list[Any]:
        """Return the encodings of texts or of pairs of texts.

        Parameters
        ----------
        texts : sequence of str or of pairs of str
        n_before : int, default=0
            Number of texts before these, for error messages.

        Raises
        ------
        TypeError, ValueError
            If one is neither a text nor a pair, not what the estimator was fitted on, or not valid
            Unicode.
        """
        samples = [self._checked(text, n_before + row) for row, text in enumerate(texts)]
        found: list[Any] = self._tokenizer.encode_batch(samples)
        return found

    def _checked(self, text: Any, row: int) -> str | tuple[str, ...]:
        is_pair = _is_pair(text)
        if not is_pair and not isinstance(text, str):
            raise TypeError(
                f"X[{row}] is {repr(text)[:80]} of type {type(text).__name__}; expected a text or "
                "a pair of texts."
            )
        reads_pairs = self.settings.get("pairs", is_pair)  # 0.1.0 did not write it
        if is_pair != reads_pairs:
            names = {True: "pairs of texts", False: "single texts"}
            raise ValueError(
                f"X[{row}] is one of {names[is_pair]}, but the estimator was fitted on "
                f"{names[reads_pairs]}."
            )
        for part in text if is_pair else [text]:
            _check_encodable(part, row)
        return tuple(text) if is_pair else text

    def read(self, texts: Sequence[Any], n_before: int = 0) -> Samples:
        """Encode texts, or pairs of texts; parameters as in `encodings`."""
        encoded = self.encodings(texts, n_before)
        ids = [part.ids or [self.settings["filler_id"]] for part in encoded]
        windows = None
        if self._long_texts is not None:
            split = [self._windows(row, self._long_texts) for row in ids]
            ids = [row for rows in split for row in rows]
            if self._long_texts["how"] == "windows":
                windows = np.array([len(rows) for rows in split], np.int64)
        arrays = padded(ids, self.settings["pad_id"])
        if self.settings["token_types"]:
            types = padded([part.type_ids or [0] for part in encoded], 0)
            arrays["token_type_ids"] = types["input_ids"]
        return Samples(arrays, windows)

    def _windows(self, row: list[int], long_texts: Mapping[str, Any]) -> list[list[int]]:
        """Split a row that is too long into windows, or shorten it to its first and last tokens."""
        longest = self.settings["max_length"]
        if len(row) <= longest:
            return [row]
        before, after = long_texts["special_tokens"]
        first, last = row[:before], row[len(row) - after :]
        text = row[before : len(row) - after]
        room = longest - before - after
        if long_texts["how"] == "head_tail":
            tail = room // 2
            kept = text[: room - tail] + text[len(text) - tail :]
            return [first + kept + last]
        stride = long_texts["stride"]
        readable = room + (long_texts["max_windows"] - 1) * stride
        if len(text) > readable:
            left = self.settings["truncation_side"] == "left"
            text = text[-readable:] if left else text[:readable]
        starts = range(0, len(text) - room + stride, stride)
        return [first + text[start : start + room] + last for start in starts]


def _check_encodable(text: str, row: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"X[{row}] has {text[:80]!r}, which is not valid Unicode ({error}); read it again with "
            "the right encoding, or with errors='replace'."
        ) from error


def _is_pair(text: Any) -> bool:
    is_row = isinstance(text, (tuple, list)) or (isinstance(text, np.ndarray) and text.ndim == 1)
    return is_row and len(text) == 2 and all(isinstance(part, str) for part in text)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Return rows of token ids as arrays, ``input_ids`` and ``attention_mask``."""
    lengths = np.array([len(row) for row in rows], np.int64)
    mask: NDArray[np.bool_] = np.arange(lengths.max(initial=0)) < lengths[:, np.newaxis]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = [number for row in rows for number in row]
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
