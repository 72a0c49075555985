"""The store of trained networks: what it keeps, and that it never costs a training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import joblib
import pytest
from filelock import FileLock

from sklearn_epee._search.network_file import ready, size_on_disk
from sklearn_epee._search.store import NetworkStore, store_for
from tests.limits import largest_file


def fetch(store, key, value=b"?" * 1000):
    """Fetch a value, and tell whether it had to be made."""
    made = []

    def make():
        made.append(key)
        return ready(len(value), value)

    network = store.fetch_or_train(key, make, lambda _: True)
    assert network.summary == len(value)
    assert network.get() == value
    return bool(made)


def test_the_store_is_bounded_and_forgets_what_was_used_longest_ago(tmp_path):
    store = NetworkStore(tmp_path / "store", max_bytes=10**6)
    fetch(store, "a")
    size = size_on_disk(store.folder / "a.network")
    store = NetworkStore(store.folder, max_bytes=int(3.5 * size))
    assert all(fetch(store, key) for key in "bc")
    assert not fetch(store, "a")
    assert fetch(store, "d")  # in place of b
    assert not any(fetch(store, key) for key in "acd")
    assert sum(map(size_on_disk, store.folder.glob("*.network"))) <= 3.5 * size
    assert fetch(store, "b")


def test_a_network_larger_than_the_store_is_not_kept_and_said(tmp_path):
    store = NetworkStore(tmp_path / "store", max_bytes=3500)
    fetch(store, "small")
    with pytest.warns(RuntimeWarning, match="does not fit into the temporary store.*memory="):
        fetch(store, "large", b"?" * 5000)
    assert not fetch(store, "small")


def test_what_is_not_worth_keeping_is_not_kept(tmp_path):
    store = NetworkStore(tmp_path / "store")
    half = store.fetch_or_train("key", lambda: ready(4, b"half"), lambda _: False)
    assert half.get() == b"half"
    assert fetch(store, "key", b"whole")


def test_a_folder_without_a_bound_keeps_everything(tmp_path):
    store = NetworkStore(tmp_path / "store")
    assert all(fetch(store, str(key)) for key in range(20))
    assert not any(fetch(store, str(key)) for key in range(20))


# ------------------------------------------------------------------------- what cannot be written


@pytest.fixture(params=[None, 10**6], ids=["folder", "temporary"])
def store(request, tmp_path):
    return NetworkStore(tmp_path / "store", max_bytes=request.param)


def test_a_full_disk_costs_no_training(store):
    message = r"memory: .* cannot be kept in .*memory= a folder"
    with largest_file(2000), pytest.warns(RuntimeWarning, match=message):
        assert fetch(store, "large", b"?" * 5000)
    assert not [path for path in store.folder.iterdir() if path.suffix != ".lock"]
    assert fetch(store, "large", b"?" * 5000)
    assert not fetch(store, "large", b"?" * 5000)


def test_a_store_that_is_removed_in_training_costs_no_training(store):
    def make():
        shutil.rmtree(store.folder)
        return ready(1, b"!")

    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        network = store.fetch_or_train("key", make, lambda _: True)
    assert network.get() == b"!"
    assert fetch(store, "key")
    assert not fetch(store, "key")


def test_what_cannot_be_pickled_costs_no_training(store):
    numbers = (number for number in range(3))
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        network = store.fetch_or_train("key", lambda: ready(1, numbers), lambda _: True)
    assert next(network.get()) == 0
    assert [path.suffix for path in store.folder.iterdir()] in ([], [".lock"])


@pytest.fixture
def read_only(monkeypatch):
    """Refuse every new file and folder, as a disk that is mounted for reading does."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    def start():
        for owner, name in ((os, "mkdir"), (os, "utime"), (os, "rename"), (FileLock, "acquire")):
            monkeypatch.setattr(owner, name, refuse)
        make = Path.mkdir
        monkeypatch.setattr(
            Path, "mkdir", lambda path, *a, **k: None if path.is_dir() else make(path, *a, **k)
        )

    return start


def test_a_read_only_folder_gives_what_is_there_and_says_what_it_cannot_keep(store, read_only):
    fetch(store, "there")
    read_only()
    assert not fetch(store, "there")
    with pytest.warns(RuntimeWarning, match=r"memory: .* cannot be kept.*Read-only"):
        assert fetch(store, "absent")


def test_a_folder_of_the_user_that_cannot_be_made_is_refused_before_the_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"memory: the folder .* cannot be created"):
        fetch(NetworkStore(tmp_path / "file" / "store"), "key")


def test_a_temporary_folder_that_cannot_be_made_costs_no_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="cannot be kept in the temporary store"):
        assert fetch(NetworkStore(tmp_path / "file" / "store", max_bytes=10**6), "key")


# ------------------------------------------------------------------------------------- the memory


def test_no_memory_no_store():
    assert store_for(None, None) is None
    assert store_for(joblib.Memory(None), None) is None


@pytest.mark.parametrize("memory", ["", "\0"])
def test_some_names_are_no_folder(memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"memory=.*expected 'auto', a folder"):
        store_for(memory, None)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_taken_as_it_is(tmp_path):
    for memory in (tmp_path, str(tmp_path), joblib.Memory(tmp_path, verbose=0)):
        assert store_for(memory, None).folder == tmp_path / "sklearn_epee"
