# SPDX-License-Identifier: Apache-2.0
"""Work done in a short-lived fork of the supervisor: making execs, and what a supervisor cannot make by itself (`makers`).

    supervisor ──clone(CLONE_PARENT)──► worker ──clone(CLONE_PARENT)──► container's first process
        ◄───── result as JSON, descriptors ──┘ exits

All of them are children of the keeper, which lives on. A worker may wait, and enter namespaces. It also closes every
descriptor that is not meant for the container, so that a created container that waits for its start holds neither the
shim's lock nor its clients' connections.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from oakum.errors import Internal, OakumError, SystemFailure, from_dict
from oakum.linux import process, sockets
from oakum.shim import wire
from oakum.shim.loop import Loop, report

_MAX_BYTES: Final = 128 << 10


class Result(NamedTuple):
    """What a worker made: plain values, and descriptors that the receiver owns."""

    values: dict[str, Any]
    fds: list[int]


Body = Callable[[], Result]


class Children(Protocol):
    """Whose children the processes of this sandbox are."""

    def fork(self) -> int:
        """A worker: its process id, 0 in the worker."""
        ...

    def expect(self, pid: int, ended: Callable[[int], None]) -> None:
        """Call `ended` once with the wait status of a child that was forked just now."""
        ...


class Worker:
    """A worker under way; exactly one of `done` and `failed` is called, later."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        body: Body,
        *,
        keep: Iterable[int],
        done: Callable[[Result], None],
        failed: Callable[[OakumError], None],
    ) -> None:
        self._loop = loop
        self._done = done
        self._failed = failed
        self._sock, self._pid = _fork(children, body, keep)
        children.expect(self._pid, self._ended)
        loop.watch(self._sock.fileno(), read=self._readable)

    def kill(self) -> None:
        """End it in the middle of whatever it does; it has failed then, unless it was done before."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def _ended(self, _status: int) -> None:
        self._pid = 0
        # Its last word may still be unread; a second call finds the socket closed.
        self._readable()

    def _readable(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._loop.watch(self._sock.fileno())
        try:
            result = _open(_receive(self._sock))
        except OakumError as error:
            self._sock.close()
            self._failed(error)
            return
        self._sock.close()
        self._done(result)


def _fork(children: Children, body: Body, keep: Iterable[int]) -> tuple[sockets.Socket, int]:
    ours, theirs = sockets.packet_pair()
    try:
        pid = children.fork()
    except OSError as failure:
        ours.close()
        theirs.close()
        raise SystemFailure.from_os_error(failure, "fork", "worker") from failure
    if pid == 0:
        process.run_and_exit(lambda: _work(body, theirs, {2, theirs.fileno(), *keep}))
    theirs.close()
    return ours, pid


def _work(body: Body, theirs: sockets.Socket, keep: set[int]) -> int:
    signal.set_wakeup_fd(-1)
    process.close_except(keep)
    try:
        result = body()
        told: dict[str, Any] = {"ok": result.values}
        fds = result.fds
    except OakumError as error:
        told, fds = {"error": error.to_dict()}, []
    except OSError as failure:
        error = SystemFailure.from_os_error(failure, "set up", str(failure.filename or ""))
        told, fds = {"error": error.to_dict()}, []
    except Exception as failure:  # noqa: BLE001 - edge of the process: a bug must reach the client too
        report()
        told, fds = {"error": Internal("set up", "", repr(failure)).to_dict()}, []
    try:
        sockets.send_with_fds(theirs, wire.encode(told), fds)
    except OSError:  # the shim has been killed, and its successor's clean-up finds what was made
        report()
    return 0


def _receive(sock: sockets.Socket) -> tuple[bytes, list[int]]:
    try:
        return sockets.receive_with_fds(sock, _MAX_BYTES)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "hear", "worker") from failure


def _open(received: tuple[bytes, list[int]]) -> Result:
    data, fds = received
    if not data:
        raise SystemFailure("set up", "", "the worker was killed", hint="is the host out of memory?")
    told = wire.decode(data)
    if "error" in told:
        raise from_dict(told["error"])
    return Result(told["ok"], fds)
