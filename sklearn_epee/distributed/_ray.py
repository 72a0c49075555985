"""Prediction over a Ray Data dataset."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ._arrow import with_predictions
from ._columns import Plan, make_plan
from ._engines import require
from ._model import PickledModel


def predict_ray(
    estimator: Any,
    dataset: Any,
    columns: str | Sequence[str],
    *,
    prefix: str = "",
    missing: str = "error",
    threads_per_worker: int = 1,
    workers: int | None = None,
    gpus_per_worker: float = 0,
    batch_size: int = 4096,
) -> Any:
    """Return a Ray dataset with predictions appended, to be computed by Ray Data.

    The estimator is put into the object store once, and loaded once by each worker (an actor of a
    pool).

    Parameters
    ----------
    estimator : estimator
        Fitted classifier with early exits, or a pipeline, search object, tuned or fixed policy
        around one.
    dataset : ray.data.Dataset
    columns : str or list of str
        Input of the estimator, as in :func:`predict_frame`. Paths of images are opened by the
        workers.
    prefix : str, default=""
        Prefix of the names of appended columns.
    missing : {"error", "null", "pass"}, default="error"
        How to treat rows with a null in `columns`, as in :func:`predict_frame`.
    threads_per_worker : int, default=1
        Number of torch threads in each worker, and of CPUs that Ray reserves for it.
    workers : int or None, default=None
        Number of workers. None: Ray adds workers as long as batches are waiting.
    gpus_per_worker : float, default=0
        Number of GPUs of each worker; with 0, GPUs are not visible to it.
    batch_size : int, default=4096
        Number of rows that are predicted in one call.

    Returns
    -------
    ray.data.Dataset
        The columns of `dataset`, unchanged, and after them those of :func:`predict_frame`. Rows of
        a block keep their order; blocks only do so with
        ``DataContext.get_current().execution_options.preserve_order = True``, so include a column
        that identifies rows.

    Raises
    ------
    ImportError
        If ray.data or pyarrow is not installed.
    TypeError
        If `dataset` is not a Ray dataset, or the estimator is not a classifier with early exits.
    ValueError
        If `columns` do not exist, an appended column would have the name of another, or a number
        is out of range. Missing values raise an error when the prediction runs.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> import ray  # doctest: +SKIP
    >>> from sklearn_epee.distributed import predict_ray
    >>> found = predict_ray(clf, ray.data.read_parquet("notes"), "note")  # doctest: +SKIP
    >>> found.write_parquet("predicted")  # doctest: +SKIP
    """
    ray, *_ = require("predict_ray", "ray", "ray", "ray.data", "pyarrow")
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(
            f"dataset is of type {type(dataset).__name__}; expected a ray.data.Dataset."
        )
    for name, value in (("workers", workers), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or value != int(value) or value < 1):
            raise ValueError(f"{name}={value!r}; expected an integer from 1.")
    plan = make_plan(
        estimator,
        columns,
        dataset.columns() or [],
        prefix=prefix,
        missing=missing,
        threads=threads_per_worker,
    )
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(ray.put(PickledModel.of(estimator)), plan),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=plan.threads,
        num_gpus=gpus_per_worker,
    )


class _Worker:
    """An actor, which loads the estimator when it starts.

    Parameters
    ----------
    model : ray.ObjectRef
        Reference to a `PickledModel`.
    plan : Plan
    """

    def __init__(self, model: Any, plan: Plan) -> None:
        ray = importlib.import_module("ray")
        self._estimator = ray.get(model).load(plan.threads)
        self._plan = plan

    def __call__(self, batch: Any) -> Any:
        return with_predictions(self._estimator, batch, self._plan)
