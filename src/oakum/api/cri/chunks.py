# SPDX-License-Identifier: Apache-2.0
"""Long lists in pieces: what the Stream RPCs send, so that no list is too long for one message.

A piece stays well below the 16 MiB that the kubelet takes. An empty list is an empty stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

CHUNK_BYTES = 1 << 20
CHUNK_ITEMS = 512
"""Items in one piece at most: the other calls get their turn between two pieces."""


def chunks(
    messages: Iterable[M], *, limit_bytes: int = CHUNK_BYTES, limit_items: int = CHUNK_ITEMS
) -> Iterator[list[M]]:
    """`messages` in their order, in lists of at most `limit_items` and `limit_bytes` (but never an empty one)."""
    piece: list[M] = []
    size = 0
    for message in messages:
        weight = message.ByteSize()
        if piece and (len(piece) >= limit_items or size + weight > limit_bytes):
            yield piece
            piece, size = [], 0
        piece.append(message)
        size += weight
    if piece:
        yield piece
