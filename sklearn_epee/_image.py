"""EPEEImageClassifier: early-exit classification of images."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import joblib
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from transformers import PretrainedConfig

from ._base.classifier import BaseEPEEClassifier
from ._base.fitted import Summary
from ._base.parameters import HEAD_INIT_CONSTRAINT
from ._checks.images import Images, as_images, image_form
from ._compat import Interval, StrOptions
from ._nn import training_defaults
from ._nn.backbones import adapter_for, load_backbone, load_config
from ._nn.images import (
    ImagePreprocessor,
    as_size,
    channel_statistics,
    common_size,
    compact_image_config,
    config_size,
    count_positions,
    load_image_processor,
    processor_size,
)
from ._nn.network import MultiExitNetwork
from ._nn.tasks import Classes


class EPEEImageClassifier(BaseEPEEClassifier):
    r"""Transformer classifier for images with early exits.

    A vision transformer is fine-tuned with a classifier after every layer. At prediction time, each
    image exits at the first layer m whose normalized entropy is below `tau`, or at which `patience`
    consecutive layers predict the same class (EPEE [1]_). Easy images need a few layers, and only
    hard ones need all of them.

    Parameters
    ----------
    backbone : str, path-like, transformers config or None, default=None
        A checkpoint folder or hub id: fine-tuned from its weights. A config object: that
        architecture with fresh weights. None: a compact ViT (6 layers of width 128) trained from
        scratch, its patches suited to the image size. Families: BEiT, CLIP and SigLIP (vision
        towers), DeiT, DINOv2, DINOv3, ViT, ViT-MAE (encoder), timm's and open_clip's vision
        transformers (extra ``timm``); and any other transformers model with one list of layers that
        passes a check, when it is loaded, that it can be run layer by layer (docs/backbones.md).
    image_processor : str, path-like, processor object or None, default=None
        None: the checkpoint's own image processor; without a checkpoint, images are standardized
        with the channel statistics of the training images.
    image_size : int, (height, width) or None, default=None
        Size in pixels that the backbone reads; images are resized to it. None: the checkpoint's
        own size; from scratch, the size of the training images (their median where they differ,
        at most 224).
    image_shape : (height, width) or (height, width, channels) or None, default=None
        Shape of an image where X holds flattened images as rows.
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
    pooling : {"auto", "cls", "mean", "cls+mean", "last", "attention"}, default="auto"
        What the head of layer m reads: the first position, the mean over real positions, the first
        position beside the mean of the layer below, the last real token, or the mean over real
        positions weighted by a softmax of their products with a query that the head learns
        (after [4]_). "auto" is "cls+mean" for checkpoints and "mean" from scratch and for SigLIP,
        which has no first position of its own; "last" is for texts.
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
    checkpoint   5e-05           0.0005       16           0          760 + 70 K steps, 3 to 10
    from scratch 0.001           0.001        32           0          2500 + 0 K steps, 3 to 150
    ============ =============== ============ ============ ========== ==============================

    The pooling of checkpoints was chosen with DINOv2-small (``benchmarks/image_defaults.py``, 3
    epochs). On 9 kinds of tissue, 56 x 56 pixels, the accuracy of "cls+mean" is 0.73, 0.76 and 0.83
    at layers 2 to 4, that of "cls" 0.61, 0.58 and 0.68, and both have 0.89 at layer
    12. On breast ultrasound images the two do not differ significantly, and "mean" loses 2 to 5
    points at layer 12. The other settings for checkpoints are common values.

    X is an array (n, h, w) or (n, h, w, c), a sequence of arrays, PIL images or paths of image
    files, of any sizes, or rows of flattened images together with `image_shape`. Channels come
    last. uint8 pixels are read as 0..255; floats as they are (from 0 to 1 for a checkpoint's
    processor). The scale of the training images is stored: later images with the same values in
    another type are converted, and images with a different or unknown scale raise an error. PIL
    images are read as grey or RGB, each with or without transparency, and other color spaces are
    converted to RGB. Large PIL files are only kept in memory for one batch at a time.

    **Files.** A path (str or path-like) is a file that Pillow reads, or DICOM (with
    ``pip install 'sklearn_epee[dicom]'``). `fit` decodes every file once before training, in order
    to find damaged files, and keeps up to 256 MiB of pixels; other files, and all files in
    prediction, are read when their batch needs them. Predictions are the same as for arrays with
    the same pixels. 8-bit images are uint8, 16-bit images are divided by 65535, and floats are not
    changed. Photographs are rotated according to their EXIF orientation. DICOM pixels are rescaled
    (slope and intercept), and then mapped to [0, 1] by the file's first window or by the full range
    of their bits; MONOCHROME1 is inverted. Files with several frames, volumes and files that cannot
    be decoded raise an error that names them. Searches compare training files by their content, not
    by their paths. :func:`~sklearn_epee.datasets.load_image_folder` and
    :func:`~sklearn_epee.datasets.load_image_csv` list paths with their labels.

    References
    ----------
    .. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
       arXiv:2503.02053.
    .. [2] Kubaty et al., "How to Train Your Multi-Exit Model? Analyzing the Impact of Training
       Strategies", arXiv:2407.14320.
    .. [3] Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural
       Networks via Self Distillation", arXiv:1905.08094.
    .. [4] Lin et al., "A Structured Self-attentive Sentence Embedding", arXiv:1703.03130.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_epee import EPEEImageClassifier
    >>> digits = load_digits()
    >>> clf = EPEEImageClassifier(tau=0.2, max_epochs=1, random_state=0)
    >>> clf = clf.fit(digits.images[:100], digits.target[:100])
    >>> clf.predict(digits.images[:5]).shape
    (5,)
    >>> clf.set_params(patience=1).predict_exit_layer(digits.images[:5])
    array([1, 1, 1, 1, 1])
    """

    _kind = "image"
    _sources = ("backbone", "image_processor")
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEPEEClassifier._parameter_constraints,
        "head_init": HEAD_INIT_CONSTRAINT,
        "backbone": [str, os.PathLike, PretrainedConfig, None],
        "image_processor": "no_validation",
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "image_shape": [tuple, list, None],
        "augment": [StrOptions({"auto"}), "boolean"],
    }

    def __init__(
        self,
        backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        *,
        image_processor: Any = None,
        image_size: int | tuple[int, int] | None = None,
        image_shape: tuple[int, ...] | None = None,
        augment: bool | str = "auto",
        tau: float = 0.1,
        patience: int | None = None,
        min_exit_layer: int = 1,
        exit_ensemble: str | None = None,
        joint_exit: str = "all",
        target_type: str = "auto",
        label_thresholds: float | ArrayLike | None = None,
        pooling: str = "auto",
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
        self.image_processor = image_processor
        self.image_size = image_size
        self.image_shape = image_shape
        self.augment = augment
        self.tau = tau
        self.patience = patience
        self.min_exit_layer = min_exit_layer
        self.exit_ensemble = exit_ensemble
        self.joint_exit = joint_exit
        self.target_type = target_type
        self.label_thresholds = label_thresholds
        self.pooling = pooling
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
        n_channels: int | None = None,
        **params: Any,
    ) -> Self:
        """Return a fitted classifier from a folder that the paper's own code wrote.

        That code, like PABEE's [1]_, trains one linear classifier per layer (keys
        ``classifiers.0.weight`` and so on), behind a pooler that all layers share if the
        checkpoint has one. Each head here gets a copy of it, so that the predictions are the same.

        Parameters
        ----------
        folder : str or path-like
            With `config.json`, the weights (`pytorch_model.bin` or `model.safetensors`) and
            `preprocessor_config.json`.
        classes : array-like of shape (n_classes,), default=None
            Labels in the order of the checkpoint's logits. None: those in ``id2label`` of
            `config.json`, or numbers from 0 if it has none.
        n_channels : int, default=None
            Number of channels of the images to predict, 1 for grey ones; None: as many as the
            backbone reads. Pixels are uint8, from 0 to 255.
        **params
            Parameters of the classifier, for example `tau` and `patience`. That code counts
            agreements from 0: its patience p is ``patience=p + 1``.

        Returns
        -------
        EPEEImageClassifier
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

        >>> import json, pathlib, tempfile
        >>> import numpy as np
        >>> import torch
        >>> from transformers import ViTConfig, ViTModel
        >>> from sklearn_epee import EPEEImageClassifier
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> config = ViTConfig(image_size=8, patch_size=4, **sizes)
        >>> config.save_pretrained(folder)
        >>> processor = {
        ...     "image_processor_type": "ViTImageProcessor",
        ...     "size": {"height": 8, "width": 8},
        ... }
        >>> _ = (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        >>> model = ViTModel(config, add_pooling_layer=False)
        >>> weights = {f"vit.{k}": v for k, v in model.state_dict().items()}
        >>> for m in range(2):
        ...     weights[f"classifiers.{m}.weight"] = torch.randn(2, 8)
        ...     weights[f"classifiers.{m}.bias"] = torch.zeros(2)
        >>> torch.save(weights, folder / "pytorch_model.bin")

        >>> clf = EPEEImageClassifier.from_paper_checkpoint(folder, classes=["a", "b"], tau=0.1)
        >>> clf.predict_proba(np.zeros((3, 8, 8, 3), np.uint8)).shape
        (3, 2)
        """

        def blank_image(config: PretrainedConfig) -> Images:
            channels = n_channels or config.num_channels
            pixels = np.zeros((1, 2, 2, channels), np.uint8)
            pixels[0, 0] = 255
            return pixels

        return cls._from_paper(folder, classes, params, blank_image)

    def _check_samples(self, X: Any, fitted: Summary | None) -> Images:
        return as_images(X, self.image_shape, fitted.sample_form if fitted else None)

    def _training_defaults(self) -> training_defaults.TrainingDefaults:
        if isinstance(self.backbone, (str, os.PathLike)):
            return training_defaults.PRETRAINED_IMAGE
        return training_defaults.SCRATCH_IMAGE

    def _build(
        self,
        samples: Images,
        n_classes: Classes,
        watched: Any = (),  # noqa: ARG002 - only used for texts
    ) -> tuple[ImagePreprocessor, MultiExitNetwork]:
        source = self._source(samples)
        config = load_config(source, "image")
        _check_channels(samples[0].shape[-1], config)
        processor = self._processor()
        size = self._size_for(config, processor)
        preprocessor = self._preprocessor_for(samples, config, processor, size)
        backbone = load_backbone(source, "image")
        adapter = adapter_for(backbone)
        adapter.set_image_size(size)
        pooling = self.pooling
        if pooling == "auto":
            pooling = self._training_defaults().pooling if adapter.has_class_token else "mean"
        dropout = self._head_dropout()
        network = MultiExitNetwork(backbone, n_classes, pooling, dropout, head=self.head)
        return preprocessor, network

    def _source(self, samples: Images) -> Any:
        if self.backbone is not None:
            return copy.deepcopy(self.backbone)
        size = self._wanted_size(self._processor()) or common_size(samples)
        return compact_image_config(size, samples[0].shape[-1])

    def _augments(self) -> bool:
        if self.augment == "auto":
            return not isinstance(self.backbone, (str, os.PathLike))
        return bool(self.augment)

    def _processor(self) -> Any:
        if self.image_processor is not None:
            return load_image_processor(self.image_processor, argument="image_processor")
        if isinstance(self.backbone, (str, os.PathLike)):
            return load_image_processor(self.backbone, argument="backbone")
        return None

    def _size_for(self, config: PretrainedConfig, processor: Any) -> tuple[int, int]:
        # The size of a compact network is the wanted size, rounded up to whole patches.
        is_compact = self.backbone is None
        return (None if is_compact else self._wanted_size(processor)) or config_size(config)

    def _wanted_size(self, processor: Any) -> tuple[int, int] | None:
        if self.image_size is not None:
            return as_size(self.image_size)
        size = processor_size(processor) if processor is not None else None
        return None if size is None else as_size(size, "image_processor: its size")

    def _preprocessor_for(
        self, samples: Images, config: PretrainedConfig, processor: Any, size: tuple[int, int]
    ) -> ImagePreprocessor:
        mean, std = (None, None) if processor is not None else channel_statistics(samples)
        preprocessor = ImagePreprocessor(
            size,
            image_form(samples),
            config.num_channels,
            count_positions(config, size),
            mean=mean,
            std=std,
            processor=processor,
            augments=self._augments(),
        )
        preprocessor.check(samples)
        return preprocessor

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _check_channels(n_channels: int, config: PretrainedConfig) -> None:
    if n_channels not in (1, config.num_channels):
        raise ValueError(
            f"X holds images of {n_channels} channels, but the backbone reads "
            f"{config.num_channels}; only grey images (1 channel) can be converted, by repetition."
        )
