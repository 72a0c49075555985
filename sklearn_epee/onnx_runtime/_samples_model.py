"""OnnxExits: classify texts, images, relations, and texts with images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._backbone import OneBackbone
from ._folder import Folder
from ._marks import read_marked
from ._rule import Floats, Rule
from ._samples import Samples
from ._texts import TextReader, chunks
from ._towers import Cases, TwoTowers, read_cases

__all__ = ["OnnxExits"]


class OnnxExits:
    """A classifier with early exits that runs ONNX graphs, one for each layer with its head.

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
        Number of exits, of both towers if there are two; 1 for an export of a fixed layer.
    classes : ndarray, or list of such arrays
        As `classes_` of the estimator.

    Raises
    ------
    ImportError
        If onnxruntime is missing.
    ValueError
        If the folder contains no export, one of a newer version, or one of a token classifier.

    See Also
    --------
    OnnxTokenExits : The same for an `EPEETokenClassifier`.

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
        self._folder = Folder(folder, providers, n_threads)
        self._document = document = self._folder.document
        if document["kind"] == "words":
            raise ValueError(
                f"{str(folder)!r} holds a token classifier; open it with OnnxTokenExits."
            )
        self._rule = Rule.of(document)
        self._towers: TwoTowers | None = None
        if document["kind"] == "towers":
            self._towers = TwoTowers(self._folder, self._rule)
        self._backbone = OneBackbone(self._folder, self._rule)
        self.n_layers = int(document["n_layers"])
        parts = self._folder.classes
        self.classes = parts if document["several_tasks"] else parts[0]
        self._reader: TextReader | None = None

    # ---------------------------------------------------------------------------- predictions

    def predict(self, X: Any, batch_size: int = 32) -> NDArray[Any]:
        """Predict labels with the exported exit policy.

        Parameters
        ----------
        X : list of str or of pairs, or dict of str to ndarray
            Texts (with marks around two entities if the classifier uses them), or pairs of texts;
            with two towers, pairs of a text and pixels (channels, height, width), either of which
            may be None. Or the inputs of the graphs: ``input_ids`` and ``attention_mask`` (n, t),
            with ``token_type_ids`` or ``entity_positions`` if the graphs have these inputs;
            ``pixel_values`` (n, channels, height, width) float32, prepared as in training;
            ``windows`` (n,), the number of rows of each sample if long texts are read in windows;
            ``present`` (n, 2), whether there is a text and an image, if there are two towers and
            some inputs are missing.
        batch_size : int, default=32
            Maximum number of rows that are run together; texts in windows have several rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            With several labels per sample, an indicator matrix.

        Raises
        ------
        TypeError, ValueError
            If X is invalid.
        """
        labels: NDArray[Any] = self.predict_with_exits(X, batch_size)["labels"]
        return labels

    def predict_proba(self, X: Any, batch_size: int = 32) -> Any:
        """Predict class probabilities with the exported exit policy; parameters as in `predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
        """
        return self.predict_with_exits(X, batch_size)["proba"]

    def predict_with_exits(self, X: Any, batch_size: int = 32) -> dict[str, Any]:
        """Return labels, probabilities, exit layers and entropies; parameters as in `predict`.

        Returns
        -------
        dict
            ``labels``, ``proba``, ``exit_layer`` (n,) int64 and ``entropy``, as the estimator's
            `predict_with_exits` returns them; with two towers, also ``towers`` (n, 2) bool.
        """
        parts = [self._found(samples, batch_size) for samples in self._samples(X)]
        proba = [np.concatenate(task) for task in zip(*(part[0] for part in parts), strict=True)]
        layers, entropies = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        found = {
            "labels": self._labels(proba),
            "proba": self._outside(proba),
            "exit_layer": layers,
            "entropy": entropies if self._several else entropies[:, 0],
        }
        if self._towers is not None:
            found["towers"] = np.concatenate([part[3] for part in parts])
        return found

    def _found(self, samples: Samples | Cases, batch_size: int) -> tuple[Any, ...]:
        """Return probabilities of every task, exit layers and entropies of some samples."""
        n = len(samples)
        proba = [np.empty((n, count), np.float32) for count in self._rule.counts]
        layers = np.empty(n, np.int64)
        entropies = np.empty((n, len(self._rule.counts)), np.float32)
        run: Any = self._backbone if self._towers is None else self._towers
        for exited in run.exits_of(samples, batch_size):
            layers[exited.rows], entropies[exited.rows] = exited.layer, exited.entropy
            for out, part in zip(proba, exited.proba, strict=True):
                out[exited.rows] = part
        if self._towers is None or isinstance(samples, Samples):
            return proba, layers, entropies
        return proba, layers, entropies, self._towers.towers_run(samples.present, layers)

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
        return _side_by_side(columns)

    # ---------------------------------------------------------------------------------- input

    def _samples(self, X: Any) -> Iterator[Samples | Cases]:
        """Yield the inputs of the graphs, for some samples at a time."""
        if isinstance(X, Mapping):
            yield self._of_arrays(X)
            return
        if self._document["texts"] is None:
            raise ValueError(
                "X must be a dict of the input arrays of the graphs, such as pixel_values; got "
                f"{type(X).__name__}."
            )
        marks = bool(self._document["texts"].get("marks"))
        n_before = 0
        for some in chunks(X):
            if self._reader is None:
                self._reader = TextReader(self._folder, truncates=not marks)
            if marks:
                yield read_marked(some, self._reader, n_before)
            elif self._towers is not None:
                yield read_cases(some, self._reader, n_before)
            else:
                yield self._reader.read(some, n_before)
            n_before += len(some)

    def _of_arrays(self, X: Mapping[str, Any]) -> Samples | Cases:
        arrays = dict(X)
        windows, present = (arrays.pop(name, None) for name in ("windows", "present"))
        if windows is not None and not self._document["windows"]:
            raise ValueError("X has windows, but the graphs read one row for each sample.")
        if present is not None and self._towers is None:
            raise ValueError("X has present, but there is only one tower.")
        if self._towers is not None:
            n = len(next(iter(arrays.values())))
            return Cases(arrays, np.ones((n, 2), bool) if present is None else present)
        if self._document["windows"]:
            n = len(next(iter(arrays.values())))
            counts = np.ones(n, np.int64) if windows is None else np.asarray(windows, np.int64)
            return Samples(arrays, counts)
        return Samples(arrays)


def _side_by_side(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the labels of tasks in one array, as the estimator does; objects if types differ."""
    kinds = {"n" if column.dtype.kind in "iuf" else column.dtype.kind for column in columns}
    dtype = np.result_type(*columns) if len(kinds) == 1 else np.dtype(object)
    found = np.empty((len(columns[0]), len(columns)), dtype)
    for number, column in enumerate(columns):
        # Python objects instead of NumPy scalars.
        found[:, number] = column.tolist() if dtype.kind == "O" else column
    return found
