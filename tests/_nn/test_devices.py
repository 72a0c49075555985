"""Where and in which precision a network runs."""

from __future__ import annotations

import pytest
import torch

from sklearn_epee._nn import devices
from sklearn_epee._nn.devices import (
    has_native_bfloat16,
    prediction_dtype,
    resolve_device,
    training_dtype,
)
from sklearn_epee._nn.packed_linear import can_pack

CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, n_gpus: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("n_gpus", "mps", "expected"),
    [(0, False, "cpu"), (1, False, "cuda"), (2, True, "cuda"), (0, True, "mps")],
)
def test_auto_takes_the_best_device_there_is(monkeypatch, n_gpus, mps, expected):
    pretend(monkeypatch, n_gpus, mps)
    assert resolve_device("auto").type == expected


def test_devices_that_are_there_are_accepted(monkeypatch):
    pretend(monkeypatch, 2)
    for device in ("cpu", CPU, "cuda", "cuda:1"):
        found = resolve_device(device)
        # A GPU is always named by its number, as tensors name theirs.
        assert found == torch.device("cuda:0" if device == "cuda" else device)


@pytest.mark.parametrize(
    "device", ["cuda", "cuda:0", "mps", "xpu", "meta", torch.device("cuda", 3)]
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch, device):
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=r"device='.*' is not available .*available: \['cpu'\]"):
        resolve_device(device)


def test_the_third_gpu_of_two_is_refused(monkeypatch):
    pretend(monkeypatch, 2)
    with pytest.raises(ValueError, match=r"'cuda:2' is not available .*'cuda:0', 'cuda:1'\]"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "cpu:cpu"])
def test_what_is_no_device_name_is_refused(device):
    with pytest.raises(ValueError, match=r"device='.*' is not a device name; expected 'auto'"):
        resolve_device(device)


def test_auto_precision_follows_the_device(monkeypatch):
    assert training_dtype("float32", CPU) == torch.float32
    assert training_dtype("bfloat16", CPU) == torch.bfloat16
    expected = torch.bfloat16 if has_native_bfloat16(CPU) else torch.float32
    assert training_dtype("auto", CPU) == expected
    assert not has_native_bfloat16(torch.device("mps"))
    for capability, native in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert has_native_bfloat16(torch.device("cuda")) is native


def test_prediction_is_in_bfloat16_only_where_neighbours_cannot_matter(monkeypatch):
    native = has_native_bfloat16(CPU) and can_pack(torch.bfloat16)
    assert prediction_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert prediction_dtype("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(devices, "has_native_bfloat16", lambda _: False)
    assert prediction_dtype("auto", CPU) == torch.float32
    for device in (CPU, torch.device("cuda")):
        assert prediction_dtype("float32", device) == torch.float32
        assert prediction_dtype("bfloat16", device) == torch.bfloat16
