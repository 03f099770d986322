# SPDX-License-Identifier: Apache-2.0
"""Puts pytest under a small parent that adopts every process its tests leave behind.

Zygotes and shims detach themselves on purpose. With a child subreaper above pytest they stay findable: what is
still a descendant of that parent at the end of a test is what the test left, whoever else works on this machine.
The parent reaps them, so that a killed shim is gone and not a zombie, and ends them when pytest has ended. It also
owns the run's directory: what is mounted below is detached and the rest removed, even after a `kill -9` of pytest.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MARK = "OAKUM_TEST_REAPER"
_DIRECTORY = "OAKUM_TEST_DIRECTORY"


def _prctl(option: int, value: int) -> None:
    """Source: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def reaper_pid() -> int | None:
    """The parent that adopts what tests leave behind; None where `live_under_reaper` was not called."""
    marked = os.environ.get(_MARK)
    return int(marked) if marked else None


def run_directory() -> str:
    """A directory of this run's own, short enough for sockets below it."""
    return os.environ[_DIRECTORY]


def live_under_reaper() -> None:
    """Fork: the parent becomes the reaper and ends as the child does; the child returns and is pytest."""
    if os.environ.get(_MARK) == str(os.getppid()):
        return
    directory = tempfile.mkdtemp(prefix="oakum-t-")
    os.chmod(directory, 0o755)
    os.environ[_DIRECTORY] = directory
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.environ[_MARK] = str(parent)
        return
    _reap_until_end_of(child, directory)


def remove_directory(directory: str) -> None:
    """Detach every mount at or below `directory`, then remove it without crossing into another file system."""
    unmount_below(directory)
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=False, capture_output=True)


def unmount_below(directory: str) -> None:
    """Detach every mount at or below `directory`, newest first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        targets = [unescape(line.split(" ")[4]) for line in f]
    for target in reversed(targets):
        if target == directory or target.startswith(directory + "/"):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)


def unescape(text: str) -> str:
    """Source: proc_pid_mountinfo(5), octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def _reap_until_end_of(child: int, directory: str) -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to pytest itself too
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda got, _frame: os.kill(child, got))
    status = None
    while status is None:
        pid, how = os.waitpid(-1, 0)
        if pid == child:
            status = how
    _end_adopted()
    remove_directory(directory)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _end_adopted() -> None:
    """Kill what pytest left; children of the killed come to us in turn."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as f:
            left = [int(pid) for pid in f.read().split()]
        if not left:
            return
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
