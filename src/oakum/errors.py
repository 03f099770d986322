# SPDX-License-Identifier: Apache-2.0
"""The one error tree, and the one place where errors become gRPC, HTTP and exit codes.

Every error says which operation failed, on what object, why, and (where one can be named) what to try::

    OakumError
    ├── InvalidArgument      the request itself is wrong
    ├── NotFound             no such object
    │   └── ImageNotFound    ... that a pull could bring
    ├── AlreadyExists        the name or id is taken
    ├── FailedPrecondition   the object is in the wrong state for this
    ├── PermissionDenied     the kernel or a registry refused
    ├── Unauthenticated      a registry wants (other) credentials
    ├── ResourceExhausted    no space, no address, too many requests
    ├── DeadlineExceeded     the time given for it is over
    ├── Cancelled            the caller gave up
    ├── Aborted              another change got in the way; a retry may succeed
    ├── Unavailable          a peer (registry, shim, zygote) did not answer
    ├── Unimplemented        this host or version cannot do it
    ├── DataLoss             content is damaged (digest, length)
    ├── SystemFailure        a system call failed; says which and on what
    │   └── CommandNotRunnable  the container's command could not be executed
    └── Internal             a bug of ours

Standard library only: these also travel from forked children and shims, as dicts (`to_dict`, `from_dict`).
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False  # `typing` costs more than all else here, in every command
if TYPE_CHECKING:
    from typing import Any, ClassVar, Final


class OakumError(Exception):
    """Something failed: `operation` on `subject`, because of `cause`; `hint` says what to try."""

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, operation: str, subject: str = "", cause: str = "", *, hint: str = "") -> None:
        super().__init__(operation, subject, cause)
        self.operation = operation
        self.subject = subject
        self.cause = cause
        self.hint = hint

    @property
    def brief(self) -> str:
        """Operation, object and cause in one line, without the hint."""
        head = f"{self.operation} {self.subject}".rstrip()
        return f"{head}: {self.cause}" if self.cause else head

    def __str__(self) -> str:
        return f"{self.brief} ({self.hint})" if self.hint else self.brief

    def to_dict(self) -> dict[str, Any]:
        """The error as plain JSON values, for a pipe or a socket."""
        return {
            "code": self.code,
            "operation": self.operation,
            "subject": self.subject,
            "cause": self.cause,
            "hint": self.hint,
        }


class InvalidArgument(OakumError):
    """The request itself is wrong; the same request can never succeed."""

    code = "INVALID_ARGUMENT"


class NotFound(OakumError):
    """No such object."""

    code = "NOT_FOUND"


class ImageNotFound(NotFound):
    """The image is not in the store."""

    code = "IMAGE_NOT_FOUND"


class AlreadyExists(OakumError):
    """The name or id is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(OakumError):
    """The object is in the wrong state for this operation."""

    code = "FAILED_PRECONDITION"


class PermissionDenied(OakumError):
    """The kernel or a registry refused."""

    code = "PERMISSION_DENIED"


class Unauthenticated(OakumError):
    """A registry wants credentials, or other ones."""

    code = "UNAUTHENTICATED"


class ResourceExhausted(OakumError):
    """No space, no free address, or too many requests."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(OakumError):
    """The time given for the operation is over."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(OakumError):
    """The caller gave up."""

    code = "CANCELLED"


class Aborted(OakumError):
    """Another change got in the way; a retry may succeed."""

    code = "ABORTED"


class Unavailable(OakumError):
    """A peer (registry, shim, zygote) did not answer."""

    code = "UNAVAILABLE"


class Unimplemented(OakumError):
    """This host or this version cannot do it."""

    code = "UNIMPLEMENTED"


class DataLoss(OakumError):
    """Content is damaged: wrong digest, wrong length, broken archive."""

    code = "DATA_LOSS"


class SystemFailure(OakumError):
    """A system call failed; `operation` names the call and `subject` its target."""

    code = "SYSTEM_FAILURE"

    def __init__(
        self, operation: str, subject: str = "", cause: str = "", *, hint: str = "", errno: int = 0
    ) -> None:
        super().__init__(operation, subject, cause, hint=hint)
        self.errno = errno

    @classmethod
    def from_os_error(
        cls, error: OSError, operation: str, subject: str = "", *, hint: str = ""
    ) -> SystemFailure:
        """The same failure with the operation and object that the kernel's error lacks."""
        number = error.errno or 0
        name = _errno.errorcode.get(number, str(number))
        cause = f"{os.strerror(number)} ({name})" if number else str(error)
        return cls(operation, subject or str(error.filename or ""), cause, hint=hint, errno=number)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain JSON values, with the kernel's error number."""
        return {**super().to_dict(), "errno": self.errno}


class CommandNotRunnable(SystemFailure):
    """The container's command could not be executed: not found (127) or not executable (126)."""

    code = "COMMAND_NOT_RUNNABLE"

    @property
    def exit_code(self) -> int:
        """What a shell would exit with: 127 when the file is missing, else 126."""
        return 127 if self.errno in (_errno.ENOENT, _errno.ENOTDIR, 0) else 126


class Internal(OakumError):
    """A bug of ours."""

    code = "INTERNAL"


# code → (gRPC status number, HTTP status, exit code of the command line)
_EDGE_CODES: Final[dict[str, tuple[int, int, int]]] = {
    "UNKNOWN": (2, 500, 1),
    "CANCELLED": (1, 499, 130),
    "INVALID_ARGUMENT": (3, 400, 125),
    "DEADLINE_EXCEEDED": (4, 504, 124),
    "NOT_FOUND": (5, 404, 1),
    "IMAGE_NOT_FOUND": (5, 404, 125),
    "ALREADY_EXISTS": (6, 409, 125),
    "PERMISSION_DENIED": (7, 403, 1),
    "RESOURCE_EXHAUSTED": (8, 429, 1),
    "FAILED_PRECONDITION": (9, 409, 1),
    "ABORTED": (10, 409, 1),
    "UNIMPLEMENTED": (12, 501, 1),
    "INTERNAL": (13, 500, 1),
    "UNAVAILABLE": (14, 503, 1),
    "DATA_LOSS": (15, 500, 1),
    "UNAUTHENTICATED": (16, 401, 1),
    "SYSTEM_FAILURE": (2, 500, 1),
    "COMMAND_NOT_RUNNABLE": (9, 400, 127),
}


# What the kernel said no with → gRPC status number; NOT_FOUND is not among them: clients take it for "already removed"
_ERRNO_GRPC: Final[dict[int, int]] = {
    **dict.fromkeys((_errno.EPERM, _errno.EACCES, _errno.EROFS), 7),
    **dict.fromkeys(
        (_errno.ENOSPC, _errno.EDQUOT, _errno.ENOMEM, _errno.EMFILE, _errno.ENFILE, _errno.EAGAIN), 8
    ),
    **dict.fromkeys(
        (
            *(_errno.ENOENT, _errno.ENOTDIR, _errno.EISDIR, _errno.EEXIST, _errno.ENOTEMPTY, _errno.ELOOP),
            *(_errno.ENAMETOOLONG, _errno.EINVAL, _errno.ERANGE, _errno.E2BIG, _errno.EBUSY, _errno.EXDEV),
            *(_errno.ENODEV, _errno.ENXIO, _errno.ENOTBLK, _errno.EADDRINUSE, _errno.EADDRNOTAVAIL),
        ),
        9,
    ),
    **dict.fromkeys((_errno.ENOSYS, _errno.EOPNOTSUPP), 12),
}


def grpc_status_number(error: OakumError) -> int:
    """The number of the gRPC status code for `error` (https://grpc.io status codes)."""
    if type(error) is SystemFailure:
        return _ERRNO_GRPC.get(error.errno, _EDGE_CODES[error.code][0])
    return _EDGE_CODES[error.code][0]


def http_status(error: OakumError) -> int:
    """The HTTP status for `error`."""
    return _EDGE_CODES[error.code][1]


def exit_code(error: OakumError) -> int:
    """The exit code of the command line for `error`; 126 and 127 as shells have them."""
    if isinstance(error, CommandNotRunnable):
        return error.exit_code
    return _EDGE_CODES[error.code][2]


def _tree(cls: type[OakumError]) -> dict[str, type[OakumError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


def from_dict(data: dict[str, Any]) -> OakumError:
    """The error that `to_dict` described; an unknown code becomes a plain `OakumError`."""
    cls = _tree(OakumError).get(str(data.get("code")), OakumError)
    operation, subject, cause, hint = (
        str(data.get(k, "")) for k in ("operation", "subject", "cause", "hint")
    )
    if issubclass(cls, SystemFailure):
        return cls(operation, subject, cause, hint=hint, errno=int(data.get("errno", 0)))
    return cls(operation, subject, cause, hint=hint)
