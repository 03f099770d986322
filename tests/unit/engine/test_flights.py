# SPDX-License-Identifier: Apache-2.0
"""Single flight: twins of a running call share its work, its progress and its outcome."""

from __future__ import annotations

import threading
import time

import pytest

from oakum.engine.flights import Flight, Flights


def test_twins_do_the_work_once() -> None:
    flights: Flights[int] = Flights()
    calls: list[int] = []
    running, go_on = threading.Event(), threading.Event()
    outcomes: list[int] = []

    def work(flight: Flight[int]) -> int:
        calls.append(1)
        running.set()
        go_on.wait(60)
        return 7

    threads = [threading.Thread(target=lambda: outcomes.append(flights.fly("k", work))) for _ in range(3)]
    threads[0].start()
    running.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(flights._running["k"]._abandons) < 3:  # all three are on board
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert outcomes == [7, 7, 7]
    assert len(calls) == 1


def test_a_failure_is_shared_and_not_kept() -> None:
    flights: Flights[int] = Flights()
    joined = threading.Event()

    def fail(flight: Flight[int]) -> int:
        joined.wait(60)
        raise ValueError("broken")

    results: list[str] = []

    def one() -> None:
        with pytest.raises(ValueError, match="broken"):
            flights.fly("k", fail)
        results.append("failed")

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    joined.set()
    for thread in threads:
        thread.join(60)
    assert results == ["failed", "failed"]
    assert flights.fly("k", lambda flight: 3) == 3


def test_different_keys_fly_alone() -> None:
    flights: Flights[int] = Flights()
    assert flights.fly("a", lambda flight: flights.fly("b", lambda inner: 1) + 1) == 2


def test_everybody_hears_and_only_all_together_can_cancel() -> None:
    flight: Flight[int] = Flight()
    heard: list[str] = []
    wants_out = {"a": False, "b": False}
    for name in ("a", "b"):
        flight.board(
            lambda digest, stage, done_bytes, total_bytes, name=name: heard.append(f"{name} {stage}"),
            lambda name=name: wants_out[name],
        )
    flight.progress("d", "done", 1, 1)
    assert heard == ["a done", "b done"]
    wants_out["a"] = True
    assert not flight.cancelled()
    wants_out["b"] = True
    assert flight.cancelled()
