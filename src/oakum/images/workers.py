# SPDX-License-Identifier: Apache-2.0
"""The parent's side of unpack workers: starting them, giving them layers, telling them what has arrived.

asyncio; what the workers do is in `unpack_worker.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from oakum.errors import DataLoss, Internal, OakumError, from_dict
from oakum.images.layerfiles import LayerRest

_LINE_LIMIT: Final = 64 << 20  # the directories a tar left out, at worst
_STEP_BYTES: Final = 256 << 10  # how much must arrive before a worker is told


class Arrival:
    """How much of a blob is in its file: the download says it, workers are told."""

    def __init__(self, paths: tuple[str, ...], size: int) -> None:
        self.paths = paths
        self.size = size
        self.available = 0
        self._told = 0
        self._listeners: list[Callable[[int], None]] = []

    def advance(self, available: int) -> None:
        """So many bytes are there now."""
        self.available = max(self.available, available)
        if self.available - self._told >= _STEP_BYTES or self.available >= self.size:
            self._told = self.available
            for listener in self._listeners:
                listener(self.available)

    @contextmanager
    def told_to(self, listener: Callable[[int], None]) -> Generator[None]:
        """Tell `listener` what is there, now and whenever it is more, until the block ends."""
        self._listeners.append(listener)
        try:
            listener(self.available)
            yield
        finally:
            self._listeners.remove(listener)


class WorkerJob:
    """One layer for a worker."""

    def __init__(self, arrival: Arrival, directory: str, diff_id: str, limit_bytes: int) -> None:
        self.arrival = arrival
        self.directory = directory
        self.diff_id = diff_id
        self.limit_bytes = limit_bytes


class Worker:
    """One worker process. Made inside a running event loop; `close` ends it at once."""

    def __init__(self) -> None:
        # -P: the current directory is not a place for modules. A session of its own: Ctrl-C is for the parent, who
        # then ends the worker.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "oakum.images.unpack_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._reader: asyncio.StreamReader | None = None
        self._transport: asyncio.ReadTransport | None = None

    async def unpack(self, job: WorkerJob, *, user_xattr: bool, progress: Callable[[int], None]) -> LayerRest:
        """Unpack one layer.

        Raises:
            OakumError: what the worker reports.
            Internal: the worker died.
        """
        self._send(
            {
                "blob": list(job.arrival.paths),
                "directory": job.directory,
                "diff_id": job.diff_id,
                "size": job.arrival.size,
                "limit": job.limit_bytes,
                "user_xattr": user_xattr,
            }
        )
        with job.arrival.told_to(lambda available: self._send({"available": available})):
            while True:
                message = await self._receive(job.diff_id)
                if "progress" in message:
                    progress(int(message["progress"]))
                elif "done" in message:
                    return _rest_of(message["done"])
                else:
                    raise _named(from_dict(message["error"]), job.diff_id)

    async def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        if self._transport is not None:
            self._transport.close()
        else:
            assert self._process.stdout is not None
            self._process.stdout.close()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it had died already
        # SIGKILL takes effect at once but for a process in an uninterruptible write.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._process.wait))

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            # Short lines into a pipe that the worker empties often: this does not block.
            os.write(stdin.fileno(), json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return  # it died; reading its answer says so

    async def _receive(self, diff_id: str) -> dict[str, Any]:
        if self._reader is None:
            self._reader = asyncio.StreamReader(limit=_LINE_LIMIT)
            loop = asyncio.get_running_loop()
            reader = self._reader
            assert self._process.stdout is not None
            self._transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
            )
        try:
            line = await self._reader.readline()
        except ValueError as error:
            cause = (
                f"more than {_LINE_LIMIT} bytes of directories and links that only lower layers can settle"
            )
            raise DataLoss("unpack layer", f"layer {diff_id}", cause) from error
        if not line.endswith(b"\n"):
            # Its end of the pipe is closed, so it is ending.
            code = await asyncio.get_running_loop().run_in_executor(None, self._process.wait)
            raise Internal("unpack layer", f"worker {self._process.pid}", f"it ended with {code}")
        return json.loads(line)


def _rest_of(done: dict[str, Any]) -> LayerRest:
    return LayerRest(
        tuple(os.fsencode(name) for name in done["implicit"]),
        tuple((os.fsencode(name), os.fsencode(target)) for name, target in done["links"]),
    )


def _named(error: OakumError, diff_id: str) -> OakumError:
    if isinstance(error, DataLoss) and not error.subject:
        error.subject = f"layer {diff_id}"
    return error
