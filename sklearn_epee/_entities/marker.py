"""EntityMarker: transform rows of a text and two spans to texts with marked entities."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._checks.entity_marks import MARK, closing_mark, opening_mark
from sklearn_epee._checks.messages import SampleError, shown
from sklearn_epee._compat import Interval, StrOptions
from sklearn_epee._documentation import DocumentationLinkMixin

from .marking import marked_text, shortened
from .mentions import Mention
from .rows import Column, Columns, MentionRow, read_rows


class EntityMarker(TransformerMixin, DocumentationLinkMixin, BaseEstimator):
    """Mark two entities in each text, for classifiers of the relation between them.

    A row is a text with two spans, one for each entity; the result is the text with marks around
    both, ``[E1] aspirin [/E1] ... [E2] warfarin [/E2]``. `EPEEClassifier` reads the starts of the
    opening marks with ``pooling="entity"`` (entity markers after [1]_).

    Parameters
    ----------
    markers : {"untyped", "typed"}, default="untyped"
        "typed" writes the type of an entity into its marks, ``[E1:drug] aspirin [/E1:drug]``, after
        [2]_.
    text : str, default="text"
        Key of dicts, or column of data frames, with the text.
    span1, span2 : str or pair of str, default="span1" and "span2"
        Key or column of the span of each entity, or those of its start and its end.
    type1, type2 : str, default="type1" and "type2"
        Key or column of the type of each entity; may be absent where spans have their types, or
        with untyped markers.
    others : str, default="others"
        Key or column of a list of the spans of other mentions in the text.
    pieces : {"whole", "each"}, default="whole"
        How a mention of several pieces is marked: once, from its first to its last character, or
        at each piece.
    blind_others : str or None, default=None
        Placeholder for every other mention, such as "DRUGOTHER". Mentions that overlap one of the
        two entities are not replaced.
    handle_unknown : {"error", "untyped"}, default="error"
        With typed markers, what `transform` does with a type that `fit` has not seen: raise an
        error, or mark the entity without its type.
    existing_marks : {"error", "escape"}, default="error"
        How to treat a text that already contains marks, which could be confused with those of its
        entities: raise an error, or change them to parentheses, ``(E1)``.
    max_length : int or None, default=None
        Maximum number of characters of a marked text. Longer texts are shortened by whole words:
        the text from the first entity to the second is kept if it fits, with equal parts before and
        after it; otherwise the words nearest to the entities are kept. `EPEEClassifier` with
        ``pooling="entity"`` does this automatically, in tokens of its backbone.

    Attributes
    ----------
    entity_types_ : ndarray of str
        The types of both entities seen in `fit`, sorted; empty with untyped markers.
    marks_ : list of str
        All marks that `transform` may write.

    Notes
    -----
    A row is one of:

    - a tuple or list ``(text, span1, span2)``, which may go on with ``(type1, type2)`` and
      with a list of the spans of other mentions;
    - a dict, or a row of a pandas or polars frame, with the keys or columns that the parameters
      name;
    - spaCy's objects in one of these places: a ``Doc`` for the text, a ``Span`` for a span.

    A span is ``(start, end)`` or ``(start, end, type)`` in characters as Python counts them, the
    end not included; a list of ``(start, end)`` for the pieces of one mention, or that list beside
    a type, ``([(0, 4), (9, 12)], "drug")``; a dict with "start" and "end", perhaps "type" or
    "label"; or an object with ``start_char`` and ``end_char``, perhaps ``label_``.

    Spans may overlap, be nested or be equal. Marks are placed by position: those of the outer span
    outside, and those of the first entity outside if spans are equal.

    References
    ----------
    .. [1] Baldini Soares et al., "Matching the Blanks: Distributional Similarity for Relation
       Learning", arXiv:1906.03158.
    .. [2] Zhong and Chen, "A Frustratingly Easy Approach for Entity and Relation Extraction",
       arXiv:2010.12812.

    Examples
    --------
    >>> from sklearn_epee import EntityMarker
    >>> note = "Aspirin increases the effect of warfarin."
    >>> EntityMarker().fit_transform([(note, (0, 7), (32, 40))])[0]
    '[E1] Aspirin [/E1] increases the effect of [E2] warfarin [/E2].'
    >>> typed = EntityMarker(markers="typed")
    >>> typed.fit_transform([(note, (0, 7, "drug"), (32, 40, "anticoagulant"))])[0][:30]
    '[E1:drug] Aspirin [/E1:drug] i'
    >>> typed.entity_types_.tolist()
    ['anticoagulant', 'drug']

    From the columns of a frame:

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"sentence": [note], "s1": [0], "e1": [7], "s2": [32], "e2": [40]})
    >>> marker = EntityMarker(text="sentence", span1=("s1", "e1"), span2=("s2", "e2"))
    >>> marker.fit_transform(frame)[0]
    '[E1] Aspirin [/E1] increases the effect of [E2] warfarin [/E2].'
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "markers": [StrOptions({"untyped", "typed"})],
        "text": [str],
        "span1": [str, tuple, list],
        "span2": [str, tuple, list],
        "type1": [str],
        "type2": [str],
        "others": [str],
        "pieces": [StrOptions({"whole", "each"})],
        "blind_others": [str, None],
        "handle_unknown": [StrOptions({"error", "untyped"})],
        "existing_marks": [StrOptions({"error", "escape"})],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        markers: str = "untyped",
        *,
        text: str = "text",
        span1: str | tuple[str, str] = "span1",
        span2: str | tuple[str, str] = "span2",
        type1: str = "type1",
        type2: str = "type2",
        others: str = "others",
        pieces: str = "whole",
        blind_others: str | None = None,
        handle_unknown: str = "error",
        existing_marks: str = "error",
        max_length: int | None = None,
    ) -> None:
        self.markers = markers
        self.text = text
        self.span1 = span1
        self.span2 = span2
        self.type1 = type1
        self.type2 = type2
        self.others = others
        self.pieces = pieces
        self.blind_others = blind_others
        self.handle_unknown = handle_unknown
        self.existing_marks = existing_marks
        self.max_length = max_length

    def fit(self, X: Any, y: ArrayLike | None = None) -> Self:  # noqa: ARG002 - scikit-learn's
        """Learn the types of entities.

        Parameters
        ----------
        X : list, tuple, ndarray, pandas or polars DataFrame of shape (n_samples,)
            Rows as described in the class documentation.
        y : None
            Ignored.

        Returns
        -------
        self : EntityMarker

        Raises
        ------
        ValueError
            If a row is not as described, or with typed markers has no type; the message gives its
            number.
        TypeError
            If X is not a sequence of rows.

        Examples
        --------
        >>> from sklearn_epee import EntityMarker
        >>> EntityMarker().fit([("Aspirin and warfarin", (0, 7), (12, 20))]).marks_
        ['[E1]', '[/E1]', '[E2]', '[/E2]']
        """
        self._validate_params()
        rows = read_rows(X, self._columns())
        typed = self.markers == "typed"
        found = {self._type_of(row, i, number) for number, row in enumerate(rows) for i in (0, 1)}
        self.entity_types_ = np.array(sorted(filter(None, found)), dtype=str)
        self.marks_ = [
            mark(number, entity_type)
            for number in (1, 2)
            for entity_type in (self.entity_types_.tolist() if typed else [None])
            for mark in (opening_mark, closing_mark)
        ]
        return self

    def transform(self, X: Any) -> NDArray[np.object_]:
        """Return the texts with marks around both entities.

        Parameters
        ----------
        X : list, tuple, ndarray, pandas or polars DataFrame of shape (n_samples,)
            Rows as described in the class documentation.

        Returns
        -------
        ndarray of shape (n_samples,), object
            The texts, str.

        Raises
        ------
        ValueError
            If a row is not as described, has a type that is not known, or holds marks already, or
            if its entities do not fit in `max_length`; the message gives its number.
        TypeError
            If X is not a sequence of rows.

        Examples
        --------
        >>> from sklearn_epee import EntityMarker
        >>> rows = [("Aspirin, ibuprofen and warfarin", (0, 7), (23, 31), None, [(9, 18)])]
        >>> EntityMarker(blind_others="DRUGOTHER").fit(rows).transform(rows)[0]
        '[E1] Aspirin [/E1], DRUGOTHER and [E2] warfarin [/E2]'
        """
        check_is_fitted(self)
        rows = read_rows(X, self._columns())
        marked = np.empty(len(rows), dtype=object)
        marked[:] = [self._marked(row, number) for number, row in enumerate(rows)]
        return marked

    def get_feature_names_out(
        self,
        input_features: ArrayLike | None = None,  # noqa: ARG002 - scikit-learn's
    ) -> NDArray[np.object_]:
        """Return the name of the one column of texts.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of shape (1,), object

        Examples
        --------
        >>> from sklearn_epee import EntityMarker
        >>> marker = EntityMarker().fit([("Aspirin and warfarin", (0, 7), (12, 20))])
        >>> marker.get_feature_names_out()
        array(['marked_text'], dtype=object)
        """
        check_is_fitted(self)
        return np.array(["marked_text"], dtype=object)

    def _columns(self) -> Columns:
        spans = self._span_column("span1"), self._span_column("span2")
        return Columns(self.text, spans, (self.type1, self.type2), self.others)

    def _span_column(self, name: str) -> Column:
        column = getattr(self, name)
        if isinstance(column, str):
            return column
        pair: Sequence[Any] = tuple(column)
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(
                f"{name}={shown(column)}; expected the name of a column, or those of the columns "
                "with starts and with ends."
            )
        return pair[0], pair[1]

    def _type_of(self, row: MentionRow, i: int, number: int) -> str | None:
        """Return the type of an entity of a row, None with untyped markers."""
        if self.markers != "typed":
            return None
        entity_type = row.entities[i].entity_type
        if entity_type is None:
            raise SampleError(
                number,
                f"has no type of span{i + 1}, which markers='typed' needs; expected (start, end, "
                "type), or keys or columns type1 and type2.",
            )
        return entity_type

    def _marked(self, row: MentionRow, number: int) -> str:
        """Return the marked text of a row."""
        entities = [self._entity(row, i, number) for i in (0, 1)]
        text = self._without_marks(row.text, number)
        others = row.others or ()
        if self.blind_others is not None and row.others is None:
            raise SampleError(
                number,
                f"has no other mentions, which blind_others={self.blind_others!r} needs; expected "
                "a list of spans, which may be empty.",
            )
        if self.pieces == "whole":
            entities = [entity.whole for entity in entities]
        marked = marked_text(
            text, (entities[0], entities[1]), others, self.blind_others, self.markers == "typed"
        )
        if self.max_length is None:
            return marked
        short = shortened(marked, self.max_length)
        if short is None:
            raise SampleError(
                number,
                f"does not fit: its two entities with their marks are longer than max_length="
                f"{self.max_length} characters. Raise max_length.",
            )
        return short

    def _entity(self, row: MentionRow, i: int, number: int) -> Mention:
        """Return an entity of a row, with a valid type."""
        entity_type = self._type_of(row, i, number)
        if entity_type is None or entity_type in self.entity_types_:
            return Mention(row.entities[i].pieces, entity_type)
        if self.handle_unknown == "error":
            raise SampleError(
                number,
                f"has {entity_type!r} as the type of span{i + 1}, which was not seen in fit; "
                f"expected one of {', '.join(self.entity_types_)}, or handle_unknown='untyped'.",
            )
        return Mention(row.entities[i].pieces, None)

    def _without_marks(self, text: str, number: int) -> str:
        """Return a text of the same length without marks."""
        found = MARK.search(text)
        if found is None:
            return text
        if self.existing_marks == "error":
            raise SampleError(
                number,
                f"holds the mark {found.group()!r} already: {shown(text)}. Give texts without "
                "marks, or set existing_marks='escape'.",
            )
        return MARK.sub(lambda mark: f"({mark.group()[1:-1]})", text)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags
