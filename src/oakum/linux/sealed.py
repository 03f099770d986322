# SPDX-License-Identifier: Apache-2.0
"""Running the interpreter from a sealed copy of its file in memory, so that no container can reach the host's file.

A process that joins a container can be looked at through /proc/PID/exe, and can be made to execute itself there
(`#!/proc/self/exe`, CVE-2019-5736). Imports next to nothing: it runs before everything else, in every such command.
Source: memfd_create(2), fcntl(2) "File sealing".
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from oakum.linux.fd import Fd

TYPE_CHECKING = False  # `typing` itself costs as much as all else here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC = 0x10  # Linux 6.3; without it a host may refuse executable memfds


def sealed_memfd(name: str, source_fd: int) -> Fd:
    """A read-only executable copy of the file `source_fd` in memory, which nobody can change. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = Fd(os.memfd_create(name, flags | _MFD_EXEC))
    except OSError as failure:
        if failure.errno != errno.EINVAL:
            raise
        fd = Fd(os.memfd_create(name, flags))
    size = os.fstat(source_fd).st_size
    done = 0
    while done < size:
        copied = os.sendfile(fd.fileno(), source_fd, done, size - done)
        if copied == 0:
            break
        done += copied
    os.fchmod(fd.fileno(), 0o555)
    fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, _ALL_SEALS)
    return fd


def runs_sealed() -> bool:
    """Whether the file that this process executes is a sealed copy. Raises OSError."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _ALL_SEALS == _ALL_SEALS
    except OSError as failure:
        if failure.errno == errno.EINVAL:  # a file that knows no seals
            return False
        raise
    finally:
        os.close(fd)


def execute_sealed(program: str, arguments: Sequence[str]) -> NoReturn:
    """Execute the interpreter anew, from a sealed copy, to run the Python text `program`.

    Its sys.argv[1] says how many directories of modules follow, as this process has them; behind those come `arguments`.
    Raises OSError.
    """
    base = getattr(sys, "_base_executable", "") or sys.executable
    interpreter = os.path.realpath(base)
    source_fd = os.open(interpreter, os.O_RDONLY | os.O_CLOEXEC)
    copy = sealed_memfd("oakum", source_fd)
    os.close(source_fd)
    path = [entry for entry in sys.path if entry.startswith("/")]
    # The name it is called by tells the interpreter where its standard library is.
    argv = [interpreter, "-I", "-S", "-E", "-c", program, str(len(path)), *path, *arguments]
    os.execve(copy.fileno(), argv, _environment())  # noqa: S606 - no shell, on purpose


def _environment() -> dict[str, str]:
    library = os.path.join(sys.base_prefix, "lib")
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    # An interpreter that finds its library beside its own file ($ORIGIN) does not when it is a copy.
    if sys.base_prefix in ("/usr", "/usr/local") or not os.path.exists(os.path.join(library, name)):
        return dict(os.environ)
    return {**os.environ, "LD_LIBRARY_PATH": library}
