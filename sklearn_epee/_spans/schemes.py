"""Tagging schemes IOB2, BIOES and IO: convert tags to spans and back, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sklearn_epee._checks.messages import SampleLabelError, shown

# First word (inclusive), last word (exclusive), label.
Span = tuple[int, int, str]

_PREFIXES = {"IOB2": "BIO", "BIOES": "BIOES", "IO": "IO"}
SCHEMES = tuple(_PREFIXES)
# The label of tags without one ("B", "I"), as in seqeval.
_UNNAMED = "_"


def check_scheme(scheme: Any) -> str:
    """Return the name of a tagging scheme.

    Raises
    ------
    ValueError
        If the scheme is unknown.
    """
    if scheme not in _PREFIXES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}; got {scheme!r}.")
    return str(scheme)


def check_tags(tags: Any, n_words: int | None, scheme: str, row: int) -> list[str]:
    """Check the tags of one sample, and return them as a list of str.

    Parameters
    ----------
    tags : sequence of str
    n_words : int or None
        Expected number of tags; None: not checked.
    scheme : {"IOB2", "BIOES", "IO"}
    row : int
        Number of the sample, for messages.

    Returns
    -------
    list of str

    Raises
    ------
    SampleLabelError
        If a tag is not in the scheme, or the number of tags is not `n_words`.
    """
    found = tags.tolist() if hasattr(tags, "tolist") else tags
    if not isinstance(found, (list, tuple)):
        raise SampleLabelError(row, f"has the tags {shown(tags)}; expected a list of str.")
    for number, tag in enumerate(found):
        if not isinstance(tag, str) or not _is_tag(tag, scheme):
            raise SampleLabelError(
                row,
                f"has the tag {shown(tag)} at word {number}; expected tags of the scheme "
                f"{scheme}: 'O', or {_forms(scheme)} with a label.{_hint(tag)}",
            )
    if n_words is not None and len(found) != n_words:
        raise SampleLabelError(
            row, f"has {len(found)} tag(s) for {n_words} words; expected one per word."
        )
    return list(found)


def tags_to_spans(tags: Sequence[str], scheme: str = "IOB2") -> list[Span]:
    """Convert tags to spans, as in the strict mode of seqeval.

    In IOB2 a span starts with a B and continues with I of the same label. In BIOES it is one S, or
    a B, any number of I and an E of the same label. Other sequences are not spans, such as an I
    after an O or after another label, or a B without an E. In IO a span is a run of one label.

    Parameters
    ----------
    tags : sequence of str
        "O", or a prefix of the scheme with a label, such as "B-Drug". A prefix alone has the
        label "_".
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"

    Returns
    -------
    list of (int, int, str)
        First word (inclusive), last word (exclusive), label; ascending, without overlap.

    Raises
    ------
    ValueError
        If a tag is not in the scheme.

    Examples
    --------
    >>> from sklearn_epee._spans import tags_to_spans
    >>> tags_to_spans(["B-Drug", "I-Drug", "O", "I-Drug", "B-Effect", "B-Effect"])
    [(0, 2, 'Drug'), (4, 5, 'Effect'), (5, 6, 'Effect')]
    """
    known = {tag: parts_of_tag(tag, scheme) for tag in dict.fromkeys(tags)}
    parts = [known[tag] for tag in tags]
    spans: list[Span] = []
    end = 0
    for start, (prefix, label) in enumerate(parts):
        # Most words are outside of spans.
        if prefix != "O" and start >= end:
            end = _end_of_span(parts, start, scheme)
            if end:
                spans.append((start, end, label))
    return spans


def _end_of_span(parts: list[tuple[str, str]], start: int, scheme: str) -> int:
    """Return the end (exclusive) of the span that starts at a word; 0 if there is none."""
    prefix, label = parts[start]
    if prefix == "S":
        return start + 1
    if prefix != ("I" if scheme == "IO" else "B"):
        return 0
    end = start + 1
    while end < len(parts) and parts[end] == ("I", label):
        end += 1
    if scheme != "BIOES":
        return end
    return end + 1 if end < len(parts) and parts[end] == ("E", label) else 0


def spans_of_words_to_tags(
    spans: Iterable[Span],
    n_words: int,
    scheme: str = "IOB2",
    row: int = 0,
    given: Sequence[Span] | None = None,
) -> list[str]:
    """Convert spans to tags, one per word: the inverse of `tags_to_spans`.

    Parameters
    ----------
    spans : iterable of (int, int, str)
        First word (inclusive), last word (exclusive), label; in any order.
    n_words : int
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
    row : int, default=0
        Number of the sample, for messages.
    given : sequence of (int, int, str), default=None
        The same spans in the user's units, such as characters, for messages.

    Returns
    -------
    list of str

    Raises
    ------
    SampleLabelError
        If a span is outside the words, or two overlap.
    """
    tags = ["O"] * n_words
    spans = list(spans)
    as_given = spans if given is None else given
    for number, (start, end, label) in enumerate(spans):
        if not 0 <= start < end <= n_words:
            raise SampleLabelError(
                row,
                f"has the span ({start}, {end}, {label!r}); expected 0 <= start < end <= "
                f"{n_words}, the number of its words.",
            )
        if any(tag != "O" for tag in tags[start:end]):
            other = next(i for i, (a, b, _) in enumerate(spans) if a < end and start < b)
            raise SampleLabelError(
                row,
                f"has the spans {as_given[other]} and {as_given[number]}, which overlap. Tags "
                "cannot represent this; pass overlapping spans as several layers of spans.",
            )
        tags[start:end] = _tags_of_span(end - start, label, scheme)
    return tags


def _tags_of_span(length: int, label: str, scheme: str) -> list[str]:
    if scheme == "IO":
        prefixes = "I" * length
    elif scheme == "BIOES":
        prefixes = "S" if length == 1 else "B" + "I" * (length - 2) + "E"
    else:
        prefixes = "B" + "I" * (length - 1)
    return [prefix if label == _UNNAMED else f"{prefix}-{label}" for prefix in prefixes]


def convert_scheme(tags: Sequence[str], scheme: str, to: str) -> list[str]:
    """Convert tags to another scheme.

    Tags that are not part of a span are lost. In IO, adjacent spans of one label become one span.

    Parameters
    ----------
    tags : sequence of str
    scheme, to : {"IOB2", "BIOES", "IO"}

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a tag is not in the scheme.

    Examples
    --------
    >>> from sklearn_epee._spans import convert_scheme
    >>> convert_scheme(["B-Drug", "I-Drug", "O", "B-Drug"], "IOB2", "BIOES")
    ['B-Drug', 'E-Drug', 'O', 'S-Drug']
    """
    return spans_of_words_to_tags(tags_to_spans(tags, scheme), len(tags), check_scheme(to))


def tag_set(labels: Iterable[str], scheme: str = "IOB2") -> list[str]:
    """Return all tags of a scheme for some labels: "O" first, then those of each label.

    Examples
    --------
    >>> from sklearn_epee._spans import tag_set
    >>> tag_set(["Drug", "Effect"])
    ['O', 'B-Drug', 'I-Drug', 'B-Effect', 'I-Effect']
    """
    prefixes = [prefix for prefix in _PREFIXES[check_scheme(scheme)] if prefix != "O"]
    return ["O"] + [
        prefix if label == _UNNAMED else f"{prefix}-{label}"
        for label in sorted(set(labels))
        for prefix in prefixes
    ]


def _is_tag(tag: str, scheme: str) -> bool:
    prefix, dash, label = tag[:1], tag[1:2], tag[2:]
    if prefix == "O" or prefix not in tuple(_PREFIXES[scheme]):
        return tag == "O"
    return dash == "" or (dash == "-" and label != "")


def parts_of_tag(tag: str, scheme: str) -> tuple[str, str]:
    """Return the prefix and the label of a tag; the label of "O" is empty.

    Raises
    ------
    ValueError
        If the tag is not in the scheme.
    """
    if not _is_tag(tag, check_scheme(scheme)):
        raise ValueError(
            f"{tag!r} is not a tag of the scheme {scheme}: 'O', or {_forms(scheme)} with a label."
            f"{_hint(tag)}"
        )
    return tag[:1], tag[2:] or ("" if tag == "O" else _UNNAMED)


def _forms(scheme: str) -> str:
    return ", ".join(f"'{prefix}-'" for prefix in _PREFIXES[scheme] if prefix != "O")


def _hint(tag: Any) -> str:
    fitting = [other for other in SCHEMES if isinstance(tag, str) and _is_tag(tag, other)]
    return f" It is a tag of {' and of '.join(fitting)}; pass scheme." if fitting else ""
