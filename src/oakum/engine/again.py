# SPDX-License-Identifier: Apache-2.0
"""A container that has ended, started once more: what people know from `docker start`. Owns the way back only.

A kubelet makes a new container instead, so a pod's containers are started once. What comes back is the container's own
root file system, its volumes, log, name, address options and published ports; the pod around it too, when a
reboot or a stop took that away. Every step may be the last one of a killed process: the next call does the rest.
"""

from __future__ import annotations

import msgspec

from oakum.engine import pods
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.leftovers import make_room
from oakum.engine.sandboxes import Sandboxes
from oakum.engine.states import shim_lives
from oakum.engine.storage import storing
from oakum.engine.store.records import ContainerRecord, SandboxRecord
from oakum.errors import FailedPrecondition, Internal
from oakum.linux.durable import reserve


def rearm(context: Context, sandboxes: Sandboxes, containers: Containers, container_id: str) -> None:
    """Bring a container that has ended back to where it can be started; nothing to do for one that was not started.

    Raises:
        NotFound: no such container.
        FailedPrecondition: it runs, or is one of a pod's.
    """
    found = containers.need(container_id)
    asking = context.store.sandbox(found.sandbox_id)
    if asking is not None:
        make_room(context, sandboxes, asking.config, sandbox_id=asking.id)
    with context.locks.holding(found.sandbox_id), context.locks.holding(found.id):
        record = containers.need(found.id)
        sandbox = context.store.sandbox(record.sandbox_id)
        if sandbox is None:
            raise Internal("find sandbox", record.sandbox_id[:12], "its container is there, it is not")
        _check(record, sandbox, containers.state(record))
        if sandbox.phase != "ready" or not shim_lives(sandbox):
            sandboxes.revive(sandbox)
        if record.phase != "created":
            reset(context, containers, containers.need(found.id))
        elif record.restart_count or record.stopped_by_user:
            # It was stopped between two steps of a restart.
            context.store.update_container(
                msgspec.structs.replace(record, restart_count=0, restart_delay_s=0.0, stopped_by_user=False)
            )


def _check(record: ContainerRecord, sandbox: SandboxRecord, state: str) -> None:
    ready = sandbox.phase == "ready" and shim_lives(sandbox)
    if state not in ("created", "exited"):
        raise FailedPrecondition("start container", record.id[:12], f"it is {state}")
    if sandbox.config.owner != "container" and not (ready and state == "created"):
        raise FailedPrecondition(
            "start container",
            record.id[:12],
            "it has ended, and a container of a pod is started once",
            hint="the kubelet makes a new one",
        )


def reset(
    context: Context,
    containers: Containers,
    record: ContainerRecord,
    *,
    restart_count: int = 0,
    restart_delay_s: float = 0.0,
) -> None:
    """Make a container that has ended one that was not started. Both locks are the caller's. Idempotent."""
    # The end stays in the row until the very last step, so that between any two the container is one that has ended.
    record = pods.settle(context, record)
    containers.forget_in_shim(record)
    bundle = context.layout.bundle(record.id)
    pods.forget_exit(bundle)
    with storing("keep room for the exit record", bundle):
        reserve(f"{bundle}/exit.json")
    context.store.update_container(
        msgspec.structs.replace(
            record,
            phase="created",
            exit=None,
            pid=0,
            started_at_ns=0,
            paused=False,
            user=None,
            warnings=(),
            restored_from="",
            restart_count=restart_count,
            restart_delay_s=restart_delay_s,
            stopped_by_user=False,
        )
    )
