# SPDX-License-Identifier: Apache-2.0
"""Ending the zygote of a state directory: it outlives its users by design, and a test must not leave it."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct


def zygote_pid(state: str) -> int | None:
    """The process that listens on `state`/zygote.sock; None when none does.

    Source: unix(7), SO_PEERCRED: a connected socket tells who called listen().
    """
    try:
        directory = os.open(state, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            # through the descriptor: a test's path may be longer than sun_path
            peer.connect(f"/proc/self/fd/{directory}/zygote.sock")
            return struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    finally:
        os.close(directory)


def end_zygote(state: str) -> None:
    """Kill the zygote of `state`, if one listens, and wait until it is gone."""
    pid = zygote_pid(state)
    if pid is None:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5)
    except ProcessLookupError:
        pass  # it ended by itself meanwhile
    finally:
        os.close(pidfd)
