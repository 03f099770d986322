# SPDX-License-Identifier: Apache-2.0
"""Netlink: messages and attributes as bytes (pure functions), and a socket that sends requests and reads answers.

What the messages of rtnetlink mean is in `rtnetlink`. Written here rather than taken from a library because the
usual one takes longer to import than a whole container may take to start. Source: netlink(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from oakum.errors import SystemFailure
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

NLM_F_REQUEST: Final = 0x01
NLM_F_MULTI: Final = 0x02
NLM_F_ACK: Final = 0x04
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200

_NLMSG_NOOP: Final = 1
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGERR_ATTR_MSG: Final = 1

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12

_NESTED: Final = 0x8000
_KIND_MASK: Final = 0x3FFF
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RECEIVE_BYTES: Final = 1 << 17
_DUMP_RETRIES: Final = 20
_SIOCGIFINDEX: Final = 0x8933
_NAME_BYTES: Final = 15
# struct ifreq: a name, then a union of which this is the index
_IFREQ_INDEX: Final = struct.Struct("=16si20x")


class Message(NamedTuple):
    """One netlink message without its header's length."""

    kind: int
    flags: int
    sequence: int
    port: int
    payload: bytes


class Request(NamedTuple):
    """A message to be sent, with the words for its error and the error numbers that count as success."""

    kind: int
    flags: int
    payload: bytes
    operation: str
    subject: str = ""
    tolerated: frozenset[int] = frozenset()


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes. Raises ValueError when `data` is too long."""
    length = _ATTRIBUTE.size + len(data)
    if length > 0xFFFF:
        raise ValueError(f"netlink attribute {kind} of {length} bytes")
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string as attribute. Raises ValueError for an embedded NUL."""
    if "\0" in value:
        raise ValueError(f"embedded NUL in {value!r}")
    return attribute(kind, os.fsencode(value) + b"\0")


def u8(kind: int, value: int) -> bytes:
    """One byte as attribute."""
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    """A 32-bit number in host order as attribute."""
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *inner: bytes) -> bytes:
    """Attributes inside an attribute."""
    return attribute(kind | _NESTED, b"".join(inner))


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind, flag bits removed; the last of a kind wins. Raises ValueError when cut."""
    found: dict[int, bytes] = {}
    offset = 0
    while len(data) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise ValueError(f"netlink attribute of {length} bytes in {len(data) - offset}")
        found[kind & _KIND_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def parse_text(data: bytes) -> str:
    """The text of a string attribute."""
    return os.fsdecode(data.split(b"\0", 1)[0])


def encode_message(message: Message) -> bytes:
    """The message with its header, padded."""
    length = _HEADER.size + len(message.payload)
    header = _HEADER.pack(length, message.kind, message.flags, message.sequence, message.port)
    return header + message.payload + bytes(-length % 4)


def decode_messages(data: bytes) -> list[Message]:
    """The messages of one datagram. Raises ValueError when cut."""
    found: list[Message] = []
    offset = 0
    while len(data) - offset >= _HEADER.size:
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise ValueError(f"netlink message of {length} bytes in {len(data) - offset}")
        found.append(Message(kind, flags, sequence, port, data[offset + _HEADER.size : offset + length]))
        offset += length + -length % 4
    return found


class Verdict(NamedTuple):
    """The kernel's answer to one request: 0 or an error number, and its own words (extended acknowledgement)."""

    errno: int
    text: str = ""


def parse_verdict(message: Message) -> Verdict:
    """What an error (or acknowledgement) message says. Raises ValueError when cut."""
    if len(message.payload) < 4:
        raise ValueError(f"netlink error message of {len(message.payload)} bytes")
    (number,) = struct.unpack_from("=i", message.payload)
    words = ""
    if message.flags & _NLM_F_ACK_TLVS and len(message.payload) >= 4 + _HEADER.size:
        echoed = _HEADER.unpack_from(message.payload, 4)[0]
        start = 4 + (_HEADER.size if message.flags & _NLM_F_CAPPED else echoed + -echoed % 4)
        words = parse_text(parse_attributes(message.payload[start:]).get(_NLMSGERR_ATTR_MSG, b""))
    return Verdict(-number, words)


_SUCCESS: Final = Verdict(0)


def failure(operation: str, subject: str, verdict: Verdict) -> SystemFailure:
    """The error for a verdict that is one."""
    name = errno.errorcode.get(verdict.errno, str(verdict.errno))
    cause = f"{os.strerror(verdict.errno)} ({name})"
    return SystemFailure(
        operation, subject, f"{cause}: {verdict.text}" if verdict.text else cause, errno=verdict.errno
    )


class NetlinkSocket:
    """A socket of one netlink family in the network namespace where it was made. Not thread-safe."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        """Open it in the calling thread's network namespace. Raises SystemFailure."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        except OSError as error:
            raise SystemFailure.from_os_error(error, "open netlink socket", str(family)) from error
        try:
            self._socket.bind((0, 0))
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            # Kernel 4.20: dumps honour the filters of the request; without it the caller filters, as it must anyway.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        except OSError as error:
            self._socket.close()
            raise SystemFailure.from_os_error(error, "set up netlink socket", str(family)) from error
        self._sequence = 0

    def close(self) -> None:
        """Close it; twice is fine."""
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, requests: Sequence[Request]) -> list[Verdict]:
        """Send all requests in one call and wait until all are carried out.

        The kernel goes on after a failed one, and of what succeeds tells only the last one. Returns the verdicts,
        tolerated errors among them.

        Raises:
            SystemFailure: the first request that failed otherwise.
        """
        if not requests:
            return []
        first = self._sequence + 1
        self._send(requests, 0, last=NLM_F_ACK)
        verdicts: dict[int, Verdict] = {}
        while self._sequence not in verdicts:
            for message in self._receive(requests[0]):
                if message.kind == _NLMSG_ERROR and message.sequence >= first:
                    verdicts[message.sequence] = parse_verdict(message)
        ordered = [verdicts.get(first + index, _SUCCESS) for index in range(len(requests))]
        for request, verdict in zip(requests, ordered, strict=True):
            if verdict.errno and verdict.errno not in request.tolerated:
                raise failure(request.operation, request.subject, verdict)
        return ordered

    def index_of(self, name: str) -> int | None:
        """The index of an interface in the socket's network namespace; None when there is none of this name.

        Takes no lock of the kernel's, as a request would. Source: netdevice(7), SIOCGIFINDEX. Raises SystemFailure.
        """
        wanted = os.fsencode(name)
        if len(wanted) > _NAME_BYTES or b":" in wanted or b"\0" in wanted:
            return None  # none has such a name, and the call would cut it and find another
        try:
            answer = fcntl.ioctl(self._socket.fileno(), _SIOCGIFINDEX, _IFREQ_INDEX.pack(wanted, 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise SystemFailure.from_os_error(error, "look up link", name) from error
        return _IFREQ_INDEX.unpack(answer)[1]

    def ask(self, request: Request) -> Message | None:
        """The one message that answers `request`; None for a tolerated error. Raises SystemFailure."""
        self._send([request], 0)
        while True:
            for message in self._receive(request):
                if message.sequence != self._sequence:
                    continue
                if message.kind != _NLMSG_ERROR:
                    return message
                verdict = parse_verdict(message)
                if verdict.errno in request.tolerated or not verdict.errno:
                    return None
                raise failure(request.operation, request.subject, verdict)

    def dump(self, request: Request) -> list[Message]:
        """All messages that answer `request`, taken again while the kernel says that they changed meanwhile.

        Raises SystemFailure.
        """
        for _ in range(_DUMP_RETRIES):
            self._send([request], NLM_F_DUMP)
            found: list[Message] = []
            if self._collect(request, found):
                return found
        raise SystemFailure(request.operation, request.subject, "the list kept changing", errno=errno.EAGAIN)

    def _collect(self, request: Request, found: list[Message]) -> bool:
        whole = True
        while True:
            for message in self._receive(request):
                if message.sequence != self._sequence:
                    continue
                whole = whole and not message.flags & NLM_F_DUMP_INTR
                if message.kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    verdict = parse_verdict(message) if len(message.payload) >= 4 else Verdict(0)
                    if verdict.errno and verdict.errno not in request.tolerated:
                        raise failure(request.operation, request.subject, verdict)
                    return whole
                if message.kind != _NLMSG_NOOP:
                    found.append(message)

    def _send(self, requests: Sequence[Request], flags: int, *, last: int = 0) -> None:
        """Send them with `flags`, and `last` on the last one."""
        parts: list[bytes] = []
        operation = subject = ""
        for request in requests:
            self._sequence += 1
            if len(parts) == len(requests) - 1:
                flags |= last
            operation, subject = operation or request.operation, subject or request.subject
            parts.append(
                encode_message(
                    Message(
                        request.kind,
                        NLM_F_REQUEST | flags | request.flags,
                        self._sequence,
                        0,
                        request.payload,
                    )
                )
            )
        try:
            self._socket.send(b"".join(parts))
        except OSError as error:
            raise SystemFailure.from_os_error(error, operation, subject) from error

    def _receive(self, request: Request) -> list[Message]:
        try:
            data, _, flags, _ = self._socket.recvmsg(_RECEIVE_BYTES)
            if flags & socket.MSG_TRUNC:
                raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
            return decode_messages(data)
        except OSError as error:
            raise SystemFailure.from_os_error(error, request.operation, request.subject) from error
        except ValueError as error:
            raise SystemFailure(request.operation, request.subject, str(error)) from error
