"""Dask: a cluster of two processes, and the schedulers of one machine."""

from __future__ import annotations

import pandas as pd
import pytest

from sklearn_epee.distributed import predict_dask

from .loads import loads

dd = pytest.importorskip("dask.dataframe")


@pytest.fixture
def frame(table):
    return dd.from_pandas(table, npartitions=5)


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def test_a_frame_of_this_machine(model, frame, table, check_rows):
    found = predict_dask(model, frame, "note")
    assert found.divisions == frame.divisions
    computed = found.compute(scheduler="sync")
    assert computed.dtypes.to_dict() == found.dtypes.to_dict()
    assert list(computed.index) == list(table.index)
    check_rows(computed, model)


@pytest.mark.slow
def test_each_process_of_a_cluster_loads_the_model_once(model, frame, cluster, check_rows):
    found = predict_dask(model, frame, "note")
    check_rows(found.compute(), model)
    check_rows(found.compute(), model)
    counts = loads(model.loads_file)
    assert set(counts.values()) == {1}
    assert 1 <= len(counts) <= 2
    assert found["exit_layer"].mean().compute() > 1


def test_nulls_and_empty_partitions(model, frame):
    with_nulls = frame.assign(note=frame["note"].where(frame["ward"] != "B"))
    found = predict_dask(model, with_nulls, "note", missing="null").compute(scheduler="sync")
    assert found["prediction"].isna().sum() == found["exit_layer"].isna().sum() == 30
    with pytest.raises(ValueError, match=r"'note' has no value in the row of index \d+ ") as caught:
        predict_dask(model, with_nulls, "note").compute(scheduler="sync")
    assert "ward" not in str(caught.value)
    none = predict_dask(model, frame[frame["ward"] == "D"], "note")
    assert none.compute(scheduler="sync").dtypes.to_dict() == none.dtypes.to_dict()


def test_other_frames_and_missing_columns_are_refused(model, table, frame):
    with pytest.raises(TypeError, match=r"expected a dask\.dataframe\.DataFrame"):
        predict_dask(model, table, "note")
    with pytest.raises(ValueError, match="names 'text'"):
        predict_dask(model, frame, "text")
    assert isinstance(table, pd.DataFrame)
