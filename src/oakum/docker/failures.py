# SPDX-License-Identifier: Apache-2.0
"""What Docker's refusals mean, as errors of ours. Pure; the texts are those of Docker 20.10 to 28."""

from __future__ import annotations

import errno
from typing import Final

from oakum.errors import (
    AlreadyExists,
    CommandNotRunnable,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    NotFound,
    OakumError,
    PermissionDenied,
    ResourceExhausted,
    SystemFailure,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

_MISSING: Final = ("executable file not found", "no such file or directory", "not a directory")
_REFUSED: Final = ("permission denied", "exec format error", "is a directory")
# runc names the command like this; a mount or a hook that is missing reads otherwise
_BEGINNING: Final = ('exec: "', "exec /", "exec user process")
_FULL: Final = "no space left on device"


def failure(status: int, message: str, subject: str, *, starts: bool = False) -> OakumError:
    """The error for an answer of Docker's with `status`; `starts` where it was to start a process."""
    operation, cause = "ask Docker", message or f"HTTP status {status}"
    if starts and (found := not_runnable(cause, subject)) is not None:
        return found
    if _FULL in cause:
        return ResourceExhausted(operation, subject, cause, hint="free space below Docker's data root")
    if "unrecognized image id" in cause.lower():
        # 500 from one who lost the race to remove it
        return ImageNotFound(operation, subject, cause)
    match status:
        case 400:
            return InvalidArgument(operation, subject, cause)
        case 401:
            return Unauthenticated(operation, subject, cause)
        case 403:
            return PermissionDenied(operation, subject, cause)
        case 404:
            kind = ImageNotFound if "no such image" in cause.lower() else NotFound
            return kind(operation, subject, cause)
        case 409:
            kind = AlreadyExists if "already in use" in cause else FailedPrecondition
            return kind(operation, subject, cause)
        case 429:
            return ResourceExhausted(operation, subject, cause)
        case 501:
            return Unimplemented(operation, subject, cause)
        case 503:
            return Unavailable(operation, subject, cause)
        case _:
            return SystemFailure(operation, subject, cause)


def not_runnable(message: str, subject: str) -> CommandNotRunnable | None:
    """The error when Docker says that a command could not be executed; None when it says something else."""
    lowered = message.lower()
    if not any(word in lowered for word in _BEGINNING):
        return None
    for words, number in ((_MISSING, errno.ENOENT), (_REFUSED, errno.EACCES)):
        if any(word in lowered for word in words):
            return CommandNotRunnable("start", subject, message.strip(), errno=number)
    return None
