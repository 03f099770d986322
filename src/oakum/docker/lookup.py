# SPDX-License-Identifier: Apache-2.0
"""How the parts of the dockershim find containers and sandboxes, as a Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from oakum.backend.status import ContainerFilter, ContainerStatus, SandboxFilter, SandboxStatus


class Lookup(Protocol):
    """Our objects in Docker. Ids may be given by their beginning."""

    def container(self, container_id: str) -> ContainerStatus:
        """One container with all there is to say. Raises NotFound."""
        ...

    def sandbox(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox with all there is to say. Raises NotFound."""
        ...

    def containers(self, wanted: ContainerFilter = ...) -> Sequence[ContainerStatus]:
        """The containers that match, newest first, by one call of Docker: without pid, end and user."""
        ...

    def sandboxes(self, wanted: SandboxFilter = ...) -> Sequence[SandboxStatus]:
        """The sandboxes that match, newest first, by one call of Docker: without pid."""
        ...
