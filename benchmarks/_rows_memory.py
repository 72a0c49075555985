"""Row on the memory of `predict`, by number of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import BertConfig

from benchmarks._isolated import PeakMemory, isolated, memory_in_use
from benchmarks._models import WORDS_OF_SHORT, shared_tokenizer, short_texts
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee import EPEEClassifier

GIB = 2**30
MIB = 2**20


def predict_many(n: int, device: str) -> dict[str, Any]:
    """Return the peak memory of `predict` for n texts, and for one batch of the longest."""
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256
    )
    texts = short_texts(n)
    estimator = EPEEClassifier(
        config, tokenizer=shared_tokenizer(config.vocab_size), patience=2, tau=0.0, max_epochs=1,
        memory=None, device=device, random_state=0,
    ).fit(texts[:6], [0, 1, 2, 0, 1, 2])  # fmt: skip
    estimator.predict(texts[:1000])
    before, peak = memory_in_use("cpu"), PeakMemory("cpu")
    estimator.predict(texts[:4096])
    batch = peak.read() - before
    before, peak = memory_in_use("cpu"), PeakMemory("cpu")
    labels = estimator.predict(texts)
    return {"bytes": peak.read() - before, "batch": batch, "output": labels.nbytes}


def memory(settings: Settings) -> Iterator[Line]:
    """Run 20,000, 200,000 and 1,000,000 short texts, each in a separate process."""
    counts = (20_000,) if settings.quick else (20_000, 200_000, 1_000_000)
    for n in counts:
        found = isolated(f"{__name__}:predict_many", n=n, device=settings.device)
        above = found["bytes"] - found["output"]
        bound = found["batch"] + GIB
        yield Line(
            f"{n:,} texts of {WORDS_OF_SHORT} words, 2 layers of width 64",
            f"{above / MIB:.0f} MiB above inputs and outputs ({above / n:.0f} bytes a text); "
            f"4,096 texts need {found['batch'] / MIB:.0f} MiB",
            "<= 1 GiB more than a batch, at 1,000,000",
            above <= bound if n == 1_000_000 else None,
            settings={"n_samples": n},
            values={"bytes": above, "batch_bytes": found["batch"]},
        )


ROWS = [Row("memory", "Memory in predict against the number of texts", memory)]
