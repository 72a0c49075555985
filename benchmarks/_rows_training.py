"""Rows on training: an epoch against transformers' Trainer, searches, size of pickles."""

from __future__ import annotations

import contextlib
import functools
import pickle
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils import check_random_state
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks._isolated import PeakMemory, Turns, in_turns, memory_in_use
from benchmarks._measure import interleaved, medians, quotient
from benchmarks._models import (
    FAMILIES,
    N_CLASSES,
    NotMeasuredError,
    data_set,
    prepared,
    real_texts,
    shared_tokenizer,
)
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._base import estimator as _base
from sklearn_epee._nn.batching import SAMPLE_WEIGHT, LabelledSamples, LengthGroupedSampler
from sklearn_epee._nn.texts import TextTokenizer
from sklearn_epee._nn.training import ExitNet
from sklearn_epee._search.context import MAX_SEED

BATCH_SIZE = 16
N_EPOCHS = 4
RANDOM_STATE = 0
GRID = {"tau": [0.0, 0.05, 0.1, 0.2, 0.4], "patience": [1, 2, 3, 4, 5, None]}

# -------------------------------------------------------------------------- an epoch of training


class _TurnBeforeStep(TrainerCallback):
    """Lets the other training run a step before every step of this one."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Let the other training run."""
        self._turns.hand_over()


class _SameBatches(Trainer):
    """A Trainer with the same batches as the estimator."""

    def __init__(self, *args: Any, batches: DataLoader, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batches = batches
        self.shapes: list[list[int]] = []

    def get_train_dataloader(self) -> DataLoader:
        """Return the given batches."""
        return self._batches

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Record the shape of a batch and train on it."""
        self.shapes.append(list(inputs["input_ids"].shape))
        return super().training_step(model, inputs, *args, **kwargs)


def train_ours(family: str, precision: str, device: str, n: int) -> dict[str, Any]:
    """Fit the estimator; return the seconds of every step, and the peak memory in bytes."""
    texts, y = real_texts(n), np.arange(n) % N_CLASSES
    config = FAMILIES[family].config()
    estimator = EPEEClassifier(
        config, tokenizer=shared_tokenizer(config.vocab_size), pooling=FAMILIES[family].pooling,
        max_epochs=N_EPOCHS, batch_size=BATCH_SIZE, precision=precision, device=device,
        memory=None, random_state=RANDOM_STATE,
    )  # fmt: skip
    turns, step = Turns(), ExitNet.train_step
    shapes: list[list[int]] = []

    def step_in_turn(net: ExitNet, batch: Any, **kwargs: Any) -> Any:
        turns.hand_over()
        shapes.append(list(batch[0]["input_ids"].shape))
        return step(net, batch, **kwargs)

    before, peak = memory_in_use(device), PeakMemory(device)
    with mock.patch.object(ExitNet, "train_step", step_in_turn):
        estimator.fit(texts, y)
    return _outcome(turns, peak.read() - before, shapes)


def train_theirs(family: str, precision: str, device: str, n: int) -> dict[str, Any]:
    """Train with transformers' Trainer and a single head; return the same as `train_ours`."""
    turns = Turns()
    config = FAMILIES[family].config()
    encoder = TextTokenizer(
        shared_tokenizer(config.vocab_size), config.max_position_embeddings, 1, reads_pairs=False
    )
    labels = (np.arange(n) % N_CLASSES).astype(np.int64)
    data = LabelledSamples(encoder.encode(real_texts(n)), labels, np.ones(n, np.float32))
    before, peak = memory_in_use(device), PeakMemory(device)
    config.id2label = {k: str(k) for k in range(N_CLASSES)}
    with tempfile.TemporaryDirectory() as folder:
        trainer = _SameBatches(
            AutoModelForSequenceClassification.from_config(config),
            _trainer_settings(folder, precision, device),
            train_dataset=data,
            batches=_trainer_batches(data),
            callbacks=[_TurnBeforeStep(turns)],
        )
        trainer.train()
    return _outcome(turns, peak.read() - before, trainer.shapes)


def _outcome(turns: Turns, peak_bytes: int, shapes: list[list[int]]) -> dict[str, Any]:
    return {
        "seconds": turns.seconds,
        "cpu_seconds": turns.cpu_seconds,
        "bytes": peak_bytes,
        "shapes": shapes,
    }


def _trainer_settings(folder: str, precision: str, device: str) -> TrainingArguments:
    return TrainingArguments(
        folder, num_train_epochs=N_EPOCHS, per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-4, weight_decay=0.01, max_grad_norm=1.0, bf16=precision == "bfloat16",
        use_cpu=device == "cpu", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip


def _trainer_batches(data: LabelledSamples) -> DataLoader:
    def collate(rows: list[int]) -> dict[str, Any]:
        inputs, labels = data.collate(rows)
        del inputs[SAMPLE_WEIGHT]
        return {**inputs, "labels": labels}

    # The seed that the estimator draws from its random state.
    seed = int(check_random_state(RANDOM_STATE).randint(MAX_SEED))
    order = LengthGroupedSampler(data.samples.lengths, BATCH_SIZE, np.random.default_rng(seed))
    return DataLoader(data, batch_sampler=order, collate_fn=collate)


def training(settings: Settings, *, precision: str) -> Iterator[Line]:
    """Compare the steps after the first epoch and the peak memory, in separate processes."""
    if find_spec("accelerate") is None:
        raise NotMeasuredError("accelerate is not installed, which transformers' Trainer needs")
    family, n = ("minilm", 64) if settings.quick else ("bert", 96)
    alike = {"family": family, "precision": precision, "device": settings.device, "n": n}
    found = in_turns(
        {
            "ours": (f"{__name__}:train_ours", alike),
            "Trainer": (f"{__name__}:train_theirs", alike),
        }
    )
    if found["ours"]["shapes"] != found["Trainer"]["shapes"]:
        raise NotMeasuredError("the two trainings were given different batches")
    # In the first epoch, every batch size occurs for the first time.
    first = n // BATCH_SIZE
    seconds = {name: run["seconds"][first:] for name, run in found.items()}
    on_cpu = {name: run["cpu_seconds"][first:] for name, run in found.items()}
    mebibytes = {name: run["bytes"] / 2**20 for name, run in found.items()}
    slower, more = quotient(seconds, "ours", "Trainer"), mebibytes["ours"] / mebibytes["Trainer"]
    busier = quotient(on_cpu, "ours", "Trainer")
    title = f"{FAMILIES[family].title}, {precision}, {n} texts, batch {BATCH_SIZE}"
    known = {"n_samples": n, "precision": precision}
    yield Line(
        f"{title}, a step",
        f"{slower:.3f}x the time of Trainer, {busier:.3f}x in processor time",
        "<= 1.05x", slower <= 1.05, known,
        {"time_ratio": slower, "cpu_time_ratio": busier}, seconds,
    )  # fmt: skip
    yield Line(
        f"{title}, peak memory",
        f"{more:.3f}x ({mebibytes['ours']:.0f} against {mebibytes['Trainer']:.0f} MiB)",
        "<= 1.1x", more <= 1.1, known, {"memory_ratio": more},
    )  # fmt: skip


# ------------------------------------------------------------------------------------ searches


@contextlib.contextmanager
def counted_trainings() -> Iterator[list[None]]:
    """Yield a list that gets an element for every network trained in this process."""
    trained: list[None] = []
    original = _base.train_network

    def count(*args: Any, **kwargs: Any) -> Any:
        trained.append(None)
        return original(*args, **kwargs)

    with mock.patch.object(_base, "train_network", count):
        yield trained


def grid_search(settings: Settings) -> Iterator[Line]:
    """Compare a search over 30 policies with cv=5 with 6 fits and 5 passes at full depth."""
    n = 150 if settings.quick else 400
    texts, labels = data_set("phee", "train")
    chosen = np.random.default_rng(0).permutation(len(texts))[:n]
    X, y = [texts[row] for row in chosen], labels[chosen]
    options = {"max_epochs": 1 if settings.quick else 2, "device": settings.device}
    folds = StratifiedKFold(5)
    trainings: list[int] = []

    def search() -> None:
        estimator = EPEEClassifier(**options)
        with counted_trainings() as trained:
            GridSearchCV(estimator, GRID, cv=folds).fit(X, y)
        trainings.append(len(trained))

    def plain() -> None:
        splits = list(folds.split(X, y))
        for train, test in splits:
            fitted = EPEEClassifier(memory=None, **options).fit([X[i] for i in train], y[train])
            list(fitted.staged_predict([X[i] for i in test]))
        EPEEClassifier(memory=None, **options).fit(X, y)

    # One small fit as the warm-up of both.
    EPEEClassifier(memory=None, **options).fit(X[:50], y[:50]).predict(X[:50])
    seconds = interleaved({"search": search, "plain": plain}, settings.repetitions, warm_up=False)
    ratio, found = quotient(seconds, "search", "plain"), medians(seconds)
    yield Line(
        f"compact network from scratch, {n} texts, 30 grid points, cv=5; the rival: 6 plain fits "
        "and 5 full-depth passes",
        f"{trainings[-1]} trainings, {ratio:.2f}x the time ({found['search']:.1f} against "
        f"{found['plain']:.1f} s)",
        "6 trainings, <= 1.15x",
        set(trainings) == {6} and ratio <= 1.15,
        settings={"n_samples": n, **options},
        values={"trainings": trainings[-1], "time_ratio": ratio},
        seconds=seconds,
    )


# -------------------------------------------------------------------------------------- pickles


def pickle_size(settings: Settings) -> Iterator[Line]:
    """Measure the size of a pickled estimator relative to its weights, after a prediction."""
    text = prepared("minilm" if settings.quick else "bert", settings.device, "auto")
    text.predict(real_texts(4))
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    image = EPEEImageClassifier(max_epochs=1, memory=None).fit(images, np.arange(20) % N_CLASSES)
    image.predict(images[:4])
    title = FAMILIES["minilm" if settings.quick else "bert"].title
    for name, estimator in ((title, text), ("compact image network", image)):
        parameters = estimator.net_.module_.parameters()
        weights = sum(weight.nbytes for weight in parameters)
        ratio = len(pickle.dumps(estimator)) / weights
        yield Line(
            name,
            f"{ratio:.4f}x the weights ({weights / 2**20:.1f} MiB)",
            "<= 1.05x",
            ratio <= 1.05,
            values={"ratio": ratio, "weights_bytes": weights},
        )


ROWS = [
    *(
        Row(
            f"training-{precision}",
            f"Training an epoch against transformers' Trainer, {precision}",
            functools.partial(training, precision=precision),
            in_quick=precision == "bfloat16",
        )
        for precision in ("float32", "bfloat16")
    ),
    Row("grid-search", "Grid search over 30 policies, cv=5", grid_search),
    Row("pickle", "Size of a pickled estimator against its weights", pickle_size),
]
