"""One fitted classifier whose loads are counted, and a table of rows that differ in their exits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee.datasets import make_supplement_notes
from tests.checkpoints import tiny_config
from tests.classifiers import tiny_training

from .loads import CountedLoads

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="session", autouse=True)
def _workers_import_what_tests_do():
    """Let the processes of engines import this checkout and its tests."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *([before] if before else [])])
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def table():
    """Rows with a key, a text, numbers of which some are missing, and a large integer."""
    texts, _ = make_supplement_notes(90, random_state=1)
    numbers = np.arange(90, dtype=float)
    numbers[::7] = np.nan
    return pd.DataFrame(
        {"key": np.arange(90) + 2**60, "note": texts, "dose": numbers, "ward": ["A", "B", "C"] * 30}
    )


@pytest.fixture(scope="session")
def _fitted(notes, table):
    config = tiny_config("bert", vocab_size=300, max_position_embeddings=128)
    fitted = CountedLoads(config, memory=None, **tiny_training()).fit(*notes)
    texts = table["note"].tolist()
    # A threshold between entropies of the first layer, so that some rows exit there.
    entropy = np.sort(fitted.set_params(tau=2.0, patience=1).predict_with_exits(texts).entropy)
    gap = np.diff(entropy[30:60]).argmax() + 30
    fitted.set_params(tau=float(entropy[gap : gap + 2].mean()), patience=None)
    assert len(set(fitted.predict_exit_layer(texts))) > 1
    return fitted


@pytest.fixture
def model(_fitted, tmp_path):
    """A classifier with loads counted in its `loads_file`."""
    _fitted.loads_file = str(tmp_path / "loads")
    yield _fitted
    _fitted.loads_file = None


@pytest.fixture
def check_rows(table):
    """Compare a predicted table, in any order, with what a classifier predicts by itself."""

    def check(found, classifier):
        found = found.sort_values("key").reset_index(drop=True)
        expected = table
        assert_array_equal(found["key"], expected["key"])
        assert_array_equal(found["note"].astype(object), expected["note"].astype(object))
        assert_array_equal(found["ward"].astype(object), expected["ward"].astype(object))
        assert_array_equal(found["dose"], expected["dose"])
        alone = classifier.predict_with_exits(expected["note"].tolist())
        assert_array_equal(found["prediction"].astype(object), alone.labels.astype(object))
        assert_array_equal(found["exit_layer"], alone.exit_layer)
        assert_allclose(found["entropy"], alone.entropy, atol=1e-5)
        proba = found[[f"proba_{name}" for name in classifier.classes_]]
        assert_allclose(proba, alone.proba, atol=1e-5)

    return check
