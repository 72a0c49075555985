"""Networks that predict words, sentences for them, and a slow reference of exits word by word."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_epee import policy
from sklearn_epee._exits.rule import may_exit
from sklearn_epee._nn.backbones import adapter_for, load_backbone
from sklearn_epee._nn.batching import EncodedTexts
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.heads import ExitHead
from sklearn_epee._nn.token_engine import TokenExits
from sklearn_epee._nn.token_network import TokenExitNetwork
from tests._nn.exits import CLOSE, N_LAYERS
from tests.checkpoints import randomise, tiny_config

# Classes of two layers of spans.
COUNTS = (3, 2)
# Families whose positions are counted from the padding, by their models.
AFTER_PADDING_INDEX = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl")


class Sentences(EncodedTexts):
    """Random pieces of words between special tokens."""

    def __init__(self, texts: Sequence[np.ndarray], words: Sequence[np.ndarray]) -> None:
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        super().__init__(np.concatenate(texts), lengths, None, pad_id=0)
        self.texts, self.words = list(texts), list(words)
        self.word_counts = np.array([text.max() + 1 for text in words], dtype=np.int64)

    def batch(self, rows):
        words = [self.words[row] for row in rows]
        pieces = np.full((len(rows), max(map(len, words))), -1)
        for row, numbers in enumerate(words):
            pieces[row, : len(numbers)] = numbers
        first = [np.searchsorted(np.maximum.accumulate(w), np.arange(w.max() + 1)) for w in words]
        owners = np.repeat(np.arange(len(rows)), [len(part) for part in first])
        return super().batch(rows) | {
            "word_rows": torch.from_numpy(owners),
            "word_positions": torch.from_numpy(np.concatenate(first).astype(np.int64)),
            "piece_words": torch.from_numpy(pieces),
        }

    def take(self, order: Sequence[int]) -> Sentences:
        return Sentences([self.texts[i] for i in order], [self.words[i] for i in order])


def make_word_network(
    family: str, counts: tuple[int, ...] = COUNTS, head: str = "linear"
) -> TokenExitNetwork:
    """Random weights at a scale where layers disagree and entropies spread over [0, 1]."""
    backbone = randomise(load_backbone(tiny_config(family, N_LAYERS), "text"), seed=3)
    network = TokenExitNetwork(backbone, counts, head=head)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for part in (part for part in network.heads.modules() if isinstance(part, ExitHead)):
            part.out.weight.normal_(0, 2.2 / part.out.in_features**0.5, generator=generator)
            part.out.bias.normal_(0, 0.3, generator=generator)
        if head == "attention":
            for layer in range(1, N_LAYERS + 1):
                for weight in network.attention(layer).parameters():
                    weight.normal_(0, 2 / weight.shape[-1] ** 0.5, generator=generator)
    return network.eval()


def make_sentences(n: int = 13, seed: int = 5) -> Sentences:
    """Sentences of 1 to 7 words of 1 to 3 pieces."""
    rng = np.random.default_rng(seed)
    numbers = []
    for i in range(n):
        n_words = 1 + (5 * i) % 7
        pieces = np.repeat(np.arange(n_words), rng.integers(1, 4, n_words))
        numbers.append(np.concatenate([[-1], pieces, [-1]]))
    return Sentences([rng.integers(5, 100, len(w), dtype=np.int32) for w in numbers], numbers)


def word_policy(tau: float, patience: int | None = None, **options: Any) -> ExitPolicy:
    weights = np.arange(1, N_LAYERS + 1, dtype=np.float64)
    ensemble = options.pop("ensemble", None)
    patience = N_LAYERS if patience is None else patience
    return ExitPolicy(tau, patience, ensemble, weights, **options)


class WordByWord(NamedTuple):
    """What the slow reference says of the words of one sentence."""

    proba: np.ndarray
    exit_layer: np.ndarray
    entropy: np.ndarray
    rows: int
    is_close: bool
    """Whether floating point may decide otherwise somewhere."""


@torch.inference_mode()
def word_by_word(
    network: TokenExitNetwork, sentences: Sentences, row: int, rule: ExitPolicy, side: str = "right"
) -> WordByWord:
    """Run transformers' own forward pass on one sentence, padded on a side.

    Before each layer the hidden states of words that have exited are put back to those with which
    they exited. All rows are computed by whole layers; which ones count is counted.
    """
    run = _FrozenPass(network, sentences.words[row], rule, side)
    text, padding = sentences.texts[row].astype(np.int64), np.zeros(run.n_padding, np.int64)
    pad = network.backbone.config.pad_token_id or 0
    parts, marks = ([text, padding + pad], [text * 0 + 1, padding])
    if side == "left":
        parts, marks = parts[::-1], marks[::-1]
    ids, mask = (torch.from_numpy(np.concatenate(part))[None] for part in (parts, marks))
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    accepted = inspect.signature(type(network.backbone).forward).parameters
    if network.adapter.family not in AFTER_PADDING_INDEX and "position_ids" in accepted:
        arguments["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if "use_cache" in accepted:
        arguments["use_cache"] = False
    # Of a copy: what a head reads may run the network's own layers.
    adapter = adapter_for(copy.deepcopy(network.backbone))
    for block in {adapter._block(layer) for layer in range(1, N_LAYERS + 1)}:
        block.register_forward_pre_hook(run.freeze, with_kwargs=True)
        block.register_forward_hook(run.note_output)
    adapter.model(**arguments)
    run.read_exit()
    return run.outcome()


class _FrozenPass:
    """One pass of a model over one sentence, in which words exit."""

    n_padding = 3

    def __init__(
        self, network: TokenExitNetwork, words: np.ndarray, rule: ExitPolicy, side: str
    ) -> None:
        self.network, self.rule = network, rule
        filler = np.full(self.n_padding, -2)
        self.pieces = np.concatenate([words, filler] if side == "right" else [filler, words])
        self.n_words = int(words.max()) + 1
        self.exit_layer = np.zeros(self.n_words, np.int64)
        self.staged: list[np.ndarray] = []
        self.hidden: Tensor | None = None
        self.above: Tensor | None = None
        self.rows = 0

    @property
    def open(self) -> np.ndarray:
        """Positions that are computed, special tokens among them."""
        still = np.append(self.exit_layer == 0, [(self.exit_layer == 0).any()])
        return np.where(self.pieces >= -1, still[self.pieces], False)

    def freeze(self, module, args, kwargs):
        """Let words exit after the layer below; give the next layer what they exited with."""
        name = None if args else "hidden_states"
        incoming = args[0] if args else kwargs[name]
        if self.above is not None:
            self.read_exit()
            hidden = self.hidden
        else:
            hidden = self.hidden = incoming
        if name is None:
            return (hidden, *args[1:]), kwargs
        return args, kwargs | {name: hidden}

    def note_output(self, module, args, output):
        self.above = output if isinstance(output, Tensor) else output[0]

    def read_exit(self) -> None:
        """Take the rows of open positions from the layer's output, and let words exit."""
        is_open = torch.from_numpy(self.open)[None, :, None]
        self.rows += int(self.open.sum())
        self.hidden = torch.where(is_open, self.above, self.hidden)
        layer = len(self.staged) + 1
        first = np.array([np.flatnonzero(self.pieces == w)[0] for w in range(self.n_words)])
        at = torch.from_numpy(first)
        real = torch.from_numpy(self.pieces > -2)[None]
        logits = self.network.word_logits(layer, self.hidden, torch.zeros_like(at), at, real)
        parts = [torch.softmax(part, -1) for part in logits.split(self.network.class_counts, 1)]
        self.staged.append(torch.cat(parts, 1).numpy())
        allowed = self._allowed() if layer < N_LAYERS else np.ones(self.n_words, bool)
        self.exit_layer[(self.exit_layer == 0) & allowed] = layer
        self.above = None

    def _tasks(self) -> list[np.ndarray]:
        staged = np.stack(self.staged, axis=1)
        return np.split(staged, np.cumsum(self.network.class_counts)[:-1], axis=-1)

    def _allowed(self) -> np.ndarray:
        tasks = self._tasks()
        entropies = np.stack([policy.normalized_entropy(part) for part in tasks], -1)
        counters = np.stack([policy.patience_counters(part.argmax(-1)) for part in tasks], -1)
        rule = self.rule
        return may_exit(
            entropies.astype(float), counters, rule.tau, rule.patience, rule.joint_exit
        )[:, -1]

    def outcome(self) -> WordByWord:
        # Rows of words that have exited go on being predicted above, from what is frozen; that is
        # not read.
        words, tasks = np.arange(self.n_words), self._tasks()
        padded = self.exit_layer.max(initial=1)
        result = [
            policy.apply_policy(
                task[w : w + 1, : self.exit_layer[w]], 0.0, None, self.rule.exit_ensemble
            ).proba[0]
            for task in tasks
            for w in words
        ]
        shape = (len(tasks), self.n_words)
        proba = np.concatenate(
            [np.stack(result[t * shape[1] : (t + 1) * shape[1]]) for t in range(shape[0])], axis=1
        )
        own = [policy.normalized_entropy(task)[words, self.exit_layer - 1] for task in tasks]
        return WordByWord(
            proba, self.exit_layer, np.stack(own, -1), self.rows, self._is_close(tasks, padded)
        )

    def _is_close(self, tasks: list[np.ndarray], last: int) -> bool:
        entropies = np.stack([policy.normalized_entropy(task) for task in tasks], -1)
        entropies = np.concatenate([entropies, entropies.mean(-1, keepdims=True)], -1)
        near = (abs(entropies - self.rule.tau) < CLOSE).any(-1) & (self.rule.tau > 0)
        for task in tasks:
            top_two = np.sort(task, axis=-1)[..., -2:]
            near |= top_two[..., 1] - top_two[..., 0] < CLOSE
        return bool(near[:, :last].any())


def of_sentence(found: TokenExits, row: int) -> slice:
    """Return which words are those of a sentence."""
    ends = np.cumsum(found.word_counts)
    return slice(int(ends[row] - found.word_counts[row]), int(ends[row]))
