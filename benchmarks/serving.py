"""Measure a server with continuous batching under load.

Run from the repository root, with a file of a fitted classifier of texts or words and, for real
texts, the environment variable ``SKLEARN_EPEE_DATA``:

    python -m benchmarks.serving --model model.joblib --out benchmarks/results

``serving.md``, or another ``--name``, is written there after every row. Three servers get the same
requests, at random times or in bursts of 16, at shares of what the first of them can serve:

- full depth: `AsyncPredictor` over the same network with ``tau=0``, the same batching
- early exits: `AsyncPredictor`
- one at a time: ``predict_with_exits`` on one text after the other, with the same early exits

Loads are open: requests are sent at fixed times, independent of answers, and latencies count from
these times. Every answer is compared with the estimator's prediction. In quantiles, requests
without an answer count as the timeout. Everything runs in one process with one torch thread; for
the rows on loopback, `examples/service` gets the requests by HTTP on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import Full, SimpleQueue
from typing import Any

import joblib
import numpy as np
import torch
from PIL import Image

from benchmarks._models import NotMeasuredError, data_set, short_texts
from benchmarks._report import machine
from sklearn_epee.exceptions import DeadlineExceededError, QueueFullError
from sklearn_epee.serving import AsyncPredictor

ROOT = Path(__file__).parents[1]
N_TEXTS = 256
TIMEOUT = 2.0
TIMEOUT_AT_OVERLOAD = 0.5
FULL_DEPTH, EARLY, ALONE = "full depth", "early exits", "one at a time"
PATTERNS = ("poisson", "bursts")
# Samples whose entropy is this close to tau may exit at another layer.
CLOSE = 1e-5


def load_module(name):
    """Import a module of the example, which is not a package."""
    path = ROOT / "examples" / "service" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"service_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


load = load_module("load")


class OneAtATime:
    """Answers requests one by one, in the order of arrival."""

    def __init__(self, estimator, max_pending):
        self._estimator = estimator
        self._queue = SimpleQueue()
        self._room = threading.Semaphore(max_pending)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, text, timeout=None):
        """Return the future of the prediction of a text."""
        if not self._room.acquire(blocking=False):
            raise QueueFullError from Full()
        future = Future()
        self._queue.put((text, time.monotonic() + (timeout or np.inf), future))
        return future

    def close(self):
        """Answer the waiting requests, and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self):
        while (request := self._queue.get()) is not None:
            text, deadline, future = request
            self._room.release()
            if time.monotonic() >= deadline:
                future.set_exception(DeadlineExceededError())
                continue
            found = self._estimator.predict_with_exits([text])
            if time.monotonic() >= deadline:
                future.set_exception(DeadlineExceededError())
            else:
                future.set_result(answers(found)[0])


def plain(part):
    """Convert arrays, also those in a dict, to lists of Python numbers."""
    if isinstance(part, dict):
        return {name: plain(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [plain(value) for value in part]
    return part.tolist() if hasattr(part, "tolist") else part


def answers(found):
    """Return the expected answers for samples, from `predict_with_exits`."""
    what = "spans" if "spans" in found else "labels"
    columns = zip(found[what], found.exit_layer, found.proba, strict=True)
    return [answer_of(*parts) for parts in columns]


def answer_of(predicted, exit_layer, proba):
    """Return the parts of an answer to compare: label or spans, exit layers, probabilities."""
    return plain({"predicted": predicted, "exit_layer": exit_layer, "proba": proba})


class Rival:
    """A server, with the expected answers.

    Parameters
    ----------
    name : str
    estimator : estimator
    samples : list
        Texts, or whatever it predicts.
    """

    def __init__(self, name, estimator, samples):
        self.name = name
        self.samples = samples
        self.estimator = estimator
        found = estimator.predict_with_exits(samples)
        self._expected = answers(found)
        near = [
            (np.abs(np.append(own, np.mean(own)) - estimator.tau) < CLOSE).any()
            for own in found.entropy
        ]
        self._undecided = np.array(near) & (estimator.tau > 0)
        self.n_undecided = int(self._undecided.sum())
        self.mean_exit = float(np.mean([np.mean(layers) for layers in found.exit_layer]))

    @contextmanager
    def serving(self, max_pending) -> Iterator[Any]:
        """Start the server and close it."""
        kind = OneAtATime if self.name == ALONE else AsyncPredictor
        server = kind(self.estimator, max_pending=max_pending)
        if kind is AsyncPredictor:
            server.start()
        try:
            for future in [server.submit(sample) for sample in self.samples[:8]]:
                future.result()
            yield server
        finally:
            server.close()

    def is_right(self, found, row):
        """Return whether a prediction equals that of the estimator."""
        answer = found if isinstance(found, dict) else vars(found)
        if "predicted" not in answer:
            predicted = answer["spans"] if "spans" in answer else answer["label"]
            answer = answer_of(predicted, answer["exit_layer"], answer["proba"])
        return bool(self._undecided[row] or load.is_same(answer, self._expected[row]))

    def capacity(self, n):
        """Return the number of answers per second if all requests are submitted at once."""
        with self.serving(n) as server:
            start = time.perf_counter()
            futures = [server.submit(self.samples[i % len(self.samples)]) for i in range(n)]
            for future in futures:
                future.result()
            return n / (time.perf_counter() - start)

    def measure(self, arrivals, timeout, max_pending):
        """Send requests to the server, and return the outcomes."""
        with self.serving(max_pending) as server:

            async def ask(number):
                row = number % len(self.samples)
                try:
                    future = server.submit(self.samples[row], timeout=timeout)
                    found = await asyncio.wrap_future(future)
                except QueueFullError:
                    return "refused"
                except DeadlineExceededError:
                    return "late"
                except Exception:  # noqa: BLE001 - it is counted
                    return "failed"
                return "right" if self.is_right(found, row) else "wrong"

            return asyncio.run(load.run_load(ask, arrivals, timeout))


def request_of(sample):
    """Return the request for the example: a text, or a text with an image as a PNG file."""
    if isinstance(sample, str):
        return {"text": sample}
    text, image = sample
    if image is None:
        return {"text": text}
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"text": text, "image": load.as_base64(file.getvalue())}


def benchmark_texts(n):
    """Return real texts if available, otherwise texts of invented words."""
    try:
        return list(data_set("phee", "test")[0])[:n]
    except NotMeasuredError:
        return short_texts(n)


@contextmanager
def service(model, tau, max_pending, timeout) -> Iterator[str]:
    """Run the example on loopback; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "SKLEARN_EPEE_MODEL": str(model),
        "SKLEARN_EPEE_TAU": str(tau),
        "SKLEARN_EPEE_MAX_PENDING": str(max_pending),
        "SKLEARN_EPEE_TIMEOUT": str(timeout),
        "SKLEARN_EPEE_THREADS": "1",
    }
    command = [
        sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples" / "service"),
        "--port", str(port), "--log-level", "error", "app:app",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(process, url):
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):  # noqa: S310 - loopback
                return
        except OSError:
            time.sleep(0.2)
    raise NotMeasuredError("the service did not start; the extra service is needed")


class Table:
    """The results, written after every row."""

    _NAMES = (
        "requests", "right", "late", "refused", "wrong", "failed", "lost",
    )  # fmt: skip

    def __init__(self, out, heading):
        self._out = out
        self.n_not_right = 0
        columns = ("where", "arrivals", "load", "server", "p50", "p95", "p99", "goodput")
        self._lines = [*heading, "", _row((*columns, *self._NAMES)), _row(["---"] * 15)]
        print(*self._lines, sep="\n", flush=True)

    def add(self, where, pattern, load_share, server, found):
        """Add the results of one server under one load."""
        times = [f"{1000 * found[name]:.0f} ms" for name in ("p50", "p95", "p99")]
        counts = [str(found[name]) for name in self._NAMES]
        self.n_not_right += sum(found[name] for name in ("wrong", "failed", "lost"))
        cells = (where, pattern, f"{load_share:.0%}", server, *times, f"{found['goodput']:.0f}/s")
        self._lines.append(_row((*cells, *counts)))
        print(self._lines[-1], flush=True)
        self.write()

    def write(self, *lines):
        """Write the table to its file, with some lines at the end."""
        self._lines.extend(lines)
        if self._out:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.write_text("\n".join(self._lines) + "\n")


def _row(cells):
    return f"| {' | '.join(cells)} |"


def in_process(rivals, capacity, arguments, table):
    """Measure all servers under all loads; return the ratios to full depth."""
    ratios = []
    for pattern in PATTERNS:
        for share in filter(None, (*arguments.loads, arguments.overload)):
            timeout = TIMEOUT if share <= 1 else TIMEOUT_AT_OVERLOAD
            arrivals = load.arrival_times(share * capacity, arguments.seconds, pattern)
            found = {}
            for rival in rivals:
                most = max(32, round(capacity * timeout))
                found[rival.name] = rival.measure(arrivals, timeout, most)
                table.add("in process", pattern, share, rival.name, found[rival.name])
            full, early = found[FULL_DEPTH], found[EARLY]
            p50, p99 = (early[name] / full[name] for name in ("p50", "p99"))
            goodput = early["goodput"] / full["goodput"] if full["goodput"] else None
            ratios.append((pattern, share, p50, p99, goodput))
    return ratios


def on_loopback(rivals, capacity, arguments, table):
    """Measure the example, at full depth and with early exits, by its own load generator."""
    arguments.timeout, arguments.pattern = TIMEOUT, "poisson"
    most = max(32, round(capacity * TIMEOUT))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.joblib"
        for rival in rivals:
            joblib.dump(rival.estimator, model)
            requests = [request_of(sample) for sample in rival.samples[:64]]
            with service(model, rival.estimator.tau, most, TIMEOUT) as url:
                for share in arguments.loads_on_loopback:
                    arguments.rate = share * capacity
                    asked = load.load_service(url, requests, arguments, rival.is_right)
                    found = asyncio.run(asked)
                    table.add("loopback", "poisson", share, rival.name, found)


def summary(ratios):
    """Return the lines that compare early exits with full depth."""
    lines = ["", "Early exits over full depth, in process:", ""]
    lines += [_row(("arrivals", "load", "p50", "p99", "goodput")), _row(["---"] * 5)]
    for pattern, share, p50, p99, goodput in ratios:
        gained = "full depth has none" if goodput is None else f"{goodput:.2f}x"
        lines.append(_row((pattern, f"{share:.0%}", f"{p50:.2f}", f"{p99:.2f}", gained)))
    return lines


def _computer():
    computer = machine("cpu") | {"threads": torch.get_num_threads()}
    packages = ", ".join(
        f"{name} {told}" for name, told in computer.pop("packages").items() if told
    )
    return [", ".join(f"{name} {told}" for name, told in computer.items()), "", packages]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="joblib file of an estimator")
    parser.add_argument("--tau", type=float, default=0.1)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a row")
    parser.add_argument("--loads", type=float, nargs="*", default=(0.2, 0.5, 0.7, 0.95))
    parser.add_argument("--overload", type=float, default=5.0)
    parser.add_argument("--loads-on-loopback", type=float, nargs="*", default=(0.2, 0.7, 0.95))
    parser.add_argument("--capacity-requests", type=int, default=1024)
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    parser.add_argument("--name", default="serving", help="of the written table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    estimator = joblib.load(arguments.model).set_params(precision=arguments.precision)
    texts = benchmark_texts(N_TEXTS)
    early = Rival(EARLY, estimator.set_params(tau=arguments.tau, patience=None), texts)
    deep = joblib.load(arguments.model).set_params(
        precision=arguments.precision, tau=0.0, patience=None
    )
    rivals = [Rival(FULL_DEPTH, deep, texts), early, Rival(ALONE, estimator, texts)]
    capacities = {rival.name: rival.capacity(arguments.capacity_requests) for rival in rivals}
    told = ", ".join(f"{name} {value:.0f}/s" for name, value in capacities.items())
    found = (
        f"{len(texts)} texts, {estimator.n_layers_} layers, tau {arguments.tau}, mean exit "
        f"{early.mean_exit:.2f}. Answered of {arguments.capacity_requests} that are there at once: "
        f"{told}; loads are shares of the first. Timeout {TIMEOUT:g} s, {TIMEOUT_AT_OVERLOAD:g} s "
        f"at {arguments.overload:.0%}; as many requests are held as full depth serves in it."
    )
    heading = ["Written by `python -m benchmarks.serving`.", "", *_computer(), "", found]
    table = Table(arguments.out and arguments.out / f"{arguments.name}.md", heading)
    ratios = in_process(rivals, capacities[FULL_DEPTH], arguments, table)
    if arguments.loads_on_loopback:
        try:
            on_loopback(rivals[:2], capacities[FULL_DEPTH], arguments, table)
        except NotMeasuredError as error:
            table.write("", f"Loopback not measured: {error}.")
    table.write(*summary(ratios))
    print(*summary(ratios), sep="\n")


if __name__ == "__main__":
    main()
