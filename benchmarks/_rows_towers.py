"""Row on two towers: the speed-up if the second one does not run for all samples."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import ViTConfig

from benchmarks._forced_exits import ForcedExits, forced_exits
from benchmarks._measure import interleaved, medians, quotient
from benchmarks._models import FAMILIES, Family, encode, new_estimator, random_images, real_texts
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.exit_rules import ExitPolicy, Exits
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.pairs import EncodedPairs
from sklearn_epee._nn.pooling import masked_mean
from sklearn_epee._nn.prediction_batches import batch_limit, batches_by_length
from sklearn_epee._nn.tower_engine import TowerEngine
from sklearn_epee._nn.two_towers import TwoTowerNetwork

BOTH = "transformers, both towers"
# Shares of samples that never reach the second tower.
SHARES = (0.0, 0.5, 0.8)


def _vit_small() -> ViTConfig:
    return ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)


def towers_of(n: int) -> tuple[TwoTowerNetwork, EncodedPairs, tuple[Any, Any]]:
    """Return a network of a MiniLM-sized BERT and a small ViT, and n samples with both inputs."""
    text = new_estimator(FAMILIES["minilm"], "mean")
    image = new_estimator(Family("a small ViT", _vit_small, "cls", "image"), "cls+mean")
    first, alone = text.net_.module_, image.net_.module_
    second = MultiExitNetwork(
        alone.backbone,
        first.n_classes,
        alone.pooling,
        0.0,
        has_dense=True,
        context_size=first.n_features,
    )
    halves = encode(text, real_texts(n)), encode(image, random_images(n))
    present = np.ones((n, 2), bool)
    return TwoTowerNetwork(first, second).eval(), EncodedPairs(*halves, present), halves


class BothTowers(nn.Module):
    """The forward pass of transformers for both backbones and all samples, with one head.

    Parameters
    ----------
    network : TwoTowerNetwork
        Its backbones and its last head are copied.
    dtype : torch.dtype
        Precision of the backbones; the head stays in float32.
    """

    def __init__(self, network: TwoTowerNetwork, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(
            copy.deepcopy(tower.backbone).to(device, dtype) for tower in network.towers
        )
        self.norm = copy.deepcopy(network.context_norm).to(device)
        self.head = copy.deepcopy(network.second.heads[-1]).to(device)
        self._n_classes = network.n_columns
        self.eval()

    @torch.inference_mode()
    def proba(self, halves: tuple[Any, Any]) -> np.ndarray:
        """Return probabilities (n, K) of encoded texts and images, in the batches of `predict`."""
        states = self._states(0, halves[0])
        pooled = self._states(1, halves[1])
        logits = self.head(torch.cat([pooled, self.norm(states)], dim=1))
        return torch.softmax(logits, -1).cpu().numpy()

    def _states(self, tower: int, encoded: Any) -> torch.Tensor:
        found: list[Any] = [None] * len(encoded)
        weight = next(self.backbones[tower].parameters())
        for rows in batches_by_length(encoded.lengths, batch_limit("auto", weight.device)):
            batch = encoded.batch(rows)
            mask = batch.get("attention_mask")
            pixels = {
                name: part.to(weight.dtype) if part.is_floating_point() else part
                for name, part in batch.items()
            }
            output = self.backbones[tower](
                **{name: part.to(weight.device) for name, part in pixels.items()},
                output_hidden_states=bool(tower),
            )
            for row, state in zip(rows, self._pooled(output, mask), strict=True):
                found[row] = state
        return torch.stack(found)

    @staticmethod
    def _pooled(output: Any, mask: torch.Tensor | None) -> torch.Tensor:
        hidden = output.last_hidden_state.float()
        if mask is not None:
            return masked_mean(hidden, mask.bool().to(hidden.device))
        # The layer below, without the final norm; the time is the same.
        return torch.cat([hidden[:, 0], output.hidden_states[-2].float().mean(1)], dim=1)


def schedule_of(n: int, share: float, n_first: int, n_layers: int) -> np.ndarray:
    """Return exit layers: a share of the samples in the first tower, the others at the last layer.

    The exits in the first tower are spread around its middle.
    """
    n_early = round(share * n)
    early = forced_exits(n_early, n_first, (n_first + 1) / 2) if n_early else []
    exits = np.concatenate([early, np.full(n - n_early, n_layers)]).astype(np.int64)
    return np.random.default_rng(0).permutation(exits)


def forced(engine: TowerEngine, pairs: EncodedPairs, schedule: np.ndarray) -> Exits:
    """Run the engine with forced exits."""
    n_layers = engine.n_layers
    policy = ExitPolicy(float(schedule.mean()) / n_layers, n_layers, None, np.ones(n_layers))
    out = Exits.empty(len(pairs), engine.n_columns)
    engine.run(pairs, ForcedExits(policy, n_layers, out, schedule), n_layers, "auto")
    return out


def towers(settings: Settings) -> Iterator[Line]:
    """Measure texts with images of 224 pixels, some of which exit in the text tower."""
    n = settings.enough(10 if settings.quick else 60, "auto")
    network, pairs, halves = towers_of(n)
    precision = settings.fast_precision()
    dtype, device = getattr(torch, precision), torch.device(settings.device)
    engine = TowerEngine(network.to_inference_copy(device, torch.float32), dtype)
    rival = BothTowers(network, dtype, settings.device)
    inputs = [half.batch(np.array([n // 2])) for half in halves]
    costs = network.exit_costs(*inputs)
    schedules = {
        share: schedule_of(n, share, network.n_first_layers, network.n_layers) for share in SHARES
    }
    competitors: dict[str, Any] = {BOTH: functools.partial(rival.proba, halves)} | {
        f"{share:.0%}": functools.partial(forced, engine, pairs, schedule)
        for share, schedule in schedules.items()
    }
    seconds = interleaved(competitors, settings.repetitions)
    for share, schedule in schedules.items():
        label = f"{share:.0%}"
        speedup, factor = quotient(seconds, BOTH, label), 1 / float(costs[schedule - 1].mean())
        each = {name: 1000 * found / n for name, found in medians(seconds).items()}
        yield Line(
            f"MiniLM-sized BERT, then ViT-small (224 pixels), {precision}, {label} of the samples "
            "never reach the second",
            f"{each[label]:.1f} ms a sample, {each[BOTH]:.1f} by transformers with both towers for "
            f"all: {speedup:.2f}x, work {factor:.2f}x",
            "quotient >= 1",
            bool(speedup >= factor) if settings.device == "cpu" else None,
            settings={"n_samples": n, "share": share, "precision": precision},
            values={"speedup": speedup, "work_factor": factor, "ms": each[label]},
            seconds={BOTH: seconds[BOTH], "ours": seconds[label]},
        )


ROWS = [Row("towers", "Two towers, the second only for those who need it", towers)]
