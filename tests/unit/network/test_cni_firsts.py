# SPDX-License-Identifier: Apache-2.0
"""Plugins that make something once: the first run goes alone until one has succeeded, and no hanging one holds up all."""

from __future__ import annotations

import threading
from collections.abc import Callable

from oakum.network.cni.chain import Answer
from oakum.network.cni.firsts import Firsts

WELL, BADLY = Answer(0, b"{}"), Answer(1, b"")


class Runs:
    """Programs that begin at once and end when they are told to."""

    def __init__(self, firsts: Firsts) -> None:
        self._firsts = firsts
        self.began = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def begin(self, what: str = "portmap") -> Callable[[Answer], None]:
        over = threading.Event()
        answers: list[Answer] = []

        def program() -> Answer:
            self.began.release()
            assert over.wait(60)
            return answers[0]

        thread = threading.Thread(target=self._firsts.run, args=(what, program), daemon=True)
        self._threads.append(thread)
        thread.start()

        def end(answer: Answer) -> None:
            answers.append(answer)
            over.set()

        return end

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_the_first_goes_alone_and_the_others_together_once_it_has_succeeded() -> None:
    runs = Runs(Firsts(wait_s=60))
    first = runs.begin()
    assert runs.began.acquire(timeout=60)
    others = [runs.begin() for _ in range(3)]
    assert not runs.began.acquire(timeout=0.1)
    first(WELL)
    for _ in others:
        assert runs.began.acquire(timeout=60)
    for end in others:
        end(WELL)
    runs.join()


def test_after_a_failure_the_next_one_goes_alone() -> None:
    runs = Runs(Firsts(wait_s=60))
    ends = [runs.begin()]
    assert runs.began.acquire(timeout=60)
    second, third = runs.begin(), runs.begin()
    ends[0](BADLY)
    assert runs.began.acquire(timeout=60)
    assert not runs.began.acquire(timeout=0.1)
    second(WELL)
    third(WELL)
    runs.join()


def test_one_that_hangs_does_not_hold_up_the_others_and_other_plugins_do_not_wait_at_all() -> None:
    runs = Runs(Firsts(wait_s=0.05))
    hangs = runs.begin()
    assert runs.began.acquire(timeout=60)
    other = runs.begin("firewall")
    assert runs.began.acquire(timeout=60)
    beside = runs.begin()
    assert runs.began.acquire(timeout=60)
    for end in (hangs, other, beside):
        end(WELL)
    runs.join()
