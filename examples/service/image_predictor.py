"""Predict the images of requests: decode them in threads, then submit them to the predictor."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from image_files import ImageLimits, decode_base64, decode_pixels, open_image
from schemas import AcceptedInput, PredictionRequest

from sklearn_epee.exceptions import DeadlineExceededError, QueueFullError
from sklearn_epee.serving import AsyncPredictor, Prediction

# Images that are decoded at a time; the other cores are for the network.
N_DECODERS = 2


class ImagePredictor:
    """Decode images in a thread pool and submit them to a predictor.

    Parameters
    ----------
    server : AsyncPredictor
    accepted : AcceptedInput
    limits : ImageLimits
    max_pending : int
        Maximum number of images that wait to be decoded.
    timeout : float or None
        Timeout in seconds of requests that set none.
    """

    def __init__(
        self,
        server: AsyncPredictor,
        accepted: AcceptedInput,
        limits: ImageLimits,
        max_pending: int,
        timeout: float | None,
    ) -> None:
        self._server = server
        self._accepted = accepted
        self._limits = limits
        self._max_pending = max_pending
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(N_DECODERS, thread_name_prefix="images")
        self._lock = threading.Lock()
        self._n_pixels = 0
        self.n_decoding = 0

    async def predict(self, request: PredictionRequest) -> Prediction:
        """Return the prediction of an image, or of a text with an image."""
        start = time.monotonic()
        with self._waiting():
            loop = asyncio.get_running_loop()
            future = await loop.run_in_executor(self._threads, self._submit, request, start)
        prediction = await asyncio.wrap_future(future)
        return replace(prediction, latency=time.monotonic() - start)

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count the images that wait for a thread; call this in the event loop only."""
        if self.n_decoding >= self._max_pending:
            raise QueueFullError(f"{self._max_pending} images wait to be decoded; try again later.")
        self.n_decoding += 1
        try:
            yield
        finally:
            self.n_decoding -= 1

    def _submit(self, request: PredictionRequest, start: float) -> Future[Prediction]:
        """Decode an image and submit it; runs in a thread of the pool."""
        options = request.options
        timeout = self._timeout if options["timeout"] is None else options["timeout"]
        remaining_time(timeout, start)  # raises before an image is decoded too late
        image = open_image(decode_base64(request.image, self._limits), self._limits)
        n_pixels = image.width * image.height
        self._reserve(n_pixels)
        try:
            sample = self._accepted.sample(request, decode_pixels(image))
            options["timeout"] = remaining_time(timeout, start)
            future = self._server.submit(sample, **options)
        except BaseException:
            self._release(n_pixels)
            raise
        future.add_done_callback(lambda _: self._release(n_pixels))
        return future

    def _reserve(self, n_pixels: int) -> None:
        with self._lock:
            if self._n_pixels + n_pixels > self._limits.n_pixels_held:
                raise QueueFullError(
                    f"Images of {self._n_pixels} pixels are held; there is no room for another "
                    f"{n_pixels}. Try again later."
                )
            self._n_pixels += n_pixels

    def _release(self, n_pixels: int) -> None:
        with self._lock:
            self._n_pixels -= n_pixels


def remaining_time(timeout: float | None, start: float) -> float | None:
    """Return the remaining seconds of a request that started at a time."""
    elapsed = time.monotonic() - start
    if timeout is None or not timeout > 0:  # the predictor refuses invalid values
        return timeout
    if elapsed >= timeout:
        raise DeadlineExceededError(f"The image was not read within timeout={timeout:g} seconds.")
    return timeout - elapsed
