"""Ray Data on a cluster of this machine, with two workers."""

from __future__ import annotations

import pytest

from sklearn_epee.distributed import predict_ray

from .loads import loads

pa = pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    ray.init(
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        configure_logging=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture
def dataset(table):
    integers = pa.array([None, *range(2**60, 2**60 + len(table) - 1)], pa.int64())
    rows = pa.Table.from_pandas(table, preserve_index=False).append_column("large", integers)
    return ray.data.from_arrow([rows.slice(start, 30) for start in (0, 30, 60)])


def test_each_worker_loads_the_model_once_and_columns_are_kept(model, dataset, check_rows):
    predicted = predict_ray(model, dataset, "note", workers=2, batch_size=20).materialize()
    found = pa.concat_tables(ray.get(predicted.to_arrow_refs())).sort_by("key")
    check_rows(found.to_pandas(), model)
    assert found["large"].to_pylist() == [None, *range(2**60, 2**60 + 89)]
    assert str(found.schema.field("exit_layer").type) == "int64"
    assert str(found.schema.field("entropy").type) == "float"
    counts = loads(model.loads_file)
    assert set(counts.values()) == {1}
    assert 1 <= len(counts) <= 2


def test_nulls_and_refusals(model, dataset, table):
    with_nulls = dataset.map_batches(blanked, batch_format="pyarrow", batch_size=None)
    predicted = predict_ray(model, with_nulls, "note", missing="null", workers=1).materialize()
    found = pa.concat_tables(ray.get(predicted.to_arrow_refs()))
    assert found["prediction"].null_count == found["exit_layer"].null_count == 30
    with pytest.raises(Exception, match="'note' has no value"):
        predict_ray(model, with_nulls, "note", workers=1).materialize()
    with pytest.raises(TypeError, match=r"expected a ray\.data\.Dataset"):
        predict_ray(model, table, "note")
    with pytest.raises(ValueError, match="workers=0"):
        predict_ray(model, dataset, "note", workers=0)
    with pytest.raises(ValueError, match="names 'text'"):
        predict_ray(model, dataset, "text")


def blanked(rows):
    pairs = zip(rows["note"].to_pylist(), rows["ward"].to_pylist(), strict=True)
    texts = pa.array([None if ward == "B" else note for note, ward in pairs], pa.string())
    return rows.set_column(rows.column_names.index("note"), "note", texts)
