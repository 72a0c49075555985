"""Metrics of the service in the format of Prometheus."""

from __future__ import annotations

from image_predictor import ImagePredictor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition

from sklearn_epee.serving import AsyncPredictor, Prediction, SentencePrediction

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters, gauges and histograms of a service."""

    def __init__(self, server: AsyncPredictor, images: ImagePredictor, n_layers: int) -> None:
        self.registry = CollectorRegistry()
        shared = {"registry": self.registry}
        layers = range(1, n_layers + 1)
        tenths = [i / 10 for i in range(1, 11)]
        self._requests = Counter("epee_requests", "Requests by outcome", ["outcome"], **shared)
        self._layers = Histogram("epee_exit_layer", "Exit layers", buckets=layers, **shared)
        self._entropies = Histogram("epee_entropy", "Entropies at exit", buckets=tenths, **shared)
        self._latencies = Histogram(
            "epee_latency_seconds", "From request to prediction", buckets=LATENCIES, **shared
        )
        queue = Gauge("epee_queued", "Requests before their first layer", **shared)
        queue.set_function(lambda: server.statistics().n_queued)
        decoding = Gauge("epee_decoding", "Images that are not decoded yet", **shared)
        decoding.set_function(lambda: images.n_decoding)
        running = Gauge("epee_running", "Requests between two layers", **shared)
        running.set_function(lambda: server.statistics().n_running)

    def add_prediction(self, prediction: Prediction | SentencePrediction) -> None:
        """Count a prediction; a sentence by its last exit layer and the mean of its entropies."""
        self._requests.labels("answered").inc()
        self._layers.observe(prediction.last_exit_layer)
        self._entropies.observe(prediction.mean_entropy)
        self._latencies.observe(prediction.latency)

    def add_error(self, error: BaseException) -> None:
        """Count a request without a prediction."""
        self._requests.labels(type(error).__name__).inc()

    def as_text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return exposition.generate_latest(self.registry)
