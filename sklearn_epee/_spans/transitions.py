"""Most probable valid tag sequences: Viterbi decoding with transitions from training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .schemes import parts_of_tag

# Added to the count of every valid transition, and to that of every tag.
_SMOOTHING = 0.5
_TAG_SMOOTHING = 1.0
# Log probability of a tag with probability 0. It is finite, so that there is a best sequence even
# if all valid sequences contain such a tag.
_LOG_OF_ZERO = -1e6
# Maximum size of the arrays of a step, which then fit into the cache of a core.
_STEP_SIZE = 2**17
_PATHS_SIZE = 2**21


def check_transition_weight(transition_weight: Any) -> float:
    """Return the weight of transitions as a float.

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it is negative, infinite or NaN.
    """
    given = transition_weight
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, Real):
        raise TypeError(
            f"transition_weight must be a real number in [0, inf); got {given!r} of type "
            f"{type(given).__name__}."
        )
    weight = float(given)
    if not 0 <= weight < np.inf:  # false for NaN too
        raise ValueError(f"transition_weight must be a real number in [0, inf); got {given!r}.")
    return weight


def valid_transitions(
    tags: Sequence[str], scheme: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which tags of a scheme can follow each other, and which can end a sentence.

    Parameters
    ----------
    tags : sequence of K str
    scheme : {"IOB2", "BIOES", "IO"}

    Returns
    -------
    may_follow : ndarray of shape (K + 1, K), bool
        Whether the tag of the column can follow that of the row; the last row is the start of a
        sentence.
    may_end : ndarray of shape (K,), bool

    Raises
    ------
    ValueError
        If a tag is not one of the scheme.

    Examples
    --------
    >>> from sklearn_epee._spans import valid_transitions
    >>> may_follow, may_end = valid_transitions(["B-Drug", "I-Drug", "O"], "IOB2")
    >>> may_follow.astype(int).tolist()
    [[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1]]
    """
    parts = [parts_of_tag(tag, scheme) for tag in tags]
    prefixes = np.array([prefix for prefix, _ in parts])
    # Integers, because labels are compared in pairs.
    _, labels = np.unique([label for _, label in parts], return_inverse=True)
    goes_on = np.isin(prefixes, [] if scheme == "IO" else ["I", "E"])
    is_open = np.isin(prefixes, ["B", "I"])
    # In IOB2 a span can continue after B and I, but does not have to.
    must_go_on = is_open & (scheme == "BIOES")
    same_span = is_open[:, None] & (labels[:, None] == labels)
    between = np.where(goes_on, same_span, ~must_go_on[:, None])
    return np.vstack([between, ~goes_on]), ~must_go_on


def transition_counts(
    codes: NDArray[np.int64],
    word_counts: NDArray[np.int64],
    n_tags: int,
    weights: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.float32]:
    """Count how often tags follow each other.

    Parameters
    ----------
    codes : ndarray of shape (w,), int
        Indices of the tags of words, sentence after sentence.
    word_counts : ndarray of shape (n,), int
        Number of words of each sentence.
    n_tags : int
        Number of tags K.
    weights : ndarray of shape (w,), default=None
        Weights of the words; None: 1.

    Returns
    -------
    ndarray of shape (K + 1, K), float32
        How often the tag of the column follows that of the row; the last row is the start of a
        sentence.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee._spans import transition_counts
    >>> transition_counts(np.array([0, 1, 1, 1]), np.array([3, 1]), 2).tolist()
    [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    """
    before = np.roll(codes, 1)
    before[(np.cumsum(word_counts) - word_counts)[word_counts > 0]] = n_tags
    size = (n_tags + 1) * n_tags
    found = np.bincount(before * n_tags + codes, weights=weights, minlength=size)
    return found.reshape(n_tags + 1, n_tags).astype(np.float32)


def transition_scores(
    counts: NDArray[np.float32], may_follow: NDArray[np.bool_], weight: float
) -> NDArray[np.float64]:
    """Return the scores of transitions: the weight times log(p(next | tag) / p(next)).

    Both probabilities are smoothed: half a count is added for each valid transition and each tag.

    Parameters
    ----------
    counts : ndarray of shape (K + 1, K)
        As returned by `transition_counts`.
    may_follow : ndarray of shape (K + 1, K), bool
    weight : float

    Returns
    -------
    ndarray of shape (K + 1, K), float64
        -inf for transitions that are not valid.
    """
    of_pairs = (counts.astype(np.float64) + _SMOOTHING) * may_follow
    of_tags = counts.sum(axis=0, dtype=np.float64) + _TAG_SMOOTHING
    given = of_pairs / np.maximum(of_pairs.sum(axis=1, keepdims=True), _SMOOTHING)
    quotients = given * (of_tags.sum() / of_tags)
    logs = np.log(quotients, out=np.zeros_like(quotients), where=may_follow)
    return np.where(may_follow, weight * logs, -np.inf)


def most_probable_tags(
    proba: NDArray[np.floating[Any]],
    word_counts: NDArray[np.int64],
    scores: NDArray[np.float64],
    may_end: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return the tags of the best sequence of each sentence, by the Viterbi algorithm.

    The best sequence has the largest sum of the log probabilities of its tags and the scores of its
    transitions, as in a linear-chain conditional random field [1]_ [2]_. With the scores of
    `transition_scores` and a weight of 1, the likelihood of a word is its tag probabilities divided
    by the frequencies of the tags, as in hybrids of networks and hidden Markov models [3]_.

    Parameters
    ----------
    proba : ndarray of shape (w, K)
        Probabilities of the tags of words, sentence after sentence.
    word_counts : ndarray of shape (n,), int
        Number of words of each sentence; 0 is allowed.
    scores : ndarray of shape (K + 1, K), float64
        Scores of transitions, in the last row from the start of a sentence; -inf if invalid.
    may_end : ndarray of shape (K,), bool
        Which tags can end a sentence.

    Returns
    -------
    ndarray of shape (w,), int64
        Indices of tags.

    References
    ----------
    .. [1] Viterbi, "Error bounds for convolutional codes and an asymptotically optimum decoding
       algorithm", IEEE Transactions on Information Theory 13, 1967.
    .. [2] Lafferty, McCallum and Pereira, "Conditional Random Fields: Probabilistic Models for
       Segmenting and Labeling Sequence Data", ICML 2001.
    .. [3] Bourlard and Morgan, "Connectionist Speech Recognition: A Hybrid Approach", 1994.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee._spans import most_probable_tags
    >>> proba = np.array([[0.6, 0.4], [0.3, 0.7], [0.4, 0.6]])
    >>> seldom_changes = np.array([[0.0, -2.0], [-2.0, 0.0], [0.0, 0.0]])
    >>> most_probable_tags(proba, np.array([3]), seldom_changes, np.array([True, True])).tolist()
    [1, 1, 1]
    """
    likely = np.full(proba.shape, _LOG_OF_ZERO)
    np.log(proba, out=likely, where=proba > 0)
    starts = np.cumsum(word_counts) - word_counts
    found = np.empty(len(proba), np.int64)
    for rows in _rows_by_length(word_counts, proba.shape[1]):
        _decode(likely, starts[rows], word_counts[rows], (scores, may_end), found)
    return found


def _rows_by_length(word_counts: NDArray[np.int64], n_tags: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of sentences with words, the longest first, some at a time."""
    rows = np.argsort(-word_counts, kind="stable")
    rows = rows[: np.count_nonzero(word_counts)]
    start = 0
    while start < len(rows):
        longest = int(word_counts[rows[start]])
        size = max(1, min(_STEP_SIZE // n_tags**2, _PATHS_SIZE // (n_tags * longest)))
        yield rows[start : start + size]
        start += size


def _decode(
    likely: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    transitions: tuple[NDArray[np.float64], NDArray[np.bool_]],
    found: NDArray[np.int64],
) -> None:
    """Write the best tags of sentences, the longest first, to `found`."""
    (scores, may_end), n_words = transitions, int(lengths[0])
    from_tags = np.ascontiguousarray(scores[:-1].T)
    best = likely[starts] + scores[-1]
    came_from = np.empty((n_words, len(starts), len(may_end)), np.int32)
    # Number of sentences that have a word at each position.
    n_open = np.searchsorted(-lengths, -np.arange(n_words), side="left")
    for word in range(1, n_words):
        n = n_open[word]
        sums = best[:n, None, :] + from_tags  # (n, to, from)
        before = sums.argmax(axis=2)
        came_from[word, :n] = before
        best[:n] = np.take_along_axis(sums, before[..., None], axis=2)[..., 0]
        best[:n] += likely[starts[:n] + word]
    tags = np.where(may_end, best, -np.inf).argmax(axis=1)
    for word in range(n_words - 1, -1, -1):
        n = n_open[word]
        found[starts[:n] + word] = tags[:n]
        if word:
            tags[:n] = came_from[word, np.arange(n), tags[:n]]
