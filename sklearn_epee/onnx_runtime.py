"""Run what `export_onnx` wrote, exits included, with onnxruntime and NumPy alone.

This module imports nothing else of the package: copied beside a model it runs without scikit-learn,
torch and transformers. Texts need ``tokenizers`` as well, or are given as token ids.

    from sklearn_epee.onnx_runtime import OnnxExits

    model = OnnxExits("notes.onnx")
    found = model.predict_with_exits(["stopped taking zinc"])
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OnnxExits"]

Floats = NDArray[np.float32]
Batch = dict[str, NDArray[Any]]

_DOCUMENT = "exits.json"
_FORMAT = "sklearn_epee.onnx"
_SCHEMA = 1
_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "entity_positions")


@dataclass(frozen=True)
class _Rule:
    """When samples exit, and with which prediction; as `sklearn_epee.policy` does it."""

    counts: tuple[int, ...]
    tau: float
    patience: int
    exit_ensemble: str | None
    exit_weights: tuple[float, ...]
    joint_exit: str
    label_thresholds: tuple[float, ...] | None

    def probabilities(self, logits: Floats) -> list[Floats]:
        """Return the probabilities of every task, each (n, K)."""
        return [_softmax(part) for part in np.split(logits, np.cumsum(self.counts)[:-1], axis=1)]

    def entropies(self, proba: list[Floats]) -> Floats:
        """Return the normalized entropy of every task, (n, T)."""
        return np.stack([_entropy(part) for part in proba], axis=1)

    def predictions(self, proba: list[Floats]) -> NDArray[Any]:
        """Return what is predicted of every task, (n, T)."""
        if self.label_thresholds is None:
            return np.stack([part.argmax(axis=1) for part in proba], axis=1)
        # In float64: NumPy would round the limits to float32 before it compares.
        above = [
            p[:, 1].astype(np.float64) > limit
            for p, limit in zip(proba, self.label_thresholds, strict=True)
        ]
        return np.stack(above, axis=1)

    def exits(self, entropies: NDArray[Any], agreeing: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which samples exit, (n,), from (n, T)."""
        entropies = entropies.astype(np.float64)
        if self.label_thresholds is not None:
            name = {"all": "max", "any": "min", "mean": "mean"}[self.joint_exit]
            joint: NDArray[np.float64] = getattr(entropies, name)(axis=1)
            return (joint < self.tau) | (agreeing[:, 0] >= self.patience)
        if self.joint_exit == "mean":
            mean: NDArray[np.float64] = entropies.mean(axis=1)
            return (mean < self.tau) | (agreeing.min(axis=1) >= self.patience)
        each = (entropies < self.tau) | (agreeing >= self.patience)
        joined: NDArray[np.bool_] = getattr(each, self.joint_exit)(axis=1)
        return joined

    def weight(self, layer: int) -> float:
        """Return how much an exit counts where the visited ones are combined."""
        return self.exit_weights[layer - 1] if self.exit_ensemble == "weighted" else 1.0


class _Visited:
    """What is remembered of the samples that have not exited."""

    def __init__(self, rule: _Rule) -> None:
        self._rule = rule
        self._predicted: NDArray[Any] | None = None
        self.agreeing = np.empty((0, 0), np.int64)
        self.totals: list[Floats] = []

    def see(self, layer: int, proba: list[Floats]) -> None:
        """Take the probabilities of the next layer in."""
        predicted = self._rule.predictions(proba)
        weight = np.float32(self._rule.weight(layer))
        if self._predicted is None:
            self.agreeing = np.ones(predicted.shape, np.int64)
            self.totals = [weight * part for part in proba]
        else:
            same = predicted == self._predicted
            if self._rule.label_thresholds is not None:
                same = np.broadcast_to(same.all(axis=1, keepdims=True), same.shape)
            self.agreeing = np.where(same, self.agreeing + 1, 1)
            pairs = zip(self.totals, proba, strict=True)
            self.totals = [total + weight * part for total, part in pairs]
        self._predicted = predicted

    def combined(self, proba: list[Floats]) -> list[Floats]:
        """Return what is predicted where a sample exits here."""
        if self._rule.exit_ensemble is None:
            return proba
        pairs = zip(proba, self.totals, strict=True)
        return [_normalized(own, total) for own, total in pairs]

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Forget all samples but some."""
        if self._predicted is not None:
            self._predicted = self._predicted[rows]
        self.agreeing = self.agreeing[rows]
        self.totals = [total[rows] for total in self.totals]


class OnnxExits:
    """A classifier with early exits, as graphs of ONNX: one for each layer with its head.

    Parameters
    ----------
    folder : str or path-like
        Written by ``export_onnx``.
    providers : sequence of str, default=("CPUExecutionProvider",)
        Execution providers of onnxruntime, the preferred one first.
    n_threads : int, default=0
        Threads of one operator; 0 leaves it to onnxruntime.

    Attributes
    ----------
    n_layers : int
        Layers that can be run; 1 for an export of a fixed layer.
    classes : ndarray, or list of such arrays
        As `classes_` of the estimator.

    Raises
    ------
    ImportError
        If onnxruntime is missing.
    ValueError
        If the folder holds no export, or one of a newer version.

    Examples
    --------
    >>> from sklearn_epee.onnx_runtime import OnnxExits
    >>> model = OnnxExits("notes.onnx")  # doctest: +SKIP
    >>> model.predict(["stopped taking zinc"])  # doctest: +SKIP
    array(['discontinued'], dtype='<U12')
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        providers: Sequence[str] = ("CPUExecutionProvider",),
        n_threads: int = 0,
    ) -> None:
        self._folder = Path(folder)
        self._document = _read(self._folder / _DOCUMENT)
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._graphs = {
            name: onnxruntime.InferenceSession(
                str(self._folder / name), options, providers=list(providers)
            )
            for name in self._document["graphs"]
        }
        self.n_layers = int(self._document["n_layers"])
        parts = [np.array(c["values"], dtype=c["dtype"]) for c in self._document["classes"]]
        self.classes = parts if self._document["several_tasks"] else parts[0]
        policy = self._document["policy"]
        self._rule = _Rule(
            tuple(self._document["counts"]),
            policy["tau"],
            policy["patience"],
            policy["exit_ensemble"],
            tuple(policy["exit_weights"]),
            policy["joint_exit"],
            None if policy["label_thresholds"] is None else tuple(policy["label_thresholds"]),
        )
        self._tokenizer: Any = None

    # ---------------------------------------------------------------------------- predictions

    def predict(self, X: Any, batch_size: int = 32) -> NDArray[Any]:
        """Predict labels under the exit policy that was exported.

        Parameters
        ----------
        X : list of str or of pairs, or dict of str to ndarray
            Texts; or what the graphs read: ``input_ids`` and ``attention_mask`` (n, t), with
            ``token_type_ids`` or ``entity_positions`` where the graphs have them, or
            ``pixel_values`` (n, channels, height, width) float32, prepared as in training.
        batch_size : int, default=32

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            For several labels an indicator.
        """
        labels: NDArray[Any] = self.predict_with_exits(X, batch_size)["labels"]
        return labels

    def predict_proba(self, X: Any, batch_size: int = 32) -> Any:
        """Predict class probabilities under the exit policy; arguments are those of `predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
        """
        return self.predict_with_exits(X, batch_size)["proba"]

    def predict_with_exits(self, X: Any, batch_size: int = 32) -> dict[str, Any]:
        """Return labels, probabilities, exit layers and entropies; called as `predict`.

        Returns
        -------
        dict
            ``labels``, ``proba``, ``exit_layer`` (n,) int64 and ``entropy``, as the estimator's
            `predict_with_exits` returns them.
        """
        batches = self._batches(X, batch_size)
        n = sum(len(rows) for rows, _ in batches)
        proba = [np.empty((n, count), np.float32) for count in self._rule.counts]
        layers = np.empty(n, np.int64)
        entropies = np.empty((n, len(self._rule.counts)), np.float32)
        for rows, batch in batches:
            for exited, layer, parts, entropy in self._exits_of(batch):
                places = rows[exited]
                layers[places], entropies[places] = layer, entropy
                for out, part in zip(proba, parts, strict=True):
                    out[places] = part
        return {
            "labels": self._labels(proba),
            "proba": self._outside(proba),
            "exit_layer": layers,
            "entropy": entropies if self._several else entropies[:, 0],
        }

    @property
    def _several(self) -> bool:
        return bool(self._document["several_tasks"] or self._document["multilabel"])

    def _outside(self, proba: list[Floats]) -> Any:
        if self._document["multilabel"]:
            return np.stack([part[:, 1] for part in proba], axis=1)
        return proba if self._document["several_tasks"] else proba[0]

    def _labels(self, proba: list[Floats]) -> NDArray[Any]:
        predicted = self._rule.predictions(proba)
        if self._document["multilabel"]:
            return predicted.astype(np.int64)
        if not self._document["several_tasks"]:
            found: NDArray[Any] = self.classes[predicted[:, 0]]
            return found
        columns = [names[codes] for names, codes in zip(self.classes, predicted.T, strict=True)]
        alike = len({column.dtype.kind for column in columns}) == 1
        if alike:
            return np.stack(columns, axis=1)
        return np.array([list(row) for row in zip(*columns, strict=True)], dtype=object)

    def _exits_of(
        self, batch: Batch
    ) -> Iterator[tuple[NDArray[np.intp], int, list[Floats], Floats]]:
        """Yield samples that exit, where, and with which probabilities and entropies."""
        if "layer.onnx" in self._graphs:
            yield self._at_the_layer(batch)
            return
        (hidden,) = self._run("embed.onnx", batch)
        state = {name: batch[name] for name in ("attention_mask", *_TOKENS[3:]) if name in batch}
        state.setdefault("attention_mask", np.ones(hidden.shape[:2], np.int64))
        state["hidden"] = hidden
        rows = np.arange(len(hidden))
        visited = _Visited(self._rule)
        for layer in range(1, self.n_layers + 1):
            state["hidden"], logits = self._run(f"layer_{layer}.onnx", state)
            proba = self._rule.probabilities(logits)
            visited.see(layer, proba)
            entropies = self._rule.entropies(proba)
            out = np.ones(len(rows), bool)
            if layer < self.n_layers:
                out = self._rule.exits(entropies, visited.agreeing)
            if out.any():
                combined = [part[out] for part in visited.combined(proba)]
                yield rows[out], layer, combined, entropies[out]
            if out.all():
                return
            if out.any():
                kept = np.flatnonzero(~out)
                rows, state = rows[kept], _compacted(state, kept)
                visited.keep(kept)

    def _at_the_layer(self, batch: Batch) -> tuple[NDArray[np.intp], int, list[Floats], Floats]:
        (logits,) = self._run("layer.onnx", batch)
        proba = self._rule.probabilities(logits)
        layer = int(self._document["layer"])
        return np.arange(len(logits)), layer, proba, self._rule.entropies(proba)

    def _run(self, name: str, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        graph = self._graphs[name]
        outputs: list[NDArray[Any]] = graph.run(
            None, {part.name: values[part.name] for part in graph.get_inputs()}
        )
        return outputs

    # ---------------------------------------------------------------------------------- input

    def _batches(self, X: Any, batch_size: int) -> list[tuple[NDArray[np.intp], Batch]]:
        """Return batches of samples of similar length, with their numbers."""
        arrays = dict(X) if isinstance(X, Mapping) else self._tokenized(X)
        arrays = {name: np.asarray(part) for name, part in arrays.items()}
        n = len(next(iter(arrays.values())))
        mask = arrays.get("attention_mask")
        if mask is not None and (mask[:, 1:] > mask[:, :-1]).any():
            raise ValueError("attention_mask must be 1 at the first positions of a row, then 0.")
        order = np.arange(n) if mask is None else np.argsort(mask.sum(axis=1), kind="stable")
        chosen = [order[start : start + batch_size] for start in range(0, n, batch_size)]
        return [(rows, _compacted(arrays, rows)) for rows in chosen]

    def _tokenized(self, texts: Sequence[Any]) -> Batch:
        settings = self._document["texts"]
        if settings is None:
            raise ValueError(
                "X must be a dict of the arrays that the graphs read, such as pixel_values; got "
                f"{type(texts).__name__}."
            )
        if isinstance(texts, (str, bytes)):
            raise TypeError("X must hold texts; got a single one. Wrap it in a list.")
        samples = [text if isinstance(text, str) else tuple(text) for text in texts]
        encoded = self._loaded_tokenizer(settings).encode_batch(samples)
        ids = [part.ids or [settings["filler_id"]] for part in encoded]
        width = max(map(len, ids))
        arrays = {
            "input_ids": np.full((len(ids), width), settings["pad_id"], np.int64),
            "attention_mask": np.zeros((len(ids), width), np.int64),
        }
        if settings["token_types"]:
            arrays["token_type_ids"] = np.zeros((len(ids), width), np.int64)
        for row, (numbers, part) in enumerate(zip(ids, encoded, strict=True)):
            arrays["input_ids"][row, : len(numbers)] = numbers
            arrays["attention_mask"][row, : len(numbers)] = 1
            if settings["token_types"]:
                arrays["token_type_ids"][row, : len(numbers)] = part.type_ids or [0]
        return arrays

    def _loaded_tokenizer(self, settings: Mapping[str, Any]) -> Any:
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer  # noqa: PLC0415 - only texts need it
            except ImportError as error:
                raise ImportError(
                    "Texts need the package tokenizers: pip install tokenizers. Token ids as "
                    "arrays do not."
                ) from error
            self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(
                settings["max_length"], direction=settings["truncation_side"]
            )
        return self._tokenizer


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ImportError(
            "Graphs of ONNX need onnxruntime: pip install onnxruntime, or 'sklearn_epee[onnx]'."
        ) from error
    return onnxruntime


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path.parent)!r} holds no export of export_onnx: {error}") from error
    if document.get("format") != _FORMAT or document.get("schema") != _SCHEMA:
        raise ValueError(
            f"{str(path.parent)!r} holds format {document.get('format')!r}, schema "
            f"{document.get('schema')!r}; expected {_FORMAT!r}, schema {_SCHEMA}."
        )
    return document


def _compacted(arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.intp]) -> Batch:
    """Return some samples, without the positions that are padding in all of them."""
    some = {name: part[rows] for name, part in arrays.items()}
    mask = some.get("attention_mask")
    if mask is None:
        return some
    width = int(mask.sum(axis=1).max())
    per_token = ("input_ids", "attention_mask", "token_type_ids", "hidden")
    return {n: part[:, :width] if n in per_token else part for n, part in some.items()}


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    proba: Floats = powers / powers.sum(axis=1, keepdims=True)
    return proba


def _entropy(proba: Floats) -> Floats:
    n_classes = proba.shape[1]
    if n_classes == 1:
        return np.zeros(len(proba), np.float32)
    information = -proba * np.log(np.where(proba > 0, proba, 1))
    entropy: Floats = np.clip(information.sum(axis=1) / np.float32(np.log(n_classes)), 0, 1)
    return entropy


def _normalized(own: Floats, total: Floats) -> Floats:
    """Return summed probabilities as probabilities; where nothing was summed, the exit's own."""
    sums = total.sum(axis=1, keepdims=True)
    combined: Floats = np.where(sums > 0, total / np.where(sums > 0, sums, 1), own)
    return combined
