"""EPEEImageClassifier: what it accepts, what it learns from, how it answers."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from skorch.callbacks import Callback

from sklearn_epee import EPEEImageClassifier, policy
from sklearn_epee._nn.images import load_image_processor
from tests.checkpoints import IMAGE_FAMILIES, IMAGE_SIZE, make_checkpoint, tiny_config
from tests.classifiers import TRAINING

RNG = np.random.default_rng(0)
Y = np.array(["bright", "dark"] * 10)
GREY = RNG.integers(0, 100, (20, 8, 8), dtype=np.uint8)
GREY[::2] += 150
COLOR = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)


def make(backbone: Any = None, **parameters: Any) -> EPEEImageClassifier:
    config = tiny_config("vit", image_size=8, num_channels=1) if backbone is None else backbone
    return EPEEImageClassifier(config, **TRAINING | parameters)


def pixels_of(model: EPEEImageClassifier, X: Any) -> torch.Tensor:
    samples = model._preprocessor.encode(model._check_samples(X, model._state.summary))
    return samples.batch(np.arange(len(samples)))["pixel_values"]


@pytest.fixture(scope="module")
def _fitted() -> EPEEImageClassifier:
    return make(max_epochs=3).fit(GREY, Y)


@pytest.fixture
def fitted(_fitted) -> EPEEImageClassifier:
    return copy.deepcopy(_fitted)


@pytest.fixture(scope="module", params=IMAGE_FAMILIES)
def checkpoint(request, tmp_path_factory):
    return make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return make_checkpoint("vit", tmp_path_factory.mktemp("vit"))


# --------------------------------------------------------------------------------------- accepting


def test_every_container_gives_the_same_model():
    expected = make().fit(GREY, Y).predict_proba(GREY)
    for form in (
        GREY[..., None],
        list(GREY),
        tuple(GREY),
        [Image.fromarray(image) for image in GREY],
        torch.from_numpy(GREY),
        iter(list(GREY)),
    ):
        model = make().fit(form, Y)
        np.testing.assert_array_equal(model.predict_proba(GREY), expected)


def test_flattened_rows_are_read_as_images():
    expected = make().fit(GREY, Y).predict_proba(GREY)
    flat = GREY.reshape(20, 64)
    for rows in (flat, pd.DataFrame(flat)):
        for shape in ((8, 8), [8, 8, 1]):
            # A frame of one type is read as an array of that type.
            model = make(image_shape=shape).fit(rows, Y)
            np.testing.assert_array_equal(model.predict_proba(rows), expected)
    # Images that still have their shape need no image_shape, and are not disturbed by one.
    np.testing.assert_array_equal(model.predict_proba(GREY), expected)
    colour = make(tiny_config("vit", image_size=8), image_shape=(8, 8, 3))
    rows = COLOR.reshape(20, -1)
    shaped = make(tiny_config("vit", image_size=8)).fit(COLOR, Y)
    np.testing.assert_array_equal(
        colour.fit(rows, Y).predict_proba(rows), shaped.predict_proba(COLOR)
    )


@pytest.mark.parametrize("mode", ["L", "1", "I", "F", "I;16"])
def test_grey_pil_images_of_every_mode(mode):
    source = [Image.fromarray(image) for image in GREY]
    images = [image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
              for image in source]  # fmt: skip
    assert make().fit(images, Y).predict(images).shape == (20,)


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "RGBA", "LA", "YCbCr"])
def test_coloured_pil_images_of_every_mode_from_scratch(mode):
    images = [Image.fromarray(image).convert("L" if mode == "LA" else "RGB") for image in COLOR]
    images = [image.convert(mode) for image in images]
    model = EPEEImageClassifier(**TRAINING).fit(images, Y)
    expected = {"LA": 2, "RGBA": 4}.get(mode, 3)
    assert model.net_.module_.backbone.config.num_channels == expected
    assert model.predict(images).shape == (20,)


def test_images_of_different_sizes():
    images = [Image.fromarray(x).resize((8 + i % 5, 8 + i % 3)) for i, x in enumerate(GREY)]
    model = EPEEImageClassifier(**TRAINING).fit(images, Y)
    assert model.predict(images).shape == (20,)
    assert pixels_of(model, images).shape[1:] == (1, 10, 10)
    # An answer does not depend on what else is there.
    np.testing.assert_allclose(
        model.predict_proba(images[4:5])[0], model.predict_proba(images)[4], atol=1e-5
    )


def test_uint8_and_floats_from_0_to_1_are_the_same_images():
    model = make().fit(GREY, Y)
    np.testing.assert_allclose(
        model.predict_proba(GREY / 255), model.predict_proba(GREY), atol=1e-5
    )
    as_floats = make().fit(GREY / 255, Y)
    np.testing.assert_allclose(as_floats.predict_proba(GREY), model.predict_proba(GREY), atol=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 16.0, 5e4])
def test_the_scale_of_floats_does_not_matter_from_scratch(scale):
    expected = make().fit(GREY / 255, Y)
    scaled = make().fit(GREY / 255 * scale, Y)
    np.testing.assert_allclose(
        pixels_of(scaled, GREY / 255 * scale), pixels_of(expected, GREY / 255), atol=1e-3
    )


# --------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_every_family_from_a_configuration(family):
    model = make(tiny_config(family, image_size=8, num_channels=3)).fit(COLOR, Y)
    assert model.n_layers_ == 3
    assert np.isfinite(model.predict_proba(COLOR)).all()
    assert make(tiny_config(family)).fit(GREY, Y).predict(GREY).shape == (20,)


def test_every_family_from_a_folder(checkpoint):
    for X in (COLOR, GREY, list(COLOR), COLOR / 255, [Image.fromarray(x) for x in COLOR]):
        model = make(checkpoint).fit(X, Y)
        assert np.isfinite(model.predict_proba(X)).all()
    assert model.net_.module_.backbone.config.num_channels == 3
    np.testing.assert_array_equal(
        make(str(checkpoint)).fit(COLOR, Y).predict_proba(COLOR), model.predict_proba(COLOR)
    )


def test_a_checkpoint_reads_what_its_processor_makes(checkpoint):
    model = make(checkpoint).fit(COLOR, Y)
    processor = load_image_processor(checkpoint, argument="backbone")
    images = [Image.fromarray(image) for image in COLOR]
    expected = processor(images=images, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(pixels_of(model, images), expected)
    given = make(tiny_config("vit"), image_processor=processor).fit(COLOR, Y)
    np.testing.assert_array_equal(pixels_of(given, COLOR), expected)
    from_folder = make(tiny_config("vit"), image_processor=checkpoint).fit(COLOR, Y)
    np.testing.assert_array_equal(pixels_of(from_folder, COLOR), expected)


def test_grey_images_fill_the_channels_of_a_checkpoint(vit):
    repeated = np.repeat(GREY[..., None], 3, axis=-1)
    grey, colour = make(vit).fit(GREY, Y), make(vit).fit(repeated, Y)
    np.testing.assert_array_equal(grey.predict_proba(GREY), colour.predict_proba(repeated))


@pytest.mark.parametrize("image_size", [24, (12, 20), IMAGE_SIZE])
def test_a_checkpoint_at_another_image_size_interpolates_its_positions(checkpoint, image_size):
    model = make(checkpoint, image_size=image_size).fit(COLOR, Y)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    assert pixels_of(model, COLOR).shape == (20, 3, height, width)
    n_patches = (height // 4) * (width // 4)
    adapter = model.net_.module_.adapter
    device = next(model.net_.module_.parameters()).device
    hidden, _ = adapter.embed({"pixel_values": pixels_of(model, COLOR).to(device)})
    assert n_patches + adapter.has_class_token <= hidden.shape[1] <= n_patches + 3
    assert np.isfinite(model.predict_proba(COLOR)).all()


@pytest.mark.parametrize(
    ("size", "patch", "padded"),
    [
        ((8, 8), 2, (8, 8)),
        ((28, 28), 7, (28, 28)),
        ((9, 30), 3, (9, 30)),
        ((50, 70), 10, (50, 70)),
        ((30, 13), 3, (30, 15)),
    ],
)
def test_from_scratch_the_patches_suit_the_images(size, patch, padded):
    X = RNG.random((6, *size))
    model = EPEEImageClassifier(**TRAINING).fit(X, Y[:6])
    config = model.net_.module_.backbone.config
    assert config.patch_size == patch
    assert tuple(config.image_size) == padded
    assert pixels_of(model, X).shape == (6, 1, *padded)


def test_from_scratch_at_another_image_size(vit):
    model = EPEEImageClassifier(image_size=(12, 16), **TRAINING).fit(GREY, Y)
    assert pixels_of(model, GREY).shape == (20, 1, 12, 16)
    # A processor that is given says how large images become, unless image_size does.
    model = EPEEImageClassifier(image_processor=vit, **TRAINING).fit(COLOR, Y)
    assert pixels_of(model, COLOR).shape == (20, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert tuple(model.net_.module_.backbone.config.image_size) == (IMAGE_SIZE, IMAGE_SIZE)
    model = EPEEImageClassifier(image_processor=vit, image_size=8, **TRAINING).fit(COLOR, Y)
    assert pixels_of(model, COLOR).shape == (20, 3, 8, 8)


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean", "auto"])
def test_every_pooling_predicts(pooling):
    model = make(pooling=pooling).fit(GREY, Y)
    chosen = model.net_.module_.pooling
    assert chosen == pooling or (pooling == "auto" and chosen in ("cls", "mean"))
    assert np.isfinite(model.predict_proba(GREY)).all()


# --------------------------------------------------------------------------------------- answering


def test_dynamic_prediction_is_the_policy_on_staged_probabilities(fitted):
    staged = np.stack(list(fitted.staged_predict_proba(GREY)), axis=1)
    entropies = np.sort(policy.normalized_entropy(staged).ravel())
    gap = int(np.diff(entropies[15:40]).argmax()) + 15
    tau = float(entropies[gap] + entropies[gap + 1]) / 2
    for patience, ensemble, batch_size in (
        (None, None, 1),
        (2, "mean", 7),
        (3, "weighted", "auto"),
    ):
        fitted.set_params(
            tau=tau, patience=patience, exit_ensemble=ensemble, predict_batch_size=batch_size
        )
        expected = policy.apply_policy(staged, tau, patience, ensemble)
        found = fitted.predict_with_exits(GREY)
        np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
        np.testing.assert_allclose(found.proba, expected.proba, atol=1e-5)
        np.testing.assert_array_equal(found.labels, fitted.classes_[found.proba.argmax(1)])


def test_budgeted_is_staged_at_that_layer(fitted):
    for layer, staged in enumerate(fitted.staged_predict_proba(GREY), start=1):
        np.testing.assert_allclose(fitted.predict_proba_at_layer(GREY, layer), staged, atol=1e-6)
        np.testing.assert_array_equal(
            fitted.predict_at_layer(GREY, layer - 4), fitted.classes_[staged.argmax(1)]
        )


def test_predictions_repeat_and_training_leaves_the_callers_random_state_alone():
    def states() -> tuple[Any, ...]:
        keys = np.random.get_state()[1]  # noqa: NPY002 - the global state is the point
        return torch.get_rng_state().tolist(), keys.tolist(), random.getstate()

    before = states()
    one = EPEEImageClassifier(**TRAINING).fit(GREY, Y)
    first = one.predict_proba(GREY)
    assert states() == before
    torch.rand(3)
    other = EPEEImageClassifier(**TRAINING).fit(GREY, Y)
    np.testing.assert_array_equal(other.predict_proba(GREY), first)
    np.testing.assert_array_equal(one.predict_proba(GREY), first)


@pytest.mark.slow
def test_digits_are_learned_from_scratch():
    digits = load_digits(n_class=3)
    X, y = digits.images / 16, digits.target
    model = EPEEImageClassifier(**TRAINING | {"max_epochs": 4, "batch_size": 32}).fit(
        X[:400], y[:400]
    )
    answer = model.predict_with_exits(X[400:])
    assert (answer.labels == y[400:]).mean() > 0.9


def test_parameters_are_stored_untouched_and_tags_say_images():
    shape, size = [8, 8], (16, 16)
    model = EPEEImageClassifier(image_shape=shape, image_size=size)
    assert model.image_shape is shape
    assert model.image_size is size
    tags = model.__sklearn_tags__()
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.string


class Inputs(Callback):
    """Keeps what the network was given, apart for training and validation."""

    def __init__(self) -> None:
        self.seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        self.seen[training].append(batch[0]["pixel_values"])


@pytest.mark.parametrize("augment", [True, False, "auto"])
def test_training_images_are_varied_and_no_others(augment):
    inputs = Inputs()
    model = make(
        augment=augment, callbacks=[inputs], validation_fraction=0.2, max_epochs=2, batch_size=20
    ).fit(GREY, Y)
    exact = {tuple(image.ravel().tolist()) for image in pixels_of(model, GREY)}

    def share_of_exact(training: bool) -> float:
        images = torch.cat(inputs.seen[training])
        return sum(tuple(image.ravel().tolist()) in exact for image in images) / len(images)

    assert share_of_exact(training=False) == 1
    # "auto" varies where the network starts from fresh weights, as here.
    assert share_of_exact(training=True) == (1 if augment is False else 0)
    np.testing.assert_array_equal(model.predict_proba(GREY), model.predict_proba(GREY))


def test_augment_auto_leaves_the_images_of_checkpoints_alone(vit):
    models = {augment: make(vit, augment=augment).fit(COLOR, Y) for augment in ("auto", False)}
    np.testing.assert_array_equal(*(model.predict_proba(COLOR) for model in models.values()))
    with pytest.raises(ValueError, match="The 'augment' parameter of EPEEImageClassifier"):
        make(augment="yes").fit(GREY, Y)


# ----------------------------------------------------------------------------- the scale of pixels

TYPES = {
    "uint8": GREY,
    "int64": GREY.astype(np.int64),
    "PIL I": [Image.fromarray(image).convert("I") for image in GREY],
    "float64": GREY.astype(float),
}


@pytest.mark.parametrize("fitted_on", TYPES)
def test_the_same_numbers_are_the_same_images_or_refused(fitted_on):
    model = make().fit(TYPES[fitted_on], Y)
    expected = model.predict_proba(TYPES[fitted_on])
    for given, X in TYPES.items():
        if fitted_on == "uint8" and given == "float64":
            with pytest.raises(ValueError, match=r"X holds float pixels .* fitted on uint8 pixels"):
                model.predict(X)
        else:
            np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
    fractions = GREY / 255
    if fitted_on != "uint8":
        with pytest.raises(ValueError, match=r"X holds float pixels .* fitted on"):
            model.predict(fractions)


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1.0, 1e9])
def test_pixels_in_any_unit_are_learned_from(unit):
    expected = make().fit(GREY / 255, Y)
    model = make().fit(GREY / 255 * unit, Y)
    np.testing.assert_allclose(
        pixels_of(model, GREY / 255 * unit), pixels_of(expected, GREY / 255), atol=1e-4
    )


def test_a_scale_is_kept_with_the_estimator():
    model = pickle.loads(pickle.dumps(make().fit(GREY, Y)))
    with pytest.raises(ValueError, match="but this classifier was fitted on uint8 pixels from"):
        model.predict(GREY.astype(float))
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match="but this classifier was fitted on uint8 pixels from"):
        model.fit(GREY.astype(float), Y)
