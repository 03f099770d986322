# SPDX-License-Identifier: Apache-2.0
"""Where Docker keeps what its containers write, and how much that is; Docker is asked once for each.

Its own statistics take two samples and a second each, so they are never asked for.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from oakum.docker.client import DockerClient
from oakum.errors import NotFound
from oakum.snapshots.protocol import Usage
from oakum.snapshots.tree import measure_tree, open_directory

_KNOWN_MAX: Final = 4096


class DockerLayers:
    """The writable layers of one Docker Engine."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._guard = threading.Lock()
        self._directories: dict[str, str] = {}

    def measure(self, container_id: str) -> Usage | None:
        """What a container has written; None where Docker's storage does not show it, or it is being removed."""
        try:
            directory = self._directory(container_id)
            if not directory:
                return None
            with open_directory(directory) as fd:
                return measure_tree(fd)
        except (OSError, NotFound):
            with self._guard:
                self._directories.pop(container_id, None)
            return None

    def _directory(self, container_id: str) -> str:
        known = self._directories.get(container_id)
        if known is None:
            facts: dict[str, Any] = self._client.get(f"/containers/{container_id}/json")
            driver: dict[str, Any] = facts.get("GraphDriver") or {"Data": None}
            data: dict[str, Any] = driver["Data"] or {}
            # overlay2; vfs and btrfs keep the whole file system there and say nothing of what was written
            known = str(data.get("UpperDir") or "")
            with self._guard:
                if len(self._directories) >= _KNOWN_MAX:  # of containers that are long gone, most of them
                    self._directories.clear()
                self._directories[container_id] = known
        return known
