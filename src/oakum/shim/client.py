# SPDX-License-Identifier: Apache-2.0
"""What the engine uses of this package: start a zygote, spawn a shim, and talk to one.

Every call blocks, has a timeout, and raises from `oakum.errors`. A `ShimClient` is one connection and not
thread-safe: open one for each use. Owns no state; a shim outlives its clients.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

from oakum.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from oakum.linux import sockets
from oakum.linux.fd import Fd
from oakum.model.exits import ExitRecord
from oakum.shim import wire
from oakum.shim.cleanup import cleanup_directory
from oakum.shim.relay import Route
from oakum.shim.requests import (
    ContainerRequest,
    ContainerState,
    Created,
    ExecRequest,
    RestartRequest,
    SandboxRequest,
)
from oakum.shim.starter import Spawning, ensure_zygote

__all__ = [
    "ContainerRequest",
    "ContainerState",
    "Created",
    "Exec",
    "ExecRequest",
    "RestartRequest",
    "Route",
    "SandboxRequest",
    "ShimClient",
    "cleanup_directory",
    "ensure_zygote",
    "Spawned",
    "spawn_shim",
]

SOCKET_NAME: Final = "shim.sock"
_CONNECT_TIMEOUT_S: Final = 5.0
_CALL_TIMEOUT_S: Final = 60.0
# All memory of a container comes from a disk.
_RESTORE_TIMEOUT_S: Final = 900.0
# A wait without a limit of its own is asked for in rounds, so that a dead peer is noticed.
_WAIT_ROUND_S: Final = 3600.0


def spawn_shim(state: str, request: SandboxRequest) -> ShimClient:
    """Make a sandbox with its shim, forked from the zygote of `state` (started if absent).

    Raises:
        OakumError: what the shim reports; nothing of the sandbox is left then.
    """
    return Spawned(state, request).client()


class Spawned:
    """A shim that was asked for; whoever did so has other things to do while its sandbox is made."""

    def __init__(self, state: str, request: SandboxRequest) -> None:
        """Have it forked from the zygote of `state` (started if absent). Raises OakumError."""
        self._directory = request.directory
        self._spawning = Spawning(state, request)

    def client(self) -> ShimClient:
        """The connection to it, once the sandbox is made; to be called once. Raises as `spawn_shim`."""
        sock, pid = self._spawning.wait()
        return ShimClient(sock, self._directory, pid)

    def pid(self) -> int:
        """Its process id, once the sandbox is made; the connection is closed. As `client`, instead of it."""
        with self.client() as client:
            return client.pid()


class Exec:
    """A further process in a container. Its exit record is kept until `wait` has brought it."""

    def __init__(self, client: ShimClient, exec_id: str, pid: int, console: Fd | None) -> None:
        self._client = client
        self.exec_id = exec_id
        self.pid = pid
        self.console_fd = console
        """The terminal's master side, owned by this object until stolen; None without a terminal."""

    def wait(self, timeout_s: float | None = None) -> ExitRecord:
        """Wait for its end.

        Raises:
            DeadlineExceeded: it still runs after `timeout_s`.
        """
        return self._client.wait_for({"op": "wait_exec", "exec_id": self.exec_id}, timeout_s)

    def kill(self, signal_number: int = 9) -> None:
        """Kill it with everything it started (SIGKILL), or signal only the process itself; nothing when it is gone."""
        self._client.call({"op": "kill_exec", "exec_id": self.exec_id, "signal": signal_number})

    def close(self) -> None:
        """Close the terminal if it is still owned here; the process goes on."""
        if self.console_fd is not None:
            self.console_fd.close()


class ShimClient:
    """One connection to one shim."""

    def __init__(self, sock: socket.socket, directory: str, pid: int = 0) -> None:
        self._sock: socket.socket | None = sock
        self._directory = directory
        self._pid = pid

    @classmethod
    def connect(cls, directory: str) -> ShimClient:
        """Connect to the shim of a sandbox directory.

        Raises:
            Unavailable: no shim listens there.
        """
        try:
            sock = sockets.connect(directory, SOCKET_NAME, timeout_s=_CONNECT_TIMEOUT_S)
        except OSError as error:
            raise Unavailable(
                "connect to shim", directory, str(error.strerror or error), hint="the shim has ended"
            ) from error
        return cls(sock, directory)

    def close(self) -> None:
        """End the connection; what the shim does for others goes on."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def __enter__(self) -> ShimClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(
        self, request: dict[str, Any], fds: tuple[int, ...] = (), *, timeout_s: float = _CALL_TIMEOUT_S
    ) -> wire.Answer:
        """One request and its answer; for this module and tests."""
        if self._sock is None or self._sock.fileno() < 0:
            raise FailedPrecondition(str(request["op"]), self._directory, "the connection is closed")
        return wire.call(self._sock, request, fds, timeout_s=timeout_s, peer=f"shim in {self._directory}")

    def pid(self) -> int:
        """The shim's process id."""
        if not self._pid:
            self._pid = int(self.call({"op": "ping"}).value["pid"])
        return self._pid

    def create(self, request: ContainerRequest) -> Created:
        """Create a container; its first process waits before execve.

        Raises:
            OakumError: what went wrong in the container's set-up; nothing of it is left.
        """
        timeout_s = _RESTORE_TIMEOUT_S if request.images else _CALL_TIMEOUT_S
        asked = {"op": "create", "container": request.to_dict()}
        return Created.from_dict(self.call(asked, timeout_s=timeout_s).value)

    def start(self, container_id: str) -> int:
        """Let a created container run; when it started, in nanoseconds since the epoch.

        Raises:
            CommandNotRunnable: execve failed; exit.json holds a StartError record.
            FailedPrecondition: it is not in the created state.
        """
        return int(self.call({"op": "start", "container_id": container_id}).value)

    def create_and_start(self, request: ContainerRequest) -> Created:
        """`create` and `start` in one round trip."""
        answer = self.call({"op": "create_and_start", "container": request.to_dict()})
        return Created.from_dict(answer.value)

    def wait(self, container_id: str, timeout_s: float | None = None) -> ExitRecord:
        """Wait for a container's end.

        Raises:
            DeadlineExceeded: it still runs after `timeout_s`; the connection stays usable.
        """
        return self.wait_for({"op": "wait", "container_id": container_id}, timeout_s)

    def wait_for(self, request: dict[str, Any], timeout_s: float | None) -> ExitRecord:
        """Ask for an exit record, in rounds when there is no limit; for this module."""
        while True:
            round_s = _WAIT_ROUND_S if timeout_s is None else timeout_s
            try:
                answer = self.call({**request, "timeout_s": round_s}, timeout_s=round_s + wire.GRACE_S)
            except DeadlineExceeded:
                if timeout_s is not None or self._sock is None or self._sock.fileno() < 0:
                    raise
                continue
            return ExitRecord.from_dict(answer.value)

    def kill(self, container_id: str, signal: int, *, whole_cgroup: bool = False) -> None:
        """Signal the container's first process, or every process in its cgroup.

        Raises:
            FailedPrecondition: it does not run.
        """
        self.call(
            {"op": "kill", "container_id": container_id, "signal": signal, "whole_cgroup": whole_cgroup}
        )

    def stop(self, container_id: str, signal: int, grace_s: float) -> ExitRecord:
        """Signal, wait `grace_s` seconds, kill the whole cgroup; the record. Joins a stop that is under way."""
        answer = self.call(
            {"op": "stop", "container_id": container_id, "signal": signal, "grace_s": grace_s},
            timeout_s=grace_s + _CALL_TIMEOUT_S,
        )
        return ExitRecord.from_dict(answer.value)

    def pause(self, container_id: str) -> None:
        """Freeze every process of a running container."""
        self.call({"op": "pause", "container_id": container_id})

    def resume(self, container_id: str) -> None:
        """Thaw a paused container."""
        self.call({"op": "resume", "container_id": container_id})

    def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change limits; `resources` is the runtime spec's linux.resources."""
        self.call({"op": "update", "container_id": container_id, "resources": resources})

    def change_restart(self, container_id: str, restart: RestartRequest) -> None:
        """Have something else follow the container's end."""
        self.call({"op": "change_restart", "container_id": container_id, "restart": restart.to_dict()})

    def exec(
        self, container_id: str, request: ExecRequest, stdio: tuple[int, int, int] | None = None
    ) -> Exec:
        """Run a further process with the given (borrowed) stdin, stdout and stderr, or on a terminal.

        Raises:
            CommandNotRunnable: execve failed.
            FailedPrecondition: the container does not run.
        """
        fds = () if stdio is None or request.tty else stdio
        answer = self.call({"op": "exec", "container_id": container_id, "exec": request.to_dict()}, fds)
        console = Fd(answer.fds[0]) if answer.fds else None
        return Exec(self, str(answer.value["exec_id"]), int(answer.value["pid"]), console)

    def attach(
        self,
        container_id: str,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        backpressure: bool = False,
    ) -> socket.socket:
        """Join a created or running container's streams; this connection becomes the stream, see `frames`.

        With `backpressure` the container waits for a slow reader; else one over 1 MiB behind is dropped.
        The returned socket blocks and has no timeout; the client object is spent.
        """
        self.call(
            {
                "op": "attach",
                "container_id": container_id,
                "stdin": stdin,
                "stdout": stdout,
                "stderr": stderr,
                "backpressure": backpressure,
            }
        )
        sock, self._sock = self._sock, None
        assert sock is not None
        sock.settimeout(None)
        return sock

    def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the size of the container's terminal. Raises FailedPrecondition when it has none."""
        self.call({"op": "resize", "container_id": container_id, "rows": rows, "columns": columns})

    def close_stdin(self, container_id: str) -> None:
        """Close the container's standard input once all that was sent is read."""
        self.call({"op": "close_stdin", "container_id": container_id})

    def reopen_log(self, container_id: str) -> None:
        """Open the log's path anew; lines are neither lost nor doubled."""
        self.call({"op": "reopen_log", "container_id": container_id})

    def delete(self, container_id: str) -> None:
        """Forget a container, killed first if it runs; succeeds for one that is not there."""
        self.call({"op": "delete", "container_id": container_id})

    def containers(self) -> list[ContainerState]:
        """Every container the shim knows."""
        return [ContainerState.from_dict(item) for item in self.call({"op": "containers"}).value]

    def relay(self, routes: Sequence[Route], fds: tuple[int, ...]) -> bool:
        """Have what comes to these listening (borrowed) sockets carried along `routes`, and nothing else from now on.

        Whether that is new. Raises SystemFailure.
        """
        answer = self.call({"op": "relay", "routes": [route.to_list() for route in routes]}, fds)
        return bool(answer.value["changed"])

    def serve_names(
        self, upstreams: Sequence[tuple[str, bool]], ports: Sequence[int], fds: Sequence[int], *, anew: bool
    ) -> tuple[int, int] | None:
        """Have a name server that asks `upstreams` (address, whether from the host's network); its UDP and TCP port.

        `fds` (borrowed): UDP socket, TCP socket, which are bound to `ports`, hosts file, network namespaces of pod and
        host. One that is there already and asks the same keeps its own sockets. None where there is none, and none was
        to be made `anew`. Raises SystemFailure.
        """
        asked = [list(each) for each in upstreams]
        request = {"op": "serve_names", "upstreams": asked, "ports": list(ports), "anew": anew}
        found = self.call(request, tuple(fds)).value["ports"]
        return (int(found[0]), int(found[1])) if found else None

    def shutdown(self) -> None:
        """End the sandbox: containers, namespaces, mounts, cgroups, the shim itself. Succeeds when it is gone."""
        if self._sock is None:
            return
        try:
            self.call({"op": "shutdown"})
        except Unavailable:
            if os.path.exists(os.path.join(self._directory, SOCKET_NAME)):
                raise
        finally:
            self.close()
