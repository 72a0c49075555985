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
    """A chosen exit policy has a much lower recall of some classes than full depth.

    Raised by :class:`~sklearn_epee.TunedExitPolicyClassifierCV`. To silence it::

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
    """A folder cannot be loaded by `from_pretrained`; the message says why.

    It is incomplete or was changed, was written by a newer version or by another program, or has
    invalid content. No code in it was executed.

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
    """An alarm of an audit or monitor of early exits in production.

    Raised by :class:`~sklearn_epee.monitoring.ExitAudit` and
    :class:`~sklearn_epee.monitoring.ExitMonitor`, once per alarm. To turn it into an error::

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

    Base class of the more specific errors.

    Examples
    --------
    >>> from sklearn_epee.exceptions import QueueFullError, ServingError
    >>> issubclass(QueueFullError, ServingError)
    True
    """


class QueueFullError(ServingError):
    """The maximum number of requests is already pending; try again later.

    Examples
    --------
    >>> from sklearn_epee.exceptions import QueueFullError
    >>> issubclass(QueueFullError, RuntimeError)
    True
    """


class DeadlineExceededError(ServingError, TimeoutError):
    """A request was not answered within its timeout, and was dropped.

    Examples
    --------
    >>> from sklearn_epee.exceptions import DeadlineExceededError
    >>> issubclass(DeadlineExceededError, TimeoutError)
    True
    """


class ServerClosedError(ServingError):
    """The predictor was not started, is closed, or was closed before it answered.

    Examples
    --------
    >>> from sklearn_epee.exceptions import ServerClosedError
    >>> issubclass(ServerClosedError, RuntimeError)
    True
    """


class WorkerFailedError(ServingError):
    """The prediction thread failed (see the attached cause), and requests are no longer answered.

    Examples
    --------
    >>> from sklearn_epee.exceptions import WorkerFailedError
    >>> issubclass(WorkerFailedError, RuntimeError)
    True
    """


class ProcessFailedError(Exception):
    """Another process of :func:`~sklearn_epee.distributed.data_parallel` failed; all stop.

    Examples
    --------
    >>> from sklearn_epee.exceptions import ProcessFailedError
    >>> issubclass(ProcessFailedError, Exception)
    True
    """
