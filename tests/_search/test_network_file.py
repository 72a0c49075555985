"""Files of trained networks: whole or refused, and read when they are needed."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._search import network_file
from sklearn_epee._search.network_file import (
    REST,
    WEIGHTS,
    DamagedError,
    LazyNetwork,
    NetworkFiles,
    open_network,
    ready,
)
from tests.checkpoints import tiny_config


@pytest.fixture(scope="module")
def trained():
    """What a training leaves: words, arrays, and a network that is met in two places."""
    backbone = load_backbone(tiny_config("bert", vocab_size=50), "text")
    network = MultiExitNetwork(backbone, 3, "mean", 0.1).eval()
    return SimpleNamespace(network=network, again=[network], words=["iron"], kept=np.arange(5))


@pytest.fixture
def folder(trained, tmp_path):
    folder = tmp_path / "key.network"
    folder.mkdir()
    NetworkFiles(ready("summary", trained)).write(folder)
    return folder


@pytest.fixture
def loads(monkeypatch):
    """A list that grows with every network that is read."""
    calls = []
    load = network_file._load
    monkeypatch.setattr(network_file, "_load", lambda *parts: (calls.append(1), load(*parts))[1])
    return calls


def weights(network):
    return network.state_dict()


def assert_is(found, trained):
    assert found.words == trained.words
    np.testing.assert_array_equal(found.kept, trained.kept)
    assert found.again[0] is found.network
    assert not found.network.training
    assert weights(found.network).keys() == weights(trained.network).keys()
    for name, weight in weights(found.network).items():
        assert torch.equal(weight, weights(trained.network)[name])


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_written_is_read(folder, trained, times):
    for _ in range(times):
        network = open_network(folder)
        assert network.summary == "summary"
        assert_is(network.get(), trained)
        assert network.get() is network.get()


def test_weights_stand_under_their_names_and_once(folder, trained):
    stored = load_file(folder / WEIGHTS)
    assert stored.keys() == weights(trained.network).keys()
    assert (folder / REST).stat().st_size < 10_000
    files = NetworkFiles(ready("summary", trained))
    written = sum(path.stat().st_size for path in folder.iterdir())
    assert files.size <= written <= files.size + 10_000


def test_nothing_is_read_before_it_is_needed(folder, loads):
    networks = [open_network(folder) for _ in range(3)]
    assert [network.summary for network in networks] == ["summary"] * 3
    assert not loads
    networks[2].get()
    networks[2].get()
    assert len(loads) == 1


def test_weights_are_aligned_and_belong_to_their_reader(folder, trained):
    found = [open_network(folder).get() for _ in range(3)]
    for one in found:
        for weight in weights(one.network).values():
            assert weight.data_ptr() % 64 == 0
    with torch.no_grad():
        for weight in weights(found[0].network).values():
            weight.zero_()
    assert_is(found[1], trained)
    assert_is(open_network(folder).get(), trained)


def test_a_folder_may_go_before_its_network_is_read(folder, trained):
    first, second = open_network(folder), open_network(folder)
    shutil.rmtree(folder)
    assert_is(first.get(), trained)
    assert_is(second.get(), trained)


def test_networks_that_wait_hold_no_files_open(folder):
    open_network(folder)
    before = set(network_files_open())
    waiting = [open_network(folder) for _ in range(20)]
    assert set(network_files_open()) == before
    assert len(waiting) == 20


def network_files_open():
    descriptors = network_file.Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no list of open files here")
    for descriptor in descriptors.iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if ".network" in target:
            yield target


DAMAGE = ["empty", "truncated", "header", "weights", "longer", "swapped"]


def damaged(content, damage):
    middle = len(content) // 2
    return {
        "empty": b"",
        "truncated": content[:middle],
        "header": content[:60] + bytes([content[60] ^ 1]) + content[61:],
        "weights": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "longer": content + b"!",
        "swapped": b"x" * 500,
    }[damage]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [WEIGHTS, REST])
@pytest.mark.parametrize("verified", [False, True])
def test_damage_is_seen_when_the_network_is_opened(folder, name, damage, verified):
    if verified:
        open_network(folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(damaged(content, damage))
    with pytest.raises(DamagedError):
        open_network(folder)


@pytest.mark.parametrize("absent", [WEIGHTS, REST])
def test_half_a_network_is_none(folder, absent):
    (folder / absent).unlink()
    with pytest.raises(FileNotFoundError):
        open_network(folder)


def test_no_folder_no_network(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_network(tmp_path / "absent")


def test_damage_between_opening_and_reading_is_said(folder):
    open_network(folder)
    network = open_network(folder)
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"x")
    with pytest.raises(RuntimeError, match=r"key\.network was damaged while it was in use"):
        network.get()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda held: pickle.loads(pickle.dumps(held))])
def test_lazy_networks_go_along_in_copies(folder, trained, way):
    open_network(folder)
    twin = way(open_network(folder))
    shutil.rmtree(folder)
    assert twin.summary == "summary"
    assert_is(twin.get(), trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_of_every_precision(tmp_path, dtype):
    backbone = load_backbone(tiny_config("bert", vocab_size=50), "text")
    network = MultiExitNetwork(backbone, 3, "mean", 0.1).eval()
    nn.Module.to(network, dtype)
    NetworkFiles(ready(None, network)).write(tmp_path)
    found = open_network(tmp_path).get()
    assert {weight.dtype for weight in weights(found).values()} == {dtype}
    for name, weight in weights(found).items():
        assert torch.equal(weight, weights(network)[name])


def test_threads_read_once():
    calls, barrier, found = [], threading.Barrier(4), []
    network = LazyNetwork("summary", lambda: calls.append(1) or object())

    def ask():
        barrier.wait()
        found.append(network.get())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(map(id, found))) == 1
