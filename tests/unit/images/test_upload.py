# SPDX-License-Identifier: Apache-2.0
"""Pushes to registries with limits: pieces where a whole blob is too large, no upload of what is there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from oakum.errors import NotFound, PermissionDenied, Unavailable
from oakum.images import registry as registry_module
from oakum.images import upload as upload_module
from oakum.images.content import ContentStore
from oakum.images.push import push
from oakum.images.reference import parse_reference
from tests.support.images import build_image, digest_of


class _Sink(ThreadingHTTPServer):
    """Takes uploads in pieces of at most `limit` bytes; "fail" makes the next requests answer 500.

    "cut" ends the line in the middle of the next bodies, and with it their upload, as distribution's registry does.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.limit = 1 << 40
        self.fail = 0
        self.cut = 0
        self.denied = False
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.sessions: dict[str, bytes] = {}
        self.requests: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Sink  # type: ignore[assignment]

    def handle_all(self) -> None:
        sink = self.server
        parts = urlsplit(self.path)
        if sink.cut and self.command in ("PUT", "PATCH"):
            sink.cut -= 1
            sink.sessions.pop(parts.path.rpartition("/")[2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sink.requests.append(f"{self.command} {parts.path} {len(body)}")
        if sink.fail and self.command != "GET":
            sink.fail -= 1
            self._reply(500)
        elif sink.denied and self.command != "GET":
            self._reply(403)
        elif self.command == "HEAD":
            self._reply(200 if parts.path.rpartition("/")[2] in sink.blobs else 404)
        elif self.command == "POST":
            session = str(len(sink.requests))
            sink.sessions[session] = b""
            self._reply(202, {"Location": f"/v2/upload/{session}?state=x"})
        elif "/manifests/" in parts.path:
            sink.manifests[parts.path.rpartition("/")[2]] = body
            self._reply(201)
        elif self.command in ("PATCH", "PUT"):
            self._piece(parts.path.rpartition("/")[2], parse_qs(parts.query), body)
        else:
            self._reply(200)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_all

    def _piece(self, session: str, query: dict[str, list[str]], body: bytes) -> None:
        sink = self.server
        if session not in sink.sessions:
            self._reply(404)
            return
        if len(body) > sink.limit:
            self._reply(413)
            return
        if self.command == "PATCH":
            start = len(sink.sessions[session])
            assert self.headers["Content-Range"] == f"{start}-{start + len(body) - 1}"
        sink.sessions[session] += body
        if self.command == "PATCH":
            self._reply(202, {"Location": f"/v2/upload/{session}?state=y"})
            return
        data = sink.sessions[session]
        assert query["digest"] == [digest_of(data)]
        sink.blobs[digest_of(data)] = data
        self._reply(201)

    def _reply(self, status: int, headers: Any = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class says so
        """Requests are kept."""


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Sink]:
    monkeypatch.setattr(registry_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(upload_module, "_CHUNK_BYTES", 1000)
    with _Sink() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


IMAGE = build_image([b"layer" * 500], compression="plain")


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    content = ContentStore(str(tmp_path))
    for blob in (IMAGE.manifest, IMAGE.config, *IMAGE.layers):
        content.write_blob(blob.data, blob.digest)
    return content


def push_to(sink: _Sink, store: ContentStore) -> None:
    push(parse_reference(f"127.0.0.1:{sink.server_address[1]}/a/b:1"), IMAGE.manifest.digest, content=store)


def assert_complete(sink: _Sink) -> None:
    assert sink.manifests == {"1": IMAGE.manifest.data}
    assert sink.blobs == {blob.digest: blob.data for blob in (IMAGE.config, *IMAGE.layers)}


def test_whole_blobs(sink: _Sink, store: ContentStore) -> None:
    push_to(sink, store)
    assert_complete(sink)
    assert not any(line.startswith("PATCH") for line in sink.requests)
    assert sink.requests[-1].startswith("PUT /v2/a/b/manifests/1"), "the name comes last"


def test_pieces_where_the_whole_is_too_large(sink: _Sink, store: ContentStore) -> None:
    sink.limit = 1000
    push_to(sink, store)
    assert_complete(sink)
    assert sum(line.startswith("PATCH") for line in sink.requests) == 3


def test_what_the_registry_has_is_not_sent_again(sink: _Sink, store: ContentStore) -> None:
    push_to(sink, store)
    sink.requests.clear()
    push_to(sink, store)
    assert not any(line.startswith("POST") for line in sink.requests)


def test_errors_of_the_server_are_retried(sink: _Sink, store: ContentStore) -> None:
    sink.fail = 3
    push_to(sink, store)
    assert_complete(sink)


@pytest.mark.parametrize("limit", [1 << 40, 1200])
def test_an_upload_that_broke_off_begins_again(sink: _Sink, store: ContentStore, limit: int) -> None:
    sink.cut, sink.limit = 3, limit
    push_to(sink, store)
    assert_complete(sink)


def test_a_line_that_always_breaks_is_told(sink: _Sink, store: ContentStore) -> None:
    sink.cut = 1 << 30
    with pytest.raises(Unavailable, match="push blob"):
        push_to(sink, store)
    assert sink.manifests == {}


def test_a_refusal_is_told(sink: _Sink, store: ContentStore) -> None:
    sink.denied = True
    with pytest.raises(PermissionDenied, match="push blob"):
        push_to(sink, store)
    assert sink.manifests == {}


def test_an_image_with_a_missing_blob_is_not_begun(sink: _Sink, store: ContentStore) -> None:
    store.delete(IMAGE.layers[0].digest)
    with pytest.raises(NotFound, match="not in the store"):
        push_to(sink, store)
    assert sink.requests == []
