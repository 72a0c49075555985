"""Recipes of training: which exits learn, when, from what, and what that leaves untouched."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from torch.nn import functional

from sklearn_epee import EPEEImageClassifier
from sklearn_epee._nn.batching import SAMPLE_WEIGHT, LengthGroupedSampler
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.recipes import (
    EXIT_TRAININGS,
    DistillationExitLoss,
    JointExitLoss,
    exit_loss,
    steps_of_parts,
)
from sklearn_epee._nn.schedule import SequentialSchedule, WarmupThenDecay
from sklearn_epee._nn.training import ExitNet
from tests._nn.networks import make_network
from tests._nn.trainings import (
    Recorder,
    Snapshots,
    assert_same_weights,
    count_trainings,
    make,
    make_texts,
    spoil_loss,
    weights_of,
)
from tests.checkpoints import random_batch, tiny_config

MIXED = ("mixed", "mixed+distillation")
ALPHA, TEMPERATURE = 0.5, 2.0


def random_logits(n: int = 6, n_layers: int = 4, n_classes: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(n, n_layers, n_classes, generator=generator)


def labels_and_weights(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(n) % 3, torch.linspace(0.2, 2, n)


# ------------------------------------------------------------------------------------ the losses


def test_exits_learn_half_from_labels_and_half_from_the_softened_last_exit():
    logits, (labels, sample_weights) = random_logits(), labels_and_weights()
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    found = DistillationExitLoss(weights)(logits, labels, sample_weights)
    z = logits.double().numpy()
    total = 0.0
    for row, label in enumerate(labels):
        teacher = softmax(z[row, 3] / TEMPERATURE)
        losses = [-log_softmax(z[row, m])[label] for m in range(4)]
        for m in range(3):
            student = log_softmax(z[row, m] / TEMPERATURE)
            divergence = (teacher * (np.log(teacher) - student)).sum()
            losses[m] = (1 - ALPHA) * losses[m] + ALPHA * TEMPERATURE**2 * divergence
        total += sample_weights[row].item() * (weights @ losses) / weights.sum()
    assert found.item() == pytest.approx(total / 6, rel=1e-5)


def test_students_do_not_move_their_teacher():
    labels, sample_weights = labels_and_weights()
    gradients = []
    for loss in (DistillationExitLoss, JointExitLoss):
        logits = random_logits().requires_grad_()
        loss(np.arange(1.0, 5))(logits, labels, sample_weights).backward()
        gradients.append(logits.grad)
    distilled, joint = gradients
    torch.testing.assert_close(distilled[:, -1], joint[:, -1])
    assert (abs(distilled[:, :-1] - joint[:, :-1]).amax(-1) > 1e-4).all()


def test_students_that_agree_with_labels_and_teacher_have_nothing_to_learn():
    labels, sample_weights = labels_and_weights()
    logits = 40.0 * functional.one_hot(labels, 3).float().unsqueeze(1).expand(-1, 4, -1)
    assert DistillationExitLoss(np.ones(4))(logits, labels, sample_weights).item() < 1e-6


def test_held_out_samples_are_scored_with_the_joint_loss():
    arguments = random_logits(), *labels_and_weights()
    distillation, joint = DistillationExitLoss(np.ones(4)), JointExitLoss(np.ones(4))
    assert distillation(*arguments) != joint(*arguments)
    assert torch.equal(distillation.eval()(*arguments), joint(*arguments))


@pytest.mark.parametrize("loss", [JointExitLoss, DistillationExitLoss])
@pytest.mark.parametrize("weights", [[1, 2, 3, 4], [1, 1, 1, 0.5]])
def test_the_last_exit_alone_has_its_plain_loss(loss, weights):
    logits, (labels, sample_weights) = random_logits(), labels_and_weights()
    found = loss(np.array(weights, dtype=np.float64))(logits[:, -1:], labels, sample_weights)
    plain = functional.cross_entropy(logits[:, -1], labels, reduction="none")
    torch.testing.assert_close(found, (sample_weights * plain).mean())


@pytest.mark.parametrize("exit_training", EXIT_TRAININGS)
def test_losses_are_float32_and_know_a_network_of_one_layer(exit_training):
    labels, sample_weights = labels_and_weights()
    logits = random_logits(n_layers=1).bfloat16()
    found = exit_loss(exit_training)(np.ones(1))(logits, labels, sample_weights)
    plain = functional.cross_entropy(logits[:, 0].float(), labels, reduction="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (sample_weights * plain).mean())


# ----------------------------------------------------------------------------------- joint training


def test_joint_training_is_the_plain_loop_bit_for_bit():
    X, y = make_texts(24)
    start: dict[str, Any] = {}

    class Start(Callback):
        def on_train_begin(self, net, X=None, **kwargs):
            start.update(network=copy.deepcopy(net.module_), samples=X)

    options = {"max_epochs": 3, "exit_loss_weights": [1, 2, 4], "device": "cpu"}
    model = make(callbacks=[Start()], **options).fit(X, y)
    network, samples = start["network"].train(), start["samples"]
    plan = model.net_.plan
    decays = [p for p in network.backbone.parameters() if p.ndim > 1]
    plain = [p for p in network.backbone.parameters() if p.ndim <= 1]
    head_decays = [p for p in network.heads.parameters() if p.ndim > 1]
    head_plain = [p for p in network.heads.parameters() if p.ndim <= 1]
    groups = [
        {"params": decays, "lr": plan.learning_rate, "weight_decay": plan.weight_decay},
        {"params": plain, "lr": plan.learning_rate, "weight_decay": 0.0},
        {"params": head_decays, "lr": plan.head_learning_rate, "weight_decay": plan.weight_decay},
        {"params": head_plain, "lr": plan.head_learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupThenDecay(0.1, 9))
    weights = torch.tensor([1.0, 2.0, 4.0]) / 7
    batches = LengthGroupedSampler(samples.samples.lengths, 8, np.random.default_rng(plan.seed))
    for _ in range(3):
        for rows in batches:
            inputs, labels = samples.collate(rows)
            sample_weights = inputs.pop(SAMPLE_WEIGHT)
            logits = network(**inputs)
            labels = labels.unsqueeze(1).expand(-1, 3)
            losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            optimizer.zero_grad()
            (sample_weights * (losses * weights).sum(1)).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    assert_same_weights(model, network.state_dict())


# ----------------------------------------------------------------------------------- mixed training


@pytest.mark.parametrize(
    ("exit_training", "n_steps", "parts"),
    [
        ("joint", 9, (9,)),
        ("distillation", 9, (9,)),
        ("detached", 1, (1,)),
        ("mixed", 10, (5, 5)),
        ("mixed+distillation", 9, (4, 5)),
        ("mixed", 1, (1,)),
    ],
)
def test_a_mixed_training_has_two_halves(exit_training, n_steps, parts):
    assert steps_of_parts(exit_training, n_steps) == parts


def test_each_part_has_a_schedule_of_its_own():
    parts = (10, 12)
    schedules = [WarmupThenDecay(0.3, n) for n in parts]
    both = SequentialSchedule(schedules, parts)
    factors = [both(step) for step in range(22)]
    assert factors[:10] == [schedules[0](step) for step in range(10)]
    assert factors[10:] == [schedules[1](step) for step in range(12)]
    assert both(22) == 0
    alone = SequentialSchedule(schedules[:1], parts[:1])
    assert [alone(step) for step in range(14)] == [schedules[0](step) for step in range(14)]


def state_of(net: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the network that differ: "backbone" and the numbers of heads."""
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    return {name.split(".")[name.startswith("heads.")] for name in changed}


@pytest.mark.parametrize("exit_training", MIXED)
@pytest.mark.parametrize("max_epochs", [1, 4])
def test_the_first_half_leaves_other_heads_alone(exit_training, max_epochs):
    X, y = make_texts(32)
    n_steps = 4 * max_epochs
    states: list[dict[str, torch.Tensor]] = []

    class States(Callback):
        def on_batch_begin(self, net, training=False, **kwargs):
            if training:
                states.append(state_of(net))

    recorder = Recorder()
    model = make(
        exit_training=exit_training, max_epochs=max_epochs, callbacks=[States(), recorder]
    ).fit(X, y)
    assert len(states) == n_steps
    half = n_steps // 2
    assert moved(states[0], states[half]) == {"backbone", "2"}
    assert moved(states[half], weights_of(model)) == {"backbone", "0", "1", "2"}
    rates = np.array(recorder.rates)[:, 0]
    assert (rates > 0).all()
    # Up and down, twice.
    np.testing.assert_allclose(rates[:half], rates[half:])


@pytest.mark.parametrize("exit_training", EXIT_TRAININGS)
def test_heads_run_only_where_they_learn(exit_training, monkeypatch):
    X, y = make_texts(32)
    runs: list[int] = []
    classify = MultiExitNetwork.classify

    def noted(self, layer, *arguments):
        runs.append(layer)
        return classify(self, layer, *arguments)

    monkeypatch.setattr(MultiExitNetwork, "classify", noted)
    make(exit_training=exit_training, max_epochs=2).fit(X, y)
    alone = 4 if exit_training in MIXED else 0
    assert runs == [3] * alone + [1, 2, 3] * (8 - alone)


@pytest.mark.parametrize("exit_training", EXIT_TRAININGS)
def test_the_history_tells_how_many_exits_an_epoch_ended_with(exit_training):
    X, y = make_texts(30)
    model = make(exit_training=exit_training, max_epochs=5, validation_fraction=0.2).fit(X, y)
    assert model.n_iter_ == len(model.history_) == 5
    assert np.isfinite([model.history_[:, name] for name in ("train_loss", "valid_loss")]).all()
    if exit_training in MIXED:
        # 15 steps: the third epoch, of the steps 7 to 9, ends in the second half.
        assert model.history_[:, "n_exits_trained"] == [1, 1, 3, 3, 3]
    else:
        assert "n_exits_trained" not in model.history_[0]


def test_the_held_out_loss_is_that_of_all_exits_in_both_halves():
    X, y = make_texts(30)
    shapes: list[tuple[int, ...]] = []

    class Shapes(Callback):
        def on_batch_end(self, net, training=False, y_pred=None, **kwargs):
            shapes.append((training, y_pred.shape[1]))

    model = make(exit_training="mixed", max_epochs=2, validation_fraction=0.2, callbacks=[Shapes()])
    model.fit(X, y)
    assert set(shapes[:4]) == {(True, 1), (False, 3)}
    assert set(shapes[4:]) == {(True, 3), (False, 3)}


def script_held_out_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    step = ExitNet.validation_step

    def scripted(net, *args, **kwargs):
        return step(net, *args, **kwargs) | {"loss": torch.tensor(losses[len(net.history) - 1])}

    monkeypatch.setattr(ExitNet, "validation_step", scripted)


def fit_stopping(losses: list[float], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    script_held_out_losses(monkeypatch, losses)
    snapshots = Snapshots()
    model = make(
        early_stopping=True,
        validation_fraction=0.2,
        n_iter_no_change=2,
        max_epochs=len(losses),
        callbacks=[snapshots],
        **options,
    ).fit(*make_texts(30))
    return model, snapshots.taken


@pytest.mark.parametrize("exit_training", MIXED)
def test_early_stopping_does_not_compare_the_halves(exit_training, monkeypatch):
    # By the first half alone it would stop after epoch 3, and keep the weights of epoch 1.
    losses = [0.1, 0.5, 0.9, 0.9, 3.0, 2.0, 2.5, 2.6]
    model, taken = fit_stopping(losses, monkeypatch, exit_training=exit_training)
    assert model.n_iter_ == 8
    assert_same_weights(model, taken[5])


def test_early_stopping_stops_in_the_second_half(monkeypatch):
    losses = [0.1, 0.5, 0.9, 0.9, 2.0, 2.1, 2.2, 1.0]
    model, taken = fit_stopping(losses, monkeypatch, exit_training="mixed")
    assert model.n_iter_ == 7
    assert_same_weights(model, taken[4])
    joint, taken = fit_stopping(losses, monkeypatch)
    assert joint.n_iter_ == 3
    assert_same_weights(joint, taken[0])


@pytest.mark.parametrize(("at_step", "n_kept"), [(3, 0), (7, 3), (8, 6)])
def test_the_last_good_weights_come_back_around_the_change(monkeypatch, at_step, n_kept):
    # Of 12 steps, three an epoch, the seventh is the first at which the other heads have a
    # gradient.
    X, y = make_texts(24)
    steps = spoil_loss(monkeypatch, at_step, lambda _, loss: loss * float("nan"))
    with pytest.warns(ConvergenceWarning, match=f"at training step {at_step};"):
        model = make(exit_training="mixed", max_epochs=4).fit(X, y)
    assert_same_weights(model, steps[n_kept])


# -------------------------------------------------------------------------------- detached training


@pytest.mark.parametrize("pooling", ["mean", "cls+mean", "attention"])
@pytest.mark.parametrize("family", ["bert", "vit", "distilbert"])
def test_a_backbone_under_detached_heads_learns_from_the_last_exit(family, pooling):
    check_detached(make_network(family, pooling), random_batch(family))


@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
def test_detached_heads_do_not_move_the_final_norm_of_a_decoder(pooling):
    check_detached(make_network("gpt2", pooling), random_batch("gpt2"))


def check_detached(network: MultiExitNetwork, batch: dict[str, torch.Tensor]) -> None:
    labels = torch.arange(4) % 3
    alone = functional.cross_entropy(network(**batch)[:, -1], labels)
    expected = torch.autograd.grad(alone, list(network.backbone.parameters()), allow_unused=True)
    attached = network(**batch)
    network.detached_heads = True
    logits = network(**batch)
    assert torch.equal(logits, attached)
    sum(functional.cross_entropy(logits[:, layer], labels) for layer in range(3)).backward()
    for parameter, gradient in zip(network.backbone.parameters(), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.heads.parameters())


def test_detached_heads_learn():
    X, y = make_texts(48)
    model = make(exit_training="detached", max_epochs=12, learning_rate=3e-3).fit(X, y)
    assert (model.predict_at_layer(X, -1) == y).mean() > 0.9


# -------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("exit_training", EXIT_TRAININGS)
def test_recipes_train_reproducibly_and_leave_a_network_that_runs_all_exits(exit_training):
    X, y = make_texts(24)
    options = {"exit_training": exit_training, "dropout": 0.2, "max_epochs": 2}
    model, again = (make(**options).fit(X, y) for _ in range(2))
    assert_same_weights(again, weights_of(model))
    network = model.net_.module_
    assert not network.last_exit_only
    assert not network.detached_heads
    assert network.train()(**model._preprocessor.encode(X).batch(np.arange(4))).shape == (4, 3, 3)
    assert np.stack(list(model.staged_predict_proba(X))).shape == (3, 24, 3)


@pytest.mark.parametrize("exit_training", ["mixed", "detached"])
def test_a_training_that_fails_leaves_the_network_as_any_other(exit_training):
    X, y = make_texts(24)
    networks: list[MultiExitNetwork] = []

    def fail(net):
        networks.append(net.module_)
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        make(exit_training=exit_training, callbacks=[Recorder(1, fail)]).fit(X, y)
    assert not networks[0].last_exit_only
    assert not networks[0].detached_heads


@pytest.mark.parametrize("exit_training", ["mixed", "distillation", "mixed+distillation"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_exit_learns_with_every_recipe(exit_training, precision):
    X, y = make_texts(48)
    model = make(
        exit_training=exit_training, max_epochs=16, learning_rate=3e-3, precision=precision
    ).fit(X, y)
    assert all((labels == y).mean() > 0.8 for labels in model.staged_predict(X))


@pytest.mark.parametrize("exit_training", EXIT_TRAININGS)
def test_images_train_by_every_recipe(exit_training):
    X = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    model = EPEEImageClassifier(
        tiny_config("vit", num_channels=1, image_size=8, patch_size=4),
        exit_training=exit_training,
        pooling="attention",
        max_epochs=2,
        batch_size=4,
        memory=None,
        random_state=0,
    ).fit(X, np.arange(12) % 2)
    assert np.isfinite(np.stack(list(model.staged_predict_proba(X)))).all()


def test_queries_of_attention_are_trained():
    X, y = make_texts(24)
    model = make(pooling="attention", max_epochs=2).fit(X, y)
    assert all((head.query != 0).any() for head in model.net_.module_.heads)


def test_a_search_trains_one_network_for_each_recipe_and_fold(monkeypatch, tmp_path):
    trainings = count_trainings(monkeypatch)
    grid = {"exit_training": ["joint", "mixed", "distillation"], "tau": [0.0, 0.3, 0.9]}
    search = GridSearchCV(make(memory=tmp_path), grid, cv=2).fit(*make_texts(24))
    assert len(trainings) == 3 * 2 + 1
    assert search.best_estimator_.exit_training in grid["exit_training"]
