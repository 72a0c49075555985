"""Searches whose jobs joblib hands to the workers of Dask or Ray."""

from __future__ import annotations

import joblib
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from tests.classifiers import tiny_text_classifier
from tests.trainings import Trainings

pytestmark = pytest.mark.slow
GRID = {"tau": [0.0, 0.9], "patience": [1, None]}


@pytest.fixture
def check_search(notes, tmp_path):
    """Search with the backend in force, and compare with the same search in this process."""

    def check():
        counts, found = {}, {}
        for name, n_jobs in (("workers", 2), ("alone", None)):
            trainings = Trainings(tmp_path / name)
            classifier = tiny_text_classifier(max_epochs=1, callbacks=[trainings])
            search = GridSearchCV(classifier, GRID, cv=2, n_jobs=n_jobs)
            if n_jobs is None:
                with joblib.parallel_config(backend="sequential"):
                    search.fit(*notes)
            else:
                search.fit(*notes)
            counts[name], found[name] = trainings.count, search
        assert counts == {"workers": 2 + 1, "alone": 2 + 1}
        workers, alone = (found[name].cv_results_ for name in ("workers", "alone"))
        assert_array_equal(workers["mean_test_score"], alone["mean_test_score"])
        assert found["workers"].best_params_ == found["alone"].best_params_
        assert_array_equal(
            found["workers"].predict_proba(notes[0]), found["alone"].predict_proba(notes[0])
        )
        return set((tmp_path / "workers").read_text().split())

    return check


def test_dask_trains_one_network_a_fold(check_search):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        assert len(check_search()) >= 2


def test_ray_trains_one_network_a_fold(check_search):
    ray = pytest.importorskip("ray")
    backend = pytest.importorskip("ray.util.joblib")
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False
    )
    try:
        backend.register_ray()
        with joblib.parallel_config(backend="ray"):
            assert len(check_search()) >= 2
    finally:
        ray.shutdown()
