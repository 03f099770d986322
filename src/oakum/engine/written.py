# SPDX-License-Identifier: Apache-2.0
"""What containers have written to their own layers, counted now and then. Owns the age of the counts, not the counting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from oakum.backend.status import FilesystemUsage
from oakum.snapshots.protocol import Usage

# Counting what a container wrote walks its tree; the kubelet asks every 10 s.
_AGE_NS: Final = 10_000_000_000


class WrittenLayers:
    """The counts of one backend."""

    def __init__(self, measure: Callable[[str], Usage | None], mountpoint: Callable[[], str]) -> None:
        """`measure` counts one container's layer, or gives None where there is none to count."""
        self._measure = measure
        self._mountpoint = mountpoint
        self._guard = threading.Lock()
        self._known: dict[str, FilesystemUsage] = {}

    def of(self, container_id: str) -> FilesystemUsage | None:
        """What a container has written, at most ten seconds old; None where nothing can be counted."""
        now = time.time_ns()
        known = self._known.get(container_id)
        if known is not None and now - known.timestamp_ns < _AGE_NS:
            return known
        written = self._measure(container_id)
        if written is None:
            return None
        found = FilesystemUsage(
            timestamp_ns=now,
            mountpoint=self._mountpoint(),
            used_bytes=written.used_bytes,
            inodes_used=written.inodes,
        )
        with self._guard:
            self._known[container_id] = found
        return found

    def keep(self, container_ids: Collection[str]) -> None:
        """Forget all but these."""
        with self._guard:
            self._known = {key: known for key, known in self._known.items() if key in container_ids}
