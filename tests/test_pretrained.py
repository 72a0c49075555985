"""Folders without pickle: every estimator and wrapper, saved and loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import EpochTimer
from transformers import AutoConfig, AutoModel, AutoTokenizer

import sklearn_epee
from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    EPEETokenClassifier,
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
)
from sklearn_epee._base.tokenizer_folder import write_tokenizer_file
from sklearn_epee._nn import devices
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee.exceptions import ModelFolderError

from .checkpoints import (
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    kind_of,
    make_checkpoint,
    tiny_config,
    tiny_tokenizer,
)
from .classifiers import (
    tiny_image_classifier,
    tiny_multimodal_classifier,
    tiny_text_classifier,
    tiny_training,
)
from .tagged import tiny_token_classifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*longer than max_length", "ignore:y holds labels that do not vary"
)

QUICK = tiny_training(max_epochs=1, max_length=32)
# Written by the first version of the layout, by `python -m tests.write_old_folders`.
OLD = Path(__file__).parent / "old_folders"


def texts(notes, digits):
    return tiny_text_classifier().fit(*notes), notes[0]


def from_scratch(notes, digits):
    return EPEEClassifier(**tiny_training(max_epochs=1)).fit(*notes), notes[0]


def pairs(notes, digits):
    X = list(zip(notes[0], reversed(notes[0]), strict=True))
    return tiny_text_classifier(max_length=40).fit(X, notes[1]), X


def windows(notes, digits):
    return tiny_text_classifier(long_texts="windows", window_length=12).fit(*notes), notes[0]


def head_and_tail(notes, digits):
    return tiny_text_classifier(long_texts="head_tail", max_length=12).fit(*notes), notes[0]


def relations(notes, digits):
    X = [f"[E1] zinc [/E1] {text} [E2] rash [/E2]" for text in notes[0]]
    return tiny_text_classifier(entity_marks="tokens", pooling="entity").fit(X, notes[1]), X


def attention(notes, digits):
    return tiny_text_classifier(pooling="attention", exit_ensemble="weighted").fit(*notes), notes[0]


def bottlenecks(notes, digits):
    classifier = tiny_text_classifier(head="bottleneck", head_init="regression")
    return classifier.fit(*notes), notes[0]


def heads_with_attention(notes, digits):
    return tiny_text_classifier(head="attention", pooling="cls").fit(*notes), notes[0]


def images_with_bottlenecks(notes, digits):
    return tiny_image_classifier(head="bottleneck").fit(*digits), digits[0]


def _words_in(text):
    return [word for word in ("started", "stopped", "vitamin") if word in text.lower()]


def several_labels(notes, digits):
    labels = [_words_in(text) for text in notes[0]]
    return tiny_text_classifier(label_thresholds=[0.3, 0.4, 0.5]).fit(notes[0], labels), notes[0]


def several_tasks(notes, digits):
    y = np.array([[label, str(bool(_words_in(text)))] for text, label in zip(*notes, strict=True)])
    return tiny_text_classifier(joint_exit="mean").fit(notes[0], y), notes[0]


def images(notes, digits):
    return tiny_image_classifier().fit(*digits), digits[0]


def images_from_scratch(notes, digits):
    return EPEEImageClassifier(**tiny_training(max_epochs=1)).fit(*digits), digits[0]


def two_towers(notes, digits):
    X = list(zip(notes[0], digits[0], strict=True))
    X[0], X[1] = (X[0][0], None), (None, X[1][1])
    config = tiny_config("vit", image_size=8, num_channels=1)
    classifier = tiny_multimodal_classifier(hand_over_after=1, head="bottleneck")
    return classifier.set_params(image_backbone=config).fit(X, notes[1]), X


def calibrated(notes, digits):
    inner = FrozenEstimator(texts(notes, digits)[0])
    return ExitCalibratedClassifier(inner, method="vector").fit(*notes), notes[0]


def tuned(notes, digits):
    inner = FrozenEstimator(calibrated(notes, digits)[0])
    tuner = TunedExitPolicyClassifierCV(inner, min_speedup=0.3, store_cv_results=True)
    return tuner.fit(*notes), notes[0]


def certified(notes, digits):
    inner = FrozenEstimator(texts(notes, digits)[0])
    tuner = TunedExitPolicyClassifierCV(inner, max_accuracy_drop=0.5, confidence=0.5)
    return tuner.fit(*notes), notes[0]


def fixed(notes, digits):
    return FixedExitPolicyClassifier(tiny_text_classifier(), patience=2).fit(*notes), notes[0]


def thresholds(notes, digits):
    labels = [_words_in(text) for text in notes[0]]
    inner = tiny_text_classifier().fit(notes[0], labels)
    return TunedLabelThresholdsClassifierCV(FrozenEstimator(inner)).fit(notes[0], labels), notes[0]


KINDS = [
    texts, from_scratch, pairs, windows, head_and_tail, relations, attention, bottlenecks,
    heads_with_attention, images_with_bottlenecks, several_labels, several_tasks, images,
    images_from_scratch, two_towers, calibrated, tuned, certified, fixed, thresholds,
]  # fmt: skip


def same(first, second):
    """Whether two results are the same, whatever they are nested in."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        alike = type(first) is type(second) and len(first) == len(second)
        return alike and all(map(same, first, second))
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(
            first, second, equal_nan=first.dtype.kind == "f"
        )
    return type(first) is type(second) and (first == second or first != first)  # noqa: PLR0124


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_loaded_is_what_was_saved(make, notes, digits, tmp_path):
    fitted, X = make(notes, digits)
    fitted.save_pretrained(tmp_path / "model")
    loaded = type(fitted).from_pretrained(tmp_path / "model")
    assert same(dict(fitted.predict_with_exits(X)), dict(loaded.predict_with_exits(X)))
    for first, second in zip(
        fitted.staged_predict_proba(X), loaded.staged_predict_proba(X), strict=True
    ):
        assert same(first, second)
    assert same(fitted.classes_, loaded.classes_)
    assert vars(fitted).keys() == vars(loaded).keys()
    learned = {k: v for k, v in vars(fitted).items() if k.endswith("_") and k != "estimator_"}
    assert same({k: v for k, v in vars(loaded).items() if k in learned}, learned)


def test_words_and_their_tags(tmp_path):
    X = ["Aspirin causes rash.", "No rash from zinc."] * 4
    first = {"event": [(0, 19, "Adverse")], "drug": [(0, 7, "Drug")]}
    second = {"event": [], "drug": [(13, 17, "Drug")]}
    config = tiny_config("bert", vocab_size=300)
    words = EPEETokenClassifier(config, transition_weight=0.5, head="attention", **tiny_training())
    words.fit(X, [first, second] * 4)
    words.save_pretrained(tmp_path / "words", X, [first, second] * 4)
    loaded = EPEETokenClassifier.from_pretrained(tmp_path / "words")
    assert loaded.predict(X) == words.predict(X)
    assert loaded.predict_tags(X) == words.predict_tags(X)
    assert same(loaded.predict_proba(X), words.predict_proba(X))
    assert "span_f1" in (tmp_path / "words" / "README.md").read_text()


def test_policies_around_words_with_several_layers_of_spans(tmp_path):
    X = [["zinc", "rash"], ["no", "pain"]] * 4
    y = [{"drug": ["B-X", "O"], "effect": ["O", "B-Y"]}, {"drug": ["O"] * 2, "effect": ["O"] * 2}]
    words = FrozenEstimator(tiny_token_classifier().fit(X, y * 4))
    tuned = TunedExitPolicyClassifierCV(words, min_speedup=0.3).fit(X, y * 4)
    fixed = FixedExitPolicyClassifier(words, tau=0.2, patience=2).fit(X, y * 4)
    for policy in (tuned, fixed):
        folder = tmp_path / type(policy).__name__
        policy.save_pretrained(folder)
        loaded = type(policy).from_pretrained(folder)
        assert list(loaded.classes_) == ["drug", "effect"]
        assert loaded.predict(X) == policy.predict(X)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_every_family_is_saved_and_loaded(family, notes, digits, tmp_path):
    checkpoint = make_checkpoint(family, tmp_path / "checkpoint")
    if kind_of(family) == "image":
        fitted, X = EPEEImageClassifier(checkpoint, **tiny_training(max_epochs=1)), digits[0]
        fitted.fit(*digits)
    else:
        fitted, X = EPEEClassifier(str(checkpoint), **QUICK).fit(*notes), notes[0]
    fitted.save_pretrained(tmp_path / "model")
    shutil.rmtree(checkpoint)
    loaded = type(fitted).from_pretrained(tmp_path / "model")
    assert same(dict(fitted.predict_with_exits(X)), dict(loaded.predict_with_exits(X)))
    assert loaded.backbone == "checkpoint"


@pytest.mark.slow
def test_another_process_predicts_the_same(notes, tmp_path):
    fitted = tiny_text_classifier(device="cpu").fit(*notes)
    fitted.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "X.npy", np.array(notes[0]))
    script = (
        "import sys, numpy as np; from sklearn_epee import EPEEClassifier as C\n"
        "X = np.load('X.npy').tolist()\n"
        "np.save('proba.npy', C.from_pretrained('model').predict_proba(X))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    if torch.get_num_threads() == 1:
        assert_array_equal(np.load(tmp_path / "proba.npy"), fitted.predict_proba(notes[0]))


def test_a_backbone_of_the_folder_is_a_checkpoint_of_transformers(notes, tmp_path):
    fitted = tiny_text_classifier().fit(*notes)
    fitted.save_pretrained(tmp_path / "model")
    folder = tmp_path / "model" / "backbone"
    model = AutoModel.from_pretrained(folder)
    weights = fitted.net_.module_.backbone.state_dict()
    assert all(torch.equal(model.state_dict()[name], part) for name, part in weights.items())
    assert AutoConfig.from_pretrained(folder).vocab_size == 300
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 0
    again = EPEEClassifier(folder, **QUICK).fit(*notes)
    assert again.n_layers_ == fitted.n_layers_


# ------------------------------------------------------------------------------ what is kept


def test_training_goes_on_from_a_loaded_estimator(notes, tmp_path):
    fitted = tiny_text_classifier(warm_start=True).fit(*notes)
    fitted.save_pretrained(tmp_path / "model")
    loaded = EPEEClassifier.from_pretrained(tmp_path / "model")
    assert_array_equal(
        loaded.fit(*notes).predict_proba(notes[0]), fitted.fit(*notes).predict_proba(notes[0])
    )


def test_parameters_come_back_and_a_clone_learns_the_same(notes, tmp_path):
    weights = dict.fromkeys(np.unique(notes[1]), 2.0)
    parameters = {
        "class_weight": weights, "tau": np.float64(0.3), "exit_loss_weights": np.array([1, 2, 3]),
        "label_thresholds": None, "random_state": 3,
    }  # fmt: skip
    fitted = tiny_text_classifier(**parameters).fit(*notes)
    fitted.save_pretrained(tmp_path / "model")
    loaded = EPEEClassifier.from_pretrained(tmp_path / "model")
    for name, value in parameters.items():
        assert same(getattr(loaded, name), value)
    again = clone(loaded).fit(*notes)
    assert_array_equal(again.predict_proba(notes[0]), fitted.predict_proba(notes[0]))


def test_what_acts_in_fit_alone_is_left_out_with_a_warning(notes, tmp_path):
    fitted = tiny_text_classifier(callbacks=[EpochTimer()], memory=str(tmp_path / "store"))
    fitted.fit(*notes)
    tuner = TunedExitPolicyClassifierCV(
        FrozenEstimator(fitted), scoring=make_scorer(accuracy_score)
    ).fit(*notes)
    with pytest.warns(UserWarning, match=r"Left out.*CV\.scoring.*EPEEClassifier\.callbacks"):
        tuner.save_pretrained(tmp_path / "model")
    assert "`TunedExitPolicyClassifierCV.scoring`" in (tmp_path / "model/README.md").read_text()
    loaded = TunedExitPolicyClassifierCV.from_pretrained(tmp_path / "model")
    assert loaded.scoring == "f1_macro"
    assert loaded.estimator_.callbacks is None
    assert str(tmp_path) not in (tmp_path / "model" / "sklearn_epee.json").read_text()


def test_a_tokenizer_object_and_a_policy_set_later(notes, tmp_path):
    fitted = tiny_text_classifier(tokenizer=tiny_tokenizer("bert")).fit(*notes)
    fitted.set_params(tau=0.9, patience=1)
    fitted.save_pretrained(tmp_path / "model")
    loaded = EPEEClassifier.from_pretrained(tmp_path / "model")
    assert (loaded.tau, loaded.patience) == (0.9, 1)
    assert loaded.tokenizer.get_vocab() == fitted.tokenizer.get_vocab()


def test_trained_where_there_was_a_gpu(notes, tmp_path):
    fitted = tiny_text_classifier().fit(*notes).set_params(device="cuda")
    fitted.save_pretrained(tmp_path / "model")
    loaded = EPEEClassifier.from_pretrained(tmp_path / "model")
    assert loaded.set_params(device="cpu").predict(notes[0]).shape == (len(notes[0]),)


@pytest.mark.skipif(bool(why_not_int8()), reason=f"no 8-bit products: {why_not_int8()}")
@pytest.mark.parametrize("kind", ["texts", "two towers"])
def test_products_of_8_bit_numbers(kind, notes, digits, tmp_path):
    fitted, X = (texts if kind == "texts" else two_towers)(notes, digits)
    fitted.calibrate_int8(X).set_params(precision="int8")
    fitted.save_pretrained(tmp_path / "model")
    loaded = type(fitted).from_pretrained(tmp_path / "model")
    assert same(dict(fitted.predict_with_exits(X)), dict(loaded.predict_with_exits(X)))
    assert str(loaded.precision_report_) == str(fitted.precision_report_)


@pytest.mark.skipif(bool(why_not_int8()), reason=f"no 8-bit products: {why_not_int8()}")
def test_a_model_in_8_bits_is_loaded_where_the_processor_has_no_such_products(
    notes, tmp_path, monkeypatch
):
    fitted = tiny_text_classifier().fit(*notes).calibrate_int8(notes[0])
    fitted.set_params(precision="int8").save_pretrained(tmp_path / "model")
    monkeypatch.setattr(devices, "why_not_int8", lambda: "it is old")
    loaded = EPEEClassifier.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="it is old"):
        loaded.predict(notes[0])
    expected = fitted.set_params(precision="float32").predict_proba(notes[0])
    loaded.set_params(precision="float32")
    np.testing.assert_array_equal(loaded.predict_proba(notes[0]), expected)


# --------------------------------------------------------------------------- what is refused


class OwnClassifier(EPEEClassifier):
    """A class that a folder could not name."""


def test_an_estimator_of_another_package_is_refused_by_name(notes, tmp_path):
    with pytest.raises(TypeError, match="OwnClassifier cannot be saved without pickle"):
        OwnClassifier(**vars_of(tiny_text_classifier())).fit(*notes).save_pretrained(tmp_path / "a")
    steps = make_pipeline(FunctionTransformer(np.ravel), tiny_text_classifier()).fit(*notes)
    wrapped = FixedExitPolicyClassifier(FrozenEstimator(steps), patience=1).fit(*notes)
    with pytest.raises(TypeError, match="Pipeline cannot be saved without pickle"):
        wrapped.save_pretrained(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def vars_of(estimator):
    return estimator.get_params(deep=False)


def test_an_image_processor_of_ones_own_is_refused_by_name(digits, tmp_path):
    def processor(images, **_):
        stacked = np.stack([image.transpose(2, 0, 1) for image in images])
        return {"pixel_values": stacked / 255}

    fitted = tiny_image_classifier(image_processor=processor).fit(*digits)
    with pytest.raises(TypeError, match=r"image_processor: a .*function cannot be saved"):
        fitted.save_pretrained(tmp_path / "model")


def test_not_fitted_and_arguments_that_are_not_right(notes, tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        tiny_text_classifier().save_pretrained(tmp_path / "model")
    fitted = tiny_text_classifier().fit(*notes)
    with pytest.raises(ValueError, match="Pass both X and y"):
        fitted.save_pretrained(tmp_path / "model", notes[0])
    with pytest.raises(ValueError, match=r"card_data has the key 'licence'.*'license'"):
        fitted.save_pretrained(tmp_path / "model", card_data={"licence": "mit"})
    with pytest.raises(TypeError, match="folder_or_hub_id must be a folder or a hub id; got int"):
        EPEEClassifier.from_pretrained(3)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_class(notes, tmp_path):
    tiny_text_classifier().fit(*notes).save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="holds a EPEEClassifier, not a EPEEImageClassifier"):
        EPEEImageClassifier.from_pretrained(tmp_path)


def test_only_a_model_is_overwritten_and_only_with_overwrite(notes, tmp_path):
    fitted = tiny_text_classifier().fit(*notes)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a model of sklearn_epee"):
        fitted.save_pretrained(tmp_path, overwrite=True)
    folder = tmp_path / "model"
    fitted.save_pretrained(folder)
    (folder / "picture.png").write_bytes(b"")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fitted.save_pretrained(folder)
    fitted.set_params(tau=0.7).save_pretrained(folder, overwrite=True)
    assert EPEEClassifier.from_pretrained(folder).tau == 0.7
    assert (folder / "picture.png").exists()


@pytest.fixture
def small_files():
    """Let files be no longer than 4 kB: writing more fails, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_nothing_behind(notes, tmp_path, request):
    fitted = tiny_text_classifier().fit(*notes)
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"model' cannot be written: .*File too large"):
        fitted.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_for_which_there_is_no_room_is_an_error_of_the_disk(tmp_path, small_files):
    with pytest.raises(OSError, match="File too large"):
        write_tokenizer_file(tiny_tokenizer("bert"), tmp_path / "tokenizer.json")


# ------------------------------------------------------------------------------ card and hub


def test_the_card_says_what_was_measured_and_nothing_else(notes, tmp_path):
    fitted = tiny_text_classifier().fit(*notes)
    fitted.save_pretrained(tmp_path / "a")
    assert "Nothing was measured" in (tmp_path / "a" / "README.md").read_text()
    said = {"title": "Notes", "license": "mit", "limitations": "Made-up notes.", "tags": ["a: b"]}
    fitted.save_pretrained(tmp_path / "b", *notes, card_data=said)
    card = (tmp_path / "b" / "README.md").read_text()
    assert f"| accuracy | {fitted.score(*notes):.4g} |" in card
    assert 'license: "mit"' in card
    assert '"a: b"' in card
    assert "## Limitations\n\nMade-up notes." in card
    # People write into cards, and hubs add files of their own.
    (tmp_path / "b" / "README.md").write_text("Better.")
    (tmp_path / "b" / ".gitattributes").write_text("*")
    EPEEClassifier.from_pretrained(tmp_path / "b")


def test_a_hub_id_is_downloaded_as_a_snapshot_of_links(notes, tmp_path, monkeypatch):
    tiny_text_classifier().fit(*notes).save_pretrained(tmp_path / "model")
    snapshot = tmp_path / "models--me--notes" / "snapshots" / "abc"
    blobs = tmp_path / "models--me--notes" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "model").rglob("*.*"))):
        shutil.copy(path, blobs / str(number))
        link = snapshot / path.relative_to(tmp_path / "model")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    request = {}

    def download(repo_id, **options):
        request.update(options, repo_id=repo_id)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = EPEEClassifier.from_pretrained("me/notes", revision="v1", token="secret")
    assert loaded.predict(notes[0]).shape == (len(notes[0]),)
    assert (request["repo_id"], request["revision"], request["token"]) == (
        "me/notes",
        "v1",
        "secret",
    )
    assert not {"*.bin", "*.pkl", "*.py"} & set(request["allow_patterns"])


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def offline(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ModelFolderError, match=r"'me/notes' cannot be loaded.*no connection"):
        EPEEClassifier.from_pretrained("me/notes")


def test_an_upload_is_one_commit_of_the_folder(notes, monkeypatch):
    seen = {}

    class Hub:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, folder_path, **options):
            files = [path for path in Path(folder_path).rglob("*") if path.is_file()]
            seen.update(options, files={path.name for path in files})
            return type("Commit", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    fitted = tiny_text_classifier().fit(*notes)
    assert fitted.push_to_hub("notes", *notes, token="secret") == "https://hub/commit"
    assert seen["repo_id"] == "me/notes"
    assert {"README.md", "manifest.json", "heads.safetensors"} <= seen["files"]


@pytest.mark.parametrize("head", ["deep", None, ["linear"]])
def test_heads_of_a_kind_that_is_not_known(head, notes, tmp_path):
    fitted = tiny_text_classifier(max_epochs=1).fit(*notes)
    fitted.net_.module_.head = head
    fitted.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match=r"heads of the kind .* are not known"):
        EPEEClassifier.from_pretrained(tmp_path)


# ---------------------------------------------------------------------------- older versions


@pytest.mark.parametrize("folder", sorted(OLD.glob("*")), ids=lambda folder: folder.name)
def test_folders_of_older_versions_are_read_as_they_were(folder):
    expected = json.loads((folder / "expected.json").read_text())
    cls = getattr(sklearn_epee, expected["class"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = cls.from_pretrained(folder / "model")
    X = np.array(expected["X"], np.uint8) if expected["images"] else expected["X"]
    np.testing.assert_allclose(loaded.predict_proba(X), expected["proba"], atol=1e-5)
    assert loaded.predict_exit_layer(X).tolist() == expected["exit_layer"]


def test_names_of_labels_of_several_types(notes, tmp_path):
    names = ["supplement", 3, ("status", "stopped"), None]
    words = ("supplement", "started", "stopped", "vitamin")
    indicator = [[int(word in text.lower()) for word in words] for text in notes[0]]
    y = pd.DataFrame(indicator, columns=pd.Index(names, dtype=object))
    clf = tiny_text_classifier(max_epochs=1).fit(notes[0], y)
    clf.save_pretrained(tmp_path / "model", notes[0], y)
    loaded = EPEEClassifier.from_pretrained(tmp_path / "model")
    assert loaded.classes_.tolist() == names
    assert same(loaded.predict_proba(notes[0]), clf.predict_proba(notes[0]))


def test_classes_that_a_folder_cannot_hold_are_named(notes, tmp_path):
    texts = notes[0][:20]
    days = np.where(np.arange(20) % 2, np.datetime64("2020-01-01"), np.datetime64("2021-01-01"))
    clf = tiny_text_classifier(max_epochs=1).fit(texts, days)
    with pytest.raises(TypeError, match=r"classes_ holds an array .* datetime64.*y\.astype\(str\)"):
        clf.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
