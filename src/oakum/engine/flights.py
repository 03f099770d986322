# SPDX-License-Identifier: Apache-2.0
"""Single flight within one process: a call whose twin is already running joins it and shares its outcome.

Across processes the locks of `engine.locks` and of the content store do the same. Owns no work itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from oakum.backend.protocols import PullProgress

T = TypeVar("T")


class Flight(Generic[T]):
    """One running piece of work and those who want its outcome."""

    def __init__(self) -> None:
        self.landed = threading.Event()
        self._guard = threading.Lock()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._listeners: list[PullProgress] = []
        self._abandons: list[Callable[[], bool]] = []

    def board(self, progress: PullProgress | None, cancelled: Callable[[], bool] | None) -> None:
        """One more caller: told of progress, and asked whether it still wants it."""
        with self._guard:
            if progress is not None:
                self._listeners.append(progress)
            self._abandons.append(cancelled or _never)

    def progress(self, digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        """Tell everybody on board."""
        with self._guard:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(digest, stage, done_bytes, total_bytes)

    def cancelled(self) -> bool:
        """Whether everybody on board has given up."""
        with self._guard:
            abandons = tuple(self._abandons)
        return all(ask() for ask in abandons)

    def land(self, result: T | None, error: BaseException | None) -> None:
        """The outcome, for everybody."""
        self._result, self._error = result, error
        self.landed.set()

    def outcome(self) -> T:
        """What came out of it; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value] - set together with landed


def _never() -> bool:
    return False


class Flights(Generic[T]):
    """The running work by key."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: dict[Hashable, Flight[T]] = {}

    def fly(
        self,
        key: Hashable,
        work: Callable[[Flight[T]], T],
        *,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> T:
        """The outcome of `work`, which runs at most once at a time for a key."""
        with self._guard:
            flight = self._running.get(key)
            first = flight is None
            if flight is None:
                flight = self._running[key] = Flight[T]()
            flight.board(progress, cancelled)
        if not first:
            flight.landed.wait()
            return flight.outcome()
        try:
            result = work(flight)
        except BaseException as error:
            self._land(key, flight, None, error)
            raise
        self._land(key, flight, result, None)
        return result

    def _land(self, key: Hashable, flight: Flight[T], result: T | None, error: BaseException | None) -> None:
        with self._guard:
            del self._running[key]
        flight.land(result, error)
