"""Estimators on a GPU: trained there, they answer as on a CPU, in this process and in others."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from sklearn_epee import TunedExitPolicyClassifierCV
from sklearn_epee._nn.batch_scheduler import BatchScheduler
from sklearn_epee.datasets import make_case_reports, make_supplement_notes
from sklearn_epee.serving import AsyncPredictor
from tests.serving.conftest import ask_all, spread_exits

from .classifiers import tiny_image_classifier, tiny_multimodal_classifier, tiny_text_classifier
from .tagged import tagged_sentences, tiny_token_classifier

HAS_GPU = torch.cuda.is_available()
# Without one, `SKLEARN_EPEE_GPU=cpu pytest tests/test_gpu.py` shows that the tests themselves run.
DEVICE = os.environ.get("SKLEARN_EPEE_GPU", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not HAS_GPU, reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*longer than max_"),
]
CLOSE = 1e-4
ROOT = Path(__file__).parent.parent


def _texts():
    notes = make_supplement_notes(60, random_state=0)
    return tiny_text_classifier(device=DEVICE), list(notes[0]), notes[1]


def _labels():
    model, X, y = _texts()
    names = np.unique(y)
    return model, X, np.column_stack([y == names[0], np.arange(len(y)) % 3 == 0]).astype(int)


def _windows():
    model, X, y = _texts()
    model.set_params(long_texts="windows", window_length=12, max_windows=4)
    return model, [f"{text} {other}" for text, other in zip(X, X[::-1], strict=True)], y


def _images():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.integers(0, 80, (60, 8, 8, 1)) + 60 * y[:, None, None, None]
    return tiny_image_classifier(device=DEVICE), X.astype(np.uint8), y


def _words():
    return tiny_token_classifier(device=DEVICE), *tagged_sentences()


def _both():
    X, y = make_case_reports(40, missing_fraction=0.3, random_state=0)
    return tiny_multimodal_classifier(first="text", device=DEVICE), X, y


MAKERS = {
    "texts": _texts,
    "labels": _labels,
    "windows": _windows,
    "images": _images,
    "words": _words,
    "both": _both,
}
CLASSIFIERS = [name for name in MAKERS if name != "words"]


@pytest.fixture(scope="module")
def fits():
    """Classifiers that were fitted on the GPU, and their samples, made when asked for."""
    found = {}

    def fitted(name):
        if name not in found:
            model, X, y = MAKERS[name]()
            found[name] = model.fit(X, y), X, y
        model, X, y = found[name]
        return copy.copy(model), X, y

    return fitted


def staged(model, X):
    return np.stack([np.asarray(part) for part in model.staged_predict_proba(X)], axis=1)


def on_cpu(model):
    return pickle.loads(pickle.dumps(model)).set_params(device="cpu")


def fit_on_gpu(model, X, y):
    """Fit a classifier, and see that the GPU was used."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    model.fit(X, y)
    if DEVICE == "cuda":
        assert torch.cuda.max_memory_allocated() > before
    return model


def run_python(*arguments, **environment):
    """Run Python in another process; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_network_from_a_gpu_says_the_same_on_a_cpu(fits, name):
    model, X, _ = fits(name)
    here = on_cpu(model)
    # Attention in float32 differs in the fourth digit where many positions are read.
    close = 4 * CLOSE if name == "windows" else CLOSE
    np.testing.assert_allclose(staged(model, X), staged(here, X), atol=close)
    if name != "labels":
        model, here = spread_exits(model, X), spread_exits(here, X)
    for rule in ({"tau": 0.5, "patience": None}, {"tau": 0.0, "patience": 2}):
        ours = model.set_params(**rule).predict_with_exits(X)
        theirs = here.set_params(**rule).predict_with_exits(X)
        np.testing.assert_array_equal(ours.exit_layer, theirs.exit_layer)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    layer = model.n_layers_ - 1
    np.testing.assert_allclose(
        model.predict_proba_at_layer(X, layer), here.predict_proba_at_layer(X, layer), atol=close
    )


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_words_are_the_same_on_a_cpu(fits, token_exit):
    model, X, _ = fits("words")
    for rule in ({"tau": 0.5, "patience": None}, {"tau": 0.0, "patience": 2}):
        ours = model.set_params(token_exit=token_exit, **rule)
        assert ours.predict(X) == on_cpu(ours).predict(X)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_batches_change_nothing(fits, name, batch_size):
    model, X, _ = fits(name)
    expected = staged(model, X)
    model.set_params(predict_batch_size=batch_size)
    for _ in range(3):  # later runs replay captured graphs
        np.testing.assert_allclose(staged(model, X), expected, atol=CLOSE)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bfloat16_is_close(fits, name):
    model, X, _ = fits(name)
    expected = staged(model, X)
    found = staged(model.set_params(precision="bfloat16"), X)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_single_texts_keep_their_graphs_apart(fits):
    """Two classifiers, called in turns, many times: graphs are captured meanwhile."""
    model, X, y = fits("texts")
    other = tiny_text_classifier(device=DEVICE, random_state=1).fit(X, y)
    expected = [staged(one, X[:4]) for one in (model, other)]
    for _ in range(25):
        for one, proba in zip((model, other), expected, strict=True):
            for row in range(4):
                np.testing.assert_allclose(
                    staged(one, X[row : row + 1]), proba[row : row + 1], atol=CLOSE
                )


def test_threads_share_a_classifier(fits):
    model, X, _ = fits("texts")
    expected = staged(model, X)
    failed = []

    def ask():
        for row in range(20):
            found = staged(model, X[row : row + 1])
            if not np.allclose(found, expected[row : row + 1], atol=CLOSE):
                failed.append(row)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_int8_is_refused(fits):
    if DEVICE != "cuda":
        pytest.skip("a CPU may have such products")
    model, X, _ = fits("texts")
    with pytest.raises(ValueError, match=r"only supported on CPUs.*device='cpu'"):
        model.set_params(precision="int8").predict(X)


# --------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trainings_repeat_themselves(name, precision):
    """Up to the order of additions, which attention's gradients leave open on a GPU."""
    weights = []
    for _ in range(2):
        model, X, y = MAKERS[name]()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*longer than max_")
            # Without the memory of trainings, which would make the second one needless.
            model.set_params(precision=precision, max_epochs=1, memory=None)
            fit_on_gpu(model, X, y)
        weights.append(model.net_.module_.state_dict())
    assert all(torch.isfinite(part).all() for part in weights[0].values())
    close = {"float32": 2e-3, "bfloat16": 5e-3}[precision]
    for key, part in weights[0].items():
        torch.testing.assert_close(part, weights[1][key], atol=close, rtol=0.01, msg=key)


def test_a_training_on_a_gpu_ends_near_that_on_a_cpu(fits):
    model, X, y = fits("texts")
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = copy.deepcopy(model.backbone)
    config.update(no_dropout)
    found = [
        staged(
            tiny_text_classifier(device=device, memory=None).set_params(backbone=config).fit(X, y),
            X,
        )
        for device in (DEVICE, "cpu")
    ]
    assert np.abs(found[0] - found[1]).max() < 0.02


@pytest.mark.parametrize(
    "exit_training", ["mixed", "distillation", "mixed+distillation", "detached"]
)
def test_all_exit_trainings_run(exit_training):
    model, X, y = _texts()
    model.set_params(exit_training=exit_training, max_epochs=1).fit(X, y)
    assert np.isfinite(staged(model, X)).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"early_stopping": True, "validation_fraction": 0.2},
        {"head_init": "regression"},
        {"class_weight": "balanced"},
        {"pooling": "mean"},
    ],
)
def test_options_of_trainings_run(parameters):
    model, X, y = _texts()
    fit_on_gpu(model.set_params(**parameters, memory=None), X, y)
    assert np.isfinite(staged(model, X)).all()


def test_policies_are_tuned_and_searched(fits):
    model, X, y = fits("texts")
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(model)).fit(X, y)
    assert len(tuned.predict(X)) == len(X)
    search = GridSearchCV(
        tiny_text_classifier(device=DEVICE, max_epochs=1), {"tau": [0.1, 0.9]}, cv=2
    ).fit(X, y)
    assert len(search.predict(X)) == len(X)


# ------------------------------------------------------------------------ other processes


READ_WITHOUT_GPU = """
import pickle, sys, warnings
from pathlib import Path
import numpy as np, torch

warnings.simplefilter("ignore")
assert not torch.cuda.is_available()
for folder in Path(sys.argv[1]).iterdir():
    model, X, expected = pickle.loads((folder / "model.pickle").read_bytes())
    for one in (model, type(model).from_pretrained(folder / "folder")):
        found = one.predict(X)
        same = found == expected if isinstance(found, list) else np.array_equal(found, expected)
        assert same, (folder.name, found, expected)
"""


def test_files_are_read_where_there_is_no_gpu(fits, tmp_path):
    for name in MAKERS:
        model, X, _ = fits(name)
        folder = tmp_path / name
        model.set_params(device="auto").save_pretrained(folder / "folder")
        (folder / "model.pickle").write_bytes(pickle.dumps((model, X, model.predict(X))))
    run_python("-c", READ_WITHOUT_GPU, str(tmp_path), CUDA_VISIBLE_DEVICES="")


def test_a_classifier_from_a_cpu_goes_to_the_gpu(fits):
    _, X, y = fits("texts")
    model = tiny_text_classifier(device="cpu").fit(X, y)
    expected = staged(model, X)
    np.testing.assert_allclose(staged(model.set_params(device=DEVICE), X), expected, atol=CLOSE)


# ------------------------------------------------------------------------------------ serving


@pytest.mark.parametrize("name", ["texts", "images", "both", "windows"])
def test_requests_are_answered_as_predict_does(fits, name):
    model, X, _ = fits(name)
    model = spread_exits(model, X)
    expected = model.predict_with_exits(X)
    with AsyncPredictor(model) as server:
        for _ in range(3):
            found = ask_all(server, list(X))
            np.testing.assert_array_equal([one.exit_layer for one in found], expected.exit_layer)
            np.testing.assert_array_equal([one.label for one in found], expected.labels)


def test_words_are_served(fits):
    model, X, _ = fits("words")
    with AsyncPredictor(model) as server:
        assert [one.spans for one in ask_all(server, X)] == model.predict(X)


# ------------------------------------------------------------------------------------- memory


def test_a_full_gpu_halves_its_batches(fits, monkeypatch):
    model, X, _ = fits("texts")
    expected = staged(model, X)
    failed = []
    original = BatchScheduler._make_room

    def noted(self, *args):
        failed.append(args)
        return original(self, *args)

    monkeypatch.setattr(BatchScheduler, "_make_room", noted)
    if DEVICE != "cuda":
        pytest.skip("fills the memory of a GPU")
    model.set_params(predict_batch_size=400 * len(X))
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 100e6) / total)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = staged(model, 400 * X)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert failed
    np.testing.assert_allclose(found, np.tile(expected, (400, 1, 1)), atol=CLOSE)


def test_what_was_captured_is_let_go(fits):
    if DEVICE != "cuda":
        pytest.skip("measures the memory of a GPU")
    _, X, y = fits("texts")
    sizes = []
    for seed in range(4):
        one = tiny_text_classifier(device=DEVICE, random_state=seed, max_epochs=1, memory=None).fit(
            X, y
        )
        for _ in range(20):
            staged(one, X[:1])
        del one
        gc.collect()
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_allocated())
    assert sizes[-1] <= sizes[1] + 2**20


# --------------------------------------------------------------------------------- processes


def test_a_launch_of_one_process_trains_on_its_gpu(tmp_path):
    """nccl takes one process a GPU, so that one GPU can show no more."""
    pytest.importorskip("accelerate")
    script = tmp_path / "train.py"
    script.write_text(
        """
import numpy as np, torch
from sklearn_epee.distributed import data_parallel
from tests.classifiers import tiny_text_classifier
from sklearn_epee.datasets import make_supplement_notes

X, y = make_supplement_notes(40, random_state=0)
with data_parallel():
    model = tiny_text_classifier(max_epochs=1, memory=None).fit(list(X), y)
print("trained on a GPU:", torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0)
assert np.isfinite(model.predict_proba(list(X))).all()
"""
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", str(script)]
    printed = run_python(*launch, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    assert f"trained on a GPU: {DEVICE == 'cuda'}" in printed


def test_networks_are_exported_from_a_gpu(fits, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from sklearn_epee.onnx_runtime import OnnxExits  # noqa: PLC0415 - needs onnxruntime

    model, X, _ = fits("texts")
    model.export_onnx(tmp_path / "model")
    np.testing.assert_array_equal(OnnxExits(tmp_path / "model").predict(X), model.predict(X))
