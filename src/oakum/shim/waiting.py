# SPDX-License-Identifier: Apache-2.0
"""The end of a process as something that clients wait for, each with a limit of its own."""

from __future__ import annotations

from collections.abc import Callable

from oakum.errors import DeadlineExceeded
from oakum.model.exits import ExitRecord
from oakum.shim.connection import Connection
from oakum.shim.loop import Loop, Timer

Told = Callable[[ExitRecord], None]


class Over:
    """An end that is known (`record`) or awaited."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.record: ExitRecord | None = None
        self._waiters: list[Told] = []

    def tell(self, record: ExitRecord) -> None:
        """It is over: tell everyone who waits, once."""
        self.record = record
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter(record)

    def add(self, waiter: Told) -> None:
        """Be told, now or later."""
        if self.record is not None:
            waiter(self.record)
        else:
            self._waiters.append(waiter)

    def discard(self, waiter: Told) -> None:
        """Do not be told any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)


def answer_when_over(
    loop: Loop,
    connection: Connection,
    over: Over,
    timeout_s: float | None,
    delivered: Callable[[], None] | None = None,
) -> None:
    """Answer a client with the record when there is one, or fail with DeadlineExceeded after `timeout_s`.

    `delivered` is called when the record was sent to a client that was still there.
    """
    timer: Timer | None = None

    def told(record: ExitRecord) -> None:
        if timer is not None:
            timer.cancel()
        connection.answer(record.to_dict())
        if delivered is not None and connection.open:
            delivered()

    def late() -> None:
        over.discard(told)
        connection.fail(DeadlineExceeded("wait", over.subject, f"it still runs after {timeout_s:g} s"))

    def gone() -> None:
        over.discard(told)
        if timer is not None:
            timer.cancel()

    if over.record is None:
        if timeout_s is not None:
            timer = loop.later(timeout_s, late)
        connection.when_gone = gone
    over.add(told)
