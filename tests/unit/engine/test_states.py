# SPDX-License-Identifier: Apache-2.0
"""What a caller is told follows from the row and from what lies on disk, without a shim."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from oakum.engine import states
from oakum.engine.store.records import ContainerRecord, ExitFacts
from oakum.model.exits import ExitRecord
from tests.unit.engine.test_database import container, sandbox

ENDED = ExitRecord(137, 9, True, 5, 6, "OOMKilled")


def state(record: ContainerRecord, *, ended: bool = False, alive: bool = True) -> str:
    facts = ExitFacts(**ENDED.to_dict()) if ended else None
    return states.container_state(record, facts, alive=alive)


@pytest.mark.parametrize(
    ("phase", "started", "paused", "ended", "alive", "wanted"),
    [
        ("created", 0, False, False, True, "created"),
        ("created", 0, False, False, False, "created"),
        ("starting", 0, False, False, True, "created"),
        ("starting", 0, False, False, False, "exited"),
        ("started", 5, False, False, True, "running"),
        ("started", 5, True, False, True, "paused"),
        ("started", 5, False, False, False, "exited"),
        ("started", 5, True, True, True, "exited"),
        ("started", 0, False, True, True, "exited"),
        ("removing", 0, False, False, True, "created"),
        ("removing", 5, False, False, True, "running"),
        ("removing", 5, False, True, True, "exited"),
    ],
)
def test_the_state_of_a_container(
    phase: str, started: int, paused: bool, ended: bool, alive: bool, wanted: str
) -> None:
    record = msgspec.structs.replace(
        container("c" * 64, "a" * 64, phase=phase), started_at_ns=started, paused=paused
    )
    assert state(record, ended=ended, alive=alive) == wanted


def test_a_container_whose_shim_was_killed_ended_in_an_unknown_way() -> None:
    record = msgspec.structs.replace(container("c" * 64, "a" * 64, phase="started"), started_at_ns=5, pid=7)
    status = states.container_status(record, None, "/b", alive=False, now_ns=lambda: 9)
    assert (status.state, status.exit_code, status.reason, status.finished_at_ns) == (
        "exited",
        255,
        "Unknown",
        9,
    )
    assert status.pid == 0


def test_the_record_that_a_shim_wrote_is_read_and_a_torn_one_is_none(tmp_path: Path) -> None:
    assert states.read_exit(str(tmp_path)) is None
    (tmp_path / "exit.json").write_text(json.dumps(ENDED.to_dict()))
    facts = states.read_exit(str(tmp_path))
    assert facts is not None
    assert (facts.exit_code, facts.oom_killed, facts.reason) == (137, True, "OOMKilled")
    (tmp_path / "exit.json").write_text('{"exit_code": 1')
    assert states.read_exit(str(tmp_path)) is None


def test_a_shim_is_known_by_more_than_its_number() -> None:
    here = msgspec.structs.replace(
        sandbox("a" * 64),
        boot_id=states.boot_id(),
        shim_pid=os.getpid(),
        shim_start=states.process_start(os.getpid()),
    )
    assert states.shim_lives(here)
    assert states.shim_seems_alive(here)
    assert not states.shim_lives(msgspec.structs.replace(here, shim_start=here.shim_start + 1))
    assert not states.shim_lives(msgspec.structs.replace(here, boot_id="another boot"))
    assert not states.shim_seems_alive(msgspec.structs.replace(here, boot_id="another boot"))
    assert not states.shim_lives(msgspec.structs.replace(here, shim_pid=2**22 + 5))


@pytest.mark.parametrize(
    ("phase", "alive", "wanted"),
    [
        ("ready", True, "ready"),
        ("ready", False, "not_ready"),
        ("stopped", True, "not_ready"),
        ("removing", True, "not_ready"),
    ],
)
def test_the_state_of_a_sandbox(phase: str, alive: bool, wanted: str) -> None:
    record = msgspec.structs.replace(
        sandbox("a" * 64, phase=phase), addresses=("10.0.0.2",), has_network=True
    )
    status = states.sandbox_status(record, "/run/pods/a", alive=alive)
    assert status.state == wanted
    assert bool(status.addresses) == (wanted == "ready")
    assert bool(status.netns_path) == (wanted == "ready")


@pytest.mark.parametrize(
    ("policy", "changes", "alive", "restarting"),
    [
        ("always", {}, True, True),
        ("on-failure:3", {"restart_count": 2}, True, True),
        ("on-failure:3", {"restart_count": 3}, True, False),
        ("", {}, True, False),
        ("always", {"stopped_by_user": True}, True, False),
        ("always", {"phase": "removing"}, True, False),
        ("always", {}, False, False),  # nobody is there to do it
    ],
)
def test_what_has_ended_is_restarting_if_its_policy_wants_it_and_its_shim_lives(
    policy: str, changes: dict[str, object], alive: bool, restarting: bool
) -> None:
    record = container("c" * 64, "a" * 64, phase="started")
    config = msgspec.structs.replace(record.config, restart=policy)
    record = msgspec.structs.replace(record, config=config, started_at_ns=5, **changes)
    ended = ExitFacts(**ENDED.to_dict())
    assert (
        states.container_status(record, ended, "/b", alive=alive, now_ns=lambda: 9).restarting is restarting
    )
    never = msgspec.structs.replace(ended, started_at_ns=0, reason="StartError")
    assert not states.container_status(record, never, "/b", alive=alive, now_ns=lambda: 9).restarting


def test_what_is_on_its_way_back_is_restarting_until_it_runs() -> None:
    record = container("c" * 64, "a" * 64, phase="created")
    found = [
        states.container_status(
            msgspec.structs.replace(record, **changes), None, "/b", alive=True, now_ns=lambda: 9
        ).restarting
        for changes in ({}, {"restart_count": 1}, {"restart_count": 1, "stopped_by_user": True})
    ]
    assert found == [False, True, False]
