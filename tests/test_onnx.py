"""Graphs of ONNX with exits, against the estimators that they were exported from."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator

from sklearn_epee import EPEEClassifier, EPEEImageClassifier, FixedExitPolicyClassifier
from sklearn_epee._nn import onnx_export
from sklearn_epee.onnx_runtime import OnnxExits, OnnxTokenExits

from .checkpoints import kind_of, make_checkpoint, tiny_config
from .classifiers import tiny_image_classifier, tiny_text_classifier
from .onnx_exports import LEARNT, agree, exported, mixed_policy

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

OLD = Path(__file__).parent / "old_onnx"

EXPORTED = ("bert", "distilbert", "roberta", "mpnet", "gpt2", "vit", "dinov2")
# Not needed to see that the ways to export work.
ALSO_EXPORTED = ("deberta-v2", "electra", "xlm-roberta", "camembert", "megatron-bert", "llama",
                 "mistral", "qwen2", "qwen3", "gemma", "biogpt", "deit", "clip", "siglip",
                 "modernbert", "albert", "dinov3_vit", "beit", "dinov2_with_registers",
                 "vit_mae")  # fmt: skip


def pixels_of(images):
    """Return images as they reach a preprocessor."""
    return images[..., np.newaxis]


def fitted_on(family, folder, notes, digits):
    checkpoint = make_checkpoint(family, folder / family)
    if kind_of(family) == "image":
        images = EPEEImageClassifier(checkpoint, **LEARNT)
        return images.fit(*digits), digits[0]
    texts = EPEEClassifier(str(checkpoint), max_length=32, **LEARNT)
    return texts.fit(*notes), notes[0]


@pytest.mark.parametrize(
    "family",
    [*EXPORTED, *(pytest.param(family, marks=pytest.mark.slow) for family in ALSO_EXPORTED)],
)
def test_labels_exits_and_probabilities_are_those_of_the_estimator(family, notes, digits, tmp_path):
    fitted, X = fitted_on(family, tmp_path, notes, digits)
    mixed_policy(fitted, X)
    model = exported(fitted, tmp_path / "onnx")
    given = X
    if kind_of(family) == "image":
        given = {"pixel_values": fitted._preprocessor.transform(pixels_of(X)).numpy()}
    for batch_size in (1, 7, 64):
        found = model.predict_with_exits(given, batch_size)
        agree(fitted, found, X)
    assert len(set(found["exit_layer"].tolist())) > 1
    assert_array_equal(model.predict(given), fitted.predict(X))


@pytest.mark.parametrize("options", [
    {"exit_ensemble": "mean"}, {"exit_ensemble": "weighted"}, {"patience": 2}, {"patience": 1},
], ids=str)  # fmt: skip
def test_graphs_exit_by_every_policy_as_the_estimator(options, notes, tmp_path):
    fitted = mixed_policy(tiny_text_classifier(**LEARNT).fit(*notes), notes[0]).set_params(
        **options
    )
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(notes[0]), notes[0])


@pytest.mark.parametrize("pooling", ["mean", "cls+mean", "attention", "last"])
def test_graphs_predict_with_every_pooling_as_the_estimator(pooling, notes, tmp_path):
    fitted = mixed_policy(tiny_text_classifier(pooling=pooling, **LEARNT).fit(*notes), notes[0])
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(notes[0]), notes[0])


@pytest.mark.parametrize("head", ["bottleneck", "attention"])
@pytest.mark.parametrize("kind", ["texts", "images", "labels"])
def test_graphs_have_the_heads_of_the_estimator(kind, head, notes, digits, tmp_path):
    if kind == "images":
        fitted = tiny_image_classifier(head=head, **LEARNT).fit(*digits)
        X, given = digits[0], fitted._preprocessor.transform(pixels_of(digits[0])).numpy()
        given = {"pixel_values": given}
    else:
        X = given = notes[0]
        y = notes[1] if kind == "texts" else np.eye(2, dtype=int)[np.arange(len(X)) % 2]
        fitted = tiny_text_classifier(head=head, **LEARNT).fit(X, y)
    agree(fitted.set_params(tau=0), exported(fitted, tmp_path / "a").predict_with_exits(given), X)
    model = exported(fitted, tmp_path / "b", layer=2)
    assert_allclose(
        model.predict_with_exits(given)["proba"], fitted.predict_proba_at_layer(X, 2), atol=1e-4
    )


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
@pytest.mark.parametrize("several", ["tasks", "labels"])
def test_graphs_predict_several_tasks_and_labels(joint_exit, several, notes, tmp_path):
    words = [[word in text.lower() for word in ("ms", "started", "mg")] for text in notes[0]]
    y, options = np.array(words).astype(int), {"label_thresholds": [0.3, 0.5, 0.45]}
    if several == "tasks":
        y, options = np.array([notes[1], np.where(y[:, 0], "a", "b")]).T, {}
    fitted = tiny_text_classifier(joint_exit=joint_exit, tau=0.99, patience=2, **options)
    fitted.fit(notes[0], y)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(notes[0]), notes[0])


@pytest.mark.parametrize(
    "classes", [[["a", "b"], [False, True]], [[0, 1], [0.0, 2.0]], [[0, 1], [False, True]]]
)
def test_labels_of_several_tasks_have_the_types_of_the_estimator(classes, notes, tmp_path):
    rows = np.arange(len(notes[0])) % 2
    y = pd.DataFrame([np.array(names)[rows] for names in classes]).T.infer_objects()
    fitted = tiny_text_classifier(max_epochs=1, target_type="tasks").fit(notes[0], y)
    found, own = exported(fitted, tmp_path).predict(notes[0][:3]), fitted.predict(notes[0][:3])
    assert found.dtype == own.dtype
    assert found.tolist() == own.tolist()
    assert [type(label) for label in found[0]] == [type(label) for label in own[0]]


def test_labels_named_by_tuples_stay_tuples(notes, tmp_path):
    numbers = np.arange(len(notes[0]))
    columns = {("drug", 1): numbers % 2, ("effect", 2): numbers % 3 == 0}
    fitted = tiny_text_classifier(max_epochs=1).fit(notes[0], pd.DataFrame(columns).astype(int))
    found = exported(fitted, tmp_path).classes
    assert found.tolist() == fitted.classes_.tolist() == [("drug", 1), ("effect", 2)]


def test_graphs_read_pairs_with_segments(notes, tmp_path):
    X = list(zip(notes[0], reversed(notes[0]), strict=True))
    fitted = mixed_policy(tiny_text_classifier(max_length=24, **LEARNT).fit(X, notes[1]), X)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(X), X)


def marked(text):
    return f"[E1] zinc [/E1] {text[:60]} [E2:effect] rash [/E2:effect] {text[20:]}"


@pytest.mark.parametrize("marks", ["text", "tokens"])
@pytest.mark.parametrize("max_length", [24, 128])
def test_marked_entities_as_texts_and_as_arrays(marks, max_length, notes, tmp_path):
    X = [marked(text) for text in notes[0]]
    options = {"pooling": "entity", "entity_marks": marks, "max_length": max_length}
    if marks == "text" and max_length == 24:
        X = [f"{text[:30]} [E1]a[/E1] {text[:9]} [E2]b[/E2] {text}" for text in notes[0]]
    fitted = mixed_policy(tiny_text_classifier(**options, **LEARNT).fit(X, notes[1]), X)
    model = exported(fitted, tmp_path)
    agree(fitted, model.predict_with_exits(X), X)
    batch = fitted._preprocessor.encode(X).batch(np.arange(len(X)))
    agree(fitted, model.predict_with_exits({k: v.numpy() for k, v in batch.items()}), X)
    with pytest.raises(ValueError, match=r"X\[1\] does not have the marks \[E2\] and"):
        model.predict([X[0], "[E1] zinc [/E1] [E2] rash"])


def test_entities_that_do_not_fit_are_refused(notes, tmp_path):
    X = [marked(text) for text in notes[0]]
    fitted = tiny_text_classifier(pooling="entity", max_length=24, entity_marks="tokens")
    model = exported(fitted.fit(X, notes[1]), tmp_path)
    with pytest.raises(ValueError, match=r"X\[0\] does not fit: its two entities have"):
        model.predict([f"[E1] {notes[0][0]} [/E1] [E2] {notes[0][1]} [/E2]"])


@pytest.mark.parametrize("family", [
    "dinov2_with_registers",
    *(pytest.param(family, marks=pytest.mark.slow) for family in ("vit", "dinov2", "vit_mae")),
])  # fmt: skip
@pytest.mark.parametrize("layer", [None, 2])
def test_graphs_have_the_positions_of_another_size_of_images(family, layer, digits, tmp_path):
    checkpoint = make_checkpoint(family, tmp_path / family)
    images = EPEEImageClassifier(checkpoint, image_size=24, tau=0, patience=None, **LEARNT)
    images.fit(*digits)
    given = {"pixel_values": images._preprocessor.transform(pixels_of(digits[0])).numpy()}
    assert given["pixel_values"].shape[2:] == (24, 24)  # the checkpoint's is 16
    expected = images.predict_proba_at_layer(digits[0], layer or -1)
    model = exported(images, tmp_path / "onnx", layer=layer)
    assert_allclose(model.predict_with_exits(given)["proba"], expected, atol=1e-5)


def test_graphs_read_images_without_a_processor(digits, tmp_path):
    fitted = mixed_policy(tiny_image_classifier(pooling="mean", **LEARNT).fit(*digits), digits[0])
    pixels = fitted._preprocessor.transform(pixels_of(digits[0])).numpy()
    model = exported(fitted, tmp_path)
    agree(fitted, model.predict_with_exits({"pixel_values": pixels}), digits[0])
    with pytest.raises(ValueError, match="X must be a dict of the input arrays"):
        model.predict(digits[0])


@pytest.mark.parametrize("layer", [1, -1])
def test_one_graph_of_a_fixed_layer(layer, notes, tmp_path):
    fitted = tiny_text_classifier().fit(*notes)
    model = exported(fitted, tmp_path, layer=layer)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "exits.json", "layer.onnx", "tokenizer.json",
    ]  # fmt: skip
    found = model.predict_with_exits(notes[0])
    assert_allclose(found["proba"], fitted.predict_proba_at_layer(notes[0], layer), atol=1e-4)
    assert_array_equal(found["labels"], fitted.predict_at_layer(notes[0], layer))
    assert set(found["exit_layer"].tolist()) == {layer % 4}


def test_a_wrapper_is_exported_with_its_policy(notes, tmp_path):
    inner = tiny_text_classifier(tau=0).fit(*notes)
    fixed = FixedExitPolicyClassifier(FrozenEstimator(inner), tau=0, patience=1).fit(*notes)
    assert set(exported(fixed, tmp_path).predict_with_exits(notes[0])["exit_layer"]) == {1}


@pytest.mark.parametrize("folder", sorted(OLD.glob("*")), ids=lambda folder: folder.name)
def test_folders_of_earlier_versions_are_read(folder):
    expected = json.loads((folder / "expected.json").read_text())
    found = OnnxExits(folder / "model", n_threads=1).predict_with_exits(expected["X"])
    assert_array_equal(found["exit_layer"], expected["exit_layer"])
    assert_allclose(found["proba"], expected["proba"], atol=1e-4)


# ------------------------------------------------------------------------- exporters of torch


@pytest.fixture
def forget_exporter():
    """Let the exporter be chosen anew, and again after the test."""
    onnx_export.exporter.cache_clear()
    yield
    onnx_export.exporter.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("forget_exporter")
def test_the_exporter_that_does_not_trace_writes_the_same(notes, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx_export, "_traces", lambda: False)
    config = tiny_config("bert", n_layers=2, vocab_size=300, max_position_embeddings=128)
    fitted = mixed_policy(EPEEClassifier(config, **LEARNT).fit(*notes), notes[0])
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(notes[0]), notes[0])


@pytest.mark.usefixtures("forget_exporter")
def test_an_exporter_that_is_gone_is_asked_for(notes, tmp_path, monkeypatch):
    fitted = tiny_text_classifier().fit(*notes)

    def gone(*_, **__):
        raise TypeError("export() got an unexpected keyword argument 'dynamo'")

    monkeypatch.setattr("torch.onnx.export", gone)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(ImportError, match="pip install onnxscript"):
        fitted.export_onnx(tmp_path / "onnx")


# --------------------------------------------------------------------------- what is refused


def test_a_graph_that_differs_is_not_left_behind(notes, tmp_path, monkeypatch):
    fitted = tiny_text_classifier().fit(*notes)
    monkeypatch.setattr("sklearn_epee._nn.onnx_export._TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"family 'bert'.*differs from the network by"):
        fitted.export_onnx(tmp_path / "onnx")
    assert not list((tmp_path / "onnx").iterdir())


def test_labels_that_json_does_not_have_are_refused_at_once(notes, tmp_path):
    days = (np.arange(len(notes[0])) % 2).astype("datetime64[D]")
    fitted = tiny_text_classifier(max_epochs=1).fit(notes[0], days)
    with pytest.raises(ValueError, match=r"classes_ holds datetime.date\(.*\) of type date, which"):
        fitted.export_onnx(tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("at", ["torch.onnx.export", "pathlib.Path.write_text"])
def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing(at, notes, tmp_path, monkeypatch):
    fitted = tiny_text_classifier(max_epochs=1).fit(*notes)
    onnx_export.exporter()  # tries out torch.onnx.export once

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(at, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fitted.export_onnx(tmp_path / "onnx")
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "onnx").iterdir())


def test_what_stands_for_the_network_is_compared_with_it(notes, tmp_path, monkeypatch):
    fitted = tiny_text_classifier(pooling="last").fit(*notes)
    first = lambda mask: 0 * mask.long().sum(1)  # noqa: E731
    monkeypatch.setattr("sklearn_epee._nn.onnx_graphs.last_real_positions", first)
    for layer in (None, 1):
        with pytest.raises(ValueError, match="differs from the network by"):
            fitted.export_onnx(tmp_path / f"onnx{layer}", layer=layer)


@pytest.mark.parametrize("of_pairs", [False, True])
def test_samples_that_the_estimator_was_not_fitted_on_are_refused(of_pairs, notes, tmp_path):
    pairs = list(zip(notes[0], notes[0], strict=True))
    right, wrong = (pairs, notes[0]) if of_pairs else (notes[0], pairs)
    model = exported(tiny_text_classifier(max_epochs=1).fit(right, notes[1]), tmp_path)
    with pytest.raises(ValueError, match=r"X\[1\] is one of .* but the estimator was fitted on"):
        model.predict([right[0], wrong[0]])
    for bad in (None, 3, ("zinc", None), ("zinc", "a", "rash"), ["zinc"], np.array("zinc")):
        with pytest.raises(TypeError, match=r"X\[1100\] is .*; expected a text or a pair of texts"):
            model.predict([right[0]] * 1100 + [bad])
    undecodable = ("zinc", "a \ud800") if of_pairs else "a \ud800"
    with pytest.raises(ValueError, match=r"X\[1100\] has .*, which is not valid Unicode"):
        model.predict([right[0]] * 1100 + [undecodable])
    with pytest.raises(TypeError, match="X is a DataFrame; expected a list"):
        model.predict(pd.DataFrame({"text": notes[0]}))
    as_array = np.array(right[:3])
    assert model.predict(as_array).tolist() == model.predict(right[:3]).tolist()
    # A folder of 0.1.0 does not say what its estimator was fitted on.
    document = json.loads((tmp_path / "exits.json").read_text())
    del document["texts"]["pairs"]
    (tmp_path / "exits.json").write_text(json.dumps(document))
    assert len(OnnxExits(tmp_path, n_threads=1).predict([right[0], wrong[0]])) == 2


def test_folders_layers_and_inputs_that_are_not_right(notes, tmp_path):
    fitted = tiny_text_classifier().fit(*notes)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is not empty"):
        fitted.export_onnx(tmp_path)
    with pytest.raises(ValueError, match="layer"):
        fitted.export_onnx(tmp_path / "onnx", layer=9)
    with pytest.raises(ValueError, match="holds no export"):
        OnnxExits(tmp_path)
    model = exported(fitted, tmp_path / "model", layer=1)
    with pytest.raises(TypeError, match="Wrap it in a list"):
        model.predict("a text")
    with pytest.raises(ValueError, match="X holds no samples"):
        model.predict([])
    with pytest.raises(ValueError, match=r"X has no input_ids, which layer.onnx reads"):
        model.predict({"attention_mask": np.ones((1, 3), int)})
    with pytest.raises(ValueError, match="X must hold arrays of the same length"):
        model.predict({"input_ids": np.ones((1, 3), int), "attention_mask": np.ones((2, 3), int)})
    with pytest.raises(ValueError, match="holds no token classifier; open it with OnnxExits"):
        OnnxTokenExits(tmp_path / "model")
    left = {"input_ids": np.ones((1, 3), int), "attention_mask": np.array([[0, 1, 1]])}
    with pytest.raises(ValueError, match="attention_mask must be 1 at the first positions"):
        model.predict(left)
    document = (tmp_path / "model" / "exits.json").read_text()
    (tmp_path / "model" / "exits.json").write_text(document.replace('"schema": 2', '"schema": 3'))
    with pytest.raises(ValueError, match=r"schema 3; expected .* schema 1 or 2"):
        OnnxExits(tmp_path / "model")
    (tmp_path / "model" / "exits.json").write_text("[]")
    with pytest.raises(ValueError, match="format None"):
        OnnxExits(tmp_path / "model")


@pytest.mark.slow
def test_the_driver_runs_alone(notes, tmp_path):
    """Copied beside a model it needs neither this package nor what this package needs."""
    fitted = tiny_text_classifier(device="cpu").fit(*notes)
    fitted.export_onnx(tmp_path / "model")
    source = Path(sys.modules[OnnxExits.__module__].__file__).parent
    shutil.copytree(source, tmp_path / "driver")
    script = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'transformers', 'scipy', 'sklearn_epee'):\n"
        "    sys.modules[name] = None\n"
        "from driver import OnnxExits\n"
        f"print(OnnxExits('model').predict({notes[0][:3]!r}).tolist())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(fitted.predict(notes[0][:3]).tolist())
