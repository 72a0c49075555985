"""Time training steps in bfloat16, with the package's attention for training and with torch's.

    python -m benchmarks.training_attention CHECKPOINTS [--out FILE]

CHECKPOINTS is a folder with any of all-MiniLM-L6-v2, all-mpnet-base-v2 and dinov2-small. A step is
the forward and the backward pass of one batch through all layers and heads, on one thread of a CPU
with native bfloat16; both attentions run on the same batch in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._report import describe, machine
from sklearn_epee._nn.backbones import _adapter, load_backbone
from sklearn_epee._nn.backbones._training_attention import attention
from sklearn_epee._nn.network import MultiExitNetwork

N_SAMPLES, N_CLASSES, N_REPETITIONS = 16, 3, 9


class Case(NamedTuple):
    """A checkpoint, and the size of its samples: tokens of a text, or pixels of an image."""

    checkpoint: str
    kind: str
    size: int


CASES = (
    *(Case("all-MiniLM-L6-v2", "text", size) for size in (48, 96, 256)),
    *(Case("all-mpnet-base-v2", "text", size) for size in (48, 128)),
    *(Case("dinov2-small", "image", size) for size in (56, 224)),
)


def torchs(query: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Compute attention by torch."""
    return functional.scaled_dot_product_attention(
        query, k, v, attn_mask=options["mask"], dropout_p=options["dropout"],
        is_causal=options["is_causal"], scale=options["scale"],
    )  # fmt: skip


def batch_of(case: Case) -> dict[str, Tensor]:
    """Return random samples; texts have at least half of the length."""
    generator = torch.Generator().manual_seed(0)
    if case.kind == "image":
        shape = (N_SAMPLES, 3, case.size, case.size)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    shape = (N_SAMPLES, case.size)
    lengths = torch.randint(case.size // 2, case.size + 1, (N_SAMPLES, 1), generator=generator)
    return {
        "input_ids": torch.randint(1000, 20000, shape, generator=generator),
        "attention_mask": (torch.arange(case.size) < lengths).long(),
    }


def step_of(case: Case, checkpoints: Path) -> Callable[[], None]:
    """Return a training step of a case, without the update of the weights."""
    pooling = "mean" if case.kind == "text" else "cls"
    backbone = load_backbone(str(checkpoints / case.checkpoint), case.kind)
    network = MultiExitNetwork(backbone, N_CLASSES, pooling, 0.1).train()
    batch, target = batch_of(case), torch.zeros(N_SAMPLES, dtype=torch.long)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(**batch).float().transpose(1, 2)
            loss = functional.cross_entropy(logits, target[:, None].expand(-1, logits.shape[2]))
        loss.backward()
        network.zero_grad()

    return step


def seconds_of(step: Callable[[], None]) -> dict[str, list[float]]:
    """Return the seconds of steps with each attention, in turns, after a first one."""
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for repetition in range(N_REPETITIONS + 1):
        for name, function in (("ours", attention), ("torch", torchs)):
            with mock.patch.object(_adapter, "attention", function):
                start = time.perf_counter()
                step()
                if repetition:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def rows(checkpoints: Path) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| checkpoint | batch | torch, ms | ours, ms | torch / ours |"
    yield "| --- | --- | --- | --- | --- |"
    for case in CASES:
        if not (checkpoints / case.checkpoint).is_dir():
            continue
        seconds = seconds_of(step_of(case, checkpoints))
        ratio = np.median(np.array(seconds["torch"]) / np.array(seconds["ours"]))
        unit = "tokens" if case.kind == "text" else "pixels"
        torch_ms, our_ms = (1e3 * np.median(seconds[name]) for name in ("torch", "ours"))
        yield (
            f"| {case.checkpoint} | {N_SAMPLES} x {case.size} {unit} | {torch_ms:.0f} | "
            f"{our_ms:.0f} | {ratio:.2f} |"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--out", type=Path, help="file for the table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    command = "Command: `python -m benchmarks.training_attention CHECKPOINTS`."
    lines = [
        "# Attention for training in bfloat16, against torch's",
        "",
        describe(machine("cpu")),
        "",
        f"{command} Medians of interleaved steps.",
        "",
    ]
    for row in rows(given.checkpoints):
        print(row, flush=True)
        lines.append(row)
    if given.out is not None:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
