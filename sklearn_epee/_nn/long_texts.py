"""Texts longer than a backbone reads: in windows, or as their first and last tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

# Words of which every tokenizer makes at least one token.
_PROBES = ("a", "the", "1", "patient")


class TextSpan(NamedTuple):
    """Where the tokens of a text lie in its row, between the special tokens around it."""

    start: int
    stop: int


# Parts of a row: of these the row of a window is joined.
Parts = list[slice]


@dataclass(frozen=True)
class Windows:
    """Reads a long text as consecutive windows, each with the special tokens of a whole text.

    Parameters
    ----------
    length : int
        Tokens of a window, special tokens included.
    stride : int or None
        Tokens of the text from the start of a window to that of the next. None: as many as a
        window holds, so that every token is read once.
    most : int
        Windows per text; what comes after them is not read.
    """

    length: int
    stride: int | None
    most: int

    def parts(self, span: TextSpan, n_row: int, from_left: bool) -> tuple[list[Parts], bool]:
        """Return the parts of a long row that each window is joined of.

        Parameters
        ----------
        span : TextSpan
        n_row : int
            Length of the row.
        from_left : bool
            Whether a text that is too long loses its first tokens instead of its last.

        Returns
        -------
        windows : list of lists of slices
        truncated : bool
            Whether some tokens are in no window.
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
        """Return the warning's words for texts that were truncated."""
        return (
            f"longer than max_windows={self.most} windows of window_length={self.length} tokens; "
            "what comes after is not read."
        )


@dataclass(frozen=True)
class HeadTail:
    """Reads the first and the last tokens of a long text, half of the row each.

    Parameters
    ----------
    length : int
        Tokens of a row, special tokens included.

    References
    ----------
    Sun et al., "How to fine-tune BERT for text classification?", arXiv 1905.05583.
    """

    length: int

    def parts(self, span: TextSpan, n_row: int, from_left: bool) -> tuple[list[Parts], bool]:  # noqa: ARG002 - both ends are kept
        """Return the parts of a long row that are kept, and that some are not."""
        room = self.length - span.start - (n_row - span.stop)
        head = room - room // 2
        kept = [slice(0, span.start + head), slice(span.stop - room // 2, n_row)]
        return [kept], True

    def unread(self) -> str:
        """Return the warning's words for texts that were truncated."""
        return (
            f"longer than max_length={self.length} tokens; what lies between their first and last "
            "tokens is not read."
        )


LongTexts = Windows | HeadTail


def joined(row: list[int], parts: Parts) -> list[int]:
    """Return the tokens of some parts of a row."""
    return [token for part in parts for token in row[part]]


def special_tokens_around(
    tokenizer: PreTrainedTokenizerBase, tokenize: Callable[..., dict[str, Any]]
) -> tuple[int, int]:
    """Return how many special tokens a tokenizer puts before and after a text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    tokenize : callable
        Runs the tokenizer on a list of texts.

    Raises
    ------
    ValueError
        If it does something else with the tokens of a text than to put others around them.
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
    """Refuse parameters about long texts that do not go together.

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
            f"long_texts={how!r} does not go with pooling='entity': the marks of a pair may lie in "
            "different windows; expected long_texts='truncate', which reads around both marks."
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
    """Return what the parameters of an estimator say about long texts.

    Parameters
    ----------
    how : {"truncate", "windows", "head_tail"}
    length : int
        Longest row in tokens, special tokens included.
    stride : int or None
    max_windows : int
    n_special : int
        Special tokens of a row.

    Returns
    -------
    Windows, HeadTail or None
        None: truncated.

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
            f"{length} tokens holds {room} of the text, beside {n_special} special tokens; "
            f"expected at most {room}, or None."
        )
    return Windows(length, None if stride is None else int(stride), int(max_windows))
