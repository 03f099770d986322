# SPDX-License-Identifier: Apache-2.0
"""The two pools: waiting holds up nobody, and what runs is counted to its end."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from oakum.api.cri.calls import Calls

who: ContextVar[str] = ContextVar("who", default="")


def test_quick_calls_pass_waiting_ones() -> None:
    async def story() -> None:
        calls, gate = Calls(quick_threads=1, patient_threads=1), threading.Event()
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(calls.patient(gate.wait, 20)) for _ in range(5)]
            assert await asyncio.wait_for(calls.quick(divmod, 7, 2), 5) == (3, 1)
            assert calls.running == 5
            gate.set()
        assert all(task.result() for task in waiting)
        assert calls.wait_idle(5)
        calls.close()

    asyncio.run(story())


def test_a_call_whose_client_left_is_still_counted() -> None:
    async def story() -> None:
        calls, began, gate = Calls(), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            gate.wait(60)

        task = asyncio.ensure_future(calls.patient(work))
        await asyncio.to_thread(began.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls.running == 1
        assert not calls.wait_idle(0.05)
        gate.set()
        assert calls.wait_idle(5)
        calls.close()

    asyncio.run(story())


def test_closing_drops_what_has_not_begun_and_wakes_who_waits() -> None:
    async def story() -> None:
        calls, gate = Calls(patient_threads=1), threading.Event()
        first = asyncio.ensure_future(calls.patient(gate.wait, 20))
        second = asyncio.ensure_future(calls.patient(gate.wait, 20))
        idle = asyncio.ensure_future(asyncio.to_thread(calls.wait_idle, 20))
        await asyncio.sleep(0.1)
        calls.close()
        assert not await asyncio.wait_for(idle, 5)
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        assert await first
        with pytest.raises(RuntimeError):
            await calls.quick(int)

    asyncio.run(story())


def test_threads_know_whom_they_work_for_and_errors_come_back() -> None:
    async def story() -> None:
        calls = Calls()
        who.set("rpc 1")
        assert await calls.quick(who.get) == "rpc 1"
        with pytest.raises(ZeroDivisionError):
            await calls.patient(divmod, 1, 0)
        assert calls.wait_idle(5)
        calls.close()

    asyncio.run(story())
