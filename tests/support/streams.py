# SPDX-License-Identifier: Apache-2.0
"""A client of exec, attach and port-forward over SPDY and WebSocket, on the framing of the package itself.

The real clients are Go programs that keep no SPDY windows; `windows=False` behaves as they do.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from oakum.streaming.carrier import Carrier, Plain, Tunnel
from oakum.streaming.channels import ChannelClosed, ChannelData, Channels
from oakum.streaming.command import ERROR, RESIZE, STDERR, STDIN, STDOUT
from oakum.streaming.negotiate import TUNNEL
from oakum.streaming.spdy import session as spdy
from oakum.streaming.websocket import PeerClosed
from tests.support.patience import patient

SPDY = {
    version: f"{prefix}channel.k8s.io" for version, prefix in ((1, ""), (2, "v2."), (3, "v3."), (4, "v4."))
}
_NAMES = {STDIN: "stdin", STDOUT: "stdout", STDERR: "stderr", ERROR: "error", RESIZE: "resize"}


class Answer(NamedTuple):
    """The head of an HTTP answer, and what came behind it."""

    status: int
    headers: dict[str, str]
    rest: bytes


class Wire:
    """A connection that reads and writes at once, so that neither side can wait for the other."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._unsent = bytearray()
        parts = urlsplit(url)
        self.path = parts.path
        self.host = parts.netloc
        assert parts.hostname is not None
        self.sock = socket.create_connection((parts.hostname, parts.port), timeout=patient(10))
        if parts.scheme == "https":
            assert tls is not None
            self.sock = tls.wrap_socket(self.sock, server_hostname=parts.hostname)

    def ask(self, method: str, *headers: str) -> Answer:
        """Send a request and read the head of the answer."""
        lines = [f"{method} {self.path} HTTP/1.1", f"Host: {self.host}", *headers, "", ""]
        self.sock.sendall("\r\n".join(lines).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            data = self.sock.recv(65536)
            assert data, f"the server left after {received!r}"
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *others = head.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in others)
        return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs}, rest)

    def exchange(self, out: bytes, timeout_s: float = 20.0) -> bytes | None:
        """Send `out` after what is still unsent, until something comes (the answer) or all is sent (empty).

        With nothing to send it waits for something to come. None: the server has closed.
        """
        self._unsent += out
        sending = bool(self._unsent)
        self.sock.settimeout(0)
        limit_s = patient(timeout_s)
        deadline = time.monotonic() + limit_s
        while self._unsent or not sending:
            left = deadline - time.monotonic()
            assert left > 0, f"nothing came within {limit_s:g} s"
            pending = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()
            writers = [self.sock] if self._unsent else []
            readable, writable, _ = select.select([self.sock], writers, [], 0 if pending else left)
            try:
                if writable:  # first, lest what was said last waits for a step that never comes
                    del self._unsent[: self.sock.send(bytes(self._unsent[: 1 << 18]))]
                if readable or pending:
                    return self.sock.recv(1 << 18) or None
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            except (ConnectionResetError, BrokenPipeError):
                return None
        return b""

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def close(self) -> None:
        self.sock.close()


def websocket_headers(*protocols: str) -> list[str]:
    """What a WebSocket client asks with."""
    key = base64.b64encode(os.urandom(16)).decode()
    names = [f"Sec-WebSocket-Protocol: {', '.join(protocols)}"] if protocols else []
    return [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *names,
    ]


def spdy_headers(*protocols: str) -> list[str]:
    """What a SPDY client asks with."""
    names = [f"X-Stream-Protocol-Version: {name}" for name in protocols]
    return ["Connection: Upgrade", "Upgrade: SPDY/3.1", *names]


class Command:
    """The client's side of an exec or attach. `protocol` is "spdy1" to "spdy4" or a WebSocket sub-protocol."""

    def __init__(
        self,
        url: str,
        protocol: str,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        tty: bool = False,
        windows: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.wire = Wire(url, tls)
        self.received: dict[int, bytearray] = {n: bytearray() for n in (STDOUT, STDERR, ERROR)}
        self.counts = {STDOUT: 0, STDERR: 0, ERROR: 0}
        self.keep = True
        self.over = False
        self.order: list[int] = []
        """The streams in the order in which they said something."""
        wanted = [ERROR, *([STDIN] if stdin else []), *([STDOUT] if stdout else [])]
        wanted += [STDERR] if stderr and not tty else []
        self._side: _SpdySide | _ChannelSide
        if protocol.startswith("spdy"):
            version = int(protocol[-1])
            answer = self.wire.ask("POST", *spdy_headers(SPDY[version]))
            assert answer.status == 101, answer
            assert answer.headers["x-stream-protocol-version"] == SPDY[version]
            self._side = _SpdySide(wanted + ([RESIZE] if tty and version >= 3 else []), windows=windows)
        else:
            answer = self.wire.ask("GET", *websocket_headers(protocol))
            assert answer.status == 101, answer
            assert answer.headers["sec-websocket-protocol"] == protocol
            self._side = _ChannelSide(protocol)
        self.wire.sock.sendall(self._side.take())
        self._take(answer.rest)

    def send(self, data: bytes) -> None:
        """Input, on its way with the next `step`."""
        self._side.send(STDIN, data)

    def end_input(self) -> None:
        """No more input, where the protocol can say so."""
        self._side.finish(STDIN)

    def resize(self, rows: int, columns: int) -> None:
        self._side.send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def step(self, timeout_s: float = 20.0) -> None:
        """Send what waits and take what comes."""
        data = self.wire.exchange(self._side.take(), timeout_s)
        if data is None:
            self.over = True
        else:
            self._take(data)

    def flush(self) -> None:
        """Step until all is sent that was said."""
        self.step()
        while self.wire.unsent_bytes and not self.over:
            self.step()

    def _take(self, data: bytes) -> None:
        for stream, received in self._side.receive(data):
            if stream < 0:
                self.over = True
            elif received:
                self.counts[stream] += len(received)
                self.order.append(stream)
                if self.keep or stream == ERROR:
                    self.received[stream] += received

    def until(self, done: Callable[[], object], within_s: float = 20.0) -> None:
        """Step until `done`."""
        deadline = time.monotonic() + patient(within_s)
        while not done():
            assert not self.over, f"it ended with {self.received}"
            assert time.monotonic() < deadline, f"only {self.received} came"
            self.step(within_s)

    def finish(self, within_s: float = 60.0) -> Finished:
        """Everything up to the end."""
        deadline = time.monotonic() + patient(within_s)
        while not self.over and not self._side.all_ended():
            assert time.monotonic() < deadline
            self.step(within_s)
        self.close()
        return Finished(*(bytes(self.received[n]) for n in (STDOUT, STDERR, ERROR)))

    @property
    def waiting_bytes(self) -> int:
        """How much input the server's windows hold back."""
        return self._side.waiting_bytes()

    def close(self) -> None:
        self.wire.close()


class Finished(NamedTuple):
    """All that a command said."""

    stdout: bytes
    stderr: bytes
    error: bytes

    @property
    def status(self) -> dict[str, Any]:
        """The status object of version 4 and later."""
        return json.loads(self.error)

    @property
    def exit_code(self) -> int:
        """The exit code in it."""
        status = self.status
        if status["status"] == "Success":
            return 0
        assert status["reason"] == "NonZeroExitCode", status
        (cause,) = status["details"]["causes"]
        assert cause["reason"] == "ExitCode"
        return int(cause["message"])


class _SpdySide:
    def __init__(self, wanted: list[int], *, windows: bool) -> None:
        self._session = spdy.Session(client=True)
        if not windows:
            self._session.take()  # SETTINGS and WINDOW_UPDATE are never sent
        self._windows = windows
        self._ids = {stream: self._session.open((("streamType", _NAMES[stream]),)) for stream in wanted}
        self._streams = {number: stream for stream, number in self._ids.items()}
        self._left = {self._ids[s] for s in wanted if s in (STDOUT, STDERR, ERROR)}
        for stream in (STDOUT, STDERR, ERROR):
            if stream in self._ids:
                self._session.finish(self._ids[stream])

    def send(self, stream: int, data: bytes) -> None:
        self._session.send(self._ids[stream], data)

    def finish(self, stream: int) -> None:
        self._session.finish(self._ids[stream])

    def waiting_bytes(self) -> int:
        return sum(self._session.waiting_bytes(number) for number in self._streams)

    def all_ended(self) -> bool:
        return not self._left

    def take(self) -> bytes:
        return self._session.take()

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        for event in self._session.receive(data):
            match event:
                case spdy.Received(number, received):
                    if self._windows:
                        self._session.consumed(number, len(received))
                    yield self._streams[number], received
                case spdy.Ended(number) | spdy.WasReset(number, _):
                    self._left.discard(number)
                case _:
                    pass


class _ChannelSide:
    def __init__(self, protocol: str) -> None:
        form = "base64" in protocol
        self._channels = Channels(base64_form=form, close_signal=protocol.startswith("v5."), client=True)

    def send(self, stream: int, data: bytes) -> None:
        self._channels.send(stream, data)

    def finish(self, stream: int) -> None:
        self._channels.finish(stream)

    def waiting_bytes(self) -> int:
        return 0

    def all_ended(self) -> bool:
        return False

    def take(self) -> bytes:
        return self._channels.take()

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        for event in self._channels.receive(data):
            match event:
                case ChannelData(channel, received, _):
                    yield channel, received
                case ChannelClosed():
                    pass
                case PeerClosed():
                    yield -1, b""


class ForwardClient:
    """The client's side of a port-forward over SPDY, plain or in a WebSocket."""

    def __init__(self, url: str, *, tunnel: bool = False, windows: bool = True) -> None:
        self.wire = Wire(url)
        headers = websocket_headers(TUNNEL) if tunnel else spdy_headers("portforward.k8s.io")
        answer = self.wire.ask("GET" if tunnel else "POST", *headers)
        assert answer.status == 101, answer
        self._carrier: Carrier = Tunnel(client=True) if tunnel else Plain()
        self.session = spdy.Session(client=True)
        if not windows:
            self.session.take()
        self._windows = windows
        self.data: dict[int, bytearray] = {}
        self.errors: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.was_reset: set[int] = set()
        self.closed = False
        self._error_of: dict[int, int] = {}
        self._take(answer.rest)

    def connect(self, port: int) -> int:
        """Ask for a connection; the id of its data stream."""
        request = str(len(self.data))
        common = (("port", str(port)), ("requestID", request))
        error = self.session.open((("streamType", "error"), *common), fin=True)
        data = self.session.open((("streamType", "data"), *common))
        self.data[data], self.errors[data] = bytearray(), bytearray()
        self._error_of[error] = data
        return data

    def step(self, timeout_s: float = 20.0) -> None:
        data = self.wire.exchange(self._carrier.pack(self.session.take()), timeout_s)
        if data is None:
            self.closed = True
        self._take(data or b"")

    def flush(self) -> None:
        """Step until all is sent that was said."""
        self.step()
        while self.wire.unsent_bytes and not self.closed:
            self.step()

    def _take(self, data: bytes) -> None:
        carried = self._carrier.unpack(data)
        if carried is None:
            self.closed = True
            return
        for event in self.session.receive(carried):
            match event:
                case spdy.Received(number, received):
                    if self._windows:
                        self.session.consumed(number, len(received))
                    if number in self.data:
                        self.data[number] += received
                    else:
                        self.errors[self._error_of[number]] += received
                case spdy.Ended(number):
                    self.ended.add(number)
                case spdy.WasReset(number, _):
                    self.was_reset.add(number)
                case _:
                    pass

    def until(self, done: Callable[[], object], within_s: float = 20.0) -> None:
        deadline = time.monotonic() + patient(within_s)
        while not done():
            assert not self.closed, "the forward ended"
            assert time.monotonic() < deadline, "it did not come to be"
            self.step(within_s)

    def gone(self, stream: int) -> bool:
        """Whether the pod's side of a connection has ended, either way."""
        return stream in self.ended or stream in self.was_reset

    def close(self) -> None:
        self.wire.close()


class ChannelForwardClient:
    """The client's side of a port-forward in WebSocket channels."""

    def __init__(self, url: str, protocol: str) -> None:
        self.wire = Wire(url)
        answer = self.wire.ask("GET", *websocket_headers(protocol))
        assert answer.status == 101, answer
        self.channels = Channels(base64_form="base64" in protocol, client=True)
        self.received: dict[int, bytearray] = {}
        self.closed = False
        self._take(answer.rest)

    def _take(self, data: bytes) -> None:
        for event in self.channels.receive(data):
            if isinstance(event, ChannelData):
                self.received.setdefault(event.channel, bytearray()).extend(event.data)
            elif isinstance(event, PeerClosed):
                self.closed = True

    def until_closed(self) -> None:
        while not self.closed:
            data = self.wire.exchange(self.channels.take())
            self.closed = data is None
            self._take(data or b"")
        self.wire.close()

    def port_of(self, channel: int) -> int:
        """The port that a channel's first message names."""
        (port,) = struct.unpack_from("<H", self.received[channel])
        return port


@contextmanager
def listening(
    answer: Callable[[socket.socket], None], family: socket.AddressFamily = socket.AF_INET
) -> Iterator[int]:
    """A server on loopback that has `answer` talk to one client after the other; its port."""
    address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    server = socket.create_server((address, 0), family=family)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                try:
                    answer(client)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(60)
