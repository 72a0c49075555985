"""EPEEClassifier: early-exit classification of texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import joblib
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from transformers import BertConfig, PretrainedConfig

from ._base.classifier import BaseEPEEClassifier
from ._base.fitted import Summary
from ._base.parameters import HEAD_INIT_CONSTRAINT
from ._base.text_backbone import compact_tokenizer, given_backbone
from ._checks.entity_marks import carry_marks, check_marks
from ._checks.texts import Text, as_texts, is_paired
from ._compat import Interval, StrOptions
from ._nn import training_defaults
from ._nn.backbones import (
    adapter_for,
    checkpoint_pooling,
    load_backbone,
)
from ._nn.long_texts import check_long_texts, long_texts_of
from ._nn.marked_texts import MARKED, MarkedTextTokenizer, with_mark_tokens
from ._nn.network import MultiExitNetwork
from ._nn.tasks import Classes
from ._nn.texts import (
    TextTokenizer,
    choose_max_length,
    compact_text_config,
)

_ENTITY_POOLING_NOTE = (
    "pooling='auto': all texts have marks around two entities, so 'entity' is used: the heads read "
    "the starts of [E1] and [E2]."
)


class EPEEClassifier(BaseEPEEClassifier):
    r"""Transformer classifier for texts with early exits.

    A transformer is fine-tuned with a classifier after every layer. At prediction time, each text
    exits at the first layer m whose normalized entropy is below `tau`, or at which `patience`
    consecutive layers predict the same class (EPEE [1]_). Easy texts need a few layers, and only
    hard ones need all of them.

    Parameters
    ----------
    backbone : str, path-like, transformers config or None, default=None
        A checkpoint folder or hub id: fine-tuned from its weights. A config object: that
        architecture with fresh weights. None: a compact BERT (6 layers of width 128) trained from
        scratch. Families: ALBERT, BERT, BioGPT, CamemBERT, DeBERTa (versions 2 and 3), DistilBERT,
        ELECTRA, Gemma, GPT-2, Llama, Megatron-BERT (GatorTron), Mistral, ModernBERT, MPNet, Qwen
        (versions 2 and 3), RoBERTa, XLM-RoBERTa; and any other transformers model with one list of
        layers that passes a check, when it is loaded, that it can be run layer by layer
        (docs/backbones.md).
    tokenizer : str, path-like, tokenizer object or None, default=None
        None: the checkpoint's own tokenizer, with or without a padding token; without a checkpoint,
        a lower-case WordPiece vocabulary is learned from the training texts. Tokens that were added
        to the checkpoint's own tokenizer (``add_tokens``) get embeddings, which are trained with
        the rest.
    max_length : int or None, default=None
        Longest text in tokens, special tokens included; longer texts are truncated, with a warning.
        None: as many as the backbone can read; from scratch, the longest training text (at most
        512). Batches are only padded to their own longest text.
    long_texts : {"truncate", "windows", "head_tail"}, default="truncate"
        How a text longer than `max_length` is read. "truncate": its beginning. "windows": in full,
        in as many windows of tokens as it needs, see Notes. "head_tail": its first and its last
        tokens, half each [5]_. The last two accept single texts, not pairs.
    window_length : int or None, default=None
        Number of tokens per window, special tokens included, with ``long_texts="windows"``. None:
        `max_length`. A text that fits in one window is read as with "truncate".
    window_stride : int or None, default=None
        Number of tokens from the start of a window to the start of the next. None: as many as fit
        in a window next to its special tokens, so that every token is read once. With fewer,
        windows overlap. (The ``stride`` of transformers' tokenizers is the overlap.)
    max_windows : int, default=16
        Maximum number of windows per text, which bounds the memory of a training step and of a
        prediction; the rest of a text is truncated, with a warning.
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
        The first layer at which samples may exit. Layers below it run for every sample, and their
        predictions only count for `patience`. With 1 samples may exit at any layer; with the number
        of layers or more they all run through the whole network. A higher value can be safer where
        the first layers are confidently wrong. Can be changed after `fit`.
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
    pooling : {"auto", "cls", "mean", "cls+mean", "last", "attention", "entity"}, default="auto"
        What the head of layer m reads: the first position, the mean over real positions, the first
        position beside the mean of the layer below, the last real token, or the mean over real
        positions weighted by a softmax of their products with a query that the head learns (after
        [4]_). "entity", for relations, reads the first positions of the opening marks of two
        entities side by side [6]_: texts are marked as by `EntityMarker`, ``[E1] aspirin [/E1]``.
        "auto" is "last" for causal decoders, "entity" if all training texts contain both marks, the
        pooling that a checkpoint was trained with if its files state it, and "mean" otherwise.
    entity_marks : {"text", "tokens"}, default="text"
        How the backbone reads the marks around entities: as text, or as additional tokens whose
        embeddings are trained with the rest. Tokens make texts shorter, but predictions no better.
        "tokens" requires that all texts contain both marks, and works with any pooling.
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
    head_init : {"random", "regression"}, default="random"
        Initial weights of the heads. "random": random weights. "regression": each head is
        initialized as a logistic regression on its inputs from the untrained backbone, fitted to at
        most 4,000 training samples (an idea of arXiv:2202.10054). This raises the accuracy of the
        first exits if there are many classes or the training is short. With `warm_start`, a fitted
        network keeps its heads.
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
    multilabel_ : bool
        Whether samples have several labels each.
    n_layers_ : int
        Number of layers M of the backbone, and of exits.
    exit_weights_ : ndarray of shape (n_layers,), float64
        Weight of each exit in the joint loss, from `exit_loss_weights` at `fit`.
    pooling_ : str
        The pooling in use: `pooling`, or the one that "auto" selected.
    net_ : skorch.NeuralNetClassifier
        The trained net; ``net_.module_`` is the torch module with `backbone` and `heads`.
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
    After layer m a head maps the pooled hidden state to class probabilities, and training
    minimizes the mean of the heads' cross-entropies weighted by `exit_loss_weights` [1]_. One
    trained network serves every `tau`, `patience` and budget.

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

    "auto" training settings, chosen by experiments (``benchmarks/training_defaults.py``):

    ============ =============== ============ ============ ========== ==============================
    backbone     `learning_rate` heads' rate  `batch_size` `dropout`  `max_epochs` (K classes)
    ============ =============== ============ ============ ========== ==============================
    checkpoint   8e-05           0.001        16           0.1        760 + 70 K steps, 3 to 10
    from scratch 0.001           0.001        32           0.1        1500 + 0 K steps, 3 to 40
    ============ =============== ============ ============ ========== ==============================

    With several labels per sample and a checkpoint, the learning rate of the shared heads is four
    times as high, and their biases are initialized with the frequencies of the labels.

    **Long texts.** With ``long_texts="windows"`` every window has its own special tokens, and goes
    through the layers by itself. At layer m the head reads the mean over the real positions of all
    windows of a text (pooling "mean"; special tokens count in every window, and tokens that two
    windows share count twice), the mean over the windows' first ("cls") or last real positions
    ("last"), both kinds side by side ("cls+mean"), or one softmax over the positions of all windows
    ("attention"). So a text is one sample, however long: it has one loss and one entropy, and all
    its windows exit together. A training step uses `batch_size` texts; it runs them in parts of at
    most `batch_size` windows (or one text) and accumulates gradients, so it needs no more memory
    than a step of `batch_size` (or `max_windows`) short texts.

    X is a list, tuple, array or pandas/polars Series of str; pairs of texts are an (n, 2) array, a
    two-column data frame or a list of pairs.

    References
    ----------
    .. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
       arXiv:2503.02053.
    .. [2] Kubaty et al., "How to Train Your Multi-Exit Model? Analyzing the Impact of Training
       Strategies", arXiv:2407.14320.
    .. [3] Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural
       Networks via Self Distillation", arXiv:1905.08094.
    .. [4] Lin et al., "A Structured Self-attentive Sentence Embedding", arXiv:1703.03130.
    .. [5] Sun et al., "How to Fine-Tune BERT for Text Classification?", arXiv:1905.05583.
    .. [6] Baldini Soares et al., "Matching the Blanks: Distributional Similarity for Relation
       Learning", arXiv:1906.03158.

    Examples
    --------
    >>> from sklearn_epee import EPEEClassifier
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> X, y = make_supplement_notes(60, random_state=0)
    >>> clf = EPEEClassifier(tau=0.2, max_epochs=1, random_state=0).fit(X, y)
    >>> clf.predict(X[:5]).shape
    (5,)
    >>> clf.set_params(patience=1).predict_exit_layer(X[:5])
    array([1, 1, 1, 1, 1])

    Two tasks, the use of a supplement and whether the note mentions a vitamin, exit together:

    >>> vitamin = ["yes" if "vitamin" in text.lower() else "no" for text in X]
    >>> tasks = list(zip(y, vitamin))
    >>> both = EPEEClassifier(tau=0.2, max_epochs=1, joint_exit="mean", random_state=0)
    >>> both = both.fit(X, tasks)
    >>> both.predict(X[:5]).shape, [part.shape for part in both.predict_proba(X[:5])]
    ((5, 2), [(5, 4), (5, 2)])
    >>> any_layer = both.set_params(joint_exit="any").predict_exit_layer(X)
    >>> all_layer = both.set_params(joint_exit="all").predict_exit_layer(X)
    >>> (any_layer <= all_layer).all()
    np.True_

    Several labels per text, those of three words that it has:

    >>> named = [[word for word in ("daily", "tablet", "vitamin") if word in text] for text in X]
    >>> labels = EPEEClassifier(max_epochs=1, class_weight="balanced", random_state=0)
    >>> labels = labels.fit(X, named)
    >>> labels.classes_.tolist(), labels.predict_proba(X[:5]).shape
    (['daily', 'tablet', 'vitamin'], (5, 3))
    >>> labels.set_params(label_thresholds=[0.5, 0.4, 0.3]).predict(X[:5]).shape
    (5, 3)

    Long notes, read in windows of 32 tokens:

    >>> notes = [" ".join(X[i : i + 8]) for i in range(len(X) - 8)]
    >>> long = EPEEClassifier(
    ...     long_texts="windows", window_length=32, max_epochs=1, random_state=0
    ... )
    >>> long.fit(notes, y[8:]).predict(notes[:5]).shape
    (5,)
    """

    _kind = "text"
    _sources = ("backbone", "tokenizer")
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEPEEClassifier._parameter_constraints,
        "head_init": HEAD_INIT_CONSTRAINT,
        "backbone": [str, os.PathLike, PretrainedConfig, None],
        "tokenizer": "no_validation",
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "pooling": [StrOptions({"auto", "cls", "mean", "cls+mean", "last", "attention", "entity"})],
        "entity_marks": [StrOptions({"text", "tokens"})],
        "long_texts": [StrOptions({"truncate", "windows", "head_tail"})],
        "window_length": [Interval(Integral, 1, None, closed="left"), None],
        "window_stride": [Interval(Integral, 1, None, closed="left"), None],
        "max_windows": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        *,
        tokenizer: Any = None,
        max_length: int | None = None,
        long_texts: str = "truncate",
        window_length: int | None = None,
        window_stride: int | None = None,
        max_windows: int = 16,
        tau: float = 0.1,
        patience: int | None = None,
        min_exit_layer: int = 1,
        exit_ensemble: str | None = None,
        joint_exit: str = "all",
        target_type: str = "auto",
        label_thresholds: float | ArrayLike | None = None,
        pooling: str = "auto",
        entity_marks: str = "text",
        head: str = "linear",
        exit_loss_weights: str | ArrayLike = "ascending",
        exit_training: str = "joint",
        head_init: str = "random",
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
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_texts = long_texts
        self.window_length = window_length
        self.window_stride = window_stride
        self.max_windows = max_windows
        self.tau = tau
        self.patience = patience
        self.min_exit_layer = min_exit_layer
        self.exit_ensemble = exit_ensemble
        self.joint_exit = joint_exit
        self.target_type = target_type
        self.label_thresholds = label_thresholds
        self.pooling = pooling
        self.entity_marks = entity_marks
        self.head = head
        self.exit_loss_weights = exit_loss_weights
        self.exit_training = exit_training
        self.head_init = head_init
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

    @classmethod
    def from_paper_checkpoint(
        cls,
        folder: str | os.PathLike[str],
        *,
        classes: ArrayLike | None = None,
        pairs: bool = False,
        **params: Any,
    ) -> Self:
        r"""Return a fitted classifier from a folder that the paper's own code wrote.

        That code, like PABEE's [1]_, trains one linear classifier per layer (keys
        ``classifiers.0.weight`` and so on) behind the backbone's own pooler, which all layers
        share. Each head here gets a copy of that pooler, so that the predictions are the same.

        Parameters
        ----------
        folder : str or path-like
            With `config.json`, the weights (`pytorch_model.bin` or `model.safetensors`) and the
            tokenizer.
        classes : array-like of shape (n_classes,), default=None
            Labels in the order of the checkpoint's logits. None: those in ``id2label`` of
            `config.json`, or numbers from 0 if it has none.
        pairs : bool, default=False
            Whether the classifier reads pairs of texts.
        **params
            Parameters of the classifier, for example `tau` and `patience`. That code counts
            agreements from 0: its patience p is ``patience=p + 1``.

        Returns
        -------
        EPEEClassifier
            Fitted, with an empty `history_`; its `backbone` is the folder and its `pooling` what
            the heads read. With ``warm_start=True``, `fit` continues from it.

        Raises
        ------
        ValueError
            If a parameter is invalid, the folder does not contain the backbone and one classifier
            per layer, or the number of classes is wrong.

        References
        ----------
        .. [1] Zhou et al., "BERT Loses Patience: Fast and Robust Inference with Early Exit",
           arXiv:2006.04152.

        Examples
        --------
        A folder in that layout, with random weights:

        >>> import pathlib, tempfile
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from sklearn_epee import EPEEClassifier
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "takes", "zinc"]
        >>> _ = (folder / "vocab.txt").write_text("\n".join(words))
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> config = BertConfig(vocab_size=7, **sizes, id2label={0: "yes", 1: "no"})
        >>> config.save_pretrained(folder)
        >>> weights = {f"bert.{k}": v for k, v in BertModel(config).state_dict().items()}
        >>> for m in range(2):
        ...     weights[f"classifiers.{m}.weight"] = torch.randn(2, 8)
        ...     weights[f"classifiers.{m}.bias"] = torch.zeros(2)
        >>> torch.save(weights, folder / "pytorch_model.bin")

        >>> clf = EPEEClassifier.from_paper_checkpoint(folder, tau=0.1, patience=2)
        >>> clf.classes_.tolist(), clf.predict_proba(["takes zinc"]).shape
        (['no', 'yes'], (1, 2))
        """
        samples: list[Text] = [("", "")] if pairs else [""]
        return cls._from_paper(folder, classes, params, lambda _: samples)

    def _check_samples(self, X: Any, fitted: Summary | None) -> list[Text]:
        texts = as_texts(X)
        if fitted is not None and fitted.sample_form == MARKED:
            by_auto = " (chosen by 'auto' in fit)" if self.pooling == "auto" else ""
            check_marks(texts, f"pooling='entity'{by_auto}")
        elif fitted is None and self.pooling == "entity":
            check_marks(texts, "pooling='entity'")
        elif fitted is None and self.entity_marks == "tokens":
            check_marks(texts, "entity_marks='tokens'")
        elif fitted is not None and is_paired(texts) != fitted.sample_form:
            names = {True: "pairs of texts", False: "single texts"}
            raise ValueError(
                f"X holds {names[is_paired(texts)]}, but this {type(self).__name__} was fitted on "
                f"{names[fitted.sample_form]}."
            )
        return texts

    def _training_defaults(self) -> training_defaults.TrainingDefaults:
        if isinstance(self.backbone, (str, os.PathLike)):
            return training_defaults.PRETRAINED_TEXT
        return training_defaults.SCRATCH_TEXT

    def _build(
        self, samples: list[Text], n_classes: Classes, watched: Sequence[Text] = ()
    ) -> tuple[TextTokenizer, MultiExitNetwork]:
        if self.backbone is None:
            return self._build_compact(samples, n_classes, watched)
        backbone, tokenizer = given_backbone(
            self.backbone, self.tokenizer, samples, lambda given: self._with_marks(given, samples)
        )
        config = backbone.config
        adapter = adapter_for(backbone)
        n_segments = getattr(config, "type_vocab_size", 0) or 0
        suggested = checkpoint_pooling(self.backbone) or ("last" if adapter.causal else None)
        pooling = self._chosen_pooling([*samples, *watched], tokenizer, suggested)
        preprocessor = self._reader(samples, tokenizer, adapter.max_length, n_segments, pooling)
        return preprocessor, self._with_heads(backbone, n_classes, pooling)

    def _build_compact(
        self, samples: list[Text], n_classes: Classes, watched: Sequence[Text]
    ) -> tuple[TextTokenizer, MultiExitNetwork]:
        tokenizer = compact_tokenizer(self.tokenizer, samples)
        tokenizer = self._with_marks(tokenizer, samples)
        pooling = self._chosen_pooling([*samples, *watched], tokenizer, None)
        n_segments = BertConfig().type_vocab_size
        preprocessor = self._reader(samples, tokenizer, None, n_segments, pooling)
        config = compact_text_config(tokenizer, preprocessor.max_length)
        backbone = load_backbone(config, "text")
        return preprocessor, self._with_heads(backbone, n_classes, pooling)

    def _reader(
        self,
        samples: list[Text],
        tokenizer: Any,
        positions: int | None,
        n_segments: int,
        pooling: str,
    ) -> TextTokenizer:
        """Return the tokenizer of texts, for a backbone with this number of positions."""
        reads_pairs = is_paired(samples)
        check_long_texts(self, reads_pairs)
        in_windows = self.long_texts == "windows" and self.window_length is not None
        wanted, argument = (
            (self.window_length, "window_length") if in_windows else (self.max_length, "max_length")
        )
        length = choose_max_length(wanted, tokenizer, positions, samples, argument)
        if pooling == "entity":
            return MarkedTextTokenizer(tokenizer, length)
        n_special = tokenizer.num_special_tokens_to_add(pair=reads_pairs)
        long_texts = long_texts_of(
            self.long_texts, length, self.window_stride, self.max_windows, n_special
        )
        return TextTokenizer(tokenizer, length, n_segments, reads_pairs, long_texts)

    def _with_marks(self, tokenizer: Any, samples: list[Text]) -> Any:
        """Return the tokenizer, with entity marks as additional tokens if `entity_marks` is so."""
        return with_mark_tokens(tokenizer, samples) if self.entity_marks == "tokens" else tokenizer

    def _chosen_pooling(self, samples: list[Text], tokenizer: Any, suggested: str | None) -> str:
        """Return the pooling; `suggested` is that of the checkpoint or its family, if any."""
        if self.pooling != "auto":
            return self.pooling
        # In a causal decoder, the state of an opening mark does not depend on the entity after it.
        readable = suggested != "last" and tokenizer.is_fast and self.long_texts == "truncate"
        if not (readable and carry_marks(samples)):
            return suggested or self._training_defaults().pooling
        if self.verbose:
            print(_ENTITY_POOLING_NOTE)  # noqa: T201 - because of `verbose`
        return "entity"

    def _with_heads(self, backbone: Any, n_classes: Classes, pooling: str) -> MultiExitNetwork:
        dropout = self._head_dropout()
        return MultiExitNetwork(backbone, n_classes, pooling, dropout, head=self.head)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags
