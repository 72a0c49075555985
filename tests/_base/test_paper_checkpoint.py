"""Folders that the paper's own code wrote give estimators with the same predictions."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from torch import Tensor, nn

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee.model_selection import TunedExitPolicyClassifierCV
from tests.checkpoints import make_checkpoint

TEXT = ("bert", "albert", "gpt2")
NAMES = ["stopped", "current", "unknown"]


class ReferenceModel(nn.Module):
    """The computation of the paper's code: one classifier a layer behind one pooler.

    Written from the description of PABEE, on transformers' own hidden states.
    """

    def __init__(self, family: str, folder: Path, n_classes: int) -> None:
        super().__init__()
        self.family = family
        options = {"add_pooling_layer": False} if family == "vit" else {}
        self.base = transformers.AutoModel.from_pretrained(folder, **options).eval()
        config = self.base.config
        self.classifiers = nn.ModuleList(
            nn.Linear(config.hidden_size, n_classes) for _ in range(config.num_hidden_layers)
        )

    def read(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if self.family == "bert":
            return torch.tanh(self.base.pooler.dense(hidden[:, 0]))
        if self.family == "albert":
            return torch.tanh(self.base.pooler(hidden[:, 0]))
        if self.family == "gpt2":
            return self.base.ln_f(hidden[:, int(mask.sum()) - 1])
        return self.base.layernorm(hidden)[:, 0]

    @torch.no_grad()
    def staged(self, **one: Tensor) -> np.ndarray:
        """Return the probabilities of every layer for one sample, (M, K)."""
        hidden: list[Tensor] = []
        kind = {
            "bert": "BertLayer",
            "albert": "AlbertLayer",
            "gpt2": "GPT2Block",
            "vit": "ViTLayer",
        }
        blocks = [m for m in self.base.modules() if type(m).__name__ == kind[self.family]]
        hooks = [
            block.register_forward_hook(
                lambda _m, _a, out: hidden.append(out[0] if isinstance(out, tuple) else out)
            )
            for block in blocks
        ]
        self.base(**one)
        for hook in hooks:
            hook.remove()
        mask = one.get("attention_mask")
        rows = [head(self.read(h, mask)) for head, h in zip(self.classifiers, hidden, strict=True)]
        return torch.softmax(torch.cat(rows), dim=-1).numpy()


def reference_exit(staged: np.ndarray, tau: float, patience: int) -> int:
    """Return the exit layer by that code: agreements are counted from 0."""
    counter, before = 0, None
    for layer, proba in enumerate(staged, start=1):
        entropy = -(proba * np.log(proba)).sum() / np.log(len(proba))
        counter = counter + 1 if before is not None and proba.argmax() == before else 0
        before = proba.argmax()
        if entropy < tau or counter >= patience:
            return layer
    return len(staged)


def write_paper_checkpoint(
    family: str, folder: Path, *, names: list[str] | None = None, n_classes: int = 3
) -> ReferenceModel:
    make_checkpoint(family, folder, n_layers=4)
    torch.manual_seed(1)
    model = ReferenceModel(family, folder, n_classes)
    with torch.no_grad():
        for part in model.classifiers.parameters():
            part.normal_(std=0.3)
    prefix = {"gpt2": "transformer"}.get(family, family)
    state = {f"{prefix}.{name}": part for name, part in model.base.state_dict().items()}
    state |= {f"classifiers.{name}": part for name, part in model.classifiers.state_dict().items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    if names is not None:
        configure(folder, id2label={str(i): name for i, name in enumerate(names)})
    return model


def configure(folder: Path, **options: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def tokenized(folder: Path, text: str) -> dict[str, Tensor]:
    return dict(transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt"))


# -------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("family", TEXT)
def test_a_folder_predicts_what_that_code_predicts(family, tmp_path, texts):
    model = write_paper_checkpoint(family, tmp_path, names=NAMES)
    clf = EPEEClassifier.from_paper_checkpoint(tmp_path, max_length=64, precision="float32")
    short = [text[:60] for text in texts[:12]]
    staged = np.stack([model.staged(**tokenized(tmp_path, text)) for text in short])
    assert clf.classes_.tolist() == sorted(NAMES)
    order = np.argsort(NAMES)
    ours = np.stack(list(clf.staged_predict_proba(short)), axis=1)
    np.testing.assert_allclose(ours, staged[..., order], atol=1e-5)
    entropies = -(staged * np.log(staged)).sum(-1) / np.log(3)
    taus = [0.0, *np.quantile(entropies, [0.2, 0.4, 0.6]) + 1e-4]
    for tau in taus:
        for patience in (1, 2, 4):
            # Their patience p is p + 1 here.
            clf.set_params(tau=float(tau), patience=patience + 1)
            expected = [reference_exit(sample, tau, patience) for sample in staged]
            found = clf.predict_with_exits(short)
            assert found.exit_layer.tolist() == expected
            at = staged[np.arange(len(short)), np.array(expected) - 1][:, order]
            np.testing.assert_allclose(found.proba, at, atol=1e-5)


def test_a_vit_folder_predicts_what_that_code_predicts(tmp_path):
    model = write_paper_checkpoint("vit", tmp_path, names=NAMES)
    clf = EPEEImageClassifier.from_paper_checkpoint(tmp_path, precision="float32")
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    pixels = torch.from_numpy(((images / 255 - 0.5) / 0.5).astype(np.float32)).permute(0, 3, 1, 2)
    staged = np.stack([model.staged(pixel_values=one[None]) for one in pixels])
    ours = np.stack(list(clf.staged_predict_proba(images)), axis=1)
    np.testing.assert_allclose(ours, staged[..., np.argsort(NAMES)], atol=1e-5)
    grey = EPEEImageClassifier.from_paper_checkpoint(tmp_path, n_channels=1)
    assert grey.predict(images[..., :1]).shape == (6,)
    with pytest.raises(ValueError, match="channel"):
        clf.predict(images[..., :1])


def test_a_vit_with_a_pooler_shares_it(tmp_path):
    write_paper_checkpoint("vit", tmp_path)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    torch.manual_seed(3)
    pooler = nn.Linear(32, 32)
    state |= {f"vit.pooler.dense.{name}": part for name, part in pooler.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    clf = EPEEImageClassifier.from_paper_checkpoint(tmp_path)
    for head in clf.net_.module_.heads:
        assert torch.equal(head.dense.weight, pooler.weight)
    twin = pickle.loads(pickle.dumps(clf))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(clf.predict_proba(images), twin.predict_proba(images))


# ---------------------------------------------------------------------------- a fitted estimator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_paper_checkpoint("bert", tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*are longer than max_length")
def test_it_pickles_clones_tunes_and_goes_on(folder, notes):
    X, y = notes
    names = sorted(set(y))[:3]
    rows = [row for row, label in enumerate(y) if label in names]
    X, y = [X[row] for row in rows], [y[row] for row in rows]
    clf = EPEEClassifier.from_paper_checkpoint(folder, classes=names, max_epochs=1, random_state=0)
    assert (clf.n_layers_, clf.n_iter_, len(clf.history_)) == (4, 0, 0)
    assert (clf.backbone, clf.pooling, clf.tau) == (folder, "cls", 0.1)
    before = clf.predict_proba(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), before)
    assert not hasattr(clone(clf), "classes_")
    tuned = TunedExitPolicyClassifierCV(clf, cv="prefit", refit=False).fit(X, y)
    assert tuned.predict(X).shape == (len(X),)
    start = clf.net_.module_.heads[0].out.weight.clone()
    clf.set_params(warm_start=True, learning_rate=1e-9).fit(X, y)
    assert clf.n_iter_ == 1
    torch.testing.assert_close(clf.net_.module_.heads[0].out.weight, start, atol=1e-5, rtol=0)
    clf.set_params(warm_start=False).fit(X, y)
    assert (clf.net_.module_.heads[0].out.weight - start).abs().max() > 0.1


def test_loading_draws_nothing(folder):
    state = torch.get_rng_state()
    EPEEClassifier.from_paper_checkpoint(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_classes_without_names_are_their_numbers(folder):
    assert EPEEClassifier.from_paper_checkpoint(folder).classes_.tolist() == [0, 1, 2]
    given = EPEEClassifier.from_paper_checkpoint(folder, classes=[7, 3, 5])
    assert given.classes_.tolist() == [3, 5, 7]
    plain = EPEEClassifier.from_paper_checkpoint(folder)
    X = ["the patient takes zinc", "no rash"]
    expected = plain.predict_proba(X)[:, [1, 2, 0]]
    np.testing.assert_allclose(given.predict_proba(X), expected, atol=1e-6)


def test_pairs_of_texts(folder):
    clf = EPEEClassifier.from_paper_checkpoint(folder, pairs=True)
    assert clf.predict([("takes zinc", "no zinc")]).shape == (1,)
    with pytest.raises(ValueError, match="fitted on pairs of texts"):
        clf.predict(["takes zinc"])


def test_safetensors_and_shards(folder):
    expected = EPEEClassifier.from_paper_checkpoint(folder).predict_proba(["takes zinc"])
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    found = EPEEClassifier.from_paper_checkpoint(folder).predict_proba(["takes zinc"])
    np.testing.assert_array_equal(found, expected)
    state = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((state[::2], state[1::2]), start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(dict(part), folder / name, metadata={"format": "pt"})
        index |= {key: name for key, _ in part}
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    found = EPEEClassifier.from_paper_checkpoint(folder).predict_proba(["takes zinc"])
    np.testing.assert_array_equal(found, expected)


def test_as_a_backbone_its_heads_are_left_out(folder):
    names = load_backbone(folder, "text").state_dict()
    assert not any(name.startswith(("classifiers", "pooler")) for name in names)


# ------------------------------------------------------------------------------- what is refused


def change_weights(folder: Path, change: Any) -> None:
    path = folder / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def drop(*names: str) -> Any:
    return lambda state: [state.pop(name) for name in names]


REFUSED = [
    (drop("classifiers.3.weight", "classifiers.3.bias"), r"4 layers.*found numbers \[0, 1, 2\]"),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith("class")], "found none.*as backbone="),
    (drop("classifiers.2.bias"), r"found numbers \[0, 1, 3\]"),
    (lambda s: s.update({"classifiers.0.weight": torch.zeros(2, 32)}), "classifiers of one shape"),
    (lambda s: s.update({"classifiers.0.bias": torch.full((3,), torch.nan)}), "NaN or infinity"),
    (lambda s: s.update({"bert.pooler.dense.weight": torch.zeros(8, 32)}), r"\[8, 32\] features"),
    (drop("bert.encoder.layer.1.output.dense.bias"), r"missing \(1\): .*layer\.1"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_heads_that_do_not_add_up_are_refused(change, message, folder):
    change_weights(folder, change)
    with pytest.raises(ValueError, match=f"(?s)folder.*{message}"):
        EPEEClassifier.from_paper_checkpoint(folder)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b"], "classes must name the 3 classes"),
        (["a", "b", "a"], "more than once"),
        ([["a", "b", "c"]], "must name the 3"),
        (np.array(["a", 1, None], dtype=object), "one type"),
    ],
)
def test_classes_that_do_not_fit_are_refused(classes, message, folder):
    with pytest.raises(ValueError, match=message):
        EPEEClassifier.from_paper_checkpoint(folder, classes=classes)
    configure(folder, id2label={"0": "a", "1": "b"})
    with pytest.raises(ValueError, match=r"id2label .* must name the 3 .* Pass them as classes="):
        EPEEClassifier.from_paper_checkpoint(folder)


def test_parameters_that_do_not_fit_are_refused(folder):
    with pytest.raises(ValueError, match="pooling='mean' is not the pooling"):
        EPEEClassifier.from_paper_checkpoint(folder, pooling="mean")
    with pytest.raises(ValueError, match=r"head='bottleneck' is not .*; expected 'linear'"):
        EPEEClassifier.from_paper_checkpoint(folder, head="bottleneck")
    with pytest.raises(ValueError, match="patience"):
        EPEEClassifier.from_paper_checkpoint(folder, patience=0)
    with pytest.raises(TypeError, match="backbone cannot be given"):
        EPEEClassifier.from_paper_checkpoint(folder, backbone=folder)
    with pytest.raises(ValueError, match="is not a folder"):
        EPEEClassifier.from_paper_checkpoint(folder / "absent")
    with pytest.raises(ValueError, match="'bert' is a family for texts"):
        EPEEImageClassifier.from_paper_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"])
def test_damaged_weights_are_refused(content, folder):
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match="could not read the weights"):
        EPEEClassifier.from_paper_checkpoint(folder)
