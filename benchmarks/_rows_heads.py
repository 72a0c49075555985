"""Row on the time of predictions with heads that are not linear."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._measure import interleaved, quotient
from benchmarks._models import FAMILIES, encode, new_estimator, real_texts
from benchmarks._report import Line
from benchmarks._rows_throughput import TWO_MEANS, Block
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.heads import HEADS

BLOCKS = (Block(1, 48, TWO_MEANS), Block("auto", 256, TWO_MEANS))
# One round takes a second or two, and the difference is small.
REPETITIONS = 11
MAX_LINEAR_RATIO = 1.05


def heads(settings: Settings) -> Iterator[Line]:
    """Compare all kinds of heads with the same backbone, texts and exits."""
    family, precision = FAMILIES["minilm"], settings.fast_precision()
    models = {head: new_estimator(family, "mean", head=head) for head in HEADS}
    for model in models.values():
        model.set_params(device=settings.device, precision=precision)
    n_layers = models["linear"].n_layers_
    for block in BLOCKS:
        n = settings.enough(block.n, block.batch_size)
        encoded = encode(models["linear"], real_texts(n))
        for share in block.means:
            schedule = forced_exits(n, n_layers, share * n_layers, encoded.lengths)
            runs = {
                head: functools.partial(dynamic, model, encoded, block.batch_size, schedule)
                for head, model in models.items()
            }
            seconds = interleaved(runs, 1 if settings.quick else REPETITIONS)
            for head in models:
                if head == "linear":
                    continue
                ratio = quotient(seconds, head, "linear")
                yield Line(
                    f"{head}, {family.title}, mean, {precision}, batch {block.batch_size}, mean "
                    f"exit {schedule.mean():.3g} of {n_layers}",
                    f"{ratio:.3f}x the time of linear heads",
                    f"<= {MAX_LINEAR_RATIO}x",
                    ratio <= MAX_LINEAR_RATIO,
                    settings={
                        "head": head,
                        "batch_size": block.batch_size,
                        "n_samples": n,
                        "share": share,
                    },
                    values={"ratio": ratio},
                    seconds={name: seconds[name] for name in (head, "linear")},
                )


ROWS = [
    Row("heads", "Heads with a bottleneck or attention against linear ones", heads, in_quick=False)
]
