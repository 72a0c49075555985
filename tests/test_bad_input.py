"""Everything that is refused: the message, and that a fitted estimator predicts as before."""

from __future__ import annotations

import copy
import enum
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError
from skorch.callbacks import Callback

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from tests.checkpoints import IMAGE_SIZE, make_checkpoint, tiny_config, tiny_tokenizer

TRAINING: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 8,
    "precision": "float32",
    "memory": None,
    "random_state": 0,
}
TEXTS = ["takes zinc daily", "stopped iron", "never a rash", "pain after a dose"] * 4
PAIRS = [(text, "iron") for text in TEXTS]
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
LABELS = np.array(["a", "b"] * 8)


def text_classifier(backbone: Any = None, **parameters: Any) -> EPEEClassifier:
    return EPEEClassifier(backbone or tiny_config("bert"), **TRAINING | parameters)


def image_classifier(backbone: Any = None, **parameters: Any) -> EPEEImageClassifier:
    config = backbone or tiny_config("vit", image_size=8, num_channels=1)
    return EPEEImageClassifier(config, **TRAINING | parameters)


@pytest.fixture(scope="module")
def _text() -> EPEEClassifier:
    return text_classifier().fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def _image() -> EPEEImageClassifier:
    return image_classifier().fit(IMAGES, LABELS)


@pytest.fixture
def text(_text) -> EPEEClassifier:
    return copy.deepcopy(_text)


@pytest.fixture
def image(_image) -> EPEEImageClassifier:
    return copy.deepcopy(_image)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_checkpoint("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    return make_checkpoint("vit", tmp_path_factory.mktemp("vit"))


class Refusal:
    """Checks that a call is refused by name and that the fitted estimator still is what it was."""

    def __init__(self, estimator: Any, samples: Any) -> None:
        self.estimator = estimator
        self.samples = samples
        self.expected = estimator.predict_proba(samples)
        self.fitted = {name: value for name, value in vars(estimator).items() if name.endswith("_")}

    def of_fit(self, error: Any, message: str, X: Any, y: Any, **fit_params: Any) -> None:
        with pytest.raises(error, match=message):
            self.estimator.fit(X, y, **fit_params)
        self.check_unchanged()

    def of_call(self, error: Any, message: str, method: str, *args: Any) -> None:
        with pytest.raises(error, match=message):
            # Staged methods are generators.
            list(getattr(self.estimator, method)(*args))
        self.check_unchanged()

    def of_parameter(self, error: Any, message: str, **parameters: Any) -> None:
        """A parameter of fit; it is put back as it was."""
        before = {name: self.estimator.get_params(deep=False)[name] for name in parameters}
        self.estimator.set_params(**parameters)
        with pytest.raises(error, match=message):
            self.estimator.fit(self.samples, LABELS)
        self.estimator.set_params(**before)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        now = {name: value for name, value in vars(self.estimator).items() if name.endswith("_")}
        assert now.keys() == self.fitted.keys()
        assert all(now[name] is self.fitted[name] for name in now)
        np.testing.assert_array_equal(self.estimator.predict_proba(self.samples), self.expected)


@pytest.fixture
def refused_text(text) -> Refusal:
    return Refusal(text, TEXTS)


@pytest.fixture
def refused_image(image) -> Refusal:
    return Refusal(image, IMAGES)


PREDICTIONS = ["predict", "predict_proba", "predict_exit_layer", "predict_with_exits",
               "staged_predict", "staged_predict_proba"]  # fmt: skip


# ------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, "X holds no texts"),
        ([*TEXTS[1:], None], TypeError, r"X\[15\] is None of type NoneType, not a text"),
        ([float("nan"), *TEXTS[1:]], TypeError, r"X\[0\] is nan of type float"),
        ([*TEXTS[1:], 7], TypeError, r"X\[15\] is 7 of type int"),
        ([[[text]] for text in TEXTS], TypeError, r"X\[0\] is a list of 1 elements"),
        ([*TEXTS[1:], b"zinc"], TypeError, r"X\[15\] is b'zinc' of type bytes"),
        ([*TEXTS[1:], "\udc80"], ValueError, r"X\[15\] is .* not valid Unicode"),
        ("zinc", TypeError, "X is a single str.*Wrap it in a list"),
        (np.ones((16, 8, 8)), ValueError, r"X is an array of shape \(16, 8, 8\)"),
        (None, TypeError, "X is of type NoneType"),
    ],
)
def test_samples_that_are_no_texts(refused_text, X, error, message):
    refused_text.of_fit(error, message, X, LABELS)
    for method in PREDICTIONS:
        refused_text.of_call(error, message, method, X)
    refused_text.of_call(error, message, "predict_at_layer", X, 1)


def test_pairs_where_texts_were_fitted_and_the_other_way_round(refused_text):
    message = "X holds pairs of texts, but this EPEEClassifier was fitted on single texts"
    for method in PREDICTIONS:
        refused_text.of_call(ValueError, message, method, PAIRS)
    pairs = Refusal(text_classifier().fit(PAIRS, LABELS), PAIRS)
    message = "X holds single texts, but this EPEEClassifier was fitted on pairs of texts"
    pairs.of_call(ValueError, message, "predict", TEXTS)


def test_the_empty_string_is_a_text(text):
    proba = text.predict_proba(["", "zinc", ""])
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba[0], proba[2], atol=1e-6)
    assert text.fit(["", *TEXTS[1:]], LABELS).predict([""]).shape == (1,)


def test_long_texts_are_cut_with_one_warning(text):
    long = " ".join(["zinc"] * 200)
    with pytest.warns(UserWarning, match="^2 of 5 texts are longer than max_length=64 tokens") as w:
        text.predict([long, "zinc", long + " rash", "iron", ""])
    assert [warning.filename for warning in w] == [__file__]
    with pytest.warns(UserWarning, match="^1 of 16 texts are longer than max_length=64") as w:
        text.fit([long, *TEXTS[1:]], LABELS)
    assert [warning.filename for warning in w] == [__file__]


# ------------------------------------------------------------------------------------------ images


def broken(value: float) -> np.ndarray:
    X = IMAGES / 255
    X[3, 2, 1] = value
    return X


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, "X holds no images"),
        (np.empty((0, 8, 8)), ValueError, "X holds no images"),
        (broken(np.nan), ValueError, "X contains NaN or infinity among its pixels"),
        (broken(np.inf), ValueError, "X contains NaN or infinity"),
        ([*IMAGES[1:], np.full((8, 8), np.nan)], ValueError, r"X\[15\] contains NaN or infinity"),
        (np.empty((16, 0, 8)), ValueError, r"X has the shape \(16, 0, 8, 1\): images without"),
        ([*IMAGES[1:], np.empty((8, 0))], ValueError, r"X\[15\] has the shape \(8, 0, 1\)"),
        ([*IMAGES[1:], Image.new("RGB", (8, 8))], ValueError, r"X mixes images of \[1, 3\] chann"),
        ([*IMAGES[1:], None], TypeError, r"X\[15\] is None of type NoneType, not an image"),
        (
            [*IMAGES[1:], "a.png"],
            ValueError,
            r"X\[15\] is the path 'a.png', where there is no file",
        ),
        (["a text"] * 16, ValueError, r"X\[0\] is the path 'a text', where there is no file"),
        (np.ones((16, 64)), ValueError, r"\(16, 64\); rows of flattened images need image_shape="),
    ],
)
def test_samples_that_are_no_images(refused_image, X, error, message):
    refused_image.of_fit(error, message, X, LABELS)
    for method in PREDICTIONS:
        refused_image.of_call(error, message, method, X)
    refused_image.of_call(error, message, "predict_proba_at_layer", X, -1)


def test_another_channel_count_than_at_fit(refused_image):
    message = "X holds images of 3 channels, but this .* was fitted on images of 1 channels"
    for method in PREDICTIONS:
        refused_image.of_call(ValueError, message, method, np.ones((2, 8, 8, 3)))


@pytest.mark.parametrize("n_channels", [2, 4])
def test_channels_that_the_backbone_does_not_read(vit, n_channels):
    X = np.ones((16, 8, 8, n_channels))
    message = f"X holds images of {n_channels} channels, but the backbone reads 3; only grey"
    with pytest.raises(ValueError, match=message):
        image_classifier(vit).fit(X, LABELS)
    assert EPEEImageClassifier(**TRAINING).fit(X, LABELS).predict(X).shape == (16,)


def test_image_shapes_that_do_not_fit(refused_image):
    flat = IMAGES.reshape(16, 64)
    for image_shape, message in [
        ((8, 9), r"X has 64 features per row, but image_shape=\(8, 9\) stands for 72"),
        ((64,), r"image_shape=\(64,\) is not valid"),
        ((-8, -8), r"image_shape=\(-8, -8\) is not valid; expected \(height, width\)"),
    ]:
        refused_image.estimator.set_params(image_shape=image_shape)
        refused_image.of_fit(ValueError, message, flat, LABELS)
        refused_image.of_call(ValueError, message, "predict", flat)
    refused_image.estimator.set_params(image_shape=(8, 8))
    np.testing.assert_array_equal(
        refused_image.estimator.predict_proba(flat), refused_image.expected
    )
    refused_image.of_parameter(ValueError, "'image_shape' parameter", image_shape=8)


@pytest.mark.parametrize("image_size", [(8,), (8, 0), (8, 8, 1), (8, "a"), (), (8.0, 8)])
def test_image_sizes_that_are_none(refused_image, image_size):
    refused_image.of_parameter(ValueError, "image_size=.* is not valid", image_size=image_size)
    with pytest.raises(ValueError, match=r"image_size=.* is not valid"):
        EPEEImageClassifier(image_size=image_size, **TRAINING).fit(IMAGES, LABELS)


def test_image_sizes_that_cannot_be_split_into_patches(refused_image, vit):
    message = "image_size: images of 10x10 pixels cannot be split into patches of 4x4"
    refused_image.of_parameter(ValueError, message, image_size=10)
    with pytest.raises(
        ValueError, match="images of 2x2 pixels cannot be split into patches of 4x4"
    ):
        image_classifier(vit, image_size=2).fit(IMAGES, LABELS)


def test_floats_that_a_processor_cannot_read(vit):
    model = image_classifier(vit)
    X = IMAGES.astype(float)
    with pytest.raises(ValueError, match=r"X holds float pixels from \d to 2\d\d;.*Rescale X"):
        model.fit(X, LABELS)
    assert not hasattr(model, "classes_")
    refused = Refusal(model.fit(X / 255, LABELS), X / 255)
    refused.of_call(ValueError, "X holds float pixels", "predict", X)


# ------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LABELS[:-1], "X and y have inconsistent numbers of samples: X has 16, y has 15"),
        (["a"] * 16, "needs samples of at least 2 classes; y holds only one class: .*'a'"),
        (None, "requires y to be passed, but the target y is None"),
        (np.linspace(0, 1, 16), "Unknown label type: continuous"),
        (np.ones((16, 2, 2)), "Found array with dim 3, while dim <= 2 is required"),
        (np.full((16, 2), 3.0), r"y holds only one class in every task: 3\.0, 3\.0"),
        ([[label, 0] for label in LABELS[:-1]], r"In task 0, y\[:, 0\]: X and y have incons"),
        ([*zip(LABELS, np.linspace(0, 1, 16), strict=True)], r"In task 1, .*Unknown label type"),
        ([[0.0, np.nan]] * 8 + [[1.0, 2.0]] * 8, r"(?i)In task 1, y\[:, 1\]: .*y contains NaN"),
        ([np.nan] * 8 + [1.0] * 8, "(?i)y contains NaN"),
        (np.array([0, 1] * 8, dtype=object), r"\['int'\] in an array of objects.*y\.astype\(int\)"),
        (np.array([True, False] * 8, dtype=object), r"of objects.*y\.astype\(bool\)"),
    ],
)
def test_labels_that_do_not_fit(refused_text, refused_image, y, message):
    for refused in (refused_text, refused_image):
        refused.of_fit(ValueError, message, refused.samples, y)


@pytest.mark.parametrize(
    ("y", "types"),
    [
        (np.array(["a", 1] * 8, dtype=object), r"\['int', 'str'\]"),
        (np.array(["a", None] * 8, dtype=object), r"\['NoneType', 'str'\]"),
        (pd.Series(["a", pd.NA] * 8, dtype="string"), r"\['NAType', 'str'\]"),
        (np.array(["a", np.nan] * 8, dtype=object), r"\['float', 'str'\]"),
        (["a", None] * 8, r"\['NoneType', 'str'\]"),
        (["a", float("nan")] * 8, r"\['float', 'str'\]"),
        (["a", pd.NA] * 8, r"\['NAType', 'str'\]"),
        (("a", np.float64("nan")) * 8, r"\['float64', 'str'\]"),
        ([1, "no"] * 8, r"\['int', 'str'\]"),
        ([True, "no"] * 8, r"\['bool', 'str'\]"),
        ([["a"], [None]] * 8, r"\['NoneType', 'str'\]"),
        ([["a"], [1]] * 8, r"\['int', 'str'\]"),
    ],
)
def test_labels_of_mixed_types_or_missing(refused_text, y, types):
    message = f"y mixes labels of the types {types}; expected labels of one type, none of them miss"
    refused_text.of_fit(TypeError, message, TEXTS, y)
    if isinstance(y, (list, tuple)):
        refused_text.of_call(TypeError, message, "score", TEXTS, y)


def test_the_first_missing_label_is_named(refused_text):
    y = ["a", "b", "a", None] * 4
    refused_text.of_fit(TypeError, "4 are missing, the first at row 3", TEXTS, y)


class Dose(str, enum.Enum):  # noqa: UP042 - of another str() than StrEnum
    LOW = "a"
    HIGH = "high"


def test_strings_that_numpy_would_change_are_refused(refused_text):
    # np.array makes of them "Dose", twice, or "Dose.LOW" without its end.
    y = [Dose.LOW, Dose.HIGH] * 8
    message = r"y\[0\] is <Dose.LOW: 'a'>, which NumPy reads as 'Dose.LOW', .* strings such as 'a'"
    refused_text.of_fit(TypeError, message, TEXTS, y)
    refused_text.of_call(TypeError, message, "score", TEXTS, y)


@pytest.mark.parametrize(
    ("sample_weight", "message"),
    [
        (np.ones(15), r"sample_weight.shape == \(15,\), expected \(16,\)"),
        (np.zeros(16), "(?i)sample.weights? must contain at least one non-zero number"),
        (-np.ones(16), "sample_weight must not be negative; the smallest is -1"),
        (np.full(16, np.nan), "sample_weight contains NaN"),
        (np.tile([1.0, 0.0], 8), "at least 2 classes; y holds only one class: .*'a'"),
        (["1"] * 16, "sample_weight must hold one number .*; got values of type <U1, such as"),
        (["a", "b"] * 8, "sample_weight must hold one number .* such as .*'a'"),
        (
            np.array(["a", 1] * 8, dtype=object),
            "sample_weight must hold one number for each sample",
        ),
        ([None] * 16, "sample_weight must hold one number for each|sample_weight contains NaN"),
        ([[1, 2], [3]] * 8, "sample_weight must hold one number for each sample"),
        ([1j] * 16, "sample_weight must hold one number .* type complex128"),
        ({"a": 1}, "sample_weight must hold one number for each sample"),
    ],
)
def test_sample_weights_that_do_not_fit(refused_text, sample_weight, message):
    error = (ValueError, TypeError)
    refused_text.of_fit(error, message, TEXTS, LABELS, sample_weight=sample_weight)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"a": -1, "b": 1}, "class_weight=.* must hold finite weights >= 0"),
        ({"a": np.inf, "b": 1}, "class_weight=.* must hold finite weights"),
        ({"a": 0, "b": 0}, "class_weight leaves no sample with a weight above 0"),
        ("even", "'class_weight' parameter"),
    ],
)
def test_class_weights_that_do_not_fit(refused_text, class_weight, message):
    refused_text.of_parameter(ValueError, message, class_weight=class_weight)


@pytest.mark.parametrize(
    ("y", "fraction", "reason"),
    [
        (["a"] * 15 + ["b"], 0.25, r"a single sample of each of the classes \['b'\]\. "),
        (["a"] * 8 + ["b"] * 8, 0.05, r".*\. "),
        (["a"] * 14 + ["b"] * 2, 0.8, r".*\. "),
    ],
)
def test_classes_too_small_for_the_validation_split(refused_text, y, fraction, reason):
    refused_text.estimator.set_params(validation_fraction=fraction)
    message = (
        rf"validation_fraction={fraction} cannot hold out a part of 16 samples .*{reason}Give more "
        "samples of the small classes"
    )
    refused_text.of_fit(ValueError, message, TEXTS, y)


# ------------------------------------------------------------------------------- policy and layers


BAD_POLICIES = [
    ({"tau": -0.1}, ValueError, "tau"),
    ({"tau": float("nan")}, ValueError, "tau"),
    ({"tau": float("inf")}, ValueError, "tau"),
    ({"tau": "0.1"}, (TypeError, ValueError), "tau"),
    ({"tau": None}, (TypeError, ValueError), "tau"),
    ({"tau": True}, (TypeError, ValueError), "tau"),
    ({"patience": 0}, ValueError, "patience"),
    ({"patience": -2}, ValueError, "patience"),
    ({"patience": 2.0}, (TypeError, ValueError), "patience"),
    ({"patience": "2"}, (TypeError, ValueError), "patience"),
    ({"patience": True}, (TypeError, ValueError), "patience"),
    ({"exit_ensemble": "median"}, ValueError, "exit_ensemble"),
    ({"exit_ensemble": 1}, (TypeError, ValueError), "exit_ensemble"),
    ({"predict_batch_size": 0}, ValueError, "predict_batch_size"),
    ({"predict_batch_size": 2.5}, ValueError, "predict_batch_size"),
    ({"predict_batch_size": "all"}, ValueError, "predict_batch_size"),
    ({"device": "cuda:99"}, ValueError, "device='cuda:99' is not available .*available: .'cpu'"),
    ({"device": "gpu"}, ValueError, "device='gpu' is not a device name"),
    ({"precision": "float16"}, ValueError, "precision"),
]


@pytest.mark.parametrize(("parameters", "error", "message"), BAD_POLICIES)
def test_parameters_that_act_at_prediction_are_checked_at_fit_and_at_prediction(
    refused_text, parameters, error, message
):
    ((name, value),) = parameters.items()
    refused_text.of_parameter(error, message, **parameters)
    before = refused_text.estimator.get_params(deep=False)[name]
    refused_text.estimator.set_params(**parameters)
    with pytest.raises(error, match=message) as caught:
        refused_text.estimator.predict(TEXTS)
    assert str(value) in str(caught.value)
    refused_text.estimator.set_params(**{name: before})
    refused_text.check_unchanged()


def test_policies_at_the_edge_are_accepted(text):
    for parameters in (
        {"tau": 0, "patience": 1}, {"tau": 1e9, "patience": 99}, {"tau": np.float32(0.5)},
        {"patience": np.int64(2)}, {"exit_ensemble": "weighted", "patience": None},
    ):  # fmt: skip
        assert text.set_params(**parameters).predict(TEXTS).shape == (16,)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (0, ValueError, r"layer=0 does not exist; this network has layers 1 to 3 \(or -3 to -1"),
        (4, ValueError, "layer=4 does not exist; this network has layers 1 to 3"),
        (-4, ValueError, "layer=-4 does not exist"),
        (1.0, TypeError, "layer must be an integer; got 1.0 of type float"),
        ("1", TypeError, "layer must be an integer; got '1' of type str"),
        (None, TypeError, "layer must be an integer; got None"),
        (True, TypeError, "layer must be an integer; got True of type bool"),
    ],
)
def test_layers_that_do_not_exist(refused_text, layer, error, message):
    refused_text.of_call(error, message, "predict_at_layer", TEXTS, layer)
    refused_text.of_call(error, message, "predict_proba_at_layer", TEXTS, layer)


@pytest.mark.parametrize("method", [*PREDICTIONS, "score"])
def test_prediction_before_fit(method):
    arguments = (TEXTS, LABELS) if method == "score" else (TEXTS,)
    with pytest.raises(NotFittedError, match="This EPEEClassifier instance is not fitted yet"):
        list(getattr(text_classifier(), method)(*arguments))


# -------------------------------------------------------------------------------- other parameters


@pytest.mark.parametrize(
    "parameters",
    [
        {"memory": 5},
        {"max_epochs": 0},
        {"batch_size": 0},
        {"batch_size": "large"},
        {"learning_rate": 0},
        {"head_learning_rate": -1.0},
        {"weight_decay": -1.0},
        {"warmup_ratio": 1.0},
        {"dropout": 1.0},
        {"validation_fraction": 1.0},
        {"early_stopping": "yes"},
        {"n_iter_no_change": 0},
        {"callbacks": 3},
        {"random_state": "seed"},
        {"exit_loss_weights": "steep"},
        {"exit_training": "early"},
        {"head_init": "zeros"},
        {"head": "deep"},
        {"pooling": "max"},
        {"max_length": 0},
        {"long_texts": "split"},
        {"window_length": 0},
        {"window_stride": 0},
        {"max_windows": 0},
        {"backbone": 5},
    ],
)
def test_parameters_out_of_range_are_named(refused_text, parameters):
    (name,) = parameters
    refused_text.of_parameter(ValueError, f"The '{name}' parameter of EPEEClassifier", **parameters)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1, 2], ValueError, r"one weight for each of the 3 layers; got an array of shape \(2,\)"),
        ([1, 2, 3, 4], ValueError, r"one weight for each of the 3 layers; .* shape \(4,\)"),
        ([1, -2, 3], ValueError, "exit_loss_weights must be finite, >= 0 and not all zero"),
        ([0, 0, 0], ValueError, "exit_loss_weights must be finite, >= 0 and not all zero"),
        (["a", "b", "c"], TypeError, "exit_loss_weights must be one of"),
    ],
)
def test_exit_loss_weights_that_do_not_fit(refused_text, weights, error, message):
    refused_text.of_parameter(error, message, exit_loss_weights=weights)


@pytest.mark.parametrize("exit_training", ["distillation", "mixed+distillation"])
def test_a_teacher_that_learns_nothing(refused_text, exit_training):
    message = (
        rf"exit_training='{re.escape(exit_training)}' trains the exits to follow the last one, but "
        r"exit_loss_weights=\[1.0, 1.0, 0.0\]"
    )
    refused_text.of_parameter(
        ValueError, message, exit_training=exit_training, exit_loss_weights=[1, 1, 0]
    )


def test_callbacks_that_are_none(refused_text):
    looks_alike = SimpleNamespace(on_train_begin=print)
    for callbacks in ([5], [("name", 5)], [print], [looks_alike], [(1, Callback())]):
        message = "callbacks must hold skorch callbacks or pairs of a name and a callback; got"
        refused_text.of_parameter(TypeError, message, callbacks=callbacks)


def test_a_memory_that_cannot_be_written_to(refused_text, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = "memory: the folder '.*file.*' for trained networks cannot be created .* or None"
    refused_text.of_parameter(ValueError, message, memory=tmp_path / "file")


@pytest.mark.parametrize("memory", [joblib.Memory(None), None, "auto"])
def test_every_kind_of_memory_is_accepted(memory):
    assert text_classifier(memory=memory).fit(TEXTS, LABELS).n_iter_ == 1


def test_early_stopping_without_a_validation_part(refused_text):
    message = "early_stopping=True needs held-out samples: set validation_fraction above 0"
    refused_text.of_parameter(ValueError, message, early_stopping=True)


def test_poolings_that_make_no_sense(refused_text, refused_image):
    gpt2 = tiny_config("gpt2")
    message = "pooling='cls' reads position 0, which in a causal decoder such as 'gpt2'"
    refused_text.of_parameter(ValueError, message, backbone=gpt2, pooling="cls")
    message = "pooling='last' reads the last token, which images do not have"
    refused_image.of_parameter(ValueError, message, pooling="last")


def test_lengths_that_cannot_be(refused_text):
    message = "max_length=65 is more than the 64 positions of this backbone"
    refused_text.of_parameter(ValueError, message, max_length=65)
    message = "max_length=2 leaves no room for a token of the text; expected at least 3"
    refused_text.of_parameter(ValueError, message, max_length=2)


def test_windows_that_cannot_be(refused_text):
    windows = {"long_texts": "windows"}
    message = "window_length=65 is more than the 64 positions of this backbone"
    refused_text.of_parameter(ValueError, message, window_length=65, **windows)
    message = "window_length=2 leaves no room for a token of the text; expected at least 3"
    refused_text.of_parameter(ValueError, message, window_length=2, **windows)
    message = "window_length=20 is more than max_length=16; expected at most that"
    refused_text.of_parameter(ValueError, message, window_length=20, max_length=16, **windows)
    message = "window_stride=19 leaves tokens between two windows unread: .* expected at most 18"
    refused_text.of_parameter(ValueError, message, window_length=20, window_stride=19, **windows)


def test_tokenizers_that_do_not_fit(refused_text, tmp_path):
    larger = tiny_config("bert", vocab_size=100)
    message = "tokenizer has 172 entries, but the backbone embeds only vocab_size=100"
    refused_text.of_parameter(
        ValueError, message, backbone=larger, tokenizer=tiny_tokenizer("bert")
    )
    message = "tokenizer='.*' holds no tokenizer that can be loaded"
    refused_text.of_parameter(ValueError, message, tokenizer=str(tmp_path))
    message = "tokenizer must be a folder, a hub id or a tokenizer .*got int"
    refused_text.of_parameter(TypeError, message, tokenizer=5)


def test_image_processors_that_are_none(refused_image, tmp_path):
    message = "image_processor='.*' holds no image processor that can be loaded"
    refused_image.of_parameter(ValueError, message, image_processor=tmp_path)
    message = "image_processor must be a folder, a hub id or an image processor .*got int"
    refused_image.of_parameter(TypeError, message, image_processor=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 0, "width": 0}}, r"image_processor: its size=\(0, 0\) is not valid"),
        ({"size": 10**9}, "image_processor: its size=.* at most 16384 pixels"),
        ({"image_mean": [0.5, 0.5]}, "image_processor: .* cannot prepare the images: .* elements"),
        (
            {"image_mean": [0], "image_std": [0]},
            "image_processor: the prepared pixels contain NaN or inf",
        ),
        ({"rescale_factor": "x"}, "image_processor: .* cannot prepare the images"),
        ({"resample": 99}, "image_processor: .* cannot prepare the images"),
        ({"image_processor_type": "None"}, "holds no image processor that can be loaded"),
        ({"size": "a"}, "holds no image processor that can be loaded"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_settings_of_a_processor_that_do_not_work(refused_image, vit, tmp_path, settings, message):
    folder = shutil.copytree(vit, tmp_path / "vit")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    refused_image.of_parameter(ValueError, message, image_processor=folder)


# --------------------------------------------------------------------------------------- backbones


def damaged(source: Path, folder: Path, change: Any) -> Path:
    shutil.copytree(source, folder)
    change(folder)
    return folder


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def drop_keys(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    kept = {name: value for name, value in weights.items() if "layer.1.attention" not in name}
    save_file(kept, path, metadata={"format": "pt"})


def rename_keys(folder: Path) -> None:
    path = folder / "model.safetensors"
    renamed = {f"wrapped.{name}": value for name, value in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "could not read the weights"),
        (truncate_weights, "could not read the weights"),
        (drop_keys, r"Keys of the backbone are missing \(\d+\): .*layer\.1\.attention"),
        (rename_keys, "Keys of the backbone are missing"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "could not read the configuration",
        ),
    ],
)
def test_damaged_checkpoints_are_refused(refused_text, bert, tmp_path, change, message):
    folder = damaged(bert, tmp_path / "checkpoint", change)
    refused_text.of_parameter(
        ValueError, f"(?s)backbone: the folder '.*checkpoint'.*{message}", backbone=folder
    )


def test_folders_that_do_not_exist(refused_text, tmp_path):
    message = "backbone: the folder '.*nowhere' does not exist"
    refused_text.of_parameter(ValueError, message, backbone=tmp_path / "nowhere")


def test_a_checkpoint_without_tokenizer_or_processor(
    refused_text, refused_image, bert, vit, tmp_path
):
    def drop_tokenizer(folder):
        for path in folder.glob("*token*"):
            path.unlink()

    folder = damaged(bert, tmp_path / "bert", drop_tokenizer)
    refused_text.of_parameter(ValueError, "backbone='.*' holds no tokenizer", backbone=folder)
    folder = damaged(vit, tmp_path / "vit", lambda f: (f / "preprocessor_config.json").unlink())
    message = "backbone='.*' holds no image processor"
    refused_image.of_parameter(ValueError, message, backbone=folder)


def test_unknown_families_are_refused_with_the_known_ones(refused_text, refused_image):
    known = "(?=.*bert)(?=.*roberta)(?=.*electra)(?=.*distilbert)(?=.*albert)(?=.*gpt2)"
    refused_text.of_parameter(
        ValueError, f"'funnel'.*{known}", backbone=transformers.FunnelConfig()
    )
    known = "(?=.*vit)(?=.*deit)(?=.*clip)(?=.*dinov2)"
    refused_image.of_parameter(ValueError, f"swin .*{known}", backbone=transformers.SwinConfig())


def test_checkpoints_of_the_other_kind(refused_text, refused_image, bert, vit):
    message = "'vit' is a family for images; expected one of the known text families"
    for backbone in (vit, str(vit), tiny_config("vit")):
        refused_text.of_parameter(ValueError, message, backbone=backbone)
    message = "'bert' is a family for texts?; expected one of the known image families"
    for backbone in (bert, str(bert), tiny_config("bert")):
        refused_image.of_parameter(ValueError, message, backbone=backbone)


def test_a_hub_id_without_a_network(refused_text, refused_image, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = "(?s)hub id 'someone/something'.*[Ww]ithout a network, pass the path of a local"
    for refused in (refused_text, refused_image):
        refused.of_parameter(ValueError, message, backbone="someone/something")
    message = "tokenizer='someone/something' holds no tokenizer .* pass tokenizer= a folder"
    refused_text.of_parameter(ValueError, message, tokenizer="someone/something")


# -------------------------------------------------------------------------------------- warm start


def test_a_warm_start_with_other_data(refused_text, refused_image):
    message = r"warm_start=True continues a network for the classes \['a', 'b'\], but y holds"
    for refused in (refused_text, refused_image):
        refused.estimator.set_params(warm_start=True)
        refused.of_fit(ValueError, message, refused.samples, ["a", "c"] * 8)
        refused.of_fit(ValueError, message, refused.samples, ["a", "b", "c", "a"] * 4)
    message = "X holds pairs of texts, but this EPEEClassifier was fitted on single texts"
    refused_text.of_fit(ValueError, message, PAIRS, LABELS)
    message = "X holds images of 3 channels, but this .* was fitted on images of 1 channels"
    refused_image.of_fit(ValueError, message, np.ones((16, 8, 8, 3)), LABELS)


def test_a_refused_fit_leaves_an_unfitted_estimator_unfitted():
    model = text_classifier()
    before = dict(vars(model))
    with pytest.raises(ValueError, match="one class"):
        model.fit(TEXTS, ["a"] * 16)
    assert vars(model) == before
    with pytest.raises(NotFittedError):
        model.predict(TEXTS)


def test_a_network_trained_on_an_absent_device_says_so(text):
    text.set_params(device=torch.device("cuda", 98))
    with pytest.raises(ValueError, match="device='cuda:98' is not available on this machine"):
        text.predict(TEXTS)
    assert text.set_params(device="cpu").predict(TEXTS).shape == (16,)


def test_images_of_another_size_than_at_fit_are_resized(image):
    assert image.predict(np.ones((2, 30, 11))).shape == (2,)
    assert image.predict([np.ones((3, 3)), np.ones((IMAGE_SIZE, 5))]).shape == (2,)


# ------------------------------------------------------------------------------ maps of logits


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"matrix": np.zeros((2, 3, 3))}, ValueError, r"matrix must have the shape .*; got"),
        ({"shift": np.zeros(3)}, ValueError, r"shift must have the shape .*; got \(3,\)"),
        ({"shift": [[0.0], [0.0, 1.0]]}, ValueError, "shift must be an array"),
        ({"matrix": "identity"}, TypeError, "matrix must be an array of numbers"),
        ({"matrix": np.full((3, 2, 2), np.nan)}, ValueError, "matrix holds NaN or infinity"),
    ],
)
def test_logits_are_not_mapped_by_other_arrays(change, error, message, text):
    shape = text.n_layers_, len(text.classes_)
    given = {"matrix": np.zeros((*shape, shape[1])), "shift": np.zeros(shape)}
    with pytest.raises(error, match=message):
        text.map_exit_logits(**(given | change))
