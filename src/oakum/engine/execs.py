# SPDX-License-Identifier: Apache-2.0
"""Further processes in running containers. Owns what they inherit and the reading of an ExecSync's output.

At a deadline the exec's whole tree is killed, and its output is read no longer: a child that keeps the pipe
open cannot hold the caller.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from oakum.backend.status import ExecResult
from oakum.engine import creation, host
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.spec import capabilities, process
from oakum.engine.store.records import ContainerRecord
from oakum.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SystemFailure,
)

if TYPE_CHECKING:
    from oakum.model.exits import ExitRecord
    from oakum.shim.client import Exec, ShimClient

_BLOCK: Final = 64 * 1024
# gRPC refuses answers beyond 16 MiB; what is more is dropped, and the command is not made to wait for it.
_OUTPUT_MAX: Final = 16 << 20
# How long a pipe may stay open after the command's own end, by a child that it left behind.
_DRAIN_S: Final = 1.0
# How often a caller that waits for a silent command's end is asked whether it still wants to.
_ASK_S: Final = 1.0
# What was killed is waited for so long; in a frozen container it stays.
_KILLED_S: Final = 1.0


class Execs:
    """Execs in the containers of one namespace."""

    def __init__(self, context: Context, containers: Containers) -> None:
        self._context = context
        self._containers = containers

    def start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        env: Sequence[tuple[str, str]] = (),
        cwd: str = "",
        user: str = "",
        privileged: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> Exec:
        """Start a command. The connection to the shim lives as long as the result."""
        from oakum.shim.client import ExecRequest, ShimClient  # only what changes something talks to a shim

        if not argv or not argv[0]:
            raise InvalidArgument("exec", container_id[:12], "no command given")
        record = self._containers.running(container_id, "exec")
        request = ExecRequest(
            process=self._process(record, argv, tty=tty, env=env, cwd=cwd, privileged=privileged),
            user=user or record.user_text,
            extra_groups=record.config.supplemental_groups,
            strict_groups=record.config.strict_groups,
            tty=tty,
            rows=rows,
            columns=columns,
            seccomp_bpf="" if privileged else self._seccomp(record),
        )
        client = ShimClient.connect(self._context.layout.pod(record.sandbox_id))
        try:
            return _owning(client, client.exec(record.id, request, stdio))
        except SystemFailure as error:
            client.close()
            # It may have ended between our look and the call: then that is what went wrong.
            self._containers.running(record.id, "exec")
            raise error from None
        except BaseException:  # the connection is of no use to anybody; it goes on upwards
            client.close()
            raise

    def _seccomp(self, record: ContainerRecord) -> str:
        sandbox = self._context.store.sandbox(record.sandbox_id)
        if sandbox is None:
            raise FailedPrecondition("exec", record.id[:12], "its sandbox is gone")
        return creation.seccomp_program(self._context, sandbox, record.config)

    def _process(
        self,
        record: ContainerRecord,
        argv: Sequence[str],
        *,
        tty: bool,
        env: Sequence[tuple[str, str]],
        cwd: str,
        privileged: bool,
    ) -> dict[str, Any]:
        own = creation.config_of(self._context, record.id)["process"]
        found: dict[str, Any] = {
            "terminal": tty,
            "args": list(argv),
            "env": process.environment(own["env"], env, hostname="", tty=tty),
            "cwd": process.working_dir(cwd, own["cwd"]),
        }
        if privileged:
            found["capabilities"] = capabilities.sets(host.known_capabilities())
            found["noNewPrivileges"] = False
        for text in argv:
            if "\0" in text:
                raise InvalidArgument("exec", repr(text[:60]), "NUL in its command")
        return found

    def run(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        """Run a command to its end."""
        limit = Limit(timeout_s, cancelled)
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(2)]
        readers = [reader for reader, _ in pipes]
        writers = [writer for _, writer in pipes]
        try:
            try:
                for writer in writers:
                    os.set_blocking(writer, True)
                started = self.start(container_id, argv, stdio=(null_fd, writers[0], writers[1]))
            finally:
                os.close(null_fd)
                for writer in writers:
                    os.close(writer)
            return _collect(started, readers, limit)
        finally:
            for reader in readers:
                os.close(reader)


def _owning(client: ShimClient, started: Exec) -> Exec:
    """The exec, with the connection that was opened for it: `close` ends both."""
    from oakum.shim.client import Exec  # loaded by now; a name for the checker above

    class OwningExec(Exec):
        def close(self) -> None:
            super().close()
            client.close()

    return OwningExec(client, started.exec_id, started.pid, started.console_fd)


class Limit:
    """How long a command may run: until a deadline, and while somebody wants to know."""

    def __init__(self, timeout_s: float, cancelled: Callable[[], bool] | None) -> None:
        self.timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s if timeout_s > 0 else None
        self._cancelled = cancelled

    def next_s(self, exec_id: str, longest_s: float) -> float:
        """How long to wait before asking again. Raises DeadlineExceeded, Cancelled."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("exec", exec_id, "the caller gave up")
        if self._deadline is None:
            return longest_s
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("exec", exec_id, "time is over")
        return min(longest_s, left_s)


def _ended(started: Exec, limit: Limit) -> ExitRecord:
    """Its exit record, when it has one. Raises as `Limit.next_s`."""
    while True:
        wait_s = limit.next_s(started.exec_id, _ASK_S)
        try:
            return started.wait(wait_s)
        except DeadlineExceeded:
            continue  # of this round only


def _collect(started: Exec, readers: Sequence[int], limit: Limit) -> ExecResult:
    """Read both pipes until they close, then the exit record; or kill everything at the limit."""
    outputs = [bytearray() for _ in readers]
    try:
        _drain(readers, outputs, limit, started)
        record = _ended(started, limit)
    except Cancelled:
        _end(started)
        raise
    except DeadlineExceeded as error:
        _end(started)
        raise DeadlineExceeded(
            "exec",
            started.exec_id,
            f"it ran for over {limit.timeout_s:g} s and was killed",
            hint="allow it more time",
        ) from error
    finally:
        started.close()
    return ExecResult(exit_code=record.exit_code, stdout=bytes(outputs[0]), stderr=bytes(outputs[1]))


def _end(started: Exec) -> None:
    """Kill all of it, and take the record that nobody will ask for: the shim forgets it then."""
    started.kill()
    try:
        started.wait(_KILLED_S)
    except (DeadlineExceeded, NotFound):
        return  # it cannot end yet, and the shim sees to it then; or it is forgotten already


def _drain(readers: Sequence[int], outputs: Sequence[bytearray], limit: Limit, started: Exec) -> None:
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for reader, output in zip(readers, outputs, strict=True):
            selector.register(reader, selectors.EVENT_READ, output)
        while selector.get_map():
            wait_s = limit.next_s(started.exec_id, 0.05)
            now = time.monotonic()
            if ended_at is not None and now - ended_at >= _DRAIN_S:
                return
            ready = selector.select(wait_s)
            for key, _ in ready:
                if not _read(key.fd, key.data):
                    selector.unregister(key.fd)
            if not ready and ended_at is None and not os.path.exists(f"/proc/{started.pid}"):
                ended_at = now


def _read(fd: int, output: bytearray) -> bool:
    """Take what a pipe has; False at its end."""
    try:
        block = os.read(fd, _BLOCK)
    except BlockingIOError:
        return True
    if not block:
        return False
    output.extend(block[: _OUTPUT_MAX - len(output)])
    return True
