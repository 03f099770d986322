# SPDX-License-Identifier: Apache-2.0
"""The clients attached to one container: output to all of them, input from any, none of them ever waited for.

A client that asked for backpressure makes the container wait instead (`congested`); any other one that is more
than 1 MiB behind is dropped with an error frame. Owns the clients' sockets; not the container's descriptors.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from oakum.errors import ResourceExhausted
from oakum.linux.sockets import Socket
from oakum.model.exits import ExitRecord
from oakum.shim import frames
from oakum.shim.loop import Loop

BEHIND_LIMIT_BYTES: Final = 1 << 20
CONGESTED_BYTES: Final = 256 << 10
RELAXED_BYTES: Final = 64 << 10
_RECEIVE_BYTES: Final = 64 << 10
_SEND_AT_ONCE: Final = 16
_FAREWELL_S: Final = 10.0


class StreamOwner(Protocol):
    """What the hub tells the container's side."""

    def stdin_data(self, data: bytes) -> None:
        """Input from a client."""
        ...

    def stdin_full(self) -> bool:
        """Whether clients should wait with further input."""
        ...

    def stdin_closed_by_client(self) -> None:
        """A client that had asked for stdin says that there is no more, or has left."""
        ...

    def resize(self, rows: int, columns: int) -> None:
        """A client's window has this size now."""
        ...

    def flow_changed(self) -> None:
        """`AttachHub.congested` has changed."""
        ...


class _Client:
    __slots__ = (
        "backpressure",
        "closing",
        "decoder",
        "kinds",
        "queue",
        "queued_bytes",
        "sent",
        "sock",
        "stdin",
    )

    def __init__(self, sock: Socket, kinds: frozenset[int], *, stdin: bool, backpressure: bool) -> None:
        self.sock = sock
        self.kinds = kinds
        self.stdin = stdin
        self.backpressure = backpressure
        self.decoder = frames.Decoder()
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.sent = 0  # bytes of queue[0] that are out
        self.closing = False


class AttachHub:
    """Every client attached to one container."""

    def __init__(self, loop: Loop, owner: StreamOwner, container_id: str) -> None:
        self._loop = loop
        self._owner = owner
        self._container_id = container_id
        self._clients: list[_Client] = []
        self._congested = False

    @property
    def congested(self) -> bool:
        """Whether a client that asked for backpressure is behind."""
        return self._congested

    @property
    def count(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    def add(
        self,
        sock: Socket,
        received: bytes,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        backpressure: bool,
    ) -> None:
        """Take over a client's socket and the bytes already received from it."""
        kinds = frozenset(k for k, wanted in ((frames.STDOUT, stdout), (frames.STDERR, stderr)) if wanted)
        client = _Client(sock, kinds, stdin=stdin, backpressure=backpressure)
        sock.settimeout(0)
        self._clients.append(client)
        self._watch(client)
        if received:
            self._take(client, received)

    def send(self, kind: int, data: bytes) -> None:
        """Output of the container, to every client that wants this stream."""
        if not self._clients:
            return
        frame = frames.encode(kind, data)
        for client in list(self._clients):
            if kind in client.kinds and not client.closing:
                self._enqueue(client, frame)

    def finish(self, record: ExitRecord) -> None:
        """The container's end is recorded: the last frame for everyone."""
        last = frames.encode(frames.EXIT, json.dumps(record.to_dict()).encode())
        for client in list(self._clients):
            self._say_goodbye(client, last)

    def close(self) -> None:
        """Drop every client at once, after what the kernel takes without waiting."""
        for client in list(self._clients):
            self._flush(client)
        for client in list(self._clients):
            self._drop(client)

    def input_changed(self) -> None:
        """`StreamOwner.stdin_full` may have changed: listen, or stop listening, to clients that type."""
        for client in self._clients:
            self._watch(client)

    # -- one client ---------------------------------------------------------------------------------------------

    def _watch(self, client: _Client) -> None:
        if client not in self._clients:
            return
        # A client that only looks on is read too: its end shows there.
        listen = not (client.stdin and not client.closing and self._owner.stdin_full())
        read = _bound(self._readable, client) if listen else None
        write = _bound(self._writable, client) if client.queue else None
        self._loop.watch(client.sock.fileno(), read=read, write=write)

    def _readable(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:  # reset: it has gone
            data = b""
        if data:
            self._take(client, data)
        else:  # leaving; a client that only has no more input says so with CLOSE_STDIN
            self._drop(client)

    def _take(self, client: _Client, data: bytes) -> None:
        try:
            received = client.decoder.feed(data)
        except frames.BadFrame:
            self._drop(client)
            return
        for kind, payload in received:
            if client.closing:
                return
            if kind == frames.STDIN and client.stdin:
                self._owner.stdin_data(payload)
            elif kind == frames.CLOSE_STDIN:
                self._input_over(client)
            elif kind == frames.RESIZE:
                self._resize(client, payload)
        self._watch(client)

    def _resize(self, client: _Client, payload: bytes) -> None:
        try:
            size = json.loads(payload)
            rows, columns = int(size["rows"]), int(size["columns"])
        except (ValueError, KeyError, TypeError):
            self._drop(client)
            return
        if 0 <= rows < 65536 and 0 <= columns < 65536:
            self._owner.resize(rows, columns)

    def _input_over(self, client: _Client) -> None:
        if client.stdin:
            client.stdin = False
            self._owner.stdin_closed_by_client()

    def _enqueue(self, client: _Client, frame: bytes) -> None:
        client.queue.append(frame)
        client.queued_bytes += len(frame)
        if len(client.queue) == 1 and not self._flush(client):
            return
        if client.queue:
            self._watch(client)
        if client.queued_bytes > BEHIND_LIMIT_BYTES and not client.backpressure:
            self._fell_behind(client)
        elif client.backpressure:
            self._note_flow()

    def _fell_behind(self, client: _Client) -> None:
        whole = client.queue[0] if client.sent else None
        client.queue.clear()
        if whole is not None:
            client.queue.append(whole)
        error = ResourceExhausted(
            "attach",
            f"container {self._container_id}",
            f"the reader is over {BEHIND_LIMIT_BYTES} bytes behind",
            hint="read faster, or ask for backpressure",
        )
        self._say_goodbye(client, frames.encode(frames.ERROR, json.dumps(error.to_dict()).encode()))

    def _say_goodbye(self, client: _Client, last: bytes) -> None:
        if client.closing:
            return
        client.closing = True
        client.queue.append(last)
        client.queued_bytes = sum(map(len, client.queue)) - client.sent
        if not client.backpressure:
            self._loop.later(_FAREWELL_S, _bound(self._drop, client))
        if self._flush(client):
            self._watch(client)

    def _writable(self, client: _Client) -> None:
        if self._flush(client):
            self._watch(client)
        self._note_flow()

    def _flush(self, client: _Client) -> bool:
        """Send what goes without waiting; False when the client is gone (also after its last frame)."""
        try:
            while client.queue:
                first = memoryview(client.queue[0])[client.sent :]
                more = [client.queue[i] for i in range(1, min(len(client.queue), _SEND_AT_ONCE))]
                self._sent(client, client.sock.sendmsg([first, *more]))
        except BlockingIOError:
            return True
        except OSError:  # it has gone
            self._drop(client)
            return False
        if client.closing:
            self._drop(client)
            return False
        return True

    @staticmethod
    def _sent(client: _Client, count: int) -> None:
        client.queued_bytes -= count
        client.sent += count
        while client.queue and client.sent >= len(client.queue[0]):
            client.sent -= len(client.queue.popleft())

    def _drop(self, client: _Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        self._loop.watch(client.sock.fileno())
        client.sock.close()
        client.queue.clear()
        client.queued_bytes = 0
        self._input_over(client)
        self._note_flow()

    def _note_flow(self) -> None:
        limit = RELAXED_BYTES if self._congested else CONGESTED_BYTES
        now = any(c.backpressure and c.queued_bytes > limit for c in self._clients)
        if now != self._congested:
            self._congested = now
            self._owner.flow_changed()


def _bound(method: Callable[[_Client], None], client: _Client) -> Callable[[], None]:
    return lambda: method(client)
