# SPDX-License-Identifier: Apache-2.0
"""A backend to stream from without containers: commands are processes of this machine, the pod is its own network."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

from oakum.backend.config import NamespaceOptions, SandboxConfig, SandboxMetadata
from oakum.backend.status import SandboxStatus
from oakum.errors import CommandNotRunnable, DeadlineExceeded, NotFound
from oakum.linux.fd import Fd
from oakum.linux.terminal import set_size
from oakum.model.exits import ExitRecord
from oakum.shim import frames


class LocalExec:
    """A process of this machine as an exec."""

    def __init__(self, process: subprocess.Popen[bytes], console: Fd | None) -> None:
        self.process = process
        self.pid = process.pid
        self.console_fd = console
        self.closed = False

    def wait(self, timeout_s: float | None = None) -> ExitRecord:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded("wait", str(self.pid), "it still runs") from None
        return ExitRecord(code if code >= 0 else 128 - code, 0, False, 0, 0, "Completed")

    def close(self) -> None:
        self.closed = True
        if self.console_fd is not None:
            self.console_fd.close()


class LocalSource:
    """Commands run here; an attach is to a container that is this object's `container` socket."""

    def __init__(self) -> None:
        self.execs: list[LocalExec] = []
        self.attached: list[dict[str, bool]] = []
        self.container: socket.socket | None = None
        self.attached_event = threading.Event()
        self.pod_state = "ready"

    def exec_start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> LocalExec:
        console = None
        if tty:
            master, slave = pty.openpty()
            console = Fd(master)
            set_size(slave, rows, columns)
            stdio = (slave, slave, slave)
        assert stdio is not None
        command = list(argv) if not tty else ["setsid", "-c", *argv]
        try:
            process = subprocess.Popen(command, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2])
        except FileNotFoundError:
            raise CommandNotRunnable("exec", argv[0], "no such command", errno=2) from None
        finally:
            if tty:
                os.close(stdio[0])
        self.execs.append(LocalExec(process, console))
        return self.execs[-1]

    def attach(
        self,
        container_id: str,
        *,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        backpressure: bool = False,
    ) -> socket.socket:
        if container_id != "c":
            raise NotFound("attach to container", container_id, "no such container")
        self.attached.append(
            {"stdin": stdin, "stdout": stdout, "stderr": stderr, "backpressure": backpressure}
        )
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self.container = ours
        self.attached_event.set()
        return theirs

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        if sandbox_id == "gone":
            raise NotFound("find sandbox", sandbox_id, "no such sandbox")
        config = SandboxConfig(
            metadata=SandboxMetadata(name="p"), namespaces=NamespaceOptions(network="node")
        )
        state = "ready" if self.pod_state == "ready" else "not_ready"
        return SandboxStatus(id=sandbox_id, config=config, state=state, created_at_ns=1)

    # the container's side of an attach

    def said(self, count: int) -> list[tuple[int, bytes]]:
        """The next `count` frames of the client, pieces of input joined."""
        assert self.attached_event.wait(60)
        assert self.container is not None
        decoder, found = frames.Decoder(), list[tuple[int, bytes]]()
        while len(found) < count:
            found += decoder.feed(self.container.recv(65536))
        return found

    def say(self, kind: int, payload: bytes) -> None:
        assert self.attached_event.wait(60)
        assert self.container is not None
        self.container.sendall(frames.encode(kind, payload))

    def end(self, code: int = 0) -> None:
        record = ExitRecord(code, 0, False, 0, time.time_ns(), "Completed")
        self.say(frames.EXIT, json.dumps(record.to_dict()).encode())

    def close(self) -> None:
        if self.container is not None:
            self.container.close()
        for started in self.execs:
            started.process.kill()
            started.process.wait()
