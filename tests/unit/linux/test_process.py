# SPDX-License-Identifier: Apache-2.0
"""Children that go on in Python, pidfds, sealed memory, and what a process shows of itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oakum.linux import pids, process
from oakum.linux.fd import is_open
from oakum.linux.libc import bind_call, c_int, c_size_t, c_void_p
from oakum.linux.sealed import sealed_memfd


def _child(body: Callable[[], int]) -> int:
    """Run `body` in a clone and give its exit code."""
    pid = process.clone(pidfd=True)
    if pid == 0:
        process.run_and_exit(body)
    assert pid.pidfd is not None
    pid.pidfd.close()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_clone_goes_on_in_python() -> None:
    assert _child(lambda: sum(range(10))) == 45


def test_a_bug_in_a_child_ends_it_without_the_parents_exit_handlers() -> None:
    null = os.open("/dev/null", os.O_WRONLY)

    def body() -> int:
        os.dup2(null, 2)
        raise RuntimeError("a bug")

    assert _child(body) == 70
    os.close(null)


def test_a_pidfd_signals_exactly_that_process() -> None:
    pid = process.clone(pidfd=True)
    if pid == 0:
        process.run_and_exit(lambda: signal.pause() or 0)
    assert pid.pidfd is not None
    with pid.pidfd as pidfd:
        pids.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(ProcessLookupError):
            pids.pidfd_send_signal(pidfd.fileno(), signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        pids.pidfd_open(pid)


def test_descriptors_are_closed_but_for_those_kept() -> None:
    def body() -> int:
        fds = [os.dup(0) for _ in range(6)]
        keep = {fds[1], fds[4]}
        process.close_except(keep)
        return 0 if {fd for fd in fds if is_open(fd)} == keep and is_open(1) else 1

    assert _child(body) == 0


def test_close_on_exec_can_be_set_for_all() -> None:
    def body() -> int:
        fd = os.dup(0)
        os.set_inheritable(fd, True)
        process.close_from(3, cloexec=True)
        return 0 if is_open(fd) and not os.get_inheritable(fd) else 1

    assert _child(body) == 0


def test_a_sealed_copy_cannot_be_changed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"code" * 5000)
    source = os.open(tmp_path / "f", os.O_RDONLY)
    with sealed_memfd("oak", source) as copy:
        os.close(source)
        assert os.pread(copy.fileno(), 30000, 0) == b"code" * 5000
        with pytest.raises(PermissionError):
            os.pwrite(copy.fileno(), b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(copy.fileno(), 0)


def test_name_title_and_dumpable() -> None:
    def body() -> int:
        process.set_name("oak-name-that-is-too-long")
        process.set_title("oakum: [test] stage")
        process.set_dumpable(False)
        process.set_no_new_privs()
        name = Path("/proc/self/comm").read_text()
        title = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0 ")
        status = Path("/proc/self/status").read_text()
        good = (
            name == "oak-name-that-i\n" and title.startswith(b"oakum: [test]") and "NoNewPrivs:\t1" in status
        )
        return 0 if good else 1

    assert _child(body) == 0


def test_signals_are_put_back_to_their_defaults() -> None:
    def body() -> int:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        action = bind_call("rt_sigaction", c_int, c_void_p, c_void_p, c_size_t)
        for reserved in (32, 33):  # some parents ignore these; the C library itself would refuse
            action(reserved, (1).to_bytes(8, sys.byteorder) + bytes(24), None, 8, target="")
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        process.reset_signals()
        lines = dict(
            line.split(":\t")
            for line in Path("/proc/self/status").read_text().splitlines()
            if line[:3] == "Sig"
        )
        return 0 if int(lines["SigIgn"], 16) == 0 and int(lines["SigBlk"], 16) == 0 else 1

    assert _child(body) == 0
