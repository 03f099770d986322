# SPDX-License-Identifier: Apache-2.0
"""DNS messages made and read by a second hand, and a server of a test's own. Source: RFC 1035, RFC 6891."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.support.patience import patient

A, PTR, TXT, AAAA, ANY = 1, 12, 16, 28, 255
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = range(6)
TRUNCATED = 0x0200


def wire_name(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


def query(
    name: str, kind: int = A, *, number: int = 7, edns: int | None = None, version: int = 0, of: int = 1
) -> bytes:
    extra = b"" if edns is None else b"\0" + struct.pack("!HHBBHH", 41, edns, 0, version, 0x8000, 0)
    header = struct.pack("!6H", number, 0x0100, 1, 0, 0, 1 if extra else 0)
    return header + wire_name(name) + struct.pack("!2H", kind, of) + extra


class Reply(NamedTuple):
    number: int
    flags: int
    question: bytes
    answers: list[tuple[int, int, bytes]]
    """Type, time to live, data."""
    extra: list[tuple[int, int, int]]
    """Type, class, time to live."""

    @property
    def code(self) -> int:
        return self.flags & 15

    @property
    def is_truncated(self) -> bool:
        return bool(self.flags & TRUNCATED)

    @property
    def addresses(self) -> set[str]:
        return {str(ipaddress.ip_address(data)) for kind, _, data in self.answers if kind in (A, AAAA)}


def read_reply(message: bytes) -> Reply:
    number, flags, questions, answers, authorities, extra = struct.unpack_from("!6H", message)
    assert flags & 0x8000
    position = 12
    for _ in range(questions):
        position = _after_name(message, position) + 4
    question = message[12:position]
    records: list[tuple[int, int, int, bytes]] = []
    for _ in range(answers + authorities + extra):
        position = _after_name(message, position)
        kind, of, ttl, length = struct.unpack_from("!2HIH", message, position)
        position += 10 + length
        records.append((kind, of, ttl, message[position - length : position]))
    assert position == len(message)
    return Reply(
        number,
        flags,
        question,
        [(kind, ttl, data) for kind, _, ttl, data in records[:answers]],
        [(kind, of, ttl) for kind, of, ttl, _ in records[answers:]],
    )


def _after_name(message: bytes, position: int) -> int:
    while message[position]:
        if message[position] >= 0xC0:
            return position + 2
        position += 1 + message[position]
    return position + 1


def answer_to(
    message: bytes, addresses: list[str], *, code: int = 0, flags: int = 0, number: int | None = None
) -> bytes:
    """A server's answer to a query."""
    end = _after_name(message, 12) + 4
    asked = struct.unpack_from("!H", message)[0]
    header = struct.pack(
        "!6H", asked if number is None else number, 0x8180 | flags | code, 1, len(addresses), 0, 0
    )
    records = b""
    for text in addresses:
        packed = ipaddress.ip_address(text).packed
        kind = A if len(packed) == 4 else AAAA
        records += b"\xc0\x0c" + struct.pack("!2HIH", kind, 1, 60, len(packed)) + packed
    return header + message[12:end] + records


# A message and "udp" or "tcp" → the messages to send.
Behaviour = Callable[[bytes, str], list[bytes]]


class Upstream:
    """A server on a thread of its own, bound where it is made; `heard` are the queries it has had."""

    def __init__(self, behaviour: Behaviour, address: str = "", port: int = 53) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._behaviour = behaviour
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._udp.bind((address, port))
        self._tcp.bind((address, port))
        self._tcp.listen()
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._udp, self._tcp, self._stop], [], [])
            if self._stop in ready:
                return
            if self._udp in ready:
                message, peer = self._udp.recvfrom(65535)
                self.heard.append(("udp", message))
                for reply in self._behaviour(message, "udp"):
                    self._udp.sendto(reply, peer)
            if self._tcp in ready:
                sock, _ = self._tcp.accept()
                with sock, contextlib.suppress(ConnectionError):
                    sock.settimeout(patient(20))
                    message = receive_framed(sock)
                    self.heard.append(("tcp", message))
                    for reply in self._behaviour(message, "tcp"):
                        sock.sendall(len(reply).to_bytes(2, "big") + reply)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Upstream]:
        self._thread.start()
        try:
            yield self
        finally:
            os.write(self._stopped, b"x")
            self._thread.join()
            for fd in (self._stop, self._stopped):
                os.close(fd)
            self._udp.close()
            self._tcp.close()


def receive_framed(sock: socket.socket) -> bytes:
    length = int.from_bytes(receive_exactly(sock, 2), "big")
    return receive_exactly(sock, length)


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise ConnectionError("closed")
        data += chunk
    return data


def ask(sock: socket.socket, message: bytes) -> Reply:
    """The answer to a message, by a connected UDP socket."""
    sock.send(message)
    return read_reply(sock.recv(65535))


def ask_framed(sock: socket.socket, message: bytes) -> Reply:
    """The answer to a message, by a TCP connection."""
    sock.sendall(len(message).to_bytes(2, "big") + message)
    return read_reply(receive_framed(sock))
