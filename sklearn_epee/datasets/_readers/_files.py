"""Files of a corpus: a single file, a folder, or a zip archive that is not unpacked."""

from __future__ import annotations

import codecs
import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sklearn_epee.datasets._paths import expanded

# Maximum size of a file; larger ones in an archive are not extracted, as they may be an attack.
_MAX_FILE_SIZE = 2**29


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus: its name for messages, its path within the corpus, its content."""

    name: str
    relative: PurePosixPath
    content: bytes

    def text(self, encoding: str = "utf-8") -> str:
        """Return the content as text, with unchanged line ends.

        Raises
        ------
        ValueError
            If it is not in this encoding; the message names the file and the line.
        """
        is_utf8 = codecs.lookup(encoding).name == "utf-8"  # for any spelling of the name
        try:
            return self.content.decode("utf-8-sig" if is_utf8 else encoding)
        except UnicodeDecodeError as error:
            line = self.content.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"{self.name}, line {line}: not in the encoding {encoding!r} ({error.reason}); "
                "pass the encoding of the file, such as 'latin-1' or 'cp1252'."
            ) from error


def corpus_files(
    path: str | os.PathLike[str], suffixes: tuple[str, ...], *, what: str
) -> Iterator[CorpusFile]:
    """Yield the files of a corpus with some suffixes, in the order of their paths.

    Parameters
    ----------
    path : str or path-like
        A file, a folder (with the folders in it), or a zip archive. A file may be compressed with
        gzip.
    suffixes : tuple of str
        Such as ".xml". If `path` is a file, its suffix is not checked.
    what : str
        Name of the corpus in messages.

    Yields
    ------
    CorpusFile

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If there are no such files, or an archive is damaged, encrypted or too large.
    """
    found = expanded(path)
    if not found.exists():
        raise FileNotFoundError(f"{what}: there is no file or folder {str(found)!r}.")
    if found.is_dir():
        files = _files_of_folder(found, suffixes)
    elif zipfile.is_zipfile(found):
        files = _files_of_archive(found, suffixes)
    else:
        files = iter([CorpusFile(str(found), PurePosixPath(found.name), _content_of(found))])
    empty = True
    for file in files:
        empty = False
        yield file
    if empty:
        raise ValueError(f"{what}: {str(found)!r} holds no file that ends in {_listed(suffixes)}.")


def _listed(suffixes: tuple[str, ...]) -> str:
    return " or ".join(suffixes)


def _files_of_folder(folder: Path, suffixes: tuple[str, ...]) -> Iterator[CorpusFile]:
    for file in sorted(folder.rglob("*")):
        if file.name.lower().endswith(suffixes) and file.is_file() and file.name[0] != ".":
            relative = PurePosixPath(file.relative_to(folder).as_posix())
            yield CorpusFile(str(file), relative, _content_of(file))


def _content_of(file: Path) -> bytes:
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as opened:
                content = opened.read(_MAX_FILE_SIZE + 1)
            if len(content) > _MAX_FILE_SIZE:
                raise ValueError(f"{file} unpacks to more than {_MAX_FILE_SIZE} bytes.")
            return content
        return file.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is not a gzip file that can be read: {error}.") from error


def _files_of_archive(archive: Path, suffixes: tuple[str, ...]) -> Iterator[CorpusFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [
                member
                for member in opened.infolist()
                if not member.is_dir() and _is_wanted(member.filename, suffixes)
            ]
            for member in sorted(members, key=lambda member: member.filename):
                yield _member(archive, opened, member)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive} is not a zip archive that can be read: {error}.") from error


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    # Archives created on macOS contain a metadata file for every file.
    parts = PurePosixPath(name).parts
    return name.lower().endswith(suffixes) and "__MACOSX" not in parts and parts[-1][0] != "."


def _member(archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> CorpusFile:
    """Read one file of an archive into memory; nothing is written to disk."""
    name = f"{archive}, {member.filename}"
    if member.flag_bits & 1:
        raise ValueError(f"{name} is encrypted; unpack it and pass the folder.")
    with opened.open(member) as file:
        content = file.read(_MAX_FILE_SIZE + 1)
    if len(content) > _MAX_FILE_SIZE:
        raise ValueError(f"{name} unpacks to more than {_MAX_FILE_SIZE} bytes.")
    return CorpusFile(name, PurePosixPath(member.filename), content)
