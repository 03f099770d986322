# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves on request, for what the real one cannot be made to do: cuts, lies, floods, token servers.

Speaks just enough of the distribution protocol for pulls. Owns a server thread on a free loopback port.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.images import Blob, BuiltImage


class Fault(NamedTuple):
    """What happens to one matching request in place of a right answer.

    `status` 0 leaves the answer right but for `cut_after` (the line dies behind so many bytes of the body), `body`
    (other bytes) and `length` (another Content-Length). `hold` is waited for before anything is sent.
    """

    status: int = 0
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    cut_after: int | None = None
    length: int | None = None
    hold: threading.Event | None = None
    hold_after: int = 0
    ignore_range: bool = False
    refuse: bool = False


class Seen(NamedTuple):
    """One request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]


class FakeRegistry:
    """`with FakeRegistry() as reg: reg.add("a/b", "1", image); reg.fault(r"/blobs/", Fault(status=500))`."""

    def __init__(self) -> None:
        self.manifests: dict[tuple[str, str], Blob] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.token_user: tuple[str, str] | None = None
        self.token_wanted = ""
        self.token_server = ""
        self._faults: list[tuple[re.Pattern[str], list[Fault]]] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.registry = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, tag: str, image: BuiltImage) -> str:
        """Offer an image; its digest."""
        for blob in (image.config, *image.layers):
            self.blobs[blob.digest] = blob.data
        self.add_manifest(name, tag, image.manifest)
        return image.manifest.digest

    def add_manifest(self, name: str, tag: str, manifest: Blob) -> None:
        self.manifests[name, tag] = manifest
        self.manifests[name, manifest.digest] = manifest

    def fault(self, pattern: str, *faults: Fault) -> None:
        """The next requests whose "METHOD path" matches meet these faults, one each; later ones are served right."""
        with self._lock:
            self._faults.append((re.compile(pattern), list(faults)))

    def require_token(self, token: str, user: tuple[str, str] | None = None) -> None:
        """Ask for a bearer token, which /token gives out, to `user` (name and password) only or to anybody."""
        self.token_wanted, self.token_user = token, user

    def requests(self, pattern: str) -> list[Seen]:
        """What came in so far and matches."""
        return [seen for seen in self.seen if re.search(pattern, f"{seen.method} {seen.path}")]

    def next_fault(self, line: str) -> Fault | None:
        with self._lock:
            for pattern, faults in self._faults:
                if faults and pattern.search(line):
                    return faults.pop(0)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: FakeRegistry

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up in the middle here: that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.seen.append(Seen(self.command, self.path, dict(self.headers)))
        fault = registry.next_fault(f"{self.command} {self.path}")
        if fault is not None and fault.refuse:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault is not None and fault.status:
            self._reply(fault.status, fault.body or b"", fault.headers)
            return
        path = urlsplit(self.path).path
        if path == "/token":
            self._token()
        elif not self._allowed():
            self._challenge()
        elif path == "/v2/":
            self._reply(200, b"{}")
        else:
            self._content(path, fault or Fault())

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class says so
        """Requests are kept in `seen`."""

    def _content(self, path: str, fault: Fault) -> None:
        registry = self.server.registry
        if match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            manifest = registry.manifests.get((match[1], match[2]))
            if manifest is not None:
                self._send(fault, manifest.data, {"Content-Type": manifest.media_type})
                return
        elif match := re.fullmatch(r"/v2/.+/blobs/(.+)", path):
            data = registry.blobs.get(match[1])
            if data is not None:
                self._send(fault, data, {"Content-Type": "application/octet-stream"})
                return
        error = {"errors": [{"code": "UNKNOWN", "message": "no such thing here"}]}
        self._reply(404, json.dumps(error).encode())

    def _send(self, fault: Fault, data: bytes, headers: dict[str, str]) -> None:
        if fault.hold is not None and not fault.hold_after:
            fault.hold.wait(60)
        status = 200
        if fault.body is not None:
            data = fault.body
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not fault.ignore_range:
            start = int(wanted[1])
            if start >= len(data):
                self._reply(416, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        length = len(data) if fault.length is None else fault.length
        self.send_response(status)
        for key, value in {**headers, **fault.headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.hold is not None and fault.hold_after:
            self.wfile.write(data[: fault.hold_after])
            self.wfile.flush()
            fault.hold.wait(60)
            data = data[fault.hold_after :]
        if fault.cut_after is not None or length != len(fault.body or data):
            self.wfile.write(data[: fault.cut_after])
            self.wfile.flush()
            self.close_connection = True
            if fault.cut_after is not None:
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _allowed(self) -> bool:
        wanted = self.server.registry.token_wanted
        return not wanted or self.headers.get("Authorization") == f"Bearer {wanted}"

    def _challenge(self) -> None:
        registry = self.server.registry
        realm = registry.token_server or f"http://{registry.address}/token"
        value = f'Bearer realm="{realm}",service="fake",scope="repository:x:pull"'
        self._reply(
            401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}', {"WWW-Authenticate": value}
        )

    def _token(self) -> None:
        registry = self.server.registry
        if registry.token_user is not None:
            pair = ":".join(registry.token_user).encode()
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(pair).decode():
                self._reply(401, b"")
                return
        assert "scope" in parse_qs(urlsplit(self.path).query)
        self._reply(200, json.dumps({"token": registry.token_wanted}).encode())
