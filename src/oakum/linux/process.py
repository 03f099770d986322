# SPDX-License-Identifier: Apache-2.0
"""Making and marking processes: fork, clone, prctl, closing descriptors.

The only home of `os.fork` and clone. Children go on in Python, so the caller must be single-threaded.
"""

from __future__ import annotations

import os
import sys

from oakum.linux import control
from oakum.linux.fd import Fd
from oakum.linux.foreign import addressof, buffer, python_function
from oakum.linux.libc import (
    Struct,
    bind,
    bind_call,
    bind_pointer,
    byref,
    c_int,
    c_size_t,
    c_uint,
    c_ulong,
    c_void_p,
    sizeof,
    u64,
)
from oakum.linux.pids import stat_fields
from oakum.model.light import TYPE_CHECKING, cast, signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

CLONE_PARENT: Final = 0x00008000
_CLONE_PIDFD: Final = 0x00001000
_CLONE_INTO_CGROUP: Final = 0x200000000
_CLOSE_RANGE_UNSHARE: Final = 2
_CLOSE_RANGE_CLOEXEC: Final = 4

# Source: prctl(2)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

# Source: getrlimit(2), RLIM_INFINITY
UNLIMITED: Final = 0xFFFFFFFFFFFFFFFF

# HUP INT QUIT USR1 USR2 PIPE TERM CHLD TSTP TTIN TTOU XFSZ; and the two that C libraries use for threads.
_OFTEN_IGNORED: Final = (1, 2, 3, 10, 12, 13, 15, 17, 20, 21, 22, 25)
_OF_THREADS: Final = (32, 33)
_SIGNAL_SET_BYTES: Final = 8
# struct sigaction of the kernel, the longest of all architectures; zero is SIG_DFL, no flags, nothing blocked.
_DEFAULT_ACTION: Final = bytes(32)


class _CloneArgs(Struct):
    # Source: clone(2), struct clone_args
    _fields_ = [
        ("flags", u64),
        ("pidfd", u64),
        ("child_tid", u64),
        ("parent_tid", u64),
        ("exit_signal", u64),
        ("stack", u64),
        ("stack_size", u64),
        ("tls", u64),
        ("set_tid", u64),
        ("set_tid_size", u64),
        ("cgroup", u64),
    ]


# The C function (see `model.light`): it knows its constants by identity, as plain numbers.
handle_signal = cast("Callable[[int, Callable[[int, object], None] | int], object]", signal.signal)
SIGNAL_DEFAULT: Final = signal.SIG_DFL
SIGNAL_IGNORED: Final = signal.SIG_IGN

_clone3 = bind_call("clone3", c_void_p, c_size_t, keep_gil=True)
_sigaction = bind_call("rt_sigaction", c_int, c_void_p, c_void_p, c_size_t)
_close_range = bind_call("close_range", c_uint, c_uint, c_uint)
_memmove = bind_pointer("memmove", c_void_p, c_void_p, c_size_t)
_prlimit = bind("prlimit", c_int, c_int, c_void_p, c_void_p)
_prctl = bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_before_fork: Callable[[], None] = python_function("PyOS_BeforeFork")
_after_fork_parent: Callable[[], None] = python_function("PyOS_AfterFork_Parent")
_after_fork_child: Callable[[], None] = python_function("PyOS_AfterFork_Child")


_title: tuple[int, int] | None = None


class Cloned(int):
    """The pid that clone returned (0 in the child), with `pidfd` in the parent."""

    pidfd: Fd | None = None


def fork() -> int:
    """os.fork, in the one place where it is allowed."""
    return os.fork()


def clone(flags: int = 0, *, pidfd: bool = False, cgroup_fd: int | None = None) -> Cloned:
    """A child in new namespaces (CLONE_NEW*); it goes on in Python with 0, the parent gets its pid.

    With `pidfd`, the parent's result owns one in `.pidfd`. With `cgroup_fd` (a v2 directory) it is born there.
    With CLONE_PARENT the child is our parent's. Source: clone3(2). Raises OSError.
    """
    number = c_int(-1)
    exit_signal = 0 if flags & CLONE_PARENT else signal.SIGCHLD
    args = _CloneArgs(flags=flags | (_CLONE_PIDFD if pidfd else 0), exit_signal=exit_signal)
    if pidfd:
        args.pidfd = addressof(number)
    if cgroup_fd is not None:
        args.flags |= _CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    # The C library does not know of this child: Python's own locks and thread state are told by hand.
    _before_fork()
    try:
        pid = _clone3(byref(args), sizeof(args), target="clone3")
    except OSError:
        _after_fork_parent()
        raise
    if pid == 0:
        _after_fork_child()
        return Cloned(0)
    _after_fork_parent()
    result = Cloned(pid)
    if pidfd:
        result.pidfd = Fd(number.value)
    return result


def run_and_exit(body: Callable[[], int]) -> NoReturn:
    """Run a child's whole life and leave without the parent's exit handlers, whatever happens."""
    code = 70  # EX_SOFTWARE of sysexits.h: a bug that got past `body`
    try:
        code = body()
    finally:
        os._exit(code)


def has_ended(pidfd: Fd, *, wait: bool = False) -> bool:
    """Whether that process has ended, reaped or not; with `wait`, when it has.

    Source: pidfd_open(2).
    """
    return bool(control.wait_for({pidfd.fileno(): control.READABLE}, None if wait else 0))


def set_child_subreaper(value: bool) -> None:  # noqa: FBT001 - the name says what the bool is
    """Whether orphans below this process become its children.

    Source: prctl(2).
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, int(value), 0, 0, 0, target="PR_SET_CHILD_SUBREAPER")


def set_dumpable(value: bool) -> None:  # noqa: FBT001 - the name says what the bool is
    """Whether others may ptrace us and open our /proc files.

    Source: prctl(2).
    """
    _prctl(_PR_SET_DUMPABLE, int(value), 0, 0, 0, target="PR_SET_DUMPABLE")


def set_no_new_privs() -> None:
    """No execve from here on grants privileges.

    Source: prctl(2).
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, target="PR_SET_NO_NEW_PRIVS")


def set_parent_death_signal(number: int) -> None:
    """The signal we get when the parent dies; for helpers only, never for containers.

    Source: prctl(2).
    """
    _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0, target="PR_SET_PDEATHSIG")


def get_limit(number: int) -> tuple[int, int]:
    """This process' soft and hard limit of a kind (RLIMIT_*).

    Source: prlimit(2). Raises OSError.
    """
    pair = buffer(bytes(16))
    _prlimit(0, number, None, pair, target="limit")
    return int.from_bytes(pair.raw[:8], sys.byteorder), int.from_bytes(pair.raw[8:], sys.byteorder)


def set_limit(number: int, soft: int, hard: int) -> None:
    """Limit this process.

    Source: prlimit(2). Raises OSError.
    """
    _prlimit(
        0, number, soft.to_bytes(8, sys.byteorder) + hard.to_bytes(8, sys.byteorder), None, target="limit"
    )


def set_name(name: str) -> None:
    """The short name of this process in ps -c and top (15 bytes are kept).

    Source: proc_pid_comm(5); prctl(2) does the same, but `ctypes` costs a shim 100 KB of its own.
    """
    short = name.encode("utf-8", "surrogateescape")[:15]
    try:
        fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except PermissionError:
        # Root of a user namespace that may not be dumped: its own /proc files are not its own.
        text = buffer(short + b"\0")
        _prctl(_PR_SET_NAME, addressof(text), 0, 0, 0, target="PR_SET_NAME")
        return
    try:
        os.write(fd, short)
    finally:
        os.close(fd)


def set_title(title: str) -> None:
    """What ps shows of this process as its command line: cut or padded to the room that argv has.

    Source: proc_pid_cmdline(5).
    """
    start, room = _title_room()
    if room < 2:
        return
    data = title.encode("utf-8", "surrogateescape")[: room - 1]
    _memmove(start, data.ljust(room, b"\0"), room)


def _title_room() -> tuple[int, int]:
    """Where the arguments of this process and of every fork of it are, and their size."""
    global _title  # noqa: PLW0603 - found once: forks need not look again
    if _title is None:
        fields = stat_fields("self")
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49
        _title = (start, end - start if start else 0)
    return _title


def close_from(first: int, *, cloexec: bool = False) -> None:
    """Close (or only mark close-on-exec) every descriptor from `first` on.

    Source: close_range(2).
    """
    _close_range(first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC if cloexec else 0, target=f"fds from {first}")


def close_except(keep: set[int], first: int = 3) -> None:
    """Close every descriptor from `first` on but those in `keep`."""
    start = first
    for number in sorted(n for n in keep if n >= first):
        if number > start:
            _close_range(start, number - 1, 0, target="fds")
        start = number + 1
    close_from(start)


def reset_signals() -> None:
    """Give what a parent may have left ignored its default action and unblock all; execve does the rest.

    The C library refuses the two signals that it keeps for itself, and execve would hand on that a parent ignores them.
    Source: rt_sigaction(2), signal(7).
    """
    for number in _OFTEN_IGNORED:
        handle_signal(number, SIGNAL_DEFAULT)
    for number in _OF_THREADS:
        _sigaction(number, _DEFAULT_ACTION, None, _SIGNAL_SET_BYTES, target="")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def interpreter_path() -> str:
    """The file of the running interpreter."""
    return sys.executable
