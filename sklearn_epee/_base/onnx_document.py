"""Describe an estimator as JSON for `sklearn_epee.onnx_runtime`, next to its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.messages import shown
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.long_texts import LongTexts, Windows, special_tokens_around
from sklearn_epee._nn.marked_texts import MarkedTextTokenizer
from sklearn_epee._nn.text_image import CaseForm
from sklearn_epee._nn.texts import TextTokenizer, tokenize
from sklearn_epee._nn.two_towers import TwoTowerNetwork
from sklearn_epee._spans import transition_scores, valid_transitions

from .tag_data import TagLayers
from .tokenizer_folder import write_tokenizer_file

FORMAT = "sklearn_epee.onnx"
# Version 1 supported one backbone with one row per sample. Version 2 adds "kind", "windows",
# "words", "towers", and "long_texts", "marks" and "pairs" in "texts".
SCHEMA = 2

Document = dict[str, Any]


def classes_document(tasks: Any) -> Document:
    """Return the classes of a classifier of samples, by task or label."""
    several = isinstance(tasks.classes, list)
    classes = tasks.classes if several else [tasks.classes]
    return {
        "classes": [_array_document(part) for part in classes],
        "several_tasks": several,
        "multilabel": bool(tasks.multilabel),
        "counts": list(tasks.counts),
    }


def tags_document(tags: TagLayers, transition_weight: float) -> Document:
    """Return the tags of a token classifier, and how spans are decoded from them.

    Parameters
    ----------
    tags : TagLayers
    transition_weight : float
        0: each word gets its most probable tag.
    """
    several = isinstance(tags.classes, dict)
    return {
        "classes": [_array_document(part) for part in tags.by_name.values()],
        "several_tasks": several,
        "multilabel": False,
        "counts": list(tags.counts),
        "words": {
            "names": list(tags.by_name) if several else None,
            "scheme": tags.scheme,
            "transitions": _transitions(tags, transition_weight) if transition_weight else None,
        },
    }


def _transitions(tags: TagLayers, weight: float) -> list[Document]:
    if tags.transition_counts is None:
        raise ValueError(
            f"transition_weight={weight:g} needs the transitions between tags in the training "
            "data, which this estimator did not count; fit it again, or set transition_weight=0."
        )
    found = []
    for name, names in tags.by_name.items():
        may_follow, may_end = valid_transitions(names.tolist(), tags.scheme)
        scores = transition_scores(tags.transition_counts[name], may_follow, weight)
        # JSON has no infinite numbers.
        listed = [[float(x) if np.isfinite(x) else None for x in row] for row in scores]
        found.append({"scores": listed, "may_end": may_end.tolist()})
    return found


def towers_document(network: TwoTowerNetwork, form: CaseForm) -> Document:
    """Return both towers, and the exit after which samples move to the second."""
    return {
        "names": list(form.towers),
        "n_layers": [tower.n_layers for tower in network.towers],
        "hand_over_after": network.hand_over_after if network.hands_over_early else None,
        "n_features": network.first.n_features,
    }


def policy_document(policy: ExitPolicy) -> Document:
    """Return an exit policy."""
    thresholds = policy.label_thresholds
    return {
        "tau": float(policy.tau),
        "patience": int(policy.patience),
        "min_exit_layer": int(policy.min_exit_layer),
        "exit_ensemble": policy.exit_ensemble,
        "exit_weights": np.asarray(policy.exit_weights).tolist(),
        "joint_exit": policy.joint_exit,
        "label_thresholds": None if thresholds is None else np.asarray(thresholds).tolist(),
        "token_exit": policy.token_exit,
    }


def write_tokenizer(reader: Any, folder: Path) -> Document | None:
    """Write the file of a tokenizer, and return the settings with which texts are read.

    Parameters
    ----------
    reader : TextTokenizer or another preprocessor
    folder : Path

    Returns
    -------
    dict or None
        None if texts cannot be tokenized without transformers; the caller then passes arrays.
    """
    if not isinstance(reader, TextTokenizer):
        return None
    tokenizer = reader.tokenizer
    if not tokenizer.is_fast:
        return None
    write_tokenizer_file(tokenizer, folder / "tokenizer.json")
    fillers = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return {
        "max_length": reader.max_length,
        "truncation_side": tokenizer.truncation_side,
        "pad_id": int(tokenizer.pad_token_id or 0),
        "filler_id": next((number for number in fillers if number is not None), 0),
        "token_types": reader.settings["n_segments"] > 1,
        "long_texts": _long_texts(reader.long_texts, tokenizer),
        "marks": isinstance(reader, MarkedTextTokenizer),
        "pairs": bool(reader.reads_pairs),
    }


def _long_texts(long_texts: LongTexts | None, tokenizer: Any) -> Document | None:
    if long_texts is None:
        return None
    before, after = special_tokens_around(tokenizer, tokenize)
    around = {"special_tokens": [before, after]}
    if not isinstance(long_texts, Windows):
        return {"how": "head_tail", **around}
    stride = long_texts.stride or long_texts.length - before - after
    return {"how": "windows", "stride": stride, "max_windows": long_texts.most, **around}


def _array_document(array: NDArray[Any]) -> Mapping[str, Any]:
    values = array.tolist()
    if unknown := [value for value in values if not _is_written(value)]:
        raise ValueError(
            f"classes_ holds {shown(unknown[0])} of type {type(unknown[0]).__name__}, which JSON "
            "does not have, so it cannot be exported; fit with labels that are strings, numbers or "
            "bools, such as y.astype(str)."
        )
    return {"dtype": array.dtype.str, "values": values}


def _is_written(label: Any) -> bool:
    """Return whether a label is the same after it was written as JSON and read."""
    if isinstance(label, tuple):
        return all(map(_is_written, label))
    # A longdouble is an np.floating, but no float.
    return label is None or isinstance(label, (str, bool, int, float))
