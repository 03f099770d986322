# SPDX-License-Identifier: Apache-2.0
"""Running the interpreter from a sealed copy of its file in memory, so that no container can reach the host's file.

A process that joins a container can be looked at through /proc/PID/exe, and can be made to execute itself there
(`#!/proc/self/exe`, CVE-2019-5736). Two ways lead to the same end, which `runs_sealed` asks the kernel for:

    seal_in_place    this process goes on, and its file is exchanged: half a millisecond. Only where the file is small,
                     because the interpreter itself is in libpython, and only with CAP_CHECKPOINT_RESTORE.
    execute_sealed   the interpreter starts once more, from the copy: always possible, eight milliseconds.

Imports next to nothing: it runs before everything else, in every such command.
Source: memfd_create(2), fcntl(2) "File sealing", PR_SET_MM_MAP(2const).
"""

from __future__ import annotations

import errno
import os
import posix
import sys

from oakum.linux import control
from oakum.linux.fd import Fd

TYPE_CHECKING = False  # `typing` itself costs as much as all else here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034
# F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_ALL_SEALS = 1 | 2 | 4 | 8
# An interpreter that is not in libpython has megabytes, and its own state among them.
_SMALL_BYTES = 256 << 10
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
    control.file_control(fd.fileno(), _F_ADD_SEALS, _ALL_SEALS)
    return fd


def runs_sealed() -> bool:
    """Whether the file that this process executes is a sealed copy. Raises OSError."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return control.file_control(fd, _F_GET_SEALS) & _ALL_SEALS == _ALL_SEALS
    except OSError as failure:
        if failure.errno == errno.EINVAL:  # a file that knows no seals
            return False
        raise
    finally:
        os.close(fd)


def seal_in_place() -> bool:
    """Exchange this process' file for a sealed copy; False where that cannot be done, and nothing has changed then.

    The kernel lets go of the old file only when no memory comes from it any more: so its few pages are copied first.
    Only for a process with one thread. Raises OSError.
    """
    own = os.stat("/proc/self/exe")
    areas = [(*_bounds(words[0]), words[1]) for words in _mapped(own.st_ino)]
    if not areas or sum(end - start for start, end, _ in areas) > _SMALL_BYTES:
        return False
    from oakum.linux import memory  # here, where it is known to be of use

    source_fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        copy = sealed_memfd("oakum", source_fd)
    finally:
        os.close(source_fd)
    with copy:
        try:
            for start, end, rights in areas:
                memory.make_anonymous(start, end - start, _protection(rights))
            memory.exchange_executable(copy.fileno())
        except OSError as failure:
            if failure.errno in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EBUSY):
                return False
            raise
    return runs_sealed()


def _mapped(inode: int) -> list[list[bytes]]:
    """The lines of our memory map that are of a file, in words. They are together, most often first, and no more is read than has them.

    Were there others behind them, the kernel would not let the file go. Source: proc_pid_maps(5).
    """
    found: list[list[bytes]] = []
    fd = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest = b""
        while chunk := os.read(fd, 4096):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                words = line.split(None, 5)
                if int(words[4]) == inode:
                    found.append(words)
                elif found and len(words) > 5 and words[5][:1] == b"/":
                    return found
    finally:
        os.close(fd)
    return found


def _bounds(text: bytes) -> tuple[int, int]:
    start, _, end = text.partition(b"-")
    return int(start, 16), int(end, 16)


def _protection(rights: bytes) -> int:
    # PROT_READ, PROT_WRITE, PROT_EXEC as "rwx" has them
    return sum(1 << place for place in range(3) if rights[place] in b"rwx")


def execute_sealed(program: str, arguments: Sequence[str]) -> NoReturn:
    """Execute the interpreter anew, from a sealed copy, to run the Python text `program`.

    Its sys.argv[1] says how many directories of modules follow, as this process has them; behind those come `arguments`.
    Raises OSError.
    """
    interpreter = os.readlink("/proc/self/exe").removesuffix(" (deleted)")
    source_fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    copy = sealed_memfd("oakum", source_fd)
    os.close(source_fd)
    path = [entry for entry in sys.path if entry.startswith("/")]
    # The name it is called by tells the interpreter where its standard library is.
    argv = [interpreter, "-I", "-S", "-E", "-X", "utf8", "-c", program, str(len(path)), *path, *arguments]
    os.execve(copy.fileno(), argv, _environment())  # noqa: S606 - no shell, on purpose


def _environment() -> dict[bytes, bytes]:
    library = os.path.join(sys.base_prefix, "lib")
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    # An interpreter that finds its library beside its own file ($ORIGIN) does not when it is a copy.
    if sys.base_prefix in ("/usr", "/usr/local") or not os.path.exists(os.path.join(library, name)):
        return posix.environ
    return {**posix.environ, b"LD_LIBRARY_PATH": os.fsencode(library)}
