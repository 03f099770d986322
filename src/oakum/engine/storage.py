# SPDX-License-Identifier: Apache-2.0
"""Disk errors in the engine's own directories, as errors that say what was being written. Owns no files."""

from __future__ import annotations

import errno
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
