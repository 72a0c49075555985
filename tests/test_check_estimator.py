"""scikit-learn's own checks, through adapters that turn rows of numbers into texts and images.

The adapters change what comes in, nothing else: parameters, fitting, prediction and errors are the
package's own. `memory=None`, so that every fit of every check really trains.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils._testing import assert_allclose
from sklearn.utils.estimator_checks import (
    check_estimator_cloneable,
    check_estimator_repr,
    check_estimator_tags_renamed,
    check_get_params_invariance,
    check_mixin_order,
    check_no_attributes_set_in_init,
    check_param_validation,
    check_parameters_default_constructible,
    check_set_params,
    check_valid_tag_types,
    estimator_checks_generator,
)
from sklearn.utils.validation import assert_all_finite, column_or_1d, validate_data
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast, ViTConfig

from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    EPEEMultimodalClassifier,
    EPEETokenClassifier,
)

from .checkpoints import tiny_tokenizer
from .classifiers import tiny_text_classifier

N_FEATURES = 32  # more than any of the checks gives
N_BINS = 16


class NumericRows:
    """Validate X as scikit-learn's estimators do and turn its rows into samples."""

    def _check_samples(self, X, fitted):
        X = validate_data(self, X, reset=fitted is None)
        samples = self._samples_from(_binned(np.asarray(X, dtype=float)))
        return super()._check_samples(samples, fitted)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = False
        tags.input_tags.string = False
        return tags


class RowsAsTexts(NumericRows, EPEEClassifier):
    """A row becomes one word a feature, such as "f0b3 f1b12"."""

    def _samples_from(self, bins):
        return [" ".join(_word(j, b) for j, b in enumerate(row)) for row in bins]


class RowsAsImages(NumericRows, EPEEImageClassifier):
    """A row becomes an image with one line a feature and one white pixel in each line.

    All images have the same mean and variance, so that the statistics of the training images do
    not depend on how often each of them counts (the check of sample weights).
    """

    def _samples_from(self, bins):
        lines = np.eye(N_BINS, dtype=np.float32)[bins]
        return np.pad(lines, [(0, 0), (0, N_FEATURES - bins.shape[1]), (0, 0)])


class RowsAsWords(NumericRows, EPEETokenClassifier):
    """A row becomes a list of words, of which the first has the row's label as its tag.

    What is predicted of the first word is predicted of the row.
    """

    def _samples_from(self, bins):
        return [[_word(j, b) for j, b in enumerate(row)] for row in bins]

    def _prepare(self, samples, y, sample_weight, groups):
        return super()._prepare(samples, _first_tags(samples, y), sample_weight, groups)

    def predict(self, X):
        tags = [tags[0] for tags in self.predict_tags(X)]
        return np.array([float(tag[2:] or "nan") for tag in tags])

    def predict_proba(self, X):
        return np.array([proba[0] for proba in super().predict_proba(X)])

    def score(self, X, y):
        return super().score(X, _first_tags(self._check_samples(X, self), y))


def _first_tags(samples, y):
    """Return tags by which the first word of each row has the row's label."""
    if y is None:
        return None
    labels = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    rests = [["O"] * (len(sample.words) - 1) for sample in samples]
    if len(labels) != len(rests):
        return [["O"]] * len(labels)
    return [[f"B-{label}", *rest] for label, rest in zip(labels, rests, strict=True)]


class RowsAsCases(NumericRows, EPEEMultimodalClassifier):
    """A row becomes both, a text of one word a feature and an image of one line a feature."""

    def _samples_from(self, bins):
        texts, images = (kind._samples_from(self, bins) for kind in (RowsAsTexts, RowsAsImages))
        return list(zip(texts, images, strict=True))


def _binned(X):
    """Map the real line monotonously onto 0..N_BINS-1; most bins lie around 0."""
    return np.clip(((np.arctan(X) / np.pi + 0.5) * N_BINS).astype(int), 0, N_BINS - 1)


def _word(feature, level):
    return f"f{feature}b{level}"


def _tokenizer():
    """A given vocabulary: one learned from the texts would depend on how often each is repeated."""
    names = ["[PAD]", "[UNK]", *(_word(j, b) for j in range(N_FEATURES) for b in range(N_BINS))]
    words = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    # Dropout would draw differently for batches of different shape.
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}

# Full batches: what is learned then does not depend on how samples fall into batches.
# predict_batch_size=1: scikit-learn compares subsets and orders to the last digits, and sums in
# float32 differ there with the shape of a batch.
SETTINGS = {
    "max_epochs": 40,
    "batch_size": 1000,
    "learning_rate": 0.02,
    "head_learning_rate": 0.02,
    "dropout": 0.0,
    "precision": "float32",
    # On a GPU, sums over repeated samples and weighted sums differ more than the checks allow.
    "device": "cpu",
    "predict_batch_size": 1,
    "memory": None,
}


def text_adapter():
    tokenizer = _tokenizer()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=N_FEATURES, **LAYERS)
    return RowsAsTexts(config, tokenizer=tokenizer, **SETTINGS)


def image_adapter():
    config = ViTConfig(image_size=(N_FEATURES, N_BINS), patch_size=N_BINS, num_channels=1, **LAYERS)
    # A rotated image of lines would stand for another row.
    return RowsAsImages(config, augment=False, **SETTINGS)


def case_adapter():
    tokenizer, images = _tokenizer(), image_adapter().backbone
    texts = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=N_FEATURES, **LAYERS)
    return RowsAsCases(texts, images, tokenizer=tokenizer, augment=False, **SETTINGS)


def word_adapter():
    tokenizer = _tokenizer()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=N_FEATURES, **LAYERS)
    return RowsAsWords(config, tokenizer=tokenizer, **SETTINGS)


def checks(adapter):
    """What `parametrize_with_checks` runs, none expected to fail, under readable names."""
    for estimator, check in estimator_checks_generator(adapter):
        name = f"{type(estimator).__name__}-{check.func.__name__}"
        options = "".join(f"-{option}={value}" for option, value in check.keywords.items())
        yield pytest.param(estimator, check, id=name + options)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        *checks(text_adapter()),
        *checks(image_adapter()),
        *checks(word_adapter()),
        *checks(case_adapter()),
    ],
)
def test_scikit_learn_check(estimator, check, monkeypatch):
    if "sample_weight_equivalence" in check.func.__name__:
        # It compares probabilities with the tolerance of float64; float32 gets the one that
        # scikit-learn's `assert_allclose` gives it in other checks. Sums over repeated samples and
        # weighted sums differ in the last digit, and every training step adds to that.
        monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", assert_allclose)
        estimator = clone(estimator).set_params(max_epochs=5)
    check(estimator)


@pytest.mark.parametrize(
    "estimator",
    [text_adapter(), image_adapter(), word_adapter(), case_adapter()],
    ids=["text", "image", "words", "cases"],
)
def test_every_parameter_is_validated(estimator):
    check_param_validation(type(estimator).__name__, estimator)


@pytest.mark.parametrize(
    "estimator_class",
    [EPEEClassifier, EPEEImageClassifier, EPEETokenClassifier, EPEEMultimodalClassifier],
)
@pytest.mark.parametrize(
    "check",
    [
        check_estimator_cloneable,
        check_estimator_repr,
        check_estimator_tags_renamed,
        check_get_params_invariance,
        check_mixin_order,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
        check_valid_tag_types,
    ],
)
def test_checks_without_data_hold_for_the_estimators_themselves(estimator_class, check):
    check(estimator_class.__name__, estimator_class())


@pytest.mark.filterwarnings("ignore:.*longer than max_length")
def test_a_given_tokenizer_is_left_as_it_was(texts, labels):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    before = tokenizer.backend_tokenizer.to_str()
    tiny_text_classifier(tokenizer=tokenizer, max_epochs=1).fit(texts, labels).predict(texts)
    assert tokenizer.backend_tokenizer.to_str() == before
