# SPDX-License-Identifier: Apache-2.0
"""What the engine's parts share: paths, database, locks, and the parts below, each made at its first use.

Owns construction only. Everything here may be dropped at any time; the truth is on disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from oakum.engine.flights import Flights
from oakum.engine.layout import Layout
from oakum.engine.locks import Locks, SharedLock
from oakum.engine.storage import storing
from oakum.engine.store.database import Store

if TYPE_CHECKING:
    from oakum.engine.handlers import Handlers
    from oakum.images.content import ContentStore
    from oakum.network.choice import ChosenNetwork
    from oakum.network.settings import NetworkSettings
    from oakum.oci.cgroups import Layout as CgroupLayout
    from oakum.snapshots import Snapshotter


class Context:
    """One engine's parts. Thread-safe."""

    def __init__(
        self,
        root: str,
        state: str,
        network: NetworkSettings | None = None,
        cgroup_driver: str = "auto",
        runtimes: Mapping[str, str] | None = None,
    ) -> None:
        """`network` and `runtimes` None follow the environment: OAKUM_NETWORK and its like. For `cgroup_driver` see `scopes`."""
        self.cgroup_driver = cgroup_driver
        self._network_settings = network
        self._runtimes = runtimes
        self.layout = Layout(root, state)
        self.locks = Locks(self.layout.locks)
        self.collection = SharedLock(self.layout.collection_lock)
        self.pulls: Flights[str] = Flights()
        self._guard = threading.RLock()
        self._store: Store | None = None
        self._snapshotter: Snapshotter | None = None
        self._network: ChosenNetwork | None = None
        self._content: ContentStore | None = None
        self._cgroups: CgroupLayout | None = None
        self._handlers: Handlers | None = None

    @property
    def store(self) -> Store:
        """The engine's database."""
        opened = self._store
        if opened is not None:  # whoever makes another part meanwhile keeps nobody waiting
            return opened
        with self._guard:
            if self._store is None:
                with storing("make root directory", self.layout.root):
                    os.makedirs(self.layout.root, mode=0o711, exist_ok=True)
                self._store = Store(self.layout.database)
            return self._store

    @property
    def snapshotter(self) -> Snapshotter:
        """The snapshots: overlay where the root's file system can carry it."""
        with self._guard:
            if self._snapshotter is None:
                # `ps` and `stop` need no snapshots: their import stays out of them.
                from oakum.snapshots import open_snapshotter

                self._snapshotter = open_snapshotter(self.layout.snapshots)
            return self._snapshotter

    @property
    def network(self) -> ChosenNetwork:
        """The networks: CNI's where the node has them, and the built-in ones."""
        with self._guard:
            if self._network is None:
                # Calls that touch no network do not load it.
                from oakum.network.choice import ChosenNetwork
                from oakum.network.settings import from_environment

                self._network = ChosenNetwork(
                    self.layout.network_database,
                    self.layout.cni,
                    name_suffix=network_suffix(self.layout.root),
                    settings=self._network_settings or from_environment(os.environ),
                )
            return self._network

    def network_owes(self) -> bool:
        """Whether anything is owed to a sandbox's networks or names; cheap while no network is in use."""
        from oakum.network.due import anything_due  # where a network is open, it knows

        with self._guard:
            opened = self._network
        return opened.owes() if opened is not None else anything_due(self.layout.network_database)

    @property
    def content(self) -> ContentStore:
        """The blobs."""
        with self._guard:
            if self._content is None:
                # Only image calls need it.
                from oakum.images.content import ContentStore

                self._content = ContentStore(self.layout.content)
            return self._content

    @property
    def cgroups(self) -> CgroupLayout:
        """What cgroup hierarchies this machine has."""
        with self._guard:
            if self._cgroups is None:
                # Only statistics and recovery read cgroups themselves.
                from oakum.oci.cgroups import detect_layout

                self._cgroups = detect_layout()
            return self._cgroups

    @property
    def handlers(self) -> Handlers:
        """The runtimes that pods may ask for."""
        with self._guard:
            if self._handlers is None:
                # Only what makes a sandbox asks.
                from oakum.engine.handlers import Handlers, from_environment

                chosen = self._runtimes if self._runtimes is not None else from_environment(os.environ)
                self._handlers = Handlers(chosen)
            return self._handlers

    def close(self) -> None:
        """Close the databases."""
        with self._guard:
            if self._store is not None:
                self._store.close()
                self._store = None
            if self._network is not None:
                self._network.close()
                self._network = None


def network_suffix(root: str) -> str:
    """What tells this root's bridge and rules from another root's: "" for the default root."""
    if root == "/var/lib/oakum":
        return ""
    # zlib is always loaded and quick; a clash of 32 bits between the roots of one machine is not to be expected.
    import zlib

    return f"{zlib.crc32(os.fsencode(root)):08x}"
