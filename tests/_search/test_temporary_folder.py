"""Temporary stores: whose they are, and when they go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sklearn_epee._search import temporary_folder as module
from sklearn_epee._search.temporary_folder import has_owner, temporary_folder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cleans its folder by itself")

# Makes its temporary store, says where it is, and waits to be told what to do.
# The module by itself, as the package would import torch.
PROGRAM = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.temporary_folder(), flush=True)
if sys.stdin.readline().strip() == "be killed":
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_owned", {})
    temporary_folder.cache_clear()
    yield tmp_path
    temporary_folder.cache_clear()


@pytest.fixture
def other_process(temporary):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, module.__file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    process.folder = Path(process.stdout.readline().strip())
    yield process
    if process.poll() is None:
        process.communicate("end")


def test_a_folder_of_a_living_process_stays(other_process):
    # By a lock: in another container the number of its process may mean another one, or none.
    ours = temporary_folder()
    assert ours != other_process.folder
    assert ours.is_dir()
    assert other_process.folder.is_dir()
    assert has_owner(ours)
    assert has_owner(other_process.folder)


def test_a_folder_of_a_killed_process_is_swept(other_process):
    other_process.communicate("be killed")
    assert other_process.folder.is_dir()
    assert not has_owner(other_process.folder)
    ours = temporary_folder()
    assert set(ours.parent.iterdir()) == {ours, module._lock_file(ours)}


def test_a_folder_goes_with_its_process(other_process, temporary):
    other_process.communicate("end")
    assert not list(temporary.iterdir())
    assert not has_owner(other_process.folder)


def test_a_folder_of_whom_nothing_is_known_stays(temporary):
    somebodys = temporary / "sklearn-epee-1-aaaa"
    somebodys.mkdir()
    temporary_folder()
    assert somebodys.is_dir()


def test_a_forked_child_leaves_its_parents_folder_alone_and_has_its_own():
    ours = temporary_folder()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            module._remove(ours)  # as at the end of the process
            theirs = temporary_folder()
            code = 0 if theirs != ours and theirs.is_dir() and has_owner(ours) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ours.is_dir()
    assert has_owner(ours)


def test_no_temporary_folder_at_all_is_said(temporary, monkeypatch):
    (temporary / "file").touch()
    monkeypatch.setattr(module.tempfile, "tempdir", str(temporary / "file"))
    with pytest.warns(RuntimeWarning, match="No temporary folder .* memory="):
        assert temporary_folder() is None
