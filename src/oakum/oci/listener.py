# SPDX-License-Identifier: Apache-2.0
"""The agent that answers a container's notified system calls: it gets the filter's descriptor and who the process is.

The socket is connected by the parent, which sees the host's paths; the child sends, once its filter is loaded, by one
sendmsg(2), which the filter therefore may not notify. Loaded only for specs with a listener.
Spec: config-linux.md "Seccomp", "The Container Process State".
"""

from __future__ import annotations

import json
import os
import socket

from oakum.errors import SystemFailure
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


class Listener(NamedTuple):
    """A connected agent, and what it is told; `state` is the container's."""

    socket_fd: int
    metadata: str
    state: dict[str, Any]

    def prepare(self, proc_fd: int, *, initial: bool) -> Report:
        """What the calling process will send; by now, for later it can open nothing any more."""
        pid = int(os.readlink("self", dir_fd=proc_fd))
        state = {**self.state, "pid": pid} if initial else self.state
        body: dict[str, Any] = {
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid,
            "state": state,
        }
        if self.metadata:
            body["metadata"] = self.metadata
        return Report(socket.socket(fileno=os.dup(self.socket_fd)), json.dumps(body).encode())


class Report:
    """One message to the agent."""

    def __init__(self, sock: socket.socket, body: bytes) -> None:
        self._socket, self._body = sock, body

    def fileno(self) -> int:
        """The descriptor that has to stay open until `send`."""
        return self._socket.fileno()

    def send(self, notify_fd: int) -> None:
        """Give the filter's descriptor away. Raises SystemFailure."""
        try:
            socket.send_fds(self._socket, [self._body], [notify_fd])
        except OSError as failure:
            raise SystemFailure.from_os_error(
                failure, "send seccomp descriptor", "linux.seccomp.listenerPath"
            ) from failure
        os.close(notify_fd)
        self._socket.close()


def connect(path: str) -> Fd:
    """A connection to the agent at `path`. Raises SystemFailure."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as failure:
        sock.close()
        raise SystemFailure.from_os_error(
            failure, "connect", f"$.linux.seccomp.listenerPath {path}", hint="does the agent run?"
        ) from failure
    return Fd(sock.detach())
