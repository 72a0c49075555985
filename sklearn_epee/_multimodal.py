"""EPEEMultimodalClassifier: early-exit classification of texts with images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, Tags
from transformers import PretrainedConfig

from ._base.classifier import BaseEPEEClassifier
from ._base.fitted import FittedState, Summary
from ._base.parameters import given
from ._base.prediction import Probabilities
from ._base.training_data import TrainingData
from ._checks.texts_with_images import (
    Case,
    as_cases,
    check_both_kinds,
    images_of,
    present_cells,
    texts_of,
)
from ._compat import Interval, StrOptions
from ._exits.missing_exits import available_exits, exit_shares, fill
from ._image import EPEEImageClassifier
from ._nn import training_defaults
from ._nn.exit_rules import Exits
from ._nn.tasks import Classes
from ._nn.text_image import TOWERS, CaseForm, CaseReader, cheaper_tower, typical_batches
from ._nn.tower_engine import TowerEngine
from ._nn.two_towers import CONTEXT_DROPOUT, TwoTowerNetwork, join_towers
from ._text import EPEEClassifier

# Parameters of the text and image classifiers that have another name in `EPEEMultimodalClassifier`.
_RENAMED = re.compile(r"\b(backbone|pooling)(?=[=:])")


class EPEEMultimodalClassifier(BaseEPEEClassifier):
    r"""Transformer classifier for texts with images, with early exits.

    Two transformers ("towers"), one for the text and one for the image, are fine-tuned together
    with a classifier after every layer of both. At prediction time, the cheaper tower runs first: a
    sample exits at the first layer that is confident enough (EPEE [1]_), and the other tower does
    not run for it. Only samples that do not exit in the first tower move on to the second, whose
    classifiers read the last state of the first tower in addition to their own layer. The text or
    the image of a sample may be missing.

    Parameters
    ----------
    text_backbone : str, path-like, transformers config or None, default=None
        As `backbone` of :class:`~sklearn_epee.EPEEClassifier`: a checkpoint, an architecture with
        fresh weights, or None, a compact BERT trained from scratch.
    image_backbone : str, path-like, transformers config or None, default=None
        As `backbone` of :class:`~sklearn_epee.EPEEImageClassifier`: a checkpoint, an architecture
        with fresh weights, or None, a compact ViT trained from scratch.
    text_column : str, default="text"
        Column of the texts where X is a data frame.
    image_column : str, default="image"
        Column of the images where X is a data frame.
    first : {"auto", "text", "image"}, default="auto"
        Which tower runs first. "auto": the one with fewer multiplications for a training sample of
        median length.
    hand_over_after : int or None, default=None
        A sample that has not exited moves on to the second tower once this many consecutive exits
        of the first, the current one included, predict the same class (in all tasks; with several
        labels, the same set at thresholds of 0.5), and skips the remaining layers of the first.
        None: samples move on after the last layer of the first tower. This parameter affects
        training, because the heads of the second tower read the layer from which samples move on.
    tokenizer : str, path-like, tokenizer object or None, default=None
        None: the checkpoint's own tokenizer, with or without a padding token; without a checkpoint,
        a lower-case WordPiece vocabulary is learned from the training texts. Tokens that were added
        to the checkpoint's own tokenizer (``add_tokens``) get embeddings, which are trained with
        the rest.
    max_length : int or None, default=None
        Longest text in tokens, special tokens included; longer texts are truncated, with a warning.
        None: as many as the backbone can read; from scratch, the longest training text (at most
        512). Batches are only padded to their own longest text.
    image_processor : str, path-like, processor object or None, default=None
        None: the checkpoint's own image processor; without a checkpoint, images are standardized
        with the channel statistics of the training images.
    image_size : int, (height, width) or None, default=None
        Size in pixels that the backbone reads; images are resized to it. None: the checkpoint's
        own size; from scratch, the size of the training images (their median where they differ,
        at most 224).
    augment : bool or "auto", default="auto"
        Whether training images are augmented: rotated (up to 10 degrees), scaled (10 %), shifted (8
        % of the side) and changed in contrast and brightness (0.2 standard deviations) at random
        each time they are used, but never mirrored. "auto" does so from scratch, and not with a
        checkpoint.
    tau : float, default=0.1
        Entropy threshold: a sample exits at the first layer whose normalized entropy, in [0, 1],
        is below `tau`. The comparison is strict: with 0 no sample exits by entropy (patience
        only), and with a value above 1 every sample exits at layer 1. Can be changed after `fit`.
    patience : int or None, default=None
        A sample also exits once this many consecutive layers, the current one included, predict the
        same class: with 1 it exits at layer 1, and None stands for the number of layers M, so that
        only the entropy decides. PABEE, PCEE-BERT, ElasticBERT and the paper's own code count
        agreements from 0: their patience p is ``patience=p + 1`` here. Can be changed after `fit`.
    min_exit_layer : int, default=1
        The first layer at which samples may exit, counted through both towers. Layers below it run
        for every sample that has their input, and their predictions only count for `patience`. With
        1 samples may exit at any layer; above the last layer of the first tower, the second tower
        always runs for samples with both inputs. Can be changed after `fit`.
    exit_ensemble : {None, "mean", "weighted"}, default=None
        Which probabilities are predicted: those of the layer at which a sample exits (None), the
        mean over all exits up to this layer, or their mean weighted by `exit_weights_`, the weights
        in the training loss. The exit layer does not change. Can be changed after `fit`.
    joint_exit : {"all", "any", "mean"}, default="all"
        When a sample with several tasks exits; it exits in all tasks at once. "all": at the first
        layer at which every task meets the exit rule, by its own entropy or its own patience.
        "any": at the first layer at which one task does; this is the fastest and least careful
        rule. "mean": at the first layer at which the mean of the tasks' normalized entropies is
        below `tau`, or `patience` consecutive layers have the same predictions in all tasks, so
        that a confident task can outweigh an uncertain one. With one task all three are the same.
        With several labels per sample, their entropies are combined in the same ways; patience
        counts layers that predict the same set of labels. Can be changed after `fit`.
    target_type : {"auto", "multilabel", "tasks"}, default="auto"
        The meaning of two or more columns of `y`. "multilabel": several labels per sample, each of
        which may apply or not. "tasks": the classes of several tasks. "auto" is "multilabel" if `y`
        only contains 0 and 1 (or False and True, and NaN for unknown), is sparse, or consists of
        sets of labels or of lists of labels that differ in length; otherwise "tasks".
    label_thresholds : None, float or array-like of shape (n_labels,), default=None
        Probability above which a label is predicted, for all labels or for each; None: 0.5. Can be
        changed after `fit`.
    text_pooling : {"auto", "cls", "mean", "cls+mean", "last", "attention"}, default="auto"
        What the heads of the text tower read, as `pooling` of
        :class:`~sklearn_epee.EPEEClassifier`.
    image_pooling : {"auto", "cls", "mean", "cls+mean", "attention"}, default="auto"
        What the heads of the image tower read, as `pooling` of
        :class:`~sklearn_epee.EPEEImageClassifier`.
    head : {"linear", "bottleneck", "attention"}, default="linear"
        The architecture of the heads. "linear": a linear layer, for some backbones preceded by a
        dense layer with tanh. "bottleneck": a residual block with a quarter of the width before
        these, ``x + W2 gelu(W1 norm(x))``, like the adapters of arXiv:1902.00751. "attention": one
        layer of attention before these, in which what a head reads of a layer (a pooled state or a
        word) first reads all positions. Both can raise the accuracy of early exits, and make single
        samples slightly slower (docs/training_recipes.md). With `warm_start` a fitted network keeps
        its heads, and another `head` raises an error.
    exit_loss_weights : {"ascending", "uniform", "descending"} or array-like of M numbers, \
            default="ascending"
        Weight of each exit in the joint loss. "ascending" weights layer m by m, its relative cost
        at inference, as in the paper. Weights must not be negative, and not all 0.
    exit_training : {"joint", "mixed", "distillation", "mixed+distillation", "detached"}, \
            default="joint"
        How the exits are trained. "joint": all exits and the backbone are trained with the joint
        loss. "mixed": only the backbone and the last exit in the first half of the training steps,
        then as "joint", each half with its own warm-up and decay [2]_. "distillation": as "joint",
        but exits before the last learn half from the labels and half from the probabilities of the
        last exit [3]_. "mixed+distillation": "mixed" with that loss in the second half. "detached":
        as "joint", but the backbone only gets gradients from the last exit.
    max_epochs : int or "auto", default="auto"
        Number of passes over the training data. "auto" chooses more for small data sets, see Notes.
    batch_size : int or "auto", default="auto"
        Samples per training step.
    learning_rate : float or "auto", default="auto"
        Peak learning rate of the backbone, reached after a linear warm-up and followed by a linear
        decay to 0.
    head_learning_rate : float or "auto", default="auto"
        The same for the heads.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of AdamW; biases and normalization are exempt.
    warmup_ratio : float, default=0.1
        Fraction of the training steps in which the learning rate rises.
    dropout : float or "auto", default="auto"
        Dropout in the heads. That of the backbone is given by its configuration.
    class_weight : "balanced", dict, list of dict or None, default=None
        Weights of the classes in the loss, as in scikit-learn. With several tasks, "balanced" or a
        list with one dict (or None) per task; the weights of a sample's classes are multiplied.
        With several labels per sample, "balanced" balances 1 and 0 for each label; a list has one
        dict per label with the weights of 0 and 1; a dict has the weights of positive labels by
        their names.
    validation_fraction : float, default=0.0
        Fraction of the training data held out (stratified) to report ``valid_loss`` and
        ``valid_acc`` in `history_`. Nothing is held out by default. With ``groups`` in `fit`, whole
        groups are held out, stratified as far as possible. Several tasks are stratified by the
        combination of their labels (combinations that occur only once are treated as one);
        ``valid_acc`` is the fraction of samples that are correct in every task. Several labels per
        sample are stratified label by label, from the rarest on.
    early_stopping : bool, default=False
        Stop when the held-out joint loss has not improved for `n_iter_no_change` epochs, and
        restore the best weights. Requires `validation_fraction` above 0. With "mixed" training,
        epochs count from the first one that ends with all exits in training.
    n_iter_no_change : int, default=3
        Number of epochs without improvement before early stopping.
    callbacks : list of skorch callbacks or None, default=None
        Called in training, with the batch's class indices as ``y``.
    gradient_checkpointing : bool, default=False
        In training, only keep the input of each layer and recompute the layer in the backward pass:
        this costs one more forward pass per step, and needs far less memory for long inputs and
        large batches. The trained network is the same.
    warm_start : bool, default=False
        Continue from the fitted network at the next `fit` instead of starting again. Its
        architecture, and how it reads samples, stay the same (docs/persistence.md).
    predict_batch_size : int or "auto", default="auto"
        Samples per prediction batch, or windows if samples have several; "auto" sizes batches by
        positions. Predictions do not depend on it.
    device : str, default="auto"
        "auto" uses a GPU if there is one; or "cpu", "cuda", "cuda:1", "mps".
    precision : {"auto", "float32", "bfloat16", "int8"}, default="auto"
        Precision of the backbone; heads, entropies and the loss are always float32. "auto" trains
        in bfloat16 (with float32 weights) if the hardware supports it natively, and predicts in
        bfloat16 on a CPU with such support, because predictions do not depend on the other samples
        of a batch there. Otherwise it predicts in float32. The two differ in the third digit of the
        probabilities. On a CPU, layers that can only be run as a whole (mainly those of families
        without a dedicated adapter) always predict in float32. "int8" trains like "auto",
        calibrates 8-bit products after training, and predicts on a CPU with those products that
        change little; `precision_report_` reports the changes. It raises an error if the processor
        has no 8-bit products, or if layers can only be run as a whole.
    memory : "auto", str, path-like, joblib.Memory or None, default="auto"
        Where trained networks are kept, so that a search over `tau` and `patience` trains each one
        once. "auto": a temporary folder of this process and its workers, at most 16 GiB and half of
        the free disk, removed at the end. A folder or a ``joblib.Memory`` keeps them across runs if
        `random_state` is an int. It contains pickles, so use a folder that you trust. Networks that
        cannot be stored are trained again, with a warning. None trains every time. Callbacks are
        compared by their code and the globals that it reads; with callbacks that cannot be
        compared, the network is trained every time, with a warning. A search scores all policies of
        a fold from one pass, so its ``mean_score_time`` does not show the speed of a policy: use
        `speedup_score`, or time the fitted estimator.
    random_state : int, RandomState instance or None, default=None
        Seeds the heads, dropout and the order of the samples. With an int, two fits are
        bit-identical on the same machine with the same number of threads. With None, every fit
        draws a new seed, except that the candidates of one search share a seed, so that policies
        are compared on the same network. This applies to scikit-learn's searches and classes
        derived from them; clones made by hand, by an ensemble or by cross-validation draw new
        seeds.
    verbose : int, default=0
        1 shows a progress bar during training, 2 also prints a line per epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), or list of such arrays
        The labels, sorted; with several tasks a list with one array per task. With several labels
        per sample all of them, (n_labels,): column numbers of an indicator, names of a frame's
        columns, or the sorted labels of lists.
    n_outputs_ : int
        Number of tasks, or of labels.
    n_layers_ : int
        Number of layers of both towers together, and of exits. Those of the tower that runs first
        come first.
    exit_weights_ : ndarray of shape (n_layers,), float64
        Weight of each exit in the joint loss, from `exit_loss_weights` at `fit`.
    towers_ : tuple of str
        "text" and "image", in the order in which they run.
    n_tower_layers_ : tuple of int
        Number of layers of each of `towers_`.
    exit_costs_ : ndarray of shape (n_layers_,)
        Share of the work of both towers up to each exit, from multiplications that are counted for
        a training sample of median length. The last is 1.
    pooling_ : dict of str to str
        What the heads of each tower read: its pooling, or what "auto" stood for.
    net_ : skorch.NeuralNetClassifier
        The trained net; ``net_.module_`` is the torch module with the towers `first` and `second`,
        each with `backbone` and `heads`.
        Predictions run on copies of its weights that are made at the first prediction. After a
        change of weights in place, predict with ``copy.deepcopy(clf)``.
    history_ : skorch.history.History
        Losses and times per epoch. ``valid_loss`` is the joint loss of all exits with every
        `exit_training`, and ``train_loss`` what was minimized; "mixed" training also records
        ``n_exits_trained``, the number of exits in training at the end of the epoch.
    n_iter_ : int
        Epochs run.
    precision_report_ : PrecisionReport
        Which products ``precision="int8"`` computes in 8 bits and how predictions change. Only
        after a fit with this precision, or after `calibrate_int8`.

    Notes
    -----
    **Exits.** The layers of the first tower are the exits 1 to M1, those of the second
    are M1 + 1 to M1 + M2, and one exit rule covers all of them: a sample exits at the first exit at
    which its normalized entropy is below `tau`, or at which `patience` consecutive exits predict
    the same class. The heads of the second tower also read the state that the last head of the
    first tower has read, so that their predictions combine both inputs. Training minimizes one loss
    over all exits of both towers, weighted by `exit_loss_weights`.

    **Missing input.** A text is missing if it is None, NaN or blank, an image if it is None or NaN;
    a sample needs at least one of them. A sample only has the exits of its inputs: without a text,
    those of the image tower, whose heads read a learned vector instead of the state of the text,
    and vice versa. The other exits are NaN in `staged_predict_proba`, are never taken, and cost
    nothing. At such an exit, `predict_at_layer`, `predict_proba_at_layer` and `staged_predict`
    return the prediction of the sample's nearest earlier exit, or of its first one.

    **Early hand-over.** If the exits of the first tower agree but are not confident, its further
    layers often change little. With `hand_over_after`, a sample moves on to the second tower once
    that many exits agree. The exits that it skips in the first tower are NaN in
    `staged_predict_proba`, too, and patience continues counting at the first exit of the second
    tower. Samples without input for the second tower run through all layers of the first. Early
    hand-over pays if the first tower is not much cheaper than the second: with two compact towers
    of 6 layers on simulated cases, ``hand_over_after=3`` saved a quarter of the work when no sample
    exits early (``python -m benchmarks.towers``).

    **Cost.** Exits differ in cost, so speed-up ratios count work, not layers: a ratio is 1 minus
    the mean of ``exit_cost``, the share of the work done out of that of all layers for the inputs
    of a sample (text, image or both). Skipped layers are saved, so with `hand_over_after` a ratio
    can be above 0 even if no sample exits early. :func:`~sklearn_epee.speedup_score`,
    :func:`~sklearn_epee.exit_scores` and :class:`~sklearn_epee.TunedExitPolicyClassifierCV` use
    these ratios. Entropy suits two towers better than patience: the layers of a tower whose input
    is not informative soon agree.

    X is a data frame (pandas or polars) with the columns `text_column` and `image_column`, or a
    list of pairs (text, image). An image is an array (h, w) or (h, w, c), a PIL image or the path
    of a file, as in :class:`~sklearn_epee.EPEEImageClassifier`. Texts longer than `max_length` are
    truncated.

    **Several tasks.** A `y` of shape (n_samples, n_tasks), with two or more columns, trains one
    backbone with a head for each task after each layer; the loss is the mean over the tasks, and K
    in the table below is that of the task with most classes. As in scikit-learn's forests,
    `predict` returns (n_samples, n_tasks) (of objects where the tasks' labels differ in type),
    `predict_proba` a list with one array per task, and a task may have a single class; the budgeted
    and staged methods do the same. The ``entropy`` of `predict_with_exits` has one column per task,
    and `score` is the fraction of samples that are correct in every task, as in
    :class:`~sklearn.multioutput.MultiOutputClassifier`. `joint_exit` decides when a sample exits.
    scikit-learn's stratified splitters and its scores need labels of one type in all columns: if a
    data frame has columns of several types, pass ``cv=KFold()`` to a search.

    **Several labels.** With a binary indicator (dense or sparse) or a list of labels for each
    sample, any number of labels may apply to a sample. Each exit has one head for all labels: their
    logits share a dense layer, their probabilities are independent sigmoids, and the loss is the
    mean of the binary cross-entropies over labels and samples, without the entries of `y` that are
    NaN. `predict` returns an indicator of the labels whose probability is above `label_thresholds`,
    `predict_proba` the probabilities, both (n_samples, n_labels), and `score` is the fraction of
    samples with all labels correct, as for scikit-learn's own multilabel classifiers. The entropy
    of a label is its binary entropy divided by log 2. A label that is constant in the training
    samples is always predicted so, with a warning. Searches need an indicator, because
    scikit-learn's splitters do not accept lists of labels. With exactly two labels, scikit-learn's
    scorers of probabilities, such as "average_precision", treat them as the two classes of a binary
    problem and fail, as they do for its own multilabel classifiers.

    "auto" training settings are those of :class:`~sklearn_epee.EPEEClassifier` and
    :class:`~sklearn_epee.EPEEImageClassifier`: each backbone has the learning rate and the dropout
    of its kind, and the two share the smaller batch size and weight decay and the longer training.
    During training, the state of the first tower is hidden from the heads of the second in a tenth
    of the samples (or the fraction `dropout`), so that they also learn to predict without it.

    References
    ----------
    .. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
       arXiv:2503.02053.
    .. [2] Kubaty et al., "How to Train Your Multi-Exit Model? Analyzing the Impact of Training
       Strategies", arXiv:2407.14320.
    .. [3] Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural
       Networks via Self Distillation", arXiv:1905.08094.

    Examples
    --------
    >>> from sklearn_epee import EPEEMultimodalClassifier
    >>> from sklearn_epee.datasets import make_case_reports
    >>> X, y = make_case_reports(60, missing_fraction=0.2, random_state=0)
    >>> clf = EPEEMultimodalClassifier(tau=0.2, max_epochs=1, random_state=0).fit(X, y)
    >>> clf.predict(X[:5]).shape
    (5,)
    >>> clf.towers_, clf.n_layers_
    (('image', 'text'), 12)
    >>> clf.set_params(tau=2.0).predict_towers([("A nodule.", X[0][1]), ("A nodule.", None)])
    array([[False,  True],
           [ True, False]])
    """

    _kind = "text"
    _sources = ("text_backbone", "image_backbone", "tokenizer", "image_processor")
    _engine = TowerEngine
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: constraint
            for name, constraint in BaseEPEEClassifier._parameter_constraints.items()
            if name != "pooling"
        },
        "text_backbone": [str, os.PathLike, PretrainedConfig, None],
        "image_backbone": [str, os.PathLike, PretrainedConfig, None],
        "text_column": [str],
        "image_column": [str],
        "first": [StrOptions({"auto", *TOWERS})],
        "hand_over_after": [Interval(Integral, 1, None, closed="left"), None],
        "tokenizer": "no_validation",
        "image_processor": "no_validation",
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "augment": [StrOptions({"auto"}), "boolean"],
        "text_pooling": [StrOptions({"auto", "cls", "mean", "cls+mean", "last", "attention"})],
        "image_pooling": [StrOptions({"auto", "cls", "mean", "cls+mean", "attention"})],
    }

    def __init__(
        self,
        text_backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        image_backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        *,
        text_column: str = "text",
        image_column: str = "image",
        first: str = "auto",
        hand_over_after: int | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        image_processor: Any = None,
        image_size: int | tuple[int, int] | None = None,
        augment: bool | str = "auto",
        tau: float = 0.1,
        patience: int | None = None,
        min_exit_layer: int = 1,
        exit_ensemble: str | None = None,
        joint_exit: str = "all",
        target_type: str = "auto",
        label_thresholds: float | ArrayLike | None = None,
        text_pooling: str = "auto",
        image_pooling: str = "auto",
        head: str = "linear",
        exit_loss_weights: str | ArrayLike = "ascending",
        exit_training: str = "joint",
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        head_learning_rate: float | str = "auto",
        weight_decay: float | str = "auto",
        warmup_ratio: float = 0.1,
        dropout: float | str = "auto",
        class_weight: str | dict[Any, float] | list[dict[Any, float] | None] | None = None,
        validation_fraction: float = 0.0,
        early_stopping: bool = False,
        n_iter_no_change: int = 3,
        callbacks: Sequence[Any] | None = None,
        gradient_checkpointing: bool = False,
        warm_start: bool = False,
        predict_batch_size: int | str = "auto",
        device: str = "auto",
        precision: str = "auto",
        memory: str | os.PathLike[str] | joblib.Memory | None = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
    ) -> None:
        self.text_backbone = text_backbone
        self.image_backbone = image_backbone
        self.text_column = text_column
        self.image_column = image_column
        self.first = first
        self.hand_over_after = hand_over_after
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.image_processor = image_processor
        self.image_size = image_size
        self.augment = augment
        self.tau = tau
        self.patience = patience
        self.min_exit_layer = min_exit_layer
        self.exit_ensemble = exit_ensemble
        self.joint_exit = joint_exit
        self.target_type = target_type
        self.label_thresholds = label_thresholds
        self.text_pooling = text_pooling
        self.image_pooling = image_pooling
        self.head = head
        self.exit_loss_weights = exit_loss_weights
        self.exit_training = exit_training
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.dropout = dropout
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.callbacks = callbacks
        self.gradient_checkpointing = gradient_checkpointing
        self.warm_start = warm_start
        self.predict_batch_size = predict_batch_size
        self.device = device
        self.precision = precision
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @property
    def towers_(self) -> tuple[str, str]:
        """The names of the towers, in the order in which they run."""
        return self._case_form("towers_").towers

    @property
    def n_tower_layers_(self) -> tuple[int, int]:
        """Number of layers of each of `towers_`."""
        form = self._case_form("n_tower_layers_")
        return form.n_first_layers, len(form.exit_costs) - form.n_first_layers

    @property
    def exit_costs_(self) -> NDArray[np.float64]:
        """Share of the work of both towers up to each exit, ``(n_layers_,)``."""
        return np.array(self._case_form("exit_costs_").exit_costs)

    @property
    def pooling_(self) -> dict[str, str]:  # type: ignore[override]
        """What the heads of each tower read."""
        network = self._trained("pooling_").net.module_
        return dict(zip(self.towers_, network.pooling, strict=True))

    def _case_form(self, name: str) -> CaseForm:
        state = vars(self).get("_state")
        if state is None:
            raise AttributeError(f"{type(self).__name__!r} has no {name!r} before it is fitted.")
        form: CaseForm = state.summary.sample_form
        return form

    def predict_with_exits(self, X: Any) -> Bunch:
        """Return labels, probabilities, exit layers, entropies and costs from one pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        Bunch
            ``labels`` (n_samples,), ``proba`` (n_samples, n_classes) float32, ``exit_layer``
            (n_samples,) int64 and ``entropy`` (n_samples,) float32, the normalized entropy of the
            exit's own head, in [0, 1]. With several tasks ``labels`` and ``entropy`` have the shape
            (n_samples, n_tasks), and ``proba`` is a list with one array per task. ``exit_cost``
            (n_samples,) float64 is the cost of a sample as a share of that of all layers for its
            inputs, and ``towers`` (n_samples, 2) bool whether the text tower and the image tower
            ran for it.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEMultimodalClassifier
        >>> from sklearn_epee.datasets import make_case_reports
        >>> X, y = make_case_reports(40, random_state=0)
        >>> clf = EPEEMultimodalClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> found = clf.predict_with_exits(X[:5])
        >>> found.labels.shape, found.exit_cost.shape, found.towers.shape
        ((5,), (5,), (5, 2))
        """
        return super().predict_with_exits(X)

    def predict_towers(self, X: Any) -> NDArray[np.bool_]:
        """Return which towers run for each sample under the exit policy.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, 2), bool
            Whether the text tower runs, and whether the image tower does.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEMultimodalClassifier
        >>> from sklearn_epee.datasets import make_case_reports
        >>> X, y = make_case_reports(40, random_state=0)
        >>> clf = EPEEMultimodalClassifier(max_epochs=1, first="text", random_state=0).fit(X, y)
        >>> clf.set_params(tau=2.0).predict_towers(X[:2])  # every text is sure enough
        array([[ True, False],
               [ True, False]])
        >>> clf.set_params(tau=0.0).predict_towers(X[:2])  # no sample exits early
        array([[ True,  True],
               [ True,  True]])
        """
        return self.predict_with_exits(X).towers

    def staged_predict_proba(self, X: Any) -> Iterator[Probabilities]:
        """Predict class probabilities at every layer, from one forward pass.

        Parameters
        ----------
        X : samples
            As in `fit`.

        Yields
        ------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
            Probabilities of layer 1, then 2, up to ``n_layers_``. NaN at missing exits: those of a
            missing text or image, and those skipped because of `hand_over_after`.

        Raises
        ------
        ValueError
            If X is not as described.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee import EPEEMultimodalClassifier
        >>> from sklearn_epee.datasets import make_case_reports
        >>> X, y = make_case_reports(40, random_state=0)
        >>> clf = EPEEMultimodalClassifier(max_epochs=1, first="text", random_state=0).fit(X, y)
        >>> staged = np.stack(list(clf.staged_predict_proba([("A nodule.", None)])), axis=1)
        >>> np.isnan(staged[0, :, 0])
        array([False, False, False, False, False, False,  True,  True,  True,
                True,  True,  True])
        """
        state = self._fitted()
        samples = self._check_samples(X, state.summary)
        for proba in self._staged(state, samples).transpose(1, 0, 2):
            yield state.tasks.proba(proba)

    def _layer_by_layer(self, state: FittedState, X: Any) -> NDArray[np.float32]:
        """Return probabilities at every layer, with those of the nearest exit at missing exits."""
        staged = super()._layer_by_layer(state, X).transpose(1, 0, 2)
        own = available_exits(staged)
        return (staged if own is None else fill(staged, own)).transpose(1, 0, 2)

    def _extra_results(
        self, state: FittedState, samples: list[Case], exits: Exits
    ) -> dict[str, Any]:
        form: CaseForm = state.summary.sample_form
        rows = np.arange(len(samples))
        own = np.ones((len(rows), self.n_layers_), bool) if exits.own is None else exits.own
        shares = exit_shares(own, self.exit_costs_, self.n_tower_layers_)
        reached = np.stack([np.ones(len(rows), bool), exits.exit_layer > form.n_first_layers], 1)
        towers = form.in_order(present_cells(samples)) & reached
        return {
            "exit_cost": shares[rows, exits.exit_layer - 1],
            "towers": towers[:, [form.towers.index(name) for name in TOWERS]],
        }

    # ------------------------------------------------------------------------ training

    def _check_samples(self, X: Any, fitted: Summary | None) -> list[Case]:
        form = None if fitted is None else fitted.sample_form.images
        cases = as_cases(X, self.text_column, self.image_column, form)
        if fitted is None:
            check_both_kinds(cases, type(self).__name__)
        return cases

    def _training_defaults(self) -> training_defaults.TrainingDefaults:
        each = [tower._training_defaults() for tower in self._tower_estimators().values()]
        return training_defaults.defaults_of_both(*each)

    def _build(  # type: ignore[override]  # a network of two towers has exits, too
        self, samples: list[Case], n_classes: Classes, watched: Sequence[Case] = ()
    ) -> tuple[CaseReader, TwoTowerNetwork]:
        # Checked again without the samples that are held out.
        check_both_kinds(samples, type(self).__name__)
        readers, networks = {}, {}
        for name, parts in (("text", texts_of), ("image", images_of)):
            with _with_own_parameter_names(name):
                readers[name], networks[name] = self._tower_estimators()[name]._build(
                    parts(samples), n_classes, parts(watched)
                )
        batches = typical_batches(
            readers["text"], readers["image"], texts_of(samples), images_of(samples)
        )
        first = cheaper_tower(networks, batches) if self.first == "auto" else self.first
        towers = (first, TOWERS[1 - TOWERS.index(first)])
        dropout = float(given(self.dropout, CONTEXT_DROPOUT))
        network = join_towers(networks[towers[0]], networks[towers[1]], dropout)
        form = CaseForm(
            images=readers["image"].sample_form,
            towers=towers,
            n_first_layers=network.n_first_layers,
            exit_costs=tuple(network.exit_costs(*(batches[name] for name in towers)).tolist()),
        )
        return CaseReader(readers["text"], readers["image"], form), network

    def _heads_of(self, network: TwoTowerNetwork) -> dict[str, str]:
        poolings = zip(self.towers_, network.pooling, strict=True)
        return {"head": network.head} | {f"{tower}_pooling": pooling for tower, pooling in poolings}

    def _adjust(self, network: TwoTowerNetwork, data: TrainingData) -> None:
        super()._adjust(network, data)
        network.hand_over_after = self.hand_over_after  # a warm start may change it

    def _preprocessor_for_layers(self, preprocessor: CaseReader, n_layers: int) -> CaseReader:
        return preprocessor.for_first_layers(n_layers)

    def _tower_estimators(self) -> dict[str, Any]:
        """Return the text and image classifiers, which build the towers."""
        return {
            "text": EPEEClassifier(
                self.text_backbone,
                tokenizer=self.tokenizer,
                max_length=self.max_length,
                pooling=self.text_pooling,
                head=self.head,
                dropout=self.dropout,
                verbose=self.verbose,
            ),
            "image": EPEEImageClassifier(
                self.image_backbone,
                image_processor=self.image_processor,
                image_size=self.image_size,
                augment=self.augment,
                pooling=self.image_pooling,
                head=self.head,
                dropout=self.dropout,
                verbose=self.verbose,
            ),
        }

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags


@contextmanager
def _with_own_parameter_names(tower: str) -> Iterator[None]:
    """Rename parameters in errors of the text or image classifier to those of this estimator."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = _RENAMED.sub(rf"{tower}_\1", str(error))
        if message == str(error):
            raise
        raise type(error)(message) from error
