"""Files of trained networks: whole or refused, and read when they are needed."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

from sklearn_epee._nn import network_file
from sklearn_epee._nn.network_file import DamagedError, LazyNetwork, open_entry, ready, to_parts

VALUE = {
    "weights": [np.arange(5, dtype=np.uint8), np.arange(1000, dtype=np.float32)],
    "words": ["iron", "zinc"],
    "nothing": np.empty(0, dtype=np.uint8),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "key.network"
    path.write_bytes(b"".join(to_parts(ready("summary", VALUE))))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows with every network that is read."""
    calls = []
    decode = network_file._decode
    monkeypatch.setattr(
        network_file, "_decode", lambda content: (calls.append(1), decode(content))[1]
    )
    return calls


def assert_is_the_value(found):
    assert found.keys() == VALUE.keys()
    for name in ("weights", "nothing"):
        np.testing.assert_equal(found[name], VALUE[name])
    assert found["words"] == VALUE["words"]


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_written_is_read(path, times):
    for _ in range(times):
        held = open_entry(path)
        assert held.summary == "summary"
        assert_is_the_value(held.get())
        assert held.get() is held.get()


def test_nothing_is_read_before_it_is_needed(path, decoded):
    held = [open_entry(path) for _ in range(3)]
    assert [one.summary for one in held] == ["summary"] * 3
    assert not decoded
    held[2].get()
    held[2].get()
    assert len(decoded) == 1


def test_weights_are_aligned_and_belong_to_their_reader(path):
    open_entry(path)
    first, second = open_entry(path).get(), open_entry(path).get()
    for found in (first, second):
        for part in found["weights"]:
            assert part.flags.writeable
            assert part.flags.aligned
    first["weights"][1][:] = 0
    assert_is_the_value(second)
    assert_is_the_value(open_entry(path).get())


def test_a_file_may_go_before_its_network_is_read(path):
    first, second = open_entry(path), open_entry(path)
    path.unlink()
    path.write_bytes(b"something else")
    assert_is_the_value(first.get())
    assert_is_the_value(second.get())


def test_many_that_wait_do_not_use_up_the_files_of_the_process(path, monkeypatch, decoded):
    monkeypatch.setattr(network_file, "_MOST_WAITING", 2)
    open_entry(path)
    held = [open_entry(path) for _ in range(5)]
    assert len(decoded) == 3
    for one in held:
        assert_is_the_value(one.get())
    assert len(decoded) == 5
    del held
    again = [open_entry(path) for _ in range(2)]
    assert len(decoded) == 5
    assert_is_the_value(again[0].get())


@pytest.mark.parametrize("damage", ["empty", "cut", "head", "weights", "longer"])
@pytest.mark.parametrize("verified", [False, True])
def test_damage_is_seen_when_the_file_is_opened(path, damage, verified):
    if verified:
        open_entry(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:300],
            "head": content[:50] + bytes([content[50] ^ 1]) + content[51:],
            "weights": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
            "longer": content + b"!",
        }[damage]
    )
    with pytest.raises(DamagedError):
        open_entry(path)


def test_damage_between_opening_and_reading_is_said(path):
    open_entry(path)
    held = open_entry(path)
    with path.open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"x")
    with pytest.raises(RuntimeError, match=r"key\.network was damaged while it was in use"):
        held.get()


def test_no_file_no_network(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_entry(tmp_path / "absent")


@pytest.mark.parametrize("way", [copy.deepcopy, lambda held: pickle.loads(pickle.dumps(held))])
def test_what_is_held_goes_along_in_copies(path, way):
    open_entry(path)
    twin = way(open_entry(path))
    path.unlink()
    assert twin.summary == "summary"
    assert_is_the_value(twin.get())


def test_threads_read_once():
    calls, barrier, found = [], threading.Barrier(4), []
    held = LazyNetwork("summary", lambda: calls.append(1) or object())

    def ask():
        barrier.wait()
        found.append(held.get())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(map(id, found))) == 1
