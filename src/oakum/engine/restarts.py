# SPDX-License-Identifier: Apache-2.0
"""Restart policies of the command line's containers: changed, followed when a shim says so, and by a server that starts.

The shim waits and runs `engine.restarter`, which calls `restart`. Whether a container is about to run again follows
from its row and its exit record (`states.is_due`). Owns no arithmetic: `model.restarts`.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from oakum.engine import again, creation
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.states import is_due, read_exit, shim_lives
from oakum.engine.store.records import ContainerRecord, ExitFacts
from oakum.errors import FailedPrecondition
from oakum.model import restarts
from oakum.model.restarts import parse_policy

# A shim that is at it starts it, or begins another try, within half of this.
_OVERDUE_NS: Final = 120 * 1_000_000_000


def change_policy(context: Context, containers: Containers, container_id: str, text: str) -> None:
    """Have another policy from now on.

    Raises:
        InvalidArgument: there is no such policy.
        FailedPrecondition: the container is one of a pod's.
    """
    policy = parse_policy(text)
    found = containers.need(container_id)
    with context.locks.holding(found.id):
        record = containers.need(found.id)
        sandbox = context.store.sandbox(record.sandbox_id)
        if sandbox is None or sandbox.config.owner != "container":
            raise FailedPrecondition(
                "update container", record.id[:12], "a pod's container is restarted by its kubelet"
            )
        changed = msgspec.structs.replace(
            record, config=msgspec.structs.replace(record.config, restart=policy.to_text())
        )
        if containers.state(record) in ("running", "paused"):
            with containers.connect(sandbox.id) as client:
                client.change_restart(record.id, creation.restart_request(context, changed))
        context.store.update_container(changed)


def restart(context: Context, containers: Containers, container_id: str) -> None:
    """Start a container whose policy wants it, as its shim has been told to; else nothing.

    Idempotent: what a killed predecessor began is finished. Raises OakumError: it is to be tried again.
    """
    found = context.store.container(container_id)
    if found is None:
        return
    with context.locks.holding(found.sandbox_id) as pods, context.locks.holding(found.id) as own:
        record = context.store.container(found.id)
        sandbox = context.store.sandbox(found.sandbox_id)
        if record is None or sandbox is None:
            own.release(gone=record is None)
            pods.release(gone=sandbox is None)
            return
        if record.phase in ("creating", "removing"):
            return
        if sandbox.phase != "ready" or not shim_lives(sandbox):
            return
        if record.phase == "starting":
            record = containers.finish_start(record)
        if record.phase == "created":
            # Between the last two steps of a restart somebody was killed; else it was never started.
            if record.stopped_by_user or not record.restart_count:
                return
        else:
            ended = record.exit or read_exit(context.layout.bundle(record.id))
            if ended is None or not is_due(record, ended):
                return
            again.reset(
                context,
                containers,
                record,
                restart_count=record.restart_count + 1,
                restart_delay_s=_delay_s(record, ended),
            )
        containers.start_locked(containers.need(record.id))


def _delay_s(record: ContainerRecord, ended: ExitFacts) -> float:
    return restarts.next_delay_s(
        record.restart_delay_s, (ended.finished_at_ns - ended.started_at_ns) / 1_000_000_000
    )


def owed(context: Context) -> list[tuple[str, str]]:
    """Namespace and id of the containers that a server starts when it starts: after a reboot, or their shim's death.

    As docker's daemon does: "always" also after a user's stop, "unless-stopped" not, "on-failure" never.
    """
    return [
        (record.namespace, record.id) for record in context.store.containers() if _is_owed(context, record)
    ]


def _is_owed(context: Context, record: ContainerRecord) -> bool:
    name = parse_policy(record.config.restart).name
    if name not in (restarts.ALWAYS, restarts.UNLESS_STOPPED):
        return False
    if name == restarts.UNLESS_STOPPED and record.stopped_by_user:
        return False
    sandbox = context.store.sandbox(record.sandbox_id)
    if sandbox is None:
        return False
    if record.phase == "created":  # on its way back when its shim died
        return record.restart_count > 0 and not shim_lives(sandbox)
    ended = record.exit or read_exit(context.layout.bundle(record.id))
    if record.phase != "started" or ended is None:
        return False
    late = time.time_ns() - ended.finished_at_ns > _OVERDUE_NS
    return late or not (shim_lives(sandbox) and is_due(record, ended))  # else its shim is at it
