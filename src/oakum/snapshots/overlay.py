# SPDX-License-Identifier: Apache-2.0
"""Root file systems as overlays: layers are lower directories, a container writes into its own upper one.

Nothing is copied and nothing is mounted here. Layers hold whiteouts as overlay keeps them (character device 0:0,
`trusted.overlay.opaque`). Source: the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os

from oakum.model.rootfs import RootfsSource
from oakum.snapshots.metadata import copy_metadata
from oakum.snapshots.store import DirectoryStore
from oakum.snapshots.tree import open_directory


class OverlaySnapshotter(DirectoryStore):
    """Snapshots for hosts whose ROOT can carry an overlay."""

    kind = "overlay"

    def _build(self, directory: str, chain_id: str) -> None:
        os.mkdir(f"{directory}/fs", 0o755)
        os.mkdir(f"{directory}/work", 0o700)
        lower = self.layer_directories(chain_id)
        if not lower:
            os.chmod(f"{directory}/fs", 0o755)  # noqa: S103 - as a root directory is; the umask has no say
            return
        # The root of an overlay shows the upper directory's metadata: it has to look like the image's root.
        with open_directory(lower[0]) as source_fd, open_directory(f"{directory}/fs") as target_fd:
            copy_metadata(source_fd, target_fd)

    def _source(self, directory: str, chain_id: str) -> RootfsSource:
        lower = tuple(self.layer_directories(chain_id))
        return RootfsSource(lower, f"{directory}/fs", f"{directory}/work" if lower else "")

    def _build_view(self, directory: str, chain_id: str) -> None:
        if not chain_id:
            os.mkdir(f"{directory}/fs", 0o755)

    def _view_source(self, directory: str, chain_id: str) -> RootfsSource:
        return RootfsSource(tuple(self.layer_directories(chain_id)) or (f"{directory}/fs",))
