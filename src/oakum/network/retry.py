# SPDX-License-Identifier: Apache-2.0
"""Repeating what failed, in the background, more and more patiently. Knows nothing of networks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0


class Retrier:
    """Calls `step` from a thread of its own until it says that nothing is left to do."""

    def __init__(self, step: Callable[[], bool], *, name: str, first_pause_s: float = FIRST_PAUSE_S) -> None:
        """`step` does one round and returns whether it is to be repeated; its thread is started by `wake`."""
        self._step = step
        self._name = name
        self._first_pause_s = first_pause_s
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is something to do; begins after the first pause."""
        with self._guard:
            self._wanted = True
            if self._closed.is_set() or self._thread is not None:
                return
            # A daemon: a command line that ends does not wait. What is owed is on disk.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread after the round that it is in; `wake` does nothing any more."""
        self._closed.set()
        with self._guard:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        pause_s = self._first_pause_s
        while not self._closed.wait(pause_s):
            with self._guard:
                self._wanted = False
            if self._step():
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            with self._guard:
                if not self._wanted:
                    self._thread = None
                    return
            pause_s = self._first_pause_s
