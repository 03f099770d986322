# SPDX-License-Identifier: Apache-2.0
"""Staying with a process until it ends: signals go on to it, its terminal is pumped, its exit code comes back."""

from __future__ import annotations

import os

from oakum.linux import control
from oakum.linux.fd import Fd
from oakum.linux.terminal import set_size
from oakum.model.light import TYPE_CHECKING, signal
from oakum.oci.child import ContainerProcess

if TYPE_CHECKING:
    from typing import Any, Final

_CHUNK_BYTES: Final = 32768
# Ours, or about our own life with our terminal; all others are the container's.
_KEPT: Final = frozenset(
    {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGPIPE}
)


class Signals:
    """From its making on, signals wait to be read from a descriptor instead of ending this process."""

    def __init__(self) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._read, self._write = Fd(read_fd), Fd(write_fd)
        for number in signal.valid_signals() - {
            signal.SIGKILL,
            signal.SIGSTOP,
            signal.SIGCHLD,
            signal.SIGPIPE,
        }:
            try:
                signal.signal(number, _note)
            except OSError:  # the C library keeps 32 and 33
                continue
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """To poll for reading."""
        return self._read.fileno()

    def close(self) -> None:
        """For the end of this process: nothing is heard any more."""
        signal.set_wakeup_fd(-1)
        self._read.close()
        self._write.close()

    def arrived(self) -> list[int]:
        """The signals since the last call."""
        try:
            return list(os.read(self._read.fileno(), 4096))
        except BlockingIOError:
            return []


def _note(_number: int, _frame: Any) -> None:
    """The number has gone to the wake-up descriptor."""


def stay(process: ContainerProcess, signals: Signals, console: Fd | None) -> int:
    """Wait for the end of a child; its exit code, 128 + n when signal n ended it."""
    if console is None:
        return _wait(process, signals, None)
    with _Raw(0), console:
        pump = _Pump(console)
        return _wait(process, signals, pump)


def _wait(process: ContainerProcess, signals: Signals, pump: _Pump | None) -> int:
    always = {process.pidfd.fileno(): control.READABLE, signals.fileno(): control.READABLE}
    if pump is not None:
        pump.resize()
    while True:
        ready = control.wait_for(always if pump is None else {**always, **pump.wanted()})
        if signals.fileno() in ready:
            for number in signals.arrived():
                if number == signal.SIGWINCH and pump is not None:
                    pump.resize()
                elif number not in _KEPT:
                    process.signal(number)
        if pump is not None:
            pump.move(ready)
        if process.pidfd.fileno() in ready:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    if pump is not None:
        pump.drain()
    return code if code >= 0 else 128 - code


class _Pump:
    """Standard input to the terminal, the terminal to standard output."""

    def __init__(self, console: Fd) -> None:
        self._console = console
        self._input_open = True
        self._output_open = True
        os.set_blocking(console.fileno(), False)
        self._pending = b""

    def resize(self) -> None:
        """Give the terminal the size of ours, if we have one."""
        try:
            size = os.get_terminal_size(0)
        except OSError:
            return
        set_size(self._console.fileno(), size.lines, size.columns)

    def wanted(self) -> dict[int, int]:
        """What is waited for."""
        wanted: dict[int, int] = {}
        if self._output_open:
            wanted[self._console.fileno()] = control.READABLE | (control.WRITABLE if self._pending else 0)
        if self._input_open and not self._pending:
            wanted[0] = control.READABLE
        return wanted

    def move(self, ready: dict[int, int]) -> None:
        """Move what is there."""
        if self._input_open and 0 in ready:
            data = os.read(0, _CHUNK_BYTES)
            self._input_open = bool(data)
            self._pending += data
        if self._pending:
            try:
                self._pending = self._pending[os.write(self._console.fileno(), self._pending) :]
            except BlockingIOError:
                pass
            except OSError:
                self._pending, self._input_open = b"", False
        if self._output_open and self._console.fileno() in ready:
            self._out()

    def drain(self) -> None:
        """What the process wrote last."""
        while self._output_open and self._out():
            pass

    def _out(self) -> bool:
        """Whether anything was there to move."""
        try:
            data = os.read(self._console.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: all other ends are closed
            data = b""
        self._output_open = bool(data)
        while data:
            data = data[os.write(1, data) :]
        return self._output_open


class _Raw:
    """Our terminal handed through byte by byte while this lasts; nothing where standard input is none."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> None:
        if os.isatty(self._fd):
            # only people at terminals pay for these
            import termios
            import tty

            self._saved = termios.tcgetattr(self._fd)
            tty.setraw(self._fd)

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
