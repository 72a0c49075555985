"""Simulate the order in which a server should run the layers at which samples wait.

Run from the repository root:

    python -m benchmarks.serving_order

With ``--out FOLDER`` the table is also written to ``serving_order.md`` there.

Times are simulated. A layer of a batch costs its number of positions, including padding, plus 64
positions of overhead (`_CALLS_ON_CPU`); embeddings cost nothing. Samples arrive at random (Poisson)
or in bursts of 16, with the lengths of sentences and known exits, at a share of the capacity of the
same network at full depth with full batches. Latencies are in units of one single sample at full
depth.
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sklearn_epee._nn.active_batch import ActiveBatch
from sklearn_epee._nn.batch_layout import BatchLayout
from sklearn_epee._nn.continuous_scheduler import ContinuousScheduler, catch_up
from sklearn_epee._nn.prediction_batches import BatchLimit

CALLS = 64
LIMIT = BatchLimit(positions=2048, calls=CALLS)
BURST = 16


@dataclass(frozen=True)
class Traffic:
    """Future samples: arrival times, lengths and exit layers."""

    arrivals: np.ndarray
    lengths: np.ndarray
    exit_layers: np.ndarray

    @property
    def windows(self):
        """No sample has several windows."""
        return None


class TimedStep:
    """Lets samples exit at the layers of the traffic, and adds up the time."""

    def __init__(self, traffic):
        self.exit_layers = traffic.exit_layers
        self.time = 0.0

    def start(self, samples, rows):
        """Return some samples, with only their masks."""
        lengths = torch.from_numpy(samples.lengths[rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return ActiveBatch(0, rows, mask.unsqueeze(-1), BatchLayout(mask))

    def advance(self, active):
        """Let samples exit, and add the time of the layer."""
        self.time += CALLS + active.layout.mask.numel()
        remaining = np.flatnonzero(self.exit_layers[active.rows] > active.layer + 1)
        if not len(remaining):
            return None
        index = torch.from_numpy(remaining)
        layout = active.layout.take(remaining, index)
        width = int(layout.mask.sum(1).max())
        kept = BatchLayout(layout.mask[:, :width])
        return ActiveBatch(
            active.layer + 1, active.rows[remaining], active.hidden[index, :width], kept
        )


def traffic_of(n, load, n_layers, mean_exit, *, burst=1, seed=0):
    """Draw samples that arrive at a share of the capacity at full depth."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(3.5, 0.45, n), 6, 128).astype(np.int64)
    exits = np.minimum(rng.geometric(1 / mean_exit, n), n_layers) if mean_exit else n_layers
    full_depth = n_layers * lengths.mean() * (1 + CALLS / 2048)
    gaps = rng.exponential(burst * full_depth / load, -(-n // burst))
    arrivals = np.repeat(np.cumsum(gaps), burst)[:n]
    return Traffic(arrivals, lengths, np.broadcast_to(exits, n))


def latencies(traffic, choose):
    """Serve the traffic with an order of layers; return the latency of each sample."""
    step = TimedStep(traffic)
    scheduler = ContinuousScheduler(step, LIMIT, choose)
    queue = deque(range(len(traffic.arrivals)))
    done = np.full(len(traffic.arrivals), np.nan)
    while queue or scheduler.n_samples:
        if not scheduler.n_samples:
            step.time = max(step.time, traffic.arrivals[queue[0]])
        while queue and traffic.arrivals[queue[0]] <= step.time and scheduler.takes_more:
            row = np.array([queue.popleft()])
            part = Traffic(traffic.arrivals[row], traffic.lengths[row], row)
            scheduler.enter(part, row)
        exited = scheduler.advance()
        done[exited] = step.time
    return done - traffic.arrivals


def one_at_a_time(traffic):
    """Serve samples one by one, in the order of arrival."""
    time, taken = 0.0, []
    for arrival, length, layer in zip(
        traffic.arrivals, traffic.lengths, traffic.exit_layers, strict=True
    ):
        time = max(time, arrival) + layer * (CALLS + length)
        taken.append(time - arrival)
    return np.array(taken)


oldest_first = partial(catch_up, most=0)


def highest_first(groups, now):
    """Choose the batch at the highest layer."""
    del now
    return max(groups, key=lambda group: group.layer)


ORDERS = {
    "highest layer first": highest_first,
    "oldest sample first": oldest_first,
    **{f"catch up, at most {most} runs": partial(catch_up, most=most) for most in (6, 12, 24, 48)},
}


def rows_of(n, n_layers, loads):
    """Yield the lines of the table."""
    unit = n_layers * (CALLS + 35)
    for burst in (1, BURST):
        for load in loads:
            full = traffic_of(n, load, n_layers, None, burst=burst)
            early = traffic_of(n, load, n_layers, n_layers / 3, burst=burst)
            name = "bursts" if burst > 1 else "Poisson"
            served = {
                "full depth, one at a time": one_at_a_time(full),
                "full depth, oldest sample first": latencies(full, oldest_first),
                "early exits, one at a time": one_at_a_time(early),
            } | {f"early exits, {order}": latencies(early, ORDERS[order]) for order in ORDERS}
            for way, taken in served.items():
                quantiles = np.quantile(taken, (0.5, 0.95, 0.99)) / unit
                figures = " | ".join(f"{value:.2f}" for value in quantiles)
                yield f"| {name} | {load:.0%} | {way} | {figures} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--loads", type=float, nargs="+", default=(0.3, 0.7, 0.95, 2.0))
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heading = (
        f"Simulated; command: `python -m benchmarks.serving_order`, {arguments.samples} samples, "
        f"{arguments.layers} layers, mean exit {arguments.layers / 3:.3g}. Latencies in units of "
        "one sample at full depth."
    )
    lines = [
        heading,
        "",
        "| arrivals | load | order | p50 | p95 | p99 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print(*lines, sep="\n", flush=True)
    for row in rows_of(arguments.samples, arguments.layers, arguments.loads):
        print(row, flush=True)
        lines.append(row)
    if arguments.out:
        (arguments.out / "serving_order.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
