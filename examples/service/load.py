"""Send requests to a service at random times, check every answer, and print the latencies.

    python examples/service/load.py --texts texts.txt --rate 100 --seconds 10 --pattern bursts
    python examples/service/load.py --requests cases.jsonl

A line of the second file is a request without its policy, in JSON, such as {"text": "A nodule.",
"image": "scan.png"}; paths of images are relative to the folder of the file. Every request is first
sent alone; later answers must be the same. Requests are sent when they are due, even if others have
not been answered (an open loop), and latencies count from then: a slow service cannot reduce the
load.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BURST = 16
CLOSE = 1e-4


def arrival_times(rate: float, seconds: float, pattern: str, seed: int = 0) -> np.ndarray:
    """Return random times at which requests are due, one by one or in bursts of 16."""
    rng = np.random.default_rng(seed)
    size = {"poisson": 1, "bursts": BURST}[pattern]
    n = max(1, round(rate * seconds / size))
    # Uniform random times are a Poisson process with a given number of arrivals.
    return np.repeat(np.sort(rng.uniform(0, seconds, n)), size)


class Outcomes:
    """Counts of the outcomes of requests; every request has exactly one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies: list[float] = []

    def summary(self, n_requests: int, seconds: float, timeout: float) -> dict[str, Any]:
        """Return counts, goodput per second and quantiles of the latency in seconds.

        Requests without an answer count as if they had taken the timeout.
        """
        unanswered = [timeout] * (n_requests - len(self.latencies))
        p50, p95, p99 = np.quantile([*self.latencies, *unanswered], (0.5, 0.95, 0.99)).tolist()
        return {
            "requests": n_requests,
            "lost": n_requests - sum(self.counts.values()),
            **{name: self.counts[name] for name in ("right", "wrong", "late", "refused", "failed")},
            "goodput": self.counts["right"] / seconds,
            "p50": p50,
            "p95": p95,
            "p99": p99,
        }


async def run_load(
    ask: Callable[[int], Awaitable[str]], arrivals: Sequence[float], timeout: float
) -> dict[str, Any]:
    """Send requests when they are due, and return a summary of the outcomes.

    Parameters
    ----------
    ask : callable
        Takes the number of a request; returns "right", "wrong", "late", "refused" or "failed".
    arrivals : sequence of float
        Due times, in seconds from the start.
    timeout : float
        Seconds after which an answer is late.
    """
    outcomes = Outcomes()
    start = time.perf_counter()

    async def one(number: int, due: float) -> None:
        outcome = await ask(number)
        taken = time.perf_counter() - start - due
        if outcome == "right" and taken > timeout:
            outcome = "late"
        outcomes.counts[outcome] += 1
        if outcome == "right":
            outcomes.latencies.append(taken)

    tasks = []
    for number, due in enumerate(arrivals):
        delay = start + due - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    seconds = max(time.perf_counter() - start, float(arrivals[-1]))
    return outcomes.summary(len(arrivals), seconds, timeout)


def is_same(found: Any, expected: Any) -> bool:
    """Return whether two answers, or parts of them, are equal; floats approximately."""
    if isinstance(expected, float):
        return isinstance(found, (int, float)) and abs(found - expected) < CLOSE
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        names = (expected.keys() | found.keys()) - {"latency"}
        return names <= expected.keys() & found.keys() and all(
            is_same(found[name], expected[name]) for name in names
        )
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    return bool(found == expected)


def requests_in(path: Path) -> list[dict[str, Any]]:
    """Return the requests in a file with one JSON object per line, including their images."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [_with_image(json.loads(line), path.parent) for line in lines]


def _with_image(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    if request.get("image") is None:
        return request
    return request | {"image": as_base64((folder / request["image"]).read_bytes())}


def as_base64(file: bytes) -> str:
    """Return the bytes of an image file in the form for a request."""
    return base64.b64encode(file).decode("ascii")


async def load_service(
    url: str,
    requests: Sequence[dict[str, Any]],
    arguments: Any,
    is_right: Callable[[Any, int], bool] | None = None,
) -> dict[str, Any]:
    """Send requests to the service at a URL, and return a summary of the outcomes.

    Parameters
    ----------
    url : str
    requests : sequence of dict
        Requests without a policy, sent one after the other, again and again.
    arguments : Namespace
        With `rate`, `seconds`, `pattern` and `timeout`.
    is_right : callable, default=None
        Takes an answer and the index of its request in `requests`. None: an answer is right if it
        is the same as when the request was sent alone.
    """
    import httpx  # noqa: PLC0415 - the functions above do not need it

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def answer(request: dict[str, Any], **policy: Any) -> Any:
            return await client.post("/predict", json=request | policy)

        expected = []
        for request in requests:
            response = await answer(request, timeout=60)
            response.raise_for_status()
            expected.append(response.json())

        check = is_right or (lambda found, row: is_same(found, expected[row]))

        async def ask(number: int) -> str:
            row = number % len(requests)
            try:
                response = await answer(requests[row], timeout=arguments.timeout)
            except httpx.HTTPError:  # no connection, or an interrupted one
                return "failed"
            if response.status_code == 200:
                return "right" if check(response.json(), row) else "wrong"
            return {429: "refused", 504: "late"}.get(response.status_code, "failed")

        arrivals = arrival_times(arguments.rate, arguments.seconds, arguments.pattern)
        return await run_load(ask, arrivals, arguments.timeout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--texts", type=Path, help="a file with one text per line")
    given.add_argument("--requests", type=Path, help="a file with one JSON object per line")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pattern", choices=("poisson", "bursts"), default="poisson")
    parser.add_argument("--timeout", type=float, default=1.0)
    arguments = parser.parse_args()
    if arguments.requests:
        requests = requests_in(arguments.requests)
    else:
        lines = arguments.texts.read_text("utf-8").splitlines()
        requests = [{"text": line} for line in lines if line.strip()]
    print(json.dumps(asyncio.run(load_service(arguments.url, requests, arguments)), indent=1))


if __name__ == "__main__":
    main()
