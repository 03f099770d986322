# SPDX-License-Identifier: Apache-2.0
"""Signals in the queue: noted, taken, and the patience of who is not heard."""

from __future__ import annotations

import os
import signal

import pytest

from oakum.cli.signals import SignalQueue


def interrupt(times: int) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_third_request_to_stop_that_nobody_takes_breaks_in() -> None:
    with SignalQueue() as signals:
        interrupt(2)
        assert (signals.stop_requests, signals.cancelled()) == (2, True)
        with pytest.raises(KeyboardInterrupt):
            interrupt(1)


def test_what_follows_from_requests_that_were_heard_is_not_torn_apart_by_the_next_one() -> None:
    with SignalQueue() as signals:
        signals.passing_on = True
        interrupt(3)
        assert signals.take() == [signal.SIGINT] * 3
        signals.passing_on = False
        interrupt(2)
        assert signals.stop_requests == 5
        with pytest.raises(KeyboardInterrupt):
            interrupt(1)
