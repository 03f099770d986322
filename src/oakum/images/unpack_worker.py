# SPDX-License-Identifier: Apache-2.0
"""A process that unpacks layers one after the other while their blobs arrive: inflates, hashes, writes files.

A process and not a thread, since making files is Python's work as much as the kernel's. Started by `workers.py` as
`python -m oakum.images.unpack_worker`; it ends when its standard input does, that is, when its parent ends.

::

    parent → worker   {"blob": [paths], "directory": .., "diff_id": .., "size": .., "limit": .., "user_xattr": ..}
                      {"available": BYTES}          so much of the blob is there, any number of times
    worker → parent   {"progress": BYTES}           so much of the blob is unpacked
                      {"done": {"implicit": [..], "links": [..], "bytes": ..}}  or  {"error": {...}}

One JSON object a line. Names travel as text with surrogate escapes, which JSON keeps.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from oakum.errors import DataLoss, Internal, OakumError, SystemFailure
from oakum.images.digests import hasher_for
from oakum.images.inflate import MAGIC_BYTES, Inflater, inflater_for
from oakum.images.layerfiles import LayerWriter
from oakum.images.tarstream import TarReader
from oakum.linux.fd import Fd

READ_BYTES: Final = 128 << 10
_PROGRESS_S: Final = 0.1


class ParentGone(Exception):
    """Standard input ended: nobody wants the result any more."""


class Channel:
    """The two pipes to the parent, and how much of the current blob is there."""

    def __init__(self, in_fd: int, out_fd: int) -> None:
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._buffer = b""
        self._poll = select.poll()
        self._poll.register(in_fd, select.POLLIN)
        self.available = 0

    def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        view = memoryview(json.dumps(message).encode() + b"\n")
        while view:
            view = view[os.write(self._out_fd, view) :]

    def next_job(self) -> dict[str, Any]:
        """Wait for the next job. Raises ParentGone."""
        self.available = 0
        while True:
            message = self._receive()
            if "blob" in message:
                return message

    def await_more(self, offset: int) -> None:
        """Wait until more than `offset` bytes of the blob are there. Raises ParentGone."""
        while self.available <= offset:
            self._note(self._receive())

    def look(self) -> None:
        """Take what the parent said meanwhile, without waiting. Raises ParentGone."""
        while b"\n" in self._buffer or self._poll.poll(0):
            self._note(self._receive())

    def _note(self, message: dict[str, Any]) -> None:
        self.available = max(self.available, int(message["available"]))

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = os.read(self._in_fd, 65536)
            if not data:
                raise ParentGone
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def unpack_job(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Unpack one layer; what to tell the parent. Raises OakumError, ParentGone."""
    with Fd(os.open(job["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        writer = LayerWriter(root.fileno(), keep_owners=os.geteuid() == 0, user_xattr=bool(job["user_xattr"]))
        try:
            total = _pump(job, TarReader(writer), channel)
            rest = writer.finish()
        finally:
            writer.close()
    return {
        "implicit": [os.fsdecode(name) for name in rest.implicit],
        "links": [[os.fsdecode(name), os.fsdecode(target)] for name, target in rest.links],
        "bytes": total,
    }


def _pump(job: dict[str, Any], reader: TarReader, channel: Channel) -> int:
    """Bring the whole blob through inflater, hash and reader; the layer's length."""
    size, limit, diff_id = int(job["size"]), int(job["limit"]), str(job["diff_id"])
    hasher = hasher_for(diff_id)
    total = 0
    inflater: Inflater | None = None
    for data in _arriving(job["blob"], size, channel):
        if inflater is None:
            inflater = inflater_for(data)
        for chunk in inflater.feed(data):
            total += len(chunk)
            if total > limit:
                raise DataLoss(
                    "unpack layer",
                    "",
                    f"grows to more than {limit} bytes from {size}",
                    hint="if this layer is meant to be so, raise the limit",
                )
            hasher.update(chunk)
            reader.feed(chunk)
    if inflater is not None:
        inflater.finish()
    reader.finish()
    found = f"{diff_id.partition(':')[0]}:{hasher.hexdigest()}"
    if found != diff_id:
        raise DataLoss("verify layer", diff_id, f"its content has the digest {found}")
    return total


def _arriving(candidates: list[str], size: int, channel: Channel) -> Iterator[bytes]:
    """The pieces of a blob as they arrive; the first has at least MAGIC_BYTES, if the blob has."""
    if size == 0:
        return
    channel.await_more(min(size, MAGIC_BYTES) - 1)
    # Only now there is a file for sure.
    with Fd(_open_blob(candidates)) as blob:
        offset = 0
        told_at = time.monotonic()
        while offset < size:
            channel.look()
            channel.await_more(offset)
            data = os.pread(blob.fileno(), min(READ_BYTES, channel.available - offset), offset)
            if not data:
                raise DataLoss("read blob", "", "it became shorter while it was read")
            offset += len(data)
            yield data
            if time.monotonic() - told_at > _PROGRESS_S:
                told_at = time.monotonic()
                channel.send({"progress": offset})


def _open_blob(candidates: list[str]) -> int:
    # The blob moves from ingest to its final place when it is complete, maybe right now.
    for _ in range(3):
        for path in candidates:
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
    raise DataLoss("read blob", candidates[-1], "it is gone")


def main() -> int:
    """Serve until the parent is gone."""
    # Nothing else may write to the pipe: stray output goes where errors go.
    out_fd = os.dup(1)
    os.dup2(2, 1)
    os.umask(0)
    channel = Channel(0, out_fd)
    try:
        while True:
            job = channel.next_job()
            try:
                channel.send({"done": unpack_job(job, channel)})
            except OakumError as error:
                channel.send({"error": error.to_dict()})
            except OSError as error:
                failure = SystemFailure.from_os_error(error, "unpack layer", str(job["directory"]))
                channel.send({"error": failure.to_dict()})
            except (ParentGone, KeyboardInterrupt):
                raise
            except Exception as error:  # noqa: BLE001 - the edge of the process: the parent reports it
                channel.send(
                    {"error": Internal("unpack layer", str(job["directory"]), repr(error)).to_dict()}
                )
    except (ParentGone, KeyboardInterrupt, BrokenPipeError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
