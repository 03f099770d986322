# SPDX-License-Identifier: Apache-2.0
"""Restart policies: what their words mean, when they want a container to run again, and after how long."""

from __future__ import annotations

import pytest

from oakum.errors import InvalidArgument
from oakum.model.restarts import RestartPolicy, next_delay_s, parse_policy, wants_restart


@pytest.mark.parametrize(
    ("text", "policy", "kept"),
    [
        ("", RestartPolicy("no"), ""),
        ("no", RestartPolicy("no"), ""),
        ("always", RestartPolicy("always"), "always"),
        ("unless-stopped", RestartPolicy("unless-stopped"), "unless-stopped"),
        ("on-failure", RestartPolicy("on-failure"), "on-failure"),
        ("on-failure:0", RestartPolicy("on-failure"), "on-failure"),
        ("on-failure:05", RestartPolicy("on-failure", 5), "on-failure:5"),
    ],
)
def test_words_of_policies(text: str, policy: RestartPolicy, kept: str) -> None:
    assert parse_policy(text) == policy
    assert policy.to_text() == kept
    assert parse_policy(kept) == policy


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "Always",
        "always:3",
        "no:1",
        ":",
        "on-failure:",
        "on-failure:-1",
        "on-failure:1:2",
        "on-failure:²",
    ],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_policy(text)


def test_a_number_too_large_for_docker_is_refused() -> None:
    assert parse_policy("on-failure:2147483647").max_retries == 2147483647
    for text in ("on-failure:2147483648", "on-failure:" + "9" * 5000):
        with pytest.raises(InvalidArgument):
            parse_policy(text)


@pytest.mark.parametrize(
    ("text", "exit_code", "count", "wanted"),
    [
        ("no", 1, 0, False),
        ("always", 0, 0, True),
        ("always", 137, 10_000, True),
        ("unless-stopped", 0, 7, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 137, 10_000, True),  # as an OOM kill ends it
        ("on-failure:2", 1, 1, True),
        ("on-failure:2", 1, 2, False),
        ("on-failure:2", 0, 1, False),
    ],
)
def test_when_a_policy_wants_another_run(text: str, exit_code: int, count: int, wanted: bool) -> None:
    assert wants_restart(parse_policy(text), exit_code, count) is wanted


def test_the_pause_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds() -> None:
    delays = [0.0]
    for _ in range(12):
        delays.append(next_delay_s(delays[-1], ran_s=9.9))
    assert delays[1:] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60])
    assert next_delay_s(60.0, ran_s=10.0) == 0.1
