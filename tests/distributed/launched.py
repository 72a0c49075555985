"""What `test_data_parallel.py` launches: each process fits alone, then all together, and compares.

``torchrun --nproc_per_node 2 -m tests.distributed.launched FOLDER`` writes what every process found
of every case as JSON.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import pickle
import runpy
import sys
import threading
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from skorch.callbacks import Callback, EpochScoring

from sklearn_epee import EPEEImageClassifier, EPEEMultimodalClassifier, EPEETokenClassifier
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee._nn.two_towers import TwoTowerNetwork
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.distributed import data_parallel
from tests._nn.trainings import Recorder, make, make_texts
from tests.checkpoints import tiny_config
from tests.small_world import make_world_small
from tests.tagged import tagged_sentences
from tests.trainings import Trainings

ACCELERATOR = Accelerator(cpu=True)
NUMBER = ACCELERATOR.process_index
FOLDER = Path(sys.argv[-1])
X, Y = make_texts(27)
LOSSES = ("train_loss", "valid_loss", "valid_acc")

# Drawn anew in each process, as dropout is, but without a parameter.
TwoTowerNetwork._some_left_out = lambda _, contexts: contexts


def bert(**changes):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny_config("bert", **{**no_dropout, **changes})


def weights_of(fitted):
    return {name: part.clone() for name, part in fitted.net_.module_.state_dict().items()}


def digest(fitted):
    parts = [part.numpy().tobytes() for part in weights_of(fitted).values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def equality(make_unfitted, *args, **kwargs):
    """Fit alone and together; return how far apart they are, and what all processes must share."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = make_unfitted().fit(*args, **kwargs)
        with data_parallel(ACCELERATOR):
            together = make_unfitted().fit(*args, **kwargs)
        return compared(alone, together, args[0])


def compared(alone, together, samples):
    weights, expected = weights_of(together), weights_of(alone)
    rows, expected_rows = (losses(model) for model in (together, alone))
    for model in (alone, together):
        names = [name for name in ("scored", "scored_train") if name in model.history_[0]]
        SCORES[model is together] = [model.history_[:, name] for name in names]
    proba = [model.predict_proba(samples) for model in (alone, together)]
    distances = [np.abs(np.subtract(*pair)).max() for pair in zip(*map(listed, proba), strict=True)]
    return {
        "weights": max(float((weights[name] - expected[name]).abs().max()) for name in expected),
        "proba": float(max(distances)),
        "epochs": [len(alone.history_), len(together.history_)],
        "history": float(np.abs(np.subtract(rows, expected_rows)).max()),
        "digest": digest(together),
        "rows": [row["dur"] for row in together.history_],
        "stopped_by": [alone.net_.stopped_by_, together.net_.stopped_by_],
        "same_attributes": sorted(vars(alone.net_)) == sorted(vars(together.net_)),
    }


# Of what the callbacks of the last case scored, together or alone.
SCORES = {}


def listed(proba):
    return proba if isinstance(proba, list) else [proba]


def losses(fitted):
    return [[row.get(name, 0.0) for name in LOSSES] for row in fitted.history_]


def said_by(action):
    """Return the error that an action ends with."""
    try:
        action()
    except BaseException as error:  # noqa: BLE001 - an interrupt, too
        return f"{type(error).__name__}: {error}"
    return None


class At(Callback):
    """Does something in one process, at a step or at the end of an epoch."""

    def __init__(self, number, action, step=None, epoch=None):
        self.number, self.action, self.step, self.epoch = number, action, step, epoch

    def on_batch_begin(self, net, training=False, **_):
        if training and self.number == NUMBER and net.n_steps_ + 1 == self.step:
            self.action(net)

    def on_epoch_end(self, net, **_):
        if self.number == NUMBER and len(net.history) == self.epoch:
            self.action(net)


def fail(_):
    raise OSError("the disk is on fire")


def interrupt(_):
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------ the same is learned


def case_texts():
    rng = np.random.default_rng(0)
    settings = {
        "max_epochs": 2,
        "validation_fraction": 0.35,
        "class_weight": "balanced",
    }
    scoring = EpochScoring("accuracy", name="scored", lower_is_better=False)
    on_train = EpochScoring("accuracy", name="scored_train", on_train=True, lower_is_better=False)
    callbacks = [("scored", scoring), ("scored_train", on_train)]
    weight = rng.uniform(0.2, 3, len(X))
    groups = np.arange(len(X)) // 2
    fits = {"sample_weight": weight, "groups": groups}
    found = equality(lambda: make(**settings, callbacks=callbacks), X, Y, **fits)
    found["scored"] = [SCORES[True], SCORES[False]]
    return found


def case_early_stopping():
    """The last epochs make it worse: all stop after the same one and go back to the best."""
    settings = {"max_epochs": 6, "validation_fraction": 0.35, "early_stopping": True}
    settings |= {"n_iter_no_change": 2}

    def worsen(net):
        with torch.no_grad():
            for head in net.module_.heads:
                head.out.bias += torch.tensor([3.0, -3.0, 0.0])

    callbacks = [At(number, worsen, epoch=3) for number in (0, 1)]
    return equality(lambda: make(**settings, callbacks=callbacks), X, Y)


def case_regression():
    """What heads begin with is measured in the main process."""
    return equality(lambda: make(head_init="regression", head="bottleneck"), X, Y)


def case_images():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(25, 8, 8)).astype(np.float32)
    labels = np.arange(25) % 3
    images[labels == 1] += 0.5
    config = tiny_config("vit", image_size=8, num_channels=1)
    settings = {"max_epochs": 2, "batch_size": 7, "precision": "float32", "random_state": 0}
    settings |= {"dropout": 0.0, "augment": False, "memory": None, "validation_fraction": 0.2}
    return equality(lambda: EPEEImageClassifier(config, **settings), images.clip(0, 1), labels)


def case_labels():
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(len(X), 3)) < 0.4).astype(float)
    labels[rng.uniform(size=labels.shape) < 0.2] = np.nan
    settings = {"max_epochs": 2, "class_weight": "balanced", "validation_fraction": 0.3}
    return equality(lambda: make(**settings, learning_rate=1e-2), X, labels)


def case_tasks():
    labels = np.column_stack([np.arange(len(X)) % 3, np.arange(len(X)) % 5 % 2])
    return equality(lambda: make(max_epochs=2, pooling="attention"), X, labels)


def case_mixed():
    return equality(lambda: make(max_epochs=2, exit_training="mixed+distillation"), X, Y)


def case_windows():
    texts = [" ".join([text] * (1 + 3 * (i % 4))) for i, text in enumerate(X)]
    return equality(
        lambda: make(
            max_epochs=2, long_texts="windows", max_length=12, max_windows=4, batch_size=5
        ),
        texts,
        Y,
    )


def case_tiny_batches():
    """Some processes have no sample of a batch."""
    return equality(lambda: make(batch_size=1, validation_fraction=0.4), X[:8], Y[:8] == Y[0])


def case_words():
    sentences, tags = tagged_sentences(21)
    settings = {"max_epochs": 2, "batch_size": 6, "precision": "float32", "random_state": 0}
    settings |= {"dropout": 0.0, "memory": None, "learning_rate": 1e-3}
    config = bert(vocab_size=300, max_position_embeddings=128)
    return equality(lambda: EPEETokenClassifier(config, **settings), sentences, tags)


def case_texts_with_images():
    cases, labels = make_case_reports(21, missing_fraction=0.6, random_state=0)
    text = bert(n_layers=2, vocab_size=300, max_position_embeddings=64)
    image = tiny_config("vit", image_size=24, patch_size=6, num_channels=1)
    settings = {"max_epochs": 2, "batch_size": 2, "precision": "float32", "random_state": 0}
    settings |= {"dropout": 0.0, "memory": None, "augment": False}
    return equality(lambda: EPEEMultimodalClassifier(text, image, **settings), cases, labels)


def case_continued():
    first = make().fit(X, Y).set_params(warm_start=True)
    return equality(lambda: copy.deepcopy(first), X, Y)


def case_not_finite():
    def explode(net):
        with torch.no_grad():
            next(net.module_.heads.parameters()).fill_(float("nan"))

    callbacks = [At(0, explode, step=3), At(1, explode, step=3)]
    with warnings.catch_warnings(), data_parallel(ACCELERATOR):
        warnings.simplefilter("ignore")
        fitted = make(callbacks=callbacks).fit(X, Y)
    return {"digest": digest(fitted), "failed_step": fitted.net_.failed_step_,
            "finite": bool(np.isfinite(fitted.predict_proba(X)).all())}  # fmt: skip


def case_int8():
    if why_not_int8():
        return {"skipped": why_not_int8()}
    with data_parallel(ACCELERATOR):
        fitted = make(precision="int8").fit(X, Y)
    return {"digest": digest(fitted), "report": str(fitted.precision_report_)}


# ------------------------------------------------------------------------------ what is drawn


def case_dropout():
    steps = Recorder()
    with data_parallel(ACCELERATOR):
        fitted = make(dropout=0.3, random_state=None, callbacks=[steps]).fit(X, Y)
    return {"digest": digest(fitted), "sizes": steps.sizes}


# ------------------------------------------------------------------------------ around the fit


def case_prints_once():
    printed = io.StringIO()
    callbacks = [EpochScoring("accuracy", name="scored", lower_is_better=False)]
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        data_parallel(ACCELERATOR),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        y = np.column_stack([np.arange(len(X)) % 2, np.zeros(len(X))])
        make(verbose=2, callbacks=callbacks, validation_fraction=0.3).fit(X, y)
    return {"printed": printed.getvalue(), "warned": [str(one.message) for one in caught]}


def case_pickle():
    with data_parallel(ACCELERATOR):
        fitted = make().fit(X, Y)
        inside = pickle.dumps(fitted)
    loaded = pickle.loads(inside)
    return {
        "digest": digest(fitted),
        "knows_launch": b"DataParallel" in inside or b"rocesses" in inside,
        "same": bool((loaded.predict_proba(X) == fitted.predict_proba(X)).all()),
        "same_clone": digest(clone(fitted).fit(X, Y)) == digest(make().fit(X, Y)),
    }


def case_search():
    """Candidates share a network, which the main process keeps; random_state=None is drawn once."""
    found = {}
    for name, seed, memory in (("seed", 0, "auto"), ("none", None, str(FOLDER / "store"))):
        trainings = Trainings(FOLDER / f"trainings_{name}_{NUMBER}")
        model = make(random_state=seed, memory=memory, callbacks=[trainings])
        grid = {"tau": [0.0, 0.9], "patience": [1, None]}
        search = GridSearchCV(model, grid, cv=StratifiedKFold(2))
        with data_parallel(ACCELERATOR):
            search.fit(X, Y)
        found[name] = {
            "trainings": trainings.count,
            "scores": search.cv_results_["mean_test_score"].tolist(),
            "digest": digest(search.best_estimator_),
        }
    return found


def case_example():
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        make_world_small(patch)
        runpy.run_path("examples/train_in_parallel.py", run_name="__main__")
    return {"printed": printed.getvalue()}


# ------------------------------------------------------------------------------ stops and failures


def case_one_stops():
    callbacks = [("stops", At(1, interrupt, epoch=2))]
    with warnings.catch_warnings(), data_parallel(ACCELERATOR):
        warnings.simplefilter("ignore")
        fitted = make(max_epochs=4, callbacks=callbacks).fit(X, Y)
    return {"epochs": len(fitted.history_), "digest": digest(fitted)}


def case_one_fails():
    """All end with the error of one, and can fit again."""
    found = {}

    def launch():
        with data_parallel(ACCELERATOR):
            for name, callback in (
                ("step", At(1, fail, step=2)),
                ("epoch", At(1, fail, epoch=1)),
                ("interrupted", At(0, interrupt, step=2)),
            ):
                model = make(callbacks=[callback])
                found[name] = said_by(lambda model=model: model.fit(X, Y))
                found[f"{name}_fitted"] = hasattr(model, "classes_")
            found["digest"] = digest(make().fit(X, Y))

    launch()
    return found


def case_samples_differ():
    with data_parallel(ACCELERATOR):
        return {"error": said_by(lambda: make().fit(X[NUMBER:], Y[NUMBER:]))}


def case_bad_argument_in_one():
    with data_parallel(ACCELERATOR):
        return {"error": said_by(lambda: make(tau=-1 if NUMBER else 0).fit(X, Y))}


def case_precision_differs():
    with data_parallel(ACCELERATOR):
        precision = "bfloat16" if NUMBER else "float32"
        return {"error": said_by(lambda: make(precision=precision).fit(X, Y))}


def case_only_main_fits():
    def launch():
        with data_parallel(ACCELERATOR):
            if NUMBER == 0:
                make().fit(X, Y)

    return {"error": said_by(launch)}


def case_fails_outside_a_fit():
    def launch():
        with data_parallel(ACCELERATOR):
            if NUMBER == 1:
                fail(None)
            make().fit(X, Y)

    return {"error": said_by(launch)}


def case_workers():
    found = {}

    def in_thread():
        found["thread"] = said_by(lambda: make().fit(X, Y))

    search = GridSearchCV(make(), {"tau": [0.0, 0.9]}, cv=2, n_jobs=2, error_score="raise")
    with data_parallel(ACCELERATOR):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        found["n_jobs"] = said_by(lambda: search.fit(X, Y))
        found["inside"] = said_by(lambda: data_parallel(ACCELERATOR).__enter__())
    return found


def main():
    names = sys.argv[1].split(",") if len(sys.argv) > 2 else []
    cases = {name.removeprefix("case_"): case for name, case in globals().items()
             if name.startswith("case_")}  # fmt: skip
    found = {}
    for name, case in cases.items():
        if names and name not in names:
            continue
        try:
            found[name] = case()
        except BaseException:  # noqa: BLE001 - the other process goes on
            found[name] = {"failed": traceback.format_exc()}
        (FOLDER / f"{NUMBER}.json").write_text(json.dumps(found, default=float))


if __name__ == "__main__":
    main()
