"""Prediction over a Spark data frame."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ._arrow import with_predictions
from ._columns import Plan, make_plan
from ._engines import require
from ._model import PickledModel


def predict_spark(
    estimator: Any,
    frame: Any,
    columns: str | Sequence[str],
    *,
    prefix: str = "",
    missing: str = "error",
    threads_per_worker: int = 1,
) -> Any:
    """Return a Spark data frame with predictions appended, to be computed by Spark.

    The estimator is broadcast once, and loaded once in each Python worker, which Spark reuses from
    task to task (``spark.python.worker.reuse``). Batches have
    ``spark.sql.execution.arrow.maxRecordsPerBatch`` rows, 10000 by default.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier with early exits, or a pipeline, search object, tuned or fixed policy
        around one.
    frame : pyspark.sql.DataFrame
        From a classic session, because Spark Connect cannot broadcast.
    columns : str or list of str
        Input of the estimator, as in :func:`predict_frame`. Paths of images are opened by the
        workers.
    prefix : str, default=""
        Prefix of the names of appended columns.
    missing : {"error", "null", "pass"}, default="error"
        How to treat rows with a null in `columns`, as in :func:`predict_frame`.
    threads_per_worker : int, default=1
        Number of torch threads in each worker; at most ``spark.task.cpus``, so that an executor
        does not run more threads than it has cores.

    Returns
    -------
    pyspark.sql.DataFrame
        The columns of `frame`, unchanged, and after them those of :func:`predict_frame`, as
        string, bigint, boolean, double or float, and spans as arrays of structs. Rows keep their
        order within a partition; Spark tables have no other order, so include a column that
        identifies rows.

    Raises
    ------
    ImportError
        If pyspark or pyarrow is not installed.
    TypeError
        If `frame` is not a data frame of classic Spark, or the estimator is not a classifier with
        early exits.
    ValueError
        If `columns` do not exist, an appended column would have the name of another (Spark ignores
        case), or there are more threads than ``spark.task.cpus``. Missing values raise an error
        when the prediction runs.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> from sklearn_epee.distributed import predict_spark
    >>> found = predict_spark(clf, spark.table("notes"), "note")  # doctest: +SKIP
    >>> found.write.parquet("predicted")  # doctest: +SKIP
    """
    require("predict_spark", "spark", "pyspark", "pyarrow")
    context = _context_of(frame)
    plan = make_plan(
        estimator,
        columns,
        frame.columns,
        prefix=prefix,
        missing=missing,
        threads=threads_per_worker,
        ignores_case=True,
    )
    cores = int(context.getConf().get("spark.task.cpus", "1"))
    if plan.threads > cores:
        raise ValueError(
            f"threads_per_worker={plan.threads}, but Spark gives each task {cores} core(s); set "
            f"spark.task.cpus={plan.threads} as well."
        )
    shared = context.broadcast(PickledModel.of(estimator))
    return frame.mapInArrow(partial(_predicted, shared, plan), _schema(frame.schema, plan))


def _context_of(frame: Any) -> Any:
    if not hasattr(frame, "mapInArrow"):
        raise TypeError(f"frame is of type {type(frame).__name__}; expected a DataFrame of Spark.")
    if ".connect." in type(frame).__module__:
        raise TypeError(
            "frame belongs to Spark Connect, which cannot broadcast a model to the workers; use a "
            "classic session (a Spark driver)."
        )
    return frame.sparkSession.sparkContext


def _schema(schema: Any, plan: Plan) -> Any:
    types = importlib.import_module("pyspark.sql.types")
    integer, text = types.LongType(), types.StringType()
    span = types.StructType().add("start", integer).add("end", integer).add("label", text)
    of_kind = {
        "string": text, "boolean": types.BooleanType(), "integer": integer,
        "float": types.DoubleType(), "float32": types.FloatType(), "spans": types.ArrayType(span),
    }  # fmt: skip
    appended = [types.StructField(column.name, of_kind[column.kind]) for column in plan.appended]
    return types.StructType([*schema.fields, *appended])


def _predicted(shared: Any, plan: Plan, batches: Iterator[Any]) -> Iterator[Any]:
    """Predict the batches of one partition, in a worker."""
    estimator = shared.value.load(plan.threads)
    for batch in batches:
        yield with_predictions(estimator, batch, plan)
