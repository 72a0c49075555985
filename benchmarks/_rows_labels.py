"""Row on several labels: one head for all labels against one head per label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._measure import interleaved, medians, quotient
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.exit_rules import ExitPolicy, Exits
from sklearn_epee._nn.heads import make_head
from sklearn_epee._nn.joint_exit_rules import dynamic_rule
from sklearn_epee._nn.tasks import Classes, task_softmax

# Size of BERT-base.
WIDTH, N_LAYERS = 768, 12
N_LABELS = 14
COUNTS = (2,) * N_LABELS
SHARED, EACH = "one head for all labels", "a head for each label"
MIB = 2**20


def heads_of(n_classes: Classes, device: str) -> nn.ModuleList:
    """Return the heads of all exits of a BERT-base, on a device."""
    heads = (make_head(n_classes, WIDTH, WIDTH, 0.0) for _ in range(N_LAYERS))
    return nn.ModuleList(heads).to(device).eval()


def number_of_weights(heads: nn.Module) -> int:
    return sum(weight.numel() for weight in heads.parameters())


def exits_by(heads: nn.ModuleList, pooled: Tensor, *, labels: bool) -> Callable[[], Exits]:
    """Return a function that runs all heads and the exit rule on a batch, without early exits."""
    policy = ExitPolicy(1e-9, N_LAYERS, None, np.ones(N_LAYERS), "all")
    if labels:
        policy = replace(policy, label_thresholds=np.full(N_LABELS, 0.5))

    @torch.inference_mode()
    def run() -> Exits:
        n = len(pooled)
        out = Exits.empty(n, sum(COUNTS), N_LABELS)
        rule, state = dynamic_rule(policy, N_LAYERS, out, COUNTS), None
        for layer, head in enumerate(heads, start=1):
            proba = task_softmax(head(pooled), COUNTS)
            state = rule.decide(layer, proba, np.arange(n), state).state
        return out

    return run


def labels(settings: Settings) -> Iterator[Line]:
    """Count the weights of both kinds of heads, and time all exits of batches."""
    heads = {
        SHARED: heads_of(LabelCount(N_LABELS), settings.device),
        EACH: heads_of(COUNTS, settings.device),
    }
    sizes = {name: number_of_weights(module) for name, module in heads.items()}
    yield Line(
        f"{N_LABELS} labels on BERT-base, weights of the heads",
        "; ".join(
            f"{name}: {size / 1e6:.1f} million ({4 * size / MIB:.0f} MiB)"
            for name, size in sizes.items()
        ),
        "a tenth",
        sizes[SHARED] <= sizes[EACH] / 10,
        settings={"n_labels": N_LABELS},
        values={"shared": sizes[SHARED], "each": sizes[EACH]},
    )
    for n in (1, 32):
        pooled = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0))
        pooled = pooled.to(settings.device)
        competitors = {
            name: exits_by(module, pooled, labels=name == SHARED) for name, module in heads.items()
        }
        seconds = interleaved(competitors, settings.repetitions)
        factor, times = quotient(seconds, EACH, SHARED), medians(seconds)
        yield Line(
            f"{N_LABELS} labels on BERT-base, all {N_LAYERS} exits of {n} sample(s), decided",
            f"{factor:.1f} times as fast ({1e3 * times[SHARED]:.2f} ms, {EACH} "
            f"{1e3 * times[EACH]:.2f} ms)",
            ">= 1",
            factor >= 1,
            settings={"n_samples": n, "n_labels": N_LABELS},
            values={"factor": factor},
            seconds=seconds,
        )


ROWS = [Row("labels", "Several labels: one head against one for each", labels)]
