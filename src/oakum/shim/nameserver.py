# SPDX-License-Identifier: Apache-2.0
"""A process of a pod that is its name server: the names of its hosts file, and what other servers say of all others.

For programs that ask no hosts file. The shim forks it for containers whose networks have names, with sockets that the
engine bound in the pod's network namespace. The hosts file is the only truth: it is read again whenever it has changed.
What it does not name is asked of the servers that the container would ask itself, from the pod's network namespace,
or from the host's where only the host reaches them. A child of the keeper, it ends with it. One thread, one loop; nobody
waits for anybody else, and what is under way at once is bounded. Messages are `dns`'.
"""

from __future__ import annotations

import _socket
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from oakum.errors import SystemFailure
from oakum.linux import namespaces, netns, sockets
from oakum.shim import dns
from oakum.shim.loop import Loop, Timer

PORT: Final = 53
HOSTS_LIMIT_BYTES: Final = 512 << 10
# Three tries are over before the resolvers of C libraries give up, after 5 s.
TRIES: Final = 3
TRY_S: Final = 1.5
FORWARDS_MAX: Final = 256
STREAMS_MAX: Final = 64
STREAM_IDLE_S: Final = 10.0
_PAUSE_S: Final = 0.1
_MESSAGES_AT_ONCE: Final = 64
_RECEIVE_BYTES: Final = 64 << 10
_LENGTH_BYTES: Final = 2
_IN_PROGRESS: Final = frozenset({0, 115})  # EINPROGRESS
_DATAGRAM: Final = _socket.SOCK_DGRAM
_STREAM: Final = _socket.SOCK_STREAM
_NEW: Final = _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
# Other servers may do better.
_TRY_NEXT: Final = frozenset({dns.SERVER_FAILURE, dns.NOT_IMPLEMENTED, dns.REFUSED})
# While a file's time is this young it may change again and look the same; and reading is to take a twentieth of our time.
_YOUNG_NS: Final = 1_000_000_000
_READING_SHARE: Final = 20

Socket = _socket.socket
Done = Callable[[bytes], None]


class Upstream(NamedTuple):
    """Another server; `on_host` where only the host reaches it."""

    address: str
    on_host: bool = False


def run(upstreams: Sequence[Sequence[Any]], fds: Sequence[int]) -> int:
    """Serve until killed. `fds`: UDP socket, TCP socket, hosts file, the pod's network namespace, the host's."""
    udp_fd, tcp_fd, hosts_fd, pod_fd, host_fd = fds
    namespaces.setns(pod_fd, namespaces.CLONE_NEWNET)
    loop = Loop()
    ways = Ways([Upstream(str(address), bool(on_host)) for address, on_host in upstreams], host_fd)
    Server(loop, Socket(fileno=udp_fd), Socket(fileno=tcp_fd), Hosts(hosts_fd), ways)
    loop.run()
    return 0


class Ways(NamedTuple):
    """The other servers, and the host's network namespace; ours is the pod's."""

    upstreams: list[Upstream]
    host_fd: int

    def open(self, upstream: Upstream, kind: int) -> Socket:
        """A socket for one. Raises OSError, SystemFailure."""
        family = _socket.AF_INET6 if ":" in upstream.address else _socket.AF_INET
        if not upstream.on_host:
            return Socket(family, kind | _NEW)
        return netns.inside(self.host_fd, lambda: Socket(family, kind | _NEW))


class Hosts:
    """The hosts file, as it is at each question."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._stamp: tuple[int, int] | None = None
        self._table = dns.Table({}, {})
        self._not_before_s = 0.0

    def table(self) -> dns.Table:
        """What it says now. Raises OSError."""
        now_s = time.monotonic()
        if now_s < self._not_before_s:
            return self._table
        # Not the time of the last write, which whoever writes may set.
        status = os.fstat(self._fd)
        stamp = status.st_ctime_ns, status.st_size
        if stamp != self._stamp:
            text = os.pread(self._fd, HOSTS_LIMIT_BYTES, 0)
            if len(text) == HOSTS_LIMIT_BYTES:  # no part of a name is one
                text = text[: text.rfind(b"\n") + 1]
            self._table = dns.read_hosts(text)
            self._not_before_s = now_s + _READING_SHARE * (time.monotonic() - now_s)
            self._stamp = stamp if time.time_ns() - stamp[0] > _YOUNG_NS else None
        return self._table


class Server:
    """Answers what comes by either socket."""

    def __init__(self, loop: Loop, udp: Socket, tcp: Socket, hosts: Hosts, ways: Ways) -> None:
        self.loop = loop
        self.ways = ways
        self.forwards: set[Forward] = set()
        self.streams: set[Stream] = set()
        self._hosts = hosts
        self._udp = udp
        self._tcp = tcp
        for sock, ready in ((udp, self._receive), (tcp, self._accept)):
            sock.settimeout(0)
            loop.watch(sock.fileno(), read=ready)

    def _receive(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                message, asker = self._udp.recvfrom(dns.QUERY_LIMIT_BYTES)
            except OSError:  # nothing more
                return
            self.ask(message, self._sender(asker), _DATAGRAM)

    def _sender(self, asker: Any) -> Done:
        def send(answer: bytes) -> None:
            try:
                self._udp.sendto(answer, asker)
            except OSError:
                return  # as any network: what cannot be delivered is lost

        return send

    def _accept(self) -> None:
        try:
            sock = Socket(fileno=sockets.accept_fd(self._tcp))
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone again
        except OSError:  # no descriptors or no memory: those who wait keep their place in the queue
            self.loop.watch(self._tcp.fileno())
            self.loop.later(_PAUSE_S, lambda: self.loop.watch(self._tcp.fileno(), read=self._accept))
            return
        if len(self.streams) >= STREAMS_MAX:
            sock.close()
            return
        sock.settimeout(0)
        self.streams.add(Stream(self, sock))

    def ask(self, message: bytes, done: Done, kind: int) -> bool:
        """Have `done` called with the answer, now or later; False for what gets none."""
        question = dns.read_question(message)
        if question is None:
            return False
        if isinstance(question, int):
            done(dns.refusal(message, question))
            return True
        limit_bytes = question.limit_bytes if kind == _DATAGRAM else dns.STREAM_LIMIT_BYTES
        answer = dns.answer(question, self._hosts.table(), limit_bytes)
        if answer is None and not self.ways.upstreams and question.is_single_label:
            answer = dns.reply(question, dns.NO_SUCH_NAME)
        elif answer is None and len(self.forwards) >= FORWARDS_MAX:
            answer = dns.reply(question, dns.SERVER_FAILURE)
        if answer is None:
            forward = Forward(self, question, message, done, kind)
            self.forwards.add(forward)
            forward.begin()
        else:
            done(answer)
        return True


class Forward:
    """A question on its way to other servers, one after the other, by the protocol that it came by."""

    def __init__(self, server: Server, question: dns.Question, message: bytes, done: Done, kind: int) -> None:
        self._server = server
        self._question = question
        self._number = int.from_bytes(os.urandom(2), "big")
        self._message = dns.numbered(message, self._number)
        self._done = done
        self._kind = kind
        upstreams = server.ways.upstreams[:TRIES]
        self._tries = (upstreams * TRIES)[:TRIES]
        self._best = dns.reply(question, dns.SERVER_FAILURE)
        self._upstream: Upstream | None = None
        self._sock: Socket | None = None
        self._timer: Timer | None = None
        self._to_send = b""
        self._received = b""

    def begin(self) -> None:
        """Ask the next server; without one the asker hears the best that was said."""
        self._leave()
        while self._tries:
            self._upstream = upstream = self._tries.pop(0)
            try:
                self._sock = sock = self._server.ways.open(upstream, self._kind)
                if sock.connect_ex((upstream.address, PORT)) not in _IN_PROGRESS:
                    raise OSError
            except (OSError, SystemFailure):  # no way there, or no descriptors: it is as good as silent
                self._leave()
                self._give_up()
                continue
            self._timer = self._server.loop.later(TRY_S, self.begin)
            self._to_send, self._received = self._message, b""
            if self._kind == _STREAM:
                self._to_send = len(self._message).to_bytes(_LENGTH_BYTES, "big") + self._message
            self._server.loop.watch(sock.fileno(), write=self._send)
            return
        self._finish(self._best)

    def _send(self) -> None:
        assert self._sock is not None
        try:
            sent = self._sock.send(self._to_send, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self._refused()
            return
        self._to_send = self._to_send[sent:]
        if not self._to_send:
            self._server.loop.watch(self._sock.fileno(), read=self._receive)

    def _receive(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._refused()
            return
        if self._kind == _STREAM:
            if not data:
                self._refused()
                return
            self._received += data
            length = int.from_bytes(self._received[:_LENGTH_BYTES], "big")
            if len(self._received) < _LENGTH_BYTES + max(length, 1):
                return
            data = self._received[_LENGTH_BYTES : _LENGTH_BYTES + length]
        code = dns.answer_code(self._question, self._number, data)
        if code is None:
            if self._kind == _STREAM:
                self._refused()
            return  # a datagram that was meant for somebody else, or by somebody else
        answer = dns.numbered(data, self._question.id)
        if code not in _TRY_NEXT:
            self._finish(answer)
            return
        self._best = answer
        self._refused()

    def _refused(self) -> None:
        self._give_up()
        self.begin()

    def _give_up(self) -> None:
        """Ask the present server nothing more."""
        self._tries = [each for each in self._tries if each != self._upstream]

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._server.loop.watch(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _finish(self, answer: bytes) -> None:
        self._leave()
        self._server.forwards.discard(self)
        self._done(answer)


class Stream:
    """A connection of somebody who asks; one question at a time, the next waits."""

    def __init__(self, server: Server, sock: Socket) -> None:
        self._server = server
        self._sock = sock
        self._received = b""
        self._to_send = b""
        self._timer = server.loop.later(STREAM_IDLE_S, self._close)
        server.loop.watch(sock.fileno(), read=self._receive)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._received += data
        self._next()

    def _next(self) -> None:
        """Take up the next question, or wait for the rest of it."""
        loop = self._server.loop
        self._timer.cancel()
        self._timer = loop.later(STREAM_IDLE_S, self._close)
        length = int.from_bytes(self._received[:_LENGTH_BYTES], "big")
        end = _LENGTH_BYTES + length
        if len(self._received) < _LENGTH_BYTES or (len(self._received) < end <= dns.QUERY_LIMIT_BYTES):
            loop.watch(self._sock.fileno(), read=self._receive)
            return
        message, self._received = self._received[_LENGTH_BYTES:end], self._received[end:]
        loop.watch(self._sock.fileno())
        if end > dns.QUERY_LIMIT_BYTES or not self._server.ask(message, self._answer, _STREAM):
            self._close()

    def _answer(self, answer: bytes) -> None:
        if self not in self._server.streams:
            return
        self._to_send = len(answer).to_bytes(_LENGTH_BYTES, "big") + answer
        self._server.loop.watch(self._sock.fileno(), write=self._send)

    def _send(self) -> None:
        try:
            sent = self._sock.send(self._to_send, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self._close()
            return
        self._to_send = self._to_send[sent:]
        if not self._to_send:
            self._next()

    def _close(self) -> None:
        self._timer.cancel()
        self._server.streams.discard(self)
        self._server.loop.watch(self._sock.fileno())
        self._sock.close()
