# SPDX-License-Identifier: Apache-2.0
"""Inflates layers: gzip, zstd or plain, told by their first bytes and not by what a manifest calls them.

Only workers and archive readers import this; isal and zstandard are loaded when such data comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

from oakum.errors import DataLoss

MAGIC_BYTES: Final = 4
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # behind a byte 0x50 to 0x5f: a zstd frame without data
_ZSTD_STEP_BYTES: Final = 4 << 10
_ZSTD_TINY_STEP_BYTES: Final = 64
_ZSTD_MUCH_BYTES: Final = 1 << 20
_ZSTD_WINDOW: Final = 1 << 27  # 128 MiB, what the zstd tool takes without being asked for more


class Inflater(Protocol):
    """Turns a blob's bytes into the layer's, piece by piece."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The layer's bytes that `data` yields. Raises DataLoss."""
        ...

    def finish(self) -> None:
        """The blob is at its end. Raises DataLoss when the stream is not."""
        ...


def inflater_for(head: bytes) -> Inflater:
    """The inflater for a blob that begins with `head` (at least MAGIC_BYTES, unless the blob is shorter)."""
    if head.startswith(_GZIP):
        return _Gzip()
    if head.startswith(_ZSTD) or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F):
        return _Zstd()
    return _Plain()


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Gzip:
    """One gzip member or several in a row."""

    def __init__(self) -> None:
        from isal import igzip_lib  # only where gzip comes

        self._library: Any = igzip_lib  # its stubs are not typed
        self._stream: Any = self._fresh()
        self._started = False
        self._padding = False

    def _fresh(self) -> Any:
        return self._library.IgzipDecompressor(flag=self._library.DECOMP_GZIP)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if not self._started:
                # Zeros behind the last member are padding.
                data = data.lstrip(b"\0") if self._padding else data
                if not data:
                    return
                self._started = True
            try:
                out = self._stream.decompress(data, 4 << 20)
                yield out
                while not self._stream.eof and not self._stream.needs_input:
                    yield self._stream.decompress(b"", 4 << 20)
            except self._library.IsalError as error:
                raise DataLoss("inflate layer", "", f"damaged gzip: {error}") from error
            if not self._stream.eof:
                return
            data = self._stream.unused_data
            self._stream = self._fresh()
            self._started = False
            self._padding = True

    def finish(self) -> None:
        if self._started:
            raise DataLoss("inflate layer", "", "the gzip stream is cut short")


class _Zstd:
    """One zstd frame or several in a row, empty (skippable) ones included."""

    def __init__(self) -> None:
        import zstandard  # only where zstd comes

        self._library = zstandard
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._stream = self._context.decompressobj()
        self._started = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        # decompressobj has no bound on one call's output, and zstd may grow a byte to 32 KiB: so it gets its input in
        # small steps, and in tiny ones while that grows much.
        position, step = 0, _ZSTD_STEP_BYTES
        while position < len(data):
            grown = 0
            for piece in self._step(data[position : position + step]):
                grown += len(piece)
                yield piece
            position += step
            step = _ZSTD_TINY_STEP_BYTES if grown > _ZSTD_MUCH_BYTES else _ZSTD_STEP_BYTES

    def _step(self, data: bytes) -> Iterator[bytes]:
        while data:
            self._started = True
            try:
                yield self._stream.decompress(data)
            except self._library.ZstdError as error:
                raise DataLoss("inflate layer", "", f"damaged zstd: {error}") from error
            if not self._stream.eof:
                return
            data = self._stream.unused_data
            self._stream = self._context.decompressobj()
            self._started = False

    def finish(self) -> None:
        if self._started:
            raise DataLoss("inflate layer", "", "the zstd stream is cut short")
