"""Prediction over a Dask data frame."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ._columns import Plan, make_plan
from ._engines import require
from ._frames import with_predictions
from ._model import PickledModel


def predict_dask(
    estimator: Any,
    frame: Any,
    columns: str | Sequence[str],
    *,
    prefix: str = "",
    missing: str = "error",
    threads_per_worker: int = 1,
    client: Any = None,
) -> Any:
    """Return a Dask data frame with predictions appended, to be computed by Dask.

    The estimator is sent once to each current worker of the cluster, and fetched once by workers
    that are added later; each process loads it once. Each partition is predicted in one call.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier with early exits, or a pipeline, search object, tuned or fixed policy
        around one.
    frame : dask.dataframe.DataFrame
    columns : str or list of str
        Input of the estimator, as in :func:`predict_frame`. Paths of images are opened by the
        workers.
    prefix : str, default=""
        Prefix of the names of appended columns.
    missing : {"error", "null", "pass"}, default="error"
        How to treat rows with a null in `columns`, as in :func:`predict_frame`.
    threads_per_worker : int, default=1
        Number of torch threads in each task. A worker runs ``nthreads`` tasks at once, so
        ``nthreads`` times this number should be at most the number of its cores.
    client : distributed.Client, default=None
        The cluster. None: the current client, or without one the local scheduler.

    Returns
    -------
    dask.dataframe.DataFrame
        The columns of `frame` and after them those of :func:`predict_frame`. Index, partitions,
        divisions and the order of rows are those of `frame`.

    Raises
    ------
    ImportError
        If dask.dataframe is not installed.
    TypeError
        If `frame` is not a data frame of Dask, or the estimator is not a classifier with early
        exits.
    ValueError
        If `columns` do not exist, or an appended column would have the name of another. Missing
        values raise an error when the prediction runs.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> import dask.dataframe as dd  # doctest: +SKIP
    >>> from sklearn_epee.distributed import predict_dask
    >>> found = predict_dask(clf, dd.read_parquet("notes"), "note")  # doctest: +SKIP
    >>> found.to_parquet("predicted")  # doctest: +SKIP
    """
    dask, dd = require("predict_dask", "dask", "dask", "dask.dataframe")
    if not isinstance(frame, dd.DataFrame):
        raise TypeError(
            f"frame is of type {type(frame).__name__}; expected a dask.dataframe.DataFrame."
        )
    plan = make_plan(
        estimator,
        columns,
        frame.columns,
        prefix=prefix,
        missing=missing,
        threads=threads_per_worker,
    )
    model = PickledModel.of(estimator)
    client = _current_client() if client is None else client
    # Without a cluster every task gets the same object. It is delayed, because otherwise Dask would
    # hash its content for every partition to name the tasks.
    shared = (
        dask.delayed(model) if client is None else client.scatter(model, broadcast=True, hash=False)
    )
    return frame.map_partitions(_predicted, shared, plan, meta=_meta(frame, plan))


def _current_client() -> Any:
    try:
        return importlib.import_module("distributed").default_client()
    except (ImportError, ValueError):
        return None


def _meta(frame: Any, plan: Plan) -> Any:
    return with_predictions(None, frame._meta, plan)


def _predicted(frame: Any, shared: PickledModel, plan: Plan) -> Any:
    """Predict one partition, in a worker."""
    return with_predictions(shared.load(plan.threads) if len(frame) else None, frame, plan)
