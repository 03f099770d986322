# SPDX-License-Identifier: Apache-2.0
"""A process of a pod that carries connections and datagrams where the kernel does not: from the host's ::1 to the pod.

The kernel lets nothing that comes from ::1 leave the host, whatever is rewritten. So the shim forks this process, which
has the listening sockets that the engine bound, and connects to the pod's addresses like any program of the host. It
decides nothing: a child of the keeper, it ends with it. One thread, one loop; nobody's peer can make another one wait.
"""

from __future__ import annotations

import _socket
import errno
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from oakum.linux import sockets
from oakum.shim.loop import Loop

_CHUNK_BYTES: Final = 128 << 10
_DATAGRAM_BYTES: Final = 64 << 10
_PAUSE_S: Final = 0.1
# As the kernel forgets a stream of datagrams that goes both ways (nf_conntrack_udp_timeout_stream).
_IDLE_S: Final = 120.0
_LOOK_S: Final = 10.0
_FLOWS_MAX: Final = 1024
_DATAGRAMS_AT_ONCE: Final = 64
_TARGET_GONE: Final = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}
)
_IN_PROGRESS: Final = errno.EINPROGRESS
_IPV6_FAMILY: Final = _socket.AF_INET6
_LINGER_NOT: Final = b"\1\0\0\0\0\0\0\0"

Socket = _socket.socket
Target = tuple[str, int]


class Route(NamedTuple):
    """From a socket to the first of `targets` (address, port) that takes it; `protocol` is "tcp" or "udp"."""

    protocol: str
    targets: tuple[Target, ...]

    def to_list(self) -> list[Any]:
        """As plain JSON values."""
        return [self.protocol, [list(target) for target in self.targets]]

    @classmethod
    def from_list(cls, values: list[Any]) -> Route:
        """The route that `to_list` described."""
        protocol, targets = values
        return cls(str(protocol), tuple((str(address), int(port)) for address, port in targets))


def run(values: Sequence[list[Any]], fds: Sequence[int]) -> int:
    """Relay until killed; `fds` are the sockets of the routes, which are `values` as `Route` makes them."""
    loop = Loop()
    for value, fd in zip(values, fds, strict=True):
        route = Route.from_list(value)
        sock = Socket(fileno=fd)
        sock.settimeout(0)
        if route.protocol == "tcp":
            Listener(loop, sock, route.targets)
        else:
            Datagrams(loop, sock, route.targets)
    loop.run()
    return 0


def _to(target: Target, kind: int) -> Socket:
    family = _IPV6_FAMILY if ":" in target[0] else _socket.AF_INET
    sock = Socket(family, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    sock.settimeout(0)
    return sock


# -- connections --------------------------------------------------------------------------------------------------


class Listener:
    """Accepts connections, each to be carried to one of the targets."""

    def __init__(self, loop: Loop, sock: Socket, targets: tuple[Target, ...]) -> None:
        self._loop = loop
        self._sock = sock
        self._targets = targets
        loop.watch(sock.fileno(), read=self._accept)

    def _accept(self) -> None:
        try:
            client = Socket(fileno=sockets.accept_fd(self._sock))
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone again
        except OSError:  # no descriptors or no memory: those who wait keep their place in the queue
            self._loop.watch(self._sock.fileno())
            self._loop.later(_PAUSE_S, self._go_on)
            return
        client.settimeout(0)
        Connection(self._loop, client, self._targets)

    def _go_on(self) -> None:
        self._loop.watch(self._sock.fileno(), read=self._accept)


class Connection:
    """One connection: reached as soon as a target answers, then bytes both ways until both sides have said all."""

    def __init__(self, loop: Loop, client: Socket, targets: tuple[Target, ...]) -> None:
        self._loop = loop
        self._client = client
        self._targets = targets
        self._server: Socket | None = None
        self._ways: tuple[Way, ...] = ()
        self._try_next()

    def _try_next(self) -> None:
        while self._targets:
            target, self._targets = self._targets[0], self._targets[1:]
            try:
                self._server = server = _to(target, _socket.SOCK_STREAM)
            except OSError:
                break  # no descriptors: it would be no better with the next
            failure = server.connect_ex(target)
            if failure in (0, _IN_PROGRESS):
                self._loop.watch(server.fileno(), write=self._answered)
                return
            self._drop_server()
        self._reset()

    def _answered(self) -> None:
        server = self._server
        assert server is not None
        self._loop.watch(server.fileno())
        if server.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            self._drop_server()
            self._try_next()
            return
        for sock in (self._client, server):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._ways = Way(self._client, server), Way(server, self._client)
        self._rewatch()

    def _rewatch(self) -> None:
        """Wait for what each side is to do next."""
        up, down = self._ways
        assert self._server is not None
        self._watch(self._client, reads=up, writes=down)
        self._watch(self._server, reads=down, writes=up)

    def _watch(self, sock: Socket, *, reads: Way, writes: Way) -> None:
        self._loop.watch(
            sock.fileno(),
            read=(lambda: self._move(reads)) if reads.wants_to_read else None,
            write=(lambda: self._move(writes)) if writes.wants_to_write else None,
        )

    def _move(self, way: Way) -> None:
        try:
            way.move()
        except OSError:
            self._reset()
            return
        if all(each.is_over for each in self._ways):
            self._close()
        elif way.has_changed():
            self._rewatch()

    def _drop_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset(self) -> None:
        """One side has failed: the other one is to know, and not to take it for an end."""
        for sock in (self._client, self._server):
            if sock is not None:
                sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_NOT)
        self._close()

    def _close(self) -> None:
        for sock in (self._client, self._server):
            if sock is not None and sock.fileno() >= 0:
                self._loop.watch(sock.fileno())
                sock.close()


class Way:
    """Bytes from one socket to another; what could not be sent is kept, and no more is read until it is."""

    def __init__(self, source: Socket, sink: Socket) -> None:
        self._source = source
        self._sink = sink
        self._kept = memoryview(b"")
        self._ended = False
        self._told = (True, False)

    @property
    def wants_to_read(self) -> bool:
        """Whether there may be more to come and there is room for it."""
        return not self._ended and not self._kept

    @property
    def wants_to_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._kept)

    @property
    def is_over(self) -> bool:
        """Whether the end has been passed on."""
        return self._ended

    def has_changed(self) -> bool:
        """Whether it wants something else than when it was asked last."""
        before, self._told = self._told, (self.wants_to_read, self.wants_to_write)
        return before != self._told

    def move(self) -> None:
        """Move what can be moved now. Raises OSError: a side has failed."""
        try:
            if not self._kept:
                data = self._source.recv(_CHUNK_BYTES)
                if not data:
                    self._ended = True
                    self._sink.shutdown(_socket.SHUT_WR)
                    return
                self._kept = memoryview(data)
            sent = self._sink.send(self._kept, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        self._kept = self._kept[sent:]


# -- datagrams ----------------------------------------------------------------------------------------------------


class Datagrams:
    """A socket whose senders have a flow to a target each; flows that were silent for long are forgotten."""

    def __init__(self, loop: Loop, sock: Socket, targets: tuple[Target, ...]) -> None:
        self._loop = loop
        self._sock = sock
        self._targets = targets
        self._flows: dict[Any, Flow] = {}
        loop.watch(sock.fileno(), read=self._receive)
        loop.later(_LOOK_S, self._look)

    def _receive(self) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                data, sender = self._sock.recvfrom(_DATAGRAM_BYTES)
            except OSError:  # nothing more, or the answer to one of ours could not be delivered
                return
            flow = self._flows.pop(sender, None)
            if flow is None:
                if len(self._flows) >= _FLOWS_MAX:
                    self._flows.pop(next(iter(self._flows))).close()
                flow = Flow(self._loop, self._targets, self._answer(sender))
            self._flows[sender] = flow  # the last one is the one that was heard last
            flow.send(data)

    def _answer(self, sender: Any) -> Callable[[bytes], None]:
        def answer(data: bytes) -> None:
            try:
                self._sock.sendto(data, sender)
            except OSError:
                return  # as any network: what cannot be delivered is lost

        return answer

    def _look(self) -> None:
        now_s = time.monotonic()
        for sender, flow in list(self._flows.items()):
            if now_s - flow.used_s > _IDLE_S:
                del self._flows[sender]
                flow.close()
        self._loop.later(_LOOK_S, self._look)


class Flow:
    """What one sender says and hears. While nobody has answered, a refusal makes it try the next target."""

    def __init__(self, loop: Loop, targets: tuple[Target, ...], answer: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._targets = targets
        self._answer = answer
        self._sock: Socket | None = None
        self._last = b""
        self._heard = False
        self.used_s = time.monotonic()

    def send(self, data: bytes) -> None:
        """Carry a datagram to the target; lost when it cannot be."""
        self.used_s = time.monotonic()
        self._last = data
        for _ in range(len(self._targets) + 1):
            try:
                if self._sock is None:
                    self._sock = _to(self._targets[0], _socket.SOCK_DGRAM)
                    self._sock.connect(self._targets[0])
                    self._loop.watch(self._sock.fileno(), read=self._receive)
                self._sock.send(data)
                return
            except OSError as error:
                if error.errno not in _TARGET_GONE or not self._turn():
                    return

    def _turn(self) -> bool:
        """Go over to the next target, if there is one and this one has never answered."""
        if self._heard or len(self._targets) < 2:
            return False
        self.close()
        self._targets = self._targets[1:]
        return True

    def _receive(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(_DATAGRAM_BYTES)
        except OSError as error:
            if error.errno in _TARGET_GONE and self._turn():
                self.send(self._last)
            return
        self._heard = True
        self.used_s = time.monotonic()
        self._answer(data)

    def close(self) -> None:
        """Forget it."""
        if self._sock is not None:
            self._loop.watch(self._sock.fileno())
            self._sock.close()
            self._sock = None
