# SPDX-License-Identifier: Apache-2.0
"""Which processes belong to an exec."""

from __future__ import annotations

from oakum.docker.tree import Process, family, new_mark


def process(pid: int, parent: int, session: int, *, group: int = 0, marked: bool = False) -> Process:
    return Process(pid, parent, group or session, session, marked)


def test_children_sessions_groups_and_marks_count_and_nothing_else() -> None:
    container = [process(10, 1, 10), process(11, 10, 10)]
    other = [process(90, 1, 90), process(91, 90, 90)]
    own = [
        process(20, 1, 20, marked=True),
        process(21, 20, 20),  # a child with a clean environment
        process(22, 10, 20),  # whose parent has ended
        process(23, 10, 23, marked=True),  # that has a session of its own
        process(24, 10, 23),
        process(25, 24, 25),
    ]
    assert family([*container, *other, *own], 20) == {20, 21, 22, 23, 24, 25}
    # its first process is gone, or was never known
    assert family([*container, *other, *own[1:]], 20) == {21, 22, 23, 24, 25}
    assert family([*container, *other, *own[3:]], 0) == {23, 24, 25}
    assert family([*container, *other], 0) == set()


def test_marks_differ() -> None:
    assert new_mark() != new_mark()
