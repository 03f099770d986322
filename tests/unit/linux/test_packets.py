# SPDX-License-Identifier: Apache-2.0
"""Packets with descriptors, waiting, and requests of open files, each through the C library."""

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.linux import control, packets
from oakum.linux.fd import Fd


@pytest.fixture
def pair() -> Iterator[tuple[Fd, Fd]]:
    left, right = packets.pair()
    with left, right:
        yield left, right


def test_packets_keep_apart_and_are_close_on_exec(pair: tuple[Fd, Fd]) -> None:
    left, right = (end.fileno() for end in pair)
    assert not os.get_inheritable(left)
    assert not os.get_inheritable(right)
    for data in (b"a", b"nul \0 inside", b"x" * 4096, b"y" * 4097, b"z" * 100_000):
        packets.send(left, data)
        packets.send(left, b"next")
        assert packets.receive(right, 1 << 20) == (data, [])
        assert packets.receive(right, 1 << 20) == (b"next", [])
    with pytest.raises(BlockingIOError):
        packets.receive(right, 100, wait=False)


def test_descriptors_arrive_close_on_exec(pair: tuple[Fd, Fd]) -> None:
    left, right = (end.fileno() for end in pair)
    for count in (1, 2, 3, packets.MAX_FDS):
        packets.send(left, b"take these", [0, *[left] * (count - 1)])
        data, fds = packets.receive(right, 100)
        assert (data, len(fds)) == (b"take these", count)
        assert os.path.samestat(os.fstat(fds[0]), os.fstat(0))
        assert all(os.path.samestat(os.fstat(fd), os.fstat(left)) for fd in fds[1:])
        assert not any(os.get_inheritable(fd) for fd in fds)
        for fd in fds:
            os.close(fd)


def test_a_socket_of_pythons_understands_them(pair: tuple[Fd, Fd]) -> None:
    left, right = pair
    with socket.socket(fileno=os.dup(right.fileno())) as other:
        packets.send(left.fileno(), b"there", [left.fileno()])
        data, fds, _, _ = socket.recv_fds(other, 100, 4)
        assert (data, len(fds)) == (b"there", 1)
        os.close(fds[0])
        socket.send_fds(other, [b"and ", b"back"], [0, 1, 2])
    data, fds = packets.receive(left.fileno(), 100)
    assert (data, len(fds)) == (b"and back", 3)
    for fd in fds:
        os.close(fd)


def test_too_long_and_nobody_there(pair: tuple[Fd, Fd]) -> None:
    left, right = pair
    packets.send(left.fileno(), b"12345")
    with pytest.raises(OSError, match="too long") as caught:
        packets.receive(right.fileno(), 4)
    assert caught.value.errno == errno.EMSGSIZE
    assert packets.receive(right.fileno(), 5) == (b"12345", [])
    left.close()
    assert packets.receive(right.fileno(), 5) == (b"", [])
    with pytest.raises(BrokenPipeError):
        packets.send(right.fileno(), b"x")
    with pytest.raises(BrokenPipeError):
        packets.send(right.fileno(), b"x", [0])


def test_descriptors_that_find_no_room_are_closed(pair: tuple[Fd, Fd]) -> None:
    import resource

    left, right = (end.fileno() for end in pair)
    packets.send(left, b"take these", [0, 0, 0])
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = next(number for number in range(3, soft) if str(number) not in before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # room for one
    try:
        with pytest.raises(OSError, match="cut off") as caught:
            packets.receive(right, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_ready_and_what_is_not(pair: tuple[Fd, Fd]) -> None:
    left, right = (end.fileno() for end in pair)
    both = {left: control.READABLE | control.WRITABLE, right: control.READABLE}
    assert control.wait_for({right: control.READABLE}, 0) == {}
    assert control.wait_for(both) == {left: control.WRITABLE}
    packets.send(left, b"x")
    assert control.wait_for(both) == {left: control.WRITABLE, right: control.READABLE}
    began = time.monotonic()
    assert control.wait_for({left: control.READABLE}, 20.5) == {}
    assert time.monotonic() - began >= 0.0205
    pair[0].close()
    assert control.wait_for(
        {right: 0}, 1e12
    )  # an end that was hung up is told unasked, and no time is too long


def test_a_signal_ends_neither_waiting_nor_receiving(pair: tuple[Fd, Fd]) -> None:
    left, right = (end.fileno() for end in pair)
    heard = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGUSR1)
        heard.wait(60)
        packets.send(left, b"at last")

    old = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        for wait in (
            lambda: control.wait_for({right: control.READABLE}),
            lambda: control.wait_for({right: control.READABLE}, 60_000),
            lambda: None,
        ):
            heard.clear()
            other = threading.Thread(target=interrupt)
            other.start()
            wait()
            assert packets.receive(right, 100) == (b"at last", [])
            assert heard.is_set()
            other.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_locks_of_both_kinds_keep_each_other_out(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "lock"
    path.touch()
    first, second = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for _ in range(2))
    control.flock(first, control.LOCK_EXCLUSIVE)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        control.flock(second, control.LOCK_SHARED | control.LOCK_NO_WAIT)
    control.flock(first, control.LOCK_SHARED)
    control.flock(second, control.LOCK_SHARED | control.LOCK_NO_WAIT)
    for fd in (first, second):
        os.close(fd)


def test_seals_and_sizes(tmp_path: Path) -> None:
    import fcntl
    import struct
    import termios

    memory = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    assert control.file_control(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW) == 0
    assert control.file_control(memory, fcntl.F_GET_SEALS) == fcntl.F_SEAL_GROW
    os.close(memory)
    file = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
    with pytest.raises(OSError, match="Invalid argument"):
        control.file_control(file, fcntl.F_GET_SEALS)
    os.close(file)
    master, slave = os.openpty()
    control.device_control(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    assert os.get_terminal_size(slave) == (80, 24)
    _, found = control.device_control(slave, termios.TIOCGWINSZ, bytes(8))
    assert struct.unpack("HHHH", found) == (24, 80, 0, 0)
    for fd in (master, slave):
        os.close(fd)
