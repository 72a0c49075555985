"""Training: the joint loss, the schedule, batching, stopping, and what a failure leaves behind."""

from __future__ import annotations

import io
import itertools
import pickle
import random
from typing import Any

import numpy as np
import pytest
import skorch
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import BatchScoring, Callback, EarlyStopping, EpochScoring
from torch.nn import functional

from sklearn_epee import EPEEImageClassifier
from sklearn_epee._nn import finite_weights
from sklearn_epee._nn.batching import (
    POOL_BATCHES,
    SAMPLE_WEIGHT,
    EncodedTexts,
    LabelledSamples,
    LengthGroupedSampler,
)
from sklearn_epee._nn.recipes import JointExitLoss
from sklearn_epee._nn.schedule import WarmupThenDecay
from sklearn_epee._nn.training import TrainingMemoryError
from tests._nn.trainings import (
    Recorder,
    Snapshots,
    Worsen,
    assert_same_weights,
    count_trainings,
    make,
    make_texts,
    poison,
    spoil_loss,
    weights_of,
)
from tests.checkpoints import tiny_config


class Duck:
    """Has the method of a callback that is called first, and nothing else."""

    def on_train_begin(self, net, **kwargs):
        pass


# -------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("weights", [[1, 2, 3, 4], [1, 1, 1, 1], [4, 3, 2, 1], [0.5, 0, 0, 2.5]])
def test_the_joint_loss_is_the_formula(weights):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6, 4, 3))
    labels, sample_weights = rng.integers(0, 3, 6), rng.uniform(0.2, 2, 6)
    proba = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = 0.0
    for row in range(6):
        loss = sum(-w * np.log(proba[row, m, labels[row]]) for m, w in enumerate(weights))
        total += sample_weights[row] * loss / sum(weights)
    found = JointExitLoss(np.array(weights, dtype=np.float64))(
        torch.tensor(logits, dtype=torch.float32),
        torch.tensor(labels),
        torch.tensor(sample_weights, dtype=torch.float32),
    )
    assert found.item() == pytest.approx(total / 6, rel=1e-5)


def test_the_joint_loss_is_computed_in_float32():
    logits = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = JointExitLoss(np.ones(3))
    labels, weights = torch.tensor([0, 1, 1, 0]), torch.ones(4)
    assert loss(logits, labels, weights).dtype == torch.float32
    torch.testing.assert_close(loss(logits, labels, weights), loss(logits.float(), labels, weights))


@pytest.mark.parametrize(
    ("exit_loss_weights", "weights"),
    [
        ("ascending", [1, 2, 3]),
        ("uniform", [1, 1, 1]),
        ("descending", [3, 2, 1]),
        ([0.0, 5.0, 1.0], [0, 5, 1]),
    ],
)
def test_training_minimises_the_joint_loss(exit_loss_weights, weights):
    X, y = make_texts(12)
    sample_weight = np.linspace(0.5, 2, 12)
    options = {"batch_size": 12, "warmup_ratio": 0.0, "device": "cpu"}
    model = make(exit_loss_weights=exit_loss_weights, **options)
    start: list[torch.Tensor] = []

    def note(net):
        batch = estimator_batch(net)
        with torch.no_grad():
            batch_weights = batch[0].pop(SAMPLE_WEIGHT)
            start.append(net.module_(**batch[0]))
            targets.append((batch[1], batch_weights))

    targets: list[Any] = []
    recorder = Recorder(1, note)

    def estimator_batch(net):
        dataset = net.dataset_for_test
        return dataset.collate(list(range(12)))

    class Dataset(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            net.dataset_for_test = X

    model.set_params(callbacks=[Dataset(), recorder]).fit(X, y, sample_weight)
    (labels, batch_weights), logits = targets[0], start[0]
    np.testing.assert_allclose(batch_weights, sample_weight / sample_weight.mean(), rtol=1e-5)
    expected = sum(
        w * (batch_weights * functional.cross_entropy(logits[:, m], labels, reduction="none"))
        for m, w in enumerate(weights)
    ).mean() / sum(weights)
    assert model.history_[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_an_exit_without_weight_is_not_trained():
    X, y = make_texts()
    model = make(exit_loss_weights=[0, 1, 0], max_epochs=2, weight_decay=0.0)
    seen: dict[str, torch.Tensor] = {}
    recorder = Recorder(
        1,
        lambda net: seen.update(
            {name: value.clone() for name, value in net.module_.state_dict().items()}
        ),
    )
    model.set_params(callbacks=[recorder]).fit(X, y)
    after = weights_of(model)
    moved = {
        name.split(".")[1]
        for name in after
        if name.startswith("heads.") and not torch.equal(after[name], seen[name])
    }
    assert moved == {"1"}


# -------------------------------------------------------------------------- optimiser and schedule


def test_rates_decay_and_schedule_of_the_optimiser():
    X, y = make_texts(24)
    recorder = Recorder()
    make(
        learning_rate=1e-4,
        head_learning_rate=1e-2,
        weight_decay=0.03,
        warmup_ratio=0.25,
        max_epochs=4,
        callbacks=[recorder],
    ).fit(X, y)
    assert [(g["initial_lr"], g["weight_decay"]) for g in recorder.groups] == [
        (1e-4, 0.03),
        (1e-4, 0.0),
        (1e-2, 0.03),
        (1e-2, 0.0),
    ]
    rates = np.array(recorder.rates)
    assert len(rates) == 12
    np.testing.assert_allclose(rates[:, 2] / rates[:, 0], 100, rtol=1e-6)
    backbone = rates[:, 0]
    assert (np.diff(backbone[:4]) > 0).all()
    assert backbone.max() == pytest.approx(1e-4)
    assert (np.diff(backbone[3:]) < 0).all()
    assert 0 < backbone[-1] < 0.2e-4


def test_heads_follow_a_backbone_rate_set_by_hand():
    X, y = make_texts(12)
    recorder = Recorder()
    make(learning_rate=3e-5, callbacks=[recorder]).fit(X, y)
    backbone, head = recorder.groups[0]["initial_lr"], recorder.groups[2]["initial_lr"]
    assert backbone == pytest.approx(3e-5)
    assert head >= backbone


@pytest.mark.parametrize(("ratio", "n_steps"), [(0.1, 50), (0.0, 10), (0.99, 10), (0.5, 1)])
def test_the_schedule_goes_up_then_down_linearly(ratio, n_steps):
    schedule = WarmupThenDecay(ratio, n_steps)
    factors = np.array([schedule(step) for step in range(n_steps)])
    n_warmup = schedule.n_warmup
    assert (factors > 0).all()
    assert factors.max() <= 1
    np.testing.assert_allclose(np.diff(factors[:n_warmup], 2), 0, atol=1e-12)
    np.testing.assert_allclose(np.diff(factors[n_warmup:], 2), 0, atol=1e-12)
    if n_warmup < n_steps:
        assert factors[n_warmup] == 1
    assert schedule(n_steps) == 0 or n_warmup >= n_steps
    assert schedule(n_steps + 5) == 0


def test_gradients_are_clipped():
    X, y = make_texts()
    recorder = Recorder()
    model = make(callbacks=[recorder], max_epochs=2)
    # A loss a thousand times as large has gradients that need it.
    model.fit(X, y)
    assert max(recorder.norms) <= 1.0001

    class Scale(Callback):
        def on_train_begin(self, net, **kwargs):
            net.criterion_.exit_weights.mul_(1000)

    large = Recorder()
    make(callbacks=[Scale(), large], max_epochs=2).fit(X, y)
    np.testing.assert_allclose(large.norms, 1.0, rtol=1e-3)


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_backbone_and_every_head_are_trained(family):
    X, y = make_texts()
    seen: dict[str, torch.Tensor] = {}
    recorder = Recorder(
        1,
        lambda net: seen.update(
            {name: value.clone() for name, value in net.module_.state_dict().items()}
        ),
    )
    model = make(backbone=tiny_config(family), callbacks=[recorder], max_epochs=2).fit(X, y)
    after = weights_of(model)
    parameters = dict(model.net_.module_.named_parameters())
    still = {name for name in parameters if torch.equal(after[name], seen[name])}
    # Keys' biases shift all scores of a query alike: they have no gradient beyond rounding.
    assert not {name for name in still if not name.endswith("key.bias")}
    assert any(name.startswith("backbone") for name in parameters)


def test_training_lowers_the_loss_and_every_exit_learns():
    X, y = make_texts(48)
    # tau=0 without patience reads the last exit, staged prediction all of them.
    model = make(max_epochs=12, learning_rate=3e-3, tau=0.0).fit(X, y)
    assert model.score(X, y) > 0.9
    losses = model.history_[:, "train_loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert all((labels == y).mean() > 0.8 for labels in model.staged_predict(X))


# --------------------------------------------------------------------------------------- batching


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (7, 3), (100, 8), (64 * 9 + 5, 2)])
def test_shuffled_batches_cover_every_sample_once_an_epoch(n, batch_size):
    lengths = np.random.default_rng(0).integers(1, 60, n)
    sampler = LengthGroupedSampler(lengths, batch_size, np.random.default_rng(1))
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-n // batch_size)
        assert max(map(len, batches)) <= batch_size
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(n))


def test_shuffled_batches_are_reproducible_new_each_epoch_and_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 200, 8 * POOL_BATCHES)
    first, again = (LengthGroupedSampler(lengths, 8, np.random.default_rng(1)) for _ in range(2))
    epochs = [list(first), list(first)]
    assert epochs == [list(again), list(again)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(LengthGroupedSampler(lengths, 8, np.random.default_rng(2)))
    # Padding of batches sorted by length against batches in the order of the samples.
    padded = sum(lengths[batch].max() * len(batch) for batch in epochs[0])
    unsorted = sum(part.max() * 8 for part in lengths.reshape(-1, 8))
    assert padded < 1.1 * lengths.sum() < unsorted
    longest = [lengths[batch].max() for batch in epochs[0]]
    assert longest != sorted(longest)


def test_batches_pad_to_their_longest_text():
    ids = np.arange(1, 10, dtype=np.int32)
    texts = EncodedTexts(ids, np.array([2, 4, 3]), np.ones(9, np.int8), pad_id=99)
    batch = texts.batch(np.array([2, 0]))
    assert batch["input_ids"].tolist() == [[7, 8, 9], [1, 2, 99]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["token_type_ids"].tolist() == [[1, 1, 1], [1, 1, 0]]


# --------------------------------------------------------------------- weights, hold-out, stopping


def test_integer_sample_weights_equal_repetition_in_the_loss():
    X, y = make_texts(6)
    weights = np.array([1, 3, 1, 2, 1, 1])
    repeated = np.repeat(np.arange(6), weights)
    options = {"batch_size": 100, "warmup_ratio": 0.0, "max_epochs": 3}
    one = make(**options).fit(X, y, sample_weight=weights)
    # The same vocabulary, so that the weights that are drawn are the same.
    other = make(**options, tokenizer=one._preprocessor.tokenizer)
    one = make(**options, tokenizer=one._preprocessor.tokenizer).fit(X, y, sample_weight=weights)
    other.fit([X[i] for i in repeated], y[repeated])
    np.testing.assert_allclose(
        np.stack(list(one.staged_predict_proba(X))),
        np.stack(list(other.staged_predict_proba(X))),
        atol=1e-3,
    )


def test_samples_of_weight_zero_are_left_out():
    X, y = make_texts(18)
    X, y = [*X, "zinc zinc"], np.array([*y, "other"])
    weights = np.r_[np.ones(18), 0]
    recorder = Recorder()
    model = make(callbacks=[recorder]).fit(X, y, sample_weight=weights)
    plain = make().fit(X[:18], y[:18])
    assert model.classes_.tolist() == ["current", "past", "unsure"]
    assert sum(recorder.sizes) == 18
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))


def test_class_weights_change_the_predictions():
    texts = ["iron daily"] * 30
    y = np.array(["no"] * 24 + ["yes"] * 6)
    options = {"max_epochs": 15, "learning_rate": 3e-3, "batch_size": 30}
    column = 1
    plain = make(**options).fit(texts, y).predict_proba(texts[:1])[0, column]
    balanced = make(**options, class_weight="balanced").fit(texts, y)
    given = make(**options, class_weight={"no": 1, "yes": 16}).fit(texts, y)
    as_samples = make(**options).fit(texts, y, np.where(y == "yes", 4.0, 1.0))
    assert plain == pytest.approx(0.2, abs=0.06)
    assert balanced.predict_proba(texts[:1])[0, column] == pytest.approx(0.5, abs=0.06)
    assert given.predict_proba(texts[:1])[0, column] == pytest.approx(0.8, abs=0.06)
    assert as_samples.predict_proba(texts[:1])[0, column] == pytest.approx(0.5, abs=0.06)


def test_validation_is_recorded_and_held_out():
    X, y = make_texts(30)
    recorder = Recorder()
    model = make(validation_fraction=0.2, max_epochs=2, callbacks=[recorder]).fit(X, y)
    assert sum(recorder.sizes) == 2 * 24
    for epoch in model.history_:
        assert np.isfinite(epoch["valid_loss"])
        assert 0 <= epoch["valid_acc"] <= 1
    assert "valid_loss" not in make().fit(X, y).history_[0]


def test_early_stopping_restores_the_best_weights():
    X, y = make_texts(30)
    snapshots = Snapshots()
    model = make(
        early_stopping=True,
        validation_fraction=0.2,
        n_iter_no_change=2,
        max_epochs=20,
        callbacks=[Worsen(3), snapshots],
    ).fit(X, y)
    losses = model.history_[:, "valid_loss"]
    best = int(np.argmin(losses))
    assert best < model.n_iter_ - 1 < 19
    assert model.n_iter_ == len(losses) == best + 3
    # One batch of held-out samples an epoch.
    assert_same_weights(model, snapshots.taken[best])


def test_early_stopping_needs_held_out_samples():
    with pytest.raises(
        ValueError, match=r"early_stopping=True needs .* validation_fraction above 0"
    ):
        make(early_stopping=True).fit(*make_texts())


def stopping_options(by_hand: bool) -> dict[str, Any]:
    """Made anew for every fit: a training changes the callbacks it is given."""
    if by_hand:
        stop = ("stop", EarlyStopping(patience=1, sink=str))
        return {"callbacks": [stop, ("worsen", Worsen(0))]}
    return {"early_stopping": True, "n_iter_no_change": 1, "callbacks": [Worsen(0)]}


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_training_that_stopped_early_is_kept_for_reuse(tmp_path, monkeypatch, by_hand):
    X, y = make_texts(30)
    options = {"validation_fraction": 0.2, "max_epochs": 20, "memory": tmp_path}
    trainings = count_trainings(monkeypatch)
    first = make(**options, **stopping_options(by_hand)).fit(X, y)
    assert first.n_iter_ < 20
    again = make(**options, **stopping_options(by_hand)).fit(X, y)
    assert len(trainings) == 1
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))


# ------------------------------------------------------------------------------------- divergence


def with_infinite_gradient(net: Any, loss: torch.Tensor) -> torch.Tensor:
    bias = net.module_.heads[0].out.bias
    # The square root of 0 is 0, its slope is not finite.
    return loss + (bias - bias.detach()).sum().abs().sqrt()


@pytest.mark.parametrize(
    "spoil", [lambda _, loss: loss * float("nan"), lambda _, loss: loss / 0, with_infinite_gradient]
)
@pytest.mark.parametrize(
    ("at_step", "kept"),
    [(2, "from before the training"), (4, "from before the training"), (5, "after step 3")],
)
def test_a_loss_that_is_not_finite_stops_and_keeps_weights_that_were_good(
    monkeypatch, spoil, at_step, kept
):
    X, y = make_texts(24)
    # Three steps an epoch. Weights are saved once an epoch, when their first loss was finite.
    steps = spoil_loss(monkeypatch, at_step, spoil)
    expected = f"became NaN or infinite at training step {at_step}; .* keeps the weights {kept},"
    with pytest.warns(ConvergenceWarning, match=expected) as seen:
        model = make(max_epochs=3, dropout=0.2).fit(X, y)
    assert len(seen) == 1
    assert "learning_rate" in str(seen[0].message)
    assert len(steps) == at_step
    assert_same_weights(model, steps[3 if at_step == 5 else 0])


def test_good_weights_are_saved_within_long_epochs_too(monkeypatch):
    X, y = make_texts(24)
    monkeypatch.setattr(finite_weights, "_SAVED_EVERY", 2)
    steps = spoil_loss(monkeypatch, 6, lambda _, loss: loss * float("nan"))
    with pytest.warns(ConvergenceWarning, match="training step 6; .* weights after step 4,"):
        model = make(batch_size=3).fit(X, y)
    assert_same_weights(model, steps[4])


def test_weights_that_the_last_step_spoiled_are_not_kept(monkeypatch):
    X, y = make_texts(24)
    step = torch.optim.AdamW.step
    n_steps: list[int] = []

    def spoil_last(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        n_steps.append(1)
        if len(n_steps) == 6:
            with torch.no_grad():
                self.param_groups[0]["params"][0][0, 0] = float("inf")
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil_last)
    with pytest.warns(ConvergenceWarning, match="training step 6; .* weights after step 3,"):
        model = make(max_epochs=2).fit(X, y)
    assert len(n_steps) == 6
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("nowhere", [False, True])
def test_a_full_disk_does_not_end_a_training(monkeypatch, nowhere):
    class Full(io.BytesIO):
        def write(self, *args):
            raise OSError(28, "No space left on device")

    def no_folder():
        raise FileNotFoundError(2, "No usable temporary directory found")

    X, y = make_texts(24)
    monkeypatch.setattr(finite_weights.tempfile, "TemporaryFile", no_folder if nowhere else Full)
    steps = spoil_loss(monkeypatch, 5, lambda _, loss: loss * float("nan"))
    with pytest.warns(ConvergenceWarning, match="weights after step 3,"):
        model = make(max_epochs=3).fit(X, y)
    assert_same_weights(model, steps[3])


def test_a_training_that_was_not_finite_is_not_kept_for_reuse(tmp_path, monkeypatch):
    X, y = make_texts(24)
    trainings = count_trainings(monkeypatch)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="training step 5;"):
            make(max_epochs=3, memory=tmp_path, callbacks=[Recorder(5, poison)]).fit(X, y)
    assert len(trainings) == 2


@pytest.mark.parametrize("rate", [1e5, 1e30])
def test_a_learning_rate_that_is_far_too_high_leaves_a_model_that_predicts(rate):
    X, y = make_texts(24)
    with pytest.warns(ConvergenceWarning, match="training step"):
        model = make(learning_rate=rate, max_epochs=5).fit(X, y)
    proba = np.stack(list(model.staged_predict_proba(X)))
    np.testing.assert_allclose(proba.sum(-1), 1, atol=1e-5)


def test_a_first_loss_that_is_not_finite_is_refused():
    X, y = make_texts(24)
    model = make(callbacks=[Recorder(1, poison)])
    with pytest.raises(ValueError, match="loss is NaN or infinite at the first training step"):
        model.fit(X, y)
    assert not hasattr(model, "classes_")


# ----------------------------------------------------------------- interrupts, memory, random state


def interrupt(net: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_keeps_what_was_learned_and_is_not_kept_for_reuse(tmp_path, monkeypatch):
    X, y = make_texts(24)
    trainings = count_trainings(monkeypatch)
    recorder = Recorder(5, interrupt)
    model = make(max_epochs=4, memory=tmp_path, callbacks=[recorder]).fit(X, y)
    assert len(recorder.sizes) == 5
    assert recorder.events[-1] == "train_end"
    assert np.isfinite(model.predict_proba(X)).all()
    fresh = make(max_epochs=1).fit(X, y)
    assert not np.array_equal(model.predict_proba(X), fresh.predict_proba(X))
    trainings.clear()
    make(max_epochs=4, memory=tmp_path, callbacks=[Recorder(5, interrupt)]).fit(X, y)
    assert len(trainings) == 1
    assert not list(tmp_path.rglob("*.network"))


def exhaust(net: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def exhaust_cpu(net: Any) -> None:
    torch.empty(2**50)


def exhaust_numpy(net: Any) -> None:
    np.empty(2**50)


@pytest.mark.parametrize("exhausted", [exhaust, exhaust_cpu, exhaust_numpy])
def test_running_out_of_memory_in_training_explains_itself(exhausted):
    model = make(callbacks=[Recorder(2, exhausted)])
    with pytest.raises(TrainingMemoryError, match="ran out of memory in training") as caught:
        model.fit(*make_texts())
    assert isinstance(caught.value, MemoryError)
    for advice in ("batch_size=8", "max_length", "image_size", "precision='bfloat16'", "backbone"):
        assert advice in str(caught.value)
    assert not hasattr(model, "classes_")


def test_a_network_that_memory_cannot_hold_explains_itself():
    # Petabytes, so that nothing is really taken.
    config = tiny_config("bert", hidden_size=2**40)
    with pytest.raises(MemoryError, match=r"Lower batch_size .* choose a smaller backbone"):
        make(backbone=config).fit(*make_texts())


def test_another_error_of_a_callback_gets_through():
    def fail(net):
        raise RuntimeError("of my own")

    with pytest.raises(RuntimeError, match="of my own"):
        make(callbacks=[Recorder(2, fail)]).fit(*make_texts())


def global_states() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global state is the point
    return torch.get_rng_state().tolist(), keys.tolist(), rest, random.getstate()


@pytest.mark.parametrize("random_state", [None, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_callers_random_state_is_untouched(random_state, precision):
    X, y = make_texts(12)
    states = global_states()
    model = make(random_state=random_state, precision=precision, dropout=0.3, warm_start=True)
    model.fit(X, y)
    assert global_states() == states
    model.predict(X)
    list(model.staged_predict(X))
    assert global_states() == states
    model.fit(X, y)
    assert global_states() == states


def test_two_fits_agree_bit_for_bit_whatever_was_drawn_before():
    X, y = make_texts(24)
    one = make(dropout=0.2, max_epochs=2).fit(X, y)
    torch.rand(5)
    other = make(dropout=0.2, max_epochs=2).fit(X, y)
    assert_same_weights(other, weights_of(one))
    third = make(dropout=0.2, max_epochs=2, random_state=1).fit(X, y)
    assert not np.array_equal(third.predict_proba(X), one.predict_proba(X))


def test_deterministic_algorithms_stay_as_the_caller_had_them():
    for wanted in (True, False):
        torch.use_deterministic_algorithms(wanted)
        make().fit(*make_texts(6))
        assert torch.are_deterministic_algorithms_enabled() is wanted


# ------------------------------------------------------------------------------------- warm start


def test_warm_start_continues_from_the_fitted_weights():
    X, y = make_texts(24)
    model = make(warm_start=True, max_epochs=4, learning_rate=2e-3).fit(X, y)
    before, tokenizer = weights_of(model), model._preprocessor.tokenizer
    start: list[dict[str, torch.Tensor]] = []
    recorder = Recorder(
        1,
        lambda net: start.append(
            {name: value.clone() for name, value in net.module_.state_dict().items()}
        ),
    )
    first_losses = model.history_[:, "train_loss"]
    model.set_params(callbacks=[recorder]).fit(X, y)
    assert all(torch.equal(start[0][name], before[name]) for name in before)
    assert model._preprocessor.tokenizer is tokenizer
    assert model.history_[0]["train_loss"] < first_losses[0]
    cold = model.set_params(warm_start=False).fit(X, y)
    assert cold.history_[0]["train_loss"] == pytest.approx(first_losses[0], rel=0.05)


def test_a_warm_start_that_fails_leaves_the_fitted_estimator_unchanged():
    X, y = make_texts(24)
    model = make(warm_start=True).fit(X, y)
    before, history = weights_of(model), model.history_
    expected = model.predict_proba(X)
    for action, error in ((exhaust, MemoryError), (poison, ValueError)):
        model.set_params(callbacks=[Recorder(1, action)])
        with pytest.raises(error):
            model.fit(X, y)
        assert_same_weights(model, before)
        assert model.history_ is history
        np.testing.assert_array_equal(model.predict_proba(X), expected)


# ------------------------------------------------------------------------------ the net and its bar


def test_net_is_a_skorch_classifier_that_predicts_with_the_last_exit():
    X, y = make_texts(24)
    model = make(max_epochs=2).fit(X, y)
    assert isinstance(model.net_, skorch.NeuralNetClassifier)
    encoded = model._preprocessor.encode(X)
    data = LabelledSamples(encoded, np.zeros(24, np.int64), np.ones(24, np.float32))
    found = model.net_.predict_proba(data)
    np.testing.assert_allclose(found, model.predict_proba_at_layer(X, -1), atol=1e-5)
    np.testing.assert_array_equal(
        model.classes_[model.net_.predict(data)], model.predict_at_layer(X, -1)
    )
    assert model.n_iter_ == len(model.history_) == len(model.net_.history) == 2


def test_callbacks_are_called_and_not_kept():
    X, y = make_texts(24)
    recorder = Recorder()
    model = make(max_epochs=2, callbacks=[("named", recorder)]).fit(X, y)
    assert recorder.events == ["train_begin", "epoch_end", "epoch_end", "train_end"]
    assert sum(recorder.sizes) == 48
    # The recorder holds its lists; a fitted net without it can be pickled small.
    assert b"Recorder" not in pickle.dumps(model.net_)


def test_scoring_callbacks_of_skorch():
    X, y = make_texts(48)
    callbacks = [
        EpochScoring("f1_macro", name="f1", lower_is_better=False),
        EpochScoring("neg_log_loss", name="train_log_loss", on_train=True),
        BatchScoring("accuracy", name="batch_accuracy", lower_is_better=False),
        BatchScoring("accuracy", name="again", lower_is_better=False, use_caching=False),
    ]
    model = make(max_epochs=6, learning_rate=3e-3, validation_fraction=0.25, callbacks=callbacks)
    model.fit(X, y)
    history = model.history_
    assert history[-1, "f1"] > 0.8
    assert history[-1, "train_log_loss"] > history[0, "train_log_loss"]
    assert history[:, "batch_accuracy"] == pytest.approx(history[:, "valid_acc"])
    assert history[:, "again"] == pytest.approx(history[:, "valid_acc"])


def test_scoring_callbacks_of_several_tasks():
    X, y = make_texts(48)
    both = np.column_stack([y, np.array(["even", "odd"])[np.arange(48) % 2]])

    def share_of_hits(net, X, y):
        return float((net.predict(X) == y).all(axis=1).mean())

    scoring = EpochScoring(share_of_hits, name="hits", lower_is_better=False)
    model = make(max_epochs=3, learning_rate=3e-3, validation_fraction=0.25, callbacks=[scoring])
    history = model.fit(X, both).history_
    assert history[:, "hits"] == pytest.approx(history[:, "valid_acc"])


@pytest.mark.parametrize(
    "callback",
    [
        1,
        "EpochScoring",
        None,
        object(),
        int,
        ("named", 1),
        (1, Recorder()),
        ("a", "b", "c"),
        Duck(),
    ],
)
def test_what_is_no_callback_is_refused(callback):
    with pytest.raises(TypeError, match="callbacks must hold skorch callbacks"):
        make(callbacks=[callback]).fit(*make_texts())


@pytest.mark.parametrize("names", [("mine", "mine"), ("schedule",), ("valid_acc",)])
def test_names_of_callbacks_that_are_taken_are_refused(names):
    with pytest.raises(ValueError, match="callbacks has the name"):
        make(callbacks=[(name, Recorder()) for name in names]).fit(*make_texts())


def test_callbacks_may_be_given_as_classes():
    make(callbacks=[Recorder, ("named", Recorder)]).fit(*make_texts())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_works_in_either_precision(precision):
    X, y = make_texts(48)
    model = make(max_epochs=12, learning_rate=3e-3, precision=precision, tau=0.0).fit(X, y)
    assert {p.dtype for p in model.net_.module_.parameters()} == {torch.float32}
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradient_checkpointing_learns_the_same(precision):
    X, y = make_texts()
    plain, checkpointed = (
        make(precision=precision, gradient_checkpointing=kept).fit(X, y) for kept in (False, True)
    )
    assert_same_weights(checkpointed, weights_of(plain))
    assert not checkpointed.net_.module_.gradient_checkpointing


def test_gradient_checkpointing_keeps_less_for_the_backward_pass():
    X, y = make_texts()
    fitted = make(device="cpu").fit(X, y)
    network, batch = (
        fitted.net_.module_.train(),
        fitted._preprocessor.encode(X).batch(np.arange(len(X))),
    )
    kept = {}
    for checkpointing in (False, True):
        network.gradient_checkpointing = checkpointing
        seen = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda part, seen=seen: seen.append(part.numel()) or part, lambda part: part
        )
        with hooks:
            network(**batch)
        kept[checkpointing] = sum(seen)
    assert kept[True] < kept[False] / 2


def test_images_train_too():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.integers(0, 60, (40, 8, 8), dtype=np.uint8)
    X[y == 1, :, :4] += 150
    model = EPEEImageClassifier(
        tiny_config("vit", num_channels=1, image_size=8, patch_size=4),
        max_epochs=6,
        batch_size=8,
        learning_rate=3e-3,
        memory=None,
        random_state=0,
    ).fit(X, y)
    assert model.score(X, y) > 0.9


def test_one_bar_with_verbose_1_and_silence_with_verbose_0(capfd):
    X, y = make_texts(24)
    capfd.readouterr()
    make(max_epochs=3, verbose=0, validation_fraction=0.2).fit(X, y).predict(X)
    assert capfd.readouterr() == ("", "")
    make(max_epochs=3, verbose=1, validation_fraction=0.25).fit(X, y)
    out, err = capfd.readouterr()
    assert out == ""
    # Three epochs of 18 samples in batches of 8.
    last = err.split("\r")[-1]
    assert last.startswith("training: 100%")
    assert "9/9" in last
    assert "loss=" in last
    assert err.count("\n") == 1
    make(max_epochs=2, verbose=2).fit(X, y)
    assert "train_loss" in capfd.readouterr().out
