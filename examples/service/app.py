"""A web service over a fitted classifier: FastAPI around `sklearn_epee.serving`.

It takes texts, sentences for their words, images, and texts with images, as the classifier does.

    SKLEARN_EPEE_MODEL=folder uvicorn --app-dir examples/service app:app

A folder is one of `save_pretrained`, of which nothing is executed. A file is a pickle of joblib:
load only one that you trust. README.markdown says what is to be asked.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import joblib
import numpy as np
import torch
from fastapi import FastAPI, HTTPException, Response
from PIL import Image, ImageOps
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sklearn.pipeline import Pipeline

import sklearn_epee
from sklearn_epee import EPEEImageClassifier, EPEEMultimodalClassifier
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)
from sklearn_epee.serving import AsyncPredictor, Prediction, SentencePrediction

MAX_CHARACTERS = 100_000
# Of a request without its image, in bytes: JSON may write a character as two escapes of six bytes.
MAX_TEXT_BYTES = 2 * 2**20
# Pillow reads many more formats, and some of them by starting other programs.
FORMATS = ("PNG", "JPEG")
# Images that are decoded at a time; the other cores are for the network.
DECODERS = 2
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# What Pillow raises for damaged files.
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, TypeError, struct.error)
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageTooLargeError(ValueError):
    """An image has too many bytes or pixels."""


# What errors mean to whoever asks.
STATUS_CODES = {
    ImageTooLargeError: 413,
    QueueFullError: 429,
    DeadlineExceededError: 504,
    ServerClosedError: 503,
    WorkerFailedError: 500,
    MemoryError: 413,
    ValueError: 422,
    TypeError: 422,
}


class Question(BaseModel):
    """What is asked: a text, the words of a sentence, or an image, and how sure or fast."""

    # A misspelled "image" would else be a text without one.
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(max_length=MAX_CHARACTERS)] | None = None
    words: Annotated[list[str], Field(max_length=MAX_CHARACTERS)] | None = None
    image: Annotated[str, Field(description="base64 of a PNG or JPEG file")] | None = None
    tau: float | None = None
    patience: int | None = None
    timeout: float | None = None

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        if sum(map(len, self.words or ())) > MAX_CHARACTERS:
            raise ValueError(f"words have more than {MAX_CHARACTERS} characters")
        return self

    @property
    def policy(self) -> dict[str, Any]:
        """How sure or fast it is to be answered."""
        return self.model_dump(include={"tau", "patience", "timeout"})


@dataclass(frozen=True)
class Form:
    """What a classifier reads.

    Parameters
    ----------
    cells : tuple of str
        Of "text", "words" and "image"; a question has one of them.
    may_be_both : bool, default=False
        Whether it may have both.
    """

    cells: tuple[str, ...]
    may_be_both: bool = False

    @classmethod
    def of(cls, estimator: Any) -> Self:
        """Return what a fitted classifier, or one in pipelines, searches or policies, reads."""
        classifier = classifier_in(estimator)
        if isinstance(classifier, EPEEMultimodalClassifier):
            return cls(("text", "image"), may_be_both=True)
        return cls(("image",) if isinstance(classifier, EPEEImageClassifier) else ("text", "words"))

    @property
    def has_images(self) -> bool:
        """Whether there may be images."""
        return "image" in self.cells

    def check(self, question: Question) -> None:
        """Refuse a question without what the classifier reads, or with anything else.

        Image classifiers take a text for the path of a file: it must not get that far.

        Raises
        ------
        ValueError
        """
        names = ("text", "words", "image")
        given = [name for name in names if getattr(question, name) is not None]
        if not given or set(given) - set(self.cells) or (len(given) > 1 and not self.may_be_both):
            wanted = " or ".join((*self.cells, "both") if self.may_be_both else self.cells)
            found = " and ".join(given) or "none"
            raise ValueError(f"expected {wanted}, as this classifier reads it; got {found}")

    def sample(self, question: Question, image: Any = None) -> Any:
        """Return what the predictor takes."""
        if self.may_be_both:
            return question.text, image
        if self.has_images:
            return image
        return question.text if question.words is None else question.words


def classifier_in(estimator: Any) -> Any:
    """Return the classifier in a fitted pipeline, search or policy."""
    if isinstance(estimator, Pipeline):
        return classifier_in(estimator[-1])
    for name in ("best_estimator_", "estimator_", "estimator"):
        if getattr(estimator, name, None) is not None:
            return classifier_in(getattr(estimator, name))
    return estimator


# ---------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class ImageLimits:
    """How large images may be.

    Parameters
    ----------
    n_bytes : int
        Of a file.
    n_pixels : int
        Of an image: a small file may hold a very large one.
    n_pixels_held : int
        Of all images that are decoded and not yet answered.
    """

    n_bytes: int = 5_000_000
    n_pixels: int = 25_000_000
    n_pixels_held: int = 100_000_000

    @property
    def n_characters(self) -> int:
        """Most characters of a file in base64."""
        return 4 * -(-self.n_bytes // 3)


def file_of(image: str, limits: ImageLimits) -> bytes:
    """Return the bytes of a file in base64, or in a data URL with base64.

    Raises
    ------
    ValueError
        If it is neither.
    ImageTooLargeError
    """
    head, comma, data = image.partition(",") if image.startswith("data:") else ("", "", image)
    if comma and not head.endswith(";base64"):
        raise ValueError("image is a data URL without base64; expected base64 of a file")
    if len(data) > limits.n_characters:
        raise ImageTooLargeError(f"image has more than {limits.n_bytes} bytes")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # also where it is not ASCII
        raise ValueError(
            f"image is not base64 of a file, in one line and without a path: {error}"
        ) from error


def opened(file: bytes, limits: ImageLimits) -> Image.Image:
    """Return an image of which only the header was read.

    Raises
    ------
    ValueError
        If the file is no PNG or JPEG, or holds several images.
    ImageTooLargeError
    """
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
        # Of the images that a camera puts into a JPEG file, the first is the photograph.
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Image.UnidentifiedImageError as error:
        raise ValueError("image is not a PNG or JPEG file that can be opened") from error
    except BOMB as error:
        raise ImageTooLargeError(f"image has more than {limits.n_pixels} pixels") from error
    except DAMAGED as error:
        raise ValueError(f"image cannot be opened: {error}") from error
    if n_frames > 1:
        raise ValueError(f"image has {n_frames} frames; expected one")
    if image.width * image.height > limits.n_pixels:
        raise ImageTooLargeError(
            f"image has {image.width} x {image.height} pixels; "
            f"expected at most {limits.n_pixels} in all"
        )
    return image


def pixels_of(image: Image.Image) -> Any:
    """Return the pixels of an image, read as classifiers read files.

    That is, photographs are turned as their cameras noted it, and 16 bits are fractions of 65535.

    Raises
    ------
    ValueError
        If they cannot be decoded.
    """
    # What follows the pixels of a PNG file is not read.
    may_be_turned = image.format != "PNG" or "exif" in image.info
    try:
        image.load()
    except DAMAGED as error:
        raise ValueError(f"image cannot be decoded: {error}") from error
    upright = _upright(image) if may_be_turned else image
    if upright.mode.startswith("I"):
        return np.asarray(upright, np.float32) / np.float32(65535)
    return upright


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (*DAMAGED, LookupError):  # the note is damaged, not the image
        return image


def time_left(timeout: float | None, start: float) -> float | None:
    """Return what is left of the seconds that a request had at its start."""
    taken = time.monotonic() - start
    if timeout is None or not timeout > 0:  # the predictor says what it expects
        return timeout
    if taken >= timeout:
        raise DeadlineExceededError(f"The image was not read within timeout={timeout:g} seconds.")
    return timeout - taken


class ImagePredictor:
    """Decodes images in threads of its own, and has them predicted.

    Parameters
    ----------
    server : AsyncPredictor
    form : Form
    limits : ImageLimits
    max_pending : int
        Images that may wait to be decoded.
    timeout : float or None
        Seconds, of requests that set none.
    """

    def __init__(
        self,
        server: AsyncPredictor,
        form: Form,
        limits: ImageLimits,
        max_pending: int,
        timeout: float | None,
    ) -> None:
        self._server = server
        self._form = form
        self._limits = limits
        self._max_pending = max_pending
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="images")
        self._lock = threading.Lock()
        self._n_pixels = 0
        self.n_decoding = 0

    async def predict(self, question: Question) -> Prediction:
        """Return the prediction of an image, or of a text with an image."""
        start = time.monotonic()
        with self._waiting():
            loop = asyncio.get_running_loop()
            future = await loop.run_in_executor(self._threads, self._submit, question, start)
        found = await asyncio.wrap_future(future)
        return replace(found, latency=time.monotonic() - start)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count what waits for a thread; only in the event loop."""
        if self.n_decoding >= self._max_pending:
            raise QueueFullError(f"{self._max_pending} images wait to be decoded; try again later.")
        self.n_decoding += 1
        try:
            yield
        finally:
            self.n_decoding -= 1

    def _submit(self, question: Question, start: float) -> Future[Prediction]:
        """Decode an image and submit it; in a thread."""
        policy = question.policy
        timeout = self._timeout if policy["timeout"] is None else policy["timeout"]
        time_left(timeout, start)  # what is late already is not decoded
        image = opened(file_of(question.image, self._limits), self._limits)
        n_pixels = image.width * image.height
        self._take(n_pixels)
        try:
            sample = self._form.sample(question, pixels_of(image))
            policy["timeout"] = time_left(timeout, start)
            future = self._server.submit(sample, **policy)
        except BaseException:
            self._give_back(n_pixels)
            raise
        future.add_done_callback(lambda _: self._give_back(n_pixels))
        return future

    def _take(self, n_pixels: int) -> None:
        with self._lock:
            if self._n_pixels + n_pixels > self._limits.n_pixels_held:
                raise QueueFullError(
                    f"Images of {self._n_pixels} pixels are held; there is no room for another "
                    f"{n_pixels}. Try again later."
                )
            self._n_pixels += n_pixels

    def _give_back(self, n_pixels: int) -> None:
        with self._lock:
            self._n_pixels -= n_pixels


class BodyLimit:
    """Refuses requests that are larger than any valid one, before they fill the memory.

    Parameters
    ----------
    app : ASGI application
    max_bytes : int
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and count its bytes as they come."""
        n_bytes = 0

        async def counted() -> Any:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                raise HTTPException(413, f"the request has more than {self._max_bytes} bytes")
            return message

        await self._app(scope, counted, send)


# --------------------------------------------------------------------------------------- answers


class Answer(BaseModel):
    """What is predicted of a sample; with several tasks or labels a list of each."""

    label: Any
    proba: list[float] | list[list[float]]
    exit_layer: int
    entropy: float | list[float]
    latency: float

    @classmethod
    def of(cls, found: Prediction) -> Self:
        """Return a prediction as JSON has it."""
        return cls(**{name: _plain(part) for name, part in vars(found).items()})


Span = tuple[int, int, str]


class SentenceAnswer(BaseModel):
    """What is predicted of the words of a sentence; with several layers of spans by their names."""

    spans: list[Span] | dict[str, list[Span]]
    tags: list[str] | dict[str, list[str]]
    proba: list[list[float]] | dict[str, list[list[float]]]
    exit_layer: int | list[int]
    entropy: list[float] | list[list[float]]
    rows_computed: int
    rows_total: int
    latency: float

    @classmethod
    def of(cls, found: SentencePrediction) -> Self:
        """Return a prediction as JSON has it."""
        return cls(**{name: _plain(part) for name, part in vars(found).items()})


def _plain(part: Any) -> Any:
    """Return arrays, also those in a dict or list, as lists."""
    if isinstance(part, dict):
        return {name: _plain(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_plain(value) for value in part]
    return part.tolist() if hasattr(part, "tolist") else part


class Metrics:
    """What Prometheus scrapes."""

    def __init__(self, server: AsyncPredictor, images: ImagePredictor, n_layers: int) -> None:
        self.registry = CollectorRegistry()
        kept = {"registry": self.registry}
        layers = range(1, n_layers + 1)
        tenths = [i / 10 for i in range(1, 11)]
        self._requests = Counter("epee_requests", "Requests by outcome", ["outcome"], **kept)
        self._layers = Histogram("epee_exit_layer", "Exit layers", buckets=layers, **kept)
        self._entropies = Histogram("epee_entropy", "Entropies at exit", buckets=tenths, **kept)
        self._latencies = Histogram(
            "epee_latency_seconds", "From request to prediction", buckets=LATENCIES, **kept
        )
        queue = Gauge("epee_queued", "Requests before their first layer", **kept)
        queue.set_function(lambda: server.statistics().n_queued)
        decoding = Gauge("epee_decoding", "Images that are not decoded yet", **kept)
        decoding.set_function(lambda: images.n_decoding)
        running = Gauge("epee_running", "Requests on their way through the layers", **kept)
        running.set_function(lambda: server.statistics().n_running)

    def note(self, found: Prediction | SentencePrediction) -> None:
        """Count a prediction; of a sentence, its last exit layer and the mean over its words."""
        self._requests.labels("answered").inc()
        self._layers.observe(found.last_exit_layer)
        self._entropies.observe(found.mean_entropy)
        self._latencies.observe(found.latency)

    def note_error(self, error: BaseException) -> None:
        """Count a request without a prediction."""
        self._requests.labels(type(error).__name__).inc()

    def as_text(self) -> bytes:
        """Return all metrics in Prometheus' format."""
        return exposition.generate_latest(self.registry)


def make_app(
    estimator: Any,
    *,
    max_pending: int = 256,
    timeout: float | None = None,
    image_limits: ImageLimits | None = None,
    **options: Any,
) -> FastAPI:
    """Return the service over a fitted classifier.

    Parameters
    ----------
    estimator : estimator
        As :class:`~sklearn_epee.serving.AsyncPredictor` takes it.
    max_pending : int, default=256
        Requests that are held, and images that may wait to be decoded.
    timeout : float or None, default=None
        Seconds, of requests that set none; None is no limit.
    image_limits : ImageLimits or None, default=None
        None: those of `ImageLimits`.
    **options : dict
        Further parameters of the predictor.

    Returns
    -------
    fastapi.FastAPI
    """
    form, limits = Form.of(estimator), image_limits or ImageLimits()
    server = AsyncPredictor(estimator, max_pending=max_pending, timeout=timeout, **options)
    images = ImagePredictor(server, form, limits, max_pending, timeout)
    metrics = Metrics(server, images, estimator.n_layers_)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server:
            yield
        images.close()

    app = FastAPI(title="Early-exit classifier", lifespan=lifespan)
    max_bytes = MAX_TEXT_BYTES + form.has_images * limits.n_characters
    app.add_middleware(BodyLimit, max_bytes=max_bytes)

    @app.get("/health")
    async def health(response: Response) -> dict[str, str | None]:
        found = server.health()
        response.status_code = 500 if found.status == "failed" else 200
        return {"status": found.status, "reason": found.reason}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, bool]:
        is_ready = server.health().is_ready
        response.status_code = 200 if is_ready else 503
        return {"ready": is_ready}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.as_text(), media_type=exposition.CONTENT_TYPE_LATEST)

    @app.post("/predict")
    async def predict(question: Question) -> Answer | SentenceAnswer:
        try:
            form.check(question)
            if question.image is None:
                found = await server.predict(form.sample(question), **question.policy)
            else:
                found = await images.predict(question)
        except BaseException as error:
            metrics.note_error(error)
            codes = [code for kind, code in STATUS_CODES.items() if isinstance(error, kind)]
            if not codes:
                raise
            raise HTTPException(codes[0], str(error)) from error
        metrics.note(found)
        kind = SentenceAnswer if isinstance(found, SentencePrediction) else Answer
        return kind.of(found)

    return app


def load_estimator(path: str) -> Any:
    """Return the estimator in a folder of `save_pretrained`, or in a file of joblib."""
    document = Path(path, "sklearn_epee.json")
    if not document.is_file():
        return joblib.load(path)  # a pickle: one that you trust
    name = json.loads(document.read_text("utf-8"))["model"]["class"]
    if name not in sklearn_epee.__all__:
        raise ValueError(f"{document} holds a {name!r}, which is no class of sklearn_epee.")
    return getattr(sklearn_epee, name).from_pretrained(path)


def app_from_environment() -> FastAPI:
    """Return the service over the model that the environment names."""
    if threads := os.environ.get("SKLEARN_EPEE_THREADS"):
        torch.set_num_threads(int(threads))
    estimator = load_estimator(os.environ["SKLEARN_EPEE_MODEL"])
    if tau := os.environ.get("SKLEARN_EPEE_TAU"):
        estimator.set_params(tau=float(tau))
    usual = ImageLimits()
    return make_app(
        estimator,
        max_pending=int(os.environ.get("SKLEARN_EPEE_MAX_PENDING", "256")),
        timeout=float(os.environ.get("SKLEARN_EPEE_TIMEOUT", "2")),
        image_limits=ImageLimits(
            int(os.environ.get("SKLEARN_EPEE_MAX_IMAGE_BYTES", usual.n_bytes)),
            int(os.environ.get("SKLEARN_EPEE_MAX_PIXELS", usual.n_pixels)),
            int(os.environ.get("SKLEARN_EPEE_MAX_PIXELS_HELD", usual.n_pixels_held)),
        ),
        tau_range=(0.0, 1.0),
        patience_range=(1, estimator.n_layers_),
    )


def __getattr__(name: str) -> FastAPI:
    # uvicorn's `app:app`; whoever imports `make_app` needs no model.
    if name == "app":
        return app_from_environment()
    raise AttributeError(name)
