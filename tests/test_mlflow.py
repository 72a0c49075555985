"""The recipe for MLflow, as docs/sharing_models.md has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from .classifiers import tiny_text_classifier

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("pandas")

PAGE = Path(__file__).parent.parent / "docs" / "sharing_models.md"


@pytest.mark.filterwarnings("ignore")  # of MLflow, about itself
def test_the_recipe_runs_and_pickles_nothing(notes, tmp_path, monkeypatch):
    _, recipe = PAGE.read_text("utf-8").split("## MLflow")
    loader, log, load = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    X, y = notes
    clf = tiny_text_classifier().fit(X, y)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "epee_pyfunc.py").write_text(loader, encoding="utf-8")
    space = {"clf": clf, "X_test": X[:20], "y_test": y[:20]}
    for snippet in (log, load):
        exec(snippet, space)  # noqa: S102
    found = space["model"].predict(space["pd"].DataFrame({"text": X[:20]}))
    assert_array_equal(found, clf.predict(X[:20]))
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert ".safetensors" in written
    assert not written & {".pkl", ".pickle", ".pt", ".bin"}
