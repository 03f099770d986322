# SPDX-License-Identifier: Apache-2.0
"""A `LayerTarget` of plain directories, for tests of unpacking that do not need a snapshotter."""

from __future__ import annotations

import os
import shutil
import threading


class DirectoryTarget:
    """Layers under `directory`/layers, layers being filled under `directory`/open."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        self.parents: dict[str, str] = {}
        self.opened: list[str] = []
        self.committed: list[str] = []
        self.abandoned: list[str] = []
        self._lock = threading.Lock()
        for folder in ("layers", "open"):
            os.makedirs(os.path.join(self.directory, folder), exist_ok=True)

    def path(self, chain_id: str) -> str:
        return os.path.join(self.directory, "layers", chain_id.partition(":")[2])

    def open_layer(self, chain_id: str, parent_chain_id: str) -> str | None:
        with self._lock:
            self.parents[chain_id] = parent_chain_id
            if os.path.isdir(self.path(chain_id)):
                return None
            path = self._open_path(chain_id)
            os.mkdir(path)
            self.opened.append(chain_id)
            return path

    def commit_layer(self, chain_id: str) -> None:
        os.rename(self._open_path(chain_id), self.path(chain_id))
        self.committed.append(chain_id)

    def abandon_layer(self, chain_id: str) -> None:
        shutil.rmtree(self._open_path(chain_id), ignore_errors=True)
        self.abandoned.append(chain_id)

    def layer_directories(self, chain_id: str) -> list[str]:
        found: list[str] = []
        while chain_id:
            found.append(self.path(chain_id))
            chain_id = self.parents[chain_id]
        return found

    def leftovers(self) -> list[str]:
        """Layers that are neither committed nor abandoned."""
        return os.listdir(os.path.join(self.directory, "open"))

    def _open_path(self, chain_id: str) -> str:
        return os.path.join(self.directory, "open", chain_id.partition(":")[2])
