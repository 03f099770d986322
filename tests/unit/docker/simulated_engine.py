# SPDX-License-Identifier: Apache-2.0
"""A unix socket that answers as a Docker Engine of any version would, as far as a test says.

For versions that Debian does not ship and for answers that a real one gives rarely. Each connection has a thread.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self


class Request(NamedTuple):
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


Answer = Callable[[Request, socket.socket], bool]
"""Answers on the socket; whether the connection stays."""


def answer(sock: socket.socket, status: int, value: Any = None) -> None:
    body = b"" if value is None else json.dumps(value).encode()
    kind = "" if value is None else "Content-Type: application/json\r\n"
    sock.sendall(f"HTTP/1.1 {status} X\r\n{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body)


class SimulatedEngine:
    """`with SimulatedEngine(path, version="1.44") as engine:`; `engine.on[...]` holds an answer by "METHOD /path"."""

    def __init__(self, path: str, *, version: str = "1.41", oldest: str = "1.12") -> None:
        self.path = path
        self.version = version
        self.oldest = oldest
        self.on: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen(16)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def drop(self) -> None:
        """End every connection, as a daemon's death does."""
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def targets(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.requests]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while (request := _read(sock)) is not None:
                    self.requests.append(request)
                    if not self._answer(request, sock):
                        return
            except OSError:
                return

    def _answer(self, request: Request, sock: socket.socket) -> bool:
        path = request.target.partition("?")[0]
        if path == "/version":
            answer(sock, 200, {"ApiVersion": self.version, "MinAPIVersion": self.oldest})
            return True
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        chosen = self.on.get(f"{request.method} {path}")
        if chosen is None:
            answer(sock, 404, {"message": "page not found"})
            return True
        return chosen(request, sock)


def _read(sock: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        block = sock.recv(65536)
        if not block:
            return None
        data += block
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += sock.recv(65536)
    method, target, _ = first.split(" ")
    return Request(method, target, headers, body)
