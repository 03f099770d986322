# SPDX-License-Identifier: Apache-2.0
"""Root file systems as plain copies, for hosts where ROOT cannot carry an overlay (it is one itself, for instance).

Slow and large beside an overlay, but the same to a container. Layers are kept in the same form.
"""

from __future__ import annotations

import os

from oakum.model.rootfs import RootfsSource
from oakum.snapshots.merge import merge_layer
from oakum.snapshots.store import DirectoryStore
from oakum.snapshots.tree import open_directory


class CopySnapshotter(DirectoryStore):
    """Snapshots that work on every file system."""

    kind = "copy"

    def _build(self, directory: str, chain_id: str) -> None:
        os.mkdir(f"{directory}/fs", 0o755)
        os.chmod(f"{directory}/fs", 0o755)  # noqa: S103 - as a root directory is; the umask has no say
        with open_directory(f"{directory}/fs") as target_fd:
            for layer in reversed(self.layer_directories(chain_id)):
                with open_directory(layer) as layer_fd:
                    merge_layer(layer_fd, target_fd)

    def _source(self, directory: str, chain_id: str) -> RootfsSource:
        del chain_id  # the copy stands on no layers
        return RootfsSource(upper=f"{directory}/fs")

    def _build_view(self, directory: str, chain_id: str) -> None:
        self._build(directory, chain_id)

    def _view_source(self, directory: str, chain_id: str) -> RootfsSource:
        del chain_id
        return RootfsSource(lower=(f"{directory}/fs",))
