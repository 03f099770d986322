# SPDX-License-Identifier: Apache-2.0
"""Finding and executing the container's command, with the errors that users of containers know.

Runs as the container's user inside its root. Messages: `exec: "foo": executable file not found in $PATH`.
"""

from __future__ import annotations

import errno
import os
import stat

from oakum.errors import CommandNotRunnable
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, NoReturn

# Where programs are, for whom no PATH was given.
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HINT: Final = "check the command, its permissions and the image's PATH"


def find(name: str, env: dict[str, str]) -> str:
    """The file to execute for args[0].

    Raises:
        CommandNotRunnable: there is none, or it may not be executed.
    """
    if "/" in name:
        number = _why_not(name)
        if number == 0:
            return name
        if number in (errno.ENOENT, errno.ENOTDIR):
            raise _error(name, f"stat {name}: {_words(number)}", number)
        raise _error(name, _words(number), number)
    denied = False
    if name:
        for directory in env.get("PATH", DEFAULT_PATH).split(":"):
            if not directory.startswith("/"):
                continue  # "." in PATH would run what lies in the working directory
            path = f"{directory}/{name}"
            number = _why_not(path)
            if number == 0:
                return path
            denied = denied or number == errno.EACCES
    if denied:
        raise _error(name, "permission denied", errno.EACCES)
    raise _error(name, "executable file not found in $PATH", errno.ENOENT)


def execute(path: str, args: list[str], env: dict[str, str]) -> NoReturn:
    """Execve. Raises CommandNotRunnable."""
    try:
        os.execve(path, args, env)  # noqa: S606 - no shell, on purpose
    except OSError as failure:
        number = failure.errno or 0
        words = _words(number)
        if number == errno.ENOENT:
            words = "no such file or directory"  # the file is there, so it is its interpreter that is not
        raise CommandNotRunnable("exec", path, words, hint=_exec_hint(number), errno=number) from failure


def _why_not(path: str) -> int:
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return errno.EISDIR
    except OSError as failure:
        return failure.errno or errno.ENOENT
    return 0 if os.access(path, os.X_OK) else errno.EACCES


def _error(name: str, cause: str, number: int) -> CommandNotRunnable:
    return CommandNotRunnable("exec:", f'"{name}"', cause, hint=_HINT, errno=number)


def _exec_hint(number: int) -> str:
    return {
        errno.ENOEXEC: "built for another architecture, or a script without #!",
        errno.ENOENT: "its interpreter or dynamic linker is not in the image",
    }.get(number, "")


def _words(number: int) -> str:
    """The error as Go programs word it, which is what people search for."""
    text = {errno.ENOEXEC: "exec format error", errno.E2BIG: "argument list too long"}.get(number)
    return text or os.strerror(number).lower()
