# SPDX-License-Identifier: Apache-2.0
"""The event loop of zygote and shim: descriptors, timers and children on one thread, nothing that blocks.

Owns dispatch only. A callback must return soon; what is slow is a descriptor to wait for.
"""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

Callback = Callable[[], object]

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class Timer:
    """A callback that is due at a time; `cancel` may be called at any time, also afterwards."""

    __slots__ = ("callback", "due_s", "order")

    def __init__(self, due_s: float, order: int, callback: Callback) -> None:
        self.due_s = due_s
        self.order = order
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call it any more."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.due_s, self.order) < (other.due_s, other.order)


class _Watch:
    __slots__ = ("read", "write")

    def __init__(self, read: Callback | None, write: Callback | None) -> None:
        self.read = read
        self.write = write

    @property
    def events(self) -> int:
        return (_READ if self.read else 0) | (_WRITE if self.write else 0)


class Loop:
    """Waits for descriptors and timers and calls back, one at a time."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._watches: dict[int, _Watch] = {}
        self._timers: list[Timer] = []
        self._order = 0
        self._running = False
        self._wakeup: tuple[int, int] | None = None

    def watch(self, fd: int, *, read: Callback | None = None, write: Callback | None = None) -> None:
        """Call `read` or `write` whenever `fd` is ready for it; with neither, forget the descriptor.

        A descriptor must be forgotten before it is closed.
        """
        old = self._watches.get(fd)
        if read is None and write is None:
            if old is not None:
                del self._watches[fd]
                self._selector.unregister(fd)
            return
        new = _Watch(read, write)
        self._watches[fd] = new
        if old is None:
            self._selector.register(fd, new.events, new)
        else:
            self._selector.modify(fd, new.events, new)

    def later(self, delay_s: float, callback: Callback) -> Timer:
        """Call back once, after `delay_s` seconds."""
        self._order += 1
        timer = Timer(time.monotonic() + delay_s, self._order, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def on_child(self, callback: Callback) -> None:
        """Call back after SIGCHLD; several signals may come as one call."""
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = (read_fd, write_fd)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note_only)

        def drain() -> None:
            os.read(read_fd, 4096)
            callback()

        self.watch(read_fd, read=drain)

    def run(self) -> None:
        """Dispatch until `stop`."""
        self._running = True
        while self._running:
            for key, mask in self._selector.select(self._pause_s()):
                self._dispatch(key.fd, key.data, mask)
            self._run_due()

    def stop(self) -> None:
        """Return from `run` after the callbacks of this round."""
        self._running = False

    def abandon(self) -> None:
        """Let go of the loop in a forked child, without touching what it shares with the parent."""
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for fd in self._wakeup:
                os.close(fd)
        self._selector.close()
        self._watches.clear()
        self._timers.clear()

    def _pause_s(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0].due_s - time.monotonic())

    def _dispatch(self, fd: int, watch: _Watch, mask: int) -> None:
        # An earlier callback of this round may have closed the descriptor, and its number may live again.
        if mask & _READ and watch.read and self._watches.get(fd) is watch:
            _call(watch.read)
        if mask & _WRITE and watch.write and self._watches.get(fd) is watch:
            _call(watch.write)

    def _run_due(self) -> None:
        now_s = time.monotonic()
        while self._timers and self._timers[0].due_s <= now_s:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                _call(callback)


def _call(callback: Callback) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - edge of the process: one container's trouble must not end the others
        report()


def report() -> None:
    """Write the exception that is being handled to standard error, the log of zygote or shim."""
    sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType] - called while handling only
    sys.stderr.flush()


def _note_only(_number: int, _frame: object) -> None:
    """Nothing: the byte on the wakeup descriptor is what counts."""
