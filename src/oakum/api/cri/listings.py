# SPDX-License-Identifier: Apache-2.0
"""Listings as bytes: an item that has not changed since the last listing is not encoded again.

A kubelet lists every container once a second, and hardly any of them has changed: what Python spends on making
protobuf messages is most of such a call. A list is its items behind each other, so kept bytes can be joined.
Spec: protobuf encoding, "Length-Delimited Records"; a message is the concatenation of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from oakum.api.cri.chunks import CHUNK_BYTES, CHUNK_ITEMS


class Item(Protocol):
    """What can be listed."""

    @property
    def id(self) -> str:
        """Which object it is."""
        ...


T = TypeVar("T", bound=Item)


class Listing(Generic[T]):
    """The items of one kind of listing, which must be immutable; may be used from several threads at once.

    The very same object as last time has the same bytes; an equal one is encoded anew.
    """

    def __init__(self, field_number: int, write: Callable[[T], Message]) -> None:
        self._tag = _varint(field_number << 3 | 2)
        self._write = write
        self._kept: dict[str, tuple[T, bytes]] = {}

    def response(self, items: Sequence[T], *, all_there_are: bool) -> Any:
        """A message whose field `field_number` is `items` and which has no other, as bytes."""
        return b"".join(self._encoded(items, all_there_are=all_there_are))

    def responses(self, items: Sequence[T], *, all_there_are: bool) -> Iterator[Any]:
        """As `response`, in pieces (see `chunks`); none when there are no items."""
        piece: list[bytes] = []
        size = 0
        for data in self._encoded(items, all_there_are=all_there_are):
            if piece and (len(piece) >= CHUNK_ITEMS or size + len(data) > CHUNK_BYTES):
                yield b"".join(piece)
                piece, size = [], 0
            piece.append(data)
            size += len(data)
        if piece:
            yield b"".join(piece)

    def _encoded(self, items: Sequence[T], *, all_there_are: bool) -> list[bytes]:
        kept = self._kept
        found: list[bytes] = []
        for item in items:
            entry = kept.get(item.id)
            if entry is None or entry[0] is not item:
                message = self._write(item).SerializeToString()
                entry = kept[item.id] = (item, self._tag + _varint(len(message)) + message)
            found.append(entry[1])
        if all_there_are and len(kept) > 2 * len(items) + 64:
            self._kept = {item.id: kept[item.id] for item in items}  # what is gone is forgotten
        return found


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
