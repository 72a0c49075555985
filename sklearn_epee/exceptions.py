"""Warnings and errors of this package that can be told from others by their class."""

from __future__ import annotations

__all__ = ["ClassRecallWarning", "ExitAlarmWarning", "ModelFolderError"]


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


class ModelFolderError(ValueError):
    """A folder that `from_pretrained` does not load; the message says why.

    It is incomplete or changed, was written by a newer version or by something else, or holds what
    no model can be made of. Nothing of it was executed.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_epee import EPEEClassifier
    >>> from sklearn_epee.exceptions import ModelFolderError
    >>> try:
    ...     EPEEClassifier.from_pretrained(tempfile.mkdtemp())
    ... except ModelFolderError as error:
    ...     print("refused")
    refused
    """


class ExitAlarmWarning(UserWarning):
    """Early exits in use are not what they were.

    :class:`~sklearn_epee.monitoring.ExitAudit` and :class:`~sklearn_epee.monitoring.ExitMonitor`
    warn with it, once per alarm. To make an error of it::

        import warnings
        from sklearn_epee.exceptions import ExitAlarmWarning

        warnings.filterwarnings("error", category=ExitAlarmWarning)

    Examples
    --------
    >>> from sklearn_epee.exceptions import ExitAlarmWarning
    >>> issubclass(ExitAlarmWarning, UserWarning)
    True
    """
