# SPDX-License-Identifier: Apache-2.0
"""The part of a namespace that writes containers to disk and makes pods of that again. Owns no step of it: it loads who does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oakum.backend.config import ContainerConfig, SandboxConfig
    from oakum.backend.status import RestoredSandbox
    from oakum.engine.containers import Containers
    from oakum.engine.context import Context
    from oakum.engine.sandboxes import Sandboxes


class Checkpointer:
    """Fulfils `Checkpointing` for whoever has these."""

    _context: Context
    _sandboxes: Sandboxes
    _containers: Containers

    def checkpoint_container(self, container_id: str, location: str, *, timeout_s: int) -> None:
        """Write an archive of a running container, which goes on; see `engine.checkpoints`. Raises Unimplemented."""
        from oakum.engine import checkpoints  # hardly anybody asks for one

        checkpoints.write(self._context, self._containers, container_id, location, timeout_s=timeout_s)

    def checkpoint_sandbox(
        self, sandbox_id: str, directory: str, *, container_ids: Sequence[str] = ()
    ) -> None:
        """Write a pod's running containers into a new directory; see `engine.pod_checkpoints`. Raises Unimplemented."""
        from oakum.engine import pod_checkpoints  # as above

        pod_checkpoints.write(
            self._context,
            self._sandboxes,
            self._containers,
            sandbox_id,
            directory,
            container_ids=container_ids,
        )

    def restore_sandbox(
        self,
        path: str,
        config: SandboxConfig | None,
        *,
        runtime_handler: str = "",
        container_configs: Sequence[ContainerConfig] = (),
    ) -> RestoredSandbox:
        """Make a new pod of what `checkpoint_sandbox` wrote; see `engine.restores`. Raises Unimplemented."""
        from oakum.engine import restores  # as above

        return restores.restore(
            self._context,
            self._sandboxes,
            self._containers,
            path,
            config,
            runtime_handler=runtime_handler,
            container_configs=container_configs,
        )

    def thaw_sandbox(self, sandbox_id: str) -> str:
        """See `engine.pod_checkpoints.recover`."""
        from oakum.engine import pod_checkpoints  # as above

        return pod_checkpoints.recover(self._context, self._containers, sandbox_id)
