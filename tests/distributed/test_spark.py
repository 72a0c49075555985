"""Spark with two Python workers on this machine; needs Java."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

from sklearn_epee.distributed import predict_spark

from .loads import loads

sql = pytest.importorskip("pyspark.sql")
pytest.importorskip("pyspark.sql.functions")
pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]


@pytest.fixture(scope="module")
def session():
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for name in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(name, "127.0.0.1")
    builder = builder.config("spark.driver.memory", "600m")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "20")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def frame(session, table):
    rows = [
        (int(key), note, None if np.isnan(dose) else dose, ward)
        for key, note, dose, ward in table.itertuples(index=False)
    ]
    frame = session.createDataFrame(rows, "key long, note string, dose double, ward string")
    return frame.repartition(4, "key").cache()


def as_pandas(frame):
    rows = [row.asDict() for row in frame.collect()]
    return pd.DataFrame(rows).astype({"dose": float})


def test_each_worker_loads_the_model_once_and_columns_are_kept(model, frame, check_rows):
    found = predict_spark(model, frame, "note")
    assert dict(found.dtypes)["exit_layer"] == "bigint"
    assert dict(found.dtypes)["proba_started"] == "float"
    check_rows(as_pandas(found), model)
    check_rows(as_pandas(found), model)
    counts = loads(model.loads_file)
    assert set(counts.values()) == {1}
    assert 1 <= len(counts) <= 2


def test_nan_and_null_of_other_columns_stay_apart(model, frame):
    F = sql.functions
    mixed = frame.withColumn("dose", F.when(F.col("ward") == "A", float("nan")))
    doses = [row["dose"] for row in predict_spark(model, mixed, "note").select("dose").collect()]
    assert sum(dose is None for dose in doses) == 60
    assert sum(dose is not None and np.isnan(dose) for dose in doses) == 30


def test_nulls_and_refusals(model, frame, table):
    F = sql.functions
    with_nulls = frame.withColumn("note", F.when(F.col("ward") != "B", F.col("note")))
    rows = predict_spark(model, with_nulls, "note", missing="null").collect()
    assert sum(row["prediction"] is None for row in rows) == 30
    assert {row["exit_layer"] is None for row in rows if row["ward"] == "B"} == {True}
    with pytest.raises(Exception, match="'note' has no value"):
        predict_spark(model, with_nulls, "note").collect()
    with pytest.raises(TypeError, match="expected a DataFrame of Spark"):
        predict_spark(model, table, "note")
    with pytest.raises(ValueError, match=r"spark\.task\.cpus=2"):
        predict_spark(model, frame, "note", threads_per_worker=2)
    with pytest.raises(ValueError, match=r"ignores case.*'ENTROPY'"):
        predict_spark(model, frame.withColumnRenamed("dose", "ENTROPY"), "note")
