"""A web service over a fitted classifier: FastAPI around `sklearn_epee.serving`.

It takes texts, pairs of texts, sentences for their words, images, and texts with images, as the
classifier does.

    SKLEARN_EPEE_MODEL=folder uvicorn --app-dir examples/service app:app

A folder is one of `save_pretrained`; loading it executes no code. A file is a pickle of joblib:
load only one that you trust. README.markdown describes the requests.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import joblib
import torch
from fastapi import FastAPI, HTTPException, Response
from image_files import ImageLimits, ImageTooLargeError
from image_predictor import ImagePredictor
from prometheus_client import exposition
from prometheus_metrics import Metrics
from schemas import (
    MAX_TEXT_BYTES,
    AcceptedInput,
    PredictionRequest,
    SampleResponse,
    SentenceResponse,
    classifier_in,
)
from sklearn.pipeline import Pipeline

import sklearn_epee
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)
from sklearn_epee.serving import AsyncPredictor, SentencePrediction

# HTTP status codes of errors; the first class that fits counts.
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


class BodyLimit:
    """Middleware that refuses requests larger than any valid one, before they fill the memory.

    Parameters
    ----------
    app : ASGI application
    max_bytes : int
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on and count its bytes as they are received."""
        n_bytes = 0

        async def counted() -> Any:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                raise HTTPException(413, f"the request has more than {self._max_bytes} bytes")
            return message

        await self._app(scope, counted, send)


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
        Maximum number of pending requests, and of images that wait to be decoded.
    timeout : float or None, default=None
        Timeout in seconds of requests that set none; None is no limit.
    image_limits : ImageLimits or None, default=None
        None: the defaults of `ImageLimits`.
    **options : dict
        Further parameters of the predictor.

    Returns
    -------
    fastapi.FastAPI
    """
    accepted, limits = AcceptedInput.of(estimator), image_limits or ImageLimits()
    server = AsyncPredictor(estimator, max_pending=max_pending, timeout=timeout, **options)
    images = ImagePredictor(server, accepted, limits, max_pending, timeout)
    metrics = Metrics(server, images, classifier_in(estimator).n_layers_)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server:
            yield
        images.close()

    app = FastAPI(title="Early-exit classifier", lifespan=lifespan)
    max_bytes = MAX_TEXT_BYTES + accepted.has_images * limits.n_characters
    app.add_middleware(BodyLimit, max_bytes=max_bytes)

    @app.get("/health")
    async def health(response: Response) -> dict[str, str | None]:
        current = server.health()
        response.status_code = 500 if current.status == "failed" else 200
        return {"status": current.status, "reason": current.reason}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, bool]:
        is_ready = server.health().is_ready
        response.status_code = 200 if is_ready else 503
        return {"ready": is_ready}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.as_text(), media_type=exposition.CONTENT_TYPE_LATEST)

    @app.post("/predict")
    async def predict(request: PredictionRequest) -> SampleResponse | SentenceResponse:
        try:
            accepted.check(request)
            if request.image is None:
                prediction = await server.predict(accepted.sample(request), **request.options)
            else:
                prediction = await images.predict(request)
        except BaseException as error:
            metrics.add_error(error)
            codes = [code for kind, code in STATUS_CODES.items() if isinstance(error, kind)]
            if not codes:
                raise
            raise HTTPException(codes[0], str(error)) from error
        metrics.add_prediction(prediction)
        of_words = isinstance(prediction, SentencePrediction)
        return (SentenceResponse if of_words else SampleResponse).of(prediction)

    return app


def load_estimator(path: str) -> Any:
    """Return the estimator in a folder of `save_pretrained`, or in a file of joblib."""
    document = Path(path, "sklearn_epee.json")
    if not document.is_file():
        return joblib.load(path)  # a pickle: load only files that you trust
    name = json.loads(document.read_text("utf-8"))["model"]["class"]
    if name not in sklearn_epee.__all__:
        raise ValueError(f"{document} contains a {name!r}, which is not a class of sklearn_epee.")
    return getattr(sklearn_epee, name).from_pretrained(path)


def app_from_environment() -> FastAPI:
    """Return the service over the model that the environment variables describe."""
    if threads := os.environ.get("SKLEARN_EPEE_THREADS"):
        torch.set_num_threads(int(threads))
    estimator = load_estimator(os.environ["SKLEARN_EPEE_MODEL"])
    if tau := os.environ.get("SKLEARN_EPEE_TAU"):
        owner = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        owner.set_params(tau=float(tau))
    defaults = ImageLimits()
    return make_app(
        estimator,
        max_pending=int(os.environ.get("SKLEARN_EPEE_MAX_PENDING", "256")),
        timeout=float(os.environ.get("SKLEARN_EPEE_TIMEOUT", "2")),
        image_limits=ImageLimits(
            int(os.environ.get("SKLEARN_EPEE_MAX_IMAGE_BYTES", defaults.n_bytes)),
            int(os.environ.get("SKLEARN_EPEE_MAX_PIXELS", defaults.n_pixels)),
            int(os.environ.get("SKLEARN_EPEE_MAX_PIXELS_HELD", defaults.n_pixels_held)),
        ),
        tau_range=(0.0, 1.0),
        patience_range=(1, classifier_in(estimator).n_layers_),
    )


def __getattr__(name: str) -> FastAPI:
    # Only `app:app` of uvicorn loads a model; importing `make_app` does not.
    if name == "app":
        return app_from_environment()
    raise AttributeError(name)
