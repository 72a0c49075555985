"""Convert spans in characters to spans of words and to tags, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sklearn_epee._checks.messages import SampleLabelError

from .schemes import Span, spans_of_words_to_tags

Words = Sequence[tuple[int, int]]


def spans_to_tags(
    spans: Iterable[Span], words: Words, scheme: str = "IOB2", row: int = 0
) -> list[str]:
    """Convert spans in characters to tags, one per word.

    Parameters
    ----------
    spans : iterable of (int, int, str)
        Start, end and label; in any order.
    words : sequence of (int, int)
        Start and end of each word, as returned by `split_words`.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
    row : int, default=0
        Number of the sample, for messages.

    Returns
    -------
    list of str

    Raises
    ------
    SampleLabelError
        If a span does not start and end with a word, or two overlap; `fit_spans` returns which.

    Examples
    --------
    >>> from sklearn_epee._spans import spans_to_tags, split_words
    >>> text = "Rash from insulin."
    >>> spans_to_tags([(10, 17, "Drug"), (0, 4, "Effect")], split_words(text))
    ['B-Effect', 'O', 'B-Drug', 'O']
    """
    given = list(spans)
    return spans_of_words_to_tags(_in_words(given, words, row), len(words), scheme, row, given)


def _in_words(spans: Iterable[Span], words: Words, row: int) -> Iterable[Span]:
    starts, ends = _borders(words)
    for start, end, label in spans:
        if start not in starts or end not in ends or end <= start:
            raise SampleLabelError(
                row,
                f"has the span ({start}, {end}, {label!r}), which does not start and end with a "
                "word and therefore cannot be represented by tags.",
            )
        yield starts[start], ends[end], label


def fit_spans(spans: Iterable[Span], words: Words) -> tuple[list[Span], list[Span]]:
    """Return the spans in characters that tags of words can represent, and the others.

    Of overlapping spans, the first is kept, or the longest if they start together. Duplicates are
    removed.

    Parameters
    ----------
    spans : iterable of (int, int, str)
        Start, end and label, in characters.
    words : sequence of (int, int)
        Start and end of each word.

    Returns
    -------
    kept : list of (int, int, str)
        Ascending, without overlap.
    lost : list of (int, int, str)
        Spans that overlap a kept span, or do not start and end with a word.

    Examples
    --------
    >>> from sklearn_epee._spans import fit_spans, split_words
    >>> text = "Rash from insulin."
    >>> fit_spans([(10, 17, "Drug"), (0, 3, "Effect"), (5, 17, "Cause")], split_words(text))
    ([(5, 17, 'Cause')], [(0, 3, 'Effect'), (10, 17, 'Drug')])
    """
    starts, ends = _borders(words)
    kept: list[Span] = []
    lost: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span[0], -span[1], span[2])):
        start, end, _ = span
        fits = start in starts and end in ends and start < end
        fits = fits and (not kept or kept[-1][1] <= start)
        (kept if fits else lost).append(span)
    return kept, lost


def in_characters(spans: Iterable[Span], words: Words) -> list[Span]:
    """Convert spans in words to spans in characters."""
    return [(words[first][0], words[end - 1][1], label) for first, end, label in spans]


def _borders(words: Words) -> tuple[dict[int, int], dict[int, int]]:
    """Return the word that starts at a character, and the one after the word that ends there."""
    starts = {start: number for number, (start, _) in enumerate(words)}
    ends = {end: number + 1 for number, (_, end) in enumerate(words)}
    return starts, ends
