# SPDX-License-Identifier: Apache-2.0
"""Containers in another container's network (`--network container:NAME`): its namespace, host name, and files in /etc.

The container keeps a sandbox of its own, with an empty network: so either may end, start again or be removed without the
other. What it is in from its start is the network namespace that the other one's sandbox has then.
"""

from __future__ import annotations

import msgspec

from oakum.backend.config import SandboxConfig
from oakum.engine.catalog import Catalog
from oakum.engine.context import Context
from oakum.engine.sandboxes import hostname
from oakum.engine.states import shim_lives
from oakum.engine.store.records import SandboxRecord
from oakum.errors import FailedPrecondition

_OPERATION = "share network"


def resolved(context: Context, catalog: Catalog, config: SandboxConfig) -> SandboxConfig:
    """The configuration with the sandbox in place of the container that `network_of` names.

    Raises:
        NotFound: no such container.
        FailedPrecondition: it has no network of its own.
    """
    name = config.network_of
    other = context.store.sandbox(catalog.need(catalog.find(name).id).sandbox_id)
    if other is not None and other.config.network_of:
        other = context.store.sandbox(other.config.network_of)  # which is in a third one's itself
    if other is None:
        raise FailedPrecondition(
            _OPERATION, name, "the container that it shares its own network with is gone"
        )
    if other.config.namespaces.network == "node":
        raise FailedPrecondition(
            _OPERATION, name, "it is in the host's network", hint="so is a container with --network host"
        )
    return msgspec.structs.replace(
        config, network_of=other.id, hostname=config.hostname or hostname(other.config, other.id)
    )


def check(context: Context, record: SandboxRecord) -> None:
    """Refuse the start of what is to be in a network that is not there. Raises FailedPrecondition."""
    other = context.store.sandbox(record.config.network_of)
    name = record.config.metadata.name
    if other is None:
        raise FailedPrecondition(
            "start container", name, "the container whose network it shares was removed", hint="make it anew"
        )
    if other.phase != "ready" or not shim_lives(other):
        whose = other.config.metadata.name
        raise FailedPrecondition(
            "start container",
            name,
            f"container {whose}, whose network it shares, does not run",
            hint=f"oakum start {whose}",
        )
