# SPDX-License-Identifier: Apache-2.0
"""The end of a pod's shim, and in its stead what it would have done for its containers. Owns no phases and no locks."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import msgspec

from oakum.engine.context import Context
from oakum.engine.states import read_exit, shim_lives, unknown_end
from oakum.engine.storage import storing
from oakum.engine.store.records import ContainerRecord, ExitFacts, SandboxRecord
from oakum.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from oakum.linux.durable import write_reserved

if TYPE_CHECKING:
    from oakum.shim.client import ShimClient

_SHIM_UP_S = 10.0
_POLL_S = 0.01


def end_shim(context: Context, sandbox_id: str, record: SandboxRecord | None) -> None:
    """End a sandbox's shim with all it holds; do its work where it is dead. Idempotent.

    A shim whose requester was killed may still be on its way up: it holds its lock, but does not listen yet. One
    that hangs is killed: a pod must not be kept from going by what was to help it.

    Raises:
        FailedPrecondition: it neither answers nor dies.
    """
    from oakum.shim.client import ShimClient, cleanup_directory  # only what ends something talks to a shim

    pod = context.layout.pod(sandbox_id)
    deadline = time.monotonic() + _SHIM_UP_S
    while os.path.isdir(pod):
        try:
            with ShimClient.connect(pod) as client:
                client.shutdown()
                return
        except Unavailable:
            pass  # nobody listens: it is dead, or not up yet
        except DeadlineExceeded:
            if record is None or not shim_lives(record):
                raise
            os.kill(record.shim_pid, signal.SIGKILL)
        try:
            cleanup_directory(pod, record.cgroup_path if record is not None and record.owns_cgroup else "")
            return
        except FailedPrecondition:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def settle(context: Context, container: ContainerRecord) -> ContainerRecord:
    """Take a container's end into its row, an unknown one if its shim left none. For shims that are gone."""
    if container.exit is not None or container.phase not in ("starting", "started"):
        return container
    bundle = context.layout.bundle(container.id)
    ended = read_exit(bundle)
    if ended is None:
        ended = unknown_end(container, time.time_ns())
        write_exit(bundle, ended)
    settled = msgspec.structs.replace(
        container, phase="started", exit=ended, started_at_ns=container.started_at_ns or ended.started_at_ns
    )
    context.store.update_container(settled)
    return settled


def ask_shim(client: ShimClient, record: ContainerRecord, bundle: str) -> ContainerRecord:
    """How far a start has come, by what the shim knows of the container: its row to be; what was only created is deleted."""
    known = next((c for c in client.containers() if c.container_id == record.id), None)
    if known is not None and known.state not in ("creating", "created"):
        # When exactly it began is in its exit record one day; until then it is when we found out.
        return msgspec.structs.replace(
            record, phase="started", pid=known.pid, started_at_ns=time.time_ns(), restored_from=""
        )
    if known is not None:
        client.delete(record.id)
        # The end of a process that never became the container's is not the container's end.
        forget_exit(bundle)
    return msgspec.structs.replace(record, phase="created")


def write_exit(bundle: str, ended: ExitFacts) -> None:
    """Write an exit record as a shim does."""
    # The shim's reader wants every field, also those that are at their default.
    fields = {name: getattr(ended, name) for name in ExitFacts.__struct_fields__}
    with storing("write exit record", bundle):
        write_reserved(f"{bundle}/exit.json", msgspec.json.encode(fields))


def forget_exit(bundle: str) -> None:
    """Remove an exit record; succeeds when there is none."""
    try:
        os.unlink(f"{bundle}/exit.json")
    except FileNotFoundError:
        pass  # the usual case


def remove_cgroup(context: Context, path: str) -> None:
    """Kill what is left in a container's cgroup and remove it. For containers whose shim is gone. Idempotent.

    Raises:
        SystemFailure: something in it cannot be killed.
    """
    from oakum.oci.cgroups import Cgroup  # recovery's business

    group = Cgroup(context.cgroups, path)
    if group.exists():
        group.kill_all()
        group.remove()
