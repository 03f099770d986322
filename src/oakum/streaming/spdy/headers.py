# SPDX-License-Identifier: Apache-2.0
"""Header blocks: names and values, compressed by one zlib stream a direction that knows the common words.

What is decompressed is bounded: a few bytes can ask for gigabytes. Spec: SPDY/3.1, 2.6.10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Final

MAX_BLOCK_BYTES: Final = 32 << 10
MAX_PAIRS: Final = 256

Headers = tuple[tuple[str, str], ...]

# Spec: SPDY/3.1, 2.6.10.1: words with their length before each, then text without.
_WORDS: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age "
    "allow authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TEXT: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = (word.replace("_", " ").encode() for word in _WORDS.split())
    return b"".join(struct.pack(">I", len(word)) + word for word in words) + _TEXT.encode()


DICTIONARY: Final = _dictionary()


class BadHeaders(ValueError):
    """A header block that cannot be understood; the connection's compression state is lost with it."""


class HeaderWriter:
    """Compresses the header blocks of one direction."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def pack(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """One block. Values of a name that comes several times are joined."""
        joined: dict[str, list[str]] = {}
        for name, value in headers:
            joined.setdefault(name.lower(), []).append(value)
        parts = [struct.pack(">I", len(joined))]
        for name, values in joined.items():
            for text in (name, "\0".join(values)):
                data = text.encode("latin-1")
                parts += (struct.pack(">I", len(data)), data)
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


class HeaderReader:
    """Decompresses the header blocks of one direction."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def unpack(self, block: bytes) -> Headers:
        """The names, in lower case, and values of one block.

        Raises:
            BadHeaders: it is damaged, or larger than `MAX_BLOCK_BYTES`.
        """
        try:
            data = self._inflate.decompress(block, MAX_BLOCK_BYTES)
        except zlib.error as error:
            raise BadHeaders(str(error)) from error
        # output may also wait inside zlib with no input left, so a full buffer is too much already
        if len(data) >= MAX_BLOCK_BYTES or self._inflate.unconsumed_tail:
            raise BadHeaders(f"over {MAX_BLOCK_BYTES} bytes of headers")
        return _parse(data)


def _parse(data: bytes) -> Headers:
    found: list[tuple[str, str]] = []
    (count,), at = _number(data, 0), 4
    if count > MAX_PAIRS:
        raise BadHeaders(f"{count} headers")
    for _ in range(count):
        name, at = _text(data, at)
        values, at = _text(data, at)
        if not name:
            raise BadHeaders("a header without a name")
        found += ((name.lower(), value) for value in values.split("\0"))
    if at != len(data):
        raise BadHeaders("bytes after the last header")
    return tuple(found)


def _number(data: bytes, at: int) -> tuple[int]:
    if len(data) < at + 4:
        raise BadHeaders("it ends too early")
    return struct.unpack_from(">I", data, at)


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _number(data, at)
    end = at + 4 + length
    if len(data) < end:
        raise BadHeaders("it ends too early")
    return data[at + 4 : end].decode("latin-1"), end
