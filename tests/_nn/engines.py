"""What counts the work of an engine, decides for it, and takes its memory away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.network import MultiExitNetwork


def count_rows(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[tuple[int, int]]:
    """Record (layer, samples) of every layer that begins to run."""
    runs: list[tuple[int, int]] = []
    keys_values = engine._placed.backbone.keys_values

    def counted(layer, hidden):
        runs.append((layer, len(hidden)))
        return keys_values(layer, hidden)

    monkeypatch.setattr(engine._placed.backbone, "keys_values", counted)
    return runs


def count_positions(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[tuple[int, int, int]]:
    """Record (layer, samples, positions) of every call that finishes rows of a layer."""
    runs: list[tuple[int, int, int]] = []
    rows = engine._placed.backbone.rows

    def counted(layer, hidden_rows, *rest):
        runs.append((layer, *hidden_rows.shape[:2]))
        return rows(layer, hidden_rows, *rest)

    monkeypatch.setattr(engine._placed.backbone, "rows", counted)
    return runs


def always_row_first(monkeypatch: pytest.MonkeyPatch, engine: Engine, pays: bool) -> None:
    """Decide whether the head's row comes first without the clock."""
    monkeypatch.setattr(engine._row_first.costs, "row_first_pays", lambda *_: pays)


def gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def limit_memory(
    monkeypatch: pytest.MonkeyPatch,
    network: MultiExitNetwork,
    limit: int,
    fail: Callable[[], None] = gpu_is_full,
) -> list[int]:
    sizes: list[int] = []
    embed = network.adapter.embed

    def limited(batch):
        n = len(next(iter(batch.values())))
        if n > limit:
            fail()
        sizes.append(n)
        return embed(batch)

    monkeypatch.setattr(network.adapter, "embed", limited)
    return sizes
