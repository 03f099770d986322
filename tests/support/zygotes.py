# SPDX-License-Identifier: Apache-2.0
"""Ending the zygote of a state directory: it outlives its users by design, and a test must not leave it."""

from __future__ import annotations

import os
import select
import signal

from oakum.errors import Unavailable
from oakum.linux import sockets
from oakum.shim import wire
from oakum.shim.starter import SOCKET_NAME

_TIMEOUT_S = 10.0


def zygote_pid(state: str) -> int | None:
    """The zygote that answers on `state`'s socket; None when none does. Never starts one."""
    try:
        with sockets.connect(state, SOCKET_NAME, timeout_s=_TIMEOUT_S) as peer:
            return int(wire.call(peer, {"op": "ping"}, timeout_s=_TIMEOUT_S, peer="zygote").value["pid"])
    except (FileNotFoundError, ConnectionRefusedError, Unavailable):
        return None


def end_zygote(state: str) -> None:
    """Kill the zygote of `state`, if one answers, and wait until it is gone."""
    pid = zygote_pid(state)
    if pid is None:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], _TIMEOUT_S)
    except ProcessLookupError:
        pass  # it ended by itself meanwhile
    finally:
        os.close(pidfd)
