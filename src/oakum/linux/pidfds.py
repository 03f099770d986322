# SPDX-License-Identifier: Apache-2.0
"""Descriptors of processes, for those who need no more of `process`: signals that reach the one meant, or nobody."""

from __future__ import annotations

import os

from oakum.linux.fd import Fd
from oakum.model.light import signal


def pidfd_open(pid: int) -> Fd:
    """A pidfd of a process.

    Source: pidfd_open(2). Raises OSError (ESRCH when it is gone).
    """
    return Fd(os.pidfd_open(pid, 0))


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal exactly that process.

    Source: pidfd_send_signal(2). Raises ProcessLookupError when it has ended.
    """
    signal.pidfd_send_signal(pidfd, number)
