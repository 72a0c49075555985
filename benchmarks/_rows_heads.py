"""Row on the time of predictions with heads that are not linear."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._forced_words import run_sentences
from benchmarks._measure import interleaved, quotient
from benchmarks._models import FAMILIES, encode, new_estimator, real_texts
from benchmarks._report import Line
from benchmarks._rows_throughput import TWO_MEANS, Block
from benchmarks._rows_tokens import encoded_words, make_network
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.heads import HEADS
from sklearn_epee._nn.token_engine import TokenEngine

BLOCKS = (Block(1, 48, TWO_MEANS), Block("auto", 256, TWO_MEANS))
# One round takes a second or two, and the difference is small.
REPETITIONS = 11
MAX_LINEAR_RATIO = 1.05


class Compared(NamedTuple):
    """What is compared: predictions with each kind of heads."""

    read: str
    """What the heads read."""
    predictors: Mapping[str, Any]
    """Estimators or engines, by the kind of their heads."""
    run: Callable[..., Any]
    """Called with one of them, encoded texts, the batch size and exit layers."""
    encoded: Callable[[int], Any]
    """Encodes a number of texts."""


def heads(settings: Settings) -> Iterator[Line]:
    """Compare all kinds of heads with the same backbone, texts and exits."""
    family, precision = FAMILIES["minilm"], settings.fast_precision()
    models = {head: new_estimator(family, "mean", head=head) for head in HEADS}
    for model in models.values():
        model.set_params(device=settings.device, precision=precision)
    linear = models["linear"]
    texts = Compared("mean", models, dynamic, lambda n: encode(linear, real_texts(n)))
    yield from _compare(settings, texts, linear.n_layers_)
    config, dtype = family.config(), getattr(torch, precision)
    networks = {head: make_network(config, settings.device, head) for head in HEADS}
    engines = {head: TokenEngine(network, dtype) for head, network in networks.items()}
    words = Compared("words", engines, run_sentences, functools.partial(encoded_words, config))
    yield from _compare(settings, words, engines["linear"].n_layers)


def _compare(settings: Settings, what: Compared, n_layers: int) -> Iterator[Line]:
    """Compare the kinds of heads in single texts and in batches."""
    for block in BLOCKS:
        n = settings.enough(block.n, block.batch_size)
        encoded = what.encoded(n)
        for share in block.means:
            schedule = forced_exits(n, n_layers, share * n_layers, encoded.lengths)
            arguments = encoded, block.batch_size, schedule
            runs = {
                head: functools.partial(what.run, predictor, *arguments)
                for head, predictor in what.predictors.items()
            }
            yield from _lines(settings, (what.read, block, share), runs)


def _lines(
    settings: Settings, what: tuple[str, Block, float], runs: Mapping[str, Callable[[], Any]]
) -> Iterator[Line]:
    """Time the runs in turns; yield the ratio of each kind of heads to linear ones."""
    read, block, share = what
    seconds = interleaved(runs, 1 if settings.quick else REPETITIONS)
    for head in runs:
        if head == "linear":
            continue
        ratio = quotient(seconds, head, "linear")
        yield Line(
            f"{head}, {FAMILIES['minilm'].title}, {read}, {settings.fast_precision()}, batch "
            f"{block.batch_size}, {share:.0%} of the layers",
            f"{ratio:.3f}x the time of linear heads",
            f"<= {MAX_LINEAR_RATIO}x",
            ratio <= MAX_LINEAR_RATIO,
            settings={
                "head": head,
                "read": read,
                "batch_size": block.batch_size,
                "n_samples": block.n,
                "share": share,
            },
            values={"ratio": ratio},
            seconds={name: seconds[name] for name in (head, "linear")},
        )


ROWS = [
    Row("heads", "Heads with a bottleneck or attention against linear ones", heads, in_quick=False)
]
