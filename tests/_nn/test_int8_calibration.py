"""How rows are rounded is found on samples: outliers, products that move too much, families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_epee._nn import int8_calibration
from sklearn_epee._nn.backbones import LinearWeights, adapter_for, load_backbone
from sklearn_epee._nn.fast_backbone import fast_backbone
from sklearn_epee._nn.int8_calibration import (
    Int8Scales,
    NotPackableError,
    _best,
    _Recorder,
    _Trial,
    find_scales,
)
from sklearn_epee._nn.int8_linear import InputScale, RoundedWeight, RowRounder, why_not_int8
from sklearn_epee._nn.pairs import SampleSubset
from tests.checkpoints import (
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    kind_of,
    random_batch,
    randomise,
    tiny_config,
)

with_int8 = pytest.mark.skipif(bool(why_not_int8()), reason=f"no 8-bit products: {why_not_int8()}")


def make_adapter(family: str, **options: Any):
    config = tiny_config(family, **options)
    return adapter_for(randomise(load_backbone(config, kind_of(family)), seed=0).eval())


class Batches:
    """One batch of a family as encoded samples, all of one length."""

    windows = None

    def __init__(self, family: str, n: int = 6) -> None:
        self._tensors = random_batch(family, n)
        mask = self._tensors.get("attention_mask")
        self.lengths = np.full(n, 10) if mask is None else np.full(n, mask.shape[1])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows):
        return {name: part[torch.from_numpy(rows)] for name, part in self._tensors.items()}


def recorded(rows: torch.Tensor) -> _Recorder:
    seen = _Recorder(lambda: torch.ones(len(rows), dtype=torch.bool), every=1)
    seen(rows)
    return seen


def rows_with_outliers(scale: float, n: int = 200, width: int = 64) -> torch.Tensor:
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    rows[:, 5] *= scale
    rows[:, 9] += scale  # always far from zero, as in trained transformers
    return rows


def make_affine(width: int = 64) -> LinearWeights:
    generator = torch.Generator().manual_seed(1)
    return LinearWeights(torch.randn(32, width, generator=generator) * 0.1, torch.zeros(32))


def make_rows_with(huge: int) -> torch.Tensor:
    """Rows of which some are a hundred times as large as the rest."""
    rows = torch.randn(200, 64, generator=torch.Generator().manual_seed(2))
    rows[:huge] *= 100
    return rows


@pytest.mark.parametrize("scale", [1, 100])
def test_outlier_columns_do_not_cost_the_others_their_digits(scale):
    rows, affine = rows_with_outliers(scale), make_affine()
    affine.weight[:, 5] /= scale  # such columns have small weights in trained networks
    alike = 120 / float(rows.abs().max())
    plain = (np.full(64, value, np.float32) for value in (alike, 128, 0))
    plain_error = _Trial(rows, [affine]).error(InputScale(*plain))
    error, _ = _best(recorded(rows), [affine], within=False)
    assert error < int8_calibration.MAX_ERROR
    if scale > 1:
        assert plain_error > 10 * error


def test_a_few_huge_rows_do_not_hide_the_rest():
    rows = make_rows_with(huge=3)
    affine = make_affine()
    alike = 120 / float(rows.abs().max())
    columns = (np.full(64, value, np.float32) for value in (alike, 128, 0))
    scale = InputScale(*columns)
    rounded = RoundedWeight(affine, scale)(RowRounder(scale)(rows.bfloat16()))
    exact = rows @ affine.weight.T + affine.bias
    of_all = (rounded - exact).norm() / (exact - exact.mean(dim=0)).norm()
    assert _Trial(rows, [affine]).error(scale) > 3 * of_all


def test_an_outcome_that_is_added_to_much_larger_rows_may_move_more():
    rows, affine = rows_with_outliers(1), make_affine()
    seen = recorded(rows)
    alone, _ = _best(seen, [affine], within=False)
    seen.sums = recorded(rows[:, :32] * 100)
    added, _ = _best(seen, [affine], within=False)
    assert added < alone / 20


@torch.inference_mode()
def test_sums_are_noted_of_the_rows_that_are_kept():
    adapter, samples = make_adapter("bert"), Batches("bert")
    for layer, seen in int8_calibration._record(adapter, samples):
        for product, name in ((layer.out, "out"), (layer.down, "down")):
            read, sums = seen[name].rows, seen[name].sums.rows
            others = sums - product(read)
            assert others.shape == sums.shape
            if name == "down":  # added to what the feed-forward reads
                torch.testing.assert_close(others, seen["up"].rows, atol=1e-4, rtol=1e-4)


def test_padding_and_rows_nobody_reads_do_not_count():
    rows = torch.randn(12, 3)
    rows[10:] = 1e6
    rows[4] = -1e6
    real = torch.ones(10, dtype=torch.bool)
    real[4] = False
    seen = _Recorder(lambda: real, every=2)
    assert seen(rows) is rows
    seen(rows * 2)
    expected = torch.cat([rows[:10][real], 2 * rows[:10][real]])
    torch.testing.assert_close(seen.high, expected.amax(0))
    torch.testing.assert_close(seen.low, expected.amin(0))
    torch.testing.assert_close(seen.mean, expected.mean(0))
    assert len(seen.rows) == 10
    assert all((expected == row).all(dim=1).any() for row in seen.rows)


def test_rows_are_tried_from_all_positions():
    # Ten samples of eight positions, of which one in eight rows is kept.
    rows = torch.arange(8.0).repeat(10).unsqueeze(1)
    seen = _Recorder(lambda: torch.ones(80, dtype=torch.bool), every=8)
    seen(rows)
    assert len(seen.rows) == 10
    assert len(seen.rows.unique()) > 3


@with_int8
@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
@torch.inference_mode()
def test_every_family_runs_in_8_bits_nearly_as_in_float32(family):
    adapter = make_adapter(family)
    samples = Batches(family)
    scales = find_scales(adapter, samples)
    assert len(scales.layers) == len(scales.errors) == adapter.n_layers
    assert scales.n_rounded >= 3 * adapter.n_layers
    exact, rounded = (
        fast_backbone(adapter, torch.float32, layers) for layers in (None, scales.layers)
    )
    hidden, mask = exact.embed(samples.batch(np.arange(len(samples))))
    for layer in range(1, adapter.n_layers + 1):
        expected = exact.rows(layer, hidden, *exact.keys_values(layer, hidden), mask)
        found = rounded.rows(layer, hidden, *rounded.keys_values(layer, hidden), mask)
        moved = (found - expected)[mask].norm() / (expected - hidden)[mask].norm()
        assert moved < 0.15
        hidden = expected


@with_int8
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@torch.inference_mode()
def test_layers_of_a_sample_are_its_own(family):
    adapter, samples = make_adapter(family), Batches(family)
    fast = fast_backbone(adapter, torch.float32, find_scales(adapter, samples).layers)
    hidden, mask = fast.embed(samples.batch(np.arange(6)))
    for layer in range(1, adapter.n_layers + 1):
        k, v = fast.keys_values(layer, hidden)
        above = fast.rows(layer, hidden, k, v, mask)
        one = hidden[2:3]
        alone = fast.rows(layer, one, *fast.keys_values(layer, one), mask[2:3])
        torch.testing.assert_close(alone[0], above[2], atol=1e-6, rtol=1e-6)
        hidden = above


@with_int8
def test_products_that_move_too_much_are_left_as_they_are(monkeypatch):
    adapter, samples = make_adapter("llama"), Batches("llama")
    # With a gate no product is rounded within the one before it, and the way to round stays.
    scales = find_scales(adapter, samples)
    worst = max(scales.errors[1], key=scales.errors[1].get)
    monkeypatch.setattr(int8_calibration, "MAX_ERROR", scales.errors[1][worst] * 0.99)
    found = find_scales(adapter, samples)
    assert getattr(found.layers[1], worst) is None
    assert found.errors == scales.errors
    with torch.inference_mode():
        fast = fast_backbone(adapter, torch.float32, found.layers)
        hidden, mask = fast.embed(samples.batch(np.arange(6)))
        for layer in range(1, adapter.n_layers + 1):
            hidden = fast.rows(layer, hidden, *fast.keys_values(layer, hidden), mask)
        assert torch.isfinite(hidden).all()


def make_scales(shared: bool) -> Int8Scales:
    scale = InputScale(*(np.ones(2, np.float32) for _ in range(3)))
    layer = int8_calibration.LayerScales(scale, scale, None, scale)
    errors, gains = ([dict.fromkeys(layer._fields, value) for _ in range(3)] for value in (0.01, 1))
    if shared:
        errors[2] = errors[1]
    return Int8Scales((layer,) * 3, tuple(errors), tuple(gains))


def test_some_groups_of_products_are_kept():
    scales = make_scales(shared=False)
    groups = [(layer, name) for layer in range(3) for name in ("attention", "out", "down")]
    assert scales.rounded() == groups
    assert scales.only(groups).layers == scales.layers
    some = scales.only([(0, "down"), (2, "out")])
    assert some.rounded() == [(0, "down"), (2, "out")]
    assert some.n_rounded == 2
    assert scales.only([]).n_rounded == 0
    # Every sample runs the first layer, a third of the exits the last one.
    assert [scales.gain(layer, "out") for layer in range(3)] == pytest.approx([1, 2 / 3, 1 / 3])


def test_layers_that_share_their_weights_share_what_is_rounded():
    scales = make_scales(shared=True)
    assert {layer for layer, _ in scales.rounded()} == {0, 1}
    some = scales.only([(1, "down")])
    assert some.layers[1] == some.layers[2]
    assert some.n_rounded == 2
    assert scales.gain(1, "out") == pytest.approx(1)


def test_products_that_save_nothing_are_left_as_they_are(monkeypatch):
    adapter, samples = make_adapter("bert"), Batches("bert")
    assert find_scales(adapter, samples).n_rounded == 4 * adapter.n_layers
    monkeypatch.setattr(int8_calibration, "LEAST_GAIN", 0.0)
    found = find_scales(adapter, samples)
    assert found.n_rounded == 0
    assert max(max(gains.values()) for gains in found.gains) < 0


def test_layers_that_can_only_be_run_as_a_whole_are_refused(monkeypatch):
    adapter = make_adapter("bert")
    monkeypatch.setattr(adapter, "layer_parts", lambda _: None)
    with pytest.raises(NotPackableError, match=r"int8.*'bert' can only be run as a whole"):
        find_scales(adapter, Batches("bert"))


def test_without_samples_nothing_is_rounded():
    none = SampleSubset(Batches("bert"), np.arange(0))
    found = find_scales(make_adapter("bert"), none)
    assert found.n_rounded == 0
    assert found.only([]) == found


def test_a_network_that_never_varies_is_no_division_by_zero():
    rows = torch.zeros(5, 4)
    error, scale = _best(recorded(rows), [LinearWeights.of(nn.Linear(4, 3))], within=True)
    assert np.isfinite(error)
    assert np.isfinite(scale.factor).all()
