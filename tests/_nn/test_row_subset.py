"""A layer at some positions gives what the whole layer gives there, for every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee._nn.backbones import RowSubset, adapter_for, load_backbone
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.fast_backbone import fast_backbone
from tests.checkpoints import (
    GENERIC_TEXT_FAMILIES,
    TEXT_FAMILIES,
    random_batch,
    randomise,
    tiny_config,
)

CPU = torch.device("cpu")


def make_adapter(family: str):
    return adapter_for(randomise(load_backbone(tiny_config(family), "text"), seed=0).eval())


def chosen_positions(mask: torch.Tensor, seed: int = 0) -> np.ndarray:
    """Mark about half of the real positions, all of one sample and none of another."""
    chosen = np.random.default_rng(seed).random(mask.shape) < 0.5
    chosen[0], chosen[1] = True, False
    return chosen & mask.numpy()


def test_rows_are_read_and_written_in_place():
    chosen = np.array([[True, False, True], [False, False, False], [False, True, False]])
    at = RowSubset.of_mask(chosen, CPU)
    assert at.flat.tolist() == [0, 2, 7]
    assert at.positions.tolist() == [[0, 2], [0, 0], [1, 0]]
    hidden = torch.arange(18.0).view(3, 3, 2)
    rows = at.read(hidden)
    assert rows.tolist() == hidden[torch.from_numpy(chosen)].tolist()
    filled = at.fill_up(rows)
    assert filled.shape == (3, 2, 2)
    assert not filled[1].any()
    assert torch.equal(at.pick(filled), rows)
    written = at.written(hidden, rows + 100)
    assert torch.equal(written[torch.from_numpy(chosen)], rows + 100)
    assert torch.equal(written[torch.from_numpy(~chosen)], hidden[torch.from_numpy(~chosen)])
    assert hidden.max() < 100


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *GENERIC_TEXT_FAMILIES])
@torch.inference_mode()
def test_some_rows_of_every_family_are_those_of_the_layer(family, side):
    adapter = make_adapter(family)
    fast = fast_backbone(adapter, torch.float32)
    assert (fast is not None) == adapter.rows_apart
    hidden, mask = adapter.embed(random_batch(family, side=side))
    for layer in range(1, adapter.n_layers + 1):
        expected = adapter.layer(layer, hidden, mask)
        chosen = chosen_positions(mask, layer)
        at = RowSubset.of_mask(chosen, CPU)
        for backbone in (adapter, fast):
            if backbone is not None:
                k, v = backbone.keys_values(layer, hidden)
                found = backbone.row_subset(layer, at.read(hidden), k, v, mask, at)
                torch.testing.assert_close(found, at.read(expected), atol=1e-5, rtol=1e-5)
        hidden = expected


@pytest.mark.skipif(
    prediction_dtype("auto", CPU) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)
@pytest.mark.parametrize("family", TEXT_FAMILIES)
@torch.inference_mode()
def test_bfloat16_rows_do_not_depend_on_which_others_are_computed(family):
    fast = fast_backbone(make_adapter(family), torch.bfloat16)
    hidden, mask = fast.embed(random_batch(family))
    for layer in range(1, 3):
        k, v = fast.keys_values(layer, hidden)
        whole = fast.rows(layer, hidden, k, v, mask)
        for seed in range(3):
            at = RowSubset.of_mask(chosen_positions(mask, seed), CPU)
            found = fast.row_subset(layer, at.read(hidden), k, v, mask, at)
            assert torch.equal(found, at.read(whole))
        hidden = whole
