"""Folders that are not what was written, and folders that want something else to be read."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from sklearn_epee import EPEEClassifier
from sklearn_epee._folders.files import FolderReader, new_folder
from sklearn_epee.exceptions import ModelFolderError


@pytest.fixture
def folder(tmp_path):
    with new_folder(tmp_path / "model", overwrite=False) as writer:
        writer.write_json("a.json", {"a": 1})
        writer.path("part/b.safetensors").write_bytes(b"weights")
        writer.write_manifest()
    return tmp_path / "model"


def change_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"].update(changes.pop("files", {}))
    manifest.update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, reason):
    with pytest.raises(ModelFolderError, match=reason):
        FolderReader(folder)


def test_what_was_written_is_read(folder):
    reader = FolderReader(folder)
    assert reader.names == ["a.json", "part/b.safetensors"]
    assert reader.document("a.json") == {"a": 1}
    assert reader.path("part/b.safetensors").read_bytes() == b"weights"
    with pytest.raises(ModelFolderError, match=r"there is no c\.json"):
        reader.path("c.json")


def test_damage_is_found(folder):
    path = folder / "part" / "b.safetensors"
    path.write_bytes(b"weightz")
    refused(folder, "checksum differs")
    path.write_bytes(b"weight")
    refused(folder, "has 6 bytes instead of 7")
    path.unlink()
    refused(folder, r"part/b\.safetensors is missing")


def test_a_manifest_names_no_pickle(folder):
    (folder / "model.pkl").write_bytes(b"")
    said = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    change_manifest(folder, files={"model.pkl": said})
    refused(folder, r"model\.pkl, which is not part of a model")


@pytest.mark.parametrize("name", ["model.pkl", "run.py", "part/code.py", "pytorch_model.bin"])
def test_files_that_the_manifest_lacks_are_refused(folder, name):
    (folder / name).write_bytes(b"")
    refused(folder, name)


def test_what_people_add_is_not_read(folder):
    for name in ("README.md", "LICENSE", ".gitattributes", "curve.png"):
        (folder / name).write_bytes(b"\xff")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    FolderReader(folder)


def test_another_layout_and_another_format(folder):
    change_manifest(folder, schema=99, sklearn_epee="7.0")
    refused(folder, r"written by sklearn_epee 7\.0 in version 99.*install a newer")
    change_manifest(folder, schema=0)
    refused(folder, "does not exist")
    change_manifest(folder, schema="1")
    refused(folder, "expected int")
    change_manifest(folder, format="other", schema=1)
    refused(folder, "not one of sklearn_epee")


def test_foreign_folders_say_where_they_belong(tmp_path):
    refused(tmp_path / "nothing", "no such folder")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, r"no manifest\.json.*given as backbone=")
    with pytest.raises(ModelFolderError, match="cannot be loaded: it has no manifest"):
        EPEEClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.json", "/etc/passwd", "part/../../secret.json", "a\x00b", "", "c:\\x", "~"]
)
def test_names_that_leave_the_folder_are_refused(folder, name):
    secret = folder.parent / "secret.json"
    secret.write_text("{}")
    said = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    change_manifest(folder, files={name: said})
    refused(folder, "which is outside")


def test_links_are_not_followed(folder):
    secret = folder.parent / "secret.json"
    secret.write_bytes((folder / "a.json").read_bytes())
    (folder / "a.json").unlink()
    (folder / "a.json").symlink_to(secret)
    refused(folder, "is a link")


def test_folders_that_are_links_are_not_followed(folder):
    (folder / "part").rename(folder.parent / "elsewhere")
    (folder / "part").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(ModelFolderError):
        FolderReader(folder)


def test_a_snapshot_may_link_to_its_own_blobs_alone(folder):
    snapshot = folder.parent / "snapshots" / "abc"
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    (folder.parent / "blobs").mkdir()
    (snapshot / "a.json").rename(folder.parent / "blobs" / "1")
    (snapshot / "a.json").symlink_to(folder.parent / "blobs" / "1")
    FolderReader(snapshot)
    (folder.parent / "blobs" / "1").rename(folder.parent / "1")
    (snapshot / "a.json").unlink()
    (snapshot / "a.json").symlink_to(folder.parent / "1")
    refused(snapshot, "is a link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_no_file(folder):
    (folder / "a.json").unlink()
    os.mkfifo(folder / "a.json")
    refused(folder, "is not a regular file")


def test_an_error_in_the_block_writes_nothing(tmp_path):
    def fail():
        with new_folder(tmp_path / "model", overwrite=False) as writer:
            writer.write_json("a.json", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_model_is_replaced_with_all_of_its_files(folder):
    with new_folder(folder, overwrite=True) as writer:
        writer.write_json("c.json", {})
        writer.write_manifest()
    assert FolderReader(folder).names == ["c.json"]
    assert not (folder / "a.json").exists()
