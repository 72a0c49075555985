"""Rows on long notes in windows: speed against transformers on the same windows, and memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import BertConfig

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._isolated import PeakMemory, isolated, memory_in_use
from benchmarks._measure import interleaved, quotient
from benchmarks._models import FAMILIES, encode, real_texts, shared_tokenizer
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._rows_throughput import FULL, fraction
from benchmarks._suite import Row, Settings
from sklearn_epee import EPEEClassifier
from sklearn_epee._nn.batch_layout import WINDOWS, BatchLayout
from sklearn_epee._nn.pooling import mean_over_samples
from sklearn_epee._nn.prediction_batches import batch_limit, batches_by_length

MIB = 2**20
WINDOW = 128
# Maximum peak memory of training on texts with many windows, relative to texts with one window.
MAX_SHORT_RATIO = 1.25


def long_notes(n: int, n_windows: int) -> list[str]:
    """Return notes of at least `n_windows` windows, joined from real texts."""
    texts = real_texts(930)
    rng = np.random.default_rng(0)
    # A token has about four characters; longer notes are truncated.
    per_note = n_windows * WINDOW * 6 // int(np.mean([len(text) for text in texts])) + 1
    return [" ".join(rng.choice(texts, per_note)) for _ in range(n)]


def on_windows(config: BertConfig, n_windows: int, **parameters: Any) -> EPEEClassifier:
    """Return an unfitted classifier that reads windows of 128 tokens."""
    return EPEEClassifier(
        config,
        tokenizer=shared_tokenizer(config.vocab_size),
        long_texts="windows",
        window_length=WINDOW,
        max_windows=n_windows,
        pooling="mean",
        max_epochs=1,
        memory=None,
        random_state=0,
        **parameters,
    )


class WindowByWindow(FullDepth):
    """The forward pass of transformers on the windows of `predict`, in the same batches."""

    @torch.inference_mode()
    def proba(self, encoded: Any, batch_size: int | str) -> np.ndarray:
        """Return probabilities (n, K) from the mean over the real positions of all windows."""
        out = np.empty((len(encoded), self.head.out.out_features), np.float32)
        weight = next(self.backbone.parameters())
        limit = batch_limit(batch_size, weight.device, weight.dtype)
        for rows in batches_by_length(encoded.lengths, limit, encoded.windows):
            batch = encoded.batch(rows)
            windows = batch.pop(WINDOWS).numpy()
            batch = self.place(batch)
            hidden = self.backbone(**batch).last_hidden_state
            layout = BatchLayout(batch["attention_mask"].bool(), None, windows)
            logits = self.head(mean_over_samples(hidden, layout))
            out[rows] = torch.softmax(logits, -1).cpu().numpy()
        return out


def long_throughput(settings: Settings) -> Iterator[Line]:
    """Run notes of four windows through a MiniLM-sized BERT, at two mean exits."""
    n, n_windows = settings.enough(8 if settings.quick else 32, "auto"), 4
    notes, precision = long_notes(n, n_windows), settings.fast_precision()
    estimator = on_windows(FAMILIES["minilm"].config(), n_windows, device=settings.device)
    estimator.fit(notes[:6], np.arange(6) % 3).set_params(precision=precision)
    encoded = encode(estimator, notes)
    rival = WindowByWindow(estimator, getattr(torch, precision), settings.device)
    difference = np.abs(
        estimator.predict_proba_at_layer(notes[:4], -1)
        - rival.proba(encode(estimator, notes[:4]), "auto")
    ).max()
    if difference > (1e-4 if precision == "float32" else 0.05):
        raise AssertionError(f"probabilities differ from the rival's by {difference:.2g}")
    n_layers = estimator.n_layers_
    schedules = {share: forced_exits(n, n_layers, share * n_layers) for share in (1 / 3, 1)}
    competitors: dict[str, Any] = {FULL: functools.partial(rival.proba, encoded, "auto")} | {
        fraction(share): functools.partial(dynamic, estimator, encoded, "auto", schedule)
        for share, schedule in schedules.items()
    }
    seconds = interleaved(competitors, settings.repetitions)
    for share, schedule in schedules.items():
        label = fraction(share)
        speedup, factor = quotient(seconds, FULL, label), 1 / share
        wanted = 1.1 if share < 1 else 1.0
        yield Line(
            f"MiniLM-sized BERT, mean, {precision}, notes of {encoded.windows.mean():.3g} windows "
            f"of {WINDOW} tokens, mean exit {schedule.mean():.3g} of {n_layers}",
            f"{speedup:.2f}x transformers on the same windows, layer count {factor:.2f}x",
            f"quotient >= {wanted:g}",
            speedup / factor >= wanted if settings.device == "cpu" else None,
            settings={"n_samples": n, "n_windows": n_windows, "precision": precision},
            values={"speedup": speedup, "layer_count_factor": factor},
            seconds={FULL: seconds[FULL], "ours": seconds[label]},
        )


def peaks(n_windows: int, n: int, device: str) -> dict[str, int]:
    """Return the peak memory of training and prediction for notes of `n_windows` windows."""
    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    notes = long_notes(n, n_windows)
    # A first training, for memory that is only allocated once.
    on_windows(config, 1, device=device, batch_size=16).fit(notes[:3], [0, 1, 2])
    estimator = on_windows(config, n_windows, device=device, batch_size=16)
    before, peak = memory_in_use(device), PeakMemory(device)
    estimator.fit(notes, np.arange(n) % 3)
    trained = peak.read() - before
    before, peak = memory_in_use(device), PeakMemory(device)
    estimator.predict(notes)
    return {"fit": trained, "predict": peak.read() - before}


def long_memory(settings: Settings) -> Iterator[Line]:
    """Train on notes of 1, 4 and 16 windows, each in a separate process."""
    n, counts = (16, (1, 4)) if settings.quick else (32, (1, 4, 16))
    short: dict[str, int] | None = None
    for n_windows in counts:
        found = isolated(f"{__name__}:peaks", n_windows=n_windows, n=n, device=settings.device)
        short = short or found
        share = found["fit"] / short["fit"]
        yield Line(
            f"4 layers of width 256, batches of 16 notes of {n_windows} windows of {WINDOW} tokens",
            f"training {found['fit'] / MIB:.0f} MiB ({share:.2f}x that of one window), "
            f"prediction {found['predict'] / MIB:.0f} MiB",
            f"training <= {MAX_SHORT_RATIO:g}x that of one window" if n_windows > 1 else "",
            share <= MAX_SHORT_RATIO if n_windows > 1 else None,
            settings={"n_windows": n_windows, "n_samples": n},
            values={"fit_bytes": found["fit"], "predict_bytes": found["predict"], "share": share},
        )


ROWS = [
    Row("long-throughput", "Long notes in windows against transformers", long_throughput),
    Row("long-memory", "Memory of long notes against that of short ones", long_memory),
]
