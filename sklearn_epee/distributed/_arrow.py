"""Append predictions to Arrow batches, as used by Spark and Ray."""

from __future__ import annotations

import importlib
from typing import Any

from ._columns import Plan
from ._frames import appended_columns


def with_predictions(estimator: Any, batch: Any, plan: Plan) -> Any:
    """Return an Arrow batch or table with the appended columns of a plan.

    Only the columns that are read are converted to pandas, where NaN and null are the same and
    integers with nulls become floats.

    Parameters
    ----------
    estimator : estimator
    batch : pyarrow.RecordBatch or pyarrow.Table
    plan : Plan

    Returns
    -------
    pyarrow.RecordBatch or pyarrow.Table
        Of the same type as `batch`.
    """
    pa = importlib.import_module("pyarrow")

    span = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
    types = {
        "string": pa.string(), "boolean": pa.bool_(), "integer": pa.int64(),
        "float": pa.float64(), "float32": pa.float32(), "spans": pa.list_(span),
    }  # fmt: skip
    found = appended_columns(estimator, _frame_of(batch, plan), plan)
    arrays, fields = list(batch.columns), list(batch.schema)
    for column in plan.appended:
        values = found[column.name].to_numpy(dtype=object, na_value=None)
        arrays.append(pa.array(values, type=types[column.kind], from_pandas=True))
        fields.append(pa.field(column.name, types[column.kind]))
    # The pandas metadata of the old schema would not match the new columns.
    return type(batch).from_arrays(arrays, schema=pa.schema(fields))


def _frame_of(batch: Any, plan: Plan) -> Any:
    """Return the columns that are read, as a data frame."""
    pa = importlib.import_module("pyarrow")

    # Column by column, without the schema, which can contain pandas metadata.
    table = pa.table({name: batch.column(name) for name in plan.read_names})
    return table.to_pandas()
