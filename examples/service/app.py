"""A web service over a fitted classifier of texts or words: FastAPI around `sklearn_epee.serving`.

    SKLEARN_EPEE_MODEL=folder uvicorn --app-dir examples/service app:app

A folder is one of `save_pretrained`, of which nothing is executed. A file is a pickle of joblib:
load only one that you trust. README.markdown says what is to be asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import joblib
import torch
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition
from pydantic import BaseModel, Field, model_validator

import sklearn_epee
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)
from sklearn_epee.serving import AsyncPredictor, Prediction, SentencePrediction

MAX_CHARACTERS = 100_000
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# What errors mean to whoever asks.
STATUS_CODES = {
    QueueFullError: 429,
    DeadlineExceededError: 504,
    ServerClosedError: 503,
    WorkerFailedError: 500,
    MemoryError: 413,
    ValueError: 422,
    TypeError: 422,
}


class Question(BaseModel):
    """What is asked: a text, or the words of a sentence, and how sure or fast."""

    text: Annotated[str, Field(max_length=MAX_CHARACTERS)] | None = None
    words: Annotated[list[str], Field(max_length=MAX_CHARACTERS)] | None = None
    tau: float | None = None
    patience: int | None = None
    timeout: float | None = None

    @model_validator(mode="after")
    def _check_sample(self) -> Self:
        if (self.text is None) == (self.words is None):
            raise ValueError("expected either text or words")
        if sum(map(len, self.words or ())) > MAX_CHARACTERS:
            raise ValueError(f"words have more than {MAX_CHARACTERS} characters")
        return self

    @property
    def sample(self) -> str | list[str]:
        """What the predictor takes."""
        return self.text if self.words is None else self.words


class Answer(BaseModel):
    """What is predicted of a text."""

    label: Any
    proba: list[float]
    exit_layer: int
    entropy: float
    latency: float

    @classmethod
    def of(cls, found: Prediction) -> Self:
        """Return a prediction as JSON has it."""
        label = found.label.item() if hasattr(found.label, "item") else found.label
        return cls(
            label=label,
            proba=found.proba.tolist(),
            exit_layer=found.exit_layer,
            entropy=found.entropy,
            latency=found.latency,
        )


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
    """Return arrays, also those in a dict, as lists."""
    if isinstance(part, dict):
        return {name: _plain(value) for name, value in part.items()}
    return part.tolist() if hasattr(part, "tolist") else part


class Metrics:
    """What Prometheus scrapes."""

    def __init__(self, server: AsyncPredictor, n_layers: int) -> None:
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


def make_app(estimator: Any, **options: Any) -> FastAPI:
    """Return the service over a fitted classifier of texts with one task, or of words.

    Parameters
    ----------
    estimator : estimator
        As :class:`~sklearn_epee.serving.AsyncPredictor` takes it.
    **options : dict
        Further parameters of the predictor.

    Returns
    -------
    fastapi.FastAPI
    """
    server = AsyncPredictor(estimator, **options)
    metrics = Metrics(server, estimator.n_layers_)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server:
            yield

    app = FastAPI(title="Early-exit classifier", lifespan=lifespan)

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
        policy = question.model_dump(include={"tau", "patience", "timeout"})
        try:
            found = await server.predict(question.sample, **policy)
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
    return make_app(
        estimator,
        max_pending=int(os.environ.get("SKLEARN_EPEE_MAX_PENDING", "256")),
        timeout=float(os.environ.get("SKLEARN_EPEE_TIMEOUT", "2")),
        tau_range=(0.0, 1.0),
        patience_range=(1, estimator.n_layers_),
    )


def __getattr__(name: str) -> FastAPI:
    # uvicorn's `app:app`; whoever imports `make_app` needs no model.
    if name == "app":
        return app_from_environment()
    raise AttributeError(name)
