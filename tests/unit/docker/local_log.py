# SPDX-License-Identifier: Apache-2.0
"""Writes files as Docker's `local` log driver does, rotation included."""

from __future__ import annotations

import os


def number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record(
    line: bytes, time_ns: int, *, stream: bytes = b"stdout", partial: bool = False, last: bool = False
) -> bytes:
    entry = (
        b"\x0a"
        + number(len(stream))
        + stream
        + b"\x10"
        + number(time_ns)
        + b"\x1a"
        + number(len(line))
        + line
    )
    if partial:
        metadata = (b"\x08\x01" if last else b"") + b"\x12\x03abc\x18\x02"
        entry += b"\x20\x01\x2a" + number(len(metadata)) + metadata
    size = len(entry).to_bytes(4, "big")
    return size + entry + size


class DockersLog:
    """The `local-logs` directory of one container; `write` gives each line the next time."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.time_ns = 1_790_000_000_000_000_000

    @property
    def path(self) -> str:
        return f"{self.directory}/container.log"

    def append(self, data: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(data)

    def write(self, *lines: bytes) -> None:
        for line in lines:
            self.time_ns += 1
            self.append(record(line, self.time_ns))

    def rotate(self, files: int = 4) -> None:
        for n in range(files - 1, 0, -1):
            before = self.path if n == 1 else f"{self.path}.{n - 1}"
            if os.path.exists(before):
                os.rename(before, f"{self.path}.{n}")
        self.append(b"")
