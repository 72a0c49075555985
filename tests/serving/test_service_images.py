"""The web service of examples/service over classifiers of images, and of texts with images."""

from __future__ import annotations

import base64
import copy
import io
import json
import threading
import time
import zlib
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_epee import FixedExitPolicyClassifier
from sklearn_epee._checks.image_paths import PathImage
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.exceptions import DeadlineExceededError, QueueFullError
from tests.classifiers import tiny_image_classifier, tiny_multimodal_classifier
from tests.serving.conftest import spread_exits
from tests.serving.test_service import load, running

for needed in ("fastapi", "prometheus_client", "httpx"):
    pytest.importorskip(needed)
# The folder of the service, which `test_service` adds to the path.
from image_files import ImageLimits, decode_pixels, open_image  # noqa: E402
from image_predictor import ImagePredictor  # noqa: E402
from schemas import AcceptedInput, PredictionRequest  # noqa: E402

# Tiny classifiers read a part of these texts.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def app():
    return load("app")


@pytest.fixture(scope="module")
def cases():
    """Twenty cases, of which some lack the text and some the image."""
    return make_case_reports(20, missing_fraction=0.5, random_state=0)


@pytest.fixture(scope="module")
def fitted_cases(cases):
    classifier = tiny_multimodal_classifier(max_epochs=1, first="text").fit(*cases)
    return spread_exits(copy.deepcopy(classifier), cases[0])


@pytest.fixture
def client(spread_image):
    yield from running(spread_image)


@pytest.fixture
def client_of_cases(fitted_cases):
    yield from running(fitted_cases)


def file_of(pixels, kind="PNG", **options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def as_base64(file):
    return base64.b64encode(file).decode()


def as_png(pixels):
    return as_base64(file_of(pixels))


def pixels_of_digits(digits):
    return (digits[0] * 255).round().astype(np.uint8)


def assert_same(found, expected, row):
    assert found["label"] == expected.labels[row]
    assert found["exit_layer"] == expected.exit_layer[row]
    np.testing.assert_allclose(found["proba"], expected.proba[row], atol=1e-5)
    np.testing.assert_allclose(found["entropy"], expected.entropy[row], atol=1e-5)


# --------------------------------------------------------------------------------- predictions


def test_images_as_the_estimator_predicts_them(client, spread_image, digits):
    images = pixels_of_digits(digits)[:8]
    expected = spread_image.predict_with_exits(images)
    for row, image in enumerate(images):
        for form in (as_png(image), f"data:image/png;base64,{as_png(image)}"):
            assert_same(client.post("/predict", json={"image": form}).json(), expected, row)
    lines = client.get("/metrics").text.splitlines()
    assert 'epee_requests_total{outcome="answered"} 16.0' in lines
    assert "epee_decoding 0.0" in lines
    first = client.post("/predict", json={"image": as_png(images[0]), "patience": 1}).json()
    assert first["exit_layer"] == 1


def test_texts_with_images_of_which_one_may_be_missing(client_of_cases, fitted_cases, cases):
    X, _ = cases
    assert len({tuple(part is None for part in case) for case in X}) == 3
    expected = fitted_cases.predict_with_exits(X)
    for row, (text, image) in enumerate(X):
        asked = {"text": text, "image": None if image is None else as_png(image)}
        left_out = {name: cell for name, cell in asked.items() if cell is not None}
        for question in (asked, left_out):
            assert_same(client_of_cases.post("/predict", json=question).json(), expected, row)


@pytest.mark.parametrize("turn", [None, 1, 3, 6, 8])
def test_photographs_are_turned_as_those_in_files(tmp_path, turn):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    for kind in ("JPEG", "PNG"):
        file = file_of(pixels, kind, exif=exif)
        (tmp_path / "photograph").write_bytes(file)
        expected = PathImage.of(tmp_path / "photograph", 0).pixels()
        found = decode_pixels(open_image(file, ImageLimits()))
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_a_damaged_note_of_the_orientation_is_ignored_as_in_files(tmp_path):
    file = file_of(np.zeros((4, 6), np.uint8), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    (tmp_path / "photograph").write_bytes(file)
    expected = PathImage.of(tmp_path / "photograph", 0).pixels()
    found = decode_pixels(open_image(file, ImageLimits()))
    np.testing.assert_array_equal(np.asarray(found), expected[..., 0])


def test_sixteen_bits_are_fractions_as_in_files(tmp_path):
    file = file_of(np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10))
    (tmp_path / "scan.png").write_bytes(file)
    expected = PathImage.of(tmp_path / "scan.png", 0).pixels()[..., 0]
    found = decode_pixels(open_image(file, ImageLimits()))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_what_classifiers_in_wrappers_read(spread_image, digits, fitted_cases, spread_words):
    search = GridSearchCV(tiny_image_classifier(max_epochs=1), {"tau": [0.0, 0.5]}, cv=2)
    search.fit(*digits)
    fixed = FixedExitPolicyClassifier(FrozenEstimator(fitted_cases), tau=0.1, patience=2)
    images, both, texts = ("image",), ("text", "image"), ("text", "words")
    for estimator, names in (
        (make_pipeline("passthrough", spread_image), images),
        (search, images),
        (FrozenEstimator(search), images),
        (fixed.fit(*make_case_reports(20, random_state=1)), both),
        (spread_words, texts),
    ):
        assert AcceptedInput.of(estimator).fields == names


def test_the_load_generator_sends_the_images_that_a_file_of_requests_names(
    client_of_cases, fitted_cases, cases, tmp_path
):
    whole = [case for case in cases[0] if all(part is not None for part in case)][:2]
    for row, (_, image) in enumerate(whole):
        (tmp_path / f"{row}.png").write_bytes(file_of(image))
    lines = [{"text": text, "image": f"{row}.png"} for row, (text, _) in enumerate(whole)]
    lines = [*map(json.dumps, lines), "", '{"text": "a nodule", "image": null}']
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    requests = load("load").requests_in(tmp_path / "cases.jsonl")
    expected = fitted_cases.predict_with_exits([*whole, ("a nodule", None)])
    for row, request in enumerate(requests):
        assert_same(client_of_cases.post("/predict", json=request).json(), expected, row)
    assert len(requests) == 3


# ------------------------------------------------------------------------------------- refusals


def refused(client, asked, status):
    response = client.post("/predict", json=asked)
    assert response.status_code == status, response.text
    return json.dumps(response.json()["detail"])


SMALL = as_png(np.zeros((8, 8), np.uint8))
# Of 8 x 8 pixels, too, of which the last are missing.
NOISE = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
DAMAGED = as_base64(file_of(NOISE)[:-40])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "this classifier expects image; got none"),
        ({"image": None}, "got none"),
        ({"text": "a rash"}, "this classifier expects image; got text"),
        ({"text": "a rash", "image": SMALL}, "got text and image"),
        ({"words": ["a", "rash"]}, "got words"),
        ({"images": SMALL}, "Extra inputs"),
        ({"image": 3}, "string"),
        ({"image": ""}, "not a PNG or JPEG"),
        ({"image": "/etc/passwd"}, "not base64"),
        ({"image": "scan.png"}, "not base64"),
        ({"image": "ü"}, "not base64"),
        ({"image": SMALL[:-1]}, "not base64"),
        ({"image": f"{SMALL[:8]}\n{SMALL[8:]}"}, "not base64"),
        ({"image": "data:image/png,abc"}, "without base64"),
        ({"image": as_base64(b"no image")}, "not a PNG or JPEG"),
        ({"image": as_base64(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")}, "not a PNG"),
        ({"image": as_base64(file_of(np.zeros((8, 8), np.uint8), "GIF"))}, "not a PNG or JPEG"),
        ({"image": DAMAGED}, "cannot be decoded"),
        ({"image": as_png(np.zeros((8, 8, 3), np.uint8))}, "3 channels"),
        ({"image": SMALL, "tau": 2}, "tau"),
        ({"image": SMALL, "timeout": -1}, "timeout"),
    ],
)
def test_what_is_not_valid_is_refused(client, asked, message):
    assert message in refused(client, asked, 422)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "this classifier expects text or image or both; got none"),
        ({"words": ["a", "/etc/passwd"]}, "got words"),
        ({"text": " "}, "neither a text nor an image"),
        ({"text": "a rash", "image": as_base64(b"no image")}, "not a PNG or JPEG"),
        ({"text": "a rash", "img": SMALL}, "Extra inputs"),
    ],
)
def test_cases_that_are_not_valid_are_refused(client_of_cases, asked, message):
    assert message in refused(client_of_cases, asked, 422)


def test_images_asked_of_a_classifier_of_texts_are_refused(spread):
    for client in running(spread):
        assert "got image" in refused(client, {"image": SMALL}, 422)
        assert "got text and image" in refused(client, {"text": "a", "image": SMALL}, 422)


def test_several_images_in_a_file_are_refused(client):
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    assert "2 frames" in refused(client, {"image": as_base64(file.getvalue())}, 422)


def bomb(width, height):
    """Return a small PNG file whose header gives a large size."""

    def chunk(name, data):
        whole = name + data
        return len(data).to_bytes(4, "big") + whole + zlib.crc32(whole).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("side", [5001, 10_000, 40_000])
def test_images_of_too_many_pixels_are_not_decoded(client, monkeypatch, side):
    def decode(_):
        raise AssertionError

    monkeypatch.setattr(Image.Image, "load", decode)
    asked = {"image": as_base64(bomb(side, side))}
    assert "pixels" in refused(client, asked, 413)


def test_images_of_too_many_bytes_are_refused(app, spread_image):
    limits = ImageLimits(n_bytes=100)
    from fastapi.testclient import TestClient  # noqa: PLC0415 - an extra

    with TestClient(app.make_app(spread_image, image_limits=limits)) as client:
        noise = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
        assert "100 bytes" in refused(client, {"image": as_png(noise)}, 413)
        assert client.post("/predict", json={"image": SMALL}).status_code == 200


def test_requests_larger_than_any_valid_one_are_refused_as_they_come(client, spread):
    sent = []

    def endless():
        while len(sent) < 1000:
            sent.append(b"a" * 2**20)
            yield sent[-1]

    for one in (client, *running(spread)):
        sent.clear()
        assert one.post("/predict", content=b'{"image": "' + b"a" * 10**7).status_code == 413
        response = one.post("/predict", content=endless())
        assert response.status_code == 413
        assert "bytes" in response.json()["detail"]


# ------------------------------------------------------------------------------- under a load


@pytest.fixture
def slow():
    """An `ImagePredictor` over a predictor that answers when it is told to."""
    futures = []

    def submit(sample, **policy):
        futures.append(Future())
        futures[-1].asked = SimpleNamespace(sample=sample, **policy)
        return futures[-1]

    limits = ImageLimits(n_pixels_held=100)
    server, accepted = SimpleNamespace(submit=submit), AcceptedInput(("image",))
    made = ImagePredictor(server, accepted, limits, max_pending=2, timeout=60)
    yield made, futures
    made.close()


def test_pixels_are_held_until_their_image_is_answered(slow):
    images, futures = slow
    request = PredictionRequest(image=SMALL)
    images._submit(request, time.monotonic())
    with pytest.raises(QueueFullError, match="64 pixels are held"):
        images._submit(request, time.monotonic())
    futures[0].cancel()
    images._submit(request, time.monotonic())
    futures[1].set_result(None)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be decoded"):
            images._submit(PredictionRequest(image=DAMAGED), time.monotonic())
    images._submit(request, time.monotonic())
    assert len(futures) == 3


def test_the_time_in_which_an_image_waits_counts(slow):
    images, futures = slow
    images._submit(PredictionRequest(image=SMALL, timeout=10), time.monotonic() - 7)
    assert 0 < futures[0].asked.timeout < 3.01
    futures[0].cancel()
    images._submit(PredictionRequest(image=SMALL), time.monotonic() - 50)
    assert 0 < futures[1].asked.timeout < 10.01
    for timeout, taken in ((5, 7), (None, 70)):
        with pytest.raises(DeadlineExceededError, match="not read within"):
            images._submit(
                PredictionRequest(image=SMALL, timeout=timeout), time.monotonic() - taken
            )


def test_images_are_decoded_beside_the_event_loop(client, monkeypatch):
    inside, goes_on, names = threading.Event(), threading.Event(), []
    decode = ImageFile.load

    def held(image):
        names.append(threading.current_thread().name)
        inside.set()
        assert goes_on.wait(60)
        return decode(image)

    monkeypatch.setattr(ImageFile, "load", held)
    answers = []

    def ask():
        answers.append(client.post("/predict", json={"image": SMALL}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert inside.wait(60)
    # Others are answered meanwhile, and told how many wait; 8 may.
    while "epee_decoding 8.0" not in client.get("/metrics").text or len(answers) < 4:
        time.sleep(0.01)
    assert answers == [429] * 4
    assert client.get("/health").status_code == 200
    goes_on.set()
    for thread in threads:
        thread.join(60)
    assert answers[4:] == [200] * 8
    assert len(names) >= 8
    assert all(name.startswith("images") for name in names)
