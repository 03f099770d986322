# SPDX-License-Identifier: Apache-2.0
"""Docker's frames of a stream without a terminal: one byte stream, three of nothing, four of length, payload. Pure.

Spec: Docker Engine API, ContainerAttach, "Stream format".
"""

from __future__ import annotations

from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
SYSTEM: Final = 3

_HEADER_BYTES: Final = 8


class Demultiplexer:
    """Cuts received bytes by their stream; the pieces of a frame are passed on as they come."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take received bytes; what they hold, as (stream, bytes)."""
        found: list[tuple[int, bytes]] = []
        at = 0
        while at < len(data):
            if not self._left:
                need = _HEADER_BYTES - len(self._head)
                self._head += data[at : at + need]
                at += need
                if len(self._head) < _HEADER_BYTES:
                    break
                self._stream = self._head[0]
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            found.append((self._stream, piece))
        return found
