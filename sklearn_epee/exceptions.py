"""Warnings of this package that can be told from others by their class."""

from __future__ import annotations

__all__ = ["ClassRecallWarning"]


class ClassRecallWarning(UserWarning):
    """A chosen exit policy loses much of the recall of some classes against full depth.

    :class:`~sklearn_epee.TunedExitPolicyClassifierCV` warns with it. To silence it::

        import warnings
        from sklearn_epee.exceptions import ClassRecallWarning

        warnings.filterwarnings("ignore", category=ClassRecallWarning)

    Examples
    --------
    >>> from sklearn_epee.exceptions import ClassRecallWarning
    >>> issubclass(ClassRecallWarning, UserWarning)
    True
    """
