# SPDX-License-Identifier: Apache-2.0
"""The zygote: a small warm interpreter that forks a shim for each sandbox and does nothing else.

Once it has been quiet it rehearses (`rehearsal`), and keeps a `spare` shim for whoever comes next. It answers "ping",
"modules" (what is imported), "hold" (stay while the connection lasts), "quit", and "spawn": it forks at once, and the
CHILD answers on that connection when the sandbox is ready, so that many spawns run side by side. It ends when it was
idle for a while and nobody holds it, when its socket is not its own any more, or when newer code asks it to spawn.
Owns STATE/zygote.sock while it lives; no state beyond that.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from oakum.errors import InvalidArgument
from oakum.linux import process, sockets
from oakum.oci.cgroups import detect_layout, devices, values
from oakum.shim import keeper, spare
from oakum.shim.connection import Connection
from oakum.shim.loop import Loop, ignore_signal, report
from oakum.shim.rehearsal import rehearse
from oakum.shim.requests import SandboxRequest
from oakum.shim.starter import LISTENER_FD, LOCK_NAME, SOCKET_NAME, code_version

# What only limits ask for is loaded once for all shims.
_LOADED: Final = (devices, values)
TITLE: Final = "oakum zygote"
_LOOK_S: Final = 5.0
_QUIET_S: Final = 0.2
# A fork takes a processor that those who start sandboxes just now should have.
_SPARE_PAUSE_S: Final = 0.1
_SHIM_SIGNALS: Final = tuple(map(int, (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)))


def main(idle_s: float, state: str) -> None:
    """Become the zygote of `state`; called by the starter's interpreter, whose exit says that it works."""
    process.close_except({LISTENER_FD})
    if process.fork():
        os._exit(0)
    os.umask(0o022)
    # Nobody may look into us through /proc, also not from a container that a child of ours joins.
    process.set_dumpable(False)
    # Read once for all shims, which keeps the pages it touches out of each of them.
    detect_layout()
    _take_role()
    directory_fd = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/")
    _protect_from_oom_killer()
    # Nothing here makes cycles worth a pass over all objects, and a pass would copy every shared page.
    gc.disable()
    gc.collect()
    gc.freeze()
    listener = sockets.adopt(LISTENER_FD)
    os.set_inheritable(LISTENER_FD, False)  # noqa: FBT003 - the standard library's signature
    Zygote(listener, state, directory_fd, idle_s).run()


def _take_role() -> None:
    process.set_name(TITLE)
    process.set_title(TITLE)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        process.handle_signal(number, process.SIGNAL_DEFAULT)
    # Shims that end are reaped by the kernel; a shim undoes this for itself.
    process.handle_signal(signal.SIGCHLD, process.SIGNAL_IGNORED)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # who ended in the rehearsal, unseen
    except ChildProcessError:
        pass


def _protect_from_oom_killer() -> None:
    # Without CAP_SYS_RESOURCE the value may not fall: shims are then as likely a victim as any process.
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-999")
    except PermissionError:
        pass


class Zygote:
    """The zygote's loop."""

    def __init__(self, listener: sockets.Socket, state: str, directory_fd: int, idle_s: float) -> None:
        self._loop = Loop()
        self._state = state
        self._rehearsed = False
        self._listener = listener
        self._directory_fd = directory_fd
        self._idle_s = idle_s
        self._connections: set[Connection] = set()
        self._used_s = time.monotonic()
        self._spawned_s = self._used_s
        self._spare: spare.Spare | None = None
        self._spare_is_due = False
        # Somebody holds us or had a shim of us: there may be a next one.
        self._is_used = False
        self._code = code_version()
        self._inode = self._socket_inode()

    def run(self) -> None:
        """Serve until there is a reason to end."""
        self._listener.settimeout(0)
        self._loop.watch(self._listener.fileno(), read=self._accept)
        self._loop.later(min(_LOOK_S, self._idle_s), self._look)
        self._loop.later(_QUIET_S, self._rehearse)
        self._loop.run()

    def _rehearse(self) -> None:
        """When nobody waits for a shim: it takes some 40 ms, which a command that had to start us should not pay."""
        if time.monotonic() - self._spawned_s < _QUIET_S:
            self._loop.later(_QUIET_S, self._rehearse)
            return
        if self._socket_inode() != self._inode:  # about to end
            return
        rehearse(self._state)
        _take_role()
        gc.collect()
        gc.freeze()
        self._rehearsed = True
        self._want_spare()

    def _accept(self) -> bool:
        try:
            sock = sockets.accept(self._listener)
        except OSError:  # gone again, or nobody there
            return False
        self._used_s = time.monotonic()
        self._connections.add(Connection(self._loop, sock, self._handle, self._connections.discard))
        return True

    def _handle(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        operation = request.get("op")
        if operation in ("ping", "hold"):
            spare_pid = self._spare.pid if self._spare is not None else 0
            connection.answer({"pid": os.getpid(), "rehearsed": self._rehearsed, "spare": spare_pid})
            if operation == "hold":
                self._is_used = True
                self._want_spare()
        elif operation == "modules":
            connection.answer(sorted(sys.modules))
        elif operation == "spawn":
            self._spawn(connection, request)
        elif operation == "quit":
            self._retire()
            connection.answer({"pid": os.getpid()})
        else:
            raise InvalidArgument("ask zygote", repr(operation), "no such operation")

    def _spawn(self, connection: Connection, request: dict[str, Any]) -> None:
        if request["code"] != self._code:
            # The caller is of another version. Without an answer it starts a zygote of its own.
            self._retire()
            connection.close()
            return
        self._spawned_s = time.monotonic()
        self._is_used = True
        taken, self._spare = self._spare, None
        if taken is None or not taken.give(connection.socket, request["sandbox"]):
            sandbox = SandboxRequest.from_dict(request["sandbox"])
            if process.fork() == 0:
                self._become(connection, lambda: keeper.run(connection.keep_only_socket(), sandbox))
        # The child has the connection now.
        connection.close()
        self._want_spare()

    def _become(self, connection: Connection | None, life: Callable[[], int]) -> NoReturn:
        """In a fork: live this life, and no more the zygote's, of whose connections at most one is kept."""

        def run() -> int:
            try:
                self._leave_zygote(connection)
                return life()
            except BaseException:  # noqa: BLE001 - edge of the process: the zygote's frames are below this one
                report()
                return 1

        process.run_and_exit(run)

    def _leave_zygote(self, connection: Connection | None) -> None:
        """Be nobody in particular, with one connection at most."""
        # Python handlers, not SIG_IGN: what is ignored would stay ignored in every container.
        for number in _SHIM_SIGNALS:
            process.handle_signal(number, ignore_signal)
        self._loop.abandon()
        self._listener.close()
        os.close(self._directory_fd)
        if self._spare is not None:
            self._spare.forget()
        for other in self._connections:
            if other is not connection:
                other.forget()

    def _want_spare(self) -> None:
        if self._rehearsed and self._is_used and self._spare is None and not self._spare_is_due:
            self._spare_is_due = True
            self._loop.later(_SPARE_PAUSE_S, self._make_spare)

    def _make_spare(self) -> None:
        self._spare_is_due = False
        if time.monotonic() - self._spawned_s < _SPARE_PAUSE_S:
            self._want_spare()
            return
        try:
            self._spare = self._fork_spare()
        except OSError:  # no descriptors or processes left: whoever wants a shim next waits for its fork
            report()

    def _fork_spare(self) -> spare.Spare:
        ours, theirs = sockets.stream_pair()
        try:
            pid = process.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()
            self._become(None, lambda: spare.run(theirs))
        theirs.close()
        return spare.Spare(pid, ours)

    # -- the end ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Is there still a reason to be here?"""
        if self._socket_inode() != self._inode:
            self._loop.stop()
            return
        idle = time.monotonic() - self._used_s >= self._idle_s
        if idle and not self._connections and self._retire():
            return
        self._loop.later(min(_LOOK_S, self._idle_s), self._look)

    def _retire(self) -> bool:
        """End, unless a starter is at work: nobody finds the socket any more, and who has connected is served."""
        lock_fd = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._directory_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._socket_inode() == self._inode:
                os.unlink(SOCKET_NAME, dir_fd=self._directory_fd)
            self._inode = 0
        except BlockingIOError:
            return False
        finally:
            os.close(lock_fd)
        while self._accept():
            pass
        self._loop.later(0.2, self._leave)
        return True

    def _leave(self) -> None:
        for connection in list(self._connections):
            if connection.busy:
                self._loop.later(0.2, self._leave)
                return
        self._loop.stop()

    def _socket_inode(self) -> int:
        try:
            return os.stat(SOCKET_NAME, dir_fd=self._directory_fd, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return 0
