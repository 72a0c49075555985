"""Warning and error classes of this package."""

from __future__ import annotations

__all__ = [
    "ClassRecallWarning",
    "DeadlineExceededError",
    "ExitAlarmWarning",
    "ModelFolderError",
    "ProcessFailedError",
    "QueueFullError",
    "ServerClosedError",
    "ServingError",
    "WorkerFailedError",
]


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


class ServingError(RuntimeError):
    """A request to a :class:`~sklearn_epee.serving.AsyncPredictor` was not answered.

    The base of the errors that say why.

    Examples
    --------
    >>> from sklearn_epee.exceptions import QueueFullError, ServingError
    >>> issubclass(QueueFullError, ServingError)
    True
    """


class QueueFullError(ServingError):
    """As many requests as the predictor holds wait already; try again later, or elsewhere.

    Examples
    --------
    >>> from sklearn_epee.exceptions import QueueFullError
    >>> issubclass(QueueFullError, RuntimeError)
    True
    """


class DeadlineExceededError(ServingError, TimeoutError):
    """A request was not answered within its timeout, and is not worked on any more.

    Examples
    --------
    >>> from sklearn_epee.exceptions import DeadlineExceededError
    >>> issubclass(DeadlineExceededError, TimeoutError)
    True
    """


class ServerClosedError(ServingError):
    """The predictor was not started, or is closed, or was closed before it answered.

    Examples
    --------
    >>> from sklearn_epee.exceptions import ServerClosedError
    >>> issubclass(ServerClosedError, RuntimeError)
    True
    """


class WorkerFailedError(ServingError):
    """The thread that predicts failed; the cause is attached, and no request is answered any more.

    Examples
    --------
    >>> from sklearn_epee.exceptions import WorkerFailedError
    >>> issubclass(WorkerFailedError, RuntimeError)
    True
    """


class ProcessFailedError(Exception):
    """Another process of :func:`~sklearn_epee.distributed.data_parallel` failed; so do all.

    Examples
    --------
    >>> from sklearn_epee.exceptions import ProcessFailedError
    >>> issubclass(ProcessFailedError, Exception)
    True
    """
