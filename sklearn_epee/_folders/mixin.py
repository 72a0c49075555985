"""`save_pretrained`, `from_pretrained` and `push_to_hub` for every estimator and wrapper."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sklearn_epee.exceptions import ModelFolderError

from .card import check_card_data, model_card
from .files import CARD, FolderReader, new_folder
from .hub import local_folder, upload
from .tree import Loading, expanded_path, read_node, warn_of_left_out, write_folder
from .values import field

DOCUMENT = "sklearn_epee.json"


class PretrainedMixin:
    """Mixin that saves a fitted estimator as a folder without pickle, and loads it."""

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        X: Any = None,
        y: Any = None,
        *,
        card_data: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Save the fitted estimator as a folder that can be shared: no pickle, no code.

        Weights are written as safetensors, everything else as JSON, and tokenizers and image
        processors in files of their own; a manifest has the checksum of every file. Predictions
        after :meth:`from_pretrained` are the same, bit for bit in float32.

        Parameters
        ----------
        folder : str or path-like
            Folder to write to; it is created if it does not exist.
        X : samples, default=None
            Samples to measure scores on for the model card (``README.md``), such as the test part
            of the data. None: the card says that nothing was measured.
        y : array-like, default=None
            Labels of `X`, as `score` takes them.
        card_data : dict, default=None
            Further content of the model card: "title", "description", "intended_use",
            "limitations", "training_data" and "evaluation_data" (strings, printed unchanged), and
            "license", "language", "datasets", "tags" and "base_model" (a string or a list of
            strings, for the hub's metadata).
        overwrite : bool, default=False
            Whether an existing model in the folder is replaced.

        Raises
        ------
        NotFittedError
            If the estimator was not fitted.
        TypeError
            If a parameter that affects predictions cannot be saved without pickle; the message
            names it.
        ValueError
            If `card_data` is invalid, or only one of `X` and `y` is given.
        FileExistsError
            If the folder contains a model and `overwrite` is False, or contains other files.
        OSError
            If the disk is full, for example; no files are left behind.

        Warns
        -----
        UserWarning
            If parameters that only affect `fit` are left out, such as `callbacks` or a scorer.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(60, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:40], y[:40])
        >>> folder = Path(tempfile.mkdtemp()) / "notes"
        >>> clf.save_pretrained(folder, X[40:], y[40:], card_data={"license": "mit"})
        >>> (EPEEClassifier.from_pretrained(folder).predict(X) == clf.predict(X)).all()
        np.True_
        """
        check_card_data(card_data)
        if (X is None) != (y is None):
            raise ValueError("Pass both X and y, or neither of them.")
        with new_folder(expanded_path(os.fspath(folder)), overwrite) as writer:
            document, saving = write_folder(self, writer)
            scores = None if X is None else self._scores_for_card(X, y)
            card = model_card(self, document["left_out"], scores, card_data)
            writer.write_json(DOCUMENT, document)
            writer.path(CARD).write_text(card, encoding="utf-8")
            writer.write_manifest()
        warn_of_left_out(saving.left_out, stacklevel=3)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Self:
        """Return a fitted estimator from a folder that `save_pretrained` wrote.

        No code in the folder is executed, and no files outside of it are read. Checksums detect
        damaged files, but do not prove who wrote the folder.

        Parameters
        ----------
        folder_or_hub_id : str or path-like
            A folder, or the id of a model on the Hugging Face hub, which is downloaded once.
        revision : str, default=None
            Branch, tag or commit of the model on the hub. Only a commit cannot change.
        token : str or bool, default=None
            For private models on the hub, as `huggingface_hub` takes it.

        Returns
        -------
        estimator
            Fitted. Parameters that only affect `fit` may have their defaults, see
            `save_pretrained`.

        Raises
        ------
        ModelFolderError
            If the folder is incomplete, was changed, has a newer version, or contains something
            else; the message gives the reason. It is a ValueError.
        TypeError
            If `folder_or_hub_id` is neither a folder nor a hub id.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> folder = tempfile.mkdtemp()
        >>> clf.save_pretrained(folder)
        >>> loaded = EPEEClassifier.from_pretrained(folder)
        >>> (loaded.predict_proba(X) == clf.predict_proba(X)).all()
        np.True_
        """
        try:
            return _read(cls, local_folder(folder_or_hub_id, revision, token))
        except ModelFolderError as error:
            raise ModelFolderError(
                f"{os.fspath(folder_or_hub_id)!r} cannot be loaded: {_sentence(error)}"
            ) from error

    def push_to_hub(
        self,
        repo_id: str,
        X: Any = None,
        y: Any = None,
        *,
        card_data: Mapping[str, Any] | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a model of sklearn_epee",
    ) -> str:
        """Upload the fitted estimator to the Hugging Face hub, as `save_pretrained` writes it.

        Parameters
        ----------
        repo_id : str
            Name of the model, such as "user/model"; it is created if it does not exist.
        X, y, card_data
            As in `save_pretrained`.
        private : bool, default=None
            Whether a new model is private; None is the account's default.
        token : str or bool, default=None
            As `huggingface_hub` takes it.
        revision : str, default=None
            Branch to commit to; None is the main one.
        commit_message : str, default="Upload a model of sklearn_epee"

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in `save_pretrained`.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.push_to_hub("user/supplement-notes")  # doctest: +SKIP
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, X, y, card_data=card_data)
            return upload(
                Path(folder),
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
            )

    def _parameter_to_document(self, name: str, value: Any) -> Any:  # noqa: ARG002 - others need it
        """Return a parameter in the form in which it is saved."""
        return value

    def _scores_for_card(self, X: Any, y: Any) -> Mapping[str, float]:
        """Return the scores for the model card, measured on these samples."""
        raise NotImplementedError


def _read(cls: Any, folder: Path) -> Any:
    """Return the estimator in a folder; raise any failure as a `ModelFolderError`."""
    try:
        loading = Loading(FolderReader(folder))
        node = field(loading.reader.document(DOCUMENT), "model", dict, DOCUMENT)
        _check_class(cls, node)
        return read_node(node, loading)
    except ModelFolderError:
        raise
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ModelFolderError(
            f"no {cls.__name__} can be created from it ({type(error).__name__}: {reason})"
        ) from error


def _check_class(cls: Any, node: Mapping[str, Any]) -> None:
    name = field(node, "class", str, "the model")
    if name != cls.__name__:
        raise ModelFolderError(
            f"it holds a {name[:80]}, not a {cls.__name__}; call from_pretrained of that class"
        )


def _sentence(error: Exception) -> str:
    return f"{str(error).rstrip('.')}."
