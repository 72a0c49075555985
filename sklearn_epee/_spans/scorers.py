"""Scorers of fitted token classifiers, for searches and cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .schemes import check_scheme
from .scores import check_average, span_f1_score, span_scores, spans_as_predicted


@dataclass(frozen=True)
class SpanF1Scorer:
    """The scorer of :func:`span_f1_scorer`."""

    average: str
    layer: str | None
    scheme: str

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the F1 score of the spans predicted by an estimator."""
        return span_f1_score(
            spans_as_predicted(X, y, self.scheme),
            list(estimator.predict(X)),
            average=self.average,
            layer=self.layer,
        )

    def _accept_sample_weight(self) -> bool:
        # scikit-learn's searches call this for every scorer of a dict.
        return False


def span_f1_scorer(
    *, average: str = "micro", layer: str | None = None, scheme: str = "IOB2"
) -> SpanF1Scorer:
    """Make a scorer for the F1 score of the spans predicted by a token classifier.

    Pass it as ``scoring=`` to scikit-learn's searches and cross-validation, alone or in a dict of
    scorers, such as ``{"f1": span_f1_scorer(), "drugs": span_f1_scorer(layer="drug")}``.

    Parameters
    ----------
    average : {"micro", "macro", "weighted"}, default="micro"
        See :func:`span_f1_score`.
    layer : str or None, default=None
        The layer of spans to score; None: all.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags, if y contains tags.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)``, where y contains tags or spans; it can be pickled.

    Raises
    ------
    ValueError
        If `average` or `scheme` is unknown.

    Examples
    --------
    >>> from sklearn.base import BaseEstimator
    >>> from sklearn_epee.metrics import span_f1_scorer
    >>> class FirstWordIsADrug(BaseEstimator):
    ...     def predict(self, X):
    ...         return [[(0, len(text.split()[0]), "Drug")] for text in X]
    >>> scorer = span_f1_scorer()
    >>> scorer(FirstWordIsADrug(), ["Insulin helps", "No rash"], [["B-Drug", "O"], ["O", "O"]])
    0.6666666666666666
    """
    if average is None:
        raise ValueError("average must be 'micro', 'macro' or 'weighted'; got None.")
    check_average(average)
    return SpanF1Scorer(average, layer, check_scheme(scheme))


def all_span_scores(X: Any, y: Any, y_pred: Any, scheme: str = "IOB2") -> dict[str, float]:
    """Return precision, recall and F1 of predicted spans, with names as in `exit_scores`.

    Parameters
    ----------
    X : sequence of length n_samples
    y : sequence of length n_samples
        Tags, spans, or a dict of these by layer.
    y_pred : sequence of length n_samples
        Predicted spans.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.

    Returns
    -------
    dict of str to float
        `span_f1`, `span_precision`, `span_recall`, `span_macro_f1`, and with several layers
        `span_f1_<layer>`.
    """
    scores = span_scores(spans_as_predicted(X, y, scheme), y_pred)
    micro = scores["micro"]
    found = {f"span_{name}": micro[name] for name in ("f1", "precision", "recall")}
    found["span_macro_f1"] = scores["macro"]["f1"]
    for layer, of_layer in scores.get("layers", {}).items():
        found[f"span_f1_{layer}"] = of_layer["f1"]
    return found
