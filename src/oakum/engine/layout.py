# SPDX-License-Identifier: Apache-2.0
"""Where everything lies below the root and the state directory. Owns names, makes and reads nothing."""

from __future__ import annotations

import os


class Layout:
    """The paths of one engine, all absolute."""

    __slots__ = ("root", "state")

    def __init__(self, root: str, state: str) -> None:
        self.root = os.path.abspath(root)
        self.state = os.path.abspath(state)

    @property
    def database(self) -> str:
        """The engine's own database."""
        return f"{self.root}/meta.db"

    @property
    def network_database(self) -> str:
        """The network's database."""
        return f"{self.root}/network.db"

    @property
    def cni(self) -> str:
        """What is remembered of attachments by CNI plugins."""
        return f"{self.root}/cni"

    @property
    def content(self) -> str:
        """Blobs."""
        return f"{self.root}/content"

    @property
    def snapshots(self) -> str:
        """Layers and the containers' writable directories."""
        return f"{self.root}/snapshots"

    @property
    def seccomp_cache(self) -> str:
        """Compiled seccomp programs by hash."""
        return f"{self.root}/seccomp"

    @property
    def collection_lock(self) -> str:
        """Held shared by what brings content in, exclusively by what removes it.

        Lies beside the content that it guards: two state directories may share one root by mistake.
        """
        return f"{self.root}/content.lock"

    @property
    def collection_due(self) -> str:
        """There while a collection had to be put off because content was coming in."""
        return f"{self.root}/content.due"

    @property
    def containers(self) -> str:
        """The directory of all bundles."""
        return f"{self.root}/containers"

    @property
    def volumes(self) -> str:
        """Named volumes by namespace."""
        return f"{self.root}/volumes"

    @property
    def sandboxes(self) -> str:
        """The directory of all sandboxes' files."""
        return f"{self.root}/sandboxes"

    @property
    def pods(self) -> str:
        """The directory of all live sandboxes."""
        return f"{self.state}/pods"

    @property
    def locks(self) -> str:
        """The directory of the locks of objects being worked on."""
        return f"{self.state}/locks"

    def bundle(self, container_id: str) -> str:
        """A container's durable directory."""
        return f"{self.root}/containers/{container_id}"

    def sandbox(self, sandbox_id: str) -> str:
        """A sandbox's durable directory."""
        return f"{self.root}/sandboxes/{sandbox_id}"

    def pod(self, sandbox_id: str) -> str:
        """A sandbox's live directory: the shim's socket, pinned namespaces, shared memory."""
        return f"{self.state}/pods/{sandbox_id}"
