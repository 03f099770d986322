# SPDX-License-Identifier: Apache-2.0
"""The Docker Engine API over its unix socket: calls, streams and hijacked connections, each with a deadline.

    call ─► kept or new connection ─► version prefix ─► JSON back, or an error of ours
    hijack ─► a connection of its own that turns into a raw stream after its head

Thread-safe; owns a few kept connections. The version is the newest that both sides know, asked for once and again
when the daemon was away. Spec: Docker Engine API 1.41 and later.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

import msgspec

from oakum.docker.connection import Connection, Wire, read_head
from oakum.docker.failures import failure
from oakum.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    OakumError,
    SystemFailure,
    Unavailable,
)

OLDEST: Final = (1, 41)
NEWEST: Final = (1, 51)
_KEPT: Final = 8
_READ_BYTES: Final = 64 << 10
_REPEATABLE: Final = frozenset({"GET", "HEAD", "DELETE"})

Query = Mapping[str, str | int | bool]
Body = Any  # JSON values, an iterator of bytes, or an open file


class Reader:
    """A streamed answer. `close` may be called from any thread and ends a read that waits."""

    def __init__(self, response: http.client.HTTPResponse, wire: Wire, subject: str) -> None:
        self._response = response
        self._wire = wire
        self._subject = subject
        self._closed = False

    def read(self, count: int = _READ_BYTES) -> bytes:
        """Some bytes, as they come; empty at the end. Raises DeadlineExceeded, Unavailable."""
        return self._checked(lambda: self._response.read1(count))

    def lines(self) -> Iterator[bytes]:
        """The lines, without their ends."""
        while line := self._checked(lambda: self._response.readline(16 << 20)):
            yield line.rstrip(b"\r\n")

    def objects(self) -> Iterator[dict[str, Any]]:
        """The JSON objects of a stream with one a line."""
        for line in self.lines():
            if line:
                yield cast("dict[str, Any]", _decoded(line, self._subject))

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._wire.shut()

    def _checked(self, read: Any) -> bytes:
        try:
            return read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._closed:
                return b""
            raise _broken(error, self._subject) from error


class DockerClient:
    """Calls of one Docker Engine; `host` is "unix:///PATH"."""

    def __init__(self, host: str, *, deadline_s: float = 30.0) -> None:
        self.host = host
        self.path = host.removeprefix("unix://")
        if self.path == host or not self.path.startswith("/"):
            raise InvalidArgument(
                "use Docker", repr(host), "not a unix socket", hint="unix:///run/docker.sock"
            )
        self._deadline_s = deadline_s
        self._guard = threading.Lock()
        self._root_directory = ""
        self._kept: list[Connection] = []
        self._version: tuple[int, int] | None = None

    # calls

    def get(self, path: str, *, query: Query | None = None, deadline_s: float | None = None) -> Any:
        """The JSON that a path has. Raises as `post`."""
        return self._call("GET", path, query=query, deadline_s=deadline_s)

    def post(
        self, path: str, body: Body = None, *, query: Query | None = None, deadline_s: float | None = None
    ) -> Any:
        """Have something done; what Docker says to it, or None.

        Raises:
            NotFound, AlreadyExists, FailedPrecondition, InvalidArgument, SystemFailure …: what Docker refused.
            Unavailable: it does not answer at all.
            DeadlineExceeded: it did not answer in time; whether it did as asked is not known.
        """
        return self._call("POST", path, body, query=query, deadline_s=deadline_s)

    def delete(self, path: str, *, query: Query | None = None, deadline_s: float | None = None) -> None:
        """Have something removed. Raises as `post`."""
        self._call("DELETE", path, query=query, deadline_s=deadline_s)

    def ping(self, deadline_s: float = 2.0) -> None:
        """Return when Docker answers. Raises Unavailable, DeadlineExceeded."""
        self._exchange("GET", "/_ping", None, time.monotonic() + deadline_s, "GET /_ping")

    def root_directory(self) -> str:
        """The directory that Docker keeps everything in. Raises as every call."""
        if not self._root_directory:
            self._root_directory = str(self.get("/info")["DockerRootDir"])
        return self._root_directory

    def peer_pid(self) -> int:
        """The process that made the socket: dockerd, or who started it with one. Raises Unavailable."""
        connection = self._connect(self._deadline(None), "peer")
        try:
            return connection.wire.peer_pid()
        finally:
            connection.close()

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
        opening: Callable[[Callable[[], None]], None] | None = None,
    ) -> Generator[Reader]:
        """An answer that comes bit by bit; `idle_s` limits the wait for each of them. Raises as `post`.

        With `opening` its beginning may take as long, too; it is told how to end that from another thread.
        """
        subject = f"{method} {path}"
        deadline = self._deadline(None)
        target = self._target(path, query, deadline)
        connection = self._connect(deadline, subject)
        try:
            # a large body takes the time it takes, as long as it moves
            patient = body is not None or opening is not None
            connection.wire.limit(None if patient else deadline, idle_s=idle_s or self._deadline_s)
            if opening is not None:
                opening(connection.wire.shut)
            response = self._request(connection, method, target, body, subject, headers=headers)
            if response.status >= 300:
                connection.wire.limit(self._deadline(None))
                raise self._refusal(response, subject)
            connection.wire.limit(None, idle_s=idle_s)
            yield Reader(response, connection.wire, subject)
        finally:
            connection.close()

    def hijack(
        self, path: str, body: Body = None, *, query: Query | None = None, deadline_s: float | None = None
    ) -> socket.socket:
        """A connection that has become a raw stream, blocking and without a limit; the caller owns it. Raises as `post`."""
        subject = f"POST {path}"
        deadline = self._deadline(deadline_s)
        data = b"" if body is None else msgspec.json.encode(body)
        head = (
            f"POST {self._target(path, query, deadline)} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        wire = self._connect(deadline, subject).wire
        sock = wire.socket
        try:
            wire.sendall(head.encode() + data)
            answer = read_head(sock, deadline)
            status = int(answer.split(b" ", 2)[1])
            if status not in (101, 200):
                raise self._refused(sock, status, answer, deadline, subject)
            sock.settimeout(None)
        except OakumError:
            sock.close()
            raise
        except (OSError, ValueError, IndexError, http.client.HTTPException) as error:
            sock.close()
            raise _broken(error, subject) from error
        except BaseException:  # nobody takes the socket; it goes on upwards
            sock.close()
            raise
        return sock

    @property
    def api_version(self) -> tuple[int, int]:
        """The version that both sides speak. Raises FailedPrecondition, Unavailable, DeadlineExceeded."""
        return self._agreed(self._deadline(None))

    def close(self) -> None:
        """Close the kept connections."""
        with self._guard:
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()

    # below

    def _deadline(self, deadline_s: float | None) -> float:
        return time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)

    def _call(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        query: Query | None = None,
        deadline_s: float | None = None,
    ) -> Any:
        deadline = self._deadline(deadline_s)
        subject = f"{method} {path}"
        try:
            return self._exchange(method, self._target(path, query, deadline), body, deadline, subject)
        except InvalidArgument as error:
            if "client version" not in error.cause:
                raise
        # the daemon behind the socket has become an older one
        self._version = None
        return self._exchange(method, self._target(path, query, deadline), body, deadline, subject)

    def _exchange(self, method: str, target: str, body: Body, deadline: float, subject: str) -> Any:
        connection = self._take()
        if connection is not None:
            connection.wire.limit(deadline)
            try:
                return self._answer(connection, method, target, body, subject)
            except Unavailable:
                # It ended between two calls. What Docker may have begun to do is not asked for again.
                if method not in _REPEATABLE or connection.wire.received:
                    raise
        return self._answer(self._connect(deadline, subject), method, target, body, subject)

    def _answer(self, connection: Connection, method: str, target: str, body: Body, subject: str) -> Any:
        keep = False
        try:
            response = self._request(connection, method, target, body, subject)
            try:
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise _broken(error, subject) from error
            keep = not response.will_close
        finally:
            self._give_back(connection) if keep else connection.close()
        if response.status >= 300 and response.status != 304:
            raise _refused_with(response.status, data, subject)
        if not data or "json" not in response.headers.get("Content-Type", ""):
            return None
        return _decoded(data, subject)

    def _request(
        self,
        connection: Connection,
        method: str,
        target: str,
        body: Body,
        subject: str,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        sent = dict(headers or {})
        chunked = hasattr(body, "read") or hasattr(body, "__next__")
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
            sent.setdefault("Content-Type", "application/x-tar")
        elif body is not None:
            body = msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, target, body=body, headers=sent, encode_chunked=chunked)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error, subject) from error

    def _refusal(self, response: http.client.HTTPResponse, subject: str) -> OakumError:
        try:
            return _refused_with(response.status, response.read(_READ_BYTES), subject)
        except (OSError, http.client.HTTPException) as error:
            return _broken(error, subject)

    def _refused(
        self, sock: socket.socket, status: int, head: bytes, deadline: float, subject: str
    ) -> OakumError:
        headers = http.client.parse_headers(io.BytesIO(head.split(b"\r\n", 1)[1]))
        left = int(headers.get("Content-Length") or _READ_BYTES)
        data = b""
        while len(data) < min(left, _READ_BYTES):
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            block = sock.recv(min(left, _READ_BYTES) - len(data))
            if not block:
                break
            data += block
        return _refused_with(status, data, subject)

    # connections and versions

    def _take(self) -> Connection | None:
        while True:
            with self._guard:
                if not self._kept:
                    return None
                connection = self._kept.pop()
            if not connection.wire.stale():
                return connection
            connection.close()
            self._version = None  # it was restarted, perhaps as another version

    def _give_back(self, connection: Connection) -> None:
        with self._guard:
            if len(self._kept) < _KEPT:
                self._kept.append(connection)
                return
        connection.close()

    def _connect(self, deadline: float, subject: str) -> Connection:
        try:
            return Connection(self.path, deadline)
        except TimeoutError as error:
            raise _late(subject) from error
        except OSError as error:
            self._version = None
            hint = "is dockerd running, and is this its socket?"
            raise Unavailable(
                "ask Docker", subject, f"{error.strerror or error} ({self.path})", hint=hint
            ) from error

    def _target(self, path: str, query: Query | None, deadline: float) -> str:
        major, minor = self._agreed(deadline)
        target = f"/v{major}.{minor}{quote(path, safe='/:@%')}"
        if query:
            target += "?" + urlencode(
                {key: int(value) if isinstance(value, bool) else value for key, value in query.items()}
            )
        return target

    def _agreed(self, deadline: float) -> tuple[int, int]:
        version = self._version
        if version is None:
            answer = self._exchange("GET", "/version", None, deadline, "GET /version")
            known = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
            version = self._version = agree(known, self.host)
        return version


def agree(answer: Mapping[str, Any], host: str) -> tuple[int, int]:
    """The newest version that we and the daemon whose /version this is both speak. Raises FailedPrecondition."""
    try:
        theirs = _version(answer["ApiVersion"])
        oldest = _version(answer.get("MinAPIVersion") or "1.12")
    except (KeyError, ValueError, AttributeError):
        raise FailedPrecondition("use Docker", host, "it does not say which API version it speaks") from None
    if theirs < OLDEST:
        cause = f"it speaks API version {_dotted(theirs)}, and {_dotted(OLDEST)} is the least"
        raise FailedPrecondition("use Docker", host, cause, hint="Docker 20.10 or newer is needed")
    if oldest > NEWEST:
        cause = f"it speaks API version {_dotted(oldest)} and newer, and we know none above {_dotted(NEWEST)}"
        raise FailedPrecondition("use Docker", host, cause, hint="a newer oakum is needed")
    return min(theirs, NEWEST)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _decoded(data: bytes, subject: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        pass  # msgspec is strict about numbers and UTF-8 that Go lets pass
    try:
        return json.loads(data.decode(errors="replace"))
    except ValueError as error:
        raise SystemFailure("ask Docker", subject, f"its answer is not JSON: {error}") from error


def _refused_with(status: int, data: bytes, subject: str) -> OakumError:
    message = data.decode(errors="replace").strip()
    with contextlib.suppress(msgspec.DecodeError):
        answer = msgspec.json.decode(data)
        if isinstance(answer, dict):
            message = str(cast("dict[str, Any]", answer).get("message", message))
    return failure(status, message, subject, starts=subject.endswith("/start"))


def _broken(error: Exception, subject: str) -> OakumError:
    if isinstance(error, TimeoutError):
        return _late(subject)
    return Unavailable(
        "ask Docker", subject, f"the connection broke: {error}", hint="dockerd may have been restarted"
    )


def _late(subject: str) -> DeadlineExceeded:
    return DeadlineExceeded("ask Docker", subject, "no answer in time", hint="does dockerd hang?")
