"""The model card, ``README.md``: measured results and statements of the user."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sklearn_epee._version import __version__

_TEXTS = {
    "description": "Description",
    "intended_use": "Intended use",
    "limitations": "Limitations",
    "training_data": "Training data",
    "evaluation_data": "Evaluation data",
}
_METADATA = ("license", "language", "datasets", "tags", "base_model")
_KNOWN = ("title", *_TEXTS, *_METADATA)
# Fitted attributes of wrappers that a card lists, with their descriptions.
_FACTS = {
    "best_score_": "score of the policy where it was chosen, optimistically biased",
    "best_speedup_": "speed-up ratio where the policy was chosen",
    "full_depth_score_": "score at full depth on the same samples",
    "certified_": "whether the policy passed the test of its guarantee",
    "risk_bound_": "bound on the risk",
    "risk_": "risk on the tested samples",
    "n_calibration_": "tested samples",
    "n_parameters_": "numbers fitted to calibrate the exits",
    "temperatures_": "temperature of each exit",
    "ece_before_": "calibration error of each exit before",
    "ece_after_": "calibration error of each exit after, optimistically biased",
    "best_thresholds_": "threshold of each label",
}
_PROMISED = ("confidence", "risk", "max_risk", "max_accuracy_drop", "per_class")


def check_card_data(card_data: Mapping[str, Any] | None) -> None:
    """Raise if `card_data` has unknown keys or values that are not strings.

    Raises
    ------
    TypeError, ValueError
    """
    if card_data is None:
        return
    if not isinstance(card_data, Mapping):
        raise TypeError(f"card_data must be a dict; got {type(card_data).__name__}.")
    for name, value in card_data.items():
        if name not in _KNOWN:
            raise ValueError(f"card_data has the key {name!r}; expected some of {list(_KNOWN)}.")
        is_list = isinstance(value, (list, tuple)) and name in _METADATA
        if not all(isinstance(part, str) for part in (value if is_list else [value])):
            several = " or a list of texts" if name in _METADATA else ""
            raise ValueError(f"card_data[{name!r}] must be a text{several}; got {value!r}.")


def model_card(
    estimator: Any,
    left_out: Mapping[str, str],
    scores: Mapping[str, float] | None,
    card_data: Mapping[str, Any] | None,
) -> str:
    """Return the text of a model card.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    left_out : dict of str to str
        Parameters that are not saved in the folder, with the types of their values.
    scores : dict of str to float or None
        Measured on the user's samples; None if no samples were given.
    card_data : dict or None
        Statements of the user, see `PretrainedMixin.save_pretrained`.
    """
    data = dict(card_data or {})
    name = type(estimator).__name__
    parts = [
        _metadata(data),
        f"# {data.get('title', name)}",
        data.get("description", ""),
        _use(name),
        "## Model\n\n" + "\n".join(f"- {fact}" for fact in _facts(estimator)),
        "## Measured\n\n" + _measured(scores),
        *(f"## {_TEXTS[key]}\n\n{data[key]}" for key in _TEXTS if key in data and key in _BELOW),
        _left_out(left_out),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


_BELOW = tuple(key for key in _TEXTS if key != "description")


def _metadata(data: Mapping[str, Any]) -> str:
    """Return the metadata for the hub as YAML; strings of JSON are valid YAML."""
    tags = data.get("tags", [])
    tags = [tags] if isinstance(tags, str) else list(tags)
    fields = {name: data[name] for name in _METADATA if name in data}
    fields |= {"library_name": "sklearn_epee", "tags": ["sklearn_epee", "early-exit", *tags]}
    lines = (
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(fields.items())
    )
    return "\n".join(["---", *lines, "---"])


def _use(name: str) -> str:
    return (
        "A classifier with early exits, saved by "
        f"sklearn_epee {__version__} without pickle:\n\n"
        f"```python\nfrom sklearn_epee import {name}\n\n"
        f'clf = {name}.from_pretrained("this folder, or the id of this model on the hub")\n```'
    )


def _facts(estimator: Any) -> Iterator[str]:
    """Yield facts about each estimator, from the outermost wrapper to the classifier."""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
            continue
        name = type(estimator).__name__
        parameters = estimator.get_params(deep=False)
        if not hasattr(estimator, "estimator_"):
            break
        if getattr(estimator, "confidence", None) is not None:
            promised = {key: parameters[key] for key in _PROMISED if key in parameters}
            yield f"{name}: guarantee of {_shown(promised)}"
        for attribute, meaning in _FACTS.items():
            if hasattr(estimator, attribute):
                yield f"{name}: {meaning}: {_shown(getattr(estimator, attribute))}"
        estimator = estimator.estimator_
    yield f"{name}: {_shown(estimator.n_layers_)} exits, heads: {_shown(parameters['head'])}"
    yield f"classes: {_shown(estimator.classes_)}"
    acting = (
        "tau", "patience", "min_exit_layer", "exit_ensemble", "joint_exit", "token_exit",
        "label_thresholds",
    )  # fmt: skip
    yield "exit policy: " + ", ".join(
        f"{key}={_shown(parameters[key])}" for key in acting if key in parameters
    )
    yield f"epochs trained: {_shown(estimator.n_iter_)}"
    for key in ("train_loss", "valid_loss", "valid_acc"):
        history = estimator.history_
        if len(history) and key in history[-1]:
            yield f"last `{key}`: {_shown(history[-1][key])}"


def _measured(scores: Mapping[str, float] | None) -> str:
    if scores is None:
        return "Nothing was measured when this model was saved."
    head = "On the samples given when this model was saved, by `sklearn_epee.metrics.exit_scores`:"
    rows = [f"| {_cell(name)} | {_shown(value)} |" for name, value in scores.items()]
    return "\n".join([head, "", "| score | value |", "| --- | --- |", *rows])


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    rows = [f"- `{name}` ({kind})" for name, kind in left_out.items()]
    head = "Parameters that act in `fit` alone and cannot be saved without pickle:"
    return "\n".join(["## Left out", "", head, "", *rows])


def _shown(value: Any) -> str:
    """Return a value on one line, numbers with four digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple, np.ndarray)):
        parts = [_shown(part) for part in list(value)[:20]]
        return ", ".join(parts) + (", ..." if len(value) > 20 else "")
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if math.isfinite(value) else "none"
    return _cell(value)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
