"""Graphs of ONNX with exits, against the estimators that they were exported from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator

from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    EPEETokenClassifier,
    FixedExitPolicyClassifier,
)
from sklearn_epee.onnx_runtime import OnnxExits
from sklearn_epee.policy import normalized_entropy

from .checkpoints import kind_of, make_checkpoint, tiny_config
from .classifiers import (
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
    tiny_training,
)

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

EXPORTED = ("bert", "distilbert", "roberta", "mpnet", "gpt2", "vit", "dinov2")
# Not needed to see that the ways to export work.
ALSO_EXPORTED = ("electra", "xlm-roberta", "camembert", "megatron-bert", "llama", "qwen3", "deit",
                 "clip", "siglip", "modernbert", "albert", "dinov3_vit", "beit")  # fmt: skip


# Heads that have learned something: entropies that differ.
LEARNT = tiny_training(max_epochs=1, head_learning_rate=0.05)


def exported(fitted, folder, **options):
    fitted.export_onnx(folder, **options)
    return OnnxExits(folder, n_threads=1)


def agree(fitted, found, X):
    """Check a dict of the driver against the estimator, under a policy with a margin."""
    own = fitted.predict_with_exits(X)
    assert_array_equal(found["exit_layer"], own.exit_layer)
    assert_array_equal(found["labels"], own.labels)
    assert np.asarray(found["labels"]).dtype == own.labels.dtype
    pairs = [(found["proba"], own.proba)]
    if isinstance(own.proba, list):
        pairs = list(zip(*pairs[0], strict=True))
    for first, second in pairs:
        assert_allclose(first, second, atol=1e-4)
    assert_allclose(found["entropy"], own.entropy, atol=1e-3)


def mixed_policy(fitted, X):
    """Let some of the samples exit early, by a threshold far from any entropy of any layer."""
    staged = np.stack(list(fitted.staged_predict_proba(X)), axis=1)
    entropies = normalized_entropy(staged)[:, :-1]
    low, high = np.quantile(entropies[:, 0], [0.25, 0.75])
    inner = np.sort(entropies[(entropies >= low) & (entropies <= high)])
    place = int(np.diff(inner).argmax())
    return fitted.set_params(tau=float(inner[place : place + 2].mean()))


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


@pytest.mark.parametrize("kind", ["texts", "images", "labels"])
def test_graphs_have_the_bottlenecks_of_the_heads(kind, notes, digits, tmp_path):
    if kind == "images":
        fitted = tiny_image_classifier(head="bottleneck", **LEARNT).fit(*digits)
        X, given = digits[0], fitted._preprocessor.transform(pixels_of(digits[0])).numpy()
        given = {"pixel_values": given}
    else:
        X = given = notes[0]
        y = notes[1] if kind == "texts" else np.eye(2, dtype=int)[np.arange(len(X)) % 2]
        fitted = tiny_text_classifier(head="bottleneck", **LEARNT).fit(X, y)
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


def test_graphs_read_pairs_with_segments(notes, tmp_path):
    X = list(zip(notes[0], reversed(notes[0]), strict=True))
    fitted = mixed_policy(tiny_text_classifier(max_length=24, **LEARNT).fit(X, notes[1]), X)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(X), X)


def test_marked_entities_as_arrays(notes, tmp_path):
    X = [f"[E1] zinc [/E1] {text[:20]} [E2] rash [/E2]" for text in notes[0]]
    fitted = mixed_policy(tiny_text_classifier(pooling="entity", **LEARNT).fit(X, notes[1]), X)
    batch = fitted._preprocessor.encode(X).batch(np.arange(len(X)))
    model = exported(fitted, tmp_path)
    agree(fitted, model.predict_with_exits({k: v.numpy() for k, v in batch.items()}), X)
    with pytest.raises(ValueError, match="X must be a dict of the arrays"):
        model.predict(X)


def test_graphs_read_images_without_a_processor(digits, tmp_path):
    fitted = mixed_policy(tiny_image_classifier(pooling="mean", **LEARNT).fit(*digits), digits[0])
    pixels = fitted._preprocessor.transform(pixels_of(digits[0])).numpy()
    agree(
        fitted, exported(fitted, tmp_path).predict_with_exits({"pixel_values": pixels}), digits[0]
    )


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


# --------------------------------------------------------------------------- what is refused


def test_what_is_not_exported_says_why(notes, digits, tmp_path):
    windows = tiny_text_classifier(long_texts="windows", window_length=12).fit(*notes)
    with pytest.raises(ValueError, match="long_texts='truncate'"):
        windows.export_onnx(tmp_path / "a")
    X = list(zip(notes[0], digits[0], strict=True))
    towers = tiny_multimodal_classifier()
    towers.set_params(image_backbone=tiny_config("vit", image_size=8, num_channels=1))
    with pytest.raises(ValueError, match="EPEEMultimodalClassifier cannot be exported"):
        towers.fit(X, notes[1]).export_onnx(tmp_path / "b")
    words = EPEETokenClassifier(tiny_config("bert", vocab_size=300), **tiny_training())
    words.fit([["zinc"], ["a", "rash"]] * 4, [["B-Drug"], ["O", "B-Effect"]] * 4)
    with pytest.raises(ValueError, match="EPEETokenClassifier cannot be exported"):
        words.export_onnx(tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_left_behind(notes, tmp_path, monkeypatch):
    fitted = tiny_text_classifier().fit(*notes)
    monkeypatch.setattr("sklearn_epee._nn.onnx_graphs._TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"family 'bert'.*differs from the network by"):
        fitted.export_onnx(tmp_path / "onnx")
    assert not list((tmp_path / "onnx").iterdir())


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
    left = {"input_ids": np.ones((1, 3), int), "attention_mask": np.array([[0, 1, 1]])}
    with pytest.raises(ValueError, match="attention_mask must be 1 at the first positions"):
        model.predict(left)
    document = (tmp_path / "model" / "exits.json").read_text()
    (tmp_path / "model" / "exits.json").write_text(document.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="schema 2; expected"):
        OnnxExits(tmp_path / "model")


@pytest.mark.slow
def test_the_driver_runs_alone(notes, tmp_path):
    """Copied beside a model it needs neither this package nor what this package needs."""
    fitted = tiny_text_classifier(device="cpu").fit(*notes)
    fitted.export_onnx(tmp_path / "model")
    source = Path(sys.modules[OnnxExits.__module__].__file__)
    shutil.copy(source, tmp_path / "driver.py")
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
