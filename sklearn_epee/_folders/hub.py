"""Folders of the Hugging Face hub: download a snapshot, upload a commit."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sklearn_epee.exceptions import ModelFolderError

from .files import CARD, MANIFEST

_HUB_ID = re.compile(r"[\w][\w.-]{0,95}(/[\w][\w.-]{0,95})?$", re.ASCII)
# Files of a model; nothing else is downloaded.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", CARD]


def local_folder(
    source: str | os.PathLike[str], revision: str | None, token: str | bool | None
) -> Path:
    """Return the folder of a model: `source` itself, or the downloaded snapshot of a hub id.

    Raises
    ------
    TypeError
        If `source` is neither a folder nor a hub id.
    ModelFolderError
        If there is no such folder and no such model on the hub, or the hub cannot be reached.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"folder_or_hub_id must be a folder or a hub id; got {type(source).__name__}."
        )
    path = Path(source).expanduser()
    if isinstance(source, os.PathLike) or path.exists() or not _HUB_ID.match(str(source)):
        return path
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - takes a while

    try:
        return Path(
            snapshot_download(str(source), revision=revision, token=token, allow_patterns=_PATTERNS)
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFolderError(
            f"there is no such folder, and no model of this id on the hub: {reason}"
        ) from error


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Upload a folder as one commit that replaces any earlier model; return the commit's URL."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes a while

    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    done = api.upload_folder(
        folder_path=str(folder),
        repo_id=url.repo_id,
        revision=revision,
        commit_message=commit_message,
        # Files of an earlier model would not be in the manifest.
        delete_patterns=["*.json", "*.safetensors", MANIFEST],
    )
    return str(done.commit_url)
