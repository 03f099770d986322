# SPDX-License-Identifier: Apache-2.0
"""What the streams need of a backend, as Protocols; every method blocks and is called in a thread of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from oakum.backend.status import SandboxStatus
from oakum.linux.fd import Fd
from oakum.model.exits import ExitRecord


class RunningExec(Protocol):
    """A command that was started in a container."""

    pid: int
    console_fd: Fd | None

    def wait(self, timeout_s: float | None = None) -> ExitRecord:
        """Wait for its end. Raises DeadlineExceeded."""
        ...

    def close(self) -> None:
        """Let go of it, and of its terminal if that is still here; it goes on."""
        ...


@runtime_checkable
class FarTerminal(Protocol):
    """A command whose `console_fd` is a way to its terminal, and not the terminal itself."""

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal a size; does nothing once it has hung up."""
        ...


class StreamSource(Protocol):
    """Containers to stream from and pods to reach into."""

    def exec_start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> RunningExec:
        """Start a command on `stdio` (borrowed) or on a new terminal. Raises OakumError."""
        ...

    def attach(
        self,
        container_id: str,
        *,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        backpressure: bool = False,
    ) -> socket.socket:
        """A stream of the shim's frames to and from a running container. Raises OakumError."""
        ...

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        """One pod. Raises NotFound."""
        ...
