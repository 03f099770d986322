# SPDX-License-Identifier: Apache-2.0
"""Joining a running container's streams: Docker's hijacked connection on one side, the shim's frames on the other.

    streaming ── shim frames ── socket pair ── this thread ── stdcopy frames or terminal bytes ── dockerd

Docker makes a container wait for a client that does not read. So only a client that asked for it (`backpressure`) may
be slow; any other is dropped once it is too far behind. Owns one thread and both connections.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from typing import Any, Final, cast

from oakum.backend.status import ContainerStatus
from oakum.docker.client import DockerClient
from oakum.docker.stdcopy import STDERR, STDOUT, Demultiplexer
from oakum.errors import FailedPrecondition, OakumError, ResourceExhausted, Unavailable
from oakum.linux import pids
from oakum.model.exits import ExitRecord
from oakum.shim import frames

_BLOCK: Final = 64 << 10
_BEHIND_BYTES: Final = 8 << 20
_CONGESTED_BYTES: Final = 256 << 10
_KINDS: Final = {STDOUT: frames.STDOUT, STDERR: frames.STDERR}
# Docker closes the stream a moment before it says that the container has ended.
_END_S: Final = 10.0
_SETTLE_S: Final = 0.5


def attach(
    client: DockerClient,
    status: ContainerStatus,
    *,
    stdin: bool,
    stdout: bool = True,
    stderr: bool = True,
    backpressure: bool = False,
) -> socket.socket:
    """A stream of the shim's frames to and from a running container.

    Raises:
        FailedPrecondition: it does not run.
    """
    if status.state not in ("running", "paused"):
        raise FailedPrecondition("attach to", status.id[:12], f"the container is {status.state}")
    stdin = stdin and status.config.stdin
    query = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr and not status.config.tty}
    docker = client.hijack(f"/containers/{status.id}/attach", query=query)
    ours, theirs = socket.socketpair()
    bridge = _Bridge(client, status, docker, ours, backpressure=backpressure)
    threading.Thread(target=bridge.run, name="attach", daemon=True).start()
    return theirs


class _Bridge:
    def __init__(
        self,
        client: DockerClient,
        status: ContainerStatus,
        docker: socket.socket,
        reader: socket.socket,
        *,
        backpressure: bool,
    ) -> None:
        self._client = client
        self._status = status
        self._docker = docker
        self._reader = reader
        self._backpressure = backpressure
        self._demultiplexer = None if status.config.tty else Demultiplexer()
        self._decoder = frames.Decoder()
        self._to_reader = bytearray()
        self._to_docker = bytearray()
        self._docker_open = self._input_open = True
        self._closing_input = False

    def run(self) -> None:
        with self._docker, self._reader:
            for sock in (self._docker, self._reader):
                sock.settimeout(0)
            try:
                self._exchange()
                self._say_goodbye(self._end())
            except (OSError, frames.BadFrame):
                pass  # the client has left; the container goes on
            except OakumError as error:
                with contextlib.suppress(OSError):  # as above
                    self._say_goodbye(frames.encode(frames.ERROR, json.dumps(error.to_dict()).encode()))

    def _exchange(self) -> None:
        with selectors.DefaultSelector() as selector:
            while self._docker_open or self._to_reader:
                read, write = self._docker_events()
                self._choose(selector, self._docker, read=read, write=write)
                self._choose(
                    selector,
                    self._reader,
                    read=len(self._to_docker) < _CONGESTED_BYTES,
                    write=bool(self._to_reader),
                )
                for key, events in selector.select():
                    if key.fileobj is self._docker:
                        self._with_docker(events)
                    else:
                        self._with_reader(events)

    def _docker_events(self) -> tuple[bool, bool]:
        read = self._docker_open and not (self._backpressure and len(self._to_reader) >= _CONGESTED_BYTES)
        return read, bool(self._to_docker) and self._docker_open

    @staticmethod
    def _choose(selector: selectors.BaseSelector, sock: socket.socket, *, read: bool, write: bool) -> None:
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        known = selector.get_map().get(sock)
        if known is None:
            if events:
                selector.register(sock, events)
        elif not events:
            selector.unregister(sock)
        elif known.events != events:
            selector.modify(sock, events)

    def _with_docker(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush_input()
        if events & selectors.EVENT_READ:
            try:
                data = self._docker.recv(_BLOCK)
            except ConnectionError:
                data = b""
            if not data:
                self._docker_open = False
                return
            for kind, payload in self._pieces(data):
                self._to_reader += frames.header(kind, len(payload)) + payload
            if not self._backpressure and len(self._to_reader) > _BEHIND_BYTES:
                self._to_reader.clear()
                cause = f"it is over {_BEHIND_BYTES >> 20} MiB behind the container's output"
                raise ResourceExhausted("attach to", self._status.id[:12], cause)

    def _pieces(self, data: bytes) -> list[tuple[int, bytes]]:
        if self._demultiplexer is None:
            return [(frames.STDOUT, data)]
        return [(_KINDS[s], piece) for s, piece in self._demultiplexer.feed(data) if s in _KINDS]

    def _with_reader(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            with contextlib.suppress(BlockingIOError):
                del self._to_reader[: self._reader.send(self._to_reader)]
        if events & selectors.EVENT_READ:
            data = self._reader.recv(_BLOCK)
            if not data:
                raise ConnectionResetError("the client has left")
            for kind, payload in self._decoder.feed(data):
                if kind == frames.STDIN and self._input_open:
                    self._to_docker += payload
                elif kind == frames.CLOSE_STDIN:
                    self._closing_input = True
                elif kind == frames.RESIZE:
                    self._resize(payload)
            self._flush_input()

    def _flush_input(self) -> None:
        try:
            while self._to_docker:
                del self._to_docker[: self._docker.send(self._to_docker)]
        except BlockingIOError:
            return
        except ConnectionError:
            self._to_docker.clear()  # its end comes from the other direction
            self._input_open = False
            return
        if self._closing_input and self._input_open:
            self._input_open = False
            with contextlib.suppress(OSError):  # as above
                self._docker.shutdown(socket.SHUT_WR)

    def _resize(self, payload: bytes) -> None:
        size = cast("dict[str, Any]", json.loads(payload))
        query = {"h": int(size["rows"]), "w": int(size["columns"])}
        with contextlib.suppress(OakumError):  # a terminal that was hung up has no size
            self._client.post(f"/containers/{self._status.id}/resize", query=query)

    def _end(self) -> bytes:
        """The last frame: how the container ended, or why the stream did although it goes on."""
        limit, pause_s = time.monotonic() + _END_S, 0.005
        while True:
            facts = self._client.get(f"/containers/{self._status.id}/json")["State"]
            if not facts["Running"]:
                break
            if time.monotonic() > limit - _END_S + _SETTLE_S and not self._ending():
                raise Unavailable("attach to", self._status.id[:12], "Docker closed the stream")
            if time.monotonic() > limit:
                raise Unavailable("attach to", self._status.id[:12], "Docker does not say how it ended")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.1)
        code = int(facts["ExitCode"])
        record = ExitRecord(
            exit_code=code & 0xFF,
            signal=code - 128 if 128 < code < 193 else 0,
            oom_killed=bool(facts["OOMKilled"]),
            started_at_ns=self._status.started_at_ns,
            finished_at_ns=time.time_ns(),
            reason="OOMKilled" if facts["OOMKilled"] else "Error" if code else "Completed",
        )
        return frames.encode(frames.EXIT, json.dumps(record.to_dict()).encode())

    def _ending(self) -> bool:
        """Whether its first process is gone already, and only Docker's word on it is missing."""
        try:
            return pids.start_ticks(self._status.pid) is None
        except OSError:
            return True

    def _say_goodbye(self, last: bytes) -> None:
        self._reader.settimeout(_END_S)
        self._reader.sendall(bytes(self._to_reader) + last)
