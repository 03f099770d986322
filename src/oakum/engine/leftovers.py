# SPDX-License-Identifier: Apache-2.0
"""What containers of the command line hold after their end, host ports and chosen addresses, given to who asks for it.

Their sandboxes stay, so that they start again as they were; as long as nobody else wants what they have.
"""

from __future__ import annotations

from oakum.backend.config import SandboxConfig
from oakum.engine.attachments import ADDRESS
from oakum.engine.context import Context
from oakum.engine.sandboxes import Sandboxes
from oakum.engine.states import is_due, read_exit, shim_lives
from oakum.engine.store.records import SandboxRecord


def make_room(context: Context, sandboxes: Sandboxes, config: SandboxConfig, *, sandbox_id: str = "") -> None:
    """Stop the sandboxes whose containers have ended and that have a host port or address of `config`.

    `sandbox_id` is the one that asks. Call it with no lock held: it waits for those of other sandboxes.
    """
    wanted = _wants(config)
    if not wanted:
        return
    for other in context.store.sandboxes():
        if other.id == sandbox_id or other.phase != "ready" or other.config.owner != "container":
            continue
        if wanted.isdisjoint(_wants(other.config)) or not _ended(context, other):
            continue
        with context.locks.holding(other.id):
            now = context.store.sandbox(other.id)
            # it may have been started again, or removed, while we waited
            if now is not None and now.phase == "ready" and _ended(context, now):
                sandboxes.finish_stop(now)


def _wants(config: SandboxConfig) -> set[tuple[str, str]]:
    ports = {(port.protocol, str(port.host_port)) for port in config.port_mappings if port.host_port}
    chosen = config.annotations.get(ADDRESS, "")
    return ports | {(config.network, address) for address in chosen.split(",") if address}


def _ended(context: Context, sandbox: SandboxRecord) -> bool:
    """Whether all of its containers have, and none is about to run again."""
    containers = context.store.containers_of(sandbox.id)
    for record in containers:
        ended = None if record.phase == "creating" else read_exit(context.layout.bundle(record.id))
        if ended is None or (is_due(record, ended) and shim_lives(sandbox)):
            return False
    return bool(containers)
