# SPDX-License-Identifier: Apache-2.0
"""Reaching into another network namespace: what is opened there stays there. Source: network_namespaces(7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar

from oakum.errors import SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.namespaces import CLONE_NEWNET, setns

_OWN: Final = "/proc/thread-self/ns/net"
_Result = TypeVar("_Result")


def open_netns(path: str) -> Fd:
    """The network namespace at `path` (a pin, or /proc/PID/ns/net). Raises SystemFailure."""
    try:
        return Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise SystemFailure.from_os_error(error, "open network namespace", path) from error


def own_netns() -> Fd:
    """The calling thread's network namespace. Raises SystemFailure."""
    return open_netns(_OWN)


def inside(netns_fd: int, action: Callable[[], _Result], *, subject: str = "") -> _Result:
    """What `action` returns when run with the calling thread inside the namespace; the thread comes back.

    `action` is to open sockets and return; nothing else of the process is moved.

    Raises:
        SystemFailure: it is no network namespace, or we may not enter it.
    """
    with own_netns() as home:
        try:
            setns(netns_fd, CLONE_NEWNET, target=subject)
        except OSError as error:
            raise SystemFailure.from_os_error(error, "enter network namespace", subject) from error
        try:
            return action()
        finally:
            try:
                setns(home.fileno(), CLONE_NEWNET)
            except OSError:
                # This thread would go on in a pod's network and open its sockets there. State is on the disk:
                # dying is the safe way out.
                os.abort()
