# SPDX-License-Identifier: Apache-2.0
"""How statistics, metrics and events find what there is, as a Protocol that each backend fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from oakum.backend.status import ContainerFilter, ContainerStatus, SandboxFilter, SandboxStatus

if TYPE_CHECKING:
    from oakum.engine.containers import Containers
    from oakum.engine.sandboxes import Sandboxes


class Lookup(Protocol):
    """The containers and sandboxes of one owner. Ids may be given by their beginning."""

    def container(self, container_id: str) -> ContainerStatus:
        """One container with all there is to say. Raises NotFound."""
        ...

    def sandbox(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox with all there is to say. Raises NotFound."""
        ...

    def containers(self, wanted: ContainerFilter = ...) -> Sequence[ContainerStatus]:
        """The containers that match, newest first, in one pass; a backend may leave out pid, end and user here."""
        ...

    def sandboxes(self, wanted: SandboxFilter = ...) -> Sequence[SandboxStatus]:
        """The sandboxes that match, newest first, in one pass; a backend may leave out the pid here."""
        ...


class NamespaceLookup:
    """The `Lookup` of one namespace of the native engine."""

    def __init__(self, sandboxes: Sandboxes, containers: Containers) -> None:
        self._sandboxes = sandboxes
        self._containers = containers

    def container(self, container_id: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        return self._containers.status(container_id)

    def sandbox(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        return self._sandboxes.status(sandbox_id)

    def containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        """Those that match."""
        return [status for _, status in self._containers.listed(wanted)]

    def sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        """Those that match."""
        return self._sandboxes.list(wanted)
