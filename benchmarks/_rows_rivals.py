"""Rows against other ways to run the model: padding, the paper's loop, pipelines, onnxruntime."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, pipeline

from benchmarks._forced_exits import forced_exits, predict_on_schedule
from benchmarks._measure import Seconds, interleaved, medians, quotient
from benchmarks._models import (
    FAMILIES,
    N_CLASSES,
    NotMeasuredError,
    data_set,
    encode,
    engine_of,
    prepared,
    real_texts,
    samples,
)
from benchmarks._onnx_rivals import check_export, onnx_logits, onnx_sessions, require_onnx
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._rows_latency import PRECISIONS
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.prediction_batches import batches_by_length


def text_family(settings: Settings) -> str:
    """Return the family of text backbones: BERT-base, or a small one for quick runs."""
    return "minilm" if settings.quick else "bert"


def third(estimator: Any, X: Any, n: int) -> np.ndarray:
    """Draw forced exits of mean M/3 for some texts."""
    n_layers = estimator.n_layers_
    return forced_exits(n, n_layers, n_layers / 3, encode(estimator, X).lengths)


# ------------------------------------------------------------------------------- mixed lengths


class PaddedToLongest:
    """Encoded samples that are all padded to the longest of them."""

    def __init__(self, encoded: Any) -> None:
        self._encoded = encoded
        self._width = int(encoded.lengths.max())
        self.lengths = np.full(len(encoded), self._width)
        self.windows = None

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Pad some samples to the longest of all."""
        tensors = self._encoded.batch(rows)
        missing = self._width - tensors["attention_mask"].shape[1]
        return {name: torch.nn.functional.pad(part, (0, missing)) for name, part in tensors.items()}


def mixed_lengths(settings: Settings) -> Iterator[Line]:
    """Measure the speed-up by batches of similar length, at full depth."""
    precision = settings.fast_precision()
    estimator = prepared("minilm", settings.device, precision)
    rival = FullDepth(estimator, getattr(torch, precision), settings.device)
    for name in ("phee", "git", "health_advice", "ddi2013"):
        texts = data_set(name, "test")[0][: 100 if settings.quick else 500]
        encoded = encode(estimator, texts)
        padded = PaddedToLongest(encoded)
        competitors = {
            "padded": functools.partial(rival.proba, padded, 16),
            "ours": functools.partial(
                engine_of(estimator).budgeted, encoded, estimator.n_layers_, "auto"
            ),
        }
        yield _padding_line(
            name, precision, encoded, interleaved(competitors, settings.repetitions)
        )


def _padding_line(name: str, precision: str, encoded: Any, seconds: Seconds) -> Line:
    speedup = quotient(seconds, "padded", "ours")
    n, longest, mean = len(encoded), int(encoded.lengths.max()), float(encoded.lengths.mean())
    return Line(
        f"MiniLM-sized BERT, {precision}, full depth, {name}: {n} texts of {mean:.0f} tokens on "
        f"average; the rival: transformers, batch 16, all padded to the longest, {longest}",
        f"{speedup:.2f}x",
        ">= 2x",
        speedup >= 2,
        settings={"data": name, "n_samples": n, "longest": longest, "mean_length": mean},
        values={"speedup": speedup},
        seconds=seconds,
    )


# ------------------------------------------------------------------------------ the paper's loop


@torch.inference_mode()
def papers_way(rival: FullDepth, heads: Any, batch: dict[str, Tensor], exit_layer: int) -> int:
    """Run one sample through transformers' BERT layers, with head and exit rule after each."""
    backbone = rival.backbone
    mask = batch["attention_mask"][:, None, None, :].bool()
    hidden = backbone.embeddings(batch["input_ids"])
    for number, (layer, head) in enumerate(zip(backbone.encoder.layer, heads, strict=True), 1):
        output = layer(hidden, mask)
        hidden = output[0] if isinstance(output, tuple) else output
        proba = torch.softmax(head(hidden[:, 0].float()), -1)
        entropy = torch.special.entr(proba).sum().item() / np.log(proba.shape[1])
        # The entropy is computed, as for a real decision, but the exit is forced.
        if number >= exit_layer or entropy < 0:
            break
    return int(proba.argmax())


def papers_labels(
    estimator: Any, rival: FullDepth, texts: list[str], exits: np.ndarray, length: int
) -> list[int]:
    """Predict texts one by one, each padded to a length."""
    heads = estimator.net_.module_.heads.to(rival.head.out.weight.device)
    tokenizer = estimator._preprocessor.tokenizer
    labels = []
    for text, exit_layer in zip(texts, exits, strict=True):
        batch = tokenizer(
            text, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
        labels.append(papers_way(rival, heads, rival.place(batch), exit_layer))
    return labels


def paper(settings: Settings) -> Iterator[Line]:
    """Compare default `predict` with one text at a time, padded to max_length, in float32."""
    family = text_family(settings)
    estimator = prepared(family, settings.device, "auto")
    rival = FullDepth(estimator, torch.float32, settings.device)
    n, n_paper = (48, 6) if settings.quick else (96, 12)
    texts = real_texts(n)
    schedule, few = third(estimator, texts, n), third(estimator, texts[:n_paper], n_paper)
    for length in (128,) if settings.quick else (128, 512):
        competitors = {
            "paper": functools.partial(
                papers_labels, estimator, rival, texts[:n_paper], few, length
            ),
            "ours": functools.partial(predict_on_schedule, estimator, texts, schedule),
        }
        seconds = interleaved(competitors, settings.repetitions)
        # A few texts suffice, as the paper's cost only depends on the exit.
        speedup = quotient(seconds, "paper", "ours") * n / n_paper
        yield Line(
            f"{FAMILIES[family].title}, mean exit M/3; the rival: one text at a time, float32, "
            f"padded to {length} tokens",
            f"{speedup:.1f}x a text",
            ">= 10x",
            speedup >= 10,
            settings={"max_length": length, "n_samples": n, "n_samples_paper": n_paper},
            values={"speedup": speedup},
            seconds=seconds,
        )


# ---------------------------------------------------------------------------------- pipelines


def as_sequence_classifier(estimator: Any) -> Any:
    """Convert a BERT estimator's backbone and last head to the classifier of transformers."""
    network = estimator.net_.module_
    config = type(network.backbone.config).from_dict(
        network.backbone.config.to_dict() | {"id2label": {k: str(k) for k in range(N_CLASSES)}}
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.bert.load_state_dict(network.backbone.state_dict(), strict=False)
    head = network.heads[-1]
    model.bert.pooler.dense.load_state_dict(head.dense.state_dict())
    model.classifier.load_state_dict(head.out.state_dict())
    return model


def transformers_pipeline(settings: Settings) -> Iterator[Line]:
    """Compare with a pipeline in typical use: strings, batch_size=16, float32, unsorted."""
    family = text_family(settings)
    estimator = prepared(family, settings.device, "float32")
    classify = pipeline(
        "text-classification",
        model=as_sequence_classifier(estimator),
        tokenizer=estimator._preprocessor.tokenizer,
        batch_size=16,
        device=settings.device,
    )
    n = 32 if settings.quick else 64
    texts = real_texts(n)
    schedule = third(estimator, texts, n)
    competitors = {"pipeline": lambda: classify(texts, truncation=True)}
    for precision in ("float32", "auto"):
        competitors[precision] = functools.partial(
            _predict_in, estimator, precision, texts, schedule
        )
    seconds = interleaved(competitors, settings.repetitions)
    for precision in ("float32", "auto"):
        speedup = quotient(seconds, "pipeline", precision)
        yield Line(
            f"{FAMILIES[family].title}, {n} texts, mean exit M/3, predict with "
            f"precision={precision}; the rival: pipeline, batch_size=16, float32",
            f"{speedup:.2f}x, layer count 3.00x",
            settings={"n_samples": n, "precision": precision},
            values={"speedup": speedup},
            seconds={"pipeline": seconds["pipeline"], "ours": seconds[precision]},
        )


def _predict_in(estimator: Any, precision: str, texts: list[str], schedule: np.ndarray) -> None:
    predict_on_schedule(estimator.set_params(precision=precision), texts, schedule)


# -------------------------------------------------------------------------------- onnxruntime


def onnx_labels(session: Any, estimator: Any, texts: list[str]) -> np.ndarray:
    """Return labels of strings, in the batches of `predict`."""
    encoded = encode(estimator, texts)
    out = np.empty(len(texts), np.int64)
    for rows in batches_by_length(encoded.lengths, "auto"):
        out[rows] = onnx_logits(session, encoded.batch(rows)).argmax(axis=1)
    return out


def against_onnxruntime(settings: Settings) -> Iterator[Line]:
    """Compare default predict with onnxruntime at full depth, both from strings to labels."""
    require_onnx()
    if settings.device != "cpu":
        raise NotMeasuredError("onnxruntime is measured on the CPU only")
    family = text_family(settings)
    estimator = prepared(family, settings.device, "auto")
    n = 32 if settings.quick else 128
    texts = real_texts(n)
    encoded = encode(estimator, texts)
    rival = FullDepth(estimator, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        sessions = onnx_sessions(rival, encoded, Path(folder))
    check_export(rival, sessions["float32"], encoded)
    competitors: dict[str, Any] = {
        name: functools.partial(onnx_labels, session, estimator, texts)
        for name, session in sessions.items()
    }
    schedule = third(estimator, texts, n)
    competitors["ours"] = lambda: predict_on_schedule(estimator, texts, schedule)
    seconds = interleaved(competitors, settings.repetitions)
    yield _onnx_line(family, n, "int8", 3, seconds)
    yield _onnx_line(family, n, "float32", 8, seconds)


def _onnx_line(family: str, n: int, rival: str, wanted: int, seconds: Seconds) -> Line:
    speedup = quotient(seconds, rival, "ours")
    found = medians(seconds)
    return Line(
        f"{FAMILIES[family].title}, {n} texts, precision=auto, mean exit M/3; the rival: "
        f"onnxruntime {'dynamic ' if rival == 'int8' else ''}{rival}, full depth, same batches",
        f"{speedup:.2f}x ({1000 * found['ours'] / n:.1f} against {1000 * found[rival] / n:.1f} ms "
        "a text)",
        f">= {wanted}x",
        speedup >= wanted,
        settings={"n_samples": n, "rival": rival},
        values={"speedup": speedup},
        seconds={rival: seconds[rival], "ours": seconds["ours"]},
    )


# --------------------------------------------------------------------- transformers' attention


def attentions(settings: Settings) -> Iterator[Line]:
    """Compare the attentions of transformers at full depth, as the rival should use the faster."""
    n = {"auto": 64, 1: 8}
    for family in ("bert", "gpt2", "vit"):
        for precision in PRECISIONS:
            estimator = prepared(family, settings.device, precision)
            make = functools.partial(
                FullDepth, estimator, getattr(torch, precision), settings.device
            )
            rivals = {name: make().with_attention(name) for name in ("eager", "sdpa")}
            for batch_size in ("auto", 1):
                share = 1 if FAMILIES[family].kind == "text" else 4
                n_samples = settings.enough(n[batch_size] // share, batch_size)
                encoded = encode(estimator, samples(family, n_samples))
                runs = {
                    name: functools.partial(rival.proba, encoded, batch_size)
                    for name, rival in rivals.items()
                }
                seconds = interleaved(runs, settings.repetitions)
                ratio = quotient(seconds, "eager", "sdpa")
                yield Line(
                    f"{FAMILIES[family].title}, {precision}, batch {batch_size}",
                    f'"eager" takes {ratio:.2f}x the time of "sdpa"',
                    values={"ratio": ratio},
                    seconds=seconds,
                )


ROWS = [
    Row(
        "attention",
        "transformers at full depth by its plain attention against torch's",
        attentions,
        in_quick=False,
    ),
    Row("onnxruntime", "Default predict at mean exit M/3 against onnxruntime", against_onnxruntime),
    Row("mixed-lengths", "Texts of mixed length against padding all to the longest", mixed_lengths),
    Row("papers-way", "Default predict against one sample at a time, padded", paper),
    Row("pipeline", "predict against transformers' pipeline", transformers_pipeline),
]
