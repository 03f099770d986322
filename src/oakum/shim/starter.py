# SPDX-License-Identifier: Apache-2.0
"""The caller's side of the zygote: find it, start it if it is absent, have it fork a shim.

    starter: lock STATE/zygote.lock, bind STATE/zygote.sock ──posix_spawn──► interpreter (sealed memfd copy)
    interpreter: imports everything, forks ──► zygote (accepts on the socket it inherited); the first one exits

The socket listens before the zygote runs, so a caller may connect at once and is served when it is ready.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import oakum
from oakum.errors import DeadlineExceeded, SystemFailure, Unavailable
from oakum.linux import sockets
from oakum.linux.sealed import sealed_memfd
from oakum.shim import wire
from oakum.shim.requests import SandboxRequest

if TYPE_CHECKING:
    import socket

SOCKET_NAME: Final = "zygote.sock"
LOCK_NAME: Final = "zygote.lock"
LOG_NAME: Final = "zygote.log"
LISTENER_FD: Final = 3
IDLE_S: Final = 60.0

_CONNECT_TIMEOUT_S: Final = 5.0
_PING_TIMEOUT_S: Final = 10.0
_SPAWN_TIMEOUT_S: Final = 60.0
_LOCK_TIMEOUT_S: Final = 30.0
_TRIES: Final = 3
_LOADER_FAILED: Final = 127
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from oakum.shim.zygote import main; main(float(sys.argv[1]), sys.argv[2])"
)


def code_version() -> str:
    """Which oakum this is: a zygote of another one is retired when it is asked to spawn."""
    status = os.stat(oakum.__file__)
    return f"{oakum.__version__}:{status.st_ino}:{status.st_mtime_ns}"


def ensure_zygote(state: str) -> None:
    """Start the zygote of `state` if it is absent; returns when it answers.

    Raises:
        SystemFailure: the interpreter did not start; the reason is in STATE/zygote.log.
    """
    sock = _connect(state)
    with sock:
        wire.call(sock, {"op": "ping"}, timeout_s=_PING_TIMEOUT_S, peer=f"zygote in {state}")


def hold_zygote(state: str) -> socket.socket:
    """A connection that keeps the zygote from ending when it is idle, for a server; close it to let go."""
    sock = _connect(state)
    wire.call(sock, {"op": "hold"}, timeout_s=_PING_TIMEOUT_S, peer=f"zygote in {state}")
    return sock


class Spawning:
    """A shim that the zygote of `state` was asked for and that makes its sandbox; `wait` is to be called once."""

    def __init__(self, state: str, request: SandboxRequest) -> None:
        """Ask. Raises OakumError when nobody can be asked."""
        self._state = state
        self._peer = f"zygote in {state}"
        self._message = {"op": "spawn", "code": code_version(), "sandbox": request.to_dict()}
        self._tries = _TRIES
        self._sock = self._ask()

    def _ask(self) -> socket.socket:
        while True:
            self._tries -= 1
            sock = _connect(self._state)
            try:
                wire.ask(sock, self._message, timeout_s=_SPAWN_TIMEOUT_S, peer=self._peer)
            except Unavailable:
                # The zygote was killed, or retired for code of another version: its successor does it.
                if not self._tries:
                    raise
                continue
            return sock

    def wait(self) -> tuple[socket.socket, int]:
        """The connection to the shim and its process id, once the sandbox is made.

        Raises:
            OakumError: what the shim reports.
        """
        while True:
            try:
                value = wire.hear(self._sock, "spawn", timeout_s=_SPAWN_TIMEOUT_S, peer=self._peer).value
            except Unavailable:
                self._sock.close()
                if not self._tries:
                    raise
                self._sock = self._ask()
                continue
            except BaseException:
                self._sock.close()
                raise
            return self._sock, int(value["pid"])


def _connect(state: str) -> socket.socket:
    try:
        return sockets.connect(state, SOCKET_NAME, timeout_s=_CONNECT_TIMEOUT_S)
    except OSError:
        return _start(state)


def _start(state: str) -> socket.socket:
    os.makedirs(state, mode=0o711, exist_ok=True)
    lock_fd = os.open(os.path.join(state, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(lock_fd, state)
        try:  # another starter may have been faster
            return sockets.connect(state, SOCKET_NAME, timeout_s=_CONNECT_TIMEOUT_S)
        except OSError:
            _launch(state)
        return sockets.connect(state, SOCKET_NAME, timeout_s=_CONNECT_TIMEOUT_S)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "start zygote", state) from error
    finally:
        os.close(lock_fd)


def _lock(lock_fd: int, state: str) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    "start zygote", state, f"{LOCK_NAME} is held for {_LOCK_TIMEOUT_S:g} s"
                ) from error
            time.sleep(0.005)


def _launch(state: str) -> None:
    """Bind the socket and start the interpreter on it; returns when its imports are done."""
    directory_fd = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.unlink(SOCKET_NAME, dir_fd=directory_fd)
        except FileNotFoundError:
            pass
        listener = sockets.listen(directory_fd, SOCKET_NAME)
        try:
            status = _run_interpreter(state, listener.fileno(), {})
            if os.waitstatus_to_exitcode(status) == _LOADER_FAILED:
                # An interpreter that finds its library beside its own file ($ORIGIN) does not when it is a copy.
                library = os.path.join(sys.base_prefix, "lib")
                status = _run_interpreter(state, listener.fileno(), {"LD_LIBRARY_PATH": library})
        finally:
            listener.close()
        if status != 0:
            os.unlink(SOCKET_NAME, dir_fd=directory_fd)
            code = os.waitstatus_to_exitcode(status)
            raise SystemFailure(
                "start zygote",
                state,
                f"the interpreter ended with {code}",
                hint=f"see {os.path.join(state, LOG_NAME)}",
            )
    finally:
        os.close(directory_fd)


def _run_interpreter(state: str, listener_fd: int, extra: dict[str, str]) -> int:
    base = getattr(sys, "_base_executable", "") or sys.executable
    interpreter = os.path.realpath(base)
    source_fd = os.open(interpreter, os.O_RDONLY | os.O_CLOEXEC)
    try:
        copy = sealed_memfd("oakum", source_fd)
    finally:
        os.close(source_fd)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with copy:
        pid = os.posix_spawn(
            f"/proc/self/fd/{copy.fileno()}",
            # The name it is called by tells the interpreter where its standard library is.
            [interpreter, "-I", "-S", "-E", "-c", _BOOT, str(IDLE_S), state, *_import_path()],
            {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **extra},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, listener_fd, LISTENER_FD),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.path.join(state, LOG_NAME), append, 0o600),
            ],
            setsid=True,
            setsigmask=(),
        )
    return os.waitpid(pid, 0)[1]


def _import_path() -> list[str]:
    """Where the zygote imports from: the standard library and the directory that oakum is in, nothing else."""
    library = os.path.dirname(os.path.abspath(os.__file__))
    package = os.path.dirname(os.path.dirname(os.path.abspath(oakum.__file__)))
    return [library, os.path.join(library, "lib-dynload"), package]
