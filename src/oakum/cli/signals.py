# SPDX-License-Identifier: Apache-2.0
"""Signals to this process, queued instead of breaking into what it does.

While a container is being made nothing may be torn apart: the request to stop is noted, and looked at between steps.
While it runs in the foreground the queue is what is passed on to it.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Final

_STOPPING: Final = frozenset([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
# Left alone: job control and what only concerns this process (signal(7)).
_OWN: Final = frozenset(
    int(number)
    for number in (
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGCONT,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGURG,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
_IMPATIENT: Final = 3


class SignalQueue:
    """Collects signals while the context lasts; `fileno()` becomes readable when one has come.

    With `everything` all signals that a container may want are taken, else those that ask to stop.
    """

    def __init__(self, *, everything: bool = False) -> None:
        numbers = signal.valid_signals() if everything else _STOPPING
        self._numbers = sorted(int(number) for number in numbers if int(number) not in _OWN)
        self._pending: list[int] = []
        self._saved: dict[int, Any] = {}
        self._interrupts = self._unheard = 0
        self._read_fd = self._write_fd = self._saved_wakeup_fd = -1
        self.passing_on = False
        """Set while somebody takes the signals; of those that come else the third request to stop raises KeyboardInterrupt."""

    def __enter__(self) -> SignalQueue:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._saved_wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in self._numbers:
            # a signal that was ignored from the start (nohup) stays ignored, as every filter program has it
            if signal.getsignal(number) != signal.SIG_IGN:
                self._saved[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._saved.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._saved_wakeup_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._pending.append(number)
        if number in (signal.SIGINT, signal.SIGTERM):
            self._interrupts += 1
            # Those that were heard have been answered: what follows from them is not torn apart by the next one.
            self._unheard += not self.passing_on
            if self._unheard >= _IMPATIENT and not self.passing_on:
                raise KeyboardInterrupt

    def fileno(self) -> int:
        """A descriptor to poll."""
        return self._read_fd

    @property
    def stop_requests(self) -> int:
        """How often SIGINT and SIGTERM have come."""
        return self._interrupts

    def stopping(self) -> int:
        """The first pending signal that asks to stop, or 0."""
        return next((number for number in self._pending if number in _STOPPING), 0)

    def cancelled(self) -> bool:
        """Whether a request to stop is pending."""
        return bool(self.stopping())

    def take(self) -> list[int]:
        """The pending signals, oldest first; they are no longer pending afterwards."""
        try:
            while os.read(self._read_fd, 4096):
                pass
        except BlockingIOError:
            pass
        pending, self._pending = self._pending, []
        return pending
