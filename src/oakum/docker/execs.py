# SPDX-License-Identifier: Apache-2.0
"""Further processes in Docker's containers: ExecSync with its kill of the whole tree, and commands for streams.

    create ─► hijacked start ─► stdcopy frames or the terminal's bytes ─► exit code by inspect

Docker tells neither when a command has ended (its pidfd does) nor kills one (we do, by `tree`).
Spec: Docker Engine API, ContainerExec, ExecStart, ExecInspect, ContainerAttach for the frames.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from oakum.backend.status import ExecResult
from oakum.docker import tree
from oakum.docker.client import DockerClient
from oakum.docker.connection import readable
from oakum.docker.failures import not_runnable
from oakum.docker.stdcopy import STDERR, STDOUT, Demultiplexer
from oakum.engine.lookup import Lookup
from oakum.errors import (
    Cancelled,
    CommandNotRunnable,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    OakumError,
    SystemFailure,
)
from oakum.linux.fd import Fd
from oakum.model.exits import ExitRecord

_BLOCK: Final = 256 << 10
# gRPC refuses answers beyond 16 MiB; what is more is dropped, and the command is not made to wait for it.
_OUTPUT_MAX: Final = 16 << 20
# How long output may go on after the command's own end, by a child that it left behind.
_DRAIN_S: Final = 1.0
# How often a caller that waits is asked whether it still wants to.
_ASK_S: Final = 0.25
# A command that is silent for so long is asked after.
_LOOK_S: Final = 0.25
_BEGIN_S: Final = 30.0
# How long one that was given up before it began may yet begin.
_LATE_S: Final = 2.0
_RECORD_S: Final = 10.0


class Execs:
    """Execs in the containers of one Docker."""

    def __init__(self, client: DockerClient, lookup: Lookup) -> None:
        self._client = client
        self._lookup = lookup

    def start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> DockerExec:
        """Start a command on `stdio` (borrowed) or, with `tty`, on a new terminal, which is then its `console_fd`.

        Raises:
            NotFound, FailedPrecondition: the container is not there, or does not run.
            CommandNotRunnable: there is no such command.
        """
        started = self._begin(container_id, argv, tty=tty, stdin=tty or stdio is not None)
        try:
            if tty:
                started.await_begin()
                if rows and columns:
                    started.resize(rows, columns)
                started.console_fd = Fd(os.dup(started.connection.fileno()))
            elif stdio is not None:
                started.relay(tuple(Fd(os.dup(fd)) for fd in stdio))
                started.await_begin()
        except BaseException:  # nobody takes it; the error goes on upwards
            started.close()
            raise
        return started

    def run(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        """Run a command to its end. Raises as `start`, and DeadlineExceeded, Cancelled when its tree was killed."""
        deadline = time.monotonic() + timeout_s if timeout_s > 0 else None
        started = self._begin(container_id, argv, tty=False, stdin=False)
        try:
            collector = _Collector(started, deadline, cancelled)
            collector.run()
            outputs = collector.outputs
            record = started.finish(outputs)
        except Cancelled:
            started.kill()
            raise
        except DeadlineExceeded as error:
            started.kill()
            if deadline is None or time.monotonic() < deadline:
                raise  # Docker's silence, and not the command's time
            cause = f"it ran for over {timeout_s:g} s and was killed"
            raise DeadlineExceeded("exec", started.exec_id[:12], cause, hint="allow it more time") from error
        finally:
            started.close()
        return ExecResult(
            exit_code=record.exit_code, stdout=bytes(outputs[STDOUT]), stderr=bytes(outputs[STDERR])
        )

    def _begin(self, container_id: str, argv: Sequence[str], *, tty: bool, stdin: bool) -> DockerExec:
        if not argv or not argv[0]:
            raise InvalidArgument("exec", container_id[:12], "no command given")
        for text in argv:
            if "\0" in text:
                raise InvalidArgument("exec", repr(text[:60]), "NUL in its command")
        status = self._lookup.container(container_id)
        if status.state != "running":
            raise FailedPrecondition("exec", status.id[:12], f"the container is {status.state}")
        mark = tree.new_mark()
        wanted: dict[str, Any] = {
            "AttachStdin": stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": tty,
            "Cmd": list(argv),
            "Env": [mark, *(("TERM=xterm",) if tty else ())],
        }
        exec_id = self._client.post(f"/containers/{status.id}/exec", wanted)["Id"]
        connection = self._client.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty})
        return DockerExec(
            self._client, exec_id, connection, mark=mark, cgroup_path=status.cgroup_path, tty=tty
        )


class DockerExec:
    """A command that Docker was told to start. Owns its connection."""

    def __init__(
        self,
        client: DockerClient,
        exec_id: str,
        connection: socket.socket,
        *,
        mark: str,
        cgroup_path: str,
        tty: bool,
    ) -> None:
        self._client = client
        self._tty = tty
        self._mark = mark
        self._cgroup_path = cgroup_path
        self._started_at_ns = time.time_ns()
        self._pidfd: Fd | None = None
        self._relays: list[threading.Thread] = []
        self._said = bytearray()
        self.exec_id = exec_id
        self.connection = connection
        self.pid = 0
        self.console_fd: Fd | None = None

    # its life

    def inspect(self, deadline_s: float | None = None) -> dict[str, Any]:
        """What Docker knows of it. Raises as every call of Docker."""
        return self._client.get(f"/exec/{self.exec_id}/json", deadline_s=deadline_s)

    def await_begin(self, limit_s: float = _BEGIN_S) -> None:
        """Return once it runs, or has run. Raises CommandNotRunnable, DeadlineExceeded, SystemFailure."""
        limit, pause_s = time.monotonic() + limit_s, 0.001
        while True:
            facts = self.inspect(max(0.001, limit - time.monotonic()))
            if facts["Pid"]:
                self._know(facts)
                return
            if facts["ExitCode"] is not None:
                self._settle_relays()
                raise self._not_started(facts["ExitCode"], bytes(self._said) or self._rest())
            if time.monotonic() > limit:
                raise DeadlineExceeded("start", f"exec {self.exec_id[:12]}", "Docker has not started it")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)

    def _know(self, facts: dict[str, Any]) -> None:
        self.pid = facts["Pid"]
        with contextlib.suppress(ProcessLookupError):  # it has ended
            pidfd = Fd(os.pidfd_open(self.pid))
            if self.inspect()["Running"]:
                # it runs after the pidfd was opened: so the pidfd is its own and not that of a successor to its number
                self._pidfd = pidfd
            else:
                pidfd.close()

    @property
    def pidfd(self) -> Fd | None:
        """Its process, readable once it has ended; None when that was so before we looked."""
        return self._pidfd

    def wait(self, timeout_s: float | None = None) -> ExitRecord:
        """Wait for its end. Raises DeadlineExceeded."""
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        if timeout_s and self._pidfd is not None:
            readable((self._pidfd.fileno(),), timeout_s)
        pause_s = 0.001
        while True:
            facts = self.inspect()
            if not facts["Running"] and facts["ExitCode"] is not None:
                self._settle_relays()
                return self._record(facts["ExitCode"])
            if limit is not None and time.monotonic() >= limit:
                raise DeadlineExceeded("wait for", f"exec {self.exec_id[:12]}", "it still runs")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)

    def finish(self, outputs: dict[int, bytearray]) -> ExitRecord:
        """Its record, when its output is over. Raises CommandNotRunnable when there was no command to run."""
        limit, pause_s = time.monotonic() + _RECORD_S, 0.0005
        while True:
            facts = self.inspect()
            if not facts["Running"] and facts["ExitCode"] is not None:
                if not facts["Pid"] and facts["ExitCode"]:
                    raise self._not_started(facts["ExitCode"], bytes(outputs[STDOUT] + outputs[STDERR]))
                return self._record(facts["ExitCode"])
            if time.monotonic() > limit:
                raise SystemFailure("exec", self.exec_id[:12], "Docker does not say how it ended")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)

    def _record(self, exit_code: int) -> ExitRecord:
        number = exit_code - 128 if 128 < exit_code < 193 else 0
        return ExitRecord(
            exit_code=exit_code & 0xFF,
            signal=number,
            oom_killed=False,
            started_at_ns=self._started_at_ns,
            finished_at_ns=time.time_ns(),
            reason="Error" if exit_code else "Completed",
        )

    def _not_started(self, exit_code: int, said: bytes) -> OakumError:
        text = said.decode(errors="replace").strip()
        subject = f"exec {self.exec_id[:12]}"
        found = not_runnable(text, subject)
        if found is not None:
            return found
        if exit_code in (126, 127):
            return CommandNotRunnable("start", subject, text, errno=2 if exit_code == 127 else 13)
        return SystemFailure("start", subject, text or f"Docker says exit code {exit_code}")

    def _rest(self) -> bytes:
        """What Docker says on the connection of a command that was not started."""
        said = b""
        self.connection.settimeout(1.0)
        with contextlib.suppress(OSError):  # what is there will do
            while (block := self.connection.recv(4096)) and len(said) < 65536:
                said += block
        return said if self._tty else b"".join(piece for _, piece in Demultiplexer().feed(said))

    def kill(self) -> None:
        """Kill it and all that it has started. Raises SystemFailure when something of it does not end."""
        # this needs no Docker, which may hang
        found = tree.kill(self.pid, self._mark, self._cgroup_path)
        if not found and not self.pid:
            with contextlib.suppress(OakumError):  # then it does not begin any more
                self.await_begin(_LATE_S)
            tree.kill(self.pid, self._mark, self._cgroup_path)

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal a size; one that has ended has none."""
        with contextlib.suppress(OakumError):  # as a terminal that was hung up: nobody sees its size any more
            self._client.post(f"/exec/{self.exec_id}/resize", query={"h": rows, "w": columns})

    def close(self) -> None:
        """Let go of it. A terminal hangs up: what runs on it is told so, as the kernel would tell it."""
        if self.console_fd is not None and self._pidfd is not None:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGHUP)
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGCONT)
        with contextlib.suppress(OSError):  # Docker has closed it already
            self.connection.shutdown(socket.SHUT_RDWR)
        for thread in self._relays:
            if thread is not threading.current_thread():
                thread.join()
        self.connection.close()
        for fd in (self.console_fd, self._pidfd):
            if fd is not None:
                fd.close()

    # its streams on descriptors of the caller's

    def relay(self, stdio: tuple[Fd, ...]) -> None:
        """Move input from and output to these descriptors, which are ours from now on, in threads."""
        stdin, stdout, stderr = stdio
        stop_read, stop_write = (Fd(fd) for fd in os.pipe2(os.O_CLOEXEC))
        feeding = threading.Thread(target=self._feed, args=(stdin, stop_read), name="exec-in", daemon=True)
        taking = threading.Thread(
            target=self._take,
            args=({STDOUT: stdout, STDERR: stderr}, stop_write),
            name="exec-out",
            daemon=True,
        )
        self._relays = [feeding, taking]
        for thread in self._relays:
            thread.start()

    def _feed(self, stdin: Fd, stop: Fd) -> None:
        with stdin, stop:
            try:
                while True:
                    ready = readable((stdin.fileno(), stop.fileno()), None)
                    if stop.fileno() in ready:
                        return
                    data = os.read(stdin.fileno(), _BLOCK)
                    if not data:
                        break
                    self.connection.sendall(data)
            except OSError:
                return  # the command takes no more, or we were told to let go
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)

    def _take(self, outputs: dict[int, Fd], stop: Fd) -> None:
        frames = Demultiplexer()
        try:
            while data := self.connection.recv(_BLOCK):
                for stream, payload in frames.feed(data):
                    if len(self._said) < 4096 and not self.pid:
                        self._said += payload
                    _write(outputs, stream, payload)
        except OSError:
            pass  # the connection broke: Docker's word on how it ended, or its silence, follows
        finally:
            for fd in (*outputs.values(), stop):
                fd.close()

    def _settle_relays(self) -> None:
        """Have all output in its pipes before the end is told; a reader that has stopped is not waited for."""
        for thread in self._relays[1:]:
            thread.join(_DRAIN_S)


def _write(outputs: dict[int, Fd], stream: int, payload: bytes) -> None:
    fd = outputs.get(stream)
    if fd is None or fd.closed:
        return
    view = memoryview(payload)
    try:
        while view:
            view = view[os.write(fd.fileno(), view) :]
    except OSError:
        fd.close()  # nobody reads it any more; the command goes on, and so do the other streams


class _Collector:
    """Both outputs of a command that nobody types to, and when to stop reading them."""

    def __init__(
        self, started: DockerExec, deadline: float | None, cancelled: Callable[[], bool] | None
    ) -> None:
        self.outputs = {STDOUT: bytearray(), STDERR: bytearray()}
        self._started = started
        self._deadline = deadline
        self._cancelled = cancelled
        self._frames = Demultiplexer()
        self._looked = False
        self._ended_at: float | None = None

    def run(self) -> None:
        """Read until Docker closes the connection, or a while after the command's end. Raises DeadlineExceeded, Cancelled."""
        connection = self._started.connection
        while self._ended_at is None or time.monotonic() - self._ended_at < _DRAIN_S:
            ready = readable(self._sources(), self._next_s())
            if connection.fileno() in ready:
                if not self._take():
                    return
            elif ready:
                self._ended_at = time.monotonic()
            elif not self._looked:
                # only a command that takes its time is worth a question
                left_s = _BEGIN_S if self._deadline is None else self._deadline - time.monotonic()
                self._started.await_begin(min(_BEGIN_S, left_s))
                self._looked = True

    def _sources(self) -> list[int]:
        pidfd = self._started.pidfd
        connection = self._started.connection.fileno()
        return [connection] if pidfd is None or self._ended_at is not None else [connection, pidfd.fileno()]

    def _next_s(self) -> float:
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("exec", self._started.exec_id[:12], "the caller gave up")
        longest_s = _ASK_S if self._looked else _LOOK_S
        if self._deadline is None:
            return longest_s
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("exec", self._started.exec_id[:12], "time is over")
        return min(longest_s, left_s)

    def _take(self) -> bool:
        try:
            data = self._started.connection.recv(_BLOCK)
        except OSError:  # dockerd was killed; what it says of the end, or does not, follows
            return False
        for stream, payload in self._frames.feed(data):
            kept = self.outputs.get(stream)
            if kept is not None:
                kept += payload[: _OUTPUT_MAX - len(kept)]
        return bool(data)
