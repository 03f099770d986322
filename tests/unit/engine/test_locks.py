# SPDX-License-Identifier: Apache-2.0
"""Object locks: one holder at a time, freed by death, gone with their object."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from oakum.engine.locks import Locks, SharedLock
from oakum.errors import DeadlineExceeded


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(str(tmp_path / "locks"))


def test_a_lock_has_one_holder(locks: Locks) -> None:
    held = locks.acquire("a")
    assert locks.try_acquire("a") is None
    assert not locks.is_free("a")
    other = locks.acquire("b")
    other.release()
    held.release()
    again = locks.try_acquire("a")
    assert again is not None
    assert not again.waited
    again.release()


def test_waiting_has_an_end(locks: Locks) -> None:
    with locks.holding("a"), pytest.raises(DeadlineExceeded):
        locks.acquire("a", timeout_s=0.05)


def test_who_waited_knows_it(locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    held = locks.acquire("a")
    monkeypatch.setattr("oakum.engine.locks.time.sleep", lambda _: held.release())  # while one waits
    later = locks.acquire("a", timeout_s=60)
    assert later.waited
    later.release()


def test_a_lock_goes_with_its_object_and_waiters_get_the_new_one(locks: Locks) -> None:
    held = locks.acquire("a")
    got: list[bool] = []

    def wait() -> None:
        lock = locks.acquire("a")
        got.append(locks.try_acquire("a") is None)
        lock.release()

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    held.release(gone=True)
    for thread in threads:
        thread.join(60)
    assert got == [True] * 3


def test_asking_leaves_no_file(locks: Locks) -> None:
    assert locks.is_free("a")
    assert locks.names() == []


def test_a_forgotten_lock_is_removed_only_when_free(locks: Locks) -> None:
    with locks.holding("a"):
        assert not locks.forget("a")
    assert locks.forget("a")
    assert locks.names() == []


def test_death_frees_a_lock(locks: Locks, tmp_path: Path) -> None:
    program = (
        "import sys, time; from oakum.engine.locks import Locks;"
        f"Locks({str(tmp_path / 'locks')!r}).acquire('a'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert locks.try_acquire("a") is None
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        held = locks.try_acquire("a")
        assert held is not None
        held.release()


def test_many_may_share_or_one_may_exclude(tmp_path: Path) -> None:
    first, second = SharedLock(str(tmp_path / "l")), SharedLock(str(tmp_path / "l"))
    with first.shared(), second.shared(), first.shared(), second.exclusive() as alone:
        assert not alone
    with first.exclusive() as alone:
        assert alone
        with second.exclusive() as also:
            assert not also
