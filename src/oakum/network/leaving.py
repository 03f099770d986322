# SPDX-License-Identifier: Apache-2.0
"""Links of sandboxes that have left: looked after until the kernel has removed them, else deleted.

A link goes with its namespace, which costs nobody anything. But a connection whose peer does not answer keeps its
namespace for minutes, and there its address still answers: until the link is gone, nobody else gets that address.
"""

from __future__ import annotations

import time
from typing import Final

from oakum.errors import OakumError
from oakum.linux import rtnetlink
from oakum.network.database import LeavingRow
from oakum.network.parts import Parts
from oakum.network.retry import Retrier

# The kernel removes a namespace within a second; to delete a link meanwhile would only keep others waiting.
_DELETE_AFTER_S: Final = 2.0
# What a living process would have looked after by now.
_LEFT_BEHIND_S: Final = 10.0


class Leaving:
    """The links of one ROOT that are to go. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._retrier = Retrier(self._round, name="network-sweep")

    def close(self) -> None:
        """End the background thread; what is left is on disk, for the next process."""
        self._retrier.close()

    def wake(self) -> None:
        """Somebody has left: look after the links in the background."""
        self._retrier.wake()

    def look(self) -> None:
        """Delete what an ended process should have. Raises SystemFailure."""
        now_s = time.monotonic()
        if any(_is_older(row, now_s, _LEFT_BEHIND_S) for row in self._parts.database.leaving()):
            self.sweep()

    def sweep(self, delete_after_s: float = _DELETE_AFTER_S) -> bool:
        """Forget the links that are gone, delete those that stay; whether some are yet to go. Raises SystemFailure."""
        with self._parts.guard:
            rows = self._parts.database.leaving()
        gone: list[LeavingRow] = []
        there: list[LeavingRow] = []
        for row in rows:
            with self._parts.guard:
                link = rtnetlink.get_link(self._parts.route, row.host_interface)
            (gone if link is None else there).append(row)
        if gone:
            with self._parts.guard, self._parts.database.change():
                self._parts.database.forget(gone)
        now_s = time.monotonic()
        old = [row for row in there if _is_older(row, now_s, delete_after_s)]
        for row in old:
            # One by one, since each takes the kernel some 15 ms and sandboxes that start meanwhile are not to wait.
            with self._parts.guard, self._parts.database.change():
                if row in self._parts.database.leaving():
                    self._delete(row)
        return len(old) < len(there)

    def make_room(self, network: str, offset: int | None) -> bool:
        """Have an address free now, the one at `offset` if it is given; False where none waits. Within `change`."""
        for row in self._parts.database.leaving():
            if row.network == network and offset in (None, row.offset):
                self._delete(row)
                return True
        return False

    def _delete(self, row: LeavingRow) -> None:
        self._parts.route.execute([rtnetlink.delete_link(row.host_interface)])
        self._parts.database.forget([row])

    def _round(self) -> bool:
        try:
            if self.sweep():
                self._retrier.wake()
        except OakumError:
            return True  # the thread's edge: a full disk, say; the next round may fare better
        return False


def _is_older(row: LeavingRow, now_s: float, age_s: float) -> bool:
    """Whether a row has this age; one from the future is older than the machine's last start."""
    return not 0 <= now_s - row.since_s < age_s
