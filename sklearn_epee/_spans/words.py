"""Split a text into words with their positions."""

from __future__ import annotations

import re
import unicodedata

# Replaces every character that belongs to the one before it.
_MARK = "\u0301"
# A number; letters, with digits after them; any other character.
_WORD = re.compile(
    rf"\d+(?:[.,]\d+)*{_MARK}*|(?:[^\W\d_]{_MARK}*)(?:[^\W_]{_MARK}*)*|[^\s\0]{_MARK}*"
)


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) of every word of a text, in characters.

    A word is a run of letters with the digits after them ("CYP2D6"), or a number with the points
    and commas inside it ("0.5", "1,000"); every other character except blanks is a separate word.
    So "insulin-induced" has three words, and a span can contain one of them, "5mg/kg" is "5", "mg",
    "/" and "kg", and "patient's" is "patient", "'" and "s". Letters can be of any script; combining
    marks, joiners and soft hyphens belong to the character before them. Invisible characters
    (zero-width spaces, control characters) are not words.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of (int, int)
        Ascending, without overlap; empty for a text without words.

    Examples
    --------
    >>> from sklearn_epee._spans import split_words
    >>> text = "IL-6 fell (0.5mg/kg)."
    >>> [text[start:end] for start, end in split_words(text)]
    ['IL', '-', '6', 'fell', '(', '0.5', 'mg', '/', 'kg', ')', '.']
    """
    plain = text if text.isascii() and text.isprintable() else "".join(map(_plain, text))
    return [found.span() for found in _WORD.finditer(plain)]


def _plain(character: str) -> str:
    """Return the character that the pattern sees: a mark, a blank or the character itself."""
    category = unicodedata.category(character)
    if category[0] == "M" or character in "\u00ad\u200c\u200d":
        return _MARK
    return " " if category in ("Cc", "Cf") else character
