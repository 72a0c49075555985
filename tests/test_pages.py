"""The snippets of the documentation and the README run, page by page, with tiny networks."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.frozen import FrozenEstimator

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee.datasets import make_supplement_notes

from .checkpoints import make_checkpoint
from .classifiers import tiny_text_classifier
from .small_world import small_world  # noqa: F401 - a fixture
from .tagged import tagged_sentences, tiny_token_classifier

ROOT = Path(__file__).parent.parent
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    if SNIPPET.search(path.read_text("utf-8"))
)
# What a page ends with that other tests run, from which heading on.
TESTED_APART = {"sharing_models": "## MLflow"}
# Pages whose snippets need what a test machine lacks, and why.
LEFT_OUT = {"scale": "needs a cluster; tested by itself"}
for stem, needed in {
    "interoperability": ("optuna", "sklearn.callback"),
    "sharing_models": ("onnx", "onnxruntime"),
}.items():
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        LEFT_OUT[stem] = f"needs {' and '.join(missing)}"
if why_not_int8():
    LEFT_OUT["int8"] = f"no 8-bit products here: {why_not_int8()}"
LABELS = ("dose", "effect", "drug")

# Networks that hardly learned anything have much to warn of.
pytestmark = pytest.mark.filterwarnings("ignore")


def sentences(text):
    """Return the spans of the sentences: a splitter as users have one."""
    return [(match.start(), match.end()) for match in re.finditer(r"[^.]+\.", text)]


def write_files(folder):
    """Write the files that snippets read: a table, images in folders, annotated notes."""
    notes, status = make_supplement_notes(24, random_state=0)
    rows = [
        f'"{text}",{label},{i % 12}'
        for i, (text, label) in enumerate(zip(notes, status, strict=True))
    ]
    (folder / "notes.csv").write_text("\n".join(["TEXT,ICU,SUBJECT_ID", *rows]), encoding="utf-8")
    draw = np.random.default_rng(0)
    for number in range(20):
        path = (
            folder
            / "scans"
            / ("benign", "malignant")[number % 2]
            / f"patient{number // 2}_{number}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    annotated = folder / "annotations"
    annotated.mkdir()
    for number in range(6):
        (annotated / f"note{number}.txt").write_text(
            "Aspirin helps warfarin. Zinc is safe.", "utf-8"
        )
        marks = "T1\tDrug 0 7\tAspirin\nT2\tDrug 14 22\twarfarin\nT3\tDrug 24 28\tZinc\n"
        relation = "R1\teffect Arg1:T1 Arg2:T2\n" if number % 2 else ""
        (annotated / f"note{number}.ann").write_text(marks + relation, "utf-8")


def write_paper_checkpoint(folder):
    """Write a checkpoint in the layout of the paper's code, and return its path."""
    folder = make_checkpoint("bert", folder)
    state = load_file(folder / "model.safetensors")
    width = next(iter(state.values())).shape[-1]
    for layer in range(3):
        state[f"classifiers.{layer}.weight"] = torch.zeros(4, width)
        state[f"classifiers.{layer}.bias"] = torch.zeros(4)
    save_file(state, folder / "model.safetensors")
    return folder


def names(page):
    """Return the names that the snippets of a page take from the reader's own work."""
    if page == "README":
        return {}
    X, y = make_supplement_notes(160, random_state=1)
    if page == "several_labels":
        draw = np.random.default_rng(0)
        y = draw.integers(0, 2, (len(X), len(LABELS)))
    parts = ("train", "tune", "held_out", "test")
    found = {"my_splitter": sentences}
    for number, part in enumerate(parts):
        found[f"X_{part}"] = X[number::4]
        found[f"y_{part}"] = y[number::4]
    found["long_notes"] = [" ".join(X[i : i + 8]) for i in range(0, 80, 4)]
    found["y_long"] = y[0:80:4]
    found |= {"X": X, "y": y, "X_calibration": X[2::4], "X_new": X[3::4]}
    if page in ("monitoring", "serving", "sharing_models"):
        clf = tiny_text_classifier().fit(X[::4], y[::4])
        tuned = TunedExitPolicyClassifierCV(FrozenEstimator(clf)).fit(X[1::4], y[1::4])
        found |= {"clf": clf, "tuned": tuned, "estimator": tuned, "text": X[0]}
    if page == "serving":
        found["token_classifier"] = tiny_token_classifier().fit(*tagged_sentences(20))
    return found


def put_hub(folder, monkeypatch):
    """Let uploads to the hub go to a folder, and downloads come from there."""

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **_):
            shutil.copytree(folder_path, folder)
            return type("Commit", (), {"commit_url": "https://hub/commit"})

    # Classes are saved by their names, so they must be those that have these names.
    monkeypatch.setattr("sklearn_epee.EPEEClassifier", EPEEClassifier)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))


def few_trials(monkeypatch):
    """Let optuna try fewer policies than a page does."""
    optuna = importlib.import_module("optuna")
    optimize = optuna.Study.optimize
    monkeypatch.setattr(optuna.Study, "optimize", lambda study, made, **_: optimize(study, made, 3))


async def run_snippets(text, page, space):
    """Run the snippets of a page, those too that await outside of a function."""
    for snippet in SNIPPET.finditer(text):
        line = text[: snippet.start()].count("\n") + 1
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile("\n" * line + snippet[1], str(page), "exec", flags)
        awaited = eval(code, space)  # noqa: S307
        if inspect.isawaitable(awaited):
            await asyncio.wait_for(awaited, 60)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page, small_world, tmp_path, monkeypatch):  # noqa: F811
    if page.stem in LEFT_OUT:
        pytest.skip(LEFT_OUT[page.stem])
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8").split(TESTED_APART.get(page.stem, "\0"))[0]
    space = names(page.stem) | {"__name__": "__main__"}
    if "from_paper_checkpoint" in text:
        space["folder"] = write_paper_checkpoint(tmp_path / "paper")
    if "push_to_hub" in text:
        put_hub(tmp_path / "hub", monkeypatch)
    if "import optuna" in text:
        few_trials(monkeypatch)
    asyncio.run(run_snippets(text, page, space))
