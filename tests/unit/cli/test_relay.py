# SPDX-License-Identifier: Apache-2.0
"""The relay between our streams and a container: nothing lost, back-pressure, ends of all kinds.

The other side is a real socket that speaks the shim's frames, or real processes with pipes and terminals.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from oakum.cli.relay import ExecRelay, LocalStreams, Outlet, StreamRelay
from oakum.cli.signals import SignalQueue
from oakum.cli.terminal import DetachKeys
from oakum.errors import FailedPrecondition, Unavailable
from oakum.linux.fd import Fd
from oakum.model.exits import ExitRecord
from oakum.shim import frames
from tests.support.patience import patient

RECORD = ExitRecord(3, 0, False, 1, 2, "Error")


class Side:
    """Pipes that stand for our standard streams, and the shim's end of the stream."""

    def __init__(self) -> None:
        self.ours, self.shim = socket.socketpair()
        self.shim.settimeout(60)
        self.stdin_read, self.stdin_write = os.pipe()
        self.stdout_read, self.stdout_write = os.pipe()
        self.stderr_read, self.stderr_write = os.pipe()
        self.open = {
            self.stdin_read,
            self.stdin_write,
            self.stdout_read,
            self.stdout_write,
            self.stderr_read,
            self.stderr_write,
        }

    def local(self, **changes) -> LocalStreams:
        return LocalStreams(self.stdin_read, self.stdout_write, self.stderr_write)._replace(**changes)

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self.open):
            if fd in self.open:
                self.open.remove(fd)
                os.close(fd)

    def end(self, record: ExitRecord = RECORD) -> None:
        self.shim.sendall(frames.encode(frames.EXIT, json.dumps(record.to_dict()).encode()))


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    made.close()
    made.ours.close()
    made.shim.close()


@pytest.fixture
def signals() -> Iterator[SignalQueue]:
    with SignalQueue(everything=True) as queue:
        yield queue


def relayed(side: Side, signals: SignalQueue, on_signal: Callable[[int], bool] = lambda _: True, **changes):
    return StreamRelay(side.ours, side.local(**changes), signals, on_signal).run()


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def drain(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def test_output_goes_to_its_own_stream_and_the_exit_ends_it(side: Side, signals: SignalQueue) -> None:
    side.shim.sendall(frames.encode(frames.STDOUT, b"out\n") + frames.encode(frames.STDERR, b"err\n"))
    side.end()
    outcome = relayed(side, signals)
    assert outcome.record == RECORD
    assert drain(side.stdout_read) == b"out\n"
    assert drain(side.stderr_read) == b"err\n"


def test_a_stream_that_is_not_wanted_is_dropped(side: Side, signals: SignalQueue) -> None:
    side.shim.sendall(frames.encode(frames.STDOUT, b"out") + frames.encode(frames.STDERR, b"err"))
    side.end()
    relayed(side, signals, stdout_fd=-1)
    assert drain(side.stdout_read) == b""
    assert drain(side.stderr_read) == b"err"


def test_the_last_megabytes_before_the_exit_are_not_lost(side: Side, signals: SignalQueue) -> None:
    payload = os.urandom(1 << 20)

    def write() -> None:
        for start in range(0, len(payload), 16384):
            side.shim.sendall(frames.encode(frames.STDOUT, payload[start : start + 16384]))
        side.end()

    received = bytearray()

    def read() -> None:
        while len(received) < len(payload):
            received.extend(os.read(side.stdout_read, 65536))

    writer, reader = in_background(write), in_background(read)
    outcome = relayed(side, signals)
    writer.join()
    reader.join()
    assert outcome.record == RECORD
    assert bytes(received) == payload


def test_a_reader_that_sleeps_stops_the_container_not_the_memory(side: Side, signals: SignalQueue) -> None:
    sent = 0
    side.shim.setblocking(False)

    def write_until_stuck() -> None:
        nonlocal sent
        frame = frames.encode(frames.STDOUT, b"x" * 4096)
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.5:
            try:
                sent += side.shim.send(frame)
                quiet_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    writer = in_background(write_until_stuck)
    # the reader's pipe and the socket are full; a signal still gets through
    got: list[int] = []

    def stop(number: int) -> bool:
        got.append(number)
        side.close(side.stdout_read)
        return False

    outcome = relayed(side, signals, stop)
    writer.join()
    assert got == [signal.SIGINT]
    assert outcome.record is None
    assert sent < 4 << 20


def test_input_and_its_end_reach_the_container(side: Side, signals: SignalQueue) -> None:
    os.write(side.stdin_write, b"typed")
    side.close(side.stdin_write)
    found: list[tuple[int, bytes]] = []

    def shim() -> None:
        decoder = frames.Decoder()
        while not any(kind == frames.CLOSE_STDIN for kind, _ in found):
            found.extend(decoder.feed(side.shim.recv(4096)))
        side.end()

    thread = in_background(shim)
    relayed(side, signals)
    thread.join()
    assert found == [(frames.STDIN, b"typed"), (frames.CLOSE_STDIN, b"")]


def test_detach_keys_leave_at_once(side: Side, signals: SignalQueue) -> None:
    os.write(side.stdin_write, b"ls\x10\x11")
    outcome = relayed(side, signals, detach=DetachKeys(b"\x10\x11"))
    assert outcome.detached
    assert outcome.record is None


def test_a_reader_that_has_seen_enough_ends_it(side: Side, signals: SignalQueue) -> None:
    side.close(side.stdout_read)
    side.shim.sendall(frames.encode(frames.STDOUT, b"nobody reads this"))
    assert relayed(side, signals).broken_pipe


def test_a_closed_stderr_is_no_reason_to_stop(side: Side, signals: SignalQueue) -> None:
    side.close(side.stderr_read)
    side.shim.sendall(frames.encode(frames.STDERR, b"lost") + frames.encode(frames.STDOUT, b"kept"))
    side.end()
    assert relayed(side, signals).record == RECORD
    assert drain(side.stdout_read) == b"kept"


def test_signals_are_passed_on_in_order(side: Side, signals: SignalQueue) -> None:
    got: list[int] = []

    def note(number: int) -> bool:
        got.append(number)
        if number == signal.SIGTERM:
            side.end()
        return True

    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    relayed(side, signals, note)
    assert got == [signal.SIGUSR1, signal.SIGTERM]


def test_a_new_window_size_is_told(side: Side, signals: SignalQueue) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    found: list[tuple[int, bytes]] = []

    def shim() -> None:
        decoder = frames.Decoder()
        while len(found) < 1:
            found.extend(decoder.feed(side.shim.recv(4096)))
        termios.tcsetwinsize(slave, (50, 132))
        os.kill(os.getpid(), signal.SIGWINCH)
        while len(found) < 2:
            found.extend(decoder.feed(side.shim.recv(4096)))
        side.end()

    thread = in_background(shim)
    relayed(side, signals, terminal_fd=slave)
    thread.join()
    os.close(master)
    os.close(slave)
    sizes = [json.loads(payload) for kind, payload in found if kind == frames.RESIZE]
    assert sizes == [{"rows": 24, "columns": 80}, {"rows": 50, "columns": 132}]


def test_a_shim_that_vanishes_is_an_error(side: Side, signals: SignalQueue) -> None:
    side.shim.close()
    with pytest.raises(Unavailable, match="without an exit record"):
        relayed(side, signals)


def test_an_error_frame_is_raised_as_it_was(side: Side, signals: SignalQueue) -> None:
    error = FailedPrecondition("attach", "x", "too far behind")
    side.shim.sendall(frames.encode(frames.ERROR, json.dumps(error.to_dict()).encode()))
    with pytest.raises(FailedPrecondition, match="too far behind"):
        relayed(side, signals)


def test_an_outlet_that_was_closed_from_the_start_swallows() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    os.close(write_fd)
    outlet = Outlet(write_fd)
    assert outlet.broken
    outlet.add(b"x")
    assert len(outlet) == 0


# exec


class Process:
    """A real process in the place of an exec."""

    def __init__(self, *argv: str, stdin=subprocess.DEVNULL, console: Fd | None = None, **options) -> None:
        self._popen = subprocess.Popen(argv, stdin=stdin, **options)
        self.pid = self._popen.pid
        self.console_fd = console
        self.exec_id = "1"

    def wait(self, timeout_s: float | None = None) -> ExitRecord:
        code = self._popen.wait(timeout_s if timeout_s is not None else 20)
        return ExitRecord(code if code >= 0 else 128 - code, max(0, -code), False, 1, 2, "")

    def kill(self, signal_number: int = 9) -> None:
        self._popen.send_signal(signal_number)

    def close(self) -> None:
        if self.console_fd is not None:
            self.console_fd.close()


def exec_relayed(side: Side, signals: SignalQueue, process: Process, pipes: tuple[int, int, int], **changes):
    relay = ExecRelay(
        process,  # type: ignore[arg-type]
        pipes,
        side.local(**changes),
        signals,
        lambda _: True,
        close_stdin=lambda: os.close(pipes[0]),
    )
    try:
        return relay.run()
    finally:
        relay.close()


def test_an_exec_on_pipes_keeps_streams_apart_and_its_exit_code(side: Side, signals: SignalQueue) -> None:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    process = Process("sh", "-c", "echo out; echo err >&2; exit 7", stdout=out_write, stderr=err_write)
    os.close(out_write)
    os.close(err_write)
    outcome = exec_relayed(side, signals, process, (-1, out_read, err_read), stdin_fd=-1)
    assert outcome.record is not None
    assert outcome.record.exit_code == 7
    assert drain(side.stdout_read) == b"out\n"
    assert drain(side.stderr_read) == b"err\n"
    os.close(out_read)
    os.close(err_read)


def test_the_end_of_our_input_is_the_end_of_its_input(side: Side, signals: SignalQueue) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    os.set_blocking(in_write, False)
    process = Process("cat", stdin=in_read, stdout=out_write)
    os.close(in_read)
    os.close(out_write)
    os.write(side.stdin_write, b"through and through")
    side.close(side.stdin_write)
    outcome = exec_relayed(side, signals, process, (in_write, out_read, -1))
    assert outcome.record is not None
    assert outcome.record.exit_code == 0
    assert drain(side.stdout_read) == b"through and through"
    os.close(out_read)


def test_a_child_that_keeps_the_pipe_does_not_keep_us(side: Side, signals: SignalQueue) -> None:
    out_read, out_write = os.pipe()
    process = Process(
        "sh", "-c", "echo done; sleep 300 & echo $!", stdout=out_write, stderr=subprocess.DEVNULL
    )
    os.close(out_write)
    began = time.monotonic()
    outcome = exec_relayed(side, signals, process, (-1, out_read, -1), stdin_fd=-1)
    assert outcome.record is not None
    assert time.monotonic() - began < patient(10)
    done, child = drain(side.stdout_read).split()
    assert done == b"done"
    os.kill(int(child), signal.SIGKILL)
    os.close(out_read)


def test_an_exec_on_a_terminal_has_our_size(side: Side, signals: SignalQueue) -> None:
    ours_master, ours = pty.openpty()
    termios.tcsetwinsize(ours, (33, 101))
    master, slave = pty.openpty()
    read_fd, write_fd = os.pipe()  # the process waits until the size is set
    process = Process(
        "sh",
        "-c",
        f"read _ </proc/self/fd/{read_fd}; stty size",
        stdin=slave,
        stdout=slave,
        stderr=slave,
        pass_fds=(read_fd,),
        console=Fd(master),
    )
    os.close(slave)
    os.close(read_fd)
    os.set_blocking(master, False)
    relay = ExecRelay(
        process,  # type: ignore[arg-type]
        (-1, -1, -1),
        side.local(stdin_fd=-1, terminal_fd=ours),
        signals,
        lambda _: True,
        close_stdin=lambda: None,
    )
    os.write(write_fd, b"\n")
    outcome = relay.run()
    relay.close()
    process.close()
    assert outcome.record is not None
    assert drain(side.stdout_read) == b"33 101\r\n"
    for fd in (ours_master, ours, write_fd):
        os.close(fd)


# the signal queue


def test_the_queue_becomes_readable_and_is_emptied() -> None:
    with SignalQueue() as queue:
        assert not queue.cancelled()
        os.kill(os.getpid(), signal.SIGTERM)
        assert select.select([queue.fileno()], [], [], 5)[0]
        assert queue.cancelled()
        assert queue.stopping() == signal.SIGTERM
        assert queue.take() == [signal.SIGTERM]
        assert not queue.cancelled()
        assert not select.select([queue.fileno()], [], [], 0)[0]


def test_the_third_interrupt_is_taken_at_its_word() -> None:
    with SignalQueue() as queue:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert queue.stop_requests == 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalQueue() as queue:
            os.kill(os.getpid(), signal.SIGHUP)
            assert queue.take() == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_as_they_were_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with SignalQueue(everything=True):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
