"""One batch of rows, which is what every engine runs: columns, kinds, nulls and refusals."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import EPEETokenClassifier, FixedExitPolicyClassifier
from sklearn_epee.distributed import (
    _engines,
    _model,
    predict_dask,
    predict_frame,
    predict_ray,
    predict_spark,
)
from sklearn_epee.distributed._columns import make_plan
from sklearn_epee.distributed._frames import appended_columns, limited_threads
from sklearn_epee.distributed._model import PickledModel
from tests.classifiers import tiny_multimodal_classifier, tiny_text_classifier

from .loads import loads

APPENDED = [
    "prediction", "exit_layer", "entropy",
    "proba_continuing", "proba_discontinued", "proba_started", "proba_uncertain",
]  # fmt: skip


def plan_of(model, **options):
    defaults = {"prefix": "", "missing": "error", "threads": 1}
    return make_plan(model, "note", ["note"], **(defaults | options))


def upper(texts):
    return [text.upper() for text in texts]


# ---------------------------------------------------------------------------------- what comes out


def test_a_frame_gets_the_predictions_of_its_rows(model, table, check_rows):
    before = table.copy(deep=True)
    found = predict_frame(model, table, "note")
    assert list(found.columns) == [*table.columns, *APPENDED]
    check_rows(found, model)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(found[list(table.columns)], before)
    assert found["exit_layer"].dtype == np.int64
    assert {found[name].dtype for name in APPENDED[2:]} == {np.dtype("float32")}


def test_an_index_with_repeated_labels_stays(model, table):
    table = table.set_index(pd.Index([7] * len(table)))
    found = predict_frame(model, table, "note")
    assert_array_equal(found.index, table.index)
    assert_array_equal(found["prediction"], model.predict(table["note"].tolist()))


def test_pipelines_and_fixed_policies_predict_as_a_whole(model, table):
    fixed = FixedExitPolicyClassifier(FrozenEstimator(model), tau=0.0, patience=2).fit(
        table["note"].tolist(), ["started"] * 45 + ["uncertain"] * 45
    )
    for estimator in (fixed, make_pipeline(FunctionTransformer(upper), model)):
        found = predict_frame(estimator, table, "note")
        assert_array_equal(found["prediction"], estimator.predict(table["note"].tolist()))
        assert_allclose(found[APPENDED[3:]], estimator.predict_proba(table["note"].tolist()))
    assert_array_equal(
        predict_frame(fixed, table, "note")["exit_layer"],
        fixed.predict_exit_layer(table["note"].tolist()),
    )


def test_pairs_of_texts_are_two_columns(table, notes):
    texts, y = notes
    pairs = list(zip(texts, texts[::-1], strict=True))
    classifier = tiny_text_classifier(max_epochs=1).fit(pairs, y)
    frame = pd.DataFrame(pairs, columns=["first", "second"])
    found = predict_frame(classifier, frame, ["first", "second"])
    assert_array_equal(found["prediction"], classifier.predict(pairs))


def test_images_are_read_from_their_paths(image_classifier, digits, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, digits[0], strict=False):
        Image.fromarray((image * 255).astype(np.uint8)).save(path)
    found = predict_frame(image_classifier, pd.DataFrame({"file": paths}), "file")
    assert_array_equal(found["prediction"], image_classifier.predict(paths))
    assert found["prediction"].dtype == np.int64
    assert {"proba_0", "proba_1", "proba_2"} <= set(found.columns)


def test_several_tasks_are_numbered_and_several_labels_named(texts, labels):
    frame = pd.DataFrame({"note": texts})
    tasks = np.array([labels, [len(text) % 3 for text in texts]], dtype=object).T
    classifier = tiny_text_classifier(max_epochs=1).fit(texts, tasks)
    found = predict_frame(classifier, frame, "note")
    expected = classifier.predict_with_exits(texts)
    assert_array_equal(found["prediction_0"], expected.labels[:, 0])
    assert_array_equal(found["prediction_1"], expected.labels[:, 1].astype(int))
    assert_array_equal(found[["entropy_0", "entropy_1"]], expected.entropy)
    assert_array_equal(found["proba_1_2"], expected.proba[1][:, 2])
    indicator = np.array([[len(text) % 2, len(text) % 3 == 0] for text in texts], dtype=int)
    classifier = tiny_text_classifier(max_epochs=1).fit(texts, indicator)
    found = predict_frame(classifier, frame, "note")
    expected = classifier.predict_with_exits(texts)
    assert_array_equal(found[["prediction_0", "prediction_1"]], expected.labels)
    assert_array_equal(found[["proba_0", "proba_1"]], expected.proba)
    assert_array_equal(found[["entropy_0", "entropy_1"]], expected.entropy)


# -------------------------------------------------------------------------------------------- nulls


@pytest.mark.parametrize("null", [None, np.nan, pd.NA])
def test_a_missing_value_is_refused_with_its_row_and_nothing_of_other_columns(model, table, null):
    table = table.astype({"note": object})
    table.loc[[5, 7], "note"] = null
    message = r"'note' has no value .* index 5 \(row 5 of its batch of 90, in which 2 .*'null'"
    with pytest.raises(ValueError, match=message) as caught:
        predict_frame(model, table, "note")
    said = str(caught.value)
    assert not [name for name in table.columns.drop("note") if f"'{name}'" in said]
    assert str(table["key"].iloc[5]) not in said


def test_nulls_pass_through_and_change_no_other_row(model, table):
    holes = table.astype({"note": object})
    holes.loc[[0, 5, 89], "note"] = None
    found = predict_frame(model, holes, "note", missing="null")
    assert list(found.index[found["prediction"].isna()]) == [0, 5, 89]
    assert found.loc[[0, 5, 89], APPENDED].isna().all(axis=None)
    whole = predict_frame(model, table, "note")
    rest = table.index.difference([0, 5, 89])
    assert_array_equal(found.loc[rest, "prediction"], whole.loc[rest, "prediction"])
    assert_array_equal(found.loc[rest, "exit_layer"].astype(int), whole.loc[rest, "exit_layer"])
    everything = holes.assign(note=None)
    assert predict_frame(model, everything, "note", missing="null")["entropy"].isna().all()


def test_kinds_of_columns_do_not_depend_on_the_rows(model, table):
    holes = table.astype({"note": object})
    holes.loc[3, "note"] = None
    for missing, frames in (("null", [holes, table, table[:0]]), ("error", [table, table[:0]])):
        plan = plan_of(model, missing=missing)
        kinds = [appended_columns(model, frame, plan).dtypes.to_dict() for frame in frames]
        assert all(kind == kinds[0] for kind in kinds)


def test_texts_with_images_know_themselves_what_is_missing(texts, labels):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (24, 24), dtype=np.uint8) for _ in texts]
    classifier = tiny_multimodal_classifier(max_epochs=1)
    frame = pd.DataFrame({classifier.text_column: texts, classifier.image_column: images})
    classifier.fit(frame, labels)
    frame.loc[2, classifier.image_column] = None
    found = predict_frame(classifier, frame, list(frame.columns), missing="pass")
    assert_array_equal(found["prediction"], classifier.predict(frame))


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": "text"}, ValueError, "'text', which the table does not have; it has 'key'"),
        ({"columns": ["note", "x"]}, ValueError, "names 'x'"),
        ({"columns": []}, TypeError, "columns="),
        ({"columns": None}, TypeError, "columns="),
        ({"missing": "skip"}, ValueError, "missing='skip'"),
        ({"prefix": None}, TypeError, "prefix=None"),
        ({"threads_per_worker": 0}, ValueError, "threads_per_worker=0"),
        ({"threads_per_worker": True}, ValueError, "threads_per_worker=True"),
        ({"frame": [1]}, TypeError, "frame is of type list"),
        ({"estimator": LogisticRegression()}, TypeError, "got LogisticRegression"),
        ({"estimator": tiny_text_classifier()}, NotFittedError, "not fitted"),
        ({"estimator": EPEETokenClassifier()}, NotFittedError, "not fitted"),
    ],
)
def test_bad_arguments_are_refused(model, table, options, error, message):
    given = {"estimator": model, "frame": table, "columns": "note"} | options
    with pytest.raises(error, match=message):
        predict_frame(**given)


def test_wrappers_that_predict_otherwise_than_their_exits_are_refused(texts, table):
    y = [len(text) % 2 for text in texts]
    wrapped = FixedThresholdClassifier(tiny_text_classifier(max_epochs=1), threshold=0.4)
    with pytest.raises(TypeError, match="got FixedThresholdClassifier"):
        predict_frame(wrapped.fit(texts, y), table, "note")


def test_names_that_are_taken_are_refused_unless_a_prefix_tells_them_apart(model, table):
    table = table.assign(Prediction=1, entropy=2)
    with pytest.raises(ValueError, match=r"same name: 'entropy'\. Pass another prefix"):
        predict_frame(model, table, "note")
    with pytest.raises(ValueError, match=r"ignores case.*'Prediction', 'entropy', 'prediction'"):
        make_plan(
            model, "note", table.columns, prefix="", missing="error", threads=1, ignores_case=True
        )
    assert "epee_entropy" in predict_frame(model, table, "note", prefix="epee_")
    with pytest.raises(ValueError, match="several columns named 'note'"):
        predict_frame(model, table[["note", "note"]], "note")


def test_an_error_of_the_estimator_says_which_batch(model, table):
    table = table.astype({"note": object})
    table.loc[4, "note"] = 4.5
    with pytest.raises(TypeError, match=r"X\[4\]") as caught:
        predict_frame(model, table, "note")
    assert "90 rows of one batch, of index 0 to 89" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "package"),
    [(predict_spark, "pyspark"), (predict_dask, "dask"), (predict_ray, "ray")],
)
def test_an_engine_that_is_absent_is_named_with_its_extra(function, package, model, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_engines.importlib, "import_module", absent)
    extra = function.__name__.removeprefix("predict_")
    with pytest.raises(ImportError, match=rf"needs {package}.*sklearn_epee\[{extra}\]"):
        function(model, None, "note")


# ------------------------------------------------------------------------------- models and threads


def test_a_process_loads_a_model_once_and_keeps_two(model, monkeypatch):
    monkeypatch.setattr(_model, "_LOADED", type(_model._LOADED)())
    first = PickledModel.of(model)
    again = pickle.loads(pickle.dumps(first))
    assert again.load() is first.load()
    assert sum(loads(model.loads_file).values()) == 1
    others = [PickledModel.of(name) for name in ("b", "c")]
    assert [other.load() for other in others] == ["b", "c"]
    assert len(_model._LOADED) == 2
    first.load()
    assert sum(loads(model.loads_file).values()) == 2


def test_threads_are_set_for_a_batch_and_given_back():
    before = torch.get_num_threads()
    with limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
