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
    """Return a data frame of Dask with predictions appended, to be computed by Dask.

    The estimator is sent once to each worker of a cluster that is there now, and fetched once by
    workers that come later; each process loads it once. A partition is predicted in one call.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier with early exits, or a pipeline, search object, tuned or fixed policy
        around one.
    frame : dask.dataframe.DataFrame
    columns : str or list of str
        What the estimator reads, as in :func:`predict_frame`. Paths of images are opened by the
        workers.
    prefix : str, default=""
        Goes before the name of every appended column.
    missing : {"error", "null", "pass"}, default="error"
        What becomes of rows with a null in `columns`, as in :func:`predict_frame`.
    threads_per_worker : int, default=1
        Threads of torch in each task. A worker runs as many tasks at once as Dask gave it threads
        (``nthreads``), so that ``nthreads`` times this should be the worker's cores at most.
    client : distributed.Client, default=None
        The cluster. None: the current client, or without one the scheduler of this machine.

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
        If `columns` are not there, or an appended column would have the name of another. A value
        that is missing is refused when the prediction runs.
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
    # Without a cluster every task gets the same object; a delayed one keeps it out of the graph's
    # names, which would be made from its content for every partition.
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
