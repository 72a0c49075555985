"""Exact match scores of PHEE's events, as defined in the code of the data set's authors."""

from __future__ import annotations

import re
from collections import Counter

LAYERS = ("trigger", "argument", "sub_argument", "combination")
GROUPS = {
    "trigger": ("trigger",),
    "main": ("argument",),
    "sub": ("sub_argument", "combination"),
}
_ARTICLES = {"a", "an", "the"}
# The type of events in sentences without a predicted trigger.
_COMMONEST = "Adverse_event"


def paper_scores(part, predicted):
    """Return precision, recall and F1 of triggers, main arguments and sub-arguments.

    Parameters
    ----------
    part : Bunch
        Result of `load_phee_events`.
    predicted : list of dict of str to list of (start, end, label)
        Predicted spans by layer.

    Returns
    -------
    dict of str to dict
        By "trigger", "main" and "sub": `precision`, `recall` and `f1`.
    """
    found = {}
    for name, layers in GROUPS.items():
        right = n_true = n_predicted = 0
        for text, events, spans in zip(part.data, part.events, predicted, strict=True):
            true = Counter(_true_mentions(text, events, layers))
            ours = Counter(_predicted_mentions(text, spans, layers))
            right += sum((true & ours).values())
            n_true += sum(true.values())
            n_predicted += sum(ours.values())
        precision, recall = right / max(n_predicted, 1), right / max(n_true, 1)
        total = precision + recall
        f1 = 2 * precision * recall / total if total else 0.0
        found[name] = {"precision": precision, "recall": recall, "f1": f1}
    return found


def plain(text):
    """Return a text in lower case, without punctuation and articles, with single blanks."""
    words = re.sub(r"[!-/:-@\[-`{-~]+", " ", text.lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def _true_mentions(text, events, layers):
    """Yield (event type, layer, label, plain text) of every part of every mention of each event."""
    for event in events:
        for layer in layers:
            mentions = event[layer][:1] if layer == "trigger" else event[layer]
            for *place, label in mentions:
                pieces = [tuple(place)] if isinstance(place[0], int) else place
                for start, end in pieces[:1] if layer == "trigger" else pieces:
                    yield event["event_type"], layer, label, plain(text[start:end])


def _predicted_mentions(text, spans, layers):
    for layer in layers:
        for start, end, label in spans[layer]:
            kind = _event_type(start, spans["trigger"])
            yield (label if layer == "trigger" else kind), layer, label, plain(text[start:end])


def _event_type(start, triggers):
    """Return the type of the nearest trigger."""
    if not triggers:
        return _COMMONEST
    return min(triggers, key=lambda trigger: abs(trigger[0] - start))[2]
