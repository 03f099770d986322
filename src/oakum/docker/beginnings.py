# SPDX-License-Identifier: Apache-2.0
"""A `Lookup` whose lists also have what Docker's lists lack: each running container's process and its beginning."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from oakum.backend.status import ContainerFilter, ContainerStatus, SandboxFilter, SandboxStatus
from oakum.engine.lookup import Lookup
from oakum.engine.stats import RUNNING
from oakum.errors import NotFound


class Beginnings:
    """Docker is asked once for each container that runs."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, ContainerStatus] = {}

    def container(self, container_id: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        return self._lookup.container(container_id)

    def sandbox(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        return self._lookup.sandbox(sandbox_id)

    def sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        """Those that match."""
        return self._lookup.sandboxes(wanted)

    def containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        """Those that match; what was removed meanwhile is left out."""
        found: list[ContainerStatus] = []
        for status in self._lookup.containers(wanted):
            whole = self._whole(status) if status.state in RUNNING else status
            if whole is not None:
                found.append(whole)
        if wanted == ContainerFilter():
            alive = {status.id for status in found if status.state in RUNNING}
            self._known = {key: status for key, status in self._known.items() if key in alive}
        return found

    def _whole(self, listed: ContainerStatus) -> ContainerStatus | None:
        known = self._known.get(listed.id)
        if known is None:
            try:
                known = self._known[listed.id] = self._lookup.container(listed.id)
            except NotFound:
                return None
        return msgspec.structs.replace(listed, pid=known.pid, started_at_ns=known.started_at_ns)
