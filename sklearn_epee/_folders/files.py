"""The folder of a model on disk: written completely or not at all, and verified when it is read.

``manifest.json`` contains the version of the layout and the size and checksum of every other file
that is read. Other files are never read; a folder with other files is refused, except for texts and
pictures for people, such as the model card. Checksums detect damage, but do not prove who wrote a
folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

from sklearn_epee._version import __version__
from sklearn_epee.exceptions import ModelFolderError

from .values import field, read_json, write_json

MANIFEST = "manifest.json"
CARD = "README.md"
# Version of the layout of folders. Documents of older versions are converted by `_UPGRADES`.
SCHEMA = 1
FORMAT = "sklearn_epee"
# By version: converts a document to the next version.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

# Files that people or the hub add, which are never read.
_FOR_PEOPLE = re.compile(r"(README\.md|LICENSE(\.\w+)?|\.git\w*|.*\.(png|jpe?g|svg))$")
_FOLDERS_NOT_READ = (".git", ".cache", "onnx")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*){0,3}$", re.ASCII)
_KINDS = (".json", ".safetensors")
_MAX_FILES = 200
# Maximum size of a JSON file in bytes; vocabularies are the largest ones.
_MAX_TEXT_SIZE = 2**28
_CHUNK = 2**20


class FolderWriter:
    """Write the files of a model to a temporary folder; see `new_folder`.

    Parameters
    ----------
    folder : Path
        An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the path of a file to be written, and create its parent folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, document: Any) -> None:
        """Write a document."""
        self.path(name).write_bytes(write_json(document))

    def write_manifest(self) -> None:
        """Write the manifest of all files in the folder."""
        names = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file()
        )
        files = {
            name: {"size": (self.folder / name).stat().st_size, "sha256": _sha256(self.path(name))}
            for name in names
            if name not in (MANIFEST, CARD)
        }
        about = {"format": FORMAT, "schema": SCHEMA, "sklearn_epee": __version__}
        self.write_json(MANIFEST, {**about, "files": files})


class FolderReader:
    """Read the files of a model's folder, after all of them were compared with the manifest.

    Parameters
    ----------
    folder : Path

    Attributes
    ----------
    schema : int
        Version of the layout of the folder.
    names : list of str
        Names of the files.

    Raises
    ------
    ModelFolderError
        If the folder was not written by this package, or was changed since.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        if not self._folder.is_dir():
            raise ModelFolderError("there is no such folder")
        manifest = self._manifest()
        self.schema = _known_schema(manifest)
        self._files: Mapping[str, Any] = field(manifest, "files", dict, MANIFEST)
        self.names = sorted(self._files)
        self._check_names()
        for name, entry in self._files.items():
            self._check_content(name, entry)

    def _manifest(self) -> dict[str, Any]:
        if not (self._folder / MANIFEST).exists():
            raise ModelFolderError(
                f"it has no {MANIFEST}, so that it was not written by save_pretrained. A folder of "
                "transformers is given as backbone=, and one of the paper's own code to "
                "from_paper_checkpoint"
            )
        manifest = read_json(self._read(MANIFEST), MANIFEST)
        if manifest.get("format") != FORMAT:
            raise ModelFolderError(f"{MANIFEST} is not one of {FORMAT}")
        return manifest

    def _check_names(self) -> None:
        """Compare the names of the files with those of the manifest."""
        if len(self._files) > _MAX_FILES:
            raise ModelFolderError(f"{MANIFEST} names {len(self._files)} files")
        for name in self._files:
            if not _NAME.match(name) or ".." in PurePosixPath(name).parts:
                raise ModelFolderError(f"{MANIFEST} names {name[:80]!r}, which is outside")
            if not name.endswith(_KINDS):
                raise ModelFolderError(f"{MANIFEST} names {name}, which is not part of a model")
        found = set(self._names_there())
        if missing := sorted(set(self._files) - found):
            raise ModelFolderError(f"{', '.join(missing)} is missing")
        unknown = sorted(
            name for name in found - set(self._files) - {MANIFEST} if not _FOR_PEOPLE.match(name)
        )
        if unknown:
            raise ModelFolderError(f"it holds {', '.join(unknown[:4])}, which {MANIFEST} lacks")

    def _names_there(self) -> Iterator[str]:
        """Yield the names of all files, including links, which are not followed."""
        pending = [self._folder]
        count = 0
        while pending:
            folder = pending.pop()
            for entry in os.scandir(folder):
                count += 1
                if count > 10 * _MAX_FILES:
                    raise ModelFolderError("it holds too many files")
                name = Path(entry.path).relative_to(self._folder).as_posix()
                if name in _FOLDERS_NOT_READ:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    yield name

    def _check_content(self, name: str, entry: Any) -> None:
        size, checksum = (
            field(entry, key, kind, name) for key, kind in (("size", int), ("sha256", str))
        )
        path = self._safe(name)
        found = path.stat().st_size
        if found != size:
            raise ModelFolderError(f"{name} has {found} bytes instead of {size}")
        if _sha256(path) != checksum:
            raise ModelFolderError(f"{name} is not what was written (its checksum differs)")

    def _safe(self, name: str) -> Path:
        """Return the path of a regular file in the folder; raise if it or a parent is a link.

        Only links of the hub's cache are allowed: there, files are links from ``snapshots`` to
        ``blobs``.
        """
        path = self._folder / name
        in_cache = self._folder.parent.name == "snapshots"
        blobs = self._folder.parent.parent / "blobs"
        for part in (path, *path.parents):
            if part == self._folder:
                break
            if part.is_symlink() and not (in_cache and part.resolve().parent == blobs):
                raise ModelFolderError(f"{name} is a link, or in one; links are not followed")
        path = path.resolve()
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ModelFolderError(f"{name} is not a regular file")
        return path

    def _read(self, name: str) -> bytes:
        path = self._safe(name)
        if path.stat().st_size > _MAX_TEXT_SIZE:
            raise ModelFolderError(f"{name} is larger than {_MAX_TEXT_SIZE} bytes")
        return path.read_bytes()

    def path(self, name: str) -> Path:
        """Return the path of a file of the manifest; its checksum was verified at opening."""
        if name not in self._files:
            raise ModelFolderError(f"there is no {name}")
        return self._safe(name)

    def bytes_of(self, name: str) -> bytes:
        """Return the content of a small file, with its checksum verified once more."""
        self.path(name)
        content = self._read(name)
        if hashlib.sha256(content).hexdigest() != self._files[name]["sha256"]:
            raise ModelFolderError(f"{name} changed while it was read")
        return content

    def json_of(self, name: str) -> dict[str, Any]:
        """Return the document in a file."""
        return read_json(self.bytes_of(name), name)

    def document(self, name: str) -> dict[str, Any]:
        """Return the document in a file, converted to the current layout."""
        found = self.json_of(name)
        for version in range(self.schema, SCHEMA):
            found = _UPGRADES[version](found)
        return found


def _known_schema(manifest: Mapping[str, Any]) -> int:
    schema: int = field(manifest, "schema", int, MANIFEST)
    if schema > SCHEMA:
        raise ModelFolderError(
            f"it was written by sklearn_epee {manifest.get('sklearn_epee', 'of a later version')} "
            f"in version {schema} of the layout, and sklearn_epee {__version__} reads up to "
            f"version {SCHEMA}; install a newer sklearn_epee"
        )
    if schema < 1:
        raise ModelFolderError(f"version {schema} of the layout does not exist")
    return schema


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[FolderWriter]:
    """Write files to a temporary folder, which replaces `folder` if the block raises no error.

    Parameters
    ----------
    folder : Path
    overwrite : bool
        Whether an existing model is replaced.

    Raises
    ------
    FileExistsError
        If there are other files, or there is a model and `overwrite` is False.
    OSError
        If a file cannot be written.
    """
    check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent folder, so that it can be renamed.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield FolderWriter(draft)
        _put_in_place(draft, folder)
    except SafetensorError as error:  # of a full disk; it is not an OSError
        raise OSError(f"folder={str(folder)!r} cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise if a model cannot be written to a path.

    Raises
    ------
    FileExistsError
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder={str(folder)!r} is a file.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise FileExistsError(
            f"folder={str(folder)!r} holds files that are not a model of sklearn_epee; expected an "
            "empty folder, or one that does not exist yet."
        )
    if not overwrite:
        raise FileExistsError(
            f"folder={str(folder)!r} holds a model already; pass overwrite=True to replace it, or "
            "another folder."
        )


def _put_in_place(draft: Path, folder: Path) -> None:
    # mkdtemp only gives permissions to the owner; use the default permissions instead.
    umask = os.umask(0)
    os.umask(umask)
    draft.chmod(0o777 & ~umask)
    if not folder.exists():
        draft.rename(folder)
        return
    # Remove the manifest first: if this is interrupted, the folder is recognized as incomplete.
    old = folder / MANIFEST
    named: list[str] = []
    if old.is_file():
        with contextlib.suppress(ModelFolderError):
            named = list(field(read_json(old.read_bytes(), MANIFEST), "files", dict))
        old.unlink()
    for name in named:
        if _NAME.match(name):
            (folder / name).unlink(missing_ok=True)
    paths = [path for path in sorted(draft.rglob("*")) if path.is_file() and path.name != MANIFEST]
    for path in [*paths, draft / MANIFEST]:
        target = folder / path.relative_to(draft)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
