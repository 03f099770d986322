# SPDX-License-Identifier: Apache-2.0
"""The table of a container's life: the stories that must work, and that nothing else does."""

import pytest

from oakum.errors import FailedPrecondition
from oakum.shim import lifecycle
from oakum.shim.lifecycle import TABLE, allowed, follow


def live(*events: str) -> str:
    state = lifecycle.CREATING
    for event in events:
        state = follow(event, state, "c1")
    return state


@pytest.mark.parametrize(
    ("events", "end"),
    [
        (("created", "start", "executed", "ended", "recorded", "delete"), lifecycle.GONE),
        (("created", "start", "executed", "pause", "resume", "ended"), lifecycle.ENDING),
        (("created", "ended", "recorded"), lifecycle.EXITED),
        (("created", "start", "ended", "recorded"), lifecycle.EXITED),
        (("created", "start", "executed", "pause", "ended"), lifecycle.ENDING),
        (("failed",), lifecycle.GONE),
    ],
)
def test_lives(events: tuple[str, ...], end: str) -> None:
    assert live(*events) == end


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("start", lifecycle.RUNNING),
        ("start", lifecycle.EXITED),
        ("exec", lifecycle.CREATED),
        ("exec", lifecycle.PAUSED),
        ("pause", lifecycle.CREATED),
        ("resume", lifecycle.RUNNING),
        ("signal", lifecycle.EXITED),
        ("attach", lifecycle.EXITED),
        ("delete", lifecycle.RUNNING),
    ],
)
def test_what_does_not_fit_the_state_is_refused_and_says_the_state(event: str, state: str) -> None:
    assert not allowed(event, state)
    with pytest.raises(FailedPrecondition, match=f"c1: it is {state}"):
        follow(event, state, "c1")


def test_nothing_happens_to_what_is_gone_and_every_state_is_known() -> None:
    for event, row in TABLE.items():
        assert lifecycle.GONE not in row, event
        assert set(row) | set(row.values()) <= set(lifecycle.STATES)


def test_every_state_but_the_last_has_a_way_to_the_end() -> None:
    ends = {lifecycle.GONE}
    while True:
        more = {s for row in TABLE.values() for s, after in row.items() if after in ends} - ends
        if not more:
            break
        ends |= more
    assert ends == set(lifecycle.STATES)


def test_an_exit_is_told_only_after_it_was_recorded() -> None:
    before_exited = {s for row in TABLE.values() for s, after in row.items() if after == lifecycle.EXITED}
    assert before_exited - {lifecycle.EXITED} == {lifecycle.ENDING}
