# SPDX-License-Identifier: Apache-2.0
"""The event loop of zygote and shim: descriptors and timers on one thread, nothing that blocks.

Owns dispatch only. A callback must return soon; what is slow is a descriptor to wait for. Bare epoll and a plain list
of timers: `selectors` and `heapq` are more code than a fork should run that lives for a few milliseconds.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from typing import Final

Callback = Callable[[], object]
_Watch = tuple[Callback | None, Callback | None]

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
# Hang-ups and errors come unasked, and are for whoever watches.
_NOT_IN: Final = ~_IN
_NOT_OUT: Final = ~_OUT


class Timer:
    """A callback that is due at a time; `cancel` may be called at any time, also afterwards."""

    __slots__ = ("callback", "due_s")

    def __init__(self, due_s: float, callback: Callback) -> None:
        self.due_s = due_s
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call it any more."""
        self.callback = None


class Loop:
    """Waits for descriptors and timers and calls back, one at a time."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}
        self._timers: list[Timer] = []
        self._running = False

    def watch(self, fd: int, *, read: Callback | None = None, write: Callback | None = None) -> None:
        """Call `read` or `write` whenever `fd` is ready for it; with neither, forget the descriptor.

        A descriptor must be forgotten before it is closed.
        """
        known = fd in self._watches
        if read is None and write is None:
            if known:
                del self._watches[fd]
                self._epoll.unregister(fd)
            return
        self._watches[fd] = (read, write)
        events = (_IN if read else 0) | (_OUT if write else 0)
        if known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def later(self, delay_s: float, callback: Callback) -> Timer:
        """Call back once, after `delay_s` seconds."""
        timer = Timer(time.monotonic() + delay_s, callback)
        self._timers.append(timer)
        return timer

    def run(self) -> None:
        """Dispatch until `stop`."""
        self._running = True
        while self._running:
            # One at a time: a callback may close any descriptor, and its number may live again at once.
            for fd, mask in self._epoll.poll(self._pause_s(), 1):
                self._dispatch(fd, mask)
            if self._timers:
                self._run_due()

    @property
    def has_timers(self) -> bool:
        """Whether something is due at some time."""
        return any(timer.callback is not None for timer in self._timers)

    def stop(self) -> None:
        """Return from `run` after the callback that is under way."""
        self._running = False

    def abandon(self) -> None:
        """Let go of the loop in a forked child, without touching what it shares with the parent."""
        self._epoll.close()
        self._watches.clear()
        self._timers.clear()

    def _pause_s(self) -> float | None:
        due_s = None
        for timer in self._timers:
            if timer.callback is not None and (due_s is None or timer.due_s < due_s):
                due_s = timer.due_s
        return None if due_s is None else max(0.0, due_s - time.monotonic())

    def _dispatch(self, fd: int, mask: int) -> None:
        watch = self._watches.get(fd)
        if watch is None:
            return
        read, write = watch
        if read is not None and mask & _NOT_OUT:
            _call(read)
        if write is not None and mask & _NOT_IN and self._watches.get(fd) is watch:
            _call(write)

    def _run_due(self) -> None:
        now_s = time.monotonic()
        due = [timer for timer in self._timers if timer.callback is None or timer.due_s <= now_s]
        for timer in due:
            self._timers.remove(timer)
        due.sort(key=_due_s)
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                _call(callback)


def _due_s(timer: Timer) -> float:
    return timer.due_s


def _call(callback: Callback) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - edge of the process: one container's trouble must not end the others
        report()


def report() -> None:
    """Write the exception that is being handled to standard error, the log of zygote or shim."""
    sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType] - called while handling only
    sys.stderr.flush()


def ignore_signal(_number: int, _frame: object) -> None:
    """A handler that does nothing: unlike SIG_IGN it is not inherited by what is executed, and the loop still wakes."""
