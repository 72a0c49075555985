"""Texts longer than the maximum length: read in windows, or as their first and last tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

# Words that every tokenizer should convert to at least one token.
_PROBES = ("a", "the", "1", "patient")


class TextSpan(NamedTuple):
    """Range of the tokens of a text in its row, between the special tokens."""

    start: int
    stop: int


# Slices of a row that are concatenated to the row of a window.
Parts = list[slice]


@dataclass(frozen=True)
class Windows:
    """Reads a long text in consecutive windows, each with the special tokens of a whole text.

    Parameters
    ----------
    length : int
        Number of tokens of a window, including special tokens.
    stride : int or None
        Number of text tokens from the start of a window to that of the next. None: the number of
        text tokens of a window, so that every token is read once.
    most : int
        Maximum number of windows per text; the rest is not read.
    """

    length: int
    stride: int | None
    most: int

    def parts(self, span: TextSpan, n_row: int, from_left: bool) -> tuple[list[Parts], bool]:
        """Return the slices of a long row that form each window.

        Parameters
        ----------
        span : TextSpan
        n_row : int
            Length of the row.
        from_left : bool
            Whether a text that is too long loses its first tokens instead of its last ones.

        Returns
        -------
        windows : list of lists of slices
        truncated : bool
            Whether some tokens are not in any window.
        """
        room = self.length - span.start - (n_row - span.stop)
        stride = self.stride or room
        readable = room + (self.most - 1) * stride
        start, stop = span
        truncated = stop - start > readable
        if truncated:
            start, stop = (stop - readable, stop) if from_left else (start, start + readable)
        windows = []
        for first in range(start, stop - room + stride, stride):
            window = slice(first, min(first + room, stop))
            windows.append([slice(0, span.start), window, slice(span.stop, n_row)])
        return windows, truncated

    def unread(self) -> str:
        """Return the end of the warning about truncated texts."""
        return (
            f"longer than max_windows={self.most} windows of window_length={self.length} tokens; "
            "the rest is not read."
        )


@dataclass(frozen=True)
class HeadTail:
    """Reads the first and the last tokens of a long text, half of the row each.

    Parameters
    ----------
    length : int
        Number of tokens of a row, including special tokens.

    References
    ----------
    Sun et al., "How to fine-tune BERT for text classification?", arXiv 1905.05583.
    """

    length: int

    def parts(self, span: TextSpan, n_row: int, from_left: bool) -> tuple[list[Parts], bool]:  # noqa: ARG002 - both ends are kept
        """Return the slices of a long row that are kept, and True, because it is truncated."""
        room = self.length - span.start - (n_row - span.stop)
        head = room - room // 2
        kept = [slice(0, span.start + head), slice(span.stop - room // 2, n_row)]
        return [kept], True

    def unread(self) -> str:
        """Return the end of the warning about truncated texts."""
        return (
            f"longer than max_length={self.length} tokens; the tokens between their first and last "
            "ones are not read."
        )


LongTexts = Windows | HeadTail


def joined(row: list[int], parts: Parts) -> list[int]:
    """Return the concatenated slices of a row."""
    return [token for part in parts for token in row[part]]


def special_tokens_around(
    tokenizer: PreTrainedTokenizerBase, tokenize: Callable[..., dict[str, Any]]
) -> tuple[int, int]:
    """Return the numbers of special tokens that a tokenizer adds before and after a text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    tokenize : callable
        Runs the tokenizer on a list of texts.

    Raises
    ------
    ValueError
        If the tokenizer changes the tokens of a text in another way.
    """
    for word in _PROBES:
        plain, whole = (
            tokenize(
                tokenizer,
                [word],
                truncation=False,
                add_special_tokens=special,
                return_token_type_ids=False,
            )["input_ids"][0]
            for special in (False, True)
        )
        before = _first_place(plain, whole)
        if plain and before is not None:
            return before, len(whole) - len(plain) - before
    raise ValueError(
        "long_texts: this tokenizer does not put its special tokens around the tokens of a text, "
        "so that a long text cannot be split between them; expected another tokenizer, or "
        "long_texts='truncate'."
    )


def _first_place(part: list[int], whole: list[int]) -> int | None:
    places: Iterable[int] = range(len(whole) - len(part) + 1)
    return next((i for i in places if whole[i : i + len(part)] == part), None)


def check_long_texts(estimator: Any, reads_pairs: bool) -> None:
    """Raise if parameters for long texts are not compatible with each other.

    Parameters
    ----------
    estimator : EPEEClassifier
    reads_pairs : bool
        Whether samples are pairs of texts.

    Raises
    ------
    ValueError
    """
    how = estimator.long_texts
    if how == "truncate":
        return
    if reads_pairs:
        raise ValueError(
            f"long_texts={how!r} reads single texts, but X holds pairs of texts; expected "
            "long_texts='truncate', or the two texts of a pair joined into one."
        )
    if estimator.pooling == "entity":
        raise ValueError(
            f"long_texts={how!r} cannot be used with pooling='entity', because the marks of a pair "
            "may be in different windows; expected long_texts='truncate', which keeps both marks."
        )
    window, longest = estimator.window_length, estimator.max_length
    if how == "windows" and None not in (window, longest) and window > longest:
        raise ValueError(
            f"window_length={window} is more than max_length={longest}; expected at most that, "
            "or max_length=None."
        )


def long_texts_of(
    how: str,
    length: int,
    stride: int | None,
    max_windows: int,
    n_special: int,
) -> LongTexts | None:
    """Return how long texts are read, given the parameters of an estimator.

    Parameters
    ----------
    how : {"truncate", "windows", "head_tail"}
    length : int
        Maximum number of tokens of a row, including special tokens.
    stride : int or None
    max_windows : int
    n_special : int
        Number of special tokens of a row.

    Returns
    -------
    Windows, HeadTail or None
        None: truncated by the tokenizer.

    Raises
    ------
    ValueError
        If tokens between two windows would not be read.
    """
    if how == "head_tail":
        return HeadTail(length)
    if how != "windows":
        return None
    room = length - n_special
    if stride is not None and stride > room:
        raise ValueError(
            f"window_stride={stride} leaves tokens between two windows unread: a window of "
            f"{length} tokens contains {room} of the text and {n_special} special tokens; expected "
            f"at most {room}, or None."
        )
    return Windows(length, None if stride is None else int(stride), int(max_windows))
