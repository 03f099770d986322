# SPDX-License-Identifier: Apache-2.0
"""Steps in the directories of a backend: disk errors that say what was being written, and removal. Owns no files."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager

from oakum.errors import ResourceExhausted, SystemFailure

_FULL = (errno.ENOSPC, errno.EDQUOT)


def storage_error(error: OSError, operation: str, subject: str) -> ResourceExhausted | SystemFailure:
    """What a failed step on the disk means to a caller."""
    if error.errno in _FULL:
        return ResourceExhausted(
            operation, subject, "no space left on device", hint="remove images or containers"
        )
    if error.errno == errno.EROFS:
        from oakum.model.readonly import HINT  # hardly ever, and it loads more than this

        return SystemFailure.from_os_error(error, operation, subject, hint=HINT)
    return SystemFailure.from_os_error(error, operation, subject)


@contextmanager
def storing(operation: str, subject: str) -> Generator[None]:
    """Steps on the disk.

    Raises:
        ResourceExhausted: the disk, or a quota on it, is full.
        SystemFailure: another error.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, operation, subject) from error


def remove_directory(parent: str, name: str) -> None:
    """Delete a directory with whatever a container put into it; succeeds for what is gone.

    Raises:
        SystemFailure: something in it cannot be removed (a mount, an immutable file).
    """
    from oakum.snapshots.tree import remove_tree  # goes by descriptors and survives any depth of nesting

    try:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_tree(parent_fd, name)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "remove directory", f"{parent}/{name}") from error
    finally:
        os.close(parent_fd)
