# SPDX-License-Identifier: Apache-2.0
"""A private handle on /proc, for writes that must reach the kernel and nothing that was mounted over it.

Source: fsopen(2), proc(5); the attack this closes is CVE-2025-52881 (a write to /proc redirected by a bind mount).
"""

from __future__ import annotations

import os

from oakum.linux.fd import Fd
from oakum.linux.mount import new_filesystem
from oakum.linux.paths import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_RESOLVE: Final = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS


def open_private_proc() -> Fd:
    """A proc of our own, attached nowhere, showing our PID namespace. Raises OSError."""
    return new_filesystem("proc", (), source="proc")


def write(proc_fd: int, path: str, data: str) -> None:
    """Write to a file of the private proc ("self/oom_score_adj"). Raises OSError."""
    with _open(proc_fd, path, os.O_WRONLY) as file:
        os.write(file.fileno(), os.fsencode(data))


def read(proc_fd: int, path: str) -> str:
    """The content of a small file of the private proc. Raises OSError."""
    with _open(proc_fd, path, os.O_RDONLY) as file:
        return os.read(file.fileno(), 65536).decode("utf-8", "surrogateescape")


def _open(proc_fd: int, path: str, flags: int) -> Fd:
    # "self" is an ordinary link within proc; anything else that is one is refused by not following it.
    head, _, rest = path.partition("/")
    if head in ("self", "thread-self"):
        head = os.readlink(head, dir_fd=proc_fd)
    return openat2(proc_fd, f"{head}/{rest}" if rest else head, flags, resolve=_RESOLVE)
