"""Rows on token classifiers: exits of words and of sentences against full depth, at equal cost."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForTokenClassification

from benchmarks._forced_exits import forced_exits
from benchmarks._forced_words import run_sentences, run_words, word_schedule
from benchmarks._measure import interleaved, quotient
from benchmarks._models import FAMILIES, real_texts, shared_tokenizer
from benchmarks._report import Line
from benchmarks._rows_throughput import FULL
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.prediction_batches import batch_limit, batches_by_length
from sklearn_epee._nn.token_engine import TokenEngine, TokenExits
from sklearn_epee._nn.token_network import TokenExitNetwork
from sklearn_epee._nn.word_texts import WordTokenizer
from sklearn_epee._spans import split_words

N_TAGS = 9
MAX_LENGTH = 256
# Share of keys and values, which are computed for all positions, in a layer's operations.
KEYS_AND_VALUES = 1 / 6
# Target share of the arithmetic limit with batches of 16 and more.
LIMIT_SHARE = 0.75
SHARES = (1 / 3, 1 / 2)
BATCHES = {1: 12, 16: 64, "auto": 128}


def make_network(config: BertConfig, device: str, head: str = "linear") -> TokenExitNetwork:
    """Return a network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return TokenExitNetwork(load_backbone(config, "text"), N_TAGS, head=head).to(device).eval()


def encoded_words(config: BertConfig, n: int) -> Any:
    """Return real texts, encoded as in `predict`."""
    reader = WordTokenizer(shared_tokenizer(config.vocab_size), MAX_LENGTH)
    texts = real_texts(n)
    return reader.encode([[text[start:end] for start, end in split_words(text)] for text in texts])


class TokenClassification:
    """Token classification of transformers, with the weights of a network and its last head."""

    def __init__(self, network: TokenExitNetwork, dtype: torch.dtype) -> None:
        weight = next(network.parameters())
        config = copy.deepcopy(network.backbone.config)
        config.num_labels = N_TAGS
        self.model = BertForTokenClassification(config)
        self.model.bert.load_state_dict(network.backbone.state_dict())
        self.model.classifier.load_state_dict(network.heads[-1].out.state_dict())
        self.model = self.model.to(weight.device, dtype).eval()

    @torch.inference_mode()
    def proba(self, encoded: Any, batch_size: int | str) -> np.ndarray:
        """Return probabilities (W, K) of the first pieces of words, in the batches of `predict`."""
        out = np.empty((int(encoded.word_counts.sum()), N_TAGS), np.float32)
        ends = np.cumsum(encoded.word_counts)
        weight = next(self.model.parameters())
        limit = batch_limit(batch_size, weight.device, weight.dtype)
        for rows in batches_by_length(encoded.lengths, limit):
            batch = encoded.batch(rows)
            places = batch["word_rows"], batch["word_positions"]
            inputs = {
                name: batch[name].to(weight.device) for name in ("input_ids", "attention_mask")
            }
            logits = self.model(**inputs).logits.float()
            words = [np.arange(ends[row] - encoded.word_counts[row], ends[row]) for row in rows]
            out[np.concatenate(words)] = torch.softmax(logits[places], -1).cpu().numpy()
        return out


def check_same_predictions(engine: TokenEngine, rival: TokenClassification, encoded: Any) -> None:
    """Raise if engine and rival do not compute the same."""
    difference = np.abs(engine.budgeted(encoded, engine.n_layers) - rival.proba(encoded, 4)).max()
    exact = next(rival.model.parameters()).dtype == torch.float32
    if difference > (1e-4 if exact else 0.05):
        raise AssertionError(f"probabilities differ from the rival's by {difference:.2g}")


def token_throughput(settings: Settings, *, family: str) -> Iterator[Line]:
    """Measure exits of words and of sentences at two shares of rows and several batch sizes."""
    config, precision = FAMILIES[family].config(), settings.fast_precision()
    network = make_network(config, settings.device)
    dtype = getattr(torch, precision)
    engine, rival = TokenEngine(network, dtype), TokenClassification(network, dtype)
    check_same_predictions(engine, rival, encoded_words(config, 4))
    batches = {16: 32} if settings.quick else BATCHES
    for batch_size, n in batches.items():
        encoded = encoded_words(config, settings.enough(n, batch_size))
        runs = _competitors(engine, rival, encoded, batch_size)
        seconds = interleaved(runs, settings.repetitions)
        for share in SHARES:
            exits = runs[_label("token", share)]()
            yield _line(settings, family, (precision, batch_size, share), exits, seconds)


def _label(way: str, share: float) -> str:
    return f"{way}, rows {share:.3g}"


def _competitors(
    engine: TokenEngine, rival: TokenClassification, encoded: Any, batch_size: int | str
) -> dict[str, Any]:
    n_layers, n = engine.n_layers, len(encoded)
    runs: dict[str, Any] = {FULL: functools.partial(rival.proba, encoded, batch_size)}
    for share in (*SHARES, 1.0):
        sentences = forced_exits(n, n_layers, share * n_layers, encoded.lengths)
        runs[_label("sentence", share)] = functools.partial(
            run_sentences, engine, encoded, batch_size, sentences
        )
        words = word_schedule(encoded, n_layers, share)
        runs[_label("token", share)] = functools.partial(
            run_words, engine, encoded, batch_size, words
        )
    return runs


def _line(
    settings: Settings,
    family: str,
    setting: tuple[str, int | str, float],
    exits: TokenExits,
    seconds: dict[str, list[float]],
) -> Line:
    precision, batch_size, share = setting
    n_layers = int(exits.exit_layer.max())
    kept = float(np.average(exits.sample_exit_layer, weights=exits.rows_total)) / n_layers
    limit = 1 / (KEYS_AND_VALUES * kept + (1 - KEYS_AND_VALUES) * (1 - exits.speedup))
    full = _label("sentence", 1.0)
    ways = {way: _label(way, share) for way in ("token", "sentence")}
    found = {way: quotient(seconds, FULL, name) for way, name in ways.items()}
    over_own = {way: quotient(seconds, full, name) for way, name in ways.items()}
    own = quotient(seconds, FULL, full)
    wanted = batch_size != 1 and settings.device == "cpu"
    return Line(
        f"{FAMILIES[family].title}, {precision}, batch {batch_size}, {exits.speedup:.0%} of the "
        f"rows saved word by word",
        f"word by word {found['token']:.2f}x transformers' token classification, sentences at "
        f"as many rows {found['sentence']:.2f}x, our full depth {own:.2f}x; over our full depth "
        f"{over_own['token']:.2f}x ({over_own['token'] / limit:.0%} of the arithmetic limit "
        f"{limit:.2f}x, keys and values included) and {over_own['sentence']:.2f}x",
        f">= {LIMIT_SHARE:.0%} of the limit" if wanted else "",
        over_own["token"] / limit >= LIMIT_SHARE if wanted else None,
        settings={
            "backbone": FAMILIES[family].title,
            "precision": precision,
            "batch_size": batch_size,
            "n_words": len(exits.exit_layer),
            "share_of_rows": 1 - exits.speedup,
        },
        values={
            "token_speedup": found["token"],
            "sentence_speedup": found["sentence"],
            "full_depth_speedup": own,
            "token_over_own": over_own["token"],
            "sentence_over_own": over_own["sentence"],
            "arithmetic_limit": limit,
        },
        seconds={name: seconds[name] for name in (FULL, full, *ways.values())},
    )


ROWS = [
    Row(
        f"tokens-{family}",
        f"Words of {FAMILIES[family].title}: word by word, by sentence, and at full depth",
        functools.partial(token_throughput, family=family),
        in_quick=family == "minilm",
    )
    for family in ("minilm", "bert")
]
