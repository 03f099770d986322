# SPDX-License-Identifier: Apache-2.0
"""Where a caller wants what belongs to a new process: its terminal, its id, its system calls' notifications."""

from __future__ import annotations

import os

from oakum.errors import SystemFailure
from oakum.linux.durable import write_file_fast
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from oakum.oci.listener import Listener
    from oakum.oci.spec import Spec


def hand_over_console(console: Fd | None, path: str) -> Fd | None:
    """A terminal's master to who listens at the unix socket `path`; without either it stays ours. Raises SystemFailure."""
    if console is None or not path:
        return console
    # Only containers with a terminal pay for the module.
    import socket

    try:
        with console, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(path)
            socket.send_fds(sock, [b"/dev/ptmx"], [console.fileno()])
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "send terminal", f"console socket {path}") from failure
    return None


def write_pid_file(path: str, pid: int) -> None:
    """Put the process id into a file, at once or not at all. Raises SystemFailure."""
    try:
        write_file_fast(os.path.abspath(path), str(pid).encode(), 0o644)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "write pid file", path) from failure


def connect_listener(spec: Spec, state: dict[str, Any]) -> Listener | None:
    """The agent of linux.seccomp, connected, or None; its socket is the caller's. Raises SystemFailure."""
    seccomp = (spec.get("linux") or {}).get("seccomp") or {}
    if not seccomp.get("listenerPath"):
        return None
    from oakum.oci.listener import Listener, connect  # few containers pay for it

    return Listener(connect(seccomp["listenerPath"]).steal(), seccomp.get("listenerMetadata") or "", state)
