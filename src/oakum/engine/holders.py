# SPDX-License-Identifier: Apache-2.0
"""Who has a port or an address that is wanted, by the name that people know: networks know sandbox ids only.

Owns the wording. What the network says is "sandbox ID has ..." (`network.database`).
"""

from __future__ import annotations

from typing import Final

from oakum.engine.context import Context
from oakum.engine.store.records import SandboxRecord
from oakum.errors import AlreadyExists

_WORD: Final = "sandbox "
_LEAST: Final = 12


def by_name(context: Context, error: AlreadyExists, namespace: str) -> AlreadyExists:
    """The same refusal, with the container or pod of the sandbox that it speaks of; `namespace` is the caller's."""
    if not error.cause.startswith(_WORD):
        return error
    beginning, _, rest = error.cause.removeprefix(_WORD).partition(" ")
    found = [record for record in context.store.sandboxes() if record.id.startswith(beginning)]
    if len(beginning) < _LEAST or len(found) != 1:
        return error
    what, stop = _told(found[0], namespace)
    wanted = "another host port" if error.operation == "publish port" else "another address"
    return AlreadyExists(error.operation, error.subject, f"{what} {rest}", hint=f"{stop}, or choose {wanted}")


def _told(record: SandboxRecord, namespace: str) -> tuple[str, str]:
    name = record.config.metadata.name
    elsewhere = "" if record.namespace == namespace else f" of namespace {record.namespace}"
    command = f"oakum -n {record.namespace}" if elsewhere else "oakum"
    if record.config.owner == "container":
        return f"container {name}{elsewhere}", f"{command} stop {name}"
    pod = f"pod {record.config.metadata.namespace}/{name}{elsewhere}"
    return pod, f"{command} pod stop {record.id[:12]}"
