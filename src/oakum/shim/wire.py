# SPDX-License-Identifier: Apache-2.0
"""Messages between engine, zygote and shim: JSON objects in length-prefixed frames, one answer to one request.

    engine                                     zygote / shim
      {"op": "...", ...}  [+ descriptors]  ──►
                                           ◄──  {"ok": value}  [+ descriptors]   or   {"error": error as dict}

Owns encoding and the caller's side of one call; `oakum.shim.connection` is the serving side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from oakum.errors import DeadlineExceeded, InvalidArgument, OakumError, Unavailable, from_dict
from oakum.linux import sockets
from oakum.model import message
from oakum.model.message import encode

# Beyond what a call itself may take, the answer gets this long to travel and be scheduled.
GRACE_S: Final = 15.0


class Answer(NamedTuple):
    """What a call brought: its value and the descriptors that came with it (owned by the receiver)."""

    value: Any
    fds: list[int]


def decode(payload: bytes) -> dict[str, Any]:
    """The message in a frame.

    Raises:
        InvalidArgument: not a JSON object.
    """
    try:
        return message.decode(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("read message", f"{len(payload)} bytes", str(error)) from error


def encode_answer(value: Any) -> bytes:
    """The payload that tells of success."""
    return encode({"ok": value})


def encode_error(error: OakumError) -> bytes:
    """The payload that tells of failure."""
    return encode({"error": error.to_dict()})


def call(
    sock: sockets.Socket,
    request: dict[str, Any],
    fds: Sequence[int] = (),
    *,
    timeout_s: float,
    peer: str,
) -> Answer:
    """Send one request on a blocking socket and wait for its answer.

    Raises:
        Unavailable: the peer ended the connection, or there is nobody.
        DeadlineExceeded: no answer within `timeout_s`.
        OakumError: what the peer answered.

    When no answer came, `sock` is closed: a late one would be taken for that of the next call.
    """
    ask(sock, request, fds, timeout_s=timeout_s, peer=peer)
    return hear(sock, str(request["op"]), timeout_s=timeout_s, peer=peer)


def ask(
    sock: sockets.Socket,
    request: dict[str, Any],
    fds: Sequence[int] = (),
    *,
    timeout_s: float,
    peer: str,
) -> None:
    """The first half of `call`. Raises DeadlineExceeded, Unavailable."""
    try:
        sock.settimeout(timeout_s)
        sockets.send_frame(sock, encode(request), fds)
    except (OSError, sockets.FrameTooLarge) as error:
        raise _unanswered(sock, str(request["op"]), timeout_s, peer, error) from error


def hear(sock: sockets.Socket, operation: str, *, timeout_s: float, peer: str) -> Answer:
    """The second half of `call`. Raises as it does."""
    try:
        sock.settimeout(timeout_s)
        received = sockets.receive_frame(sock)
    except (OSError, sockets.FrameTooLarge) as error:
        raise _unanswered(sock, operation, timeout_s, peer, error) from error
    if received is None:
        sock.close()
        raise Unavailable(operation, peer, "the connection ended without an answer")
    return _open_answer(received, operation, peer)


def _unanswered(
    sock: sockets.Socket, operation: str, timeout_s: float, peer: str, error: Exception
) -> OakumError:
    sock.close()
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(operation, peer, f"no answer in {timeout_s:g} s")
    return Unavailable(operation, peer, str(error))


def _open_answer(received: tuple[bytes, list[int]], operation: str, peer: str) -> Answer:
    payload, fds = received
    try:
        answer = decode(payload)
    except InvalidArgument:
        sockets.close_all(fds)
        raise
    if "error" in answer:
        sockets.close_all(fds)
        raise from_dict(answer["error"])
    if "ok" not in answer:
        sockets.close_all(fds)
        raise Unavailable(operation, peer, "an answer that is neither ok nor error")
    return Answer(answer["ok"], fds)
