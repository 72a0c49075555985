"""Prediction over tables that do not fit one machine: Spark, Dask and Ray Data.

The functions take a fitted estimator and a table of the engine, and return that table with columns
appended: predictions, exit layers, entropies and probabilities. The engine schedules; here is what
happens to one batch of rows, and how the estimator gets to the workers, once per process.
`predict_frame` does the same to a data frame of pandas, in this process.
"""

from __future__ import annotations

from ._dask import predict_dask
from ._frames import predict_frame
from ._ray import predict_ray
from ._spark import predict_spark

__all__ = ["predict_dask", "predict_frame", "predict_ray", "predict_spark"]
