"""What a checkpoint is: by content, by commit, not by place."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from transformers import BertConfig, PreTrainedTokenizerFast

from sklearn_epee import EPEEClassifier
from sklearn_epee._search import sources as module
from sklearn_epee._search.fingerprint import fingerprint
from sklearn_epee._search.sources import source_identity
from tests.checkpoints import tiny_tokenizer


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_a_folder_counts_by_its_files(checkpoint, tmp_path):
    before = source_identity(checkpoint)
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    assert source_identity(moved) == source_identity(str(moved)) == before
    (moved / "1_Pooling" / "config.json").write_text("[]")
    assert source_identity(moved) != before
    (checkpoint / "another.json").write_text("{}")
    assert source_identity(checkpoint) != before


def test_a_folder_of_checkpoints_is_not_read(checkpoint, tmp_path, monkeypatch):
    before = source_identity(checkpoint)

    def refuse(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(module, "file_digest", refuse)
    assert source_identity(tmp_path) == str(tmp_path)
    with pytest.raises(AssertionError, match="was read"):
        source_identity(checkpoint)
    with pytest.raises(ValueError, match="backbone"):
        EPEEClassifier(str(tmp_path)).fit(["a", "b"], [0, 1])
    monkeypatch.undo()
    assert source_identity(checkpoint) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_files_may_be_in_another_encoding(checkpoint):
    before = source_identity(checkpoint)
    (checkpoint / os.fsdecode(b"\xe9tude.txt")).write_text("notes")
    assert source_identity(checkpoint) != before


def test_a_hub_id_counts_with_its_commit(monkeypatch, tmp_path):
    for commit in ("one", "two"):
        found = tmp_path / "snapshots" / commit / "config.json"
        monkeypatch.setattr(module, "hf_hub_download", lambda *_, found=found: str(found))
        assert source_identity("somebody/something") == f"somebody/something@{commit}"


@pytest.mark.parametrize("name", ["somebody/something", "not a valid id!", "x" * 300])
def test_a_hub_id_out_of_reach_counts_by_its_name(name):
    # The tests run without a network.
    assert source_identity(name) == name


def test_objects_count_by_content_and_by_the_code_of_their_class():
    class Tokenizer(PreTrainedTokenizerFast):
        def encode(self, text):
            return []

    plain = tiny_tokenizer("bert")
    own = Tokenizer(tokenizer_object=plain.backend_tokenizer)
    prints = {fingerprint(source_identity(one)) for one in (plain, own)}
    assert prints == {
        fingerprint(source_identity(tiny_tokenizer("bert"))),
        fingerprint(source_identity(Tokenizer(tokenizer_object=plain.backend_tokenizer))),
    }
    assert len(prints) == 2


def test_configurations_count_by_content():
    one, same, other = BertConfig(), BertConfig(), BertConfig(hidden_size=48)
    assert source_identity(one) == source_identity(same) != source_identity(other)
    assert source_identity(None) is None
