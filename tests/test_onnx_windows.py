"""Graphs of ONNX of texts that are read in windows, against the estimators."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from .checkpoints import make_checkpoint
from .classifiers import tiny_text_classifier
from .onnx_exports import LEARNT, agree, exported, mixed_policy

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore:.*texts are longer than")

WINDOWS = {"long_texts": "windows", "window_length": 12, "max_windows": 4}


@pytest.fixture(scope="module")
def long_notes(notes):
    """Notes of one to a dozen windows."""
    texts, y = notes
    return [" ".join(texts[i : i + 1 + i % 5]) for i in range(len(texts))], y


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean", "attention", "last"])
def test_notes_in_windows_exit_as_in_the_estimator(pooling, long_notes, tmp_path):
    X, y = long_notes
    fitted = mixed_policy(tiny_text_classifier(pooling=pooling, **WINDOWS, **LEARNT).fit(X, y), X)
    model = exported(fitted, tmp_path)
    for batch_size in (1, 7, 64):
        found = model.predict_with_exits(X, batch_size)
        agree(fitted, found, X)
    assert len(set(found["exit_layer"].tolist())) > 1


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_attention_of_heads_reads_all_windows(pooling, long_notes, tmp_path):
    X, y = long_notes
    fitted = tiny_text_classifier(pooling=pooling, head="attention", **WINDOWS, **LEARNT)
    fitted = mixed_policy(fitted.fit(X, y), X)
    model = exported(fitted, tmp_path)
    for batch_size in (1, 7):
        agree(fitted, model.predict_with_exits(X, batch_size), X)


@pytest.mark.parametrize("options", [
    {"window_stride": 5}, {"exit_ensemble": "mean"}, {"patience": 2},
    {"long_texts": "head_tail", "max_length": 13, "window_length": None},
], ids=str)  # fmt: skip
def test_strides_both_ends_and_policies(options, long_notes, tmp_path):
    X, y = long_notes
    fitted = tiny_text_classifier(**(WINDOWS | LEARNT | options)).fit(X, y)
    fitted = mixed_policy(fitted, X)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(X), X)


@pytest.mark.parametrize("attending", [{"pooling": "attention"}, {"head": "attention"}])
def test_several_tasks_attend_to_windows(attending, long_notes, tmp_path):
    X, y = long_notes
    tasks = np.array([y, np.where(np.arange(len(X)) % 2, "a", "b")]).T
    options = {"tau": 0.99, "joint_exit": "any"} | attending
    fitted = tiny_text_classifier(**WINDOWS, **LEARNT, **options).fit(X, tasks)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(X), X)


@pytest.mark.parametrize("family", ["modernbert", "gpt2"])
def test_tokens_lost_on_the_left_and_decoders(family, long_notes, tmp_path):
    from sklearn_epee import EPEEClassifier  # noqa: PLC0415

    X, y = long_notes
    fitted = EPEEClassifier(make_checkpoint(family, tmp_path / family), **WINDOWS, **LEARNT)
    fitted = mixed_policy(fitted.fit(X, y), X)
    agree(fitted, exported(fitted, tmp_path / "onnx").predict_with_exits(X), X)


def test_windows_as_arrays(long_notes, tmp_path):
    X, y = long_notes
    fitted = mixed_policy(tiny_text_classifier(**WINDOWS, **LEARNT).fit(X, y), X)
    batch = fitted._preprocessor.encode(X).batch(np.arange(len(X)))
    model = exported(fitted, tmp_path / "windows")
    agree(fitted, model.predict_with_exits({k: v.numpy() for k, v in batch.items()}), X)
    rows = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=r"windows must be the number of rows"):
        model.predict(rows | {"windows": [1, 2]})
    plain = exported(tiny_text_classifier().fit(X, y), tmp_path / "plain")
    with pytest.raises(ValueError, match="X has windows, but the graphs read one row"):
        plain.predict(rows | {"windows": [len(rows["input_ids"])]})


@pytest.mark.parametrize("pooling", ["cls", "attention"])
def test_one_graph_of_a_fixed_layer_merges_windows(pooling, long_notes, tmp_path):
    X, y = long_notes
    fitted = tiny_text_classifier(pooling=pooling, **WINDOWS, **LEARNT).fit(X, y)
    found = exported(fitted, tmp_path, layer=2).predict_with_exits(X)
    assert_allclose(found["proba"], fitted.predict_proba_at_layer(X, 2), atol=1e-4)
