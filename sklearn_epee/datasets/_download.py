"""Download the files of a source, with resumed downloads and checksums."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

_BLOCK = 2**18
_ATTEMPTS = 3
_TIMEOUT_S = 60


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    Parameters
    ----------
    url : str
    name : str
        Name of the stored file, within the folder of its set.
    digest : str or None
        Hash of the content, as ``"sha256:..."`` or ``"md5:..."``; None if unknown.
    """

    url: str
    name: str
    digest: str | None = None


def download(file: RemoteFile, folder: Path, *, page: str) -> Path:
    """Return a file of a folder; download it if it is missing.

    Data are received into ``<name>.part``, so that an interrupted download can be resumed.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Created if it does not exist.
    page : str
        Web page of the file, for messages.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        If the file cannot be downloaded or has another hash; the message says where to get it and
        where to put it.
    """
    path = folder / file.name
    if path.is_file():
        return path
    by_hand = f"Get it from {page} and put it at {str(path)!r}."
    if not file.url.startswith(("http://", "https://")):
        raise ValueError(f"The address of a file must start with http; got {file.url!r}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                _fetch(file, path, by_hand)
        Path(f"{path}.lock").unlink(missing_ok=True)
    except PermissionError as error:
        raise OSError(f"{str(path)!r} cannot be written: {error}. {by_hand}") from error
    return path


def _fetch(file: RemoteFile, path: Path, by_hand: str) -> None:
    part = path.with_name(path.name + ".part")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _receive(file.url, part)
            break
        except urllib.error.HTTPError as error:
            raise OSError(
                f"{file.url} cannot be downloaded: {error.code} {error.reason}. {by_hand}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS:
                received = part.stat().st_size if part.exists() else 0
                raise OSError(
                    f"{file.url} cannot be downloaded: {_reason(error)}; {received} bytes were "
                    f"received and kept; another call resumes the download. {by_hand}"
                ) from error
            time.sleep(0.2 * attempt)
    found = None if file.digest is None else _digest_of(part, file.digest.partition(":")[0])
    if found != file.digest:
        part.unlink()
        raise OSError(
            f"{file.url} is not the file that was expected: its {found}, expected {file.digest}. "
            f"It was removed. {by_hand}"
        )
    part.replace(path)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _receive(url: str, part: Path) -> None:
    """Download the rest of a file, and append it to the part received before."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)  # noqa: S310 - http or https, checked by the caller
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            # The download was complete, or the file has changed, which its hash will show.
            if error.headers.get("Content-Range", "").endswith(f"/{start}"):
                return
            part.unlink()
            raise ConnectionError("the file changed after the download was started") from error
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise ConnectionError("the server returned another range than requested")
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (start if resumed else 0)
        with part.open("ab" if resumed else "wb") as out:
            _copy(response, out, start if resumed else 0, total, url)
    size = part.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(f"the connection ended after {size} of {total} bytes")


def _copy(response: Any, out: Any, start: int, total: int | None, url: str) -> None:
    # Only shown on a terminal.
    with tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=Path(url).name, disable=None
    ) as progress:
        while block := response.read(_BLOCK):
            out.write(block)
            progress.update(len(block))


def _digest_of(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def download_all(files: Iterable[RemoteFile], folder: Path, *, page: str) -> None:
    """Download the missing files of a set."""
    for file in files:
        download(file, folder, page=page)
