"""Requests and responses of the service, and which requests a classifier accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sklearn.pipeline import Pipeline

from sklearn_epee import EPEEImageClassifier, EPEEMultimodalClassifier, EPEETokenClassifier
from sklearn_epee.serving import Prediction, SentencePrediction

MAX_CHARACTERS = 100_000
# Maximum size of a request without its image: JSON may write a character as two escapes of six
# bytes.
MAX_TEXT_BYTES = 2 * 2**20


Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class PredictionRequest(BaseModel):
    """A sample (a text, a pair of texts, words, an image) and how to predict it."""

    # Without this, a request with a misspelled "image" would be predicted from its text alone.
    model_config = ConfigDict(extra="forbid")

    text: Text | None = None
    pair: Annotated[tuple[Text, Text], Field(description="two texts, in their order")] | None = None
    words: Annotated[list[str], Field(max_length=MAX_CHARACTERS)] | None = None
    image: Annotated[str, Field(description="base64 of a PNG or JPEG file")] | None = None
    tau: float | None = None
    patience: int | None = None
    timeout: float | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for name, texts in (("words", self.words), ("pair", self.pair)):
            if sum(map(len, texts or ())) > MAX_CHARACTERS:
                raise ValueError(f"{name} must have at most {MAX_CHARACTERS} characters in all")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Exit policy and timeout, as `AsyncPredictor.submit` takes them."""
        return self.model_dump(include={"tau", "patience", "timeout"})


@dataclass(frozen=True)
class AcceptedInput:
    """The input that a classifier accepts.

    Parameters
    ----------
    fields : tuple of str
        Of "text", "pair", "words" and "image"; a request sets one of them.
    may_be_both : bool, default=False
        Whether a request may set both fields.
    """

    fields: tuple[str, ...]
    may_be_both: bool = False

    @classmethod
    def of(cls, estimator: Any) -> Self:
        """Return the input of a fitted classifier, or of one in a pipeline, search or policy."""
        classifier = classifier_in(estimator)
        if isinstance(classifier, EPEEMultimodalClassifier):
            return cls(("text", "image"), may_be_both=True)
        if isinstance(classifier, EPEEImageClassifier):
            return cls(("image",))
        # Whether a classifier of texts reads pairs is checked by the predictor: the first steps of
        # a pipeline may make one text of a pair.
        return cls(("text", "words" if isinstance(classifier, EPEETokenClassifier) else "pair"))

    @property
    def has_images(self) -> bool:
        """Whether requests may contain images."""
        return "image" in self.fields

    def check(self, request: PredictionRequest) -> None:
        """Raise if a request lacks the input of the classifier, or has any other input.

        Image classifiers take a text for the path of a file, so a text must never reach them; nor
        must two words reach a classifier of pairs, which would read them as a pair.

        Raises
        ------
        ValueError
        """
        names = ("text", "pair", "words", "image")
        given = [name for name in names if getattr(request, name) is not None]
        if not given or set(given) - set(self.fields) or (len(given) > 1 and not self.may_be_both):
            expected = " or ".join((*self.fields, "both") if self.may_be_both else self.fields)
            got = " and ".join(given) or "none"
            raise ValueError(f"this classifier expects {expected}; got {got}")

    def sample(self, request: PredictionRequest, image: Any = None) -> Any:
        """Return the sample of a request, as `AsyncPredictor.submit` takes it."""
        if self.may_be_both:
            return request.text, image
        if self.has_images:
            return image
        given = (request.text, request.pair, request.words)
        return next(value for value in given if value is not None)


def classifier_in(estimator: Any) -> Any:
    """Return the classifier in a fitted pipeline, search or policy."""
    if isinstance(estimator, Pipeline):
        return classifier_in(estimator[-1])
    for name in ("best_estimator_", "estimator_", "estimator"):
        if getattr(estimator, name, None) is not None:
            return classifier_in(getattr(estimator, name))
    return estimator


class SampleResponse(BaseModel):
    """Prediction of a sample; with several tasks or labels, lists with one entry per task."""

    label: Any
    proba: list[float] | list[list[float]]
    exit_layer: int
    entropy: float | list[float]
    latency: float

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Return a prediction with its arrays as lists."""
        return cls(**{name: _as_lists(value) for name, value in vars(prediction).items()})


Span = tuple[int, int, str]


class SentenceResponse(BaseModel):
    """Prediction of the words of a sentence; with several layers of spans, dicts by layer name."""

    spans: list[Span] | dict[str, list[Span]]
    tags: list[str] | dict[str, list[str]]
    proba: list[list[float]] | dict[str, list[list[float]]]
    exit_layer: int | list[int]
    entropy: list[float] | list[list[float]]
    rows_computed: int
    rows_total: int
    latency: float

    @classmethod
    def of(cls, prediction: SentencePrediction) -> Self:
        """Return a prediction with its arrays as lists."""
        return cls(**{name: _as_lists(value) for name, value in vars(prediction).items()})


def _as_lists(value: Any) -> Any:
    """Return a value with all arrays, also those in dicts and lists, as lists."""
    if isinstance(value, dict):
        return {name: _as_lists(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_lists(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value
