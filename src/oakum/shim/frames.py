# SPDX-License-Identifier: Apache-2.0
"""Frames of an attached stream, both directions: one byte type, four bytes length, payload.

    client → shim   STDIN bytes · RESIZE {"rows","columns"} · CLOSE_STDIN
    shim → client   STDOUT bytes · STDERR bytes · then one of EXIT (ExitRecord as JSON) or ERROR (error as JSON)

EXIT or ERROR is the last frame of a stream. Pure: no input or output here.
"""

from __future__ import annotations

from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
RESIZE: Final = 3
EXIT: Final = 4
ERROR: Final = 5
CLOSE_STDIN: Final = 6

HEADER_BYTES: Final = 5
MAX_PAYLOAD_BYTES: Final = 1 << 20
_LAST: Final = CLOSE_STDIN


class BadFrame(ValueError):
    """The peer sent a frame of an unknown type or over the size limit."""


def encode(kind: int, payload: bytes = b"") -> bytes:
    """One frame. A payload is at most `MAX_PAYLOAD_BYTES`."""
    return header(kind, len(payload)) + payload


def header(kind: int, length: int) -> bytes:
    """The first five bytes of a frame, for callers that send the payload without copying it."""
    if length > MAX_PAYLOAD_BYTES:
        raise BadFrame(f"payload of {length} bytes")
    return bytes((kind,)) + length.to_bytes(4, "big")


class Decoder:
    """Cuts received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take received bytes; the frames that are whole now, as (type, payload).

        Raises:
            BadFrame: the stream cannot be understood any more.
        """
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            kind = self._buffer[start]
            length = int.from_bytes(self._buffer[start + 1 : start + HEADER_BYTES], "big")
            if kind > _LAST or length > MAX_PAYLOAD_BYTES:
                raise BadFrame(f"type {kind}, {length} bytes")
            end = start + HEADER_BYTES + length
            if len(self._buffer) < end:
                break
            found.append((kind, bytes(self._buffer[start + HEADER_BYTES : end])))
            start = end
        del self._buffer[:start]
        return found
