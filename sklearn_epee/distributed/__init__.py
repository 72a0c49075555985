"""Prediction of large tables on several machines, and training in several processes.

`predict_spark`, `predict_dask` and `predict_ray` take a fitted estimator and a table of the engine,
and return that table with columns appended: predictions, exit layers, entropies and probabilities.
The engine schedules the work; this package predicts batches of rows and loads the estimator once
per worker process. `predict_frame` does the same for a pandas data frame in this process.

`data_parallel` splits the fits inside it over the processes of a launch of accelerate.
"""

from __future__ import annotations

from ._dask import predict_dask
from ._data_parallel import active_processes as active_processes
from ._data_parallel import data_parallel
from ._frames import predict_frame
from ._processes import Processes as Processes
from ._ray import predict_ray
from ._spark import predict_spark

__all__ = ["data_parallel", "predict_dask", "predict_frame", "predict_ray", "predict_spark"]
