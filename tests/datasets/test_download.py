"""Downloads against a server of this process: resumed, checked, and refused with what to do."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sklearn_epee.datasets import _csv_layout, _download, fetch_phee, load_phee
from sklearn_epee.datasets._download import RemoteFile, download

CONTENT = bytes(range(256)) * 4000
DIGESTS = [f"{name}:{hashlib.new(name, CONTENT).hexdigest()}" for name in ("sha256", "md5")]
PAGE = "https://example.org/data"


class Server(ThreadingHTTPServer):
    """Serves files by their name, some of them badly."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"a.bin": CONTENT}
        self.requests = []
        self.cut_at = []  # bytes after which the next answers end
        self.knows_ranges = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        ranges = self.headers.get("Range")
        self.server.requests.append((self.path, ranges))
        content = self.server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        start = int(ranges[6:-1]) if ranges and self.server.knows_ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if ranges and self.server.knows_ranges else 200)
        if ranges and self.server.knows_ranges:
            end = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cut_at.pop(0) if self.server.cut_at else len(content)
        self.wfile.write(content[start : start + cut])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(_download.time, "sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Server()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def remote(server, digest=None, name="a.bin"):
    return RemoteFile(f"{server.url}/{name}", name, digest)


@pytest.mark.parametrize("digest", [*DIGESTS, None])
def test_a_file_is_downloaded_once(server, tmp_path, digest):
    folder = tmp_path / "home" / "set"
    for _ in range(2):
        path = download(remote(server, digest), folder, page=PAGE)
        assert path.read_bytes() == CONTENT
    assert server.requests == [("/a.bin", None)]
    assert [file.name for file in folder.iterdir()] == ["a.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.cut_at = [100_000]
    path = download(remote(server, DIGESTS[0]), tmp_path, page=PAGE)
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/a.bin", None), ("/a.bin", "bytes=100000-")]


def test_another_call_goes_on_after_all_attempts_failed(server, tmp_path):
    server.cut_at = [100_000, 50_000, 0]
    message = r"a\.bin cannot be downloaded: .*150000 bytes were received and kept.*example\.org"
    with pytest.raises(OSError, match=message):
        download(remote(server, DIGESTS[0]), tmp_path, page=PAGE)
    assert not (tmp_path / "a.bin").exists()
    download(remote(server, DIGESTS[0]), tmp_path, page=PAGE)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests[-1] == ("/a.bin", "bytes=150000-")


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.knows_ranges = False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:70_000])
    assert download(remote(server, DIGESTS[0]), tmp_path, page=PAGE).read_bytes() == CONTENT


def test_what_is_complete_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert download(remote(server, DIGESTS[0]), tmp_path, page=PAGE).read_bytes() == CONTENT
    (tmp_path / "a.bin").unlink()
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")  # of a longer file, before
    assert download(remote(server, DIGESTS[0]), tmp_path, page=PAGE).read_bytes() == CONTENT


def test_another_file_than_expected_is_removed(server, tmp_path):
    server.files["a.bin"] = b"something else"
    with pytest.raises(OSError, match=r"is not the file that was expected: its sha256:.*put it at"):
        download(remote(server, DIGESTS[0]), tmp_path, page=PAGE)
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]


def test_a_missing_file_and_a_missing_network_say_what_to_do(server, tmp_path):
    message = r"nothing\.bin cannot be downloaded: 404 Not Found. Get it from https://example.org"
    with pytest.raises(OSError, match=message):
        download(remote(server, name="nothing.bin"), tmp_path, page=PAGE)
    assert len(server.requests) == 1  # asking again would not help
    unused = RemoteFile("http://127.0.0.1:1/a.bin", "a.bin")
    with pytest.raises(OSError, match=r"cannot be downloaded: .*refused.* put it at '.*a\.bin'"):
        download(unused, tmp_path, page=PAGE)
    with pytest.raises(ValueError, match="must start with http"):
        download(RemoteFile("file:///etc/hostname", "a"), tmp_path, page=PAGE)


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        download(remote(server), tmp_path / "file" / "set", page=PAGE)


def test_sets_are_fetched_into_their_folder(server, tmp_path, monkeypatch):
    event = '{"event_type": "Adverse_event", "Trigger": {"text": [["rash"]]}}'
    line = f'{{"id": "7_1", "context": "A rash.", "annotations": [{{"events": [{event}]}}]}}\n'
    server.files |= {f"{part}.json": line.encode() for part in ("train", "dev", "test")}

    def redirected(files, folder, *, page):
        found = [RemoteFile(f"{server.url}/{file.name}", file.name) for file in files]
        _download.download_all(found, folder, page=page)

    monkeypatch.setattr(_csv_layout, "download_all", redirected)
    home = tmp_path / "new"
    with pytest.raises(FileNotFoundError, match=r"must be an existing folder"):
        fetch_phee(data_home=home, download_if_missing=False)
    found = fetch_phee(data_home=home, subset="all")
    assert found.data == ["A rash."] * 3
    assert found.groups.tolist() == ["7"] * 3
    assert len(server.requests) == 3
    assert load_phee(data_home=home).data == ["A rash."]
    fetch_phee(data_home=home)
    assert len(server.requests) == 3


def test_fetched_sets_have_a_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("SKLEARN_EPEE_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = []
    monkeypatch.setattr(_csv_layout, "download_all", lambda *given, **_: folders.append(given[1]))
    with pytest.raises(FileNotFoundError, match=r"https://github\.com/ZhaoyueSun/PHEE"):
        fetch_phee()
    assert folders == [tmp_path / "sklearn_epee_data" / "phee"]
    with pytest.raises(ValueError, match="SKLEARN_EPEE_DATA is not set"):
        fetch_phee(download_if_missing=False)
