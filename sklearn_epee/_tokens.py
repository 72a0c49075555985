"""EPEETokenClassifier: early-exit prediction of spans and tags in texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import joblib
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from transformers import PretrainedConfig

from ._base.fitted import Summary
from ._base.sentences import Sentence, as_sentences
from ._base.span_prediction import TOKEN_EXITS, BaseEPEETokenClassifier
from ._base.tag_data import TagData, prepare_tag_data
from ._base.text_backbone import text_backbone
from ._compat import Interval, StrOptions
from ._nn import training_defaults
from ._nn.tasks import Classes
from ._nn.token_engine import TokenEngine
from ._nn.token_network import TokenExitNetwork
from ._nn.word_texts import WordTokenizer
from ._spans import SCHEMES, check_transition_weight


class EPEETokenClassifier(BaseEPEETokenClassifier):
    r"""Token classifier with early exits, for entities and events.

    A transformer is fine-tuned with a classifier for every word after every layer. At prediction
    time, a sentence exits at the first layer at which the normalized entropies of its words are
    below `tau`, or `patience` consecutive layers predict the same tags (EPEE [1]_). Alternatively
    each word exits by itself, while the other words run through further layers [4]_.

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
        Longest sentence in tokens, special tokens included; longer ones are truncated, with a
        warning. None: as many as the backbone can read; from scratch, the longest training sentence
        (at most 512). Batches are only padded to their own longest sentence.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Tagging scheme of `y`, if `y` contains tags, of the tags that the network learns, and of
        those that `predict_tags` returns. With "IO", adjacent spans of one label are learned and
        predicted as one.
    misfit_spans : {"error", "warn"}, default="error"
        How `fit` treats spans that tags of words cannot represent: spans that overlap another one
        of their layer, have several parts, or do not start and end at word boundaries. "error"
        raises an error that names the first one; "warn" leaves them out, with one warning that
        counts them.
    tau : float, default=0.1
        Entropy threshold: a word may exit at the first layer whose normalized entropy, in [0, 1],
        is below `tau`. The comparison is strict: with 0 no word exits by entropy (patience only),
        and with a value above 1 every word exits at layer 1. Can be changed after `fit`.
    patience : int or None, default=None
        A word may also exit once this many consecutive layers, the current one included, predict
        the same tag: with 1 it exits at layer 1, and None stands for the number of layers M, so
        that the entropy alone decides. Can be changed after `fit`.
    min_exit_layer : int, default=1
        The first layer at which words may exit. Layers below it run for every sentence, and their
        predictions only count for `patience`. With 1 words may exit at any layer; with the number
        of layers or more they all run through the whole network. A higher value can be safer where
        the first layers are confidently wrong. Can be changed after `fit`.
    token_exit : {"sentence", "token"}, default="sentence"
        Whether words exit together. "sentence": all words of a sentence exit at one layer, the
        first at which `joint_exit` lets them; later layers do not run for the sentence. "token":
        each word exits by itself [4]_. A word that has exited keeps its hidden state, to which the
        other words still attend, and is not computed any more. Can be changed after `fit`.
    joint_exit : {"all", "any", "mean"}, default="all"
        When a sentence exits. "all": at the first layer at which all its words meet the exit rule,
        by their own entropy or their own patience, in all layers of spans. "any": at the first
        layer at which one word does. "mean": at the first layer at which the mean of the normalized
        entropies is below `tau`, or `patience` consecutive layers predict the same tags for all
        words. With ``token_exit="token"`` the rule joins the layers of spans of each word; with one
        layer of spans all three are the same. Can be changed after `fit`.
    transition_weight : float, default=0.0
        0: the most probable tag of each word is predicted, independently of other words. Above 0:
        the Viterbi algorithm [5]_ finds the tag sequence of the sentence that is valid in `scheme`
        and has the largest sum of log probabilities and transition scores,
        ``transition_weight * log(p(tag | tag before) / p(tag))``, with frequencies from the
        training data. 0.2 to 0.3 gained about a point of F1 on PHEE's events in the middle layers,
        more in the first ones and less in the last ones (``benchmarks/results/events.md``); a value
        close to 0 only keeps tags valid. Transitions favor rare tags, so an undertrained network
        predicts far too many spans with them: choose the weight on held-out texts. Probabilities
        and exit layers do not depend on it. Can be changed after `fit`, and tuned by a search
        without training.
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
    class_weight : "balanced", dict or None, default=None
        Weights of the tags in the loss, as in scikit-learn. With several layers of spans,
        "balanced" or a dict with the weights of each layer; the weights of a word's tags are
        multiplied. "balanced" gives words inside spans a much larger weight than words outside,
        which increases recall and decreases precision.
    validation_fraction : float, default=0.0
        Fraction of the sentences held out to report ``valid_loss`` and ``valid_acc``, the fraction
        of words whose tags are correct in every layer of spans, in `history_`. Nothing is held out
        by default. The split is stratified by whether sentences have spans; with ``groups`` in
        `fit`, whole groups are held out.
    early_stopping : bool, default=False
        Stop when the held-out joint loss has not improved for `n_iter_no_change` epochs, and
        restore the best weights. Requires `validation_fraction` above 0. With "mixed" training,
        epochs count from the first one that ends with all exits in training.
    n_iter_no_change : int, default=3
        Number of epochs without improvement before early stopping.
    callbacks : list of skorch callbacks or None, default=None
        Called in training, with the batch's tag indices as ``y``.
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
        Precision of the backbone; heads, entropies and the loss are always float32, except that on
        a CPU the attention of ``head="attention"`` predicts in the precision of the layers. "auto"
        trains in bfloat16 (with float32 weights) if the hardware supports it natively, and predicts
        in bfloat16 on a CPU with such support, because predictions do not depend on the other
        samples of a batch there. Otherwise it predicts in float32. The two differ in the third
        digit of the probabilities. On a CPU, layers that can only be run as a whole (mainly those
        of families without a dedicated adapter) always predict in float32. "int8" trains like
        "auto", calibrates 8-bit products after training, and predicts on a CPU with those products
        that change little; `precision_report_` reports the changes. It raises an error if the
        processor has no 8-bit products, or if layers can only be run as a whole.
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
    classes_ : ndarray of shape (n_tags,), or dict of str to such arrays
        The tags, sorted; with several layers of spans a dict with those of each layer.
    n_layers_ : int
        Number of layers M of the backbone, and of exits.
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
    After layer m a linear head maps the hidden state of the first subword token of
    every word to probabilities of its tags; the other tokens only serve as context. Training
    minimizes the mean cross-entropy over words, exits and layers of spans, with exits weighted by
    `exit_loss_weights`. One trained network serves every `tau`, `patience`, `token_exit` and
    budget.

    **X** is a list, array or Series of texts, or of lists of words. The words of a text are runs of
    letters and following digits, numbers, and single other characters ("insulin-induced" has three
    words). The network reads the words of a text joined by blanks, so texts and lists of the same
    words get the same tags. Spans of texts are in characters, those of lists in words, with
    exclusive ends.

    **y** contains, for each sample, a list of tags (one per word) or a list of spans
    ``(start, end, label)``. Tags are read strictly: an invalid tag, such as I- after O, raises an
    error that names its sample. Overlapping spans, such as those of nested events, are given as
    several layers of spans: for each sample a dict with the tags or spans of each layer by its
    name, or a data frame with one column per layer. Layers share the backbone and exit together;
    `predict` and similar methods return such dicts.

    Words without any token, and words beyond `max_length`, are predicted as "O", with a warning,
    and left out of the loss in training. A causal decoder only reads what is before a word and the
    first token of the word itself; an encoder is better suited.

    "auto" training settings, chosen by experiments (``benchmarks/training_defaults.py``):

    ============ =============== ============ ============ ========== ==============================
    backbone     `learning_rate` heads' rate  `batch_size` `dropout`  `max_epochs` (K classes)
    ============ =============== ============ ============ ========== ==============================
    checkpoint   8e-05           0.001        16           0.1        760 + 70 K steps, 3 to 10
    from scratch 0.001           0.001        32           0.1        1500 + 0 K steps, 3 to 40
    ============ =============== ============ ============ ========== ==============================

    References
    ----------
    .. [1] "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
       arXiv:2503.02053.
    .. [2] Kubaty et al., "How to Train Your Multi-Exit Model? Analyzing the Impact of Training
       Strategies", arXiv:2407.14320.
    .. [3] Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural
       Networks via Self Distillation", arXiv:1905.08094.
    .. [4] Li et al., "Accelerating BERT Inference for Sequence Labeling via Early-Exit",
       arXiv:2105.13878.
    .. [5] Viterbi, "Error bounds for convolutional codes and an asymptotically optimum decoding
       algorithm", IEEE Transactions on Information Theory 13, 1967; as in Lafferty et al.,
       "Conditional Random Fields", ICML 2001.

    Examples
    --------
    >>> from sklearn_epee import EPEETokenClassifier
    >>> X = ["Aspirin causes rash.", "No rash from zinc."] * 8
    >>> y = [[(0, 7, "Drug"), (15, 19, "Effect")], [(3, 7, "Effect"), (13, 17, "Drug")]] * 8
    >>> clf = EPEETokenClassifier(tau=0.3, random_state=0).fit(X, y)
    >>> clf.predict(["Zinc causes rash."])
    [[(0, 4, 'Drug'), (12, 16, 'Effect')]]
    >>> clf.predict_tags(["Zinc causes rash."])
    [['B-Drug', 'O', 'B-Effect', 'O']]
    >>> clf.score(X, y)
    1.0

    Two layers of spans, which may overlap:

    >>> first = {"event": [(0, 19, "Adverse")], "drug": [(0, 7, "Drug")]}
    >>> second = {"event": [], "drug": [(13, 17, "Drug")]}
    >>> both = EPEETokenClassifier(max_epochs=1, random_state=0).fit(X, [first, second] * 8)
    >>> sorted(both.predict(X[:1])[0])
    ['drug', 'event']
    """

    _kind = "text"
    _sources = ("backbone", "tokenizer")
    _engine = TokenEngine
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: constraint
            for name, constraint in BaseEPEETokenClassifier._parameter_constraints.items()
            if name not in ("pooling", "exit_ensemble")
        },
        "backbone": [str, os.PathLike, PretrainedConfig, None],
        "tokenizer": "no_validation",
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "scheme": [StrOptions(set(SCHEMES))],
        "misfit_spans": [StrOptions({"error", "warn"})],
        "token_exit": [StrOptions(set(TOKEN_EXITS))],
        # Can be changed after `fit`, as the exit policy.
        "transition_weight": "no_validation",
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    def __init__(
        self,
        backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        *,
        tokenizer: Any = None,
        max_length: int | None = None,
        scheme: str = "IOB2",
        misfit_spans: str = "error",
        tau: float = 0.1,
        patience: int | None = None,
        min_exit_layer: int = 1,
        token_exit: str = "sentence",
        joint_exit: str = "all",
        transition_weight: float = 0.0,
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
        class_weight: str | dict[str, Any] | None = None,
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
        self.scheme = scheme
        self.misfit_spans = misfit_spans
        self.tau = tau
        self.patience = patience
        self.min_exit_layer = min_exit_layer
        self.token_exit = token_exit
        self.joint_exit = joint_exit
        self.transition_weight = transition_weight
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

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fine-tune the backbone and its exits.

        Parameters
        ----------
        X : samples
            Texts or lists of words, as described in the class documentation.
        y : sequence of length n_samples, or frame
            For each sample a list of tags, one per word, or a list of spans
            ``(start, end, label)``, in characters of a text and in words of a list; or a dict of
            these by layer of spans.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the words of each sample in the loss; samples of weight 0 are left out.
        groups : array-like of shape (n_samples,), default=None
            Group of each sample, such as its document. With `validation_fraction`, whole groups
            are held out; otherwise they have no effect.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y or the backbone is not as described; the estimator is not changed.
        TypeError
            If an element of X is not a sample.
        MemoryError
            If the device runs out of memory; the message says what to change.
        KeyboardInterrupt
            If the training of a clone is interrupted, such as in a search or a cross-validation.
            An estimator that is not a clone is fitted with what was learned so far, with a warning.

        Examples
        --------
        >>> from sklearn_epee import EPEETokenClassifier
        >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
        >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
        >>> clf = EPEETokenClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.classes_.tolist(), clf.n_layers_
        (['B-Drug', 'B-Effect', 'O'], 6)
        """
        return self._fit(X, y, sample_weight, groups)

    def _check_samples(self, X: Any, fitted: Summary | None) -> list[Sentence]:  # noqa: ARG002 - texts and lists of words are read in the same way
        return as_sentences(X)

    def _prepare(self, samples: Any, y: Any, sample_weight: Any, groups: Any) -> TagData:
        check_transition_weight(self.transition_weight)
        return prepare_tag_data(
            samples,
            y,
            sample_weight,
            groups,
            scheme=self.scheme,
            misfit_spans=self.misfit_spans,
            class_weight=self.class_weight,
        )

    def _training_defaults(self) -> training_defaults.TrainingDefaults:
        if isinstance(self.backbone, (str, os.PathLike)):
            return training_defaults.PRETRAINED_TEXT
        return training_defaults.SCRATCH_TEXT

    def _build(
        self,
        samples: list[Sentence],
        n_classes: Classes,
        watched: Sequence[Sentence] = (),  # noqa: ARG002 - only used for texts
    ) -> tuple[WordTokenizer, TokenExitNetwork]:
        texts = [" ".join(sentence.words) for sentence in samples]
        backbone, tokenizer, max_length = text_backbone(
            self.backbone, self.tokenizer, self.max_length, texts
        )
        network = TokenExitNetwork(
            backbone, n_classes, dropout=self._head_dropout(), head=self.head
        )
        return WordTokenizer(tokenizer, max_length), network

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = False
        return tags
