"""Shorten long pairs of texts before a tokenizer truncates them.

A tokenizer stores the truncated parts of both texts as overflowing encodings, in all combinations,
so memory grows with the product of the lengths. Here each text is first shortened to a little more
than can be kept of it, which does not change the truncated pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

# Number of tokens by which the longer text of a pair stays longer, because this decides which of
# the two texts loses an odd token.
_LONGER = 16

Pair = tuple[str, str]


@dataclass(frozen=True)
class _Tokenized:
    """A text with its token ids and the character range of each token."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]

    def shortened(self, n_tokens: int, from_left: bool) -> str:
        """Return the part of the text with the first (or last) tokens."""
        if n_tokens >= len(self.ids):
            return self.text
        if from_left:
            return self.text[self.offsets[-n_tokens][0] :]
        return self.text[: self.offsets[n_tokens - 1][1]]


def shorten_pairs(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tokenize: Callable[..., dict[str, Any]],
) -> list[Pair]:
    """Shorten both texts of pairs, so that truncating them needs little memory.

    Parameters
    ----------
    pairs : sequence of pairs of str
        All of them longer than `max_length`.
    tokenizer : PreTrainedTokenizerBase
        Tokenizers written in Python do not store truncated parts; pairs are returned unchanged.
    max_length : int
        Number of tokens of a truncated pair, including special tokens.
    tokenize : callable
        Runs the tokenizer on a list of texts.

    Returns
    -------
    list of pairs of str
        The tokenizer truncates them to the same tokens.
    """
    if not tokenizer.is_fast:
        return list(pairs)
    room = max(1, max_length - tokenizer.num_special_tokens_to_add(pair=True))
    from_left = tokenizer.truncation_side == "left"

    def tokenized(texts: list[str]) -> list[_Tokenized]:
        rows = tokenize(
            tokenizer,
            texts,
            truncation=False,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_token_type_ids=False,
        )
        parts = zip(texts, rows["input_ids"], rows["offset_mapping"], strict=True)
        return [_Tokenized(*part) for part in parts]

    whole = _in_pairs(tokenized([text for pair in pairs for text in pair]))
    shortened, open_, spare = list(pairs), list(range(len(pairs))), 1
    # If a word is split at the end, its tokens may differ; then more of the text is kept.
    while open_:
        tried = [_shorten(*whole[i], room + spare, from_left) for i in open_]
        found = _in_pairs(tokenized([text for pair in tried for text in pair]))
        fits = [_truncates_alike(whole[i], f, room, from_left) for i, f in zip(open_, found)]  # noqa: B905
        for i, pair, fit in zip(open_, tried, fits, strict=True):
            shortened[i] = pair if fit else shortened[i]
        open_ = [i for i, fit in zip(open_, fits, strict=True) if not fit]
        spare *= 4
    return shortened


def _in_pairs(texts: list[_Tokenized]) -> list[tuple[_Tokenized, _Tokenized]]:
    return list(zip(texts[::2], texts[1::2], strict=True))


def _shorten(first: _Tokenized, second: _Tokenized, n_tokens: int, from_left: bool) -> Pair:
    first_is_longer = len(first.ids) > len(second.ids)
    more = n_tokens + _LONGER
    return (
        first.shortened(more if first_is_longer else n_tokens, from_left),
        second.shortened(n_tokens if first_is_longer else more, from_left),
    )


def _truncates_alike(
    whole: tuple[_Tokenized, _Tokenized],
    part: tuple[_Tokenized, _Tokenized],
    room: int,
    from_left: bool,
) -> bool:
    """Return whether both texts keep the tokens that are read, and the same one is longer."""
    read = slice(-room, None) if from_left else slice(room)
    same = all(
        a.text == b.text or (a.ids[read] == b.ids[read] and len(b.ids) > room)
        for a, b in zip(whole, part, strict=True)
    )
    longer = [len(first.ids) > len(second.ids) for first, second in (whole, part)]
    return same and longer[0] == longer[1]
