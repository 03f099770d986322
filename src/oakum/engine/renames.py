# SPDX-License-Identifier: Apache-2.0
"""A container that gets another name: its row, its sandbox's, and what others find it by in their networks.

Everything else goes by id. The names in networks are owed from before the rows change, so whoever is killed, the next call
writes them.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from oakum.backend.config import ContainerConfig, SandboxConfig
from oakum.engine import creation, networks, sandboxes
from oakum.engine.catalog import Catalog
from oakum.engine.context import Context
from oakum.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument
from oakum.model.ids import check_name

_OPERATION = "rename container"
C = TypeVar("C", SandboxConfig, ContainerConfig)


def rename(context: Context, catalog: Catalog, text: str, name: str) -> None:
    """Give a container of the command line another name.

    Raises:
        NotFound: no such container.
        InvalidArgument: that is no name, or the one that it has.
        AlreadyExists: another container has the name.
        FailedPrecondition: it is a pod's.
    """
    check_name("container", name)
    found = catalog.need(catalog.find(text).id)
    with context.locks.holding(found.sandbox_id), context.locks.holding(found.id):
        record = catalog.need(found.id)
        sandbox = context.store.sandbox(record.sandbox_id)
        if sandbox is None:
            raise Internal("find sandbox", record.sandbox_id[:12], "its container is there, it is not")
        old = record.config.metadata.name
        if sandbox.config.owner != "container":
            raise FailedPrecondition(_OPERATION, old, "it is a pod's, and whoever runs the pod named it")
        if name == old:
            raise InvalidArgument(_OPERATION, repr(old), "it has this name")
        config = _named(record.config, name)
        sandbox_config = _named(sandbox.config, name)
        changed = msgspec.structs.replace(sandbox, config=sandbox_config)
        host = sandboxes.hostname(sandbox_config, sandbox.id)
        with networks.renaming(context, changed, host):
            try:
                context.store.rename(
                    msgspec.structs.replace(
                        record, config=config, name_key=creation.name_key(changed, config)
                    ),
                    changed,
                )
            except AlreadyExists as error:
                other = context.store.container_by_name(record.namespace, creation.name_key(changed, config))
                whose = f"container {other.id[:12]} has it" if other else error.cause
                raise AlreadyExists(_OPERATION, repr(name), whose, hint="choose another name") from error


def _named(config: C, name: str) -> C:
    return msgspec.structs.replace(config, metadata=msgspec.structs.replace(config.metadata, name=name))
