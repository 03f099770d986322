# SPDX-License-Identifier: Apache-2.0
"""Word of a sandbox that is being restored, so that what a killed process leaves of it is removed.

Whoever restores holds a lock on a file in the sandbox's directory, from before others can know the sandbox until it is whole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from oakum.engine.locks import nobody_holds
from oakum.engine.storage import storing

if TYPE_CHECKING:
    from oakum.engine.context import Context
    from oakum.engine.store.records import SandboxRecord

_FILE: Final = "restoring"


class Note:
    """A locked file in the directory of a sandbox that is being restored."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fd = -1
        self.sandbox_id = ""

    def begin(self, sandbox_id: str) -> None:
        """The sandbox is about to be made, and its own lock is ours."""
        self.sandbox_id = sandbox_id
        directory = self._context.layout.sandbox(sandbox_id)
        with storing("note what is restored", directory):
            os.makedirs(directory, mode=0o711, exist_ok=True)
            self._fd = os.open(
                f"{directory}/{_FILE}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def end(self) -> None:
        """The pod is whole."""
        os.unlink(f"{self._context.layout.sandbox(self.sandbox_id)}/{_FILE}")

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)


def noted(context: Context, sandbox_id: str) -> bool:
    """Whether somebody began to restore this sandbox and was killed."""
    try:
        return nobody_holds(f"{context.layout.sandbox(sandbox_id)}/{_FILE}")
    except FileNotFoundError:
        return False


def recover(context: Context, record: SandboxRecord, remove: Callable[[SandboxRecord], None]) -> str:
    """Remove a sandbox that a killed process was restoring; under its lock. Raises OakumError."""
    if not noted(context, record.id):
        return ""
    remove(record)
    return f"sandbox {record.id[:12]}: half restored, removed"
