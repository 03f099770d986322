# SPDX-License-Identifier: Apache-2.0
"""Pseudo-terminals of a container's own devpts, and which terminal controls a session. Source: pts(4), ioctl_tty(2)."""

from __future__ import annotations

import errno
import os
import stat
import sys

from oakum.linux.control import device_control
from oakum.linux.fd import Fd
from oakum.linux.libc import error
from oakum.linux.paths import open_beneath
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTN: Final = 0x80045430
_TIOCGPTPEER: Final = 0x5441
_TIOCSCTTY: Final = 0x540E
_TIOCSWINSZ: Final = 0x5414
_PTMX: Final = (5, 2)


def open_pty(root_fd: int) -> tuple[Fd, Fd, str]:
    """A new terminal from /dev/pts of the root: master, slave, and the slave's path in the container.

    The slave is got from the master itself, so nothing in the container can pass off another file. Raises OSError.
    """
    path = "dev/pts/ptmx"
    master = open_beneath(root_fd, path, os.O_RDWR | os.O_NOCTTY)
    try:
        status = os.fstat(master.fileno())
        if not stat.S_ISCHR(status.st_mode) or (os.major(status.st_rdev), os.minor(status.st_rdev)) != _PTMX:
            raise error("openat2", errno.ENOTTY, "/" + path)
        device_control(master.fileno(), _TIOCSPTLCK, b"\0" * 4)
        number = int.from_bytes(device_control(master.fileno(), _TIOCGPTN, b"\0" * 4)[1], sys.byteorder)
        peer, _ = device_control(master.fileno(), _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        slave = Fd(peer)
    except BaseException:
        master.close()
        raise
    return master, slave, f"dev/pts/{number}"


def set_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size in characters. Raises OSError."""
    size = rows.to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder)
    device_control(fd, _TIOCSWINSZ, size + b"\0" * 4)


def make_controlling(fd: int) -> None:
    """Make the terminal `fd` the controlling one of this (new) session. Raises OSError."""
    device_control(fd, _TIOCSCTTY)
