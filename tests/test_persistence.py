"""Saved and loaded: in another process, elsewhere, without what was there in training."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._base import fitted as fitted_module
from sklearn_epee._nn.int8_linear import why_not_int8

from .checkpoints import make_checkpoint, tiny_config, tiny_tokenizer
from .classifiers import (
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
    tiny_training,
)

# Tiny checkpoints read 64 tokens, fewer than some of the texts have.
pytestmark = pytest.mark.filterwarnings("ignore:.*longer than max_length")

QUICK = tiny_training(max_epochs=1, max_length=32)


def scratch_text(notes, digits, folder):
    return EPEEClassifier(**tiny_training(max_epochs=1)).fit(*notes)


def scratch_image(notes, digits, folder):
    return EPEEImageClassifier(**tiny_training(max_epochs=1)).fit(*digits)


def config_text(notes, digits, folder):
    return tiny_text_classifier().fit(*notes)


def tokenizer_object(notes, digits, folder):
    return tiny_text_classifier(tokenizer=tiny_tokenizer("bert")).fit(*notes)


def _checkpoint_text(family):
    def fitted(notes, digits, folder):
        checkpoint = make_checkpoint(family, folder / family)
        return EPEEClassifier(str(checkpoint), **QUICK).fit(*notes)

    return fitted


def checkpoint_image(notes, digits, folder):
    checkpoint = make_checkpoint("vit", folder / "vit")
    return EPEEImageClassifier(checkpoint, **tiny_training(max_epochs=1)).fit(*digits)


def without_cuda(notes, digits, folder):
    """A classifier that remembers a GPU, as if it had been trained on one."""
    fitted = tiny_text_classifier().fit(*notes)
    fitted.net_.device = "cuda"
    fitted.net_.plan = dataclasses.replace(fitted.net_.plan, device=torch.device("cuda"))
    return fitted


def pipeline(notes, digits, folder):
    return make_pipeline(FunctionTransformer(np.ravel), tiny_text_classifier()).fit(*notes)


def windows(notes, digits, folder):
    return tiny_text_classifier(long_texts="windows", window_length=12).fit(*notes)


def several_labels(notes, digits, folder):
    words = ("started", "stopped", "vitamin")
    there = np.array([[*(word in text.lower() for word in words), False] for text in notes[0]])
    return tiny_text_classifier(label_thresholds=0.4).fit(notes[0], there)


def search(notes, digits, folder):
    return GridSearchCV(tiny_text_classifier(), {"tau": [0.0, 0.5]}, cv=2).fit(*notes)


def both(notes, digits, folder):
    X = list(zip(notes[0], digits[0], strict=True))
    config = tiny_config("vit", image_size=8, num_channels=1)
    classifier = tiny_multimodal_classifier(hand_over_after=1).set_params(image_backbone=config)
    return classifier.fit(X, notes[1])


def int8(notes, digits, folder):
    return tiny_text_classifier(precision="int8").fit(*notes)


KINDS = {
    "scratch text": scratch_text,
    "scratch image": scratch_image,
    "config text": config_text,
    "tokenizer object": tokenizer_object,
    "bert checkpoint": _checkpoint_text("bert"),
    "gpt2 checkpoint": _checkpoint_text("gpt2"),
    "llama checkpoint": _checkpoint_text("llama"),
    "albert checkpoint": _checkpoint_text("albert"),
    "vit checkpoint": checkpoint_image,
    "without cuda": without_cuda,
    "pipeline": pipeline,
    "windows": windows,
    "several labels": several_labels,
    "search": search,
    "both": both,
}
if not why_not_int8():
    KINDS["int8"] = int8

# The other process: loads every file and writes down what the estimators predict.
LOAD = """
import pickle, sys, warnings
from pathlib import Path
import joblib, numpy as np
warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
X = dict(np.load(folder / "X.npz"))
for path in sorted(folder.glob("*.joblib")) + sorted(folder.glob("*.pickle")):
    if path.suffix == ".joblib":
        loaded = joblib.load(path)
    else:
        loaded = pickle.loads(path.read_bytes())
    images = "image" in path.stem or "vit" in path.stem
    samples = X["images"] if images else X["texts"].tolist()
    if path.stem == "both":
        samples = list(zip(X["texts"].tolist(), X["images"], strict=True))
    np.save(path.with_suffix(path.suffix + ".npy"), loaded.predict_proba(samples))
"""


@pytest.fixture(scope="module")
def saved(notes, digits, tmp_path_factory):
    """Estimators of every kind, saved; their checkpoints gone; read by another process."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    np.savez(folder / "X.npz", texts=np.array(notes[0]), images=digits[0])
    fitted = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*longer than max_length")
        warnings.filterwarnings("ignore", "y holds labels that do not vary")
        for kind, make in KINDS.items():
            fitted[kind] = make(notes, digits, checkpoints)
            joblib.dump(fitted[kind], folder / f"{kind}.joblib")
            (folder / f"{kind}.pickle").write_bytes(pickle.dumps(fitted[kind]))
    shutil.rmtree(checkpoints)
    environment = {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # as here: other numbers of threads add up in other orders
    }
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder, fitted


def samples_for(kind, notes, digits):
    if kind == "both":
        return list(zip(notes[0], digits[0], strict=True))
    return digits[0] if "image" in kind or "vit" in kind else notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["joblib", "pickle"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_process_predicts_the_same(saved, notes, digits, kind, way):
    folder, fitted = saved
    loaded_proba = np.load(folder / f"{kind}.{way}.npy")
    assert_array_equal(loaded_proba, fitted[kind].predict_proba(samples_for(kind, notes, digits)))


@pytest.mark.parametrize("way", ["joblib", "pickle"])
@pytest.mark.parametrize("kind", ["scratch text", "scratch image"])
def test_a_file_holds_the_weights_and_the_vocabulary_once(saved, kind, way):
    folder, fitted = saved
    network = fitted[kind].net_.module_
    content = sum(part.numel() * part.element_size() for part in network.parameters())
    if kind == "scratch text":
        tokenizer = fitted[kind]._preprocessor.tokenizer
        content += len(tokenizer.backend_tokenizer.to_str().encode())
    assert (folder / f"{kind}.{way}").stat().st_size <= 1.05 * content


def test_the_overhead_does_not_grow_with_the_data(notes, tmp_path):
    X, y = notes
    sizes = []
    for repeats in (1, 5):
        fitted = tiny_text_classifier(max_epochs=1, tokenizer=tiny_tokenizer("bert"))
        sizes.append(len(pickle.dumps(fitted.fit(X * repeats, np.tile(y, repeats)))))
        fitted.predict(X)
        fitted.set_params(precision="bfloat16").predict(X)
        assert len(pickle.dumps(fitted)) <= sizes[-1] + 100
    assert abs(sizes[1] - sizes[0]) < 1000


def test_files_mapped_into_the_memory_load_without_a_warning(text_classifier, notes, tmp_path):
    fitted = text_classifier.fit(*notes)
    joblib.dump(fitted, tmp_path / "model.joblib")
    torch.set_warn_always(True)  # torch's warning of arrays that are read-only comes once otherwise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    finally:
        torch.set_warn_always(False)
    assert_array_equal(again.predict_proba(notes[0]), fitted.predict_proba(notes[0]))


def test_no_path_of_the_machine_is_written(notes, tmp_path):
    checkpoint = make_checkpoint("bert", tmp_path / "a-folder-of-mine")
    fitted = EPEEClassifier(str(checkpoint), **QUICK)
    fitted = clone(fitted).fit(*notes)
    # The parameter itself is the user's, and stays.
    fitted.backbone = None
    assert b"a-folder-of-mine" not in pickle.dumps(fitted)
    assert b"sklearn-epee-" not in pickle.dumps(fitted)


# ------------------------------------------------------------------------- where there is no GPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without CUDA")
def test_trained_on_a_gpu_and_asked_to_run_on_one_that_is_not_there(notes, digits, tmp_path):
    X, _ = notes
    fitted = without_cuda(notes, digits, tmp_path).set_params(device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match=r"device='cuda' is not available.*device='auto'"):
        loaded.predict(X)
    proba = loaded.set_params(device="auto").predict_proba(X)
    assert_array_equal(proba, fitted.set_params(device="cpu").predict_proba(X))
    loaded.set_params(warm_start=True).fit(*notes)
    assert str(loaded.net_.device) == str(loaded.net_.plan.device) == "cpu"


# ---------------------------------------------------------------------------- after it was loaded


def twin_through(way, fitted, folder):
    if way == "joblib":
        joblib.dump(fitted, folder / "file.joblib")
        return joblib.load(folder / "file.joblib")
    if way == "compressed":
        joblib.dump(fitted, folder / "file.joblib", compress=3)
        return joblib.load(folder / "file.joblib")
    return pickle.loads(pickle.dumps(fitted)) if way == "pickle" else copy.deepcopy(fitted)


WAYS = ["joblib", "compressed", "pickle", "deepcopy"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_everything_works_on_after_loading(kind, way, request, tmp_path):
    fitted = request.getfixturevalue(f"{kind}_classifier")
    X = request.getfixturevalue("texts" if kind == "text" else "digits")
    X = X[0] if kind == "image" else X
    loaded = twin_through(way, fitted, tmp_path)
    for name in ("predict", "predict_proba", "predict_exit_layer"):
        assert_array_equal(getattr(loaded, name)(X), getattr(fitted, name)(X))
    assert_array_equal(list(loaded.staged_predict_proba(X)), list(fitted.staged_predict_proba(X)))
    assert_array_equal(loaded.predict_at_layer(X, 1), fitted.predict_at_layer(X, 1))
    assert_array_equal(loaded.classes_, fitted.classes_)
    assert (loaded.n_layers_, loaded.n_iter_) == (fitted.n_layers_, fitted.n_iter_)
    assert_array_equal(loaded.history_[:, "train_loss"], fitted.history_[:, "train_loss"])
    for estimator in (loaded, fitted):
        estimator.set_params(tau=0.0, patience=2, exit_ensemble="weighted")
    assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize("way", WAYS)
def test_training_continues_after_loading(text_classifier, notes, tmp_path, way):
    X, y = notes
    before = text_classifier.predict_proba(X)
    loaded = twin_through(way, text_classifier, tmp_path)
    for estimator in (loaded, text_classifier):
        estimator.set_params(warm_start=True, learning_rate=1e-4).fit(X, y)
    assert_array_equal(loaded.predict_proba(X), text_classifier.predict_proba(X))
    assert not np.array_equal(loaded.predict_proba(X), before)
    with pytest.raises(ValueError, match="warm_start=True continues a network for the classes"):
        loaded.fit(X, ["another"] * 20 + ["labels"] * 20)


def test_training_continues_where_the_checkpoint_is_gone(notes, tmp_path):
    checkpoint = make_checkpoint("bert", tmp_path / "bert", max_position_embeddings=128)
    fitted = EPEEClassifier(checkpoint, **tiny_training(max_epochs=1, memory=None)).fit(*notes)
    loaded = pickle.loads(pickle.dumps(fitted))
    shutil.rmtree(checkpoint)
    loaded.set_params(warm_start=True).fit(*notes)
    with pytest.raises(ValueError, match="backbone"):
        loaded.set_params(warm_start=False).fit(*notes)
    assert loaded.predict(notes[0]).shape == (40,)


@pytest.mark.parametrize("make", [tiny_text_classifier, tiny_image_classifier])
@pytest.mark.parametrize("way", WAYS)
def test_unfitted_estimators_are_copied_with_their_parameters(make, way, notes, digits, tmp_path):
    X, y = notes if make is tiny_text_classifier else digits
    estimator = make(max_epochs=1, memory=tmp_path)
    loaded = twin_through(way, estimator, tmp_path)
    parameters = loaded.get_params()
    assert parameters.pop("backbone").to_dict() == estimator.backbone.to_dict()
    assert parameters == {k: v for k, v in estimator.get_params().items() if k != "backbone"}
    assert_array_equal(loaded.fit(X, y).predict_proba(X), estimator.fit(X, y).predict_proba(X))


def test_a_saved_clone_outlives_the_store_of_its_process(notes, tmp_path):
    twin = clone(tiny_text_classifier(max_epochs=1, random_state=None))
    # As if made by a process that has ended: nobody holds a lock beside it.
    ended = tmp_path / "sklearn-epee-aaaa"
    twin._search_context = dataclasses.replace(twin._search_context, folder=ended)
    loaded = pickle.loads(pickle.dumps(twin)).fit(*notes)
    assert loaded.predict(notes[0]).shape == (40,)
    assert not ended.exists()


def test_wrappers_of_fitted_estimators(text_classifier, notes, tmp_path):
    X, y = notes
    frozen = FrozenEstimator(text_classifier)
    for estimator in (frozen, CalibratedClassifierCV(frozen, method="sigmoid").fit(X, y)):
        loaded = twin_through("joblib", estimator, tmp_path)
        assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))


def test_a_copy_predicts_with_weights_that_were_changed_in_place(text_classifier, notes):
    before = text_classifier.predict_proba(notes[0])
    with torch.no_grad():
        text_classifier.net_.module_.backbone.embeddings.word_embeddings.weight.zero_()
    after = copy.deepcopy(text_classifier).predict_proba(notes[0])
    assert np.abs(after - before).max() > 1e-3


# ------------------------------------------------------------------------- of another version


@pytest.mark.parametrize("fitted", [True, False])
def test_a_pickle_of_another_version_warns(text_classifier, monkeypatch, fitted):
    estimator = text_classifier if fitted else tiny_text_classifier()
    pickled = pickle.dumps(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickled)
        copy.deepcopy(estimator)
    monkeypatch.setattr(fitted_module, "__version__", "99.0")
    message = r"EPEEClassifier of sklearn_epee from version .* when using version 99\.0"
    with pytest.warns(InconsistentVersionWarning, match=message):
        loaded = pickle.loads(pickled)
    assert loaded.get_params().keys() == estimator.get_params().keys()


def test_a_pickle_that_names_no_version_warns():
    estimator = tiny_text_classifier()
    state = estimator.__getstate__()
    state.pop(fitted_module.VERSION_KEY)
    with pytest.warns(InconsistentVersionWarning, match="from version unknown"):
        estimator.__setstate__(state)
