"""Classifiers of words in tables: spans as lists of structs, an exit layer for each sentence."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from sklearn_epee.distributed import predict_dask, predict_frame
from sklearn_epee.distributed._arrow import with_predictions
from sklearn_epee.distributed._columns import make_plan
from tests.tagged import tagged_sentences, tiny_token_classifier


@pytest.fixture(scope="module")
def sentences():
    words, tags = tagged_sentences(40)
    return [" ".join(each) for each in words], words, tags


@pytest.fixture(scope="module")
def _fitted(sentences):
    _, words, tags = sentences
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tiny_token_classifier(max_epochs=12, dropout=0.0).fit(words, tags)


@pytest.fixture
def fitted(_fitted):
    return copy.copy(_fitted)


@pytest.fixture
def table(sentences):
    return pd.DataFrame({"key": range(40), "note": sentences[0]})


def structs(spans):
    return [[dict(zip(("start", "end", "label"), each, strict=True)) for each in found]
            for found in spans]  # fmt: skip


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_a_frame_gets_spans_and_the_exit_of_each_sentence(fitted, table, token_exit):
    fitted.set_params(token_exit=token_exit, tau=0.2)
    found = predict_frame(fitted, table, "note")
    assert list(found.columns[2:]) == ["spans", "exit_layer", "entropy"]
    alone = fitted.predict_with_exits(table["note"])
    assert any(alone.spans)
    assert found["spans"].tolist() == structs(alone.spans)
    assert found["exit_layer"].tolist() == [np.max(layers) for layers in alone.exit_layer]
    assert_array_equal(found["entropy"], [words.max() for words in alone.entropy])
    assert found["entropy"].dtype == np.float32


def test_layers_of_spans_have_a_column_each(sentences, table):
    words, tags = sentences[1:]
    drugs, effects = (
        [[tag if tag.endswith(name) else "O" for tag in row] for row in tags]
        for name in ("Drug", "Effect")
    )
    y = [{"drug": one, "effect": two} for one, two in zip(drugs, effects, strict=True)]
    model = tiny_token_classifier(max_epochs=1).fit(words, y)
    found = predict_frame(model, table, "note", prefix="p_")
    names = ["p_spans_drug", "p_spans_effect", "p_exit_layer", "p_entropy_drug", "p_entropy_effect"]
    assert list(found.columns[2:]) == names
    alone = model.predict_with_exits(table["note"])
    for layer in ("drug", "effect"):
        assert found[f"p_spans_{layer}"].tolist() == structs(each[layer] for each in alone.spans)
    assert_array_equal(found["p_entropy_effect"], [words[:, 1].max() for words in alone.entropy])


def test_sentences_without_words_and_nulls(fitted, table):
    table.loc[1, "note"] = ""
    table.loc[2, "note"] = None
    found = predict_frame(fitted, table, "note", missing="null")
    assert found["spans"][1] == []
    assert found["exit_layer"][1] >= 1
    assert np.isnan(found["entropy"][1])
    assert found.loc[2, ["spans", "exit_layer", "entropy"]].isna().all()


def test_arrow_has_lists_of_structs(fitted, table):
    pa = pytest.importorskip("pyarrow")
    plan = make_plan(fitted, "note", table.columns, prefix="", missing="null", threads=1)
    table.loc[2, "note"] = None
    batch = pa.Table.from_pandas(table, preserve_index=False)
    found = with_predictions(fitted, batch, plan)
    span = "list<item: struct<start: int64, end: int64, label: string>>"
    assert str(found.schema.field("spans").type).replace("element:", "item:") == span
    expected = structs(fitted.predict(table["note"].drop(2)))
    assert [row for row in found["spans"].to_pylist() if row is not None] == expected
    assert found["exit_layer"].null_count == 1


def test_dask_appends_them(fitted, table):
    dd = pytest.importorskip("dask.dataframe")
    frame = predict_dask(fitted, dd.from_pandas(table, npartitions=3), "note")
    found = frame.compute(scheduler="sync")
    assert found["spans"].tolist() == structs(fitted.predict(table["note"]))
